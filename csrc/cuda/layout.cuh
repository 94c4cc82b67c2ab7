// copy_layout: a tensor in another order of its dimensions
//
// computes  to[n,c,pixel] = from[n,c,pixel], where the two lie differently in memory
// owns      CTA: kSide channels x kSide pixels of an image, through shared memory; thread: 8 bytes
//           at a time (Vec elements), 16 elements in all (4 of 8 and 16 bytes).
// budget    shared: 64 x 65 elements of up to 4 bytes, 32 x 33 of up to 16: 16.5 KiB. Rows are one
//           element longer than the tile, so that columns meet different banks.
// needs     Rows: nothing, any strides. Not Rows: in both tensors, an image's pixels follow each other
//           at one distance, so that no index has to be divided. Vec > 1: whole aligned vectors along
//           what is adjacent in either tensor.
// bound by  memory: each element is read and written once, by neighbouring threads in both orders.
// step      what lets a rung that wants channels adjacent take an NCHW tensor: its time counts.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

template <class T>
struct LayoutTile {
  static constexpr int kSide = sizeof(T) <= 4 ? 64 : 32, kThreads = 256;
  static constexpr int kVector = sizeof(T) < 8 ? 8 / sizeof(T) : 1;
};

template <class T, int Vec, bool Rows>
__global__ void __launch_bounds__(LayoutTile<T>::kThreads, 4)
    copy_layout(int channels, std::int64_t pixels, Divisor by_width, const T* __restrict__ from,
                Strides f, T* __restrict__ to, Strides t) {
  using Tile = LayoutTile<T>;
  constexpr int kSide = Tile::kSide, kAcross = kSide / Vec;
  SHARED_ARRAY(T, tile, [kSide][kSide + 1]);  // [channel][pixel]
  unsigned rest = blockIdx.x;
  const int c0 = take(&rest, block_count(channels, kSide)) * kSide;
  const auto pixel_tiles = static_cast<int>(ceil_div(pixels, kSide));
  const std::int64_t pixel0 = static_cast<std::int64_t>(take(&rest, pixel_tiles)) * kSide;
  const T* from_image = from + rest * f.n;
  T* to_image = to + rest * t.n;
  const auto offset = [&](const Strides& s, int c, std::int64_t pixel) {
    if constexpr (!Rows) return c * s.c + pixel * s.w;
    const int w = by_width.divide(&pixel);
    return c * s.c + pixel * s.h + w * s.w;
  };

  // Neighbouring threads take what is adjacent: channels, or pixels.
  const bool read_channels = f.c == 1, write_channels = t.c == 1;
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kSide * kAcross; i += Tile::kThreads) {
    const int fast = i % kAcross * Vec, slow = i / kAcross;
    const int c = read_channels ? fast : slow, pixel = read_channels ? slow : fast;
    if (c0 + c >= channels || pixel0 + pixel >= pixels) continue;
    const auto values = load_pack<Vec>(from_image + offset(f, c0 + c, pixel0 + pixel));
#pragma unroll
    for (int e = 0; e < Vec; ++e) {
      tile[c + (read_channels ? e : 0)][pixel + (read_channels ? 0 : e)] = values.element[e];
    }
  }
  __syncthreads();  // the tile is there
#pragma unroll
  for (int i = static_cast<int>(threadIdx.x); i < kSide * kAcross; i += Tile::kThreads) {
    const int fast = i % kAcross * Vec, slow = i / kAcross;
    const int c = write_channels ? fast : slow, pixel = write_channels ? slow : fast;
    if (c0 + c >= channels || pixel0 + pixel >= pixels) continue;
    Pack<T, Vec> values;
#pragma unroll
    for (int e = 0; e < Vec; ++e) {
      values.element[e] = tile[c + (write_channels ? e : 0)][pixel + (write_channels ? 0 : e)];
    }
    store_pack(to_image + offset(t, c0 + c, pixel0 + pixel), values);
  }
}

}  // namespace convext::cuda
