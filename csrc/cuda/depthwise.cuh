// fprop_depthwise, dgrad_depthwise, depthwise_window, wgrad_depthwise: one input channel a group
//
// computes  fprop  output[pixel][k] = bias[k] + sum over taps of
//                      input[pixel at tap][k / M] * weight[k][tap]
//           dgrad  grad_input[pixel][c] = sum over taps and m < M of
//                      grad_output[pixel at tap][c * M + m] * weight[c * M + m][tap]
//           wgrad  sums[split][k][tap] = sum over the split's pixels of
//                      grad_output[pixel][k] * input[pixel at tap][k / M]
//           with M = K / C outputs of each channel (the channel multiplier).
// owns      fprop, dgrad: a thread has kColumns pixels of a row, of Vec channels; a CTA 32 vectors
//           of channels by 4 such strips. wgrad: a CTA has 32 vectors of channels, one kernel row
//           and one split of the rows of the output; its 4 warps take every 4th row and are added
//           in order.
// budget    kColumns * Vec sums: 4 * 8 = 32 registers; shared: the taps of the CTA's channels as
//           [tap][channel], 49 * 256 * 4 = 49 KiB for 7x7 of 16-bit types, which any kernel may
//           have up to 48: the launcher raises the limit.
// needs     channels adjacent. Vec > 1: channels in whole aligned vectors, and M = 1.
// bound by  memory for 3x3: taps are found in the caches; FMA for 7x7.
// step      from implicit GEMM: there is no sum over channels, so nothing to multiply as matrices.
//           Neighbouring threads have neighbouring channels, and a thread's loads are 16 bytes.
//           depthwise_window, for the usual kernels, reads a column of the source once for all the
//           pixels of a thread; fprop_depthwise and dgrad_depthwise serve the rest.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

struct DepthwiseTile {
  static constexpr int kVectors = 32, kStrips = 4, kThreads = kVectors * kStrips;
  static constexpr int kBlocks = 4;   // an SM, at least
  static constexpr int kColumns = 4;  // of a thread's strip
  static constexpr int kTaps = 4;     // of a kernel's row, that wgrad's thread sums at once
};

// The taps of channels [k0, k0 + count) to shared memory, [tap][count]; zeros beyond the last.
template <class T>
CONVEXT_DEVICE void stage_taps(const ConvParams& v, const T* weight, int k0, int count,
                               Compute<T>* taps) {
  for (int i = static_cast<int>(threadIdx.x); i < count * v.R * v.S; i += DepthwiseTile::kThreads) {
    const int lane = i % count, tap = i / count, k = k0 + lane;
    taps[i] = k < v.K ? to_compute(weight[offset_of(v.weight, k, 0, tap / v.S, tap % v.S)])
                      : Compute<T>(0);
  }
}

