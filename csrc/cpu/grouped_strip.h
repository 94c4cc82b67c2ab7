// fprop_grouped, dgrad_grouped: few channels a group, tiles of neighbouring columns of one row
//
// computes  y[column][k] = bias[k] + sum_{row, tap, i < depth}
//               x[row][column*x_step + tap*tap_step][channel i of k's group] * w[row][tap][i][k]
// owns      one call: a strip of `tiles` tiles of mr columns, for a range of blocks. A block is one
//           or two vectors of output channels of one group, whose inputs are broadcast; or one
//           vector that holds several whole groups, whose inputs are spread over their lanes by
//           permutations.
// budget    mr*2 accumulators + 2 weights + 1 input = 15 registers at mr = 6. One vector of one
//           group has its even and odd inputs summed apart, for as many independent sums.
// needs     channels contiguous in x and y, at least one vector of them. Blocks may overlap: they
//           store the same values again.
// bound by  FMA for two vectors; one load or permutation for each FMA otherwise.
// step      from depthwise_strip: sums over a group's inputs. From gemm_indirect: no table of
//           pointers, all groups in one call, and no lanes left empty by groups below a vector.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

// In each group of `Group` lanes, lane I everywhere.
template <int Group, int I, class T, int... Lane>
CONVEXT_INLINE Vec<T> spread(Vec<T> x, std::integer_sequence<int, Lane...>) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(x, x, (Lane / Group * Group + I)...);
#else
  using Mask = typename MaskOf<T>::Type;
  return __builtin_shuffle(x, Mask{(Lane / Group * Group + I)...});
#endif
}

template <class T, int Mr, int Group, int... I>
CONVEXT_INLINE void add_spread(Vec<T> (&sum)[Mr], const T* x, std::int64_t x_step, const T* w,
                               std::integer_sequence<int, I...>) {
  constexpr int L = kLanes<T>;
  const Vec<T> weight[Group] = {load(w + I * L)...};
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
    const Vec<T> value = load(x + m * x_step);
    ((sum[m] += spread<Group, I, T>(value, std::make_integer_sequence<int, L>{}) * weight[I]), ...);
  }
}

// Several groups in one vector.
template <class T, int Mr, int Group>
CONVEXT_INLINE void grouped_spread_block(const DepthwiseStrip<T>& strip, const GroupBlock& block,
                                         std::int64_t x_offset, T* y) {
  Vec<T> sum[Mr];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) sum[m] = Vec<T>{};
  const std::int64_t x_step = strip.x_step, y_step = strip.y_step;
  const std::int64_t tap_step = strip.tap_step, weight_step = strip.weight_step;
#pragma GCC unroll 1
  for (std::int64_t row = 0; row < strip.rows; ++row) {
    const T* x = strip.x[row] + x_offset + block.source;
    const T* w = strip.weight[row] + strip.weight_offset + block.panel;
#pragma GCC unroll 1
    for (std::int64_t tap = strip.taps; tap > 0; --tap, x += tap_step, w += weight_step) {
      add_spread<T, Mr, Group>(sum, x, x_step, w, std::make_integer_sequence<int, Group>{});
    }
  }
  const Vec<T> bias = load(strip.bias + block.destination);
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) store(y + m * y_step + block.destination, sum[m] + bias);
}

// `Vectors` of one group's outputs.
template <class T, int Mr, int Vectors>
CONVEXT_INLINE void grouped_block(const DepthwiseStrip<T>& strip, const GroupBlock& block,
                                  std::int64_t x_offset, T* y) {
  constexpr int L = kLanes<T>;
  constexpr int Apart = Vectors == 1 ? 2 : 1;  // sums of every second input
  Vec<T> sum[Mr][Vectors * Apart];
#pragma GCC unroll 8
  for (int m = 0; m < Mr; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < Vectors * Apart; ++v) sum[m][v] = Vec<T>{};
  }
  const std::int64_t x_step = strip.x_step, y_step = strip.y_step;
  const std::int64_t tap_step = strip.tap_step, weight_step = strip.weight_step;
  const std::int64_t depth = strip.depth;
