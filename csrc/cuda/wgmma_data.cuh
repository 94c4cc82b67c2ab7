// wgmma_data: forward and input gradient on Hopper
//
// computes  fprop  output[pixel][k] = bias[k] + sum over taps and c of
//                      input[pixel at tap][c] * weight[k][tap][c]
//           dgrad  grad_input[pixel][c] = sum over taps and k of
//                      grad_output[pixel at tap][k] * weight[k][tap][c], all classes of the stride in
//                  one launch, those of the most taps first
//           GEMM view: gemm_m = pixels, gemm_n = channels of the result ("lanes"), gemm_k = taps x
//           channels. A tile that swaps them has 64 lanes as rows and its pixels as columns: wgmma
//           reads 64 rows for each 64 columns, so that of a tile of 64 lanes those rows are better
//           the lanes.
// owns      CTA: tiles of pixels and lanes, one after the other until all are done; of one block of
//           pixels the tiles of all lanes come at the same time, so that pixels are read once. Two
//           CTAs of a cluster have the same lanes, and each copies half of the weights for both.
// budget    wgmma_tile.cuh
// needs     channels adjacent and in 16 bytes, tensors and strides of 16-byte multiples, what the
//           hardware's copies can express (tensor_map.h); with groups, channels and outputs of one in
//           64s. Padding of zeros.
// bound by  wgmma; at 64 lanes, copies from the L2 cache, which read a pixel once for each tap.
// step      from mma: pixels at a tap are one copy of the hardware's (im2col mode), which fills in
//           the zeros of padding; from grid to persistent CTAs, whose producer begins the next tile
//           while the results of one are stored.
#pragma once

#include "wgmma_tile.cuh"

