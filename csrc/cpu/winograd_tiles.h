// fprop_winograd, dgrad_winograd: the transforms of tiles and filters
//
// computes  V = B^T input B, U = G filter G^T and output = A^T (sum over channels of U * V) A + bias,
//           for tiles of the transform F's inputs and outputs, (m+2) x (m+2) and m x m pixels with
//           stride 1; * is taken point by point. What lies between, the sums over channels, is one
//           GEMM for each point, (m+2)^2 with stride 1. With stride 2 see winograd_polyphase.h.
// owns      one call: one tile, all channels (input, output), or a run of filters (filter).
// budget    as many vectors as points in a stack buffer, 81 at most: a column is transformed in
//           registers at a time, 9 inputs and 9 results at most of 16 registers, then a row.
// needs     a pointer for every pixel of the tile, padding at zeros. Channels past the last whole
//           vector are done one by one, so that nothing beside the tensor is touched.
// bound by  loads and stores: F(4x4) moves 36 vectors in, through the buffer and out, for 168
//           additions and multiplications.
// step      from gemm_indirect.h: (m+2)^2 multiplications for m^2 outputs instead of 9 m^2, that is
//           2.25 (m = 2) and 4 (m = 4) times fewer; with stride 2 (2m+1)^2, that is 1.44 and 1.78
//           times fewer. The transforms are the price.
#pragma once

#include "chains.h"
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

template <class T, class F, class V>
CONVEXT_INLINE void winograd_input_at(const T* const* x, T* v, std::int64_t point_stride,
                                      std::int64_t c) {
  constexpr int P = F::kPoints, I = F::kInputs;
  V half[P * I];
#pragma GCC unroll 9
  for (int j = 0; j < I; ++j) {
    V d[I];
#pragma GCC unroll 9
    for (int i = 0; i < I; ++i) d[i] = winograd_load<T, V>(x[i * I + j] + c);
    F::template input<T>(d, 1, half + j, I);
  }
#pragma GCC unroll 9
  for (int i = 0; i < P; ++i) {
    V o[P];
    F::template input<T>(half + i * I, 1, o, 1);
#pragma GCC unroll 9
    for (int j = 0; j < P; ++j) winograd_store<T, V>(v + c + (i * P + j) * point_stride, o[j]);
  }
}

template <class T, class F>
void winograd_input(const WinogradInput<T>& tile) {
  // Copies: for all the compiler knows, the stores below could change `tile`.
  T* const v = tile.v;
  const std::int64_t channels = tile.channels, point_stride = tile.point_stride;
  const T* const* x = tile.x;
  std::int64_t c = 0;
  for (; c + kLanes<T> <= channels; c += kLanes<T>) {
    winograd_input_at<T, F, Vec<T>>(x, v, point_stride, c);
  }
  for (; c < channels; ++c) winograd_input_at<T, F, T>(x, v, point_stride, c);
}

template <class T, class F>
void winograd_filter(const WinogradFilters<T>& f) {
  const WinogradFilters<T> filters = f;  // a copy, see above
  constexpr int P = F::kFilters;
  for (std::int64_t k = 0; k < filters.count; k += kLanes<T>) {
    Vec<T> half[P * 3];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
      Vec<T> g[3];
#pragma GCC unroll 3
      for (int i = 0; i < 3; ++i) g[i] = load(filters.taps + (i * 3 + j) * filters.tap_stride + k);
      F::template filter<T>(g, 1, half + j, 3);
    }
    T* u = filters.u + k;
#pragma GCC unroll 9
    for (int i = 0; i < P; ++i) {
      Vec<T> o[P];
      F::template filter<T>(half + i * 3, 1, o, 1);
#pragma GCC unroll 9
      for (int j = 0; j < P; ++j) store<T>(u + (i * P + j) * filters.point_stride, o[j]);
    }
  }
}

