// fma_peak: the roof under which the other kernels of this instruction set run
//
// computes  sum[i] = sum[i] * a + b for kPeakSums vectors, again and again.
// owns      the calling thread's vector registers; memory is not touched.
// budget    kPeakSums sums, a and b: 14 of 16 registers. Two FMAs a cycle of latency up to 6 are in
//           flight; where there is no FMA, a multiplication and an addition do its work.
// needs     nothing.
// bound by  the rate at which FMAs start.
// step      not a convolution: `convext bench` measures it to say what share of it a kernel
//           reaches.
#pragma once

#include "isa_kernels.h"
#include "simd.h"

namespace convext::CONVEXT_ISA {
namespace {

template <class T>
double fma_peak(std::int64_t rounds) {
  // Different starts keep the sums apart; all of them tend to 2, far from overflow and denormals.
  Vec<T> sum[kPeakSums];
#pragma GCC unroll 16
  for (int i = 0; i < kPeakSums; ++i) sum[i] = broadcast(static_cast<T>(i));
  const Vec<T> a = broadcast(T(0.5)), b = broadcast(T(1));
  for (std::int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kPeakSums; ++i) sum[i] = sum[i] * a + b;
  }
#pragma GCC unroll 16
  for (int i = 1; i < kPeakSums; ++i) sum[0] += sum[i];
  double total = 0;
  for (int i = 0; i < kLanes<T>; ++i) total += static_cast<double>(sum[0][i]);
  return total;
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
