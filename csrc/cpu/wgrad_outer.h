// wgrad_outer: weight grad as a sum of outer products
//
// computes  sum[k][l] += sum_{pixel} grad[k][pixel] * x[pixel][l], for one tap; lanes l are input
//           channels, or (tap of the row, input channel) pairs where channels are few
//           GEMM view: gemm_m = output channels, gemm_n = lanes, gemm_k = output pixels.
// owns      one call: mr output channels x vectors*lanes of a vector, over a block of a few
//           hundred pixels. The block is summed from zero in registers and added to `sum` once, so
//           long sums are sums of short sums.
// budget    mr*vectors accumulators + vectors inputs + 1 broadcast: 29 of 32 registers (AVX-512),
//           15 of 16 (AVX2, baseline).
// needs     x readable for whole vectors. The gradient comes in either of two orders: a channel's
//           pixels adjacent (as NCHW has it), or a pixel's channels adjacent (as channels_last has
//           it, or as packed [tile of mr channels][pixel][mr] by pack_rows below).
// bound by  FMA: mr*vectors of them for mr+vectors loads a pixel.
// step      from gemm_indirect: pixels are what is summed over, so they come as runs along a row
//           and only the run's start depends on the tap.
#pragma once

#include "isa_kernels.h"
#include "pack.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int Vectors, bool ChannelsAdjacent>
__attribute__((noinline)) void wgrad_outer(const OuterTile<T>& tile) {
  Vec<T> sum[Mr][Vectors];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[m][v] = Vec<T>{};
  }

  // Main loop.
  const std::int64_t channel_stride = ChannelsAdjacent ? 1 : tile.grad_stride;
  const std::int64_t pixel_stride = ChannelsAdjacent ? tile.grad_stride : 1;
  const char* ahead = tile.prefetch;
  for (std::int64_t r = 0; r < tile.run_count; ++r) {
    const T* grad = tile.runs[r].grad + tile.grad_offset;
    const T* x = tile.runs[r].x + tile.x_offset;
    const std::int64_t pixels = tile.runs[r].pixels;
#pragma GCC unroll 1
    for (std::int64_t i = 0; i < pixels; ++i) {
      __builtin_prefetch(ahead, 0, 2);
      ahead += tile.prefetch_step;
      Vec<T> input[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) input[v] = load(x + v * kLanes<T>);
#pragma GCC unroll 8
      for (int m = 0; m < Mr; ++m) {
        const Vec<T> g = broadcast(grad[m * channel_stride]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[m][v] += g * input[v];
      }
      grad += pixel_stride;
      x += tile.x_pixel_stride;
    }
  }

  // Epilogue.
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      T* total = tile.sum + m * tile.sum_stride + v * kLanes<T>;
      store(total, tile.add ? load(total) + sum[m][v] : sum[m][v]);
    }
  }
}

// Chooses the instance for mr output channels and `vectors` vectors.
template <class T, int Mr, int Vectors, bool ChannelsAdjacent>
void wgrad_outer_dispatch(const OuterTile<T>& tile, int mr, int vectors) {
  if constexpr (Mr > 1) {
    if (mr < Mr) {
      return wgrad_outer_dispatch<T, Mr - 1, Vectors, ChannelsAdjacent>(tile, mr, vectors);
    }
  }
  if constexpr (Vectors > 1) {
    if (vectors < Vectors) {
      return wgrad_outer_dispatch<T, Mr, Vectors - 1, ChannelsAdjacent>(tile, mr, vectors);
    }
  }
  wgrad_outer<T, Mr, Vectors, ChannelsAdjacent>(tile);
}

template <class T, int Tile, class S>
void pack_rows_typed(const S* source, std::int64_t pixel_stride, std::int64_t pixels,
                     std::int64_t channels, T* destination, std::int64_t tile_stride) {
  constexpr int L = kLanes<T>, kVectors = (Tile + L - 1) / L, kReach = kVectors * L;
  for (std::int64_t i = 0; i < pixels; ++i) {
    const S* s = source + i * pixel_stride;
    T* d = destination + i * Tile;
    // Whole vectors may read on into the next pixels, but not beyond the last one.
    const std::int64_t readable = channels + (pixels - 1 - i) * pixel_stride;
    std::int64_t k = 0;
    for (; k < channels && k + kReach <= readable; k += Tile, d += tile_stride) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) store<T>(d + v * L, load_as<T>(s + k + v * L));
    }
    for (; k < channels; k += Tile, d += tile_stride) {
      const std::int64_t count = channels - k < Tile ? channels - k : Tile;
      for (std::int64_t m = 0; m < count; ++m) d[m] = to_compute<T>(s[k + m]);
    }
  }
}

// destination[channel / Tile * tile_stride + pixel * Tile + channel % Tile] = source: each pixel's
// tile is stored as whole vectors whose surplus the next pixel overwrites. The last pixel's
// surplus, up to a vector, falls between the tiles, where tile_stride leaves room for it.
template <class T, int Tile>
void pack_rows(const StridedBlock& b, std::int64_t pixels, std::int64_t channels, T* destination,
               std::int64_t tile_stride) {
  with_storage<T>(b.data, b.dtype, [&](const auto* source) {
    pack_rows_typed<T, Tile>(source, b.row_stride, pixels, channels, destination, tile_stride);
  });
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
