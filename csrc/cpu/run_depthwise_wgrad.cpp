// Drives weight grad of groups of one channel, or of few, where channels are contiguous, or made so.
//
// Output rows (n, p), in order, are cut into plan.splits chunks by shape alone; a chunk owns a copy of
// the sums and walks its rows in blocks of a few hundred pixels of one image. Columns whose taps all
// lie within the row are read where they are, those at its ends from a packed copy of the row's ends.
// At the end the copies are added in order. So the sums are the same for any number of threads.
#include <vector>

#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"

namespace convext {
namespace {

template <class T>
class DepthwiseWgrad {
 public:
  DepthwiseWgrad(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        grouped_(plan.kernel->algorithm == Algorithm::kGrouped),
        group_(p_.channels_per_group()),
        most_taps_(!grouped_     ? plan.kernel->mr
                   : group_ == 8 ? 1
                                 : 3),
        splits_(plan.splits),
        vector_(kernels_.lanes),
        channels_(p_.K),
        width_(channels_ < vector_ ? vector_ : channels_),
        places_(round_up(channels_, vector_)),
        multiplier_(grouped_ ? 1 : p_.outputs_per_group()),
        input_(t.input),
        grad_output_(t.output),
        grad_weight_(t.weight),
        rows_(forward_map_h(p_)) {
    grad_in_place_ = channels_in_place<T>(grad_output_, channels_) && channels_ >= vector_;
    in_place_ = channels_in_place<T>(input_, p_.C) && multiplier_ == 1 && channels_ >= vector_;
    block_rows_ = kBlockPixels / p_.Q;
    if (block_rows_ > p_.P) block_rows_ = p_.P;
    if (block_rows_ < 1) block_rows_ = 1;
    find_segments();
    kernel_rows_ = p_.S <= 3 ? 3 : p_.S <= 5 ? 2 : 1;
    if (grouped_) kernel_rows_ = group_ == 2 && p_.S <= 3 ? 2 : 1;
    if (kernel_rows_ > p_.R) kernel_rows_ = p_.R;
  }

  void run(const Threads& threads) {
    sums_ = scratch<T>(Slot::kSums, splits_ * copy_elements());
    // Few chunks: share out the channels too. How the work is cut changes no sum.
    const std::int64_t vectors = places_ / vector_;
    std::int64_t parts = threads.count > 1 ? ceil_div(4 * threads.count, splits_) : 1;
    if (parts > vectors) parts = vectors;
    threads.run(splits_ * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t part = item % parts;
        worker.item(item / parts, vectors * part / parts * vector_,
                    vectors * (part + 1) / parts * vector_);
      }
    });
    reduce(threads);
  }

 private:
  static constexpr std::int64_t kBlockPixels = 256;

  // Output columns that read the same copy of a row.
  struct Segment {
    std::int64_t first, count;
    bool packed;
    std::int64_t column;  // source column of the first column's first tap, or its packed place
  };

  std::int64_t copy_elements() const { return p_.taps() * tap_elements(); }
  std::int64_t tap_elements() const { return group_ * places_; }

  void find_segments() {
    const std::int64_t span = (p_.S - 1) * p_.dilation_w;
    // Columns [begin, end) are in place, where any are.
    std::int64_t begin = ceil_div(p_.pad_left, p_.stride_w), end = begin;
    while (in_place_ && end < p_.Q && end * p_.stride_w - p_.pad_left + span < p_.W) ++end;
    if (end <= begin) begin = end = p_.Q;
    if (in_place_ && begin < end) {
      segments_.push_back({begin, end - begin, false, begin * p_.stride_w - p_.pad_left});
    }
    const auto add = [&](std::int64_t from, std::int64_t to) {
      if (from == to) return;
      const std::int64_t u = from * p_.stride_w - p_.pad_left;
      segments_.push_back(
          {from, to - from, true, static_cast<std::int64_t>(packed_columns_.size())});
      const std::int64_t last = (to - 1) * p_.stride_w - p_.pad_left + span;
      for (std::int64_t i = u; i <= last; ++i) {
        packed_columns_.push_back(resolve_padding(i, p_.W, p_.padding_mode));
      }
    };
    add(0, begin);
    add(end, p_.Q);
  }

  class Worker {
   public:
    explicit Worker(DepthwiseWgrad& pass)
        : pass_(pass),
          p_(pass.p_),
          cache_(pass.kernels_, pass.input_, p_.C, pass.packed_columns_.empty(),
                 pass.block_rows_ * p_.R, pass.packed_columns_, pass.multiplier_, pass.width_),
          rows_(pass.block_rows_) {
      if (!pass.grad_in_place_) {
        grad_ = scratch<T>(Slot::kGrad, pass.block_rows_ * p_.Q * pass.width_);
      }
      for (Row& row : rows_) {
        row.in_place.resize(p_.R);
        row.packed.resize(p_.R);
      }
      runs_.reserve(pass.block_rows_);
    }

