// wgrad_depthwise: weight grad of one-channel groups
//
// computes  sum[tap][c] += sum_{pixel} grad[pixel][c] * x[tap][pixel][c], for taps of one kernel row
// owns      one call: up to mr taps, every channel, over one run of output pixels; the run is summed
//           from zero and added to `sum` once.
// budget    mr accumulators + 1 gradient + 1 input = 10 of 16 registers at mr = 8.
// needs     grad and x packed with channels contiguous and padded with zeros to whole vectors.
// bound by  loads: mr+1 for mr FMAs.
// step      from wgrad_outer: no product of channels with channels, so the gradient is loaded once
//           for all taps of a row instead of once a tile.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Taps>
__attribute__((noinline)) void wgrad_depthwise(const DepthwiseOuterTile<T>& tile) {
  for (std::int64_t c = 0; c < tile.channels; c += kLanes<T>) {
    Vec<T> sum[Taps];
    const T* x[Taps];
#pragma GCC unroll 8
    for (int t = 0; t < Taps; ++t) {
      sum[t] = Vec<T>{};
      x[t] = tile.x[t] + c;
    }
    const T* grad = tile.grad + c;
    std::int64_t offset = 0;
#pragma GCC unroll 1
    for (std::int64_t i = tile.pixels; i > 0; --i) {
      const Vec<T> g = load(grad);
#pragma GCC unroll 8
      for (int t = 0; t < Taps; ++t) sum[t] += g * load(x[t] + offset);
      grad += tile.grad_pixel_stride;
      offset += tile.x_pixel_stride;
    }
#pragma GCC unroll 8
    for (int t = 0; t < Taps; ++t) {
      T* total = tile.sum + t * tile.sum_tap_stride + c;
      store(total, load(total) + sum[t]);
    }
  }
}

// Chooses the instance for this many taps.
template <class T, int Mr>
void wgrad_depthwise_dispatch(const DepthwiseOuterTile<T>& tile, int taps) {
  if constexpr (Mr > 1) {
    if (taps < Mr) return wgrad_depthwise_dispatch<T, Mr - 1>(tile, taps);
  }
  wgrad_depthwise<T, Mr>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
