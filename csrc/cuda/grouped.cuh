// fprop_grouped, dgrad_grouped, wgrad_grouped: a few channels a group
//
// computes  fprop  output[pixel][k] = bias[k] + sum over taps and c of
//                      input[pixel at tap][c] * weight[k][tap][c]
//           dgrad  grad_input[pixel][c] = sum over taps and k of
//                      grad_output[pixel at tap][k] * weight[k][tap][c]
//           wgrad  sums[split][k][tap][c] = sum over the split's pixels of
//                      grad_output[pixel][k] * input[pixel at tap][c]
//           with c and k of one group.
// owns      fprop, dgrad: a thread has kColumns pixels of a row, of one channel; a CTA 32
//           neighbouring channels by 4 such strips. wgrad: a thread has one output channel, Vec
//           input channels and up to kTaps taps of one kernel row; a CTA 32 output channels, and
//           its 4 warps take every 4th row of a split and are added in order.
// budget    kColumns sums and kColumns * Vec operands: under 128 registers; shared: the weights of
//           the CTA's 32 channels as [tap][source channel][channel], 9 * 32 * 32 * 4 = 36 KiB for
//           3x3 and 32 a group.
// needs     channels adjacent. Vec > 1: a group's source channels in whole aligned vectors.
// bound by  loads: Vec * kColumns multiplications for kColumns loads of the source, which the
//           threads of a group share, and Vec of shared memory.
// step      from depthwise: a sum over the group's channels. From implicit GEMM: no lanes of a tile
//           that belong to no channel of the group.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

struct GroupedTile {
  static constexpr int kChannels = 32, kStrips = 4, kThreads = kChannels * kStrips;
  static constexpr int kBlocks = 4;   // an SM, at least
  static constexpr int kColumns = 4;  // of a thread's strip
  static constexpr int kTaps = 4;     // of a kernel's row, that wgrad's thread sums at once
};

// The weights that end in channels [first, first + 32), as [tap][source channel][channel]; zeros
// beyond the last.
template <bool Forward, class T>
CONVEXT_DEVICE void stage_group_weights(const ConvParams& v, const T* weight, int first,
                                        Compute<T>* staged) {
  const int depth = Forward ? v.channels : v.outputs, all = Forward ? v.K : v.C;
  const int count = v.R * v.S * depth * GroupedTile::kChannels;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += GroupedTile::kThreads) {
    const int channel = first + i % GroupedTile::kChannels;
    const int d = i / GroupedTile::kChannels % depth, tap = i / GroupedTile::kChannels / depth;
    const int k = Forward ? channel : channel / v.channels * v.outputs + d;
    const int c = Forward ? d : channel % v.channels;
    staged[i] = channel < all ? to_compute(weight[offset_of(v.weight, k, c, tap / v.S, tap % v.S)])
                              : Compute<T>(0);
  }
}

// What one tap adds: the source channels of a pixel, Vec at a time, by the tap's weights.
template <class T, int Vec, int Columns>
CONVEXT_DEVICE void add_tap(const T* const (&pixel)[Columns], int depth, const Compute<T>* weights,
                            Compute<T> (&sum)[Columns]) {
#pragma unroll 1
  for (int d = 0; d < depth; d += Vec) {
    Compute<T> w[Vec];
#pragma unroll
    for (int e = 0; e < Vec; ++e) w[e] = weights[(d + e) * GroupedTile::kChannels];
#pragma unroll
    for (int i = 0; i < Columns; ++i) {
      if (pixel[i] == nullptr) continue;
      const auto x = load_pack<Vec>(pixel[i] + d);
#pragma unroll
      for (int e = 0; e < Vec; ++e) sum[i] += to_compute(x.element[e]) * w[e];
    }
  }
}

