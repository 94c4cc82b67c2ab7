// Drives fprop_direct and dgrad_direct: destination rows of one image, one after the other, over
// source rows that are packed with their padding in place (or lie so already).
#include <vector>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_select.h"
#include "row_cache.h"
#include "tap_panels.h"

namespace convext {
namespace {

template <class T>
class DirectPass : private DataPass {
 public:
  DirectPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        mr_(plan.kernel->mr),
        nr_(plan.kernel->nr),
        rows_(row_map()),
        columns_(column_classes()),
        panels_(kernels_, weight_, {forward_, groups_, outputs_, depth_, p_.R, nr_},
                columns_.order) {
    const std::int64_t channels = groups_ * depth_;
    merged_ = groups_ == 1;
    std::size_t most_taps = 0;
    for (const TapClass& c : columns_.classes) {
      merged_ = merged_ && c.adjacent();
      if (c.offsets.size() > most_taps) most_taps = c.offsets.size();
    }
    merged_ = merged_ && most_taps > 1;
    const bool lies_so =
        channels_in_place<T>(source_, channels) && (!merged_ || source_.stride[3] == channels);
    in_place_ = lies_so && columns_.identity();
    make_segments(lies_so);
    rows_per_item_ = plan.row_block;
    row_items_ = ceil_div(destination_.size[2], rows_per_item_);
  }

  void run(const Threads& threads) {
    panels_.pack(threads);
    packed_bias_ = pack_lane_bias(kernels_, bias_, groups_, outputs_, panels_.blocks() * nr_);
    make_units();
    const std::int64_t items = destination_.size[0] * row_items_;
    const std::int64_t units = static_cast<std::int64_t>(units_.size());
    threads.run_units<Worker>(
        *this, items, units,
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          worker.item(item / row_items_, item % row_items_, unit, end);
        });
  }

 private:
  // A panel's worth of destination channels.
  struct Unit {
    std::int64_t channel, lanes, source_channel;
    int vectors;
    bool in_place;  // results are stored where they belong
    const T* panel;
    const T* bias;
  };

