// fprop_grouped_planes, dgrad_grouped_planes, wgrad_grouped_planes: small groups where every
// channel is a plane (NCHW)
//
// computes  y[k][i] = bias[k] + sum_t x[offset[t] + i] * w[t][k]       (fprop, dgrad)
//           sum[k][t] += sum_i grad[k][i] * x[offset[t] + i]           (wgrad)
//           i runs over a whole plane, row after row: rows are packed with their padding, so a tap
//           is one distance for all pixels, and a stride becomes as many planes as it has
//           remainders.
// owns      one call: up to mr output channels; lanes are pixels, pieces of vectors*mr/channels
//           vectors. What lies between the rows is computed too and not stored; in wgrad its
//           gradient is zero.
// budget    mr*vectors = 12 accumulators + 1 weight (or gradient) = 13 of 16 registers.
// needs     x readable for one vector beyond the last pixel's last tap, and finite; y writable up
//           to whole vectors; count in whole vectors for wgrad.
// bound by  loads for one channel, one of x for each FMA; FMA for more.
// step      from gemm_im2col: columns are never built, for each tap is the same memory at another
//           distance.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Channels, int Vectors>
CONVEXT_INLINE void planes_block(const PlaneTile<T>& tile, std::int64_t i) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[Channels][Vectors];
#pragma GCC unroll 4
  for (int k = 0; k < Channels; ++k) {
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) sum[k][v] = Vec<T>{};
  }
  const T* w = tile.weight;
  const T* first = tile.x + i;
#pragma GCC unroll 1
  for (std::int64_t t = 0; t < tile.taps; ++t, w += Channels) {
    const T* x = first + tile.offset[t];
    if constexpr (Channels == 1) {
      const Vec<T> weight = broadcast(w[0]);
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) sum[0][v] += load(x + v * L) * weight;
    } else {
      Vec<T> value[Vectors];
#pragma GCC unroll 16
      for (int v = 0; v < Vectors; ++v) value[v] = load(x + v * L);
#pragma GCC unroll 4
      for (int k = 0; k < Channels; ++k) {
        const Vec<T> weight = broadcast(w[k]);
#pragma GCC unroll 16
        for (int v = 0; v < Vectors; ++v) sum[k][v] += value[v] * weight;
      }
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < Channels; ++k) {
    const Vec<T> bias = broadcast(tile.bias[k]);
#pragma GCC unroll 16
    for (int v = 0; v < Vectors; ++v) {
      store(tile.y + k * tile.y_stride + i + v * L, sum[k][v] + bias);
    }
  }
}

// Chooses the instance for this many vectors.
template <class T, int Channels, int Vectors>
__attribute__((noinline)) void planes_piece(const PlaneTile<T>& tile, std::int64_t i,
                                            std::int64_t vectors) {
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) return planes_piece<T, Channels, Vectors - 1>(tile, i, vectors);
  }
  planes_block<T, Channels, Vectors>(tile, i);
}

// Cuts the positions into pieces of nearly equal size, since a small one would wait for its sums.
template <class T, int Channels, int Vectors>
void planes(const PlaneTile<T>& tile) {
  constexpr int L = kLanes<T>;
  const std::int64_t vectors = (tile.count + L - 1) / L;
  const std::int64_t pieces = (vectors + Vectors - 1) / Vectors;
  for (std::int64_t p = 0; p < pieces; ++p) {
    const std::int64_t first = vectors * p / pieces, last = vectors * (p + 1) / pieces;
    planes_piece<T, Channels, Vectors>(tile, first * L, last - first);
  }
}

// Chooses the instance for 1, 2 or 4 channels, as far as the tile has them.
template <class T, int Mr, int Vectors>
void planes_dispatch(const PlaneTile<T>& tile, int channels) {
  if (channels >= 4) return planes<T, 4, Mr * Vectors / 4>(tile);
  if (channels >= 2) return planes<T, 2, Mr * Vectors / 2>(tile);
  planes<T, 1, Mr * Vectors>(tile);
}

// ---- weight grad -----------------------------------------------------------------------------

template <class T, int Channels, int Taps>
__attribute__((noinline)) void planes_wgrad(const PlaneOuterTile<T>& tile) {
  constexpr int L = kLanes<T>;
  Vec<T> sum[Channels][Taps];
  const T* x[Taps];
#pragma GCC unroll 16
  for (int t = 0; t < Taps; ++t) {
    x[t] = tile.x + tile.offset[t];
#pragma GCC unroll 4
    for (int k = 0; k < Channels; ++k) sum[k][t] = Vec<T>{};
  }
  const T* grad = tile.grad;
  const std::int64_t grad_stride = tile.grad_stride;
#pragma GCC unroll 1
  for (std::int64_t i = 0; i < tile.count; i += L) {
    Vec<T> g[Channels];
#pragma GCC unroll 4
    for (int k = 0; k < Channels; ++k) g[k] = load(grad + k * grad_stride + i);
#pragma GCC unroll 16
    for (int t = 0; t < Taps; ++t) {
      const Vec<T> value = load(x[t] + i);
#pragma GCC unroll 4
      for (int k = 0; k < Channels; ++k) sum[k][t] += g[k] * value;
    }
  }
#pragma GCC unroll 4
  for (int k = 0; k < Channels; ++k) {
#pragma GCC unroll 16
    for (int t = 0; t < Taps; ++t) {
      T* total = tile.sum + k * tile.sum_stride + t * L;
      store(total, load(total) + sum[k][t]);
    }
  }
}

template <class T, int Channels, int Taps>
void planes_wgrad_taps(const PlaneOuterTile<T>& tile, int taps) {
  if constexpr (Taps > 1) {
    if (taps < Taps) return planes_wgrad_taps<T, Channels, Taps - 1>(tile, taps);
  }
  planes_wgrad<T, Channels, Taps>(tile);
}

// Chooses the instance for 1, 2 or 4 channels and this many taps, at most kMostPlaneTaps of one
// channel, half of two, a third of four.
template <class T>
void planes_wgrad_dispatch(const PlaneOuterTile<T>& tile, int channels, int taps) {
  if (channels >= 4) return planes_wgrad_taps<T, 4, kMostPlaneTaps / 3>(tile, taps);
  if (channels >= 2) return planes_wgrad_taps<T, 2, kMostPlaneTaps / 2>(tile, taps);
  planes_wgrad_taps<T, 1, kMostPlaneTaps>(tile, taps);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