#pragma GCC unroll 1
  for (std::int64_t row = 0; row < strip.rows; ++row) {
    const T* x_tap = strip.x[row] + x_offset + block.source;
    const T* w_tap = strip.weight[row] + strip.weight_offset + block.panel;
#pragma GCC unroll 1
    for (std::int64_t tap = strip.taps; tap > 0; --tap, x_tap += tap_step, w_tap += weight_step) {
      const T* x = x_tap;
      const T* w = w_tap;
      std::int64_t i = depth;
#pragma GCC unroll 1
      for (; i >= 2; i -= 2, x += 2, w += 2 * Vectors * L) {
#pragma GCC unroll 2
        for (int u = 0; u < 2; ++u) {
          Vec<T> weight[Vectors];
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) weight[v] = load(w + (u * Vectors + v) * L);
#pragma GCC unroll 8
          for (int m = 0; m < Mr; ++m) {
            const Vec<T> value = broadcast(x[m * x_step + u]);
#pragma GCC unroll 4
            for (int v = 0; v < Vectors; ++v) {
              sum[m][Apart == 2 ? u : v] += value * weight[v];
            }
          }
        }
      }
      if (i > 0) {
        Vec<T> weight[Vectors];
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) weight[v] = load(w + v * L);
#pragma GCC unroll 8
        for (int m = 0; m < Mr; ++m) {
          const Vec<T> value = broadcast(x[m * x_step]);
#pragma GCC unroll 4
          for (int v = 0; v < Vectors; ++v) sum[m][v] += value * weight[v];
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < Vectors; ++v) {
    const Vec<T> bias = load(strip.bias + block.destination + v * L);
#pragma GCC unroll 8
    for (int m = 0; m < Mr; ++m) {
      const Vec<T> total = Apart == 2 ? sum[m][0] + sum[m][Apart - 1] : sum[m][v];
      store(y + m * y_step + block.destination + v * L, total + bias);
    }
  }
}

template <class T, int Mr>
__attribute__((noinline)) void grouped_strip(const DepthwiseStrip<T>& strip) {
  // As many blocks at a time as keep their weights in the first-level cache.
  constexpr std::int64_t kWeightBytes = 12 << 10;
  const std::int64_t block_bytes =
      strip.rows * strip.taps * strip.depth * strip.vectors * CONVEXT_VECTOR_BYTES + 1;
  std::int64_t chunk = kWeightBytes / block_bytes;
  if (chunk < 1) chunk = 1;
  LinesAhead& ahead = *strip.ahead;
  for (std::int64_t first = strip.first; first < strip.last; first += chunk) {
    const std::int64_t last = first + chunk < strip.last ? first + chunk : strip.last;
    std::int64_t x_offset = strip.x_offset;
    T* y = strip.y;
    for (std::int64_t t = 0; t < strip.tiles; ++t) {
      for (std::int64_t b = first; b < last; ++b) {
        const GroupBlock& block = strip.blocks[b];
        const char* next = ahead.next;
        const char* const end = ahead.end - next < ahead.a_block ? ahead.end : next + ahead.a_block;
        for (; next < end; next += LinesAhead::kLine) __builtin_prefetch(next, 0, 2);
        ahead.next = next;
        if (strip.spread == 2) {
          if constexpr (kLanes<T> > 2) grouped_spread_block<T, Mr, 2>(strip, block, x_offset, y);
        } else if (strip.spread == 4) {
          if constexpr (kLanes<T> > 4) grouped_spread_block<T, Mr, 4>(strip, block, x_offset, y);
        } else if (strip.spread == 8) {
          if constexpr (kLanes<T> > 8) grouped_spread_block<T, Mr, 8>(strip, block, x_offset, y);
        } else if (block.vectors == 2) {
          grouped_block<T, Mr, 2>(strip, block, x_offset, y);
        } else {
          grouped_block<T, Mr, 1>(strip, block, x_offset, y);
        }
      }
      x_offset += Mr * strip.x_step;
      y += Mr * strip.y_step;
    }
  }
}

// Chooses the instance for mr columns.
template <class T, int Mr>
void grouped_strip_dispatch(const DepthwiseStrip<T>& strip, int mr) {
  if constexpr (Mr > 1) {
    if (mr < Mr) return grouped_strip_dispatch<T, Mr - 1>(strip, mr);
  }
  grouped_strip<T, Mr>(strip);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
