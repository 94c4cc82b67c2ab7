// fprop_im2col: NCHW convolution as weights times columns, and its driver
//
// computes  output[k][pixel] = bias[k] + sum_{c, tap} weight[k][c][tap] * column[c][tap][pixel]
//           GEMM view: gemm_m = output channels, gemm_n = pixels, gemm_k = channels x taps.
// owns      one work item: a few dozen output pixels of one image and group, all or some of its
//           output channels, each summed completely in the order of c and then of the tap.
// budget    gemm_indirect's register tile, with the operands exchanged. Panels [channel][tap][nr
//           pixels] of a quarter megabyte, or one panel if that is larger, for each thread.
// needs     contiguous input and weight: the kernel's rule says so. The last pixels of an image
//           are padded with zeros and go through a tile buffer. Float32 and float64 weights are
//           used as they lie, 16-bit ones are converted once.
// bound by  FMA in the product; gathering reads each input element once a tap, which is why 3x3
//           kernels on large images are left to fprop_indirect.
// step      from fprop_indirect: lanes are pixels, so NCHW is transposed neither on the way in nor
//           on the way out.
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
class Im2colPass {
 public:
  Im2colPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        input_(t.input),
        weight_(t.weight),
        bias_(t.bias),
        output_(t.output),
        mr_(plan.kernel->mr),
        nr_(plan.kernel->nr),
        block_(plan.pixel_block),
        depth_(p_.channels_per_group() * p_.taps()),
        outputs_(p_.outputs_per_group()),
        rows_(forward_map_h(p_)),
        columns_(forward_map_w(p_)) {}

  void run(const Threads& threads) {
    prepare_weights(threads);
    bias_values_ = scratch<T>(Slot::kBias, p_.K);
    for (std::int64_t k = 0; k < p_.K; ++k) bias_values_[k] = 0;
    if (bias_.data != nullptr) {
      kernels_.pack({bias_.data, bias_.dtype, 0, bias_.stride[1]}, 1, p_.K, p_.K, bias_values_,
                    p_.K, 0);
    }
    const std::int64_t blocks = ceil_div(p_.P * p_.Q, block_);
    threads.run_units<Worker>(
        *this, p_.N * p_.groups * blocks, ceil_div(outputs_, mr_),
        [&](Worker& worker, std::int64_t item, std::int64_t tile, std::int64_t end) {
          const std::int64_t image = item / blocks;
          worker.item(image / p_.groups, image % p_.groups, item % blocks * block_, tile * mr_,
                      end * mr_);
        });
  }

 private:
  // Rows of weights [output channel][channel][tap] in compute type: the tensor itself, if it is.
  void prepare_weights(const Threads& threads) {
    if (weight_.dtype == compute_dtype<T>()) {
      weights_ = static_cast<const T*>(weight_.data);
      return;
    }
    T* converted = scratch<T>(Slot::kPanels, p_.K * depth_);
    threads.run(p_.K, [&](std::int64_t begin, std::int64_t end) {
      kernels_.pack({element(weight_, begin, 0, 0, 0), weight_.dtype, 0, 1}, 1,
                    (end - begin) * depth_, (end - begin) * depth_, converted + begin * depth_, 0,
                    0);
    });
    weights_ = converted;
  }

  // One thread's state: its panels and tile of results.
  class Worker {
   public:
    explicit Worker(Im2colPass& pass)
        : pass_(pass),
          p_(pass.p_),
          panels_(scratch<T>(Slot::kRows, pass.block_ * pass.depth_)),
          tile_(scratch<T>(Slot::kTile, pass.mr_ * pass.nr_)) {}

    // Output channels [k0, k1) of group g at the block's pixels of image n.
    void item(std::int64_t n, std::int64_t g, std::int64_t first, std::int64_t k0,
              std::int64_t k1) {
      const std::int64_t left = p_.P * p_.Q - first;
      const std::int64_t pixels = left < pass_.block_ ? left : pass_.block_;
      if (n != image_ || g != group_ || first != first_) {
        gather(n, g, first, pixels);
        image_ = n;
        group_ = g;
        first_ = first;
      }
      if (k1 > pass_.outputs_) k1 = pass_.outputs_;
      for (std::int64_t k = k0; k < k1; k += pass_.mr_) {
        const std::int64_t rows = k1 - k < pass_.mr_ ? k1 - k : pass_.mr_;
        for (std::int64_t i = 0; i < pixels; i += pass_.nr_) {
          multiply(n, g * pass_.outputs_ + k, static_cast<int>(rows), first + i,
                   pixels - i < pass_.nr_ ? pixels - i : pass_.nr_, panels_ + i * pass_.depth_);
        }
      }
    }

