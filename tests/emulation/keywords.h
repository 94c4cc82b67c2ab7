// What a kernel's source needs of CUDA C++ before anything else: its keywords, its vector types,
// and the thread's place in the grid.
#pragma once

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
// Works for unmodified source, but neither poisoned nor guarded (g++ 12 ignores section attributes
// on template statics, so the variables cannot be found). Kernels that want the checks use
// SHARED_ARRAY and SHARED_DYNAMIC (platform.cuh).
#define __shared__ static thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
#define EMU_VEC(T, N, A)                                          \
  struct alignas(A) N##2 { T x, y; };                             \
  struct alignas(2 * A > 16 ? 16 : 2 * A) N##4 { T x, y, z, w; }; \
  inline N##2 make_##N##2(T x, T y) { return {x, y}; }            \
  inline N##4 make_##N##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMU_VEC(float, float, 8)
EMU_VEC(int, int, 8)
EMU_VEC(unsigned, uint, 8)
EMU_VEC(double, double, 16)
#undef EMU_VEC

inline thread_local constinit uint3 threadIdx{}, blockIdx{};
inline thread_local constinit uint3 blockDim{}, gridDim{};
constexpr int warpSize = 32;
