// wgmma_weight: weight gradient on Hopper
//
// computes  sums[split][k][tap][c] = sum over the split's pixels of
//               grad_output[pixel][k] * input[pixel at tap][c]
//           GEMM view: gemm_m = output channels k, gemm_n = (tap, c) in chunks of 64 channels of one
//           tap (32 or 16 where there are few), gemm_k = output pixels.
// owns      CTA: tiles of kM output channels x kN / chunk chunks for one share of the pixels, one
//           after the other. sum_splits adds the shares in order: no atomics, the same bits always.
// budget    wgmma_tile.cuh, without room for results: they leave as float32, from registers.
// needs     channels adjacent and in eights; tensors and strides of 16-byte multiples; with groups,
//           channels of one in chunks and outputs in 64s. Padding of zeros.
// bound by  wgmma; where shares are short, writing and adding them.
// step      from mma: both operands lie with their channels adjacent, which is across the depth;
//           wgmma reads them so. Chunks of several taps share one copy of grad_output.
#pragma once

#include "wgmma_tile.cuh"

namespace convext::cuda {

inline constexpr int kStepPixels = kStepDepth<__half>;

struct WeightParams {
  TensorMap grad, input;
  TapClass taps;  // fprop's one
  std::int64_t pixels, share;
  std::int64_t items;
  int K, groups, outputs, channels;
  int chunk, chunks;  // channels of a chunk; chunks of a tap
  Divisor by_chunks, by_chunk_tiles, by_row_tiles, by_groups;
  bool grad_tiled;  // its pixels are evenly spaced
};

struct WeightTile {
  int chunk0, row0, group;
  std::int64_t split, pixel0;
  int steps;
};

template <class Tile>
CONVEXT_DEVICE WeightTile weight_tile(const WeightParams& p, std::int64_t item) {
  WeightTile tile;
  std::int64_t rest = item;
  tile.chunk0 = p.by_chunk_tiles.divide(&rest) * (Tile::kN / p.chunk);
  tile.row0 = p.by_row_tiles.divide(&rest) * Tile::kM;
  tile.group = p.by_groups.divide(&rest);
  tile.split = rest;
  tile.pixel0 = tile.split * p.share;
  const std::int64_t left = p.pixels - tile.pixel0;
  tile.steps = static_cast<int>(ceil_div(left < p.share ? left : p.share, kStepPixels));
  return tile;
}

// ---- producer -----------------------------------------------------------------------------------

template <class Tile>
CONVEXT_DEVICE void fill_weight_stages(const WeightParams& p, typename Tile::Ring ring) {
  prefetch_map(&p.grad);
  prefetch_map(&p.input);
  for (std::int64_t item = blockIdx.x; item < p.items; item += gridDim.x) {
    const WeightTile tile = weight_tile<Tile>(p, item);
    std::int64_t first = tile.chunk0;
    const int c0 = p.by_chunks.divide(&first) * p.chunk;
    const int taps_across = p.taps.columns.taps;
    const int r0 = static_cast<int>(first) / taps_across,
              s0 = static_cast<int>(first) % taps_across;
    Pixel at = p.taps.at(tile.pixel0);
    auto pixel = static_cast<int>(tile.pixel0);
    for (int step = 0; step < tile.steps; ++step) {
      std::uint64_t* const barrier = ring.begin_filling();
      unsigned char* const stage = ring.here();
      // Pixels beyond the last are zeros in both.
      for (int row = 0; row < Tile::kM; row += 64) {
        unsigned char* const to = stage + row * kStepBytes;
        const int k = tile.group * p.outputs + tile.row0 + row;
        if (p.grad_tiled) {
          tma_load_2d(to, &p.grad, barrier, k, pixel);
        } else {
          tma_load_im2col(to, &p.grad, barrier, k, at.q, at.p, at.n, 0, 0);
        }
      }
      TapWalk walk{taps_across, p.channels, p.chunk, r0, s0, c0};
      for (int column = 0; column < Tile::kN; column += p.chunk, walk.next()) {
        unsigned char* const to = stage + Tile::kABytes + column * kStepBytes;
        const bool over = walk.r >= p.taps.rows.taps;
        const int c = over ? p.channels * p.groups : tile.group * p.channels + walk.c;
        if (p.taps.matrix) {
          tma_load_2d(to, &p.input, barrier, c, pixel);
        } else {
          tma_load_im2col(to, &p.input, barrier, c,
                          p.taps.columns.start + at.q * p.taps.columns.step,
                          p.taps.rows.start + at.p * p.taps.rows.step, at.n,
                          over ? 0 : walk.s * p.taps.columns.offset_step,
                          over ? 0 : walk.r * p.taps.rows.offset_step);
        }
      }
      ring.next();
      pixel += kStepPixels;
      advance(&at, kStepPixels, p.taps.rows.count, p.taps.columns.count);
    }
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

template <class T, class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    wgmma_weight(const __grid_constant__ WeightParams p, float* __restrict__ sums_of_splits) {
  SHARED_DYNAMIC(shared);
  typename Tile::Ring ring(shared);
  if (threadIdx.x == 0) ring.init(1);
  __syncthreads();  // the barriers are there

  if (Tile::warpgroup() == 0) {
    give_registers<Tile::kProducerRegisters>();
    if (__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0) == 0 && elect_one()) {
      fill_weight_stages<Tile>(p, ring);
    }
    return;
  }
  take_registers<Tile::kConsumerRegisters>();
  const auto a = MatrixWalk::rows_adjacent(0, 128, Tile::first_row());
  const auto b = MatrixWalk::rows_adjacent(Tile::kABytes, p.chunk * 2, Tile::first_column());
  const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32, in_warp = thread % 32;
  const int taps = p.taps.taps(), channels = p.channels, padded = p.chunks * p.chunk;
  for (std::int64_t item = blockIdx.x; item < p.items; item += gridDim.x) {
    const WeightTile tile = weight_tile<Tile>(p, item);
    typename Tile::Sums sums;
    Tile::multiply(&ring, a, b, tile.steps, 1, sums);

    // Epilogue: a thread's rows, and the tap and channel of its first column; a tap's chunks follow
    // each other.
    float* row[Tile::kBlocks][2];
#pragma unroll
    for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int k = tile.row0 + Tile::first_row() + i * 64 + warp * 16 + half * 8 + in_warp / 4;
        const std::int64_t number = tile.split * p.K + tile.group * p.outputs + k;
        row[i][half] = k < p.outputs ? sums_of_splits + number * taps * channels : nullptr;
      }
    }
    std::int64_t tap = tile.chunk0 + Tile::first_column() / p.chunk;
    int c = p.by_chunks.divide(&tap) * p.chunk + Tile::first_column() % p.chunk;
#pragma unroll
    for (int j = 0; j < Tile::kColumns / 8; ++j) {
      if (tap < taps && c < channels) {
        const auto offset = static_cast<int>(tap) * channels + c + in_warp % 4 * 2;
#pragma unroll
        for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            if (row[i][half] == nullptr) continue;
            store_pack(row[i][half] + offset,
                       Pack<float, 2>{{sums[i][4 * j + 2 * half], sums[i][4 * j + 2 * half + 1]}});
          }
        }
      }
      c += 8;
      if (c == padded) {
        c = 0;
        ++tap;
      }
    }
  }
}

}  // namespace convext::cuda
