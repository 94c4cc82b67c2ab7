// fprop_depthwise, dgrad_depthwise: one channel a group, through the pointer table
//
// computes  y[pixel][c] = bias[c] + sum_{entry} x[entry][pixel][c] * w[tap(entry)][c]
//           No GEMM: nothing is summed over channels, so lanes are channels throughout.
// owns      one call: mr pixels, every channel, two vectors of channels at a time; summed in the
//           order of the entries, whatever mr is.
// budget    mr*2 accumulators + 2 weights + 1 input = 15 registers at mr = 6.
// needs     channels contiguous in x and y. The last channels % lanes go through scalar code with
//           the same order of sums, so that nothing beyond a pixel's channels is read.
// bound by  loads: one of x for each FMA. A pointer serves two vectors and is in cache for the next.
// step      from gemm_indirect: the sum over channels is gone, so each input is loaded, not broadcast.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int Vectors>
CONVEXT_INLINE void depthwise_block(const DepthwiseTile<T>& tile, std::int64_t c) {
  Vec<T> sum[Mr][Vectors];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[m][v] = Vec<T>{};
  }
  const T* const* x = tile.x;
#pragma GCC unroll 1
  for (std::int64_t e = 0; e < tile.entries; ++e, x += Mr) {
    const T* w = tile.weight + tile.tap[e] * tile.channels + c;
    Vec<T> weight[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * kLanes<T>);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[m][v] += load(x[m] + c + v * kLanes<T>) * weight[v];
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const Vec<T> bias = load(tile.bias + c + v * kLanes<T>);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) store(tile.y[m] + c + v * kLanes<T>, sum[m][v] + bias);
  }
}

template <class T, int Mr, int Vectors>
__attribute__((noinline)) void depthwise_indirect(const DepthwiseTile<T>& tile) {
  std::int64_t c = 0;
  for (; c + Vectors * kLanes<T> <= tile.channels; c += Vectors * kLanes<T>) {
    depthwise_block<T, Mr, Vectors>(tile, c);
  }
  for (; c + kLanes<T> <= tile.channels; c += kLanes<T>) depthwise_block<T, Mr, 1>(tile, c);
  // Residue: the last channels, one by one.
  for (; c < tile.channels; ++c) {
    for (int m = 0; m < Mr; ++m) {
      T sum = 0;
      for (std::int64_t e = 0; e < tile.entries; ++e) {
        sum += tile.x[e * Mr + m][c] * tile.weight[tile.tap[e] * tile.channels + c];
      }
      tile.y[m][c] = sum + tile.bias[c];
    }
  }
}

// Chooses the instance for mr pixels.
template <class T, int Mr, int Vectors>
void depthwise_indirect_dispatch(const DepthwiseTile<T>& tile, int mr) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return depthwise_indirect_dispatch<T, Mr - 1, Vectors>(tile, mr);
  }
  depthwise_indirect<T, Mr, Vectors>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
