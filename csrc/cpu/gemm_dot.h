// fprop_dot: products of pixels' rows with weights' rows
//
// computes  y[pixel][output] = bias[output] + sum_d x[pixel][d] * weight[output][d]
//           GEMM view: gemm_m = outputs, gemm_n = pixels, gemm_k = depth.
// owns      one call: the outputs of one work item at a few pixels. A result is a vector of partial
//           sums, one a lane, added up at the end in the same order for every tile.
// budget    3 pixels x 4 outputs = 12 accumulators, 3 vectors of pixels, 1 of weights: 16 of 16
//           registers (AVX2).
// needs     depth adjacent in both operands; weights of any storage type, converted on load.
// bound by  reading the weights, once: there are few pixels.
// step      from gemm_strip: lanes are the depth, so weights are used where and as they lie.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// sums[i] <- the sum of rows[i]'s lanes, added pairwise.
template <int Half, class T>
CONVEXT_INLINE void add_lanes_step(Vec<T>* rows) {
  if constexpr (Half < kLanes<T>) {
#pragma GCC unroll 8
    for (int i = 0; i < kLanes<T> / Half / 2; ++i) {
      Vec<T> a = rows[2 * i], b = rows[2 * i + 1];
      exchange<Half, T>(a, b, std::make_integer_sequence<int, kLanes<T>>{});
      rows[i] = a + b;
    }
    add_lanes_step<2 * Half, T>(rows);
  }
}

template <class T, class S, int Pixels, int Outputs>
CONVEXT_INLINE void dot_tile(const DotTile<T>& t, std::int64_t pixel, std::int64_t output) {
  constexpr int L = kLanes<T>;
  constexpr int kSums = (Pixels * Outputs + L - 1) / L * L;
  Vec<T> sum[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) sum[i] = Vec<T>{};
  const T* x[Pixels];
  const S* w[Outputs];
  for (int p = 0; p < Pixels; ++p) x[p] = t.x + (pixel + p) * t.x_pixel;
  for (int o = 0; o < Outputs; ++o) {
    w[o] = static_cast<const S*>(t.weight) + (output + o) * t.weight_output;
  }

  // Main loop. The first pixels ask for the next tile's rows, which follow in memory, where rows are
  // too short for the processor to foresee them.
  constexpr int kLine = 64, kStep = Outputs * L * static_cast<int>(sizeof(S));
  constexpr std::int64_t kLongRow = 2560 / sizeof(S);
  const bool prefetch = pixel == 0 && t.depth <= kLongRow;
  const char* ahead = reinterpret_cast<const char*>(w[0] + Outputs * t.weight_output);
  std::int64_t d = 0;
#pragma GCC unroll 1
  for (; d + L <= t.depth; d += L, ahead += kStep) {
    if (prefetch) {
#pragma GCC unroll 8
      for (int byte = 0; byte < kStep; byte += kLine) __builtin_prefetch(ahead + byte);
    }
    Vec<T> values[Pixels];
#pragma GCC unroll 4
    for (int p = 0; p < Pixels; ++p) values[p] = load(x[p] + d);
#pragma GCC unroll 8
    for (int o = 0; o < Outputs; ++o) {
      const Vec<T> weight = load_as<T>(w[o] + d);
#pragma GCC unroll 4
      for (int p = 0; p < Pixels; ++p) sum[p * Outputs + o] += values[p] * weight;
    }
  }
  if (d < t.depth) {  // the residue, beside zeros
    const int left = static_cast<int>(t.depth - d);
    T lanes[L];
    Vec<T> values[Pixels];
    for (int p = 0; p < Pixels; ++p) {
      for (int l = 0; l < L; ++l) lanes[l] = l < left ? x[p][d + l] : T(0);
      values[p] = load(lanes);
    }
    for (int o = 0; o < Outputs; ++o) {
      for (int l = 0; l < L; ++l) lanes[l] = l < left ? to_compute<T>(w[o][d + l]) : T(0);
      const Vec<T> weight = load(lanes);
      for (int p = 0; p < Pixels; ++p) sum[p * Outputs + o] += values[p] * weight;
    }
  }

  // Epilogue.
  T results[kSums];
#pragma GCC unroll 16
  for (int i = 0; i < kSums; i += L) {
    add_lanes_step<1, T>(sum + i);
    store<T>(results + i, sum[i]);
  }
  for (int p = 0; p < Pixels; ++p) {
    T* y = t.y + (pixel + p) * t.y_pixel + output * t.y_output;
    for (int o = 0; o < Outputs; ++o) {
      const T bias = t.bias != nullptr ? t.bias[output + o] : T(0);
      y[o * t.y_output] = results[p * Outputs + o] + bias;
    }
  }
}

template <class T, class S, int Outputs>
__attribute__((noinline)) void dot_pixels(const DotTile<T>& t, std::int64_t output) {
  const std::int64_t tiles = (t.pixels + 2) / 3;
  std::int64_t pixel = 0;
  for (std::int64_t i = 0; i < tiles; ++i) {
    const std::int64_t count = t.pixels / tiles + (i < t.pixels % tiles);
    if (count == 3) {
      dot_tile<T, S, 3, Outputs>(t, pixel, output);
    } else if (count == 2) {
      dot_tile<T, S, 2, Outputs>(t, pixel, output);
    } else {
      dot_tile<T, S, 1, Outputs>(t, pixel, output);
    }
    pixel += count;
  }
}

// A few weights' rows meet all pixels before the next are read.
template <class T, class S, int Mr>
void dot_outputs(const DotTile<T>& t) {
  std::int64_t output = 0;
  if (t.pixels == 1) {  // more streams of weights, and sums enough to hide an addition
    for (; output + 2 * Mr <= t.outputs; output += 2 * Mr) {
      dot_tile<T, S, 1, 2 * Mr>(t, 0, output);
    }
  }
  for (; output + Mr <= t.outputs; output += Mr) dot_pixels<T, S, Mr>(t, output);
  for (; output < t.outputs; ++output) dot_pixels<T, S, 1>(t, output);
}

template <class T, int Mr>
void gemm_dot(const DotTile<T>& t) {
  if constexpr (sizeof(T) == 8) {
    dot_outputs<T, double, Mr>(t);
  } else if (t.weight_dtype == DType::kBFloat16) {
    dot_outputs<T, BFloat16, Mr>(t);
  } else if (t.weight_dtype == DType::kFloat16) {
    dot_outputs<T, Float16, Mr>(t);
  } else {
    dot_outputs<T, float, Mr>(t);
  }
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
