// wgrad_outer: weight grad as a sum of outer products
//
// computes  sum[k][l] += sum_{pixel} grad[k][pixel] * x[pixel][l], for one tap; lanes l are input
//           channels, or (tap of the row, input channel) pairs where channels are few
//           GEMM view: gemm_m = output channels, gemm_n = lanes, gemm_k = output pixels.
// owns      one call: mr output channels x vectors*lanes of a vector, over a block of a few
//           hundred pixels. The block is summed from zero in registers and added to `sum` once, so
//           long sums are sums of short sums.
// budget    mr*vectors accumulators + vectors inputs + 1 broadcast: 29 of 32 registers (AVX-512),
//           15 of 16 (AVX2, baseline).
// needs     x readable for whole vectors; the gradient of one channel contiguous over a run's pixels
//           (as NCHW has it; channels_last is transposed while packing).
// bound by  FMA: mr*vectors of them for mr+vectors loads a pixel.
// step      from gemm_indirect: pixels are what is summed over, so they come as runs along a row
//           and only the run's start depends on the tap.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int Vectors>
__attribute__((noinline)) void wgrad_outer(const OuterTile<T>& tile) {
  Vec<T> sum[Mr][Vectors];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[m][v] = Vec<T>{};
  }

  // Main loop.
  const std::int64_t channel_stride = tile.grad_channel_stride;
  for (std::int64_t r = 0; r < tile.run_count; ++r) {
    const T* grad = tile.runs[r].grad;
    const T* x = tile.runs[r].x;
    const std::int64_t pixels = tile.runs[r].pixels;
#pragma GCC unroll 1
    for (std::int64_t i = 0; i < pixels; ++i) {
      Vec<T> input[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) input[v] = load(x + v * kLanes<T>);
#pragma GCC unroll 8
      for (int m = 0; m < Mr; ++m) {
        const Vec<T> g = broadcast(grad[m * channel_stride + i]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[m][v] += g * input[v];
      }
      x += tile.x_pixel_stride;
    }
  }

  // Epilogue.
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      T* total = tile.sum + m * tile.sum_stride + v * kLanes<T>;
      store(total, tile.add ? load(total) + sum[m][v] : sum[m][v]);
    }
  }
}

// Chooses the instance for mr output channels and `vectors` vectors.
template <class T, int Mr, int Vectors>
void wgrad_outer_dispatch(const OuterTile<T>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return wgrad_outer_dispatch<T, Mr - 1, Vectors>(tile, mr, vectors);
  }
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) return wgrad_outer_dispatch<T, Mr, Vectors - 1>(tile, mr, vectors);
  }
  wgrad_outer<T, Mr, Vectors>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
