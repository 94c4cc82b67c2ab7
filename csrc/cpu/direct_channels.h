// fprop_direct, dgrad_direct: convolution as a GEMM that slides over packed rows
//
// computes  y[pixel][lane] = bias[lane] + sum_{entry, i} x[entry][pixel*step + i] * w[entry][i][lane]
//           GEMM view: gemm_m = pixels, gemm_n = lanes (destination channels), gemm_k = entries x
//           run. An entry is a kernel row whose taps' sources are adjacent, so that i runs over
//           taps and source channels at once, or else a single tap.
// owns      one call: mr pixels of one destination row x vectors*lanes channels, summed completely
//           in the order of the entries and then of i, in chains (chains.h), whatever mr.
// budget    mr*vectors accumulators + vectors weights + 1 broadcast: 6*4+4+1 = 29 of 32 registers
//           (AVX-512), 6*2+2+1 = 15 of 16 (AVX2, baseline); mr pointers that differ by one step.
// needs     source rows packed with their padding in place, or rows without padding; packed
//           weights, zero-padded to nr lanes.
// bound by  FMA: mr*vectors of them for mr+vectors loads a step.
// step      from gemm_indirect: one pointer an entry and row instead of one for each pixel, so that
//           a destination row of a few channels is not spent on building tables.
#pragma once

#include "chains.h"
#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// Cut: the sum is longer than a chain. Short ones are spared the loops over chains.
template <class T, int Mr, int Vectors, int PanelVectors, bool Cut>
__attribute__((noinline)) void direct_channels_tile(const DirectTile<T>& tile) {
  constexpr int kNr = PanelVectors * kLanes<T>;
  const std::int64_t step = tile.pixel_step, run = tile.run;
  Vec<T> sum[Mr][Vectors];
  SumsAside<T, Mr, Vectors> aside;
  aside.clear(sum);

  // Main loop.
  const std::int64_t entries_of_chain = Cut ? run_count_of_chain(run) : tile.entries;
  for (std::int64_t e = 0; e < tile.entries;) {
    if (Cut && e > 0) aside.put(sum);
    const std::int64_t last =
        Cut && e + entries_of_chain < tile.entries ? e + entries_of_chain : tile.entries;
    for (; e < last; ++e) {
      const T* x[Mr];
      x[0] = tile.x[e] + tile.x_offset;
#pragma GCC unroll 8
      for (int m = 1; m < Mr; ++m) x[m] = x[m - 1] + step;
      const T* w = tile.panel + tile.weight[e];
      for (std::int64_t i = 0; i < run;) {
        if (Cut && i > 0) aside.put(sum);
        const std::int64_t end = Cut ? i + next_chain(run - i) : run;
#pragma GCC unroll 1
        for (; i < end; ++i, w += kNr) {
          Vec<T> weight[Vectors];
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * kLanes<T>);
#pragma GCC unroll 8
          for (int m = 0; m < Mr; ++m) {
            const Vec<T> pixel = broadcast(x[m][i]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) sum[m][v] += pixel * weight[v];
          }
        }
      }
    }
  }
  aside.finish(sum);

  // Epilogue.
  T* y = tile.y;
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m, y += tile.y_step) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      store(y + v * kLanes<T>, sum[m][v] + load(tile.bias + v * kLanes<T>));
    }
  }
}

template <class T, int Mr, int Vectors, int PanelVectors>
CONVEXT_INLINE void direct_channels(const DirectTile<T>& tile) {
  if (tile.entries * tile.run < 2 * kChainTerms) {
    direct_channels_tile<T, Mr, Vectors, PanelVectors, false>(tile);
  } else {
    direct_channels_tile<T, Mr, Vectors, PanelVectors, true>(tile);
  }
}

// Chooses the instance for mr rows and `vectors` vectors.
template <class T, int Mr, int Vectors, int PanelVectors = Vectors>
void direct_channels_dispatch(const DirectTile<T>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr)
      return direct_channels_dispatch<T, Mr - 1, Vectors, PanelVectors>(tile, mr, vectors);
  }
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) {
      return direct_channels_dispatch<T, Mr, Vectors - 1, PanelVectors>(tile, mr, vectors);
    }
  }
  direct_channels<T, Mr, Vectors, PanelVectors>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
