// fprop_indirect_pairs, dgrad_indirect_pairs: gemm_indirect.h over pairs of bfloat16
//
// computes  what gemm_indirect does, of bfloat16 rows and weights, in float32: each step adds two
//           terms, d and d + 1, the second first (dot_pairs in simd.h). The instruction takes
//           subnormal values for zeros.
// owns      one call: mr pixels x vectors*lanes channels, summed completely, in the order of the
//           entries and then of the pairs, in chains (chains.h) that are cut between pairs. Neither
//           depends on mr, so a pixel gets the same bits in whichever tile it falls.
// budget    mr*vectors accumulators + vectors weights + 1 broadcast: 6*4+4+1 = 29 of 32 registers;
//           mr+2 pointers.
// needs     weights packed [tap][depth / 2][nr][2] with zeros for lanes up to nr and for what an
//           odd depth lacks; of x nothing beyond `depth`: the last one of an odd depth is read
//           alone.
// bound by  dot products: mr*vectors of them for mr+vectors loads a step.
// step      from gemm_indirect: rows stay as they are stored, so channels_last is not converted,
//           and an instruction multiplies twice as many terms. Not measured on any machine yet.
#pragma once

#include "chains.h"
#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// sum[m] += pair(m) * weights, for pair(m) two neighbouring values of row m.
template <int Mr, int Vectors, class Pair>
CONVEXT_INLINE void add_pairs(vfloat (&sum)[Mr][Vectors], const BFloat16* w, const Pair& pair) {
  vpairs weight[Vectors];
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    std::memcpy(&weight[v], w + 2 * v * kLanes<float>, sizeof weight[v]);
  }
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
    const vpairs x = vpairs{} + pair(m);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[m][v] = dot_pairs(sum[m][v], x, weight[v]);
  }
}

template <int Mr, int Vectors, int PanelVectors>
__attribute__((noinline)) void gemm_pairs(const GemmTile<float, BFloat16>& tile) {
  constexpr int kStep = 2 * PanelVectors * kLanes<float>;  // of the panel, for a pair
  vfloat sum[Mr][Vectors];
  SumsAside<float, Mr, Vectors> aside;
  aside.clear(sum);

  // Main loop.
  const BFloat16* const* pointers = tile.x;
  std::int64_t next_tap = tile.chain_taps;
  const bool cut_inside = tile.depth >= 2 * kChainTerms;
  const std::int64_t tap_step = (tile.depth + 1) / 2 * kStep;
  for (std::int64_t e = 0; e < tile.entries; ++e, pointers += Mr) {
    const BFloat16* x[Mr];
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) x[m] = pointers[m] + tile.x_offset;
    const BFloat16* w = tile.panel + tile.tap[e] * tap_step;
    // Taps that no pixel of the tile meets have no entry, so chains go by taps, not by entries.
    if (tile.tap[e] >= next_tap || cut_inside) {
      aside.put(sum);
      next_tap = (tile.tap[e] / tile.chain_taps + 1) * tile.chain_taps;
    }
    static_assert(kChainTerms % 2 == 0, "chains are whole pairs");
    for (std::int64_t d = 0; d < tile.depth;) {
      if (d > 0) aside.put(sum);
      const std::int64_t end = d + next_chain(tile.depth - d);
#pragma GCC unroll 1
      for (; d + 2 <= end; d += 2, w += kStep) {
        add_pairs(sum, w, [&](int m) __attribute__((always_inline)) {
          std::uint32_t pair;
          std::memcpy(&pair, x[m] + d, sizeof pair);
          return pair;
        });
      }
      if (d < end) {
        add_pairs(sum, w, [&](int m) __attribute__((always_inline)) {
          return static_cast<std::uint32_t>(x[m][d].bits);
        });
        ++d;
      }
    }
  }
  aside.finish(sum);

  // Epilogue.
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const vfloat bias = load(tile.bias + v * kLanes<float>);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
      store(tile.y[m] + tile.y_offset + v * kLanes<float>, sum[m][v] + bias);
    }
  }
}

// Chooses the instance for mr rows and `vectors` vectors.
template <int Mr, int Vectors, int PanelVectors = Vectors>
void gemm_pairs_dispatch(const GemmTile<float, BFloat16>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return gemm_pairs_dispatch<Mr - 1, Vectors, PanelVectors>(tile, mr, vectors);
  }
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) {
      return gemm_pairs_dispatch<Mr, Vectors - 1, PanelVectors>(tile, mr, vectors);
    }
  }
  gemm_pairs<Mr, Vectors, PanelVectors>(tile);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
