// fprop_pointwise, dgrad_pointwise, dgrad_axpy: a strip of a product of matrices
//
// computes  y[row][lane] = bias + sum_d a[row][d] * b[d][lane]
//           GEMM view: gemm_m = rows, gemm_n = lanes, gemm_k = depth. Where channels are adjacent
//           rows are pixels and b is packed weights; where pixels are, rows are output channels and
//           b the planes of the image, as they lie.
// owns      one call: any number of rows, up to kMostStripVectors vectors of lanes, summed
//           completely in the order of d. The order depends on neither tile, so a result has the
//           same bits in whichever it falls.
// budget    `Sums` accumulators, shared out as rows x vectors: 4x3, 6x2, 8x1 or 2x6 of 12 (AVX2),
//           to which come a step's vectors of b and one broadcast: 12+3+1 = 16 of 16 registers.
// needs     lanes >= one vector, or that many elements readable in b and writable in y. Fewer lanes
//           than whole vectors: the last vector overlaps the one before it.
// bound by  FMA: 12 of them for 7 or 8 loads a step. With few channels or few rows, memory.
// step      from gemm_indirect: one kernel element, so rows are an address and a stride instead of
//           a table, and a call covers as many tiles as have the same lanes.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int V, bool Copy>
__attribute__((noinline)) void strip_tile(const MatrixStrip<T>& s, std::int64_t row,
                                          std::int64_t index) {
  constexpr int L = kLanes<T>, kLine = 64 / sizeof(T);
  Vec<T> sum[Mr][V];
  const T* a[Mr];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
    a[m] = s.a + (row + m) * s.a_row;
  }
  const std::int64_t last = s.lanes > L ? s.lanes - L : 0;  // of the vectors' first lanes
  const std::int64_t y_row = s.y_row;
  T* y = s.y + row * y_row;
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) sum[m][v] = Vec<T>{};
  }
  if (s.add) {
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 12
      for (int v = 0; v < V; ++v) sum[m][v] = load(y + m * y_row + (v + 1 < V ? v * L : last));
    }
  }

  // Main loop.
  const std::int64_t a_depth = s.a_depth, b_depth = s.b_depth;
  const T* b = s.b;
  [[maybe_unused]] T* copy = s.copy;
  // What is read later is asked for while this tile multiplies, a cache line a step: the lines of
  // b by as many tiles, or all by one of few rows.
  constexpr int kLines = (V * L + kLine - 1) / kLine;
  constexpr bool kAllLines = V >= 8;
  const bool ahead_of_b = s.ahead != nullptr && index < (kAllLines ? 1 : kLines);
  const T* ahead = ahead_of_b ? s.ahead + index * kLine : s.a + s.ahead_of_a + row * s.ahead_row;
  const std::int64_t ahead_step = ahead_of_b ? s.ahead_step : Mr;
  std::int64_t i = 0;
#pragma GCC unroll 1
  for (std::int64_t d = s.depth; d > 0; --d, b += b_depth, i += a_depth, ahead += ahead_step) {
    __builtin_prefetch(ahead);
    if constexpr (kAllLines) {
#pragma GCC unroll 12
      for (int l = 1; l < kLines; ++l) __builtin_prefetch(ahead + l * kLine);
    }
    Vec<T> lanes[V];
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) lanes[v] = load(b + (v + 1 < V ? v * L : last));
    if constexpr (Copy) {
#pragma GCC unroll 12
      for (int v = 0; v < V; ++v) store<T>(copy + (v + 1 < V ? v * L : last), lanes[v]);
      copy += V * L;
    }
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
      const Vec<T> value = broadcast(a[m][i]);
#pragma GCC unroll 12
      for (int v = 0; v < V; ++v) sum[m][v] += value * lanes[v];
    }
  }

  // Epilogue.
  if (s.bias != nullptr) {
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) {
      const Vec<T> bias = s.bias_by_row ? Vec<T>{} : load(s.bias + (v + 1 < V ? v * L : last));
#pragma GCC unroll 8
      for (int m = 0; m < Mr; ++m) {
        sum[m][v] += s.bias_by_row ? broadcast(s.bias[row + m]) : bias;
      }
    }
  }
  const std::int64_t ahead_of_y = s.ahead_of_y;
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m, y += y_row) {
    __builtin_prefetch(y + ahead_of_y, 1);
    if constexpr (V * L > kLine) __builtin_prefetch(y + ahead_of_y + kLine, 1);
#pragma GCC unroll 12
    for (int v = 0; v < V; ++v) store<T>(y + (v + 1 < V ? v * L : last), sum[m][v]);
  }
}

template <class T, int V, int Mr, bool Copy>
CONVEXT_INLINE void strip_tile_of(const MatrixStrip<T>& s, std::int64_t row, std::int64_t mr,
                                  std::int64_t index) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return strip_tile_of<T, V, Mr - 1, Copy>(s, row, mr, index);
  }
  strip_tile<T, Mr, V, Copy>(s, row, index);
}

// Tiles of nearly the same number of rows: a last one of few would wait for its sums. The first may
// leave the others a copy of b without gaps.
template <class T, int V, int Most>
void strip_rows(const MatrixStrip<T>& strip) {
  MatrixStrip<T> s = strip;
  const std::int64_t tiles = (s.rows + Most - 1) / Most;
  if (tiles == 0) return;
  const std::int64_t fewer = s.rows / tiles, larger_tiles = s.rows % tiles;
  std::int64_t row = 0, t = 0;
  if (s.copy != nullptr) {
    row = fewer + (larger_tiles > 0);
    strip_tile_of<T, V, Most, true>(s, 0, row, t++);
    s.b = s.copy;
    s.b_depth = V * kLanes<T>;
  }
  for (; t < tiles; ++t) {
    const std::int64_t mr = fewer + (t < larger_tiles);
    strip_tile_of<T, V, Most, false>(s, row, mr, t);
    row += mr;
  }
}

constexpr int rows_of_strip(int sums, int vectors) {
  return sums / vectors > 8 ? 8 : sums / vectors < 1 ? 1 : sums / vectors;
}

template <class T, int Sums>
void gemm_strip(const MatrixStrip<T>& s) {
  static_assert(kMostStripVectors == 12, "the cases below");
  switch ((s.lanes + kLanes<T> - 1) / kLanes<T>) {
    case 1: strip_rows<T, 1, rows_of_strip(Sums, 1)>(s); break;
    case 2: strip_rows<T, 2, rows_of_strip(Sums, 2)>(s); break;
    case 3: strip_rows<T, 3, rows_of_strip(Sums, 3)>(s); break;
    case 4: strip_rows<T, 4, rows_of_strip(Sums, 4)>(s); break;
    case 5: strip_rows<T, 5, rows_of_strip(Sums, 5)>(s); break;
    case 6: strip_rows<T, 6, rows_of_strip(Sums, 6)>(s); break;
    case 7: strip_rows<T, 7, rows_of_strip(Sums, 7)>(s); break;
    case 8: strip_rows<T, 8, rows_of_strip(Sums, 8)>(s); break;
    case 9: strip_rows<T, 9, rows_of_strip(Sums, 9)>(s); break;
    case 10: strip_rows<T, 10, rows_of_strip(Sums, 10)>(s); break;
    case 11: strip_rows<T, 11, rows_of_strip(Sums, 11)>(s); break;
    case 12: strip_rows<T, 12, rows_of_strip(Sums, 12)>(s); break;
  }
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
