// wgrad_winograd: the transforms of the gradient's tiles and of the sums
//
// computes  G = A grad A^T, of m x m pixels of the output gradient, and
//           grad_weight = G^T D G, where D[point][k][c] = sum_tile G[point][tile][k]
//           V[point][tile][c] is one product for each of the (m+2)^2 points, by wgrad_outer.h, and
//           V are the transformed tiles of the input (winograd_tiles.h). With stride 2 points that
//           share a filter (winograd_polyphase.h) are summed together.
// owns      one call: one tile, all channels (grad), or a run of sums (grad_filter).
// budget    (m+2) m vectors in a stack buffer; a column in registers at a time, then a row.
// needs     a pointer for every pixel of the gradient's tile, those that do not exist at zeros.
//           Channels past the last whole vector are done one by one.
// bound by  loads and stores: F(4x4) moves 16 vectors in and 36 out.
// step      from wgrad_outer.h: (m+2)^2 multiplications for m^2 pixels instead of 9 m^2, that is
//           2.25 (m = 2) and 4 (m = 4) times fewer. No weight is transformed, but the sums are,
//           once.
#pragma once

#include "winograd_tiles.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, class F, class V>
CONVEXT_INLINE void winograd_grad_at(const WinogradInput<T>& tile, std::int64_t c) {
  constexpr int P = F::kPoints, M = F::kOutputs;
  V half[P * M];
#pragma GCC unroll 4
  for (int j = 0; j < M; ++j) {
    V g[M];
#pragma GCC unroll 4
    for (int i = 0; i < M; ++i) g[i] = winograd_load<T, V>(tile.x[i * M + j] + c);
    F::template grad_output<T>(g, 1, half + j, M);
  }
  T* v = tile.v + c;
#pragma GCC unroll 9
  for (int i = 0; i < P; ++i) {
    V o[P];
    F::template grad_output<T>(half + i * M, 1, o, 1);
#pragma GCC unroll 9
    for (int j = 0; j < P; ++j) winograd_store<T, V>(v + (i * P + j) * tile.point_stride, o[j]);
  }
}

template <class T, class F>
void winograd_grad(const WinogradInput<T>& tile) {
  std::int64_t c = 0;
  for (; c + kLanes<T> <= tile.channels; c += kLanes<T>) winograd_grad_at<T, F, Vec<T>>(tile, c);
  for (; c < tile.channels; ++c) winograd_grad_at<T, F, T>(tile, c);
}

template <class T, class F>
void winograd_grad_filter(const WinogradGradFilters<T>& sums) {
  constexpr int P = F::kFilters;
  for (std::int64_t c = 0; c < sums.count; c += kLanes<T>) {
    Vec<T> half[P * 3];
#pragma GCC unroll 9
    for (int j = 0; j < P; ++j) {
      Vec<T> d[P];
#pragma GCC unroll 9
      for (int i = 0; i < P; ++i) d[i] = load(sums.d + (i * P + j) * sums.point_stride + c);
      F::template grad_filter<T>(d, 1, half + j, P);
    }
    T* taps = sums.taps + c;
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
      Vec<T> o[3];
      F::template grad_filter<T>(half + i * P, 1, o, 1);
#pragma GCC unroll 3
      for (int j = 0; j < 3; ++j) store<T>(taps + (i * 3 + j) * sums.tap_stride, o[j]);
    }
  }
}

template <class T, class F>
constexpr WinogradKernels<T> winograd_kernels() {
  return {winograd_input<T, F>, winograd_filter<T, F>, winograd_output<T, F>, winograd_grad<T, F>,
          winograd_grad_filter<T, F>};
}

// Of a transform that only input grad has: forward's Filter transforms the weight.
template <class T, class F, class Filter>
constexpr WinogradKernels<T> winograd_grad_kernels() {
  return {winograd_input<T, F>, winograd_filter<T, Filter>, winograd_output<T, F>, nullptr,
          nullptr};
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