template <class T, int Vec>
__global__ void __launch_bounds__(GroupedTile::kThreads, GroupedTile::kBlocks)
    fprop_grouped(ConvParams v, Divisor by_strips, const T* __restrict__ input,
                  const T* __restrict__ weight, const T* __restrict__ bias,
                  T* __restrict__ output) {
  using Tile = GroupedTile;
  SHARED_DYNAMIC(shared);
  auto* staged = reinterpret_cast<Compute<T>*>(shared);
  unsigned rest = blockIdx.x;
  const int k0 = take(&rest, block_count(v.K, Tile::kChannels)) * Tile::kChannels;
  stage_group_weights<true>(v, weight, k0, staged);
  __syncthreads();  // the weights are there

  const int lane = static_cast<int>(threadIdx.x) % Tile::kChannels, k = k0 + lane;
  const std::int64_t strip =
      static_cast<std::int64_t>(rest) * Tile::kStrips + threadIdx.x / Tile::kChannels;
  if (k >= v.K || strip >= static_cast<std::int64_t>(v.N) * v.P * by_strips.d) return;
  const Pixel at = pixel_at(strip, v.by_P, by_strips);
  const int q0 = at.q * Tile::kColumns;
  const T* image = input + at.n * v.input.n + k / v.outputs * v.channels;

  Compute<T> sum[Tile::kColumns] = {};
  for (int r = 0; r < v.R; ++r) {
    const int h = source_index(v.padding_mode,
                               virtual_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
    if (h < 0) continue;
    for (int s = 0; s < v.S; ++s) {
      const T* pixel[Tile::kColumns];
#pragma unroll
      for (int i = 0; i < Tile::kColumns; ++i) {
        const int w = source_index(
            v.padding_mode, virtual_index(q0 + i, s, v.stride_w, v.pad_left, v.dilation_w), v.W);
        const bool in = w >= 0 && q0 + i < v.Q;
        pixel[i] = in ? image + h * v.input.h + w * v.input.w : nullptr;
      }
      add_tap<T, Vec>(pixel, v.channels,
                      staged + (r * v.S + s) * v.channels * Tile::kChannels + lane, sum);
    }
  }

  // Epilogue.
  const Compute<T> start = bias != nullptr ? to_compute(bias[k]) : Compute<T>(0);
#pragma unroll
  for (int i = 0; i < Tile::kColumns; ++i) {
    if (q0 + i >= v.Q) break;
    output[offset_of(v.output, at.n, k, at.p, q0 + i)] = to_storage<T>(sum[i] + start);
  }
}

template <class T, int Vec>
__global__ void __launch_bounds__(GroupedTile::kThreads, GroupedTile::kBlocks)
    dgrad_grouped(ConvParams v, Divisor by_H, Divisor by_strips, const T* __restrict__ grad_output,
                  const T* __restrict__ weight, T* __restrict__ grad_input) {
  using Tile = GroupedTile;
  SHARED_DYNAMIC(shared);
  auto* staged = reinterpret_cast<Compute<T>*>(shared);
  unsigned rest = blockIdx.x;
  const int c0 = take(&rest, block_count(v.C, Tile::kChannels)) * Tile::kChannels;
  stage_group_weights<false>(v, weight, c0, staged);
  __syncthreads();  // the weights are there

  const int lane = static_cast<int>(threadIdx.x) % Tile::kChannels, c = c0 + lane;
  const std::int64_t strip =
      static_cast<std::int64_t>(rest) * Tile::kStrips + threadIdx.x / Tile::kChannels;
  if (c >= v.C || strip >= static_cast<std::int64_t>(v.N) * v.H * by_strips.d) return;
  const Pixel at = pixel_at(strip, by_H, by_strips);  // of the input: p is h, q the strip
  const int w0 = at.q * Tile::kColumns;
  const T* image = grad_output + at.n * v.output.n + c / v.channels * v.outputs;

  Compute<T> sum[Tile::kColumns] = {};
  for (int r = 0; r < v.R; ++r) {
    const int p = output_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h, v.P);
    if (p < 0) continue;
    for (int s = 0; s < v.S; ++s) {
      const T* pixel[Tile::kColumns];
#pragma unroll
      for (int i = 0; i < Tile::kColumns; ++i) {
        const int q = output_index(w0 + i, s, v.stride_w, v.pad_left, v.dilation_w, v.Q);
        pixel[i] = q >= 0 ? image + p * v.output.h + q * v.output.w : nullptr;
      }
      add_tap<T, Vec>(pixel, v.outputs, staged + (r * v.S + s) * v.outputs * Tile::kChannels + lane,
                      sum);
    }
  }

  // Epilogue.
#pragma unroll
  for (int i = 0; i < Tile::kColumns; ++i) {
    if (w0 + i >= v.W) break;
    grad_input[offset_of(v.input, at.n, c, at.p, w0 + i)] = to_storage<T>(sum[i]);
  }
}

