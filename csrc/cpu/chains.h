// Long sums as sums of short ones: the kernels' sums in registers are put aside every few hundred
// terms and begin again from zero
//
// computes  sum = ((chain 0 + chain 1) + chain 2) + ..., each chain summed in order. Of n random
//           terms a single chain's error grows as sqrt(n), that of chains as the longer of a chain
//           and of their number.
// owns      where chains are cut. That must follow from the sequence of terms alone, never from a
//           tile, so that a result has the same bits in whichever tile it falls.
// budget    no register: the sums put aside lie on the stack, in the first-level cache.
// bound by  a load, an addition and a store for each sum and chain, one in 256 steps.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T, int Rows, int Vectors>
struct SumsAside {
  Vec<T> total[Rows][Vectors];
  bool any = false;

  __attribute__((always_inline)) void clear(Vec<T> (&sum)[Rows][Vectors]) {
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 12
      for (int v = 0; v < Vectors; ++v) sum[m][v] = Vec<T>{};
    }
  }
  // Ends a chain.
  __attribute__((always_inline)) void put(Vec<T> (&sum)[Rows][Vectors]) {
    if (any) take(sum);
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 12
      for (int v = 0; v < Vectors; ++v) total[m][v] = sum[m][v];
    }
    any = true;
    clear(sum);
  }
  // sum <- all chains, of which the last is in sum.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // `any` says whether total is set
  __attribute__((always_inline)) void take(Vec<T> (&sum)[Rows][Vectors]) {
#pragma GCC unroll 8
    for (int m = 0; m < Rows; ++m) {
#pragma GCC unroll 12
      for (int v = 0; v < Vectors; ++v) sum[m][v] = total[m][v] + sum[m][v];
    }
  }
#pragma GCC diagnostic pop
  __attribute__((always_inline)) void finish(Vec<T> (&sum)[Rows][Vectors]) {
    if (any) take(sum);
  }
};

// The next chain of a run of `left` terms: a chain, or all that is left if that is not two.
CONVEXT_INLINE std::int64_t next_chain(std::int64_t left, std::int64_t chain = kChainTerms) {
  return left < 2 * chain ? left : chain;
}

// Runs that make a chain.
CONVEXT_INLINE std::int64_t run_count_of_chain(std::int64_t run) {
  return run > 0 && run < kChainTerms ? kChainTerms / run : 1;
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
