// fprop_direct_planes, dgrad_direct_planes: convolution as a GEMM whose lanes are columns of a
// plane
//
// computes  y[row][column] = bias[row] + sum_{entry, d} w[entry][d][row] * x[entry][d][column]
//           GEMM view: gemm_m = destination channels, gemm_n = columns of one destination row,
//           gemm_k = entries x depth. An entry is a tap, or a tap and source channel (depth 1).
// owns      one call: Mr channels x vectors*lanes neighbouring columns (of one class modulo the
//           step), summed completely in the order of the entries and then of d, in chains
//           (chains.h), whatever the tile.
// budget    Mr*vectors <= 6*kDirectPlanesVectors accumulators, so 3 channels take 4 vectors of
//           columns and 6 take 2 on AVX2: 12 + 4 + 1 or 12 + 2 + 1 registers (one weight is read
//           from memory).
// needs     source planes packed with their padding in place and the phases of the stride apart, so
//           that neighbouring columns' sources are neighbours; readable elements up to whole
//           vectors.
// bound by  FMA: Mr*vectors of them for Mr+vectors loads a step, the latter not aligned.
// step      from direct_channels: the operands change places. Few destination channels leave no
//           lane empty, and NCHW is transposed neither on the way in nor on the way out.
#pragma once

#include "chains.h"
#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

constexpr int planes_vectors(int budget, int mr) {
  return budget / mr < kMostPlaneVectors ? budget / mr : kMostPlaneVectors;
}

// Cut: the sum is longer than a chain. Short ones are spared the loops over chains.
template <class T, int Mr, int Vectors, bool Cut>
__attribute__((noinline)) void direct_planes_tile(const DirectPlaneTile<T>& tile) {
  const std::int64_t plane = tile.plane_stride, depth = tile.depth, row_step = tile.weight_step;
  Vec<T> sum[Mr][Vectors];
  SumsAside<T, Mr, Vectors> aside;
  aside.clear(sum);

  // Main loop.
  const std::int64_t entries_of_chain = Cut ? run_count_of_chain(depth) : tile.entries;
  for (std::int64_t e = 0; e < tile.entries;) {
    if (Cut && e > 0) aside.put(sum);
    const std::int64_t last =
        Cut && e + entries_of_chain < tile.entries ? e + entries_of_chain : tile.entries;
    for (; e < last; ++e) {
      const T* x = tile.x[e] + tile.x_offset;
      const T* w = tile.panel + tile.weight[e];
      for (std::int64_t d = 0; d < depth;) {
        if (Cut && d > 0) aside.put(sum);
        const std::int64_t end = Cut ? d + next_chain(depth - d) : depth;
#pragma GCC unroll 1
        for (; d < end; ++d, x += plane, w += row_step) {
          Vec<T> column[Vectors];
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) column[v] = load(x + v * kLanes<T>);
#pragma GCC unroll 8
          for (int m = 0; m < Mr; ++m) {
            const Vec<T> weight = broadcast(w[m]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) sum[m][v] += weight * column[v];
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
    const Vec<T> bias = broadcast(tile.bias[m]);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(y + v * kLanes<T>, sum[m][v] + bias);
  }
}

template <class T, int Mr, int Vectors>
CONVEXT_INLINE void direct_planes(const DirectPlaneTile<T>& tile) {
  if (tile.entries * tile.depth < 2 * kChainTerms) {
    direct_planes_tile<T, Mr, Vectors, false>(tile);
  } else {
    direct_planes_tile<T, Mr, Vectors, true>(tile);
  }
}

template <class T, int Mr, int Vectors>
void direct_planes_of_width(const DirectPlaneTile<T>& tile, int vectors) {
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) return direct_planes_of_width<T, Mr, Vectors - 1>(tile, vectors);
  }
  direct_planes<T, Mr, Vectors>(tile);
}

// Chooses the instance for mr channels and `vectors` vectors of columns, of which there are at most
// planes_vectors(Budget, mr).
template <class T, int Budget, int Mr>
void direct_planes_dispatch(const DirectPlaneTile<T>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return direct_planes_dispatch<T, Budget, Mr - 1>(tile, mr, vectors);
  }
  direct_planes_of_width<T, Mr, planes_vectors(Budget, Mr)>(tile, vectors);
}

// ---- phases --------------------------------------------------------------------------------------

template <class T, int First, int Step, int... Lane>
CONVEXT_INLINE Vec<T> pick_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, Lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (First + Step * Lane)...);
#else
  using Mask = typename MaskOf<T>::Type;
  return __builtin_shuffle(a, b, Mask{(First + Step * Lane)...});
#endif
}

template <class T, int First, int... Lane>
CONVEXT_INLINE Vec<T> alternate_lanes(Vec<T> a, Vec<T> b, std::integer_sequence<int, Lane...>) {
  constexpr int n = sizeof...(Lane);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (First + Lane / 2 + (Lane % 2) * n)...);
#else
  using Mask = typename MaskOf<T>::Type;
  return __builtin_shuffle(a, b, Mask{(First + Lane / 2 + (Lane % 2) * n)...});
#endif
}

// to[i % step][i / step] = from[i] for i < count, phases `pitch` apart.
template <class T>
void split_phases(const T* from, std::int64_t count, std::int64_t step, T* to, std::int64_t pitch) {
  constexpr int L = kLanes<T>;
  constexpr auto lanes = std::make_integer_sequence<int, L>{};
  std::int64_t i = 0;
  if (step == 2) {
    for (; i + 2 * L <= count; i += 2 * L) {
      const Vec<T> a = load(from + i), b = load(from + i + L);
      store<T>(to + i / 2, pick_lanes<T, 0, 2>(a, b, lanes));
      store<T>(to + pitch + i / 2, pick_lanes<T, 1, 2>(a, b, lanes));
    }
  }
  std::int64_t at = i / step;
  for (; i + step <= count; i += step, ++at) {
    for (std::int64_t phase = 0; phase < step; ++phase) to[phase * pitch + at] = from[i + phase];
  }
  for (std::int64_t phase = 0; i + phase < count; ++phase) to[phase * pitch + at] = from[i + phase];
}

// to[i] = from[i % step][i / step] for i < count.
template <class T>
void join_phases(const T* from, std::int64_t pitch, std::int64_t step, std::int64_t count, T* to) {
  constexpr int L = kLanes<T>;
  constexpr auto lanes = std::make_integer_sequence<int, L>{};
  std::int64_t i = 0;
  if (step == 2) {
    for (; i + 2 * L <= count; i += 2 * L) {
      const Vec<T> a = load(from + i / 2), b = load(from + pitch + i / 2);
      store<T>(to + i, alternate_lanes<T, 0>(a, b, lanes));
      store<T>(to + i + L, alternate_lanes<T, L / 2>(a, b, lanes));
    }
  }
  std::int64_t at = i / step;
  for (; i + step <= count; i += step, ++at) {
    for (std::int64_t phase = 0; phase < step; ++phase) to[i + phase] = from[phase * pitch + at];
  }
  for (std::int64_t phase = 0; i + phase < count; ++phase) to[i + phase] = from[phase * pitch + at];
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
