// Division by a number that is known when a kernel is started: a multiplication on the device,
// where dividing 64-bit integers is a call that costs registers and a stack frame.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CONVEXT_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CONVEXT_HOST_DEVICE inline
#endif

namespace convext::cuda {

// n / d for 0 <= n and n * d < 2**64, by the magic number ceil(2**64 / d): it exceeds 2**64 / d by
// e / d with e < d, so that n * magic / 2**64 exceeds n / d by less than 1 / d (Granlund and
// Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
  std::uint64_t magic = 0;  // of 1, which has none, 0
  int d = 1;

  Divisor() = default;
  explicit Divisor(int divisor)
      : magic(divisor > 1 ? ~std::uint64_t{0} / static_cast<std::uint64_t>(divisor) + 1 : 0),
        d(divisor) {}

  CONVEXT_HOST_DEVICE std::int64_t quotient(std::int64_t n) const {
    if (magic == 0) return n;
#if defined(__CUDA_ARCH__)
    return static_cast<std::int64_t>(__umul64hi(static_cast<std::uint64_t>(n), magic));
#else
    __extension__ using Wide = unsigned __int128;
    return static_cast<std::int64_t>(static_cast<Wide>(n) * magic >> 64);
#endif
  }

  // n becomes n / d; returned is n % d.
  CONVEXT_HOST_DEVICE int divide(std::int64_t* n) const {
    const std::int64_t whole = quotient(*n);
    const int rest = static_cast<int>(*n - whole * d);
    *n = whole;
    return rest;
  }
};

}  // namespace convext::cuda