template <class T, int Vec>
__global__ void __launch_bounds__(DepthwiseTile::kThreads, DepthwiseTile::kBlocks)
    fprop_depthwise(ConvParams v, Divisor by_strips, const T* __restrict__ input,
                    const T* __restrict__ weight, const T* __restrict__ bias,
                    T* __restrict__ output) {
  using Tile = DepthwiseTile;
  constexpr int kChannels = Tile::kVectors * Vec;
  SHARED_DYNAMIC(shared);
  auto* taps = reinterpret_cast<Compute<T>*>(shared);
  unsigned rest = blockIdx.x;
  const int k0 = take(&rest, block_count(v.K, kChannels)) * kChannels;
  stage_taps(v, weight, k0, kChannels, taps);
  __syncthreads();  // the taps are there

  const int lane = static_cast<int>(threadIdx.x) % Tile::kVectors * Vec, k = k0 + lane;
  const std::int64_t strip =
      static_cast<std::int64_t>(rest) * Tile::kStrips + threadIdx.x / Tile::kVectors;
  if (k >= v.K || strip >= static_cast<std::int64_t>(v.N) * v.P * by_strips.d) return;
  const Pixel at = pixel_at(strip, v.by_P, by_strips);
  const int q0 = at.q * Tile::kColumns;
  const T* image = input + at.n * v.input.n + k / v.outputs;

  Compute<T> sum[Tile::kColumns][Vec] = {};
  for (int r = 0; r < v.R; ++r) {
    const int h = source_index(v.padding_mode,
                               virtual_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
    if (h < 0) continue;
    for (int s = 0; s < v.S; ++s) {
      const Compute<T>* tap = taps + (r * v.S + s) * kChannels + lane;
#pragma unroll
      for (int i = 0; i < Tile::kColumns; ++i) {
        const int w = source_index(
            v.padding_mode, virtual_index(q0 + i, s, v.stride_w, v.pad_left, v.dilation_w), v.W);
        if (w < 0 || q0 + i >= v.Q) continue;
        const auto x = load_pack<Vec>(image + h * v.input.h + w * v.input.w);
#pragma unroll
        for (int e = 0; e < Vec; ++e) sum[i][e] += to_compute(x.element[e]) * tap[e];
      }
    }
  }

  // Epilogue.
#pragma unroll
  for (int i = 0; i < Tile::kColumns; ++i) {
    if (q0 + i >= v.Q) break;
    Pack<Compute<T>, Vec> values;
#pragma unroll
    for (int e = 0; e < Vec; ++e) {
      values.element[e] = sum[i][e] + (bias != nullptr ? to_compute(bias[k + e]) : Compute<T>(0));
    }
    store_lanes<false>(output + offset_of(v.output, at.n, k, at.p, q0 + i), values, Vec);
  }
}

template <class T, int Vec>
__global__ void __launch_bounds__(DepthwiseTile::kThreads, DepthwiseTile::kBlocks)
    dgrad_depthwise(ConvParams v, Divisor by_H, Divisor by_strips,
                    const T* __restrict__ grad_output, const T* __restrict__ weight,
                    T* __restrict__ grad_input) {
  using Tile = DepthwiseTile;
  constexpr int kChannels = Tile::kVectors * Vec;
  SHARED_DYNAMIC(shared);
  auto* taps = reinterpret_cast<Compute<T>*>(shared);
  unsigned rest = blockIdx.x;
  const int c0 = take(&rest, block_count(v.C, kChannels)) * kChannels;
  const int multiplier = v.outputs;
  stage_taps(v, weight, c0 * multiplier, kChannels * multiplier, taps);
  __syncthreads();  // the taps are there

  const int lane = static_cast<int>(threadIdx.x) % Tile::kVectors * Vec, c = c0 + lane;
  const std::int64_t strip =
      static_cast<std::int64_t>(rest) * Tile::kStrips + threadIdx.x / Tile::kVectors;
  if (c >= v.C || strip >= static_cast<std::int64_t>(v.N) * v.H * by_strips.d) return;
  const Pixel at = pixel_at(strip, by_H, by_strips);  // of the input: p is h, q the strip
  const int w0 = at.q * Tile::kColumns;
  const T* image = grad_output + at.n * v.output.n;

  Compute<T> sum[Tile::kColumns][Vec] = {};
  for (int r = 0; r < v.R; ++r) {
    const int p = output_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h, v.P);
    if (p < 0) continue;
    for (int s = 0; s < v.S; ++s) {
#pragma unroll
      for (int i = 0; i < Tile::kColumns; ++i) {
        const int q = output_index(w0 + i, s, v.stride_w, v.pad_left, v.dilation_w, v.Q);
        if (q < 0) continue;
#pragma unroll 1  // a thread's registers hold one multiplication's operands at a time
        for (int m = 0; m < multiplier; ++m) {
          const Compute<T>* tap =
              taps + (r * v.S + s) * kChannels * multiplier + lane * multiplier + m;
          const auto g =
              load_pack<Vec>(image + p * v.output.h + q * v.output.w + c * multiplier + m);
#pragma unroll
          for (int e = 0; e < Vec; ++e) sum[i][e] += to_compute(g.element[e]) * tap[e];
        }
      }
    }
  }

  // Epilogue.
#pragma unroll
  for (int i = 0; i < Tile::kColumns; ++i) {
    if (w0 + i >= v.W) break;
    Pack<Compute<T>, Vec> values;
#pragma unroll
    for (int e = 0; e < Vec; ++e) values.element[e] = sum[i][e];
    store_lanes<false>(grad_input + offset_of(v.input, at.n, c, at.p, w0 + i), values, Vec);
  }
}