// The sums' channels are padded to whole vectors, the results' are not.
template <class T, class F>
void winograd_output(const WinogradOutput<T>& t) {
  const WinogradOutput<T> tile = t;  // a copy, see above
  constexpr int P = F::kPoints, M = F::kOutputs;
  constexpr int L = kLanes<T>;
  for (std::int64_t c = 0; c < tile.channels; c += L) {
    Vec<T> half[M * P];
#pragma GCC unroll 9
    for (int j = 0; j < P; ++j) {
      Vec<T> m[P];
#pragma GCC unroll 9
      for (int i = 0; i < P; ++i) m[i] = load(tile.m + (i * P + j) * tile.point_stride + c);
      F::template output<T>(m, 1, half + j, P);
    }
    const Vec<T> bias = load(tile.bias + c);
    const bool whole = c + L <= tile.channels;
#pragma GCC unroll 8
    for (int i = 0; i < M; ++i) {
      if (i >= tile.rows) break;
      if (i < tile.first_row) continue;
      Vec<T> o[M];
      F::template output<T>(half + i * P, 1, o, 1);
      T* y = tile.y + (i - tile.first_row) * tile.row_stride + c;
      if (whole && tile.columns - tile.first_column == M) {
#pragma GCC unroll 8
        for (int j = 0; j < M; ++j) store<T>(y + j * tile.column_stride, o[j] + bias);
        continue;
      }
      T lanes[M * L];
#pragma GCC unroll 8
      for (int j = 0; j < M; ++j) store<T>(lanes + j * L, o[j] + bias);
#pragma GCC unroll 1
      for (int j = tile.first_column; j < tile.columns; ++j, y += tile.column_stride) {
        if (whole) {
          store<T>(y, load(lanes + j * L));
          continue;
        }
        for (std::int64_t l = 0; c + l < tile.channels; ++l) y[l] = lanes[j * L + l];
      }
    }
  }
}

// Register tiles of Mr tiles x Vectors vectors, as in gemm_indirect.h, but rows at a fixed stride
// and one call for all tiles of a block: sums over few channels are short.
template <class T, int Mr, int Vectors, int PanelVectors>
__attribute__((noinline)) void winograd_sums_tile(const WinogradSums<T>& sums, std::int64_t tile,
                                                  bool prefetch) {
  constexpr int kNr = PanelVectors * kLanes<T>;
  Vec<T> sum[Mr][Vectors];
  const T* x[Mr];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
    x[m] = sums.x + (tile + m) * sums.x_stride;
  }
  SumsAside<T, Mr, Vectors> aside;
  aside.clear(sum);
  const T* w = sums.panel;
  // The first rows of a panel wait for it; the next panel is on its way meanwhile.
  const T* next = prefetch ? sums.next : w;
  const std::int64_t depth = sums.depth;
  // The transforms magnify the errors of the sums: chains are shorter than elsewhere.
  constexpr std::int64_t kChain = 64;
  for (std::int64_t d = 0; d < depth;) {
    if (d > 0) aside.put(sum);
    const std::int64_t end = d + next_chain(depth - d, kChain);
#pragma GCC unroll 1
    for (; d < end; ++d, w += kNr, next += kNr) {
      __builtin_prefetch(next, 0, 2);
      Vec<T> weight[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * kLanes<T>);
#pragma GCC unroll 8
      for (int m = 0; m < Mr; ++m) {
        const Vec<T> value = broadcast(x[m][d]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[m][v] += value * weight[v];
      }
    }
  }
  aside.finish(sum);
  T* y = sums.y + tile * sums.y_stride;
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m, y += sums.y_stride) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store<T>(y + v * kLanes<T>, sum[m][v]);
  }
}

template <class T, int Mr, int Vectors, int PanelVectors>
CONVEXT_INLINE void winograd_sums_dispatch(const WinogradSums<T>& sums, std::int64_t tile, int mr,
                                           bool prefetch) {
  if constexpr (Mr > 1) {
    if (mr < Mr) {
      return winograd_sums_dispatch<T, Mr - 1, Vectors, PanelVectors>(sums, tile, mr, prefetch);
    }
  }
  winograd_sums_tile<T, Mr, Vectors, PanelVectors>(sums, tile, prefetch);
}

template <class T, int Mr, int Vectors, int PanelVectors = Vectors>
void winograd_sums(const WinogradSums<T>& sums, int vectors) {
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) return winograd_sums<T, Mr, Vectors - 1, PanelVectors>(sums, vectors);
  }
  // As even as they come: a single row costs as much as four.
  std::int64_t left = (sums.tiles + Mr - 1) / Mr;
  for (std::int64_t tile = 0; left > 0; --left) {
    const auto mr = static_cast<int>((sums.tiles - tile + left - 1) / left);
    winograd_sums_dispatch<T, Mr, Vectors, PanelVectors>(sums, tile, mr, tile == 0);
    tile += mr;
  }
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
