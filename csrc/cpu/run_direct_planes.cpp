// Drives fprop_direct_planes and dgrad_direct_planes: one destination row of one image at a time,
// over source rows that are packed as planes.
#include <vector>

#include "data_pass.h"
#include "isa_select.h"
#include "plane_cache.h"
#include "tap_panels.h"

namespace convext {
namespace {

template <class T>
class DirectPlanesPass : private DataPass {
 public:
  DirectPlanesPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        lanes_(kernels_.lanes),
        budget_(plan.kernel->mr * plan.kernel->vectors),
        rows_(row_map()),
        columns_(column_classes()),
        mr_(plan.tile_rows),
        panels_(kernels_, weight_, {forward_, groups_, outputs_, depth_, p_.R, mr_},
                columns_.order) {
    flat_ = depth_ <= kFlatDepth;
    width_ = destination_.size[3];
    // Rows of planes are stored where they belong, the last vector of a row over the one before it.
    store_in_place_ = destination_.dtype == compute_dtype<T>() && destination_.stride[3] == 1 &&
                      columns_.step == 1 && width_ >= 2 * lanes_;
    units_per_group_ = ceil_div(outputs_, kChunk);
    for (std::int64_t most = 1; most <= kMostPlaneVectors; ++most) {
      const std::int64_t count = columns_.classes[0].count;
      pieces_[most - 1][0] = even_pieces(0, ceil_div(count, lanes_), most);
      pieces_[most - 1][1] = even_pieces(0, ceil_div(count - 1, lanes_), most);
    }
  }

  void run(const Threads& threads) {
    panels_.pack(threads);
    packed_bias_ = pack_lane_bias(kernels_, bias_, groups_, outputs_, panels_.blocks() * mr_);
    const std::int64_t H = destination_.size[2];
    const std::int64_t items = destination_.size[0] * H;
    const std::int64_t units = groups_ * units_per_group_;
    threads.run_units<Worker>(
        *this, items, units,
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          worker.item(item / H, item % H, unit, end);
        });
  }

 private:
  static constexpr std::int64_t kFlatDepth = 4;  // so few planes: each an entry of its own
  static constexpr std::int64_t kChunk = 24;     // channels computed between two stores of a row

  std::int64_t most_vectors(std::int64_t mr) const {
    const std::int64_t most = budget_ / mr;
    return most < kMostPlaneVectors ? most : kMostPlaneVectors;
  }

  // Vectors of `count` columns in tiles of at most `most`. Classes have one of two counts.
  const std::vector<std::int64_t>& pieces(std::int64_t most, std::int64_t count) const {
    return pieces_[most - 1][count == columns_.classes[0].count ? 0 : 1];
  }

  // One thread's state: its packed rows, the entries of one row, and a chunk of results.
  class Worker {
   public:
    explicit Worker(DirectPlanesPass& pass)
        : pass_(pass),
          cache_(pass.kernels_, pass.source_, pass.groups_ * pass.depth_, pass.p_.R,
                 pass.columns_.packed, pass.columns_.source_step,
                 pass.store_in_place_ ? 0 : kMostPlaneVectors * pass.lanes_) {
      for (const TapClass& c : pass.columns_.classes) {
        const std::int64_t source_step = pass.columns_.source_step;
        for (const std::int64_t offset : c.offsets) {
          displacements_.push_back(offset % source_step * cache_.phase_stride() +
                                   offset / source_step);
        }
      }
      if (pass.store_in_place_) return;
      const std::int64_t step = pass.columns_.step;
      pitch_ = ceil_div(pass.width_, step) + kMostPlaneVectors * pass.lanes_;
      results_ = scratch<T>(Slot::kTile, kChunk * step * pitch_);
      joined_.resize(step > 1 ? kChunk * pass.width_ : 0);
    }

    void item(std::int64_t n, std::int64_t h, std::int64_t unit0, std::int64_t unit1) {
      cache_.begin_item(n);
      build_entries(h);
      for (std::int64_t unit = unit0; unit < unit1; ++unit) {
        const std::int64_t g = unit / pass_.units_per_group_;
        const std::int64_t first = unit % pass_.units_per_group_ * kChunk;
        const std::int64_t left = pass_.outputs_ - first;
        const std::int64_t count = left < kChunk ? left : kChunk;
        for (std::size_t c = 0; c < strips_.size(); ++c) {
          for (std::int64_t k = 0; k < count; k += pass_.mr_) {
            run_rows(n, h, g, strips_[c], first + k, k,
                     count - k < pass_.mr_ ? count - k : pass_.mr_);
          }
        }
        if (!pass_.store_in_place_) unpack(n, g * pass_.outputs_ + first, h, count);
      }
    }

   private:
    struct Strip {
      const TapClass* columns;
      std::int64_t first, entries;  // in pointers_ and weights_
    };

