// Drives weight grad of groups of one channel, or of few, where channels are contiguous, or made
// so.
//
// Output rows (n, p), in order, are cut into plan.splits chunks by shape alone; a chunk owns a copy
// of the sums and walks its rows in blocks of a few hundred pixels of one image. Columns whose taps
// all lie within the row are read where they are, those at its ends from a packed copy of the row's
// ends. At the end the copies are added in order. So the sums are the same for any number of
// threads.
//
// Where channels are small planes (NCHW), a work item is a part of the channels and a chunk of
// whole images, whose planes of that part are packed whole, one image after the other.
#include <vector>

#include "../channel_parts.h"
#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "packed_planes.h"
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
        rows_(forward_map_h(p_)),
        whole_planes_(plan.channel_block > 0 && planes_are_rows(t.input) &&
                      planes_are_rows(t.output)),
        parts_(channels_, whole_planes_ ? plan.channel_block : width_, vector_) {
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
    if (whole_planes_) {
      threads.run(parts_.count * splits_, [&](std::int64_t begin, std::int64_t end) {
        PlaneWorker worker(*this);
        for (std::int64_t item = begin; item < end; ++item) {
          worker.item(item % splits_, item / splits_);
        }
      });
      return reduce(threads);
    }
    threads.run_units<Worker>(
        *this, splits_, places_ / vector_,
        [&](Worker& worker, std::int64_t split, std::int64_t unit, std::int64_t end) {
          worker.item(split, unit * vector_, end * vector_);
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
    if (whole_planes_) {
      segments_.push_back({0, p_.Q, true, 0});
      const std::int64_t last = (p_.Q - 1) * p_.stride_w - p_.pad_left + span;
      for (std::int64_t i = -p_.pad_left; i <= last || i < p_.W; ++i) {
        packed_columns_.push_back(i <= last ? resolve_padding(i, p_.W, p_.padding_mode) : i);
      }
      return;
    }
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

  struct Row {
    const T* grad;
    std::vector<const T*> in_place, packed;  // [r], null in the padding
  };

  // Adds up blocks of rows, once it is known where they are.
  class BlockSums {
   public:
    explicit BlockSums(DepthwiseWgrad& pass) : rows(pass.block_rows_), pass_(pass), p_(pass.p_) {
      for (Row& row : rows) {
        row.in_place.resize(p_.R);
        row.packed.resize(p_.R);
      }
      runs_.reserve(pass.block_rows_);
    }

    // Places [first, last) of a copy of the sums.
    void begin(std::int64_t split, std::int64_t first, std::int64_t last) {
      sums_ = pass_.sums_ + split * pass_.copy_elements();
      for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
        for (std::int64_t j = 0; j < pass_.group_; ++j) {
          T* sum = sums_ + tap * pass_.tap_elements() + j * pass_.places_;
          for (std::int64_t i = first; i < last; ++i) sum[i] = 0;
        }
      }
    }

    // The first `count` rows.
    void add(std::int64_t count) {
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

    std::vector<Row> rows;
    std::int64_t packed_pixel = 0, grad_pixel = 0;  // elements
    std::int64_t channels = 0;                      // of x and the gradient
    std::int64_t first = 0, last = 0;               // their places, whole vectors
    std::int64_t place = 0;                         // of the first channel

   private:
    void run_kernel_rows(const Segment& segment, std::int64_t count) {
      for (std::int64_t r = 0; r < p_.R; r += pass_.kernel_rows_) {
        const std::int64_t left = p_.R - r;
        const int wanted = static_cast<int>(left < pass_.kernel_rows_ ? left : pass_.kernel_rows_);
        run_segment(segment, r, wanted, count);
      }
    }

    void run_segment(const Segment& segment, std::int64_t r, int kernel_rows, std::int64_t count) {
      DepthwiseOuterTile<T> tile;
      const std::int64_t pixel = segment.packed ? packed_pixel : pass_.input_.stride[3];
      tile.grad_step = grad_pixel;
      tile.x_step = p_.stride_w * pixel;
      tile.tap_step = p_.dilation_w * pixel;
      tile.first = first;
      tile.last = last;
      tile.channels = channels;
      tile.sum_row_stride = p_.S * pass_.tap_elements();
      tile.sum_tap_stride = pass_.tap_elements();
      tile.sum_output_stride = pass_.places_;
      // Output rows that meet all of these kernel rows; then the others, kernel row by kernel row.
      const auto collect = [&](std::int64_t from, int wanted, bool whole) {
        runs_.clear();
        for (std::int64_t j = 0; j < count; ++j) {
          const auto& x = segment.packed ? rows[j].packed : rows[j].in_place;
          bool all = true, any = false;
          for (int i = 0; i < kernel_rows; ++i) {
            all = all && x[r + i] != nullptr;
            any = any || x[r + i] != nullptr;
          }
          if (!any || all != whole || x[from] == nullptr) continue;
          DepthwiseRun<T> run;
          run.grad = rows[j].grad + segment.first * tile.grad_step;
          for (int i = 0; i < wanted; ++i) run.x[i] = x[from + i] + segment.column * pixel;
          run.pixels = segment.count;
          runs_.push_back(run);
        }
        if (!runs_.empty()) run_taps(from, wanted, &tile);
      };
      collect(r, kernel_rows, true);
      for (int i = 0; kernel_rows > 1 && i < kernel_rows; ++i) collect(r + i, 1, false);
    }

    void run_taps(std::int64_t r, int kernel_rows, DepthwiseOuterTile<T>* tile) {
      tile->runs = runs_.data();
      tile->run_count = static_cast<std::int64_t>(runs_.size());
      for (std::int64_t s = 0; s < p_.S; s += pass_.most_taps_) {
        const std::int64_t left = p_.S - s;
        const int taps = static_cast<int>(left < pass_.most_taps_ ? left : pass_.most_taps_);
        tile->sum = sums_ + (r * p_.S + s) * pass_.tap_elements() + place;
        if (pass_.grouped_) {
          pass_.kernels_.grouped_outer(*tile, static_cast<int>(pass_.group_), kernel_rows, taps);
        } else {
          pass_.kernels_.depthwise_outer(*tile, kernel_rows, taps);
        }
        for (DepthwiseRun<T>& run : runs_) {
          for (int i = 0; i < kernel_rows; ++i) run.x[i] += taps * tile->tap_step;
        }
      }
    }

    DepthwiseWgrad& pass_;
    const ConvProblem& p_;
    std::vector<DepthwiseRun<T>> runs_;
    T* sums_ = nullptr;  // [tap][output of the group][place]
  };

  class Worker {
   public:
    explicit Worker(DepthwiseWgrad& pass)
        : pass_(pass),
          p_(pass.p_),
          cache_(pass.kernels_, pass.input_, p_.C, pass.packed_columns_.empty(),
                 pass.block_rows_ * p_.R, pass.packed_columns_, pass.multiplier_, pass.width_),
          sums_(pass) {
      if (!pass.grad_in_place_) {
        grad_ = scratch<T>(Slot::kGrad, pass.block_rows_ * p_.Q * pass.width_);
      }
      sums_.packed_pixel = cache_.pixel_stride();
      sums_.grad_pixel = pass.grad_in_place_ ? pass.grad_output_.stride[3] : pass.width_;
      sums_.channels = pass.width_;
    }

    void item(std::int64_t split, std::int64_t first, std::int64_t last) {
      sums_.begin(split, first, last);
      sums_.first = first;
      sums_.last = last;
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
    // Output rows [p, p + count) of image n.
    void block(std::int64_t n, std::int64_t p, std::int64_t count) {
      const TensorView& g = pass_.grad_output_;
      cache_.begin_item(n);
      for (std::int64_t j = 0; j < count; ++j) {
        Row& row = sums_.rows[j];
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
      sums_.add(count);
    }

    DepthwiseWgrad& pass_;
    const ConvProblem& p_;
    RowCache<T> cache_;
    BlockSums sums_;
    T* grad_ = nullptr;
  };

  class PlaneWorker {
   public:
    explicit PlaneWorker(DepthwiseWgrad& pass)
        : pass_(pass),
          p_(pass.p_),
          input_(pass.kernels_, pass.input_, pass.packed_columns_, p_.pad_left, pass.parts_.widest),
          grad_(scratch<T>(Slot::kGrad, p_.P * p_.Q * pass.parts_.widest)),
          sums_(pass) {
      // Lanes without a channel are computed too.
      for (std::int64_t i = 0; i < p_.P * p_.Q * pass.parts_.widest; ++i) grad_[i] = 0;
      sums_.packed_pixel = sums_.grad_pixel = pass.parts_.widest;
    }

    // Chunk `split` of the images.
    void item(std::int64_t split, std::int64_t part) {
      const std::int64_t first = pass_.parts_.first(part), end = pass_.parts_.end(part);
      const std::int64_t width = pass_.parts_.widest;
      sums_.place = first;
      sums_.channels = end - first < pass_.vector_ ? pass_.vector_ : end - first;
      sums_.last = round_up(sums_.channels, pass_.vector_);
      sums_.begin(split, first, first + sums_.last);
      const TensorView& g = pass_.grad_output_;
      const std::int64_t last = p_.N * (split + 1) / pass_.splits_;
      for (std::int64_t n = p_.N * split / pass_.splits_; n < last; ++n) {
        input_.pack(n, first, end);
        pass_.kernels_.pack_planes(element(g, n, first, 0, 0), g.dtype, g.stride[1], p_.P * p_.Q,
                                   p_.Q, end - first, grad_, width, 0);
        for (std::int64_t p = 0; p < p_.P; p += pass_.block_rows_) {
          const std::int64_t left = p_.P - p;
          add_rows(p, left < pass_.block_rows_ ? left : pass_.block_rows_);
        }
      }
    }

   private:
    void add_rows(std::int64_t p, std::int64_t count) {
      for (std::int64_t j = 0; j < count; ++j) {
        Row& row = sums_.rows[j];
        row.grad = grad_ + (p + j) * p_.Q * pass_.parts_.widest;
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t h = pass_.rows_.source(p + j, r);
          row.packed[r] = h < 0 ? nullptr : input_.row(h);
        }
      }
      sums_.add(count);
    }

    DepthwiseWgrad& pass_;
    const ConvProblem& p_;
    PackedPlanes<T> input_;
    T* grad_;  // [pixel][channel]
    BlockSums sums_;
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
  bool whole_planes_;
  ChannelParts parts_;
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
