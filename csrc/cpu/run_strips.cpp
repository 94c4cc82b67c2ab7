// Drives fprop and dgrad of groups of one or few channels, along rows of the destination.
//
// A work item is one destination row and a range of channels or groups. The tiles whose taps all
// lie within a source row read that row where it is; the others, at its ends, read a packed copy of
// the row's ends with the padding in place, which serves every destination row that meets it. In
// dgrad, columns of equal remainder modulo the stride meet the same taps and lie side by side in
// the source. A padding mode that copies columns is undone last: the gradient of the padded row is
// folded at its ends.
#include <vector>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"
#include "strip_columns.h"
#include "strip_groups.h"

namespace convext {
namespace {

template <class T>
class StripPass : private DataPass {
 public:
  StripPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        mr_(plan.kernel->mr),
        grouped_(plan.kernel->algorithm == Algorithm::kGrouped),
        rows_(row_map()),
        source_channels_(forward_ ? p_.C : p_.K),
        // Of one-channel groups, output channels are the lanes: inputs are repeated for them in
        // fprop, and their gradients added in dgrad.
        channels_(grouped_ && !forward_ ? p_.C : p_.K),
        repeat_(!grouped_ && forward_ ? p_.outputs_per_group() : 1),
        sums_(!grouped_ && !forward_ ? p_.outputs_per_group() : 1) {
    const std::int64_t vector = kernels_.lanes;
    width_ = channels_ < vector ? vector : channels_;
    tap_weights_ = width_;
    if (grouped_) {
      blocks_ = StripGroups(channels_, width_, channels_ / p_.groups, source_channels_ / p_.groups,
                            vector);
      tap_weights_ = blocks_.tap_weights;
    }
    in_place_ = channels_in_place<T>(source_, source_channels_) && repeat_ == 1 &&
                source_channels_ >= vector;
    fold_ = !forward_ && p_.padding_mode != PaddingMode::kZeros;
    store_in_place_ = channels_in_place<T>(destination_, destination_.size[1]) && !fold_ &&
                      sums_ == 1 && channels_ >= vector;
    // A row that is one piece of memory can be stored past the caches.
    streams_ = store_in_place_ && destination_.stride[3] == channels_ &&
               p_.N * destination_.size[2] * destination_.size[3] * channels_ *
                       static_cast<std::int64_t>(sizeof(T)) >=
                   kStreamBytes;
    // One copy less where the kernel itself writes whole lines.
    const std::int64_t element_bytes = static_cast<std::int64_t>(sizeof(T));
    const auto whole_lines = [&](std::int64_t elements) {
      return elements * element_bytes % kLine == 0;
    };
    const auto begin = reinterpret_cast<std::uintptr_t>(element(destination_, 0, 0, 0, 0));
    const bool lines = whole_lines(channels_) && whole_lines(destination_.stride[2]) &&
                       whole_lines(destination_.stride[0]) && begin % kLine == 0;
    store_in_place_ = store_in_place_ && (!streams_ || (lines && !grouped_));
    dense_rows_ = in_place_ && source_.stride[3] == source_channels_ &&
                  source_.stride[2] == source_.size[3] * source_channels_;
    columns_ = fold_ ? p_.pad_left + p_.W + p_.pad_right : destination_.size[3];
    strips_ = StripColumns(p_, forward_, fold_, columns_, source_.size[3], mr_, in_place_);
    for (const ColumnClass& c : strips_.classes) {
      for (const StripRun& run : c.runs) tiles_ += run.tiles;
    }
  }

  void run(const Threads& threads) {
    pack_weights(threads);
    // A unit is two vectors of channels, or the blocks of a group; the last one has what is left.
    const std::int64_t unit = grouped_ ? blocks_.unit : kernels_.lanes * 2;
    const std::int64_t units = sums_ == 1 && channels_ > unit ? channels_ / unit : 1;
    const std::int64_t rows = destination_.size[2];
    threads.run_units<Worker>(
        *this, p_.N * rows, units,
        [&](Worker& worker, std::int64_t item, std::int64_t first, std::int64_t end) {
          worker.item(item / rows, item % rows, first * unit, end == units ? width_ : end * unit);
        });
  }

 private:
  static constexpr std::int64_t kLine = LinesAhead::kLine;
  // Results of this size are not found in a cache when they are read next.
  static constexpr std::int64_t kStreamBytes = 2 << 20;

  void pack_weights(const Threads& threads) {
    panels_ = scratch<T>(Slot::kPanels, p_.taps() * tap_weights_);
    packed_bias_ = scratch<T>(Slot::kBias, width_);
    pack_strip_bias(kernels_, bias_, 0, channels_, width_, packed_bias_);
    if (grouped_) {
      threads.run(static_cast<std::int64_t>(blocks_.blocks.size()), [&](std::int64_t begin,
                                                                        std::int64_t end) {
        pack_group_weights(kernels_, p_, forward_, weight_, blocks_, 0, begin, end, panels_);
      });
      return;
    }
    // A piece is a few hundred weights at least.
    const std::int64_t piece = round_up(ceil_div(4096, p_.taps()), kernels_.lanes);
    threads.run(ceil_div(channels_, piece), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t k = begin * piece;
      const std::int64_t last = end * piece < channels_ ? end * piece : channels_;
      const std::int64_t padded = last == channels_ ? width_ - k : last - k;
      pack_tap_weights(kernels_, p_, weight_, k, last - k, padded, panels_ + k, width_);
    });
  }