    void build_entries(std::int64_t h) {
      const std::int64_t kernel_columns = static_cast<std::int64_t>(pass_.columns_.order.size());
      const std::int64_t planes = pass_.flat_ ? pass_.depth_ : 1, plane = cache_.plane_stride();
      pointers_.resize(pass_.p_.R * kernel_columns * planes);
      weights_.resize(pointers_.size());
      strips_.clear();
      const T** x = pointers_.data();
      std::int64_t* weight = weights_.data();
      for (const TapClass& c : pass_.columns_.classes) {
        const std::int64_t taps = static_cast<std::int64_t>(c.offsets.size());
        const std::int64_t first = x - pointers_.data();
        for (std::int64_t r = 0; r < pass_.p_.R; ++r) {
          const std::int64_t source = pass_.rows_.source(h, r);
          if (source < 0) continue;
          const T* row = cache_.row(source);
          std::int64_t w = (r * kernel_columns + c.rank) * pass_.depth_ * pass_.mr_;
          const std::int64_t w_step = (pass_.depth_ / planes) * pass_.mr_;
          for (std::int64_t i = 0; i < taps; ++i) {
            const T* tap = row + displacements_[c.rank + i];
            for (std::int64_t d = 0; d < planes; ++d, tap += plane, w += w_step) {
              *x++ = tap;
              *weight++ = w;
            }
          }
        }
        strips_.push_back({&c, first, x - pointers_.data() - first});
      }
    }

    // Channels k .. k + mr of group g, which are `row` and on in the chunk.
    void run_rows(std::int64_t n, std::int64_t h, std::int64_t g, const Strip& strip,
                  std::int64_t k, std::int64_t row, std::int64_t mr) {
      const TapClass& c = *strip.columns;
      const std::int64_t L = pass_.lanes_, count = c.count;
      DirectPlaneTile<T> tile;
      tile.x = pointers_.data() + strip.first;
      tile.weight = weights_.data() + strip.first;
      tile.entries = strip.entries;
      tile.depth = pass_.flat_ ? 1 : pass_.depth_;
      tile.plane_stride = cache_.plane_stride();
      tile.weight_step = pass_.mr_;
      tile.panel = pass_.panels_.panel(g, k / pass_.mr_);
      tile.bias = pass_.packed_bias_ + g * pass_.panels_.blocks() * pass_.mr_ + k;
      std::int64_t most = pass_.most_vectors(mr);
      T* y;
      if (pass_.store_in_place_) {
        const TensorView& d = pass_.destination_;
        y = static_cast<T*>(element(d, n, g * pass_.outputs_ + k, h, 0));
        tile.y_step = d.stride[1];
        if (most > count / L) most = count / L;
      } else {
        y = results_ + (row * pass_.columns_.step + c.first) * pitch_;
        tile.y_step = pass_.columns_.step * pitch_;
      }
      const std::int64_t channels = g * pass_.depth_ * cache_.plane_stride();
      const std::vector<std::int64_t>& pieces = pass_.pieces(most, count);
      for (std::size_t t = 0; t + 1 < pieces.size(); ++t) {
        const std::int64_t v = pieces[t], width = pieces[t + 1] - v;
        std::int64_t column = v * L;
        if (pass_.store_in_place_ && column > count - width * L) column = count - width * L;
        tile.x_offset = channels + column;
        tile.y = y + column;
        pass_.kernels_.direct_planes(tile, static_cast<int>(mr), static_cast<int>(width));
      }
    }

    void unpack(std::int64_t n, std::int64_t channel, std::int64_t h, std::int64_t count) {
      const TensorView& d = pass_.destination_;
      const std::int64_t step = pass_.columns_.step, width = pass_.width_;
      const StridedBlock block{element(d, n, channel, h, 0), d.dtype, d.stride[1], d.stride[3]};
      if (step == 1) {
        pass_.kernels_.unpack(results_, pitch_, count, width, block);
        return;
      }
      for (std::int64_t k = 0; k < count; ++k) {
        pass_.kernels_.join_phases(results_ + k * step * pitch_, pitch_, step, width,
                                   joined_.data() + k * width);
      }
      pass_.kernels_.unpack(joined_.data(), width, count, width, block);
    }

    DirectPlanesPass& pass_;
    PlaneCache<T> cache_;
    std::int64_t pitch_ = 0;
    T* results_ = nullptr;                     // [channel of the chunk][class][column]
    std::vector<T> joined_;                    // [channel of the chunk][column]
    std::vector<std::int64_t> displacements_;  // [rank]: of a tap's source in a packed row
    std::vector<const T*> pointers_;
    std::vector<std::int64_t> weights_;
    std::vector<Strip> strips_;
  };

  const ComputeKernels<T>& kernels_;
  std::int64_t lanes_, budget_;
  AxisMap rows_;
  AxisClasses columns_;
  std::int64_t mr_;
  TapPanels<T> panels_;
  bool flat_ = false, store_in_place_ = false;
  std::int64_t width_ = 0, units_per_group_ = 1;
  std::vector<std::int64_t> pieces_[kMostPlaneVectors][2];
  T* packed_bias_ = nullptr;
};

}  // namespace

void run_direct_planes(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    DirectPlanesPass<double>(plan, tensors).run(threads);
  } else {
    DirectPlanesPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
