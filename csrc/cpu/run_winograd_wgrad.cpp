// Drives weight grad of 3 x 3 kernels with stride 1 or 2 by Winograd's minimal filtering,
// transposed: tiles of the input and of the output gradient are transformed, multiplied and summed
// over tiles for each point (those that share a filter together), and the sums are transformed to
// the weight's gradient (winograd_wgrad.h).
//
// A work item owns what it transforms and sums, so that threads meet at the end alone. Where the
// sums are small, items are plan.splits chunks of the tiles, each with a copy of the sums, which
// are added in order. Otherwise an item is a part of the channels, and the other tensor's tiles are
// transformed for each part again. Tiles are taken in blocks, and every sum runs over a block's
// tiles from zero before it is added to the blocks before it: chunks and blocks are cut by shape
// alone and parts change no sum, so that results are the same for any number of threads.
#include <vector>

#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"
#include "views.h"
#include "winograd_axis.h"

namespace convext {
namespace {

template <class T>
class WinogradWgradPass {
 public:
  WinogradWgradPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        shape_(winograd_shape(plan)),
        transforms_(transforms_of(kernels_, plan)),
        points_(shape_.points * shape_.points),
        filters_(shape_.filters * shape_.filters),
        mr_(plan.kernel->mr),
        nr_(plan.kernel->nr),
        row_unit_(kernels_.lanes),
        splits_(plan.splits),
        row_chunk_(plan.output_block),
        block_(plan.pixel_block),
        x_(t.input),
        grad_(t.output),
        weight_(t.weight),
        rows_(axis_tiles(forward_map_h(p_), shape_, p_.dilation_h, p_.pad_top, false)),
        columns_(axis_tiles(forward_map_w(p_), shape_, p_.dilation_w, p_.pad_left, false)) {
    tiles_ = p_.N * static_cast<std::int64_t>(rows_.size() * columns_.size());
  }