// What one row of a source adds to a strip, for kernels of S columns: source column j is read once
// and serves the outputs i whose tap is j - i * Step. column(j) is its index, or negative for zeros.
template <class T, int Vec, int S, int Step, class Column>
CONVEXT_DEVICE void add_row(const T* row, std::int64_t step, const Compute<T>* taps, int pitch,
                            int outputs, Column&& column,
                            Compute<T> (&sum)[DepthwiseTile::kColumns][Vec]) {
  constexpr int kColumns = DepthwiseTile::kColumns;
  Compute<T> tap[S][Vec];
#pragma unroll
  for (int s = 0; s < S; ++s) {
#pragma unroll
    for (int e = 0; e < Vec; ++e) tap[s][e] = taps[s * pitch + e];
  }
#pragma unroll
  for (int j = 0; j < (kColumns - 1) * Step + S; ++j) {
    if (j >= (outputs - 1) * Step + S) break;  // beyond the last output's last tap
    const int w = column(j);
    if (w < 0) continue;
    const auto x = load_pack<Vec>(row + w * step);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int s = j - i * Step;
      if (s < 0 || s >= S) continue;
#pragma unroll
      for (int e = 0; e < Vec; ++e) sum[i][e] += to_compute(x.element[e]) * tap[s][e];
    }
  }
}

// fprop, and input grad of stride 1 (Flip: the same with taps in reverse), of kernels of S columns
// without dilation across, with one output of each channel. A CTA takes `turns` strips for each of
// its warps, so that staging its taps is paid for.
template <class T, int Vec, int S, int Step, bool Flip>
__global__ void __launch_bounds__(DepthwiseTile::kThreads, DepthwiseTile::kBlocks)
    depthwise_window(ConvParams v, Divisor by_rows, Divisor by_strips, int turns,
                     const T* __restrict__ source, const T* __restrict__ weight,
                     const T* __restrict__ bias, T* __restrict__ result) {
  using Tile = DepthwiseTile;
  constexpr int kChannels = Tile::kVectors * Vec;
  SHARED_DYNAMIC(shared);
  auto* taps = reinterpret_cast<Compute<T>*>(shared);
  unsigned rest = blockIdx.x;
  const int k0 = take(&rest, block_count(v.K, kChannels)) * kChannels;
  stage_taps(v, weight, k0, kChannels, taps);
  __syncthreads();  // the taps are there

  const int lane = static_cast<int>(threadIdx.x) % Tile::kVectors * Vec, k = k0 + lane;
  if (k >= v.K) return;
  const Strides &from = Flip ? v.output : v.input, &to = Flip ? v.input : v.output;
  const int height = Flip ? v.P : v.H, width = Flip ? v.Q : v.W, across = Flip ? v.W : v.Q;
  for (int turn = 0; turn < turns; ++turn) {
    const std::int64_t strip = (static_cast<std::int64_t>(rest) * turns + turn) * Tile::kStrips +
                               threadIdx.x / Tile::kVectors;
    if (strip >= static_cast<std::int64_t>(v.N) * by_rows.d * by_strips.d) return;
    const Pixel at = pixel_at(strip, by_rows, by_strips);  // of the result: q is the strip
    const int first = at.q * Tile::kColumns;
    const int outputs = across - first < Tile::kColumns ? across - first : Tile::kColumns;
    const int column0 = Flip ? first + v.pad_left - (S - 1) : first * Step - v.pad_left;
    const T* image = source + at.n * from.n + k;

    Compute<T> sum[Tile::kColumns][Vec] = {};
    for (int r = 0; r < v.R; ++r) {
      const int row =
          Flip ? output_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h, height)
               : source_index(v.padding_mode,
                              virtual_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h), height);
      if (row < 0) continue;
      const Compute<T>* row_taps = taps + r * S * kChannels + lane;
      add_row<T, Vec, S, Step>(
          image + row * from.h, from.w, Flip ? row_taps + (S - 1) * kChannels : row_taps,
          Flip ? -kChannels : kChannels, outputs,
          [&](int j) {
            const int w = column0 + j;
            return Flip ? (w < width ? w : -1) : source_index(v.padding_mode, w, width);
          },
          sum);
    }

    // Epilogue.
