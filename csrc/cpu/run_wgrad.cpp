// Drives weight grad, dense and grouped, and bias grad.
//
// Output rows (n, p), in order, are cut into plan.splits chunks by shape alone. A work item is one
// chunk, one group and one block of input channels; it owns its part of one copy of the weight and
// walks its rows in blocks of a few hundred pixels. At the end the copies are added in order. So
// the sums are the same for any number of threads, and each is a sum of sums of short sums.
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
class WgradPass {
 public:
  WgradPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        mr_(plan.kernel->mr),
        splits_(plan.splits),
        input_(t.input),
        grad_output_(t.output),
        grad_weight_(t.weight),
        rows_(forward_map_h(plan.problem)) {
    groups_ = p_.groups;
    channels_ = p_.channels_per_group();
    outputs_ = p_.outputs_per_group();
    // Few channels: one kernel row's taps and channels, adjacent in a packed row, are the lanes.
    merged_ = plan.merged_columns;
    taps_ = merged_ ? p_.R : p_.taps();
    lanes_ = merged_ ? p_.S * channels_ : channels_;
    nr_ = plan.kernel->nr;
    lane_chunk_ = merged_ ? lanes_ : plan.channel_block;
    lane_chunks_ = ceil_div(lanes_, lane_chunk_);
    lane_blocks_ = ceil_div(lanes_, nr_);
    block_rows_ = kBlockPixels / p_.Q;
    const std::int64_t chunk_rows = ceil_div(p_.N * p_.P, splits_);
    if (block_rows_ > chunk_rows) block_rows_ = chunk_rows;
    if (block_rows_ < 1) block_rows_ = 1;
    // Wide rows are summed piece by piece too.
    run_pixels_ = p_.Q <= 2 * kBlockPixels ? p_.Q : kBlockPixels;
    make_columns();
    // One copy of the sums, in whole vectors, laid out as the weight: sum where the result goes.
    in_place_ = splits_ == 1 && channels_in_place<T>(grad_weight_, channels_) &&
                lanes_ % kernels_.lanes == 0 && !merged_;
  }