   private:
    // panels[nr pixels][channel][tap][pixel], and zeros beyond the last pixel.
    void gather(std::int64_t n, std::int64_t g, std::int64_t first, std::int64_t pixels) {
      const std::int64_t nr = pass_.nr_, channels = p_.channels_per_group();
      const std::int64_t ld = p_.taps() * nr, panel = nr * pass_.depth_;
      for (std::int64_t tap = 0; tap < p_.taps(); ++tap) {
        const std::int64_t r = tap / p_.S, s = tap % p_.S;
        T* to = panels_ + tap * nr;
        find_runs(first, pixels, pixels, r, s);
        if (runs_.size() == 1) {  // the usual 1x1: whole panels at a time
          copy(n, g * channels, channels, runs_[0], to, nr, ld, panel);
          continue;
        }
        for (std::int64_t i = 0; i < pixels; i += nr) {
          find_runs(first + i, pixels - i < nr ? pixels - i : nr, nr, r, s);
          for (const Run& run : runs_) {
            copy(n, g * channels, channels, run, to + i * pass_.depth_ + run.at, run.count, ld, 0);
          }
        }
      }
    }

    // Pixels [at, at + count) of a panel read input row h at columns w, w + step, ...; h < 0:
    // zeros.
    struct Run {
      std::int64_t at, h, w, step, count;
    };

    void copy(std::int64_t n, std::int64_t first_channel, std::int64_t channels, const Run& run,
              T* to, std::int64_t tile, std::int64_t ld, std::int64_t tile_stride) {
      if (run.h >= 0) {
        const TensorView& x = pass_.input_;
        pass_.kernels_.pack(
            {element(x, n, first_channel, run.h, run.w), x.dtype, x.stride[1], run.step}, channels,
            run.count, tile, to, ld, tile_stride);
        return;
      }
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t i = 0; i < run.count; ++i) {
          to[i / tile * tile_stride + c * ld + i % tile] = 0;
        }
      }
    }

    // The sources of `count` output pixels from `first` on, and zeros up to `padded`.
    void find_runs(std::int64_t first, std::int64_t count, std::int64_t padded, std::int64_t r,
                   std::int64_t s) {
      runs_.clear();
      std::int64_t p = first / p_.Q, q = first % p_.Q;
      for (std::int64_t i = 0; i < padded; ++i) {
        std::int64_t h = i < count ? pass_.rows_.source(p, r) : -1;
        const std::int64_t w = h < 0 ? -1 : pass_.columns_.source(q, s);
        if (w < 0) h = -1;
        if (!extend(h, w)) runs_.push_back({i, h, w, 1, 1});
        if (++q == p_.Q) {
          q = 0;
          ++p;
        }
      }
    }

    // Adds the pixel to the last run if it follows it. Rows that follow each other in memory join.
    bool extend(std::int64_t h, std::int64_t w) {
      if (runs_.empty()) return false;
      Run& run = runs_.back();
      if ((h < 0) != (run.h < 0)) return false;
      if (h >= 0) {
        const std::int64_t distance = (h - run.h) * p_.W + w - run.w;
        if (run.count == 1) {
          if (distance <= 0) return false;
          run.step = distance;
        } else if (distance != run.step * run.count) {
          return false;
        }
      }
      ++run.count;
      return true;
    }

    void multiply(std::int64_t n, std::int64_t k, int rows, std::int64_t first, std::int64_t count,
                  const T* panel) {
      static constexpr std::int32_t kOnlyTap = 0;
      const T* x[kMostMr];
      T* y[kMostMr];
      const TensorView& out = pass_.output_;
      const bool in_place =
          out.dtype == compute_dtype<T>() && out.stride[3] == 1 && out.stride[2] == p_.Q;
      const int lanes = pass_.kernels_.lanes;
      const bool whole = in_place && count % lanes == 0;
      for (int m = 0; m < rows; ++m) {
        x[m] = pass_.weights_ + (k + m) * pass_.depth_;
        y[m] =
            whole ? static_cast<T*>(element(out, n, k + m, 0, 0)) + first : tile_ + m * pass_.nr_;
      }
      GemmTile<T> tile;
      tile.x = x;
      tile.tap = &kOnlyTap;
      tile.entries = 1;
      tile.chain_taps = 1;
      tile.x_offset = 0;
      tile.depth = pass_.depth_;
      tile.panel = panel;
      tile.bias = pass_.bias_values_ + k;
      tile.bias_by_row = true;
      tile.y = y;
      tile.y_offset = 0;
      pass_.kernels_.gemm(tile, rows, static_cast<int>(ceil_div(count, lanes)));
      if (whole) return;
      for (std::int64_t i = 0; i < count;) {  // row by row of the output
        const std::int64_t p = (first + i) / p_.Q, q = (first + i) % p_.Q;
        const std::int64_t run = p_.Q - q < count - i ? p_.Q - q : count - i;
        pass_.kernels_.unpack(tile_ + i, pass_.nr_, rows, run,
                              {element(out, n, k, p, q), out.dtype, out.stride[1], out.stride[3]});
        i += run;
      }
    }

    Im2colPass& pass_;
    const ConvProblem& p_;
    T* panels_;
    T* tile_;
    std::int64_t image_ = -1, group_ = -1, first_ = -1;  // what the panels hold
    std::vector<Run> runs_;
  };

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  TensorView input_, weight_, bias_, output_;
  std::int64_t mr_, nr_, block_, depth_, outputs_;
  AxisMap rows_, columns_;
  const T* weights_ = nullptr;
  T* bias_values_ = nullptr;
};

}  // namespace

void run_im2col(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    Im2colPass<double>(plan, tensors).run(threads);
  } else {
    Im2colPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
