// Drives weight grad, dense, grouped and depthwise, and bias grad.
//
// Output rows (n, p), in order, are cut into plan.splits chunks by shape alone. A work item is one
// chunk, one group and one block of input channels; it owns its part of one copy of the weight and
// walks its rows in blocks of a few hundred pixels. At the end the copies are added in order. So
// the sums are the same for any number of threads, and each is a sum of sums of short sums.
#include <vector>

#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"

namespace convext {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

template <class T>
class WgradPass {
 public:
  WgradPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        depthwise_(plan.kernel->algorithm == Algorithm::kDepthwise),
        mr_(plan.kernel->mr),
        splits_(plan.splits),
        input_(t.input),
        grad_output_(t.output),
        grad_weight_(t.weight),
        rows_(forward_map_h(plan.problem)) {
    // Depthwise: one "group" whose channels are the lanes.
    groups_ = depthwise_ ? 1 : p_.groups;
    channels_ = depthwise_ ? p_.C : p_.channels_per_group();
    outputs_ = depthwise_ ? 1 : p_.outputs_per_group();
    lanes_ = depthwise_ ? round_up(channels_, kernels_.lanes) : plan.kernel->nr;
    channel_block_ = depthwise_ ? channels_ : plan.channel_block;
    channel_blocks_ = ceil_div(channels_, channel_block_);
    lane_blocks_ = ceil_div(channels_, lanes_);
    block_rows_ = kBlockPixels / p_.Q;
    if (block_rows_ < 1) block_rows_ = 1;
    make_columns();
  }