    void item(std::int64_t split, std::int64_t first, std::int64_t last) {
      sums_ = pass_.sums_ + split * pass_.copy_elements();
      for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
        for (std::int64_t j = 0; j < pass_.group_; ++j) {
          T* sum = sums_ + tap * pass_.tap_elements() + j * pass_.places_;
          for (std::int64_t i = first; i < last; ++i) sum[i] = 0;
        }
      }
      first_ = first;
      last_ = last;
      const std::int64_t all = p_.N * p_.P;
      const std::int64_t end = all * (split + 1) / pass_.splits_;
      for (std::int64_t row = all * split / pass_.splits_; row < end;) {
        const std::int64_t n = row / p_.P, p = row % p_.P;
        std::int64_t count = end - row < p_.P - p ? end - row : p_.P - p;
        if (count > pass_.block_rows_) count = pass_.block_rows_;
        block(n, p, count);
        row += count;
      }
    }

   private:
    struct Row {
      const T* grad;
      std::vector<const T*> in_place, packed;  // [r], null in the padding
    };

    // Output rows [p, p + count) of image n.
    void block(std::int64_t n, std::int64_t p, std::int64_t count) {
      const TensorView& g = pass_.grad_output_;
      cache_.begin_item(n);
      for (std::int64_t j = 0; j < count; ++j) {
        Row& row = rows_[j];
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t h = pass_.rows_.source(p + j, r);
          row.in_place[r] = row.packed[r] = nullptr;
          if (h < 0) continue;
          row.in_place[r] = static_cast<const T*>(element(pass_.input_, n, 0, h, 0));
          if (!pass_.packed_columns_.empty()) row.packed[r] = cache_.row(h);
        }
        if (pass_.grad_in_place_) {
          row.grad = static_cast<const T*>(element(g, n, 0, p + j, 0));
        } else {
          T* packed = grad_ + j * p_.Q * pass_.width_;
          pass_.kernels_.pack({element(g, n, 0, p + j, 0), g.dtype, g.stride[3], g.stride[1]}, p_.Q,
                              pass_.channels_, pass_.width_, packed, pass_.width_, 0);
          row.grad = packed;
        }
      }
      for (const Segment& whole : pass_.segments_) {
        // Wide rows are summed piece by piece too.
        const std::int64_t most = whole.count <= 2 * kBlockPixels ? whole.count : kBlockPixels;
        for (std::int64_t q = 0; q < whole.count; q += most) {
          const Segment segment{whole.first + q, whole.count - q < most ? whole.count - q : most,
                                whole.packed, whole.column + q * p_.stride_w};
          run_kernel_rows(segment, count);
        }
      }
    }

    void run_kernel_rows(const Segment& segment, std::int64_t count) {
      for (std::int64_t r = 0; r < p_.R; r += pass_.kernel_rows_) {
        const std::int64_t left = p_.R - r;
        const int rows = static_cast<int>(left < pass_.kernel_rows_ ? left : pass_.kernel_rows_);
        run_segment(segment, r, rows, count);
      }
    }

    void run_segment(const Segment& segment, std::int64_t r, int rows, std::int64_t count) {
      DepthwiseOuterTile<T> tile;
      const std::int64_t pixel = segment.packed ? cache_.pixel_stride() : pass_.input_.stride[3];
      tile.grad_step = pass_.grad_in_place_ ? pass_.grad_output_.stride[3] : pass_.width_;
      tile.x_step = p_.stride_w * pixel;
      tile.tap_step = p_.dilation_w * pixel;
      tile.first = first_;
      tile.last = last_;
      tile.channels = pass_.width_;
      tile.sum_row_stride = p_.S * pass_.tap_elements();
      tile.sum_tap_stride = pass_.tap_elements();
      tile.sum_output_stride = pass_.places_;
      // Output rows that meet all of these kernel rows; then the others, kernel row by kernel row.
      const auto collect = [&](std::int64_t first, int wanted, bool whole) {
        runs_.clear();
        for (std::int64_t j = 0; j < count; ++j) {
          const auto& x = segment.packed ? rows_[j].packed : rows_[j].in_place;
          bool all = true, any = false;
          for (int i = 0; i < rows; ++i) {
            all = all && x[r + i] != nullptr;
            any = any || x[r + i] != nullptr;
          }
          if (!any || all != whole || x[first] == nullptr) continue;
          DepthwiseRun<T> run;
          run.grad = rows_[j].grad + segment.first * tile.grad_step;
          for (int i = 0; i < wanted; ++i) run.x[i] = x[first + i] + segment.column * pixel;
          run.pixels = segment.count;
          runs_.push_back(run);
        }
        if (!runs_.empty()) run_taps(first, wanted, &tile);
      };
      collect(r, rows, true);
      for (int i = 0; rows > 1 && i < rows; ++i) collect(r + i, 1, false);
    }