  void run(const Threads& threads) {
    if (!in_place_) sums_ = scratch<T>(Slot::kSums, splits_ * groups_ * group_elements());
    const std::int64_t parts = groups_ * lane_chunks_;
    threads.run(splits_ * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t split = item / parts, part = item % parts;
        worker.item(split, part / lane_chunks_, part % lane_chunks_);
      }
    });
    if (!in_place_) reduce(threads);
  }

 private:
  static constexpr std::int64_t kBlockPixels = 256;

  // Sums are [split][group][tile of output channels][lane block][tap][mr][nr].
  std::int64_t group_elements() const {
    return ceil_div(outputs_, mr_) * lane_blocks_ * taps_ * mr_ * nr_;
  }
  std::int64_t sum_offset(std::int64_t k, std::int64_t lane_block, std::int64_t tap) const {
    return (((k / mr_ * lane_blocks_ + lane_block) * taps_ + tap) * mr_ + k % mr_) * nr_;
  }

  // Where a packed row keeps the source column of (q, s). Overlapping taps share the padded row;
  // where taps would leave most of it unused (1x1 with a stride, wide dilation), each has a strip.
  void make_columns() {
    const AxisMap columns = forward_map_w(p_);
    const std::int64_t span = (p_.Q - 1) * p_.stride_w + (p_.S - 1) * p_.dilation_w + 1;
    const bool shared = merged_ || span <= p_.Q * p_.S;
    pixel_step_ = shared ? p_.stride_w : 1;
    tap_step_ = shared ? p_.dilation_w : p_.Q;
    packed_columns_ = shared ? span : p_.Q * p_.S;
    std::vector<std::int64_t> sources(packed_columns_, -1);
    for (std::int64_t q = 0; q < p_.Q; ++q) {
      for (std::int64_t s = 0; s < p_.S; ++s) {
        sources[q * pixel_step_ + s * tap_step_] = columns.source(q, s);
      }
    }
    runs_ = column_runs(sources);
  }

  // grad_weight = the copies of its sums, added in order.
  void reduce(const Threads& threads) {
    const std::int64_t copy = groups_ * group_elements();
    const TensorView& w = grad_weight_;
    const bool taps_adjacent = w.stride[2] == p_.S * w.stride[3];
    const std::int64_t channels = p_.channels_per_group();
    threads.run(p_.K, [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> total(p_.taps() * channels);
      for (std::int64_t k = begin; k < end; ++k) {
        // total[tap][channel] of output channel k; merged lanes already are (s, channel).
        const std::int64_t g = k / outputs_, row = k % outputs_;
        for (std::int64_t lane = 0; lane < lanes_;) {
          const std::int64_t block = lane / nr_;
          const std::int64_t end_lane = lanes_ < (block + 1) * nr_ ? lanes_ : (block + 1) * nr_;
          const std::int64_t count = end_lane - lane;
          for (std::int64_t tap = 0; tap < taps_; ++tap) {
            const T* sum = sums_ + g * group_elements() + sum_offset(row, block, tap) + lane % nr_;
            T* out = total.data() + tap * lanes_ + lane;
            for (std::int64_t i = 0; i < count; ++i) out[i] = sum[i];
            for (std::int64_t split = 1; split < splits_; ++split) {
              const T* next = sum + split * copy;
              for (std::int64_t i = 0; i < count; ++i) out[i] += next[i];
            }
          }
          lane = end_lane;
        }
        if (taps_adjacent) {
          kernels_.unpack(total.data(), channels, p_.taps(), channels,
                          {element(w, k, 0, 0, 0), w.dtype, w.stride[3], w.stride[1]});
          continue;
        }
        for (std::int64_t r = 0; r < p_.R; ++r) {
          kernels_.unpack(total.data() + r * p_.S * channels, channels, p_.S, channels,
                          {element(w, k, 0, r, 0), w.dtype, w.stride[3], w.stride[1]});
        }
      }
    });
  }

  class Worker {
   public:
    explicit Worker(WgradPass& pass) : pass_(pass), p_(pass.p_) {
      const ConvProblem& p = p_;
      most_slots_ = pass.block_rows_ * p.R;
      // A packed row: [column][nr], or [column][channel] with room to read a last vector.
      const std::int64_t ld = pass.merged_ ? pass.channels_ : pass.nr_;
      slot_elements_ = pass.packed_columns_ * ld;
      const std::int64_t blocks =
          pass.merged_
              ? 1
              : ceil_div(pass.lane_chunk_ < pass.lanes_ ? pass.lane_chunk_ : pass.lanes_, pass.nr_);
      const std::int64_t elements = blocks * most_slots_ * slot_elements_ + pass.nr_;
      x_ = scratch<T>(Slot::kRows, elements);
      if (pass.merged_) {
        for (std::int64_t i = 0; i < elements; ++i) x_[i] = 0;
      }
      pixel_stride_ = pass.pixel_step_ * ld;
      tap_stride_ = pass.tap_step_ * ld;
      // One more vector than pixels, so that rows do not lie a power of two apart.
      grad_ld_ = pass.block_rows_ * p.Q + pass.kernels_.lanes;
      grad_ = scratch<T>(Slot::kGrad, pass.outputs_ * grad_ld_);
      slot_of_.resize(pass.block_rows_ * p.R);
      slot_of_row_.assign(p.H, -1);
    }

    void item(std::int64_t split, std::int64_t group, std::int64_t chunk) {
      group_ = group;
      lane0_ = chunk * pass_.lane_chunk_;
      const std::int64_t left = pass_.lanes_ - lane0_;
      lane_count_ = left < pass_.lane_chunk_ ? left : pass_.lane_chunk_;
      lane_block_count_ = ceil_div(lane_count_, pass_.nr_);
      sums_ = pass_.sums_ + (split * pass_.groups_ + group) * pass_.group_elements();
      const std::int64_t rows = p_.N * p_.P;
      const std::int64_t begin = rows * split / pass_.splits_;
      const std::int64_t end = rows * (split + 1) / pass_.splits_;
      const std::int64_t blocks = ceil_div(end - begin, pass_.block_rows_);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t first = begin + (end - begin) * b / blocks;
        first_block_ = b == 0;
        block(first, begin + (end - begin) * (b + 1) / blocks - first);
      }
    }

   private:
    void block(std::int64_t first_row, std::int64_t count) {
      pack_input(first_row, count);
      prepare_grad(first_row, count);
      run_outer(count);
    }

    // Packs each input row that the block reads once: x_[lane block][slot][column][lane].
    void pack_input(std::int64_t first_row, std::int64_t count) {
      std::int64_t slots = 0, image = -1;
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
        if (n != image) {
          forget_rows();
          image = n;
        }
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t h = pass_.rows_.source(p, r);
          std::int64_t slot = -1;
          if (h >= 0) {
            slot = slot_of_row_[h];
            if (slot < 0) {
              slot = slot_of_row_[h] = slots++;
              seen_rows_.push_back(h);
              pack_input_row(n, h, slot);
            }
          }
          slot_of_[j * p_.R + r] = slot;
        }
      }
      forget_rows();
    }

    void forget_rows() {
      for (std::int64_t h : seen_rows_) slot_of_row_[h] = -1;
      seen_rows_.clear();
    }

    void pack_input_row(std::int64_t n, std::int64_t h, std::int64_t slot) {
      if (pass_.merged_) {
        pack_row(pass_.kernels_, pass_.input_, n, h, 0, pass_.channels_, pass_.channels_,
                 pass_.runs_, x_at(0, slot), 0);
      } else {
        pack_row(pass_.kernels_, pass_.input_, n, h, group_ * pass_.channels_ + lane0_, lane_count_,
                 pass_.nr_, pass_.runs_, x_at(0, slot), most_slots_ * slot_elements_);
      }
    }

    T* x_at(std::int64_t lane_block, std::int64_t slot) {
      if (pass_.merged_) return x_ + slot * slot_elements_ + lane_block * pass_.nr_;
      return x_ + (lane_block * most_slots_ + slot) * slot_elements_;
    }

    // The kernel wants each channel's pixels adjacent. NCHW of compute type has that already;
    // anything else is packed [output channel][pixel].
    void prepare_grad(std::int64_t first_row, std::int64_t count) {
      const TensorView& g = pass_.grad_output_;
      const std::int64_t k0 = group_ * pass_.outputs_;
      const bool in_place = g.dtype == compute_dtype<T>() && g.stride[3] == 1 && g.stride[1] != 1;
      grad_rows_.clear();
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
        if (in_place) {
          grad_rows_.push_back(static_cast<const T*>(element(g, n, k0, p, 0)));
        } else {
          grad_rows_.push_back(grad_ + j * p_.Q);
        }
      }
      channel_stride_ = in_place ? g.stride[1] : grad_ld_;
      if (in_place) return;
      for (std::int64_t j = 0; j < count;) {
        // Rows that follow each other in memory are transposed as one.
        std::int64_t rows = 1;
        const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
        if (g.stride[2] == p_.Q * g.stride[3]) {
          rows = p_.P - p < count - j ? p_.P - p : count - j;
        }
        pass_.kernels_.pack({element(g, n, k0, p, 0), g.dtype, g.stride[1], g.stride[3]},
                            pass_.outputs_, rows * p_.Q, rows * p_.Q, grad_ + j * p_.Q, grad_ld_,
                            0);
        j += rows;
      }
    }

    void run_outer(std::int64_t count) {
      OuterTile<T> tile;
      tile.grad_stride = channel_stride_;
      tile.grad_offset = 0;
      tile.prefetch = reinterpret_cast<const char*>(this);
      tile.prefetch_step = 0;
      tile.x_pixel_stride = pixel_stride_;
      const int vector = pass_.kernels_.lanes;
      for (std::int64_t b = 0; b < lane_block_count_; ++b) {
        const std::int64_t left = lane_count_ - b * pass_.nr_;
        const int vectors = static_cast<int>(ceil_div(left < pass_.nr_ ? left : pass_.nr_, vector));
        for (std::int64_t tap = 0; tap < pass_.taps_; ++tap) {
          const std::int64_t r = pass_.merged_ ? tap : tap / p_.S;
          const std::int64_t s = pass_.merged_ ? 0 : tap % p_.S;
          for (std::int64_t q = 0; q < p_.Q; q += pass_.run_pixels_) {
            const std::int64_t end = q + pass_.run_pixels_ < p_.Q ? q + pass_.run_pixels_ : p_.Q;
            find_runs(count, b, r, s, q, end);
            tile.add = !first_block_ || q > 0;
            multiply_runs(b, tap, vectors, &tile);
          }
        }
      }
    }

    void multiply_runs(std::int64_t b, std::int64_t tap, int vectors, OuterTile<T>* tile) {
      for (std::int64_t k = 0; k < pass_.outputs_; k += pass_.mr_) {
        const std::int64_t rest = pass_.outputs_ - k;
        place_sum(b, tap, k, tile);
        tile->runs = runs_.data();
        tile->run_count = static_cast<std::int64_t>(runs_.size());
        pass_.kernels_.outer_planes(*tile, static_cast<int>(rest < pass_.mr_ ? rest : pass_.mr_),
                                    vectors);
        for (PixelRun<T>& run : runs_) run.grad += pass_.mr_ * channel_stride_;
      }
    }

    // The block's pixels of columns [q, end) for one tap, as runs that are contiguous in both
    // operands. Rows whose source lies in the padding are left out.
    void find_runs(std::int64_t count, std::int64_t lane_block, std::int64_t r, std::int64_t s,
                   std::int64_t q, std::int64_t end) {
      runs_.clear();
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t slot = slot_of_[j * p_.R + r];
        if (slot < 0) continue;
        const T* x = x_at(lane_block, slot) + s * tap_stride_ + q * pixel_stride_;
        const T* grad = grad_rows_[j] + q;
        if (!runs_.empty()) {
          PixelRun<T>& last = runs_.back();
          if (last.grad + last.pixels == grad && last.x + last.pixels * pixel_stride_ == x) {
            last.pixels += end - q;
            continue;
          }
        }
        runs_.push_back({grad, x, end - q});
      }
    }

    void place_sum(std::int64_t lane_block, std::int64_t tap, std::int64_t k, OuterTile<T>* tile) {
      if (pass_.in_place_) {
        const TensorView& w = pass_.grad_weight_;
        tile->sum =
            static_cast<T*>(element(w, group_ * pass_.outputs_ + k, lane0_ + lane_block * pass_.nr_,
                                    tap / p_.S, tap % p_.S));
        tile->sum_stride = w.stride[0];
      } else {
        tile->sum = sums_ + pass_.sum_offset(k, lane0_ / pass_.nr_ + lane_block, tap);
        tile->sum_stride = pass_.nr_;
      }
    }

    WgradPass& pass_;
    const ConvProblem& p_;
    std::int64_t most_slots_, slot_elements_, grad_ld_;
    std::int64_t pixel_stride_, tap_stride_;  // of packed input rows
    T* x_;
    T* grad_;
    T* sums_ = nullptr;
    std::int64_t group_ = 0, lane0_ = 0, lane_count_ = 0, lane_block_count_ = 0;
    bool first_block_ = true;
    std::vector<std::int64_t> slot_of_;      // [row of the block][r]: packed slot, or -1
    std::vector<std::int64_t> slot_of_row_;  // of the current image
    std::vector<std::int64_t> seen_rows_;
    std::int64_t channel_stride_ = 0;
    std::vector<const T*> grad_rows_;
    std::vector<PixelRun<T>> runs_;
  };

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  bool merged_ = false, in_place_ = false;
  std::int64_t mr_, nr_ = 0, splits_;
  TensorView input_, grad_output_, grad_weight_;
  AxisMap rows_;
  std::int64_t groups_, channels_, outputs_, taps_, lanes_, lane_blocks_;
  std::int64_t lane_chunk_, lane_chunks_;  // lanes of a work item
  std::int64_t block_rows_, run_pixels_;
  std::int64_t pixel_step_ = 1, tap_step_ = 1, packed_columns_ = 0;
  std::vector<ColumnRun> runs_;
  T* sums_ = nullptr;
};