  void run(const Threads& threads) {
    if (splits_ > 1) {
      const std::int64_t sum_ld = round_up(p_.C, nr_), copy = filters_ * sum_plane(sum_ld);
      T* sums = scratch<T>(Slot::kSums, splits_ * copy);
      threads.run(splits_, [&](std::int64_t begin, std::int64_t end) {
        Worker worker(*this, p_.C, p_.K);
        for (std::int64_t split = begin; split < end; ++split) {
          worker.sum(split, 0, p_.K, sums + split * copy);
        }
      });
      threads.run(p_.K, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) {
          add_copies(sums + k * sum_ld, copy, sum_ld);
          finish(sums + k * sum_ld, sum_ld, k, 0, p_.C);
        }
      });
      return;
    }
    const auto [lane_parts, row_parts] = parts(threads.count);
    const std::int64_t lane_units = ceil_div(p_.C, nr_), row_units = ceil_div(p_.K, row_unit_);
    threads.run(lane_parts * row_parts, [&, lane_parts = lane_parts, row_parts = row_parts](
                                            std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t l = item / row_parts, r = item % row_parts;
        const std::int64_t c0 = lane_units * l / lane_parts * nr_;
        const std::int64_t c1 = least(lane_units * (l + 1) / lane_parts * nr_, p_.C);
        const std::int64_t k0 = row_units * r / row_parts * row_unit_;
        const std::int64_t k1 = least(row_units * (r + 1) / row_parts * row_unit_, p_.K);
        Worker(*this, c1 - c0, least(row_chunk_, k1 - k0)).channels(c0, k0, k1);
      }
    });
  }

 private:
  static constexpr std::int64_t kPlanePadding = 16;

  // Planes of a point do not lie powers of two apart, nor long rows of one.
  static std::int64_t padded(std::int64_t row, std::int64_t by) {
    constexpr std::int64_t kLong = 64;
    return row >= kLong ? row + by : row;
  }
  std::int64_t sum_plane(std::int64_t sum_ld) const { return row_chunk_ * sum_ld + kPlanePadding; }

  struct Parts {
    std::int64_t lanes, rows;
  };
  // Of the input's and of the output's channels, as many as there are threads: so that the least is
  // transformed more than once.
  Parts parts(std::int64_t threads) const {
    const std::int64_t lane_units = ceil_div(p_.C, nr_), row_units = ceil_div(p_.K, row_unit_);
    Parts best{1, 1};
    std::int64_t least_work = 0;
    for (std::int64_t lanes = 1; lanes <= threads && lanes <= lane_units; ++lanes) {
      const std::int64_t rows = least(threads / lanes, row_units);
      // The share of the products, in transforms' terms, and the transforms of the largest part.
      const std::int64_t c = ceil_div(lane_units, lanes) * nr_;
      const std::int64_t k = ceil_div(row_units, rows) * row_unit_;
      const std::int64_t work = c * k / 8 + c + k;
      if (least_work > 0 && work >= least_work) continue;
      least_work = work;
      best = {lanes, rows};
    }
    return best;
  }

  // What one item transforms and sums.
  class Worker {
   public:
    // `channels` of the input, `outputs` of the gradient at once.
    Worker(const WinogradWgradPass& pass, std::int64_t channels, std::int64_t outputs)
        : pass_(pass), channels_(channels) {
      input_ld_ = padded(round_up(channels, pass.nr_), pass.nr_);
      grad_ld_ = padded(round_up(outputs, pass.kernels_.lanes), pass.kernels_.lanes);
      sum_ld_ = round_up(channels, pass.nr_);
      input_plane_ = pass.block_ * input_ld_ + kPlanePadding;
      grad_plane_ = pass.block_ * grad_ld_ + kPlanePadding;
      v_ = scratch<T>(Slot::kPoints, pass.points_ * input_plane_);
      g_ = scratch<T>(Slot::kGrad, pass.points_ * grad_plane_);
    }

    // The gradient of all weights of channels [c0, c0 + channels) and outputs [k0, k1).
    void channels(std::int64_t c0, std::int64_t k0, std::int64_t k1) {
      c0_ = c0;
      T* sums = scratch<T>(Slot::kSums, pass_.filters_ * pass_.sum_plane(sum_ld_));
      for (std::int64_t k = k0; k < k1; k += pass_.row_chunk_) {
        const std::int64_t count = least(k1 - k, pass_.row_chunk_);
        sum(0, k, count, sums);
        for (std::int64_t i = 0; i < count; ++i) {
          pass_.finish(sums + i * sum_ld_, sum_ld_, k + i, c0, channels_);
        }
      }
    }

    // sums[filter][k][c] over the chunk's tiles, of outputs [k0, k0 + count).
    void sum(std::int64_t split, std::int64_t k0, std::int64_t count, T* sums) {
      const auto across = static_cast<std::int64_t>(pass_.columns_.size());
      const std::int64_t unit = pass_.block_ % across == 0 ? across : 1;
      const std::int64_t units = pass_.tiles_ / unit;
      const std::int64_t first = units * split / pass_.splits_;
      const std::int64_t length = units * (split + 1) / pass_.splits_ - first;
      const std::int64_t blocks = ceil_div(length * unit, pass_.block_);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t t0 = (first + length * b / blocks) * unit;
        const std::int64_t t1 = (first + length * (b + 1) / blocks) * unit;
        // One block of tiles: the input is already there for later outputs.
        if (t0 != transformed_) transform_input(t0, t1);
        transformed_ = t0;
        transform_grad(t0, t1, k0, count);
        multiply(t1 - t0, count, b > 0, sums);
      }
    }

   private:
    static std::vector<std::int64_t> every_column(std::int64_t width) {
      std::vector<std::int64_t> columns(width);
      for (std::int64_t i = 0; i < width; ++i) columns[i] = i;
      return columns;
    }

    T* zeros(std::int64_t count) const {
      T* zero = scratch<T>(Slot::kZeros, count);
      for (std::int64_t i = 0; i < count; ++i) zero[i] = 0;
      return zero;
    }

    // Tiles [t0, t1): v_[point][tile][channel].
    void transform_input(std::int64_t t0, std::int64_t t1) {
      const int side = pass_.shape_.inputs;
      transform(pass_.x_, c0_, channels_, t0, t1, &AxisTile::source, side, pass_.p_.W, v_,
                input_ld_, input_plane_, pass_.transforms_.input);
    }

    // The same of the gradient's channels [k0, k0 + count): g_[point][tile][channel].
    void transform_grad(std::int64_t t0, std::int64_t t1, std::int64_t k0, std::int64_t count) {
      const int m = pass_.shape_.outputs;
      transform(pass_.grad_, k0, count, t0, t1, &AxisTile::destination, m, pass_.p_.Q, g_, grad_ld_,
                grad_plane_, pass_.transforms_.grad);
    }

    void transform(TensorView view, std::int64_t channel0, std::int64_t count, std::int64_t t0,
                   std::int64_t t1, const std::int64_t (AxisTile::*indices)[kMostWinogradSide],
                   int side, std::int64_t width, T* points, std::int64_t ld, std::int64_t plane,
                   void (*kernel)(const WinogradInput<T>&)) {
      view.data = element(view, 0, channel0, 0, 0);
      view.size[1] = count;
      RowCache<T> cache(pass_.kernels_, view, count, channels_in_place<T>(view, count), side,
                        every_column(width));
      const T* zero = zeros(count);
      const T* x[kMostWinogradSide * kMostWinogradSide];
      const T* row[kMostWinogradSide] = {};
      WinogradInput<T> tile;
      tile.x = x;
      tile.channels = count;
      tile.point_stride = plane;
      const auto across = static_cast<std::int64_t>(pass_.columns_.size());
      const auto down = static_cast<std::int64_t>(pass_.rows_.size());
      for (std::int64_t t = t0; t < t1; ++t) {
        if (t == t0 || t % across == 0) {
          cache.begin_item(t / across / down);
          const std::int64_t* source = pass_.rows_[t / across % down].*indices;
          for (int i = 0; i < side; ++i) row[i] = source[i] < 0 ? nullptr : cache.row(source[i]);
        }
        const std::int64_t* columns = pass_.columns_[t % across].*indices;
        for (int i = 0; i < side; ++i) {
          for (int j = 0; j < side; ++j) {
            const bool exists = row[i] != nullptr && columns[j] >= 0;
            x[i * side + j] = exists ? row[i] + columns[j] * cache.pixel_stride() : zero;
          }
        }
        tile.v = points + (t - t0) * ld;
        kernel(tile);
      }
    }

    // sums[filter][k][c] = or += the block's sum over its tiles.
    void multiply(std::int64_t tiles, std::int64_t count, bool add, T* sums) {
      std::vector<PixelRun<T>> runs;
      OuterTile<T> tile;
      tile.grad_stride = grad_ld_;
      tile.x_pixel_stride = input_ld_;
      tile.x_offset = 0;
      tile.sum_stride = sum_ld_;
      tile.add = add;
      tile.prefetch = static_cast<const char*>(pass_.x_.data);
      tile.prefetch_step = 0;
      const std::int64_t lanes = pass_.kernels_.lanes, plane = pass_.sum_plane(sum_ld_);
      for (std::int64_t filter = 0; filter < pass_.filters_; ++filter) {
        for (std::int64_t c = 0; c < channels_; c += pass_.nr_) {
          const int vectors = static_cast<int>(ceil_div(least(channels_ - c, pass_.nr_), lanes));
          runs.clear();
          each_point(pass_.shape_, filter, [&](std::int64_t point) {
            runs.push_back({g_ + point * grad_plane_, v_ + point * input_plane_ + c, tiles});
          });
          tile.runs = runs.data();
          tile.run_count = static_cast<std::int64_t>(runs.size());
          for (std::int64_t k = 0; k < count; k += pass_.mr_) {
            tile.grad_offset = k;
            tile.sum = sums + filter * plane + k * sum_ld_ + c;
            pass_.kernels_.outer_pixels(tile, static_cast<int>(least(count - k, pass_.mr_)),
                                        vectors);
          }
        }
      }
    }

    const WinogradWgradPass& pass_;
    std::int64_t channels_, c0_ = 0;
    std::int64_t input_ld_ = 0, grad_ld_ = 0, sum_ld_ = 0;
    std::int64_t input_plane_ = 0, grad_plane_ = 0;
    std::int64_t transformed_ = -1;  // the first tile of those that v_ holds
    T *v_ = nullptr, *g_ = nullptr;
  };

  // sums += the other chunks' copies, of one output channel.
  void add_copies(T* sums, std::int64_t copy, std::int64_t sum_ld) const {
    for (std::int64_t filter = 0; filter < filters_; ++filter) {
      T* sum = sums + filter * sum_plane(sum_ld);
      for (std::int64_t split = 1; split < splits_; ++split) {
        const T* next = sum + split * copy;
        for (std::int64_t c = 0; c < p_.C; ++c) sum[c] += next[c];
      }
    }
  }

  // The gradient of output channel k's weights, for `count` input channels from c0 on.
  void finish(const T* sums, std::int64_t sum_ld, std::int64_t k, std::int64_t c0,
              std::int64_t count) const {
    T* taps = scratch<T>(Slot::kTile, 9 * sum_ld);
    transforms_.grad_filter(
        {sums, sum_plane(sum_ld), round_up(count, kernels_.lanes), taps, sum_ld});
    const TensorView& w = weight_;
    if (w.stride[2] == 3 * w.stride[3]) {
      kernels_.unpack(taps, sum_ld, 9, count,
                      {element(w, k, c0, 0, 0), w.dtype, w.stride[3], w.stride[1]});
      return;
    }
    for (int r = 0; r < 3; ++r) {
      kernels_.unpack(taps + r * 3 * sum_ld, sum_ld, 3, count,
                      {element(w, k, c0, r, 0), w.dtype, w.stride[3], w.stride[1]});
    }
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  WinogradShape shape_;
  const WinogradKernels<T>& transforms_;
  std::int64_t points_, filters_, mr_, nr_;
  std::int64_t row_unit_;   // parts of whole vectors: a channel is in one for any number of parts
  std::int64_t splits_;     // chunks of the tiles
  std::int64_t row_chunk_;  // output channels done at once
  std::int64_t block_;      // most tiles of a block
  TensorView x_, grad_, weight_;
  std::vector<AxisTile> rows_, columns_;
  std::int64_t tiles_ = 0;
};

}  // namespace

void run_winograd_wgrad(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    WinogradWgradPass<double>(plan, tensors).run(threads);
  } else {
    WinogradWgradPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
