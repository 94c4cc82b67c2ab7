// The functions that CUDA gives a kernel: barriers, shuffles, conversions of 16-bit floats.
#pragma once

#include <atomic>
#include <bit>
#include <cmath>
#include <type_traits>

#include "launch.h"

inline void __syncthreads(EMU_SITE) {
  auto& b = *emu::block;
  const int cta = b.cur->cta;
  emu::wait_at_barrier(emu::barrier_of(cta, 0), &b.ctas[cta].waiting, b.n, "__syncthreads", site);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, EMU_SITE) {
  int none = 0;
  emu::warp_meet(
      "__syncwarp", mask, site, none,
      [&](int**, emu::Fiber* lanes) {
        for (int l = 0; l < 32; ++l)
          if (mask >> l & 1) ++lanes[l].sync_epoch;
      },
      false);
}
namespace emu {
template <class T, class Pick>
T shuffle(const char* what, unsigned mask, T v, Site site, Pick pick) {
  struct Arg {
    T in, out;
  } a{v, v};
  warp_meet(
      what, mask, site, a,
      [&](Arg** all, Fiber*) {
        for (int l = 0; l < 32; ++l)
          if (all[l]) {
            int from = pick(l);
            if (from >= 0 && from < 32 && from != l && !all[from])
              fail(format("%s reads lane %d, which is not in the mask", what, from));
            all[l]->out = from >= 0 && from < 32 ? all[from]->in : all[l]->in;
          }
      },
      false);
  return a.out;
}
}  // namespace emu
template <class T>
T __shfl_sync(unsigned m, T v, int src, int w = 32, EMU_SITE) {
  return emu::shuffle("__shfl_sync", m, v, site,
                      [=](int l) { return l / w * w + ((src % w) + w) % w; });
}
template <class T>
T __shfl_xor_sync(unsigned m, T v, int x, int w = 32, EMU_SITE) {
  return emu::shuffle("__shfl_xor_sync", m, v, site, [=](int l) {
    int s = l ^ x;
    return s / w > l / w ? l : s;
  });
}
template <class T>
T __shfl_down_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) {
  return emu::shuffle("__shfl_down_sync", m, v, site, [=](int l) {
    int s = l + int(d);
    return s / w != l / w ? l : s;
  });
}
template <class T>
T __shfl_up_sync(unsigned m, T v, unsigned d, int w = 32, EMU_SITE) {
  return emu::shuffle("__shfl_up_sync", m, v, site, [=](int l) {
    int s = l - int(d);
    return s < l / w * w ? l : s;
  });
}
inline unsigned __ballot_sync(unsigned m, int pred, EMU_SITE) {
  struct Arg {
    int in;
    unsigned out;
  } a{pred, 0};
  emu::warp_meet(
      "__ballot_sync", m, site, a,
      [](Arg** all, emu::Fiber*) {
        unsigned r = 0;
        for (int l = 0; l < 32; ++l)
          if (all[l] && all[l]->in) r |= 1u << l;
        for (int l = 0; l < 32; ++l)
          if (all[l]) all[l]->out = r;
      },
      false);
  return a.out;
}
template <class T, class U>
constexpr auto min(T a, U b) {
  using C = std::common_type_t<T, U>;
  return C(b) < C(a) ? C(b) : C(a);
}
template <class T, class U>
constexpr auto max(T a, U b) {
  using C = std::common_type_t<T, U>;
  return C(a) < C(b) ? C(b) : C(a);
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline unsigned __umulhi(unsigned a, unsigned b) { return uint64_t(a) * b >> 32; }
template <class T>
T atomicAdd(T* p, T v) {
  return std::atomic_ref<T>(*p).fetch_add(v);
}

// Storage types with the conversions of cuda_fp16.h and cuda_bf16.h, rounding to nearest even.
struct __half {
  _Float16 v;
};
struct __nv_bfloat16 {
  uint16_t v;
};
using half = __half;
using nv_bfloat16 = __nv_bfloat16;
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __half __float2half(float f) { return {static_cast<_Float16>(f)}; }
inline float __half2float(__half h) { return static_cast<float>(h.v); }
inline float __bfloat162float(__nv_bfloat16 h) { return std::bit_cast<float>(unsigned(h.v) << 16); }
inline __nv_bfloat16 __float2bfloat16(float f) {
  unsigned u = std::bit_cast<unsigned>(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half(a), __float2half(b)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float a, float b) {
  return {__float2bfloat16(a), __float2bfloat16(b)};
}
