// Drives fprop and dgrad of groups of one or few channels where these are small planes (NCHW).
//
// A work item is one image and a part of the channels: plan.channel_block of the destination, whose
// whole planes fit the near caches. They are transposed to [row][column][channel], computed row by
// row by the kernels of run_strips.cpp, in the same order, and transposed back.
#include <vector>

#include "../channel_parts.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "packed_planes.h"
#include "scratch.h"
#include "strip_columns.h"
#include "strip_groups.h"

namespace convext {
namespace {

template <class T>
class PlaneStripPass : private DataPass {
 public:
  PlaneStripPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        grouped_(plan.kernel->algorithm == Algorithm::kGrouped),
        parts_(forward_ ? p_.K : p_.C, plan.channel_block, kernels_.lanes),
        rows_(row_map()),
        columns_(p_, forward_, false, destination_.size[3], source_.size[3], plan.kernel->mr,
                 false) {}

  void run(const Threads& threads) {
    // Images of one part after each other: they share its weights.
    threads.run(parts_.count * p_.N, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        worker.item(item / p_.N, item % p_.N);
      }
    });
  }

 private:
  class Worker {
   public:
    explicit Worker(const PlaneStripPass& pass)
        : pass_(pass),
          p_(pass.p_),
          width_(pass.parts_.widest),
          tap_weights_(width_),
          columns_(packed_columns()),
          planes_(pass.kernels_, pass.source_, columns_, -first_column_, source_width()) {
      if (pass.grouped_) {
        groups_ = groups_of(width_);
        tap_weights_ = groups_.tap_weights;
      }
      weights_ = scratch<T>(Slot::kPacked, p_.taps() * tap_weights_);
      packed_bias_ = scratch<T>(Slot::kBias, width_);
      tile_ =
          scratch<T>(Slot::kTile, pass.destination_.size[2] * pass.destination_.size[3] * width_);
      make_strips();
    }

    void item(std::int64_t part, std::int64_t n) {
      const std::int64_t first = pass_.parts_.first(part), end = pass_.parts_.end(part);
      if (part != part_) begin_part(part, first, end - first);
      planes_.pack(n, first / pass_.outputs_ * pass_.depth_, end / pass_.outputs_ * pass_.depth_);
      for (Strip& strip : strips_) {
        strip.arguments.last = last_;
        if (pass_.grouped_) {
          strip.arguments.blocks = groups_.blocks.data();
          pass_.kernels_.grouped(strip.arguments, strip.mr);
        } else {
          pass_.kernels_.depthwise(strip.arguments, strip.mr);
        }
      }
      const TensorView& y = pass_.destination_;
      pass_.kernels_.unpack(tile_, width_, y.size[2] * y.size[3], end - first,
                            {element(y, n, first, 0, 0), y.dtype, 1, y.stride[1]});
    }

   private:
    struct Strip {
      DepthwiseStrip<T> arguments;
      int mr;
    };

    std::int64_t source_width() const { return width_ / pass_.outputs_ * pass_.depth_; }

    StripGroups groups_of(std::int64_t channels) const {
      return StripGroups(channels, channels, pass_.outputs_, pass_.depth_, pass_.kernels_.lanes);
    }

    // Those that taps read, and all others of the tensor.
    std::vector<std::int64_t> packed_columns() {
      const std::vector<std::int64_t>& read = pass_.columns_.packed_columns;
      const std::int64_t low = pass_.columns_.first_packed();
      const std::int64_t high = low + static_cast<std::int64_t>(read.size());
      first_column_ = low < 0 ? low : 0;
      std::vector<std::int64_t> columns;
      for (std::int64_t u = first_column_; u < high || u < pass_.source_.size[3]; ++u) {
        columns.push_back(u >= low && u < high ? read[u - low] : u);
      }
      return columns;
    }

