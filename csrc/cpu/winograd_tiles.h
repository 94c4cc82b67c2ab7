// fprop_winograd, dgrad_winograd: the transforms of tiles and filters
//
// computes  V = B^T input B, U = G filter G^T and output = A^T (sum over channels of U * V) A + bias,
//           for tiles of (m+2) x (m+2) input pixels and m x m output pixels; * is taken point by
//           point. What lies between, the sums over channels, is one GEMM for each of the (m+2)^2
//           points, by gemm_indirect.h with one entry.
// owns      one call: one tile, all channels (input, output), or a run of filters (filter).
// budget    (m+2)^2 vectors in a stack buffer, 36 at most: a column is transformed in registers at
//           a time, 6 inputs and 6 results of 16 registers, then a row.
// needs     a pointer for every pixel of the tile, padding at zeros. Channels past the last whole
//           vector are done one by one, so that nothing beside the tensor is touched.
// bound by  loads and stores: F(4x4) moves 36 vectors in, through the buffer and out, for 168
//           additions and multiplications.
// step      from gemm_indirect.h: (m+2)^2 multiplications for m^2 outputs instead of 9 m^2, that is
//           2.25 (m = 2) and 4 (m = 4) times fewer; the transforms are the price.
#pragma once

#include "isa_kernels.h"
#include "simd.h"
#include "winograd_transform.h"

namespace convext::CONVEXT_ISA {
namespace {

// One element or a vector of them.
template <class T, class V>
CONVEXT_INLINE V winograd_load(const T* p) {
  if constexpr (__is_same(T, V)) {
    return *p;
  } else {
    return load<T>(p);
  }
}
template <class T, class V>
CONVEXT_INLINE void winograd_store(T* p, V v) {
  if constexpr (__is_same(T, V)) {
    *p = v;
  } else {
    store<T>(p, v);
  }
}

template <class T, int M, class V>
CONVEXT_INLINE void winograd_input_at(const WinogradInput<T>& tile, std::int64_t c) {
  constexpr int P = Winograd<M>::kPoints;
  V half[P * P];
#pragma GCC unroll 6
  for (int j = 0; j < P; ++j) {
    V d[P];
#pragma GCC unroll 6
    for (int i = 0; i < P; ++i) d[i] = winograd_load<T, V>(tile.x[i * P + j] + c);
    Winograd<M>::template input<T>(d, 1, half + j, P);
  }
  T* v = tile.v + c;
#pragma GCC unroll 6
  for (int i = 0; i < P; ++i) {
    V o[P];
    Winograd<M>::template input<T>(half + i * P, 1, o, 1);
#pragma GCC unroll 6
    for (int j = 0; j < P; ++j) winograd_store<T, V>(v + (i * P + j) * tile.point_stride, o[j]);
  }
}

template <class T, int M>
void winograd_input(const WinogradInput<T>& tile) {
  std::int64_t c = 0;
  for (; c + kLanes<T> <= tile.channels; c += kLanes<T>) winograd_input_at<T, M, Vec<T>>(tile, c);
  for (; c < tile.channels; ++c) winograd_input_at<T, M, T>(tile, c);
}

template <class T, int M>
void winograd_filter(const WinogradFilters<T>& filters) {
  constexpr int P = Winograd<M>::kPoints;
  for (std::int64_t k = 0; k < filters.count; k += kLanes<T>) {
    Vec<T> half[P * 3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      Vec<T> g[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) g[i] = load(filters.taps + (i * 3 + j) * filters.tap_stride + k);
      Winograd<M>::template filter<T>(g, 1, half + j, 3);
    }
    T* u = filters.u + k;
#pragma GCC unroll 6
    for (int i = 0; i < P; ++i) {
      Vec<T> o[P];
      Winograd<M>::template filter<T>(half + i * 3, 1, o, 1);
#pragma GCC unroll 6
      for (int j = 0; j < P; ++j) store<T>(u + (i * P + j) * filters.point_stride, o[j]);
    }
  }
}

// The sums' channels are padded to whole vectors, the results' are not.
template <class T, int M>
void winograd_output(const WinogradOutput<T>& tile) {
  constexpr int P = Winograd<M>::kPoints;
  constexpr int L = kLanes<T>;
  for (std::int64_t c = 0; c < tile.channels; c += L) {
    Vec<T> half[M * P];
#pragma GCC unroll 6
    for (int j = 0; j < P; ++j) {
      Vec<T> m[P];
#pragma GCC unroll 6
      for (int i = 0; i < P; ++i) m[i] = load(tile.m + (i * P + j) * tile.point_stride + c);
      Winograd<M>::template output<T>(m, 1, half + j, P);
    }
    const Vec<T> bias = load(tile.bias + c);
    const bool whole = c + L <= tile.channels;
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) {
      if (i >= tile.rows) break;
      Vec<T> o[M];
      Winograd<M>::template output<T>(half + i * P, 1, o, 1);
      T* y = tile.y + i * tile.row_stride + c;
      if (whole && tile.columns == M) {
#pragma GCC unroll 4
        for (int j = 0; j < M; ++j) store<T>(y + j * tile.column_stride, o[j] + bias);
        continue;
      }
#pragma GCC unroll 4
      for (int j = 0; j < M; ++j) {
        if (j >= tile.columns) break;
        if (whole) {
          store<T>(y + j * tile.column_stride, o[j] + bias);
          continue;
        }
        T lanes[L];
        store<T>(lanes, o[j] + bias);
        for (std::int64_t l = 0; c + l < tile.channels; ++l) y[j * tile.column_stride + l] = lanes[l];
      }
    }
  }
}

template <class T, int M>
constexpr WinogradKernels<T> winograd_kernels() {
  return {winograd_input<T, M>, winograd_filter<T, M>, winograd_output<T, M>};
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