  class Worker {
   public:
    explicit Worker(StripPass& pass)
        : pass_(pass),
          p_(pass.p_),
          cache_(pass.kernels_, pass.source_, pass.source_channels_, !pass.strips_.packs,
                 p_.R * pass.rows_.longest, pass.strips_.packed_columns, pass.repeat_,
                 pass.kernels_.lanes) {
      if (!pass.store_in_place_) tile_ = scratch<T>(Slot::kTile, pass.columns_ * pass.width_);
      const std::int64_t most = p_.R * pass.rows_.longest;
      in_place_rows_.reserve(most);
      packed_rows_.reserve(most);
      weights_.reserve(most);
    }

    // Row d of image n, channels [first, last).
    void item(std::int64_t n, std::int64_t d, std::int64_t first, std::int64_t last) {
      find_rows(n, d);
      DepthwiseStrip<T> strip;
      strip.weight = weights_.data();
      strip.first = first;
      strip.last = last;
      strip.blocks = pass_.blocks_.blocks.data();
      strip.depth = pass_.blocks_.depth;
      strip.vectors = pass_.blocks_.vectors;
      strip.spread = pass_.blocks_.spread;
      if (pass_.grouped_) pass_.blocks_.find(pass_.width_, &strip.first, &strip.last);
      strip.bias = pass_.packed_bias_;
      find_next_rows(n, d, first, last);
      strip.ahead = &ahead_;
      if (ahead_.next < ahead_.end) {
        share_lines(pass_.grouped_ ? strip.last - strip.first
                                   : ceil_div(last - first, pass_.kernels_.lanes * 2));
      }
      const TensorView& y = pass_.destination_;
      const bool in_place = pass_.store_in_place_;
      strip.stream = pass_.streams_ && in_place;
      for (const ColumnClass& c : pass_.strips_.classes) {
        strip.rows = c.taps > 0 ? static_cast<std::int64_t>(weights_.size()) : 0;
        strip.taps = c.taps;
        strip.weight_offset = c.tap * pass_.tap_weights_;
        strip.weight_step = c.next_tap * pass_.tap_weights_;
        for (const StripRun& run : c.runs) {
          const std::int64_t pixel = run.packed ? cache_.pixel_stride() : pass_.source_.stride[3];
          const std::int64_t column = c.first + run.first * c.step;
          strip.x = run.packed ? packed_rows_.data() : in_place_rows_.data();
          strip.x_offset = run.column * pixel;
          strip.tap_step = c.tap_step * pixel;
          strip.x_step = c.source_step * pixel;
          strip.tiles = run.tiles;
          if (in_place) {
            strip.y = static_cast<T*>(element(y, n, 0, d, column));
            strip.y_step = c.step * y.stride[3];
          } else {
            strip.y = tile_ + column * pass_.width_;
            strip.y_step = c.step * pass_.width_;
          }
          if (pass_.grouped_) {
            pass_.kernels_.grouped(strip, run.mr);
          } else {
            pass_.kernels_.depthwise(strip, run.mr);
          }
        }
      }
      if (!in_place) finish(n, d, first, last);
    }

   private:
    // Of memory that is asked for during one row: it stays in the second-level cache until then.
    static constexpr std::int64_t kAheadBytes = 128 << 10;

    // The source rows that the row after d meets and d does not, as far as they are one piece of
    // memory; those of the next image's first row after the last. Who computes a part of the channels
    // asks for that part of the lines.
    void find_next_rows(std::int64_t n, std::int64_t d, std::int64_t first_channel,
                        std::int64_t last_channel) {
      ahead_ = LinesAhead{};
      if (!pass_.dense_rows_) return;
      std::int64_t first, last, next_first, next_last;
      meets(d, &first, &last);
      if (d + 1 < pass_.destination_.size[2]) {
        meets(d + 1, &next_first, &next_last);
        if (next_first <= last) next_first = last + 1;
      } else {
        if (++n == p_.N) return;
        meets(0, &next_first, &next_last);
      }
      if (next_first > next_last) return;
      const TensorView& x = pass_.source_;
      const std::int64_t bytes =
          (next_last + 1 - next_first) * x.stride[2] * static_cast<std::int64_t>(sizeof(T));
      const std::int64_t lines = ceil_div(bytes < kAheadBytes ? bytes : kAheadBytes, kLine);
      const char* const begin = static_cast<const char*>(element(x, n, 0, next_first, 0));
      ahead_.next = begin + lines * first_channel / pass_.width_ * kLine;
      ahead_.end = begin + lines * last_channel / pass_.width_ * kLine;
    }

