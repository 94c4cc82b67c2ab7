// fprop_indirect, dgrad_indirect, fprop_im2col: convolution as a GEMM over pointers
//
// computes  y[pixel][lane] = bias[lane] + sum_{entry, d} x[entry][pixel][d] * w[tap(entry)][d][lane]
//           GEMM view: gemm_m = pixels, gemm_n = lanes, gemm_k = entries x depth. In fprop a pixel
//           is an output pixel, d runs over input channels and lanes over output channels; in dgrad
//           a pixel is an input pixel and the two kinds of channel change places. fprop_im2col
//           (run_im2col.cpp) turns it round: rows are output channels, x their weights, lanes
//           pixels.
// owns      one call: mr pixels x vectors*lanes channels, summed completely, in the order of the
//           entries and then of d, in chains (chains.h). Neither depends on mr, nor the chains on
//           the entries that a tile lacks, so a pixel gets the same bits in whichever tile it
//           falls.
// budget    mr*vectors accumulators + vectors weights + 1 broadcast: 6*4+4+1 = 29 of 32 registers
//           (AVX-512), 6*2+2+1 = 15 of 16 (AVX2, baseline); mr+2 pointers.
// needs     packed weights, zero-padded to nr lanes; readable pointers for every pixel (padding
//           points at zeros, where an infinite weight makes NaN). Fewer than mr pixels or `vectors`
//           vectors: a narrower instance.
// bound by  FMA: mr*vectors of them for mr+vectors loads a step.
// step      from naive loops: pixels are reached through a table of pointers instead of index
//           arithmetic, so stride, dilation, every padding mode and every border cost nothing here.
#pragma once

#include "chains.h"
#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int Vectors, int PanelVectors>
__attribute__((noinline)) void gemm_indirect(const GemmTile<T>& tile) {
  constexpr int kNr = PanelVectors * kLanes<T>;
  Vec<T> sum[Mr][Vectors];
  SumsAside<T, Mr, Vectors> aside;
  aside.clear(sum);

  // Main loop.
  const T* const* pointers = tile.x;
  std::int64_t next_tap = tile.chain_taps;
  const bool cut_inside = tile.depth >= 2 * kChainTerms;
  for (std::int64_t e = 0; e < tile.entries; ++e, pointers += Mr) {
    const T* x[Mr];
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) x[m] = pointers[m] + tile.x_offset;
    const T* w = tile.panel + tile.tap[e] * tile.depth * kNr;
    // Taps that no pixel of the tile meets have no entry, so chains go by taps, not by entries.
    if (tile.tap[e] >= next_tap || cut_inside) {
      aside.put(sum);
      next_tap = (tile.tap[e] / tile.chain_taps + 1) * tile.chain_taps;
    }
    for (std::int64_t d = 0; d < tile.depth;) {
      if (d > 0) aside.put(sum);
      const std::int64_t end = d + next_chain(tile.depth - d);
#pragma GCC unroll 1
      for (; d < end; ++d, w += kNr) {
        Vec<T> weight[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * kLanes<T>);
#pragma GCC unroll 8
        for (int m = 0; m < Mr; ++m) {
          const Vec<T> pixel = broadcast(x[m][d]);
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[m][v] += pixel * weight[v];
        }
      }
    }
  }
  aside.finish(sum);

  // Epilogue.
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const Vec<T> lane_bias = tile.bias_by_row ? Vec<T>{} : load(tile.bias + v * kLanes<T>);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
      const Vec<T> bias = tile.bias_by_row ? broadcast(tile.bias[m]) : lane_bias;
      store(tile.y[m] + tile.y_offset + v * kLanes<T>, sum[m][v] + bias);
    }
  }
}

// Chooses the instance for mr rows and `vectors` vectors.
template <class T, int Mr, int Vectors, int PanelVectors = Vectors>
void gemm_indirect_dispatch(const GemmTile<T>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return gemm_indirect_dispatch<T, Mr - 1, Vectors, PanelVectors>(tile, mr, vectors);
  }
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) {
      return gemm_indirect_dispatch<T, Mr, Vectors - 1, PanelVectors>(tile, mr, vectors);
    }
  }
  gemm_indirect<T, Mr, Vectors, PanelVectors>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