  void run(const Threads& threads) {
    const std::int64_t copy = groups_ * group_elements();
    sums_ = scratch<T>(Slot::kSums, splits_ * copy);
    const std::int64_t parts = groups_ * channel_blocks_;
    threads.run(splits_ * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t split = item / parts, part = item % parts;
        worker.item(split, part / channel_blocks_, part % channel_blocks_);
      }
    });
    reduce(threads);
  }

 private:
  static constexpr std::int64_t kBlockPixels = 384;

  // Sums are [split][group][lane block][tap][output channel][lane].
  std::int64_t group_elements() const { return lane_blocks_ * p_.taps() * outputs_ * lanes_; }

  // Where a packed row keeps the source column of (q, s). Overlapping taps share the padded row;
  // where taps would leave most of it unused (1x1 with a stride, wide dilation), each has a strip.
  void make_columns() {
    const AxisMap columns = forward_map_w(p_);
    const std::int64_t span = (p_.Q - 1) * p_.stride_w + (p_.S - 1) * p_.dilation_w + 1;
    const bool shared = span <= p_.Q * p_.S;
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
    threads.run(p_.K, [&](std::int64_t begin, std::int64_t end) {
      std::vector<T> total(p_.taps() * (depthwise_ ? 1 : channels_));
      for (std::int64_t k = begin; k < end; ++k) {
        const std::int64_t g = depthwise_ ? 0 : k / outputs_;
        for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
          const std::int64_t first = depthwise_ ? k : 0, count = depthwise_ ? 1 : channels_;
          for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t c = first + i;
            const T* sum = sums_ + g * group_elements() +
                           ((c / lanes_ * p_.taps() + tap) * outputs_ + k % outputs_) * lanes_ +
                           c % lanes_;
            T value = sum[0];
            for (std::int64_t split = 1; split < splits_; ++split) value += sum[split * copy];
            total[i * p_.taps() + tap] = value;
          }
        }
        const std::int64_t count = depthwise_ ? 1 : channels_;
        for (std::int64_t r = 0; r < p_.R; ++r) {
          for (std::int64_t s = 0; s < p_.S; ++s) {
            kernels_.unpack(total.data() + r * p_.S + s, p_.taps(), count, 1,
                            {element(grad_weight_, k, 0, r, s), grad_weight_.dtype,
                             grad_weight_.stride[1], 1});
          }
        }
      }
    });
  }

  class Worker {
   public:
    explicit Worker(WgradPass& pass) : pass_(pass), p_(pass.p_) {
      const ConvProblem& p = p_;
      most_slots_ = pass.block_rows_ * p.R;
      const std::int64_t block_lanes =
          round_up(pass.channel_block_ < pass.channels_ ? pass.channel_block_ : pass.channels_,
                   pass.lanes_);
      slot_elements_ = pass.packed_columns_ * pass.lanes_;
      x_ = scratch<T>(Slot::kRows, block_lanes / pass.lanes_ * most_slots_ * slot_elements_);
      const std::int64_t width = pass.depthwise_ ? pass.lanes_ : round_up(pass.outputs_, pass.mr_);
      grad_ = scratch<T>(Slot::kGrad, pass.block_rows_ * p.Q * width);
      slot_of_.resize(pass.block_rows_ * p.R);
      slot_of_row_.assign(p.H, -1);
    }

    void item(std::int64_t split, std::int64_t group, std::int64_t channel_block) {
      group_ = group;
      c0_ = channel_block * pass_.channel_block_;
      const std::int64_t left = pass_.channels_ - c0_;
      c_count_ = left < pass_.channel_block_ ? left : pass_.channel_block_;
      lane_block0_ = c0_ / pass_.lanes_;
      lane_block_count_ = ceil_div(c_count_, pass_.lanes_);
      sums_ = pass_.sums_ + (split * pass_.groups_ + group) * pass_.group_elements() +
              lane_block0_ * p_.taps() * pass_.outputs_ * pass_.lanes_;
      const std::int64_t elements = lane_block_count_ * p_.taps() * pass_.outputs_ * pass_.lanes_;
      for (std::int64_t i = 0; i < elements; ++i) sums_[i] = 0;

      const std::int64_t rows = p_.N * p_.P;
      const std::int64_t end = rows * (split + 1) / pass_.splits_;
      for (std::int64_t row = rows * split / pass_.splits_; row < end; row += pass_.block_rows_) {
        block(row, end - row < pass_.block_rows_ ? end - row : pass_.block_rows_);
      }
    }

   private:
    void block(std::int64_t first_row, std::int64_t count) {
      pack_input(first_row, count);
      if (pass_.depthwise_) {
        pack_grad_depthwise(first_row, count);
        run_depthwise(count);
      } else {
        prepare_grad(first_row, count);
        run_outer(count);
      }
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
      for (std::int64_t b = 0; b < lane_block_count_; ++b) {
        const std::int64_t left = c_count_ - b * pass_.lanes_;
        pack_row(pass_.kernels_, pass_.input_, n, h,
                 group_ * pass_.channels_ + c0_ + b * pass_.lanes_,
                 left < pass_.lanes_ ? left : pass_.lanes_, pass_.lanes_, pass_.runs_,
                 x_at(b, slot), pass_.lanes_);
      }
    }

    T* x_at(std::int64_t lane_block, std::int64_t slot) {
      return x_ + (lane_block * most_slots_ + slot) * slot_elements_;
    }

    // ---- dense and grouped -----------------------------------------------------------------------

    // The kernel reads the gradient at any strides, so rows of compute type with pixels adjacent
    // (NCHW) are used where they lie; others are packed [tile of mr channels][pixel][mr].
    void prepare_grad(std::int64_t first_row, std::int64_t count) {
      const TensorView& g = pass_.grad_output_;
      const std::int64_t k0 = group_ * pass_.outputs_, mr = pass_.mr_;
      grad_rows_.clear();
      grad_in_place_ = g.dtype == compute_dtype<T>() && g.stride[3] == 1 && g.stride[1] != 1;
      if (grad_in_place_) {
        for (std::int64_t j = 0; j < count; ++j) {
          const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
          grad_rows_.push_back(static_cast<const T*>(element(g, n, k0, p, 0)));
        }
        channel_stride_ = g.stride[1];
        pixel_stride_ = 1;
        tile_stride_ = mr * g.stride[1];
        return;
      }
      const std::int64_t pixels = count * p_.Q;
      const std::int64_t tiles = ceil_div(pass_.outputs_, mr);
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
        for (std::int64_t t = 0; t < tiles; ++t) {
          const std::int64_t left = pass_.outputs_ - t * mr;
          pass_.kernels_.pack({element(g, n, k0 + t * mr, p, 0), g.dtype, g.stride[3], g.stride[1]},
                              p_.Q, left < mr ? left : mr, mr,
                              grad_ + (t * pixels + j * p_.Q) * mr, mr);
        }
        grad_rows_.push_back(grad_ + j * p_.Q * mr);
      }
      channel_stride_ = 1;
      pixel_stride_ = mr;
      tile_stride_ = pixels * mr;
    }

    void run_outer(std::int64_t count) {
      OuterTile<T> tile;
      tile.grad_channel_stride = channel_stride_;
      tile.grad_pixel_stride = pixel_stride_;
      tile.x_pixel_stride = pass_.pixel_step_ * pass_.lanes_;
      const int lane_count = pass_.kernels_.lanes;
      for (std::int64_t b = 0; b < lane_block_count_; ++b) {
        const std::int64_t left = c_count_ - b * pass_.lanes_;
        const int vectors = static_cast<int>(
            ceil_div(left < pass_.lanes_ ? left : pass_.lanes_, lane_count));
        for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
          const std::int64_t r = tap / p_.S, s = tap % p_.S;
          runs_.clear();
          for (std::int64_t j = 0; j < count; ++j) {
            const std::int64_t slot = slot_of_[j * p_.R + r];
            if (slot < 0) continue;  // the kernel row lies in the padding
            runs_.push_back(
                {grad_rows_[j], x_at(b, slot) + s * pass_.tap_step_ * pass_.lanes_, p_.Q});
          }
          if (runs_.empty()) continue;
          T* sum = sums_ + (b * p_.taps() + tap) * pass_.outputs_ * pass_.lanes_;
          for (std::int64_t k = 0; k < pass_.outputs_; k += pass_.mr_) {
            const std::int64_t rest = pass_.outputs_ - k;
            tile.runs = runs_.data();
            tile.run_count = static_cast<std::int64_t>(runs_.size());
            tile.sum = sum + k * pass_.lanes_;
            pass_.kernels_.outer(tile, static_cast<int>(rest < pass_.mr_ ? rest : pass_.mr_),
                                 vectors);
            for (PixelRun<T>& run : runs_) run.grad += tile_stride_;
          }
        }
      }
    }

    // ---- depthwise -------------------------------------------------------------------------------

    void pack_grad_depthwise(std::int64_t first_row, std::int64_t count) {
      const TensorView& g = pass_.grad_output_;
      for (std::int64_t j = 0; j < count; ++j) {
        const std::int64_t n = (first_row + j) / p_.P, p = (first_row + j) % p_.P;
        pass_.kernels_.pack({element(g, n, 0, p, 0), g.dtype, g.stride[3], g.stride[1]}, p_.Q,
                            pass_.channels_, pass_.lanes_, grad_ + j * p_.Q * pass_.lanes_,
                            pass_.lanes_);
      }
    }

    void run_depthwise(std::int64_t count) {
      DepthwiseOuterTile<T> tile;
      tile.pixels = p_.Q;
      tile.grad_pixel_stride = pass_.lanes_;
      tile.x_pixel_stride = pass_.pixel_step_ * pass_.lanes_;
      tile.channels = pass_.lanes_;
      tile.sum_tap_stride = pass_.lanes_;
      for (std::int64_t j = 0; j < count; ++j) {
        tile.grad = grad_ + j * p_.Q * pass_.lanes_;
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t slot = slot_of_[j * p_.R + r];
          if (slot < 0) continue;
          for (std::int64_t s0 = 0; s0 < p_.S; s0 += pass_.mr_) {
            const std::int64_t left = p_.S - s0;
            const int taps = static_cast<int>(left < pass_.mr_ ? left : pass_.mr_);
            const T* x[kMostTaps];
            for (int t = 0; t < taps; ++t) {
              x[t] = x_at(0, slot) + (s0 + t) * pass_.tap_step_ * pass_.lanes_;
            }
            tile.x = x;
            tile.sum = sums_ + (r * p_.S + s0) * pass_.lanes_;
            pass_.kernels_.depthwise_outer(tile, taps);
          }
        }
      }
    }

    static constexpr int kMostTaps = 16;

    WgradPass& pass_;
    const ConvProblem& p_;
    std::int64_t most_slots_, slot_elements_;
    T* x_;
    T* grad_;
    T* sums_ = nullptr;
    std::int64_t group_ = 0, c0_ = 0, c_count_ = 0, lane_block0_ = 0, lane_block_count_ = 0;
    std::vector<std::int64_t> slot_of_;      // [row of the block][r]: packed slot, or -1
    std::vector<std::int64_t> slot_of_row_;  // of the current image
    std::vector<std::int64_t> seen_rows_;
    bool grad_in_place_ = false;
    std::int64_t channel_stride_ = 0, pixel_stride_ = 0, tile_stride_ = 0;
    std::vector<const T*> grad_rows_;
    std::vector<PixelRun<T>> runs_;
  };

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  bool depthwise_;
  std::int64_t mr_, splits_;
  TensorView input_, grad_output_, grad_weight_;
  AxisMap rows_;
  std::int64_t groups_, channels_, outputs_, lanes_, channel_block_, channel_blocks_, lane_blocks_;
  std::int64_t block_rows_;
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
  double* sums = scratch<double>(Slot::kSums, plan.splits * padded);
  threads.run(plan.splits, [&](std::int64_t begin, std::int64_t end) {
    T* packed = scratch<T>(Slot::kGrad, p.Q * padded);
    for (std::int64_t split = begin; split < end; ++split) {
      double* sum = sums + split * padded;
      for (std::int64_t k = 0; k < padded; ++k) sum[k] = 0;
      const std::int64_t last = rows * (split + 1) / plan.splits;
      for (std::int64_t row = rows * split / plan.splits; row < last; ++row) {
        const TensorView& g = t.output;
        kernels.pack({element(g, row / p.P, 0, row % p.P, 0), g.dtype, g.stride[3], g.stride[1]},
                     p.Q, p.K, padded, packed, padded);
        kernels.add_rows(packed, p.Q, padded, padded, sum);
      }
    }
  });
  std::vector<T> total(p.K);
  for (std::int64_t k = 0; k < p.K; ++k) {
    double sum = sums[k];
    for (std::int64_t split = 1; split < plan.splits; ++split) sum += sums[split * padded + k];
    total[k] = static_cast<T>(sum);
  }
  kernels.unpack(total.data(), 1, p.K, 1,
                 {t.bias.data, t.bias.dtype, t.bias.stride[1], 1});
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