    // Evenly among the row's blocks, `blocks` a tile, and their taps.
    void share_lines(std::int64_t blocks) {
      const std::int64_t lines =
          ceil_div((ahead_.end - ahead_.next) / kLine, blocks * pass_.tiles_);
      const std::int64_t columns = pass_.forward_ ? p_.S : p_.S / p_.stride_w;
      const std::int64_t taps = columns * static_cast<std::int64_t>(weights_.size());
      ahead_.a_block = lines * kLine;
      ahead_.a_tap = taps > 1 ? ceil_div(lines, taps) : lines;
    }

    // The first and the last source row that row d meets.
    void meets(std::int64_t d, std::int64_t* first, std::int64_t* last) const {
      *first = pass_.source_.size[2];
      *last = -1;
      for (std::int64_t r = 0; r < p_.R; ++r) {
        const std::int64_t count = pass_.rows_.count(d, r), *list = pass_.rows_.list(d, r);
        for (std::int64_t i = 0; i < count; ++i) {
          if (list[i] < *first) *first = list[i];
          if (list[i] > *last) *last = list[i];
        }
      }
    }

    // The source rows that row d meets, and the weights it meets them with.
    void find_rows(std::int64_t n, std::int64_t d) {
      in_place_rows_.clear();
      packed_rows_.clear();
      weights_.clear();
      cache_.begin_item(n);
      for (std::int64_t r = 0; r < p_.R; ++r) {
        const std::int64_t count = pass_.rows_.count(d, r), *list = pass_.rows_.list(d, r);
        for (std::int64_t i = 0; i < count; ++i) {
          in_place_rows_.push_back(static_cast<const T*>(element(pass_.source_, n, 0, list[i], 0)));
          packed_rows_.push_back(pass_.strips_.packs ? cache_.row(list[i]) : nullptr);
          weights_.push_back(pass_.panels_ + r * p_.S * pass_.tap_weights_);
        }
      }
    }

    // The row of results to its place: copied columns to their originals, the outputs of a channel
    // together.
    void finish(std::int64_t n, std::int64_t d, std::int64_t first, std::int64_t last) {
      const TensorView& y = pass_.destination_;
      const std::int64_t width = pass_.width_;
      if (pass_.streams_ && first == 0 && last == width) {
        pass_.kernels_.stream_copy(tile_, y.size[3] * width,
                                   static_cast<T*>(element(y, n, 0, d, 0)));
        return;
      }
      T* row = tile_;
      if (pass_.fold_) {
        row += p_.pad_left * width;
        for (std::int64_t v = -p_.pad_left; v < p_.W + p_.pad_right; ++v) {
          if (v >= 0 && v < p_.W) continue;
          T* to = row + resolve_padding(v, p_.W, p_.padding_mode) * width;
          const T* from = row + v * width;
          for (std::int64_t c = first; c < last; ++c) to[c] += from[c];
        }
      }
      std::int64_t channels = last < pass_.channels_ ? last : pass_.channels_;
      if (pass_.sums_ > 1) {
        channels = p_.C;
        for (std::int64_t w = 0; w < p_.W; ++w) {
          T* pixel = row + w * width;
          for (std::int64_t c = 0; c < channels; ++c) {
            T sum = pixel[c * pass_.sums_];
            for (std::int64_t j = 1; j < pass_.sums_; ++j) {
              sum += pixel[c * pass_.sums_ + j];
            }
            pixel[c] = sum;
          }
        }
      }
      pass_.kernels_.unpack(row + first, width, y.size[3], channels - first,
                            {element(y, n, first, d, 0), y.dtype, y.stride[3], y.stride[1]});
    }

    StripPass& pass_;
    const ConvProblem& p_;
    RowCache<T> cache_;
    T* tile_ = nullptr;
    LinesAhead ahead_;
    std::vector<const T*> in_place_rows_, packed_rows_, weights_;
  };

  const ComputeKernels<T>& kernels_;
  std::int64_t mr_;
  bool grouped_;
  AxisMap rows_;
  std::int64_t source_channels_, channels_;  // of the source's and the results' pixels
  std::int64_t repeat_, sums_;               // see the constructor
  std::int64_t width_ = 0;                   // of a pixel of results, a vector at least
  std::int64_t tap_weights_ = 0;             // packed weights of one tap
  StripGroups blocks_;
  std::int64_t columns_ = 0;  // of a row of results, before it is folded
  bool in_place_ = false, store_in_place_ = false, streams_ = false, fold_ = false;
  bool dense_rows_ = false;  // of the source, one piece of memory from row to row
  StripColumns strips_;
  std::int64_t tiles_ = 0;  // of a row of results
  T* panels_ = nullptr;
  T* packed_bias_ = nullptr;
};

}  // namespace

void run_channel_strips(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (run_plane_strips(plan, tensors, threads)) return;
  if (plan.problem.dtype == DType::kFloat64) {
    StripPass<double>(plan, tensors).run(threads);
  } else {
    StripPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
