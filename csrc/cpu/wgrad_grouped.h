// wgrad_grouped: weight grad of groups of 2, 4 or 8 input and as many output channels
//
// computes  sum[r][s][j][c] += sum_{run} sum_{pixel} grad[pixel][output j of c's group]
//                                                   * x[r][pixel*x_step + s*tap_step][c]
// owns      one call: one or two kernel rows, up to three taps of each, at most 12 sums; a range of
//           input channels, over runs of output pixels; these are summed from zero and added to
//           `sum` once.
// budget    12 accumulators + the gradient and one permutation of it = 14 of 16 registers.
// needs     as wgrad_depthwise.
// bound by  FMA where a vector holds several groups; where a group fills vectors its gradients are
//           broadcast from memory, one load for each FMA.
// step      from wgrad_depthwise: each lane's group has several gradients, spread over its lanes by
//           permutations that all taps share.
#pragma once

#include "grouped_strip.h"
#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// Output J of each lane's group, for the lanes from channel c on.
template <class T, int Group, int J>
CONVEXT_INLINE Vec<T> gradient_of(Vec<T> gradients, const T* first) {
  if constexpr (Group < kLanes<T>) {
    return spread<Group, J, T>(gradients, std::make_integer_sequence<int, kLanes<T>>{});
  } else {
    return broadcast(first[J]);
  }
}

template <class T, int Rows, int Taps, int Group, int... J>
__attribute__((noinline)) void wgrad_grouped(const DepthwiseOuterTile<T>& tile,
                                             std::integer_sequence<int, J...>) {
  constexpr int L = kLanes<T>;
  const std::int64_t grad_step = tile.grad_step, x_step = tile.x_step, tap_step = tile.tap_step;
  for (std::int64_t place = tile.first; place < tile.last; place += L) {
    const std::int64_t c = place + L <= tile.channels ? place : tile.channels - L;
    Vec<T> sum[Rows][Taps][Group];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < Taps; ++s) ((sum[r][s][J] = Vec<T>{}), ...);
    }
    for (std::int64_t i = 0; i < tile.run_count; ++i) {
      const DepthwiseRun<T>& run = tile.runs[i];
      // A group that fills vectors: its first output.
      const T* grad = run.grad + (Group < L ? c : c / Group * Group);
      const T* x[Rows];
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) x[r] = run.x[r] + c;
#pragma GCC unroll 1
      for (std::int64_t pixel = run.pixels; pixel > 0; --pixel) {
        const Vec<T> gradients = Group < L ? load(grad) : Vec<T>{};
        const Vec<T> g[Group] = {gradient_of<T, Group, J>(gradients, grad)...};
        grad += grad_step;
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
          for (int s = 0; s < Taps; ++s) {
            const Vec<T> value = load(x[r] + s * tap_step);
            ((sum[r][s][J] += g[J] * value), ...);
          }
          x[r] += x_step;
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
      for (int s = 0; s < Taps; ++s) {
        T* total = tile.sum + r * tile.sum_row_stride + s * tile.sum_tap_stride + place;
        ((store(total + J * tile.sum_output_stride,
                load(total + J * tile.sum_output_stride) + sum[r][s][J])),
         ...);
      }
    }
  }
}

template <class T, int Rows, int Taps, int Group>
void wgrad_grouped_taps(const DepthwiseOuterTile<T>& tile, int taps) {
  if constexpr (Taps > 1) {
    if (taps < Taps) return wgrad_grouped_taps<T, Rows, Taps - 1, Group>(tile, taps);
  }
  wgrad_grouped<T, Rows, Taps, Group>(tile, std::make_integer_sequence<int, Group>{});
}

// Chooses the instance: two rows or one of up to three taps for groups of 2, one for groups of 4,
// and a single tap for groups of 8.
template <class T>
void wgrad_grouped_dispatch(const DepthwiseOuterTile<T>& tile, int group, int rows, int taps) {
  if (group == 8) return wgrad_grouped_taps<T, 1, 1, 8>(tile, taps);
  if (group == 4) return wgrad_grouped_taps<T, 1, 3, 4>(tile, taps);
  if (rows == 2) return wgrad_grouped_taps<T, 2, 3, 2>(tile, taps);
  wgrad_grouped_taps<T, 1, 3, 2>(tile, taps);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