// Sums lie as [split][k][tap][c].
template <class T, int Vec>
__global__ void __launch_bounds__(GroupedTile::kThreads, GroupedTile::kBlocks)
    wgrad_grouped(ConvParams v, std::int64_t share, const T* __restrict__ grad_output,
                  const T* __restrict__ input, Compute<T>* __restrict__ sums) {
  using Tile = GroupedTile;
  SHARED_ARRAY(Compute<T>, part, [Tile::kStrips][Tile::kTaps][Vec][Tile::kChannels]);
  unsigned rest = blockIdx.x;
  const int k0 = take(&rest, block_count(v.K, Tile::kChannels)) * Tile::kChannels;
  const int c0 = take(&rest, v.channels / Vec) * Vec;
  const int s0 = take(&rest, block_count(v.S, Tile::kTaps)) * Tile::kTaps;
  const int r = take(&rest, v.R);
  const std::int64_t split = rest;
  const int lane = static_cast<int>(threadIdx.x) % Tile::kChannels, k = k0 + lane;
  const int warp = static_cast<int>(threadIdx.x) / Tile::kChannels;
  const std::int64_t rows = static_cast<std::int64_t>(v.N) * v.P;
  const std::int64_t end = (split + 1) * share < rows ? (split + 1) * share : rows;

  Compute<T> sum[Tile::kTaps][Vec] = {};
  if (k < v.K) {
    const int channel = k / v.outputs * v.channels + c0;
    for (std::int64_t row = split * share + warp; row < end; row += Tile::kStrips) {
      std::int64_t image = row;
      const int p = v.by_P.divide(&image), n = static_cast<int>(image);
      const int h = source_index(v.padding_mode,
                                 virtual_index(p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
      if (h < 0) continue;
      const T* x_row = input + offset_of(v.input, n, channel, h, 0);
      const T* g_row = grad_output + offset_of(v.output, n, k, p, 0);
      for (int q = 0; q < v.Q; ++q) {
        const Compute<T> g = to_compute(g_row[q * v.output.w]);
#pragma unroll
        for (int t = 0; t < Tile::kTaps; ++t) {
          if (s0 + t >= v.S) break;
          const int w = source_index(
              v.padding_mode, virtual_index(q, s0 + t, v.stride_w, v.pad_left, v.dilation_w), v.W);
          if (w < 0) continue;
          const auto x = load_pack<Vec>(x_row + w * v.input.w);
#pragma unroll
          for (int e = 0; e < Vec; ++e) sum[t][e] += g * to_compute(x.element[e]);
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < Tile::kTaps; ++t) {
#pragma unroll
    for (int e = 0; e < Vec; ++e) part[warp][t][e][lane] = sum[t][e];
  }
  __syncthreads();  // all warps' sums are there

  // Epilogue: neighbouring threads have neighbouring input channels.
  constexpr int kSums = Tile::kTaps * Vec * Tile::kChannels;
  for (int i = static_cast<int>(threadIdx.x); i < kSums; i += Tile::kThreads) {
    const int e = i % Vec, t = i / Vec % Tile::kTaps, from = i / Vec / Tile::kTaps;
    if (s0 + t >= v.S || k0 + from >= v.K) continue;
    Compute<T> total = part[0][t][e][from];
    for (int strip = 1; strip < Tile::kStrips; ++strip) total += part[strip][t][e][from];
    const std::int64_t tap = (split * v.K + k0 + from) * v.R * v.S + r * v.S + s0 + t;
    sums[tap * v.channels + c0 + e] = total;
  }
}

}  // namespace convext::cuda