  void make_units() {
    const bool in_place = channels_in_place<T>(destination_, groups_ * outputs_);
    const std::int64_t blocks = panels_.blocks();
    bool all_in_place = true;
    for (std::int64_t g = 0; g < groups_; ++g) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        const std::int64_t lane = block * nr_, lanes = least(outputs_ - lane, nr_);
        const int vectors = static_cast<int>(ceil_div(lanes, kernels_.lanes));
        units_.push_back({g * outputs_ + lane, lanes, g * depth_, vectors,
                          in_place && lanes == vectors * kernels_.lanes, panels_.panel(g, block),
                          packed_bias_ + (g * blocks + block) * nr_});
        all_in_place = all_in_place && units_.back().in_place;
      }
    }
    // Few weights stay in the first-level cache: then a tile's channels are written in one go,
    // which memory likes better than coming back to them panel by panel.
    constexpr std::int64_t kFewBytes = 24 << 10;
    units_inside_ = all_in_place && groups_ == 1 &&
                    blocks * panels_.panel_elements() * std::int64_t{sizeof(T)} <= kFewBytes;
  }

  // A run of one class's pixels that find their sources in the same way.
  struct Segment {
    const TapClass* columns;
    bool direct;                      // from the tensor as it lies, else from packed rows
    std::int64_t base;                // packed position p is pixel p - base of that row
    std::vector<std::int64_t> tiles;  // first pixels, and the end
  };

  // A tensor that lies as kernels want it is packed only at the ends of its rows, where the padding
  // is: by whole tiles of pixels, so that this makes no further tiles.
  void make_segments(bool lies_so) {
    const std::vector<std::int64_t>& packed = columns_.packed;
    const std::int64_t step = columns_.source_step;
    const std::int64_t length = static_cast<std::int64_t>(packed.size());
    // Positions [plain, plain_end) are a row of the tensor.
    std::int64_t plain = 0;
    while (plain < length && packed[plain] != 0) ++plain;
    while (plain + 1 < length && packed[plain + 1] == 0) ++plain;
    std::int64_t plain_end = plain;
    while (plain_end < length && packed[plain_end] == plain_end - plain) ++plain_end;
    std::int64_t left_end = 0, right_first = length;
    for (const TapClass& c : columns_.classes) {
      std::int64_t low = 0, high = c.count;  // pixels [low, high) read the tensor
      const bool edged = lies_so && !in_place_ && !c.offsets.empty();
      if (edged) {
        const std::int64_t before = plain - c.offsets.front();
        const std::int64_t reach = plain_end - c.offsets.back();
        if (before > 0) low = round_up(ceil_div(before, step), mr_);
        const std::int64_t end = reach > 0 ? ceil_div(reach, step) : 0;
        if (end < c.count) high = c.count - round_up(c.count - end, mr_);
        if (low >= high) low = high = c.count;
        if (low > 0) left_end = most(left_end, (low - 1) * step + c.offsets.back() + 1);
        if (high < c.count) right_first = least(right_first, high * step + c.offsets.front());
      }
      add_segment(c, false, 0, 0, low);
      add_segment(c, edged, edged ? plain : 0, low, high);
      add_segment(c, false, kRight, high, c.count);
    }
    if (!lies_so || in_place_ || left_end > right_first) left_end = right_first;
    for (Segment& segment : segments_) {
      if (segment.base == kRight) segment.base = right_first - left_end;
    }
    packed_ = packed;
    packed_.erase(packed_.begin() + left_end, packed_.begin() + right_first);
  }

  void add_segment(const TapClass& c, bool direct, std::int64_t base, std::int64_t begin,
                   std::int64_t end) {
    if (begin >= end) return;
    segments_.push_back({&c, direct, base, even_pieces(begin, end - begin, mr_)});
  }

  static constexpr std::int64_t kRight = -1;  // a base that is not known yet

  // One thread's state: its packed rows, the entries of its item's rows, and a row of results.
  class Worker {
   public:
    explicit Worker(DirectPass& pass)
        : pass_(pass),
          cache_(pass.kernels_, pass.source_, pass.groups_ * pass.depth_, pass.in_place_,
                 pass.rows_per_item_ * pass.p_.R, pass.packed_) {
      std::int64_t most = 0;
      for (const TapClass& c : pass.columns_.classes) {
        if (c.count > most) most = c.count;
      }
      results_ = scratch<T>(Slot::kTile, most * pass.nr_);
    }

    void item(std::int64_t n, std::int64_t block, std::int64_t unit0, std::int64_t unit1) {
      cache_.begin_item(n);
      pointers_.clear();
      weights_.clear();
      strips_.clear();
      const std::int64_t h0 = block * pass_.rows_per_item_, left = pass_.destination_.size[2] - h0;
      const std::int64_t rows = left < pass_.rows_per_item_ ? left : pass_.rows_per_item_;
      for (std::int64_t h = h0; h < h0 + rows; ++h) {
        for (const Segment& segment : pass_.segments_) add_strip(n, h, segment);
      }
      if (pass_.units_inside_) {
        for (const Strip& strip : strips_) {
          for (std::size_t t = 0; t + 1 < strip.segment->tiles.size(); ++t) {
            for (std::int64_t unit = unit0; unit < unit1; ++unit) {
              run_tiles(n, strip, pass_.units_[unit], t, t + 1);
            }
          }
        }
        return;
      }
      for (std::int64_t unit = unit0; unit < unit1; ++unit) {
        for (const Strip& strip : strips_) {
          run_tiles(n, strip, pass_.units_[unit], 0, strip.segment->tiles.size() - 1);
        }
      }
    }

   private:
    struct Strip {
      std::int64_t h;
      const Segment* segment;
      std::int64_t first, entries;  // in pointers_ and weights_
    };

    std::int64_t pixel_stride(const Segment& segment) const {
      return segment.direct ? pass_.source_.stride[3] : cache_.pixel_stride();
    }

    void add_strip(std::int64_t n, std::int64_t h, const Segment& segment) {
      const TapClass& c = *segment.columns;
      Strip strip{h, &segment, static_cast<std::int64_t>(pointers_.size()), 0};
      const std::int64_t pixel = pixel_stride(segment), weight = pass_.depth_ * pass_.nr_;
      const std::int64_t kernel_columns = static_cast<std::int64_t>(pass_.columns_.order.size());
      const std::size_t taps = pass_.merged_ && !c.offsets.empty() ? 1 : c.offsets.size();
      const std::int64_t first = segment.tiles.front() * pass_.columns_.source_step - segment.base;
      for (std::int64_t r = 0; r < pass_.p_.R; ++r) {
        const std::int64_t source = pass_.rows_.source(h, r);
        if (source < 0) continue;
        const T* row = segment.direct
                           ? static_cast<const T*>(element(pass_.source_, n, 0, source, 0))
                           : cache_.row(source);
        for (std::size_t i = 0; i < taps; ++i) {
          pointers_.push_back(row + (c.offsets[i] + first) * pixel);
          weights_.push_back((r * kernel_columns + c.rank + static_cast<std::int64_t>(i)) * weight);
          ++strip.entries;
        }
      }
      strips_.push_back(strip);
    }

    // Tiles [t0, t1) of a strip.
    void run_tiles(std::int64_t n, const Strip& strip, const Unit& unit, std::size_t t0,
                   std::size_t t1) {
      const Segment& segment = *strip.segment;
      const TapClass& c = *segment.columns;
      const std::int64_t step = pass_.columns_.source_step * pixel_stride(segment);
      const TensorView& d = pass_.destination_;
      const std::int64_t d_step = pass_.columns_.step * d.stride[3];
      const std::int64_t origin = segment.tiles.front(), begin = segment.tiles[t0];
      DirectTile<T> tile;
      tile.x = pointers_.data() + strip.first;
      tile.weight = weights_.data() + strip.first;
      tile.entries = strip.entries;
      tile.pixel_step = step;
      tile.run = pass_.depth_ *
                 (pass_.merged_ ? static_cast<std::int64_t>(c.offsets.size()) : std::int64_t{1});
      tile.panel = unit.panel;
      tile.bias = unit.bias;
      void* const place =
          element(d, n, unit.channel, strip.h, c.first + begin * pass_.columns_.step);
      T* const y = unit.in_place ? static_cast<T*>(place) : results_;
      tile.y_step = unit.in_place ? d_step : pass_.nr_;
      for (std::size_t t = t0; t < t1; ++t) {
        const std::int64_t first = segment.tiles[t];
        tile.x_offset = unit.source_channel + (first - origin) * step;
        tile.y = y + (first - begin) * tile.y_step;
        pass_.kernels_.direct(tile, static_cast<int>(segment.tiles[t + 1] - first), unit.vectors);
      }
      if (unit.in_place) return;
      pass_.kernels_.unpack(results_, pass_.nr_, segment.tiles[t1] - begin, unit.lanes,
                            {place, d.dtype, d_step, d.stride[1]});
    }

    DirectPass& pass_;
    RowCache<T> cache_;
    T* results_ = nullptr;  // [pixel][nr]
    std::vector<const T*> pointers_;
    std::vector<std::int64_t> weights_;
    std::vector<Strip> strips_;
  };

  const ComputeKernels<T>& kernels_;
  std::int64_t mr_, nr_;
  AxisMap rows_;
  AxisClasses columns_;
  TapPanels<T> panels_;
  bool merged_ = false;  // a kernel row's taps and source channels are one run
  bool in_place_ = false;
  bool units_inside_ = false;
  std::vector<Unit> units_;
  std::vector<Segment> segments_;
  std::vector<std::int64_t> packed_;  // source of each packed column, or -1
  std::int64_t rows_per_item_ = 1, row_items_ = 0;
  T* packed_bias_ = nullptr;
};

}  // namespace

void run_direct(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    DirectPass<double>(plan, tensors).run(threads);
  } else {
    DirectPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