template <class T>
void rowsum(const ConvPlan& plan, const ConvTensors& t, const Threads& threads) {
  const ComputeKernels<T>& kernels = compute_kernels<T>(plan.kernel->isa);
  const ConvProblem& p = plan.problem;
  const std::int64_t padded = round_up(p.K, kernels.lanes);
  const std::int64_t rows = p.N * p.P;
  constexpr std::int64_t kPiece = 256;  // pixels summed from zero at a time
  double* sums = scratch<double>(Slot::kSums, plan.splits * padded);
  threads.run(plan.splits, [&](std::int64_t begin, std::int64_t end) {
    T* packed = scratch<T>(Slot::kGrad, (p.Q < kPiece ? p.Q : kPiece) * padded);
    for (std::int64_t split = begin; split < end; ++split) {
      double* sum = sums + split * padded;
      for (std::int64_t k = 0; k < padded; ++k) sum[k] = 0;
      const std::int64_t last = rows * (split + 1) / plan.splits;
      for (std::int64_t row = rows * split / plan.splits; row < last; ++row) {
        for (std::int64_t q = 0; q < p.Q; q += kPiece) {
          const TensorView& g = t.output;
          const std::int64_t pixels = p.Q - q < kPiece ? p.Q - q : kPiece;
          kernels.pack({element(g, row / p.P, 0, row % p.P, q), g.dtype, g.stride[3], g.stride[1]},
                       pixels, p.K, padded, packed, padded, 0);
          kernels.add_rows(packed, pixels, padded, padded, sum);
        }
      }
    }
  });
  std::vector<T> total(p.K);
  for (std::int64_t k = 0; k < p.K; ++k) {
    double sum = sums[k];
    for (std::int64_t split = 1; split < plan.splits; ++split) sum += sums[split * padded + k];
    total[k] = static_cast<T>(sum);
  }
  kernels.unpack(total.data(), 1, p.K, 1, {t.bias.data, t.bias.dtype, t.bias.stride[1], 1});
}

}  // namespace

void run_wgrad(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    WgradPass<double>(plan, tensors).run(threads);
  } else {
    WgradPass<float>(plan, tensors).run(threads);
  }
}

void run_rowsum(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    rowsum<double>(plan, tensors, threads);
  } else {
    rowsum<float>(plan, tensors, threads);
  }
}

}  // namespace convext
