// Drives weight grad of 3 x 3 kernels with stride 1 or 2 by Winograd's minimal filtering,
// transposed: tiles of the input and of the output gradient are transformed, multiplied and summed
// over tiles for each point (those that share a filter together), and the sums are transformed to
// the weight's gradient (winograd_wgrad.h).
//
// Tiles are taken in blocks, cut by shape alone. Threads share a block's tiles while transforming
// and its points while multiplying, and every sum runs over a block's tiles from zero before it is
// added to the blocks before it: sums of short sums, the same for any number of threads. A weight
// whose sums are large is done by parts of the output channels.
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
        row_chunk_(plan.output_block),
        block_(plan.pixel_block),
        x_(t.input),
        grad_(t.output),
        weight_(t.weight),
        rows_(axis_tiles(forward_map_h(p_), shape_, p_.dilation_h, p_.pad_top, false)),
        columns_(axis_tiles(forward_map_w(p_), shape_, p_.dilation_w, p_.pad_left, false)) {
    tiles_ = p_.N * static_cast<std::int64_t>(rows_.size() * columns_.size());
    const std::int64_t lanes = kernels_.lanes;
    // Long rows of points, and the planes of a point, do not lie powers of two apart.
    constexpr std::int64_t kLong = 64;
    input_ld_ = round_up(p_.C, nr_);
    if (input_ld_ >= kLong) input_ld_ += nr_;
    grad_ld_ = round_up(row_chunk_, lanes);
    if (grad_ld_ >= kLong) grad_ld_ += lanes;
    sum_ld_ = round_up(p_.C, nr_);
    input_plane_ = block_ * input_ld_ + kPlanePadding;
    grad_plane_ = block_ * grad_ld_ + kPlanePadding;
    sum_plane_ = row_chunk_ * sum_ld_ + kPlanePadding;
  }

  void run(const Threads& threads) {
    v_ = scratch<T>(Slot::kPoints, points_ * input_plane_);
    g_ = scratch<T>(Slot::kGrad, points_ * grad_plane_);
    d_ = scratch<T>(Slot::kSums, filters_ * sum_plane_);
    const auto across = static_cast<std::int64_t>(columns_.size());
    const std::int64_t unit = block_ % across == 0 ? across : 1, units = tiles_ / unit;
    const std::int64_t blocks = ceil_div(tiles_, block_);
    for (std::int64_t k0 = 0; k0 < p_.K; k0 += row_chunk_) {
      const std::int64_t count = p_.K - k0 < row_chunk_ ? p_.K - k0 : row_chunk_;
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t t0 = units * b / blocks * unit, t1 = units * (b + 1) / blocks * unit;
        // One block: the input is already there for later channels.
        transform(threads, t0, t1, k0, count, blocks > 1 || k0 == 0);
        multiply(threads, t1 - t0, count, b > 0);
      }
      threads.run(count, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t k = begin; k < end; ++k) finish(k0, k);
      });
    }
  }

 private:
  static constexpr std::int64_t kPlanePadding = 16;
  static constexpr std::int64_t kItemTiles = 8;  // of one item of transforming

  void transform(const Threads& threads, std::int64_t t0, std::int64_t t1, std::int64_t k0,
                 std::int64_t count, bool input) {
    const std::int64_t items = ceil_div(t1 - t0, kItemTiles);
    threads.run(items, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t last = t0 + end * kItemTiles < t1 ? t0 + end * kItemTiles : t1;
      if (input) transform_input(t0, t0 + begin * kItemTiles, last);
      transform_grad(t0, t0 + begin * kItemTiles, last, k0, count);
    });
  }

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

  // Tiles [begin, end) of the block that starts at tile t0: v_[point][tile][channel].
  void transform_input(std::int64_t t0, std::int64_t begin, std::int64_t end) {
    const int side = shape_.inputs;
    RowCache<T> cache(kernels_, x_, p_.C, channels_in_place<T>(x_, p_.C), side, every_column(p_.W));
    const T* zero = zeros(p_.C);
    const T* x[kMostWinogradSide * kMostWinogradSide];
    WinogradInput<T> tile;
    tile.x = x;
    tile.channels = p_.C;
    tile.point_stride = input_plane_;
    each_tile(begin, end, &AxisTile::source, side, &cache,
              [&](std::int64_t t, const T* const* row, const std::int64_t* columns) {
                for (int i = 0; i < side; ++i) {
                  for (int j = 0; j < side; ++j) {
                    const bool exists = row[i] != nullptr && columns[j] >= 0;
                    x[i * side + j] = exists ? row[i] + columns[j] * cache.pixel_stride() : zero;
                  }
                }
                tile.v = v_ + (t - t0) * input_ld_;
                transforms_.input(tile);
              });
  }

  // The same of the gradient's channels [k0, k0 + count): g_[point][tile][channel].
  void transform_grad(std::int64_t t0, std::int64_t begin, std::int64_t end, std::int64_t k0,
                      std::int64_t count) {
    const int m = shape_.outputs;
    TensorView view = grad_;
    view.data = element(grad_, 0, k0, 0, 0);
    view.size[1] = count;
    RowCache<T> cache(kernels_, view, count, channels_in_place<T>(grad_, count), m,
                      every_column(p_.Q));
    const T* zero = zeros(p_.C > count ? p_.C : count);
    const T* x[kMostWinogradSide * kMostWinogradSide];
    WinogradInput<T> tile;
    tile.x = x;
    tile.channels = count;
    tile.point_stride = grad_plane_;
    each_tile(begin, end, &AxisTile::destination, m, &cache,
              [&](std::int64_t t, const T* const* row, const std::int64_t* columns) {
                for (int i = 0; i < m; ++i) {
                  for (int j = 0; j < m; ++j) {
                    const bool exists = row[i] != nullptr && columns[j] >= 0;
                    x[i * m + j] = exists ? row[i] + columns[j] * cache.pixel_stride() : zero;
                  }
                }
                tile.v = g_ + (t - t0) * grad_ld_;
                transforms_.grad(tile);
              });
  }

  // Calls body(tile, rows of the tensor, columns) for each tile.
  template <class Body>
  void each_tile(std::int64_t begin, std::int64_t end,
                 const std::int64_t (AxisTile::*indices)[kMostWinogradSide], int side,
                 RowCache<T>* cache, const Body& body) {
    const auto across = static_cast<std::int64_t>(columns_.size());
    const auto down = static_cast<std::int64_t>(rows_.size());
    const T* row[kMostWinogradSide] = {};
    for (std::int64_t t = begin; t < end; ++t) {
      if (t == begin || t % across == 0) {
        cache->begin_item(t / across / down);
        const std::int64_t* source = rows_[t / across % down].*indices;
        for (int i = 0; i < side; ++i) row[i] = source[i] < 0 ? nullptr : cache->row(source[i]);
      }
      body(t, row, columns_[t % across].*indices);
    }
  }

  // d_[filter][k][c] = or += the block's sum over its tiles.
  void multiply(const Threads& threads, std::int64_t tiles, std::int64_t count, bool add) {
    const std::int64_t lane_blocks = ceil_div(p_.C, nr_);
    threads.run(filters_ * lane_blocks, [&](std::int64_t begin, std::int64_t end) {
      std::vector<PixelRun<T>> runs;
      OuterTile<T> tile;
      tile.grad_stride = grad_ld_;
      tile.x_pixel_stride = input_ld_;
      tile.x_offset = 0;
      tile.sum_stride = sum_ld_;
      tile.add = add;
      tile.prefetch = static_cast<const char*>(x_.data);
      tile.prefetch_step = 0;
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t filter = item / lane_blocks, c = item % lane_blocks * nr_;
        const std::int64_t left = p_.C - c;
        const int vectors =
            static_cast<int>(ceil_div(left < nr_ ? left : nr_, std::int64_t{kernels_.lanes}));
        runs.clear();
        each_point(shape_, filter, [&](std::int64_t point) {
          runs.push_back({g_ + point * grad_plane_, v_ + point * input_plane_ + c, tiles});
        });
        tile.runs = runs.data();
        tile.run_count = static_cast<std::int64_t>(runs.size());
        for (std::int64_t k = 0; k < count; k += mr_) {
          tile.grad_offset = k;
          tile.sum = d_ + filter * sum_plane_ + k * sum_ld_ + c;
          const std::int64_t rest = count - k;
          kernels_.outer_pixels(tile, static_cast<int>(rest < mr_ ? rest : mr_), vectors);
        }
      }
    });
  }

  // The gradient of output channel k0 + k's weights from its sums.
  void finish(std::int64_t k0, std::int64_t k) {
    T* taps = scratch<T>(Slot::kTile, 9 * sum_ld_);
    transforms_.grad_filter(
        {d_ + k * sum_ld_, sum_plane_, round_up(p_.C, kernels_.lanes), taps, sum_ld_});
    const TensorView& w = weight_;
    if (w.stride[2] == 3 * w.stride[3]) {
      kernels_.unpack(taps, sum_ld_, 9, p_.C,
                      {element(w, k0 + k, 0, 0, 0), w.dtype, w.stride[3], w.stride[1]});
      return;
    }
    for (int r = 0; r < 3; ++r) {
      kernels_.unpack(taps + r * 3 * sum_ld_, sum_ld_, 3, p_.C,
                      {element(w, k0 + k, 0, r, 0), w.dtype, w.stride[3], w.stride[1]});
    }
  }

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  WinogradShape shape_;
  const WinogradKernels<T>& transforms_;
  std::int64_t points_, filters_, mr_, nr_;
  std::int64_t row_chunk_;  // output channels done at once
  std::int64_t block_;      // most tiles of a block
  TensorView x_, grad_, weight_;
  std::vector<AxisTile> rows_, columns_;
  std::int64_t tiles_ = 0;
  std::int64_t input_ld_ = 0, grad_ld_ = 0, sum_ld_ = 0;
  std::int64_t input_plane_ = 0, grad_plane_ = 0, sum_plane_ = 0;
  T *v_ = nullptr, *g_ = nullptr, *d_ = nullptr;
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