#pragma unroll
    for (int i = 0; i < Tile::kColumns; ++i) {
      if (i >= outputs) break;
      Pack<Compute<T>, Vec> values;
#pragma unroll
      for (int e = 0; e < Vec; ++e) {
        values.element[e] = sum[i][e] + (bias != nullptr ? to_compute(bias[k + e]) : Compute<T>(0));
      }
      store_lanes<false>(result + offset_of(to, at.n, k, at.p, first + i), values, Vec);
    }
  }
}

// Sums lie as [split][k][tap]. Columns of the kernel are taken kTaps at a time.
template <class T, int Vec>
__global__ void __launch_bounds__(DepthwiseTile::kThreads, DepthwiseTile::kBlocks)
    wgrad_depthwise(ConvParams v, std::int64_t share, const T* __restrict__ grad_output,
                    const T* __restrict__ input, Compute<T>* __restrict__ sums) {
  using Tile = DepthwiseTile;
  constexpr int kChannels = Tile::kVectors * Vec, kTaps = Tile::kTaps;
  SHARED_ARRAY(Compute<T>, part, [Tile::kStrips][kTaps][kChannels]);
  unsigned rest = blockIdx.x;
  const int k0 = take(&rest, block_count(v.K, kChannels)) * kChannels;
  const int s0 = take(&rest, block_count(v.S, kTaps)) * kTaps;
  const int r = take(&rest, v.R);
  const std::int64_t split = rest;
  const int lane = static_cast<int>(threadIdx.x) % Tile::kVectors * Vec, k = k0 + lane;
  const int warp = static_cast<int>(threadIdx.x) / Tile::kVectors;
  const std::int64_t rows = static_cast<std::int64_t>(v.N) * v.P;
  const std::int64_t end = (split + 1) * share < rows ? (split + 1) * share : rows;

  Compute<T> sum[kTaps][Vec] = {};
  if (k < v.K) {
    for (std::int64_t row = split * share + warp; row < end; row += Tile::kStrips) {
      std::int64_t image = row;
      const int p = v.by_P.divide(&image), n = static_cast<int>(image);
      const int h = source_index(v.padding_mode,
                                 virtual_index(p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
      if (h < 0) continue;
      const T* x_row = input + offset_of(v.input, n, k / v.outputs, h, 0);
      const T* g_row = grad_output + offset_of(v.output, n, k, p, 0);
      for (int q = 0; q < v.Q; ++q) {
        const auto g = load_pack<Vec>(g_row + q * v.output.w);
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          if (s0 + t >= v.S) break;
          const int w = source_index(
              v.padding_mode, virtual_index(q, s0 + t, v.stride_w, v.pad_left, v.dilation_w), v.W);
          if (w < 0) continue;
          const auto x = load_pack<Vec>(x_row + w * v.input.w);
#pragma unroll
          for (int e = 0; e < Vec; ++e) {
            sum[t][e] += to_compute(g.element[e]) * to_compute(x.element[e]);
          }
        }
      }
    }
  }
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
#pragma unroll
    for (int e = 0; e < Vec; ++e) part[warp][t][lane + e] = sum[t][e];
  }
  __syncthreads();  // all warps' sums are there

  // Epilogue.
  for (int i = static_cast<int>(threadIdx.x); i < kTaps * kChannels; i += Tile::kThreads) {
    const int t = i / kChannels, channel = i % kChannels;
    if (s0 + t >= v.S || k0 + channel >= v.K) continue;
    Compute<T> total = part[0][t][channel];
    for (int from = 1; from < Tile::kStrips; ++from) total += part[from][t][channel];
    sums[((split * v.K + k0 + channel) * v.R + r) * v.S + s0 + t] = total;
  }
}

}  // namespace convext::cuda
