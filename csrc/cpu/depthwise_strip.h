// fprop_depthwise, dgrad_depthwise: one channel a lane, tiles of neighbouring columns of one row
//
// computes  y[column][c] = bias[c] + sum_{row} sum_{tap} x[row][column*x_step + tap*tap_step][c]
//                                                        * w[row][tap][c]
//           No GEMM: nothing is summed over channels, so lanes are channels throughout.
// owns      one call: a strip of `tiles` tiles of mr columns, for a range of channels, one or two
//           vectors at a time; summed row by row, tap by tap, whatever mr is.
// budget    mr*2 accumulators + 2 weights = 16 registers at mr = 7; inputs are operands in memory.
// needs     channels contiguous in x and y, at least one vector of them. The last vector overlaps
//           its neighbour: it stores the same values again.
// bound by  FMA, with one load for each; large images by memory.
// step      from gemm_indirect: no table of pointers. Neighbouring columns lie x_step apart, so one
//           pointer a kernel row serves the whole strip; the driver keeps borders out of the way.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Mr, int Vectors>
CONVEXT_INLINE void depthwise_block(const DepthwiseStrip<T>& strip, std::int64_t x_offset,
                                    std::int64_t c, T* y) {
  constexpr int L = kLanes<T>;
  const std::int64_t x_step = strip.x_step, y_step = strip.y_step;
  const std::int64_t tap_step = strip.tap_step, weight_step = strip.weight_step;
  Vec<T> sum[Mr][Vectors];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[m][v] = Vec<T>{};
  }
  // A block's lines are shared out among its taps: asked for all at once they would wait for each
  // other, and its loads for them.
  LinesAhead& ahead = *strip.ahead;
  const char* next = ahead.next;
  const char* const end = ahead.end - next < ahead.a_block ? ahead.end : next + ahead.a_block;
  const std::int64_t a_tap = ahead.a_tap;
#pragma GCC unroll 1
  for (std::int64_t row = 0; row < strip.rows; ++row) {
    const T* x = strip.x[row] + x_offset + c;
    const T* w = strip.weight[row] + strip.weight_offset + c;
#pragma GCC unroll 1
    for (std::int64_t tap = strip.taps; tap > 0; --tap) {
      Vec<T> weight[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * L);
      for (std::int64_t i = a_tap; i > 0 && next < end; --i) {
        __builtin_prefetch(next, 0, 2);
        next += LinesAhead::kLine;
      }
#pragma GCC unroll 8
      for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[m][v] += load(x + m * x_step + v * L) * weight[v];
      }
      x += tap_step;
      w += weight_step;
    }
  }
  ahead.next = next;
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const Vec<T> bias = load(strip.bias + c + v * L);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) sum[m][v] += bias;
  }
  // The vectors of a pixel one after the other, so that a line is written at once.
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
    T* const pixel = y + m * y_step + c;
    if (strip.stream) {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) stream<T>(pixel + v * L, sum[m][v]);
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) store(pixel + v * L, sum[m][v]);
    }
  }
}

template <class T, int Mr, int Vectors>
__attribute__((noinline)) void depthwise_strip(const DepthwiseStrip<T>& strip) {
  constexpr int L = kLanes<T>;
  // Chunks of channels whose weights stay in the first-level cache from tile to tile.
  constexpr std::int64_t kWeightBytes = 8 << 10;
  const std::int64_t taps = strip.rows * strip.taps + 1;
  std::int64_t chunk = kWeightBytes / static_cast<std::int64_t>(sizeof(T)) / taps;
  chunk = chunk / (Vectors * L) * (Vectors * L);
  if (chunk < Vectors * L) chunk = Vectors * L;
  for (std::int64_t first = strip.first; first < strip.last; first += chunk) {
    const std::int64_t last = first + chunk < strip.last ? first + chunk : strip.last;
    std::int64_t x_offset = strip.x_offset;
    T* y = strip.y;
    for (std::int64_t t = 0; t < strip.tiles; ++t) {
      std::int64_t c = first;
      for (; c + Vectors * L <= last; c += Vectors * L) {
        depthwise_block<T, Mr, Vectors>(strip, x_offset, c, y);
      }
      for (; c < last; c += L) {
        // Residue: the last vector ends with the last channel.
        depthwise_block<T, Mr, 1>(strip, x_offset, c + L <= last ? c : last - L, y);
      }
      x_offset += Mr * strip.x_step;
      y += Mr * strip.y_step;
    }
  }
}

// Chooses the instance for mr columns.
template <class T, int Mr, int Vectors>
void depthwise_strip_dispatch(const DepthwiseStrip<T>& strip, int mr) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return depthwise_strip_dispatch<T, Mr - 1, Vectors>(strip, mr);
  }
  depthwise_strip<T, Mr, Vectors>(strip);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
