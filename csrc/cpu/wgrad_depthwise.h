// wgrad_depthwise: weight grad of one-channel groups
//
// computes  sum[r][s][c] += sum_{run} sum_{pixel} grad[pixel][c] * x[r][pixel*x_step + s*tap_step][c]
// owns      one call: up to three kernel rows, up to eight taps of each, ten sums in all; a range
//           of channels, over runs of output pixels; these are summed from zero and added to `sum`
//           once.
// budget    10 accumulators + 1 gradient + 1 input = 12 of 16 registers.
// needs     channels contiguous, at least one vector of them. The last vector of channels overlaps
//           its neighbour in x and grad, and has a place of its own in `sum`.
// bound by  loads: n+1 for n FMAs.
// step      from wgrad_outer: no product of channels with channels, so the gradient is loaded once
//           for the taps of several kernel rows, which are enough sums to hide an FMA's latency.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Rows, int Taps>
__attribute__((noinline)) void wgrad_depthwise(const DepthwiseOuterTile<T>& tile) {
  constexpr int L = kLanes<T>;
  const std::int64_t grad_step = tile.grad_step, x_step = tile.x_step, tap_step = tile.tap_step;
  for (std::int64_t place = tile.first; place < tile.last; place += L) {
    const std::int64_t c = place + L <= tile.channels ? place : tile.channels - L;
    Vec<T> sum[Rows][Taps];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < Taps; ++s) sum[r][s] = Vec<T>{};
    }
    for (std::int64_t i = 0; i < tile.run_count; ++i) {
      const DepthwiseRun<T>& run = tile.runs[i];
      const T* grad = run.grad + c;
      const T* x[Rows];
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) x[r] = run.x[r] + c;
#pragma GCC unroll 1
      for (std::int64_t pixel = run.pixels; pixel > 0; --pixel) {
        const Vec<T> g = load(grad);
        grad += grad_step;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
          for (int s = 0; s < Taps; ++s) sum[r][s] += g * load(x[r] + s * tap_step);
          x[r] += x_step;
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < Taps; ++s) {
        T* total = tile.sum + r * tile.sum_row_stride + s * tile.sum_tap_stride + place;
        store(total, load(total) + sum[r][s]);
      }
    }
  }
}

template <class T, int Rows, int Taps>
void wgrad_depthwise_taps(const DepthwiseOuterTile<T>& tile, int taps) {
  if constexpr (Taps > 1) {
    if (taps < Taps) return wgrad_depthwise_taps<T, Rows, Taps - 1>(tile, taps);
  }
  wgrad_depthwise<T, Rows, Taps>(tile);
}

// Chooses the instance: one row of up to eight taps, two of up to five, or three of up to three.
template <class T, int Mr>
void wgrad_depthwise_dispatch(const DepthwiseOuterTile<T>& tile, int rows, int taps) {
  if (rows == 3) return wgrad_depthwise_taps<T, 3, 3>(tile, taps);
  if (rows == 2) return wgrad_depthwise_taps<T, 2, 5>(tile, taps);
  wgrad_depthwise_taps<T, 1, Mr>(tile, taps);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