    void run_taps(std::int64_t r, int rows, DepthwiseOuterTile<T>* tile) {
      tile->runs = runs_.data();
      tile->run_count = static_cast<std::int64_t>(runs_.size());
      for (std::int64_t s = 0; s < p_.S; s += pass_.most_taps_) {
        const std::int64_t left = p_.S - s;
        const int taps = static_cast<int>(left < pass_.most_taps_ ? left : pass_.most_taps_);
        tile->sum = sums_ + (r * p_.S + s) * pass_.tap_elements();
        if (pass_.grouped_) {
          pass_.kernels_.grouped_outer(*tile, static_cast<int>(pass_.group_), rows, taps);
        } else {
          pass_.kernels_.depthwise_outer(*tile, rows, taps);
        }
        for (DepthwiseRun<T>& run : runs_) {
          for (int i = 0; i < rows; ++i) run.x[i] += taps * tile->tap_step;
        }
      }
    }

    DepthwiseWgrad& pass_;
    const ConvProblem& p_;
    RowCache<T> cache_;
    std::vector<Row> rows_;
    std::vector<DepthwiseRun<T>> runs_;
    T* grad_ = nullptr;
    T* sums_ = nullptr;  // [tap][output of the group][place]
    std::int64_t first_ = 0, last_ = 0;
  };

  // Where a channel's sums are: the last vector's place begins at a whole one, its channels do not.
  std::int64_t place_of(std::int64_t channel) const {
    const std::int64_t whole = channels_ / vector_ * vector_;
    return channel < whole ? channel : channel + whole + vector_ - width_;
  }

  // The same for groups of several channels.
  void reduce_groups(const Threads& threads) {
    const TensorView& w = grad_weight_;
    const std::int64_t taps = p_.taps(), copy = copy_elements();
    const bool adjacent = p_.R == 1 || w.stride[2] == p_.S * w.stride[3];
    const std::int64_t rows = adjacent ? 1 : p_.R, columns = adjacent ? taps : p_.S;
    threads.run(p_.K, [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> total(taps);
      for (std::int64_t k = begin; k < end; ++k) {
        for (std::int64_t c = 0; c < group_; ++c) {
          const T* sum = sums_ + k % group_ * places_ + place_of(k / group_ * group_ + c);
          for (std::int64_t tap = 0; tap < taps; ++tap) {
            T value = sum[tap * tap_elements()];
            for (std::int64_t split = 1; split < splits_; ++split) {
              value += sum[split * copy + tap * tap_elements()];
            }
            total[tap] = value;
          }
          kernels_.unpack(total.data(), columns, rows, columns,
                          {element(w, k, c, 0, 0), w.dtype, w.stride[2], w.stride[3]});
        }
      }
    });
  }

  // grad_weight = the copies of its sums, added in order.
  void reduce(const Threads& threads) {
    if (grouped_) return reduce_groups(threads);
    const TensorView& w = grad_weight_;
    const std::int64_t taps = p_.taps(), copy = copy_elements();
    const bool adjacent = w.stride[3] == 1 && (p_.R == 1 || w.stride[2] == p_.S);
    const std::int64_t piece = vector_ * 8;
    threads.run(ceil_div(channels_, piece), [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> total(taps * piece);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t k = item * piece;
        const std::int64_t count = channels_ - k < piece ? channels_ - k : piece;
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          T* to = total.data() + tap * piece;
          for (std::int64_t i = 0; i < count; ++i) {
            const T* sum = sums_ + tap * places_ + place_of(k + i);
            T value = *sum;
            for (std::int64_t split = 1; split < splits_; ++split) value += sum[split * copy];
            to[i] = value;
          }
        }
        if (adjacent) {
          kernels_.unpack(total.data(), piece, taps, count,
                          {element(w, k, 0, 0, 0), w.dtype, 1, w.stride[0]});
          continue;
        }
        for (std::int64_t r = 0; r < p_.R; ++r) {
          kernels_.unpack(total.data() + r * p_.S * piece, piece, p_.S, count,
                          {element(w, k, 0, r, 0), w.dtype, w.stride[3], w.stride[0]});
        }
      }
    });
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  bool grouped_;
  std::int64_t group_, most_taps_, splits_, vector_;
  std::int64_t channels_, width_, places_;  // output channels; of a packed pixel; of a row of sums
  std::int64_t multiplier_;
  TensorView input_, grad_output_, grad_weight_;
  AxisMap rows_;
  bool grad_in_place_, in_place_;
  std::int64_t block_rows_ = 1, kernel_rows_ = 1;
  std::vector<Segment> segments_;
  std::vector<std::int64_t> packed_columns_;
  T* sums_ = nullptr;
};

}  // namespace

void run_depthwise_wgrad(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    DepthwiseWgrad<double>(plan, tensors).run(threads);
  } else {
    DepthwiseWgrad<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