namespace convext::cuda {

inline constexpr int kMostClasses = 16;  // a stride of 4 x 4

// A launch's arguments. They stay where the launch put them (__grid_constant__): maps must.
struct DataParams {
  TensorMap pixels[kMostClasses];  // the operand whose pixels are read, by class
  TensorMap weight, result;
  TapClass classes[kMostClasses];
  int class_count;
  std::int64_t items;                // pieces of work: a tile for each CTA of a cluster
  int ctas;                          // of a cluster
  int images, groups, depth, lanes;  // depth and lanes: channels of a group
  Divisor by_lane_tiles, by_groups;
  int slice;
  int tap_width;      // S: taps of the weight lie in rows of so many
  bool result_tiled;  // the result's pixels are evenly spaced
  Strides result_strides;
};

struct DataTile {
  int of_class, group, lane0;
  std::int64_t pixel0, pixels;  // of the class in all
  bool in;                      // else a repetition, for the other CTA's sake, that is not stored
};

// Piece `item` of the work, for one CTA of its cluster.
CONVEXT_DEVICE DataTile data_tile(const DataParams& p, std::int64_t item, int cta, int tile_pixels,
                                  int tile_lanes) {
  DataTile tile;
  tile.of_class = 0;
  while (tile.of_class + 1 < p.class_count && item >= p.classes[tile.of_class + 1].first_item) {
    ++tile.of_class;
  }
  const TapClass& of = p.classes[tile.of_class];
  std::int64_t rest = item - of.first_item;
  tile.lane0 = p.by_lane_tiles.divide(&rest) * tile_lanes;
  tile.group = p.by_groups.divide(&rest);
  tile.pixels = p.images * of.in_image();
  tile.pixel0 = (rest * p.ctas + cta) * tile_pixels;
  tile.in = tile.pixel0 < tile.pixels;
  if (!tile.in) tile.pixel0 -= tile_pixels;
  return tile;
}

// Lanes are Tile's rows if Swap, else its columns. WeightMajor: 0 of fprop, whose weights lie along
// the depth, 1 of dgrad, whose lie along the lanes.
template <class T, int Pixels, int Lanes, int ConsumersPixels, int ConsumersLanes, int WeightMajor,
          bool Swap>
struct DataTiling {
  static constexpr int kPixels = Pixels, kLanes = Lanes, kWeightMajor = WeightMajor;
  static constexpr int kElement = static_cast<int>(sizeof(T)), kDepth = kStepDepth<T>;
  static constexpr bool kSwap = Swap;
  using Tile = std::conditional_t<
      Swap, WgmmaTile<T, Lanes, Pixels, ConsumersLanes, ConsumersPixels, WeightMajor, 0, true>,
      WgmmaTile<T, Pixels, Lanes, ConsumersPixels, ConsumersLanes, 0, WeightMajor, true>>;
  static constexpr int kPixelsAt = Swap ? Tile::kABytes : 0;  // in a stage
  static constexpr int kWeightAt = Swap ? 0 : Tile::kABytes;
};

// ---- producer -----------------------------------------------------------------------------------

// One thread for the whole CTA: what does not change within a tile is kept in registers, for it has no
// more than some hundred cycles for a step.
template <class Tiling>
CONVEXT_DEVICE void fill_data_stages(const DataParams& p, typename Tiling::Tile::Ring ring,
                                     std::int64_t item, std::int64_t stride, int cta) {
  const int slice = p.slice, depth = p.depth, ctas = p.ctas;
  const int beyond = depth * p.groups;  // channels that no tensor has, and which are zeros
  const TensorMap* const weight = &p.weight;
  // Of the weights each CTA of the cluster copies its part for all: rows, or depths.
  const int part_rows = ctas == 1 ? Tiling::kLanes : Tiling::kLanes / 2;
  const int part_depths = ctas == 1 ? slice : slice / 2, all_ctas = (1 << ctas) - 1;
  prefetch_map(&p.pixels[0]);
  prefetch_map(weight);
  for (; item < p.items; item += stride) {
    const DataTile tile = data_tile(p, item, cta, Tiling::kPixels, Tiling::kLanes);
    const TapAxis rows = p.classes[tile.of_class].rows, columns = p.classes[tile.of_class].columns;
    const TensorMap* const pixels = &p.pixels[tile.of_class];
    const bool matrix = p.classes[tile.of_class].matrix;
    const Pixel at = p.classes[tile.of_class].at(tile.pixel0);
    const auto pixel0 = static_cast<int>(tile.pixel0);
    const int w0 = columns.start + at.q * columns.step, h0 = rows.start + at.p * rows.step;
    const int first_tap = rows.first_tap * p.tap_width + columns.first_tap;
    const int tap_step_h = rows.tap_step * p.tap_width, tap_step_w = columns.tap_step;
    const int group_channel = tile.group * depth;
    const int row = tile.group * p.lanes + tile.lane0 + cta * part_rows;
    const int steps = steps_of(rows.taps * columns.taps, depth, slice, Tiling::kDepth);
    TapWalk walk{columns.taps, depth, slice};
    for (int step = 0; step < steps; ++step) {
      std::uint64_t* const barrier = ring.begin_filling();
      unsigned char* const stage = ring.here();
      for (int part = 0; part < Tiling::kDepth; part += slice, walk.next()) {
        const bool over = walk.r >= rows.taps;  // behind the last tap
        const int r = over ? 0 : walk.r, s = over ? 0 : walk.s;
        const int channel = over ? beyond : group_channel + walk.c;
        unsigned char* const to_pixels =
            stage + Tiling::kPixelsAt + part * Tiling::kPixels * Tiling::kElement;
        if (matrix) {
          tma_load_2d(to_pixels, pixels, barrier, channel, pixel0);
        } else {
          tma_load_im2col(to_pixels, pixels, barrier, channel, w0, h0, at.n,
                          columns.offset + s * columns.offset_step,
                          rows.offset + r * rows.offset_step);
        }
        const int tap = first_tap + r * tap_step_h + s * tap_step_w;
        if constexpr (Tiling::kWeightMajor == 0) {  // [lanes][slice]
          unsigned char* const to =
              stage + Tiling::kWeightAt +
              (part * Tiling::kLanes + cta * part_rows * slice) * Tiling::kElement;
          const int c = over ? depth : walk.c;
          if (ctas == 1) {
            tma_load_3d(to, weight, barrier, c, tap, row);
          } else {
            tma_load_3d_multicast(to, weight, barrier, c, tap, row, all_ctas);
          }
        } else {  // [lanes / 64][depth][64]
          const int k = over ? beyond : channel + cta * part_depths;
#pragma unroll
          for (int lane = 0; lane < Tiling::kLanes; lane += 64) {
            unsigned char* const to =
                stage + Tiling::kWeightAt + lane * kStepBytes + (part + cta * part_depths) * 128;
            if (ctas == 1) {
              tma_load_3d(to, weight, barrier, tile.lane0 + lane, tap, k);
            } else {
              tma_load_3d_multicast(to, weight, barrier, tile.lane0 + lane, tap, k, all_ctas);
            }
          }
        }
      }
      ring.next();
    }
  }
}

// ---- epilogue -----------------------------------------------------------------------------------

CONVEXT_DEVICE unsigned pack_pair(__half, float a, float b) {
  const __half2 pair = __floats2half2_rn(a, b);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
CONVEXT_DEVICE unsigned pack_pair(__nv_bfloat16, float a, float b) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
  unsigned bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// Where 16-byte chunk `chunk` of a pixel's 128 bytes lies in a block of results: as copies permute it.
CONVEXT_DEVICE int result_chunk(int pixel, int chunk) {
  return pixel * 128 + ((chunk ^ pixel % 8) << 4);
}

// The bias of a consumer's lanes, zeros beyond the last, as float32 in shared memory: the barrier before
// the first block is stored comes between this and its use.
template <class T, class Tiling>
CONVEXT_DEVICE void stage_bias(const DataParams& p, const DataTile& tile, const T* bias,
                               float* staged) {
  using Tile = typename Tiling::Tile;
  constexpr int kLanes = Tiling::kSwap ? Tile::kRows : Tile::kColumns;
  static_assert(kLanes <= Tile::kMostLanes);
  const int first = tile.lane0 + (Tiling::kSwap ? Tile::first_row() : Tile::first_column());
  for (int i = static_cast<int>(threadIdx.x) % 128; i < kLanes; i += 128) {
    staged[i] = first + i < p.lanes ? to_compute(bias[tile.group * p.lanes + first + i]) : 0;
  }
}

// A consumer's results, in blocks of 64 pixels x 128 bytes of lanes: through shared memory to global
// memory. `stored` counts its blocks, whose buffers take turns.
template <class T, class Tiling>
CONVEXT_DEVICE void store_data(const DataParams& p, const DataTile& tile, unsigned char* buffers,
                               const float* staged_bias, T* result,
                               typename Tiling::Tile::Sums& sums, int* stored) {
  using Tile = typename Tiling::Tile;
  constexpr bool kSwap = Tiling::kSwap;
  constexpr int kVector = 16 / Tiling::kElement;
  // Of the sums, what becomes a block: swapped, a warp's 16 rows are 16 of the 64 lanes.
  constexpr int kColumns = kSwap ? 64 : 128 / Tiling::kElement;
  static_assert(!kSwap || Tiling::kElement == 2);
  const int thread = static_cast<int>(threadIdx.x) % 128, warp = thread / 32, in_warp = thread % 32;
  const int barrier = 1 + Tile::consumer();
  const TapClass& of = p.classes[tile.of_class];
  const int group_lane = tile.group * p.lanes;

#pragma unroll
  for (int i = 0; i < Tile::kBlocks; ++i) {
#pragma unroll
    for (int j = 0; j < Tile::kColumns / kColumns; ++j) {
      const int row = Tile::first_row() + i * 64, column = Tile::first_column() + j * kColumns;
      const std::int64_t pixel0 = tile.pixel0 + (kSwap ? column : row);
      const int lane0 = tile.lane0 + (kSwap ? row : column);
      // The same for all threads of the consumer. Lanes beyond a group's are another group's.
      if (!tile.in || lane0 >= p.lanes || pixel0 >= tile.pixels) continue;
      unsigned char* const buffer = buffers + (*stored)++ % 2 * Tile::kBlockBytes;

      // The copy that was started from this buffer, the last but one, has read it.
      if (p.result_tiled && thread == 0) tma_store_wait_read<1>();
      named_barrier(barrier, 128);

      // A thread's sums: rows g and g + 8, columns 2t and 2t + 1 of each 8.
      const auto with_bias = [&](int half, int c, int e) {
        const float sum = sums[i][(j * kColumns + c) / 2 + half * 2 + e];
        if (staged_bias == nullptr) return sum;
        return sum + staged_bias[kSwap ? i * 64 + warp * 16 + half * 8 + in_warp / 4
                                       : j * kColumns + c + in_warp % 4 * 2 + e];
      };
      if constexpr (Tiling::kElement == 4) {
#pragma unroll
        for (int c = 0; c < kColumns; c += 8) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int pixel = warp * 16 + half * 8 + in_warp / 4, at = c + in_warp % 4 * 2;
            store_pack(reinterpret_cast<T*>(buffer + result_chunk(pixel, at / 4)) + at % 4,
                       Pack<T, 2>{{with_bias(half, c, 0), with_bias(half, c, 1)}});
          }
        }
      } else {
#pragma unroll
        for (int c = 0; c < kColumns; c += 16) {
          unsigned matrices[4];  // of 8 x 8: rows + 0 and + 8, then of columns + 8
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int half = e % 2, at = c + e / 2 * 8;
            matrices[e] = pack_pair(T{}, with_bias(half, at, 0), with_bias(half, at, 1));
          }
          const int matrix = in_warp / 8;
          if constexpr (kSwap) {
            const int pixel = c + matrix / 2 * 8 + in_warp % 8;
            stmatrix_x4_trans(buffer + result_chunk(pixel, warp * 2 + matrix % 2), matrices);
          } else {
            const int pixel = warp * 16 + matrix % 2 * 8 + in_warp % 8;
            stmatrix_x4(buffer + result_chunk(pixel, c / 8 + matrix / 2), matrices);
          }
        }
      }
      if (p.result_tiled) fence_proxy_async();
      named_barrier(barrier, 128);  // the block is there

      if (p.result_tiled) {
        if (thread == 0) {
          tma_store_2d(&p.result, buffer, group_lane + lane0, static_cast<int>(pixel0));
          tma_store_commit();
        }
        continue;
      }
      // Pixels of a class lie apart: eight threads each store one's 128 bytes.
#pragma unroll
      for (int k = 0; k < 64; k += 16) {
        const int pixel = k + thread / 8, chunk = thread % 8, first = lane0 + chunk * kVector;
        if (pixel0 + pixel >= tile.pixels || first >= p.lanes) continue;
        const Pixel at = of.at(pixel0 + pixel);
        const std::int64_t offset =
            offset_of(p.result_strides, at.n, 0, of.rows.residue + at.p * of.rows.result_step,
                      of.columns.residue + at.q * of.columns.result_step);
        store_pack(
            result + offset + group_lane + first,
            load_pack<kVector>(reinterpret_cast<const T*>(buffer + result_chunk(pixel, chunk))));
      }
    }
  }
}