    // Sources, weights and results have the same places for every item.
    void make_strips() {
      const std::int64_t rows = pass_.destination_.size[2], columns = pass_.destination_.size[3];
      const std::int64_t pixel = source_width();
      std::vector<std::int64_t> first_of_row;
      for (std::int64_t d = 0; d < rows; ++d) {
        first_of_row.push_back(static_cast<std::int64_t>(x_rows_.size()));
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t count = pass_.rows_.count(d, r), *list = pass_.rows_.list(d, r);
          for (std::int64_t i = 0; i < count; ++i) {
            x_rows_.push_back(planes_.row(list[i]));
            weight_rows_.push_back(weights_ + r * p_.S * tap_weights_);
          }
        }
      }
      first_of_row.push_back(static_cast<std::int64_t>(x_rows_.size()));
      DepthwiseStrip<T> strip{};
      strip.bias = packed_bias_;
      strip.ahead = &ahead_;
      strip.depth = pass_.depth_;
      strip.vectors = groups_.vectors;
      strip.spread = groups_.spread;
      for (std::int64_t d = 0; d < rows; ++d) {
        strip.x = x_rows_.data() + first_of_row[d];
        strip.weight = weight_rows_.data() + first_of_row[d];
        for (const ColumnClass& c : pass_.columns_.classes) {
          strip.rows = c.taps > 0 ? first_of_row[d + 1] - first_of_row[d] : 0;
          strip.taps = c.taps;
          strip.weight_offset = c.tap * tap_weights_;
          strip.weight_step = c.next_tap * tap_weights_;
          strip.tap_step = c.tap_step * pixel;
          strip.x_step = c.source_step * pixel;
          strip.y_step = c.step * width_;
          for (const StripRun& run : c.runs) {
            // Packed columns count from the first that a tap reads.
            const std::int64_t from = run.column + pass_.columns_.first_packed() - first_column_;
            strip.x_offset = run.packed ? from * pixel : 0;
            strip.tiles = run.tiles;
            strip.y = tile_ + (d * columns + c.first + run.first * c.step) * width_;
            strips_.push_back({strip, run.mr});
          }
        }
      }
    }

    void begin_part(std::int64_t part, std::int64_t first, std::int64_t channels) {
      part_ = part;
      const std::int64_t vector = pass_.kernels_.lanes;
      last_ = channels < vector ? vector : channels;
      pack_strip_bias(pass_.kernels_, pass_.bias_, first, channels, last_, packed_bias_);
      if (!pass_.grouped_) {
        pack_tap_weights(pass_.kernels_, p_, pass_.weight_, first, channels, last_, weights_,
                         tap_weights_);
        return;
      }
      StripGroups groups = groups_of(last_);
      groups_.blocks = std::move(groups.blocks);
      last_ = static_cast<std::int64_t>(groups_.blocks.size());
      pack_group_weights(pass_.kernels_, p_, pass_.forward_, pass_.weight_, groups_, first, 0,
                         last_, weights_);
    }

    const PlaneStripPass& pass_;
    const ConvProblem& p_;
    std::int64_t width_;        // of a pixel of results
    std::int64_t tap_weights_;  // packed weights of one tap
    std::int64_t first_column_ = 0;
    std::vector<std::int64_t> columns_;
    PackedPlanes<T> planes_;
    StripGroups groups_;
    T* weights_;
    T* packed_bias_;
    T* tile_;
    std::int64_t part_ = -1, last_ = 0;
    LinesAhead ahead_;  // none
    std::vector<const T*> x_rows_, weight_rows_;
    std::vector<Strip> strips_;
  };

  const ComputeKernels<T>& kernels_;
  bool grouped_;
  ChannelParts parts_;
  AxisMap rows_;
  StripColumns columns_;
};

}  // namespace

bool run_plane_strips(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.channel_block == 0) return false;
  if (!planes_are_rows(tensors.input) || !planes_are_rows(tensors.output)) return false;
  if (plan.problem.dtype == DType::kFloat64) {
    PlaneStripPass<double>(plan, tensors).run(threads);
  } else {
    PlaneStripPass<float>(plan, tensors).run(threads);
  }
  return true;
}

}  // namespace convext
