// copy_layout: a tensor in another order of its dimensions
//
// computes  to[n,c,pixel] = from[n,c,pixel], where the two lie differently in memory
// owns      CTA: 32 channels x 32 pixels of an image, through shared memory; thread: 4 of them.
// budget    shared: 32 x 33 elements, so that neither order meets a bank twice.
// needs     nothing: any strides.
// bound by  memory: each element is read and written once, by neighbouring threads in both orders.
// step      what lets a rung that wants channels adjacent take an NCHW tensor: its time counts.
#pragma once

#include "index_math.cuh"
#include "platform.cuh"

namespace convext::cuda {

inline constexpr int kLayoutTile = 32, kLayoutRows = 8;

template <class T>
__global__ void __launch_bounds__(kLayoutTile* kLayoutRows, 4)
    copy_layout(int channels, std::int64_t pixels, Divisor by_width, const T* __restrict__ from,
                Strides f, T* __restrict__ to, Strides t) {
  SHARED_ARRAY(T, tile, [kLayoutTile][kLayoutTile + 1]);  // [channel][pixel]
  unsigned rest = blockIdx.x;
  const int c0 = take(&rest, block_count(channels, kLayoutTile)) * kLayoutTile;
  const auto pixel_tiles = static_cast<int>(ceil_div(pixels, kLayoutTile));
  const std::int64_t pixel0 = static_cast<std::int64_t>(take(&rest, pixel_tiles)) * kLayoutTile;
  const std::int64_t n = rest;
  const int lane = static_cast<int>(threadIdx.x) % kLayoutTile;
  const int first = static_cast<int>(threadIdx.x) / kLayoutTile;
  // Neighbouring threads take what is adjacent.
  const bool read_channels = f.c == 1, write_channels = t.c == 1;
#pragma unroll
  for (int i = first; i < kLayoutTile; i += kLayoutRows) {
    const int c = read_channels ? lane : i, pixel = read_channels ? i : lane;
    if (c0 + c < channels && pixel0 + pixel < pixels) {
      std::int64_t row = pixel0 + pixel;
      const int w = by_width.divide(&row);
      tile[c][pixel] = from[n * f.n + (c0 + c) * f.c + row * f.h + w * f.w];
    }
  }
  __syncthreads();  // the tile is there
#pragma unroll
  for (int i = first; i < kLayoutTile; i += kLayoutRows) {
    const int c = write_channels ? lane : i, pixel = write_channels ? i : lane;
    if (c0 + c < channels && pixel0 + pixel < pixels) {
      std::int64_t row = pixel0 + pixel;
      const int w = by_width.divide(&row);
      to[n * t.n + (c0 + c) * t.c + row * t.h + w * t.w] = tile[c][pixel];
    }
  }
}

}  // namespace convext::cuda