// ---- the kernel ---------------------------------------------------------------------------------

template <class T, class Tiling>
__global__ void __launch_bounds__(Tiling::Tile::kThreads, 1)
    wgmma_data(const __grid_constant__ DataParams p, const T* __restrict__ bias,
               T* __restrict__ result) {
  using Tile = typename Tiling::Tile;
  SHARED_DYNAMIC(shared);
  typename Tile::Ring ring(shared);
  const int cta = p.ctas == 1 ? 0 : cluster_cta();
  if (threadIdx.x == 0) ring.init(p.ctas);
  __syncwarp();
  cluster_sync();  // the barriers are there, in both CTAs

  const std::int64_t first = blockIdx.x / static_cast<unsigned>(p.ctas);
  const std::int64_t stride = gridDim.x / static_cast<unsigned>(p.ctas);
  if (Tile::warpgroup() == 0) {
    give_registers<Tile::kProducerRegisters>();
    if (__shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0) == 0 && elect_one()) {
      fill_data_stages<Tiling>(p, ring, first, stride, cta);
    }
  } else {
    take_registers<Tile::kConsumerRegisters>();
    unsigned char* const own =
        shared + Tile::kStages * Tile::kStageBytes + Tile::consumer() * 2 * Tile::kBlockBytes;
    // Behind the blocks of both consumers.
    auto* const staged = reinterpret_cast<float*>(shared + Tile::kStages * Tile::kStageBytes +
                                                  Tile::kConsumers * 2 * Tile::kBlockBytes +
                                                  Tile::consumer() * Tile::kBiasBytes);
    const int slice = p.slice * Tiling::kElement;
    const auto pixels =
        MatrixWalk::depth_adjacent(Tiling::kPixelsAt, Tiling::kPixels, slice,
                                   Tiling::kSwap ? Tile::first_column() : Tile::first_row());
    const int lane = Tiling::kSwap ? Tile::first_row() : Tile::first_column();
    const auto weight =
        Tiling::kWeightMajor == 0
            ? MatrixWalk::depth_adjacent(Tiling::kWeightAt, Tiling::kLanes, slice, lane)
            : MatrixWalk::rows_adjacent(Tiling::kWeightAt, 128, lane);
    int stored = 0;
    for (std::int64_t item = first; item < p.items; item += stride) {
      const DataTile tile = data_tile(p, item, cta, Tiling::kPixels, Tiling::kLanes);
      const int steps = steps_of(p.classes[tile.of_class].taps(), p.depth, p.slice, Tiling::kDepth);
      if (bias != nullptr) stage_bias<T, Tiling>(p, tile, bias, staged);
      typename Tile::Sums sums;
      Tile::multiply(&ring, Tiling::kSwap ? weight : pixels, Tiling::kSwap ? pixels : weight, steps,
                     p.ctas, sums);
      store_data<T, Tiling>(p, tile, own, bias != nullptr ? staged : nullptr, result, sums,
                            &stored);
    }
    if (p.result_tiled && threadIdx.x % 128 == 0) tma_store_wait_read<0>();
  }
  __syncwarp();    // one lane was away
  cluster_sync();  // the other CTA copies into this one's stages, and arrives at its barriers
}

}  // namespace convext::cuda
