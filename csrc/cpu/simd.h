// Vectors for the kernels, by the compiler's vector extensions: one source for every instruction
// set. A unit (isa_*.cpp) defines before it includes anything from here
//
//   CONVEXT_ISA           the namespace its kernels live in
//   CONVEXT_VECTOR_BYTES  64, 32 or 16
//
// Everything an ISA unit compiles is in that namespace with internal linkage, and none of it calls
// the standard library's templates: the linker merges equal inline functions across units, and a
// copy compiled for AVX-512 must never be the one that an older CPU runs.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>  // std::integer_sequence, a type without code

#include "../half.h"

#if defined(__F16C__) || defined(__AVX__)
#include <immintrin.h>
#endif

namespace convext::CONVEXT_ISA {
namespace {

typedef float vfloat __attribute__((vector_size(CONVEXT_VECTOR_BYTES)));
typedef double vdouble __attribute__((vector_size(CONVEXT_VECTOR_BYTES)));
// The bits of as many bfloat16 as a vector has floats.
typedef std::uint16_t vbfloat16 __attribute__((vector_size(CONVEXT_VECTOR_BYTES / 2)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  using Type = vfloat;
};
template <>
struct VectorOf<double> {
  using Type = vdouble;
};
template <class T>
using Vec = typename VectorOf<T>::Type;

template <class T>
struct MaskOf;
template <>
struct MaskOf<float> {
  typedef std::int32_t Type __attribute__((vector_size(CONVEXT_VECTOR_BYTES)));
};
template <>
struct MaskOf<double> {
  typedef std::int64_t Type __attribute__((vector_size(CONVEXT_VECTOR_BYTES)));
};

template <class T>
constexpr int kLanes = CONVEXT_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T>
CONVEXT_INLINE Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
CONVEXT_INLINE void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

// Past the caches, where the instruction set can; p is aligned to a vector.
template <class T>
CONVEXT_INLINE void stream(T* p, Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (CONVEXT_VECTOR_BYTES == 64) {
    return _mm512_stream_ps(reinterpret_cast<float*>(p), reinterpret_cast<__m512>(v));
  }
#endif
#if defined(__AVX__)
  if constexpr (CONVEXT_VECTOR_BYTES == 32) {
    return _mm256_stream_ps(reinterpret_cast<float*>(p), reinterpret_cast<__m256>(v));
  }
#endif
  store<T>(p, v);
}

template <class T>
CONVEXT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};  // x - 0 is x for every x, -0 and NaN included, so no arithmetic remains
}

// ---- conversion of storage types -----------------------------------------------------------------

template <class T, class S>
CONVEXT_INLINE T to_compute(S value) {
  if constexpr (sizeof(S) == 2) {
    return widen(value);
  } else {
    return static_cast<T>(value);
  }
}

template <class S, class T>
CONVEXT_INLINE S to_storage(T value) {
  if constexpr (__is_same(S, BFloat16)) {
    return narrow_bfloat16(value);
  } else if constexpr (__is_same(S, Float16)) {
    return narrow_float16(value);
  } else {
    return static_cast<S>(value);
  }
}

// Fixed-count loops over lanes: the compiler turns the bfloat16 ones into vector shifts; float16
// has its own instructions.
template <class T, class S>
CONVEXT_INLINE Vec<T> load_as(const S* p) {
  if constexpr (__is_same(S, T)) {
    return load<T>(p);
  } else {
#if defined(__F16C__)
    if constexpr (__is_same(S, Float16) && CONVEXT_VECTOR_BYTES == 32) {
      return reinterpret_cast<Vec<T>>(
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
    }
#if defined(__AVX512F__)
    if constexpr (__is_same(S, Float16) && CONVEXT_VECTOR_BYTES == 64) {
      return reinterpret_cast<Vec<T>>(
          _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
    }
#endif
#endif
    if constexpr (__is_same(S, BFloat16)) {
      vbfloat16 bits;
      std::memcpy(&bits, p, sizeof bits);
      return reinterpret_cast<Vec<T>>(__builtin_convertvector(bits, MaskOf<float>::Type) << 16);
    }
    T lanes[kLanes<T>];
    for (int i = 0; i < kLanes<T>; ++i) lanes[i] = to_compute<T>(p[i]);
    return load<T>(lanes);
  }
}

template <class T, class S, int... Lane>
CONVEXT_INLINE Vec<T> load_evens_as(const S* p, std::integer_sequence<int, Lane...>) {
  constexpr int n = sizeof...(Lane);
  const Vec<T> a = load_as<T>(p), b = load_as<T>(p + n - 1);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (2 * Lane < n ? 2 * Lane : 2 * Lane + 1)...);
#else
  using Mask = typename MaskOf<T>::Type;
  return __builtin_shuffle(a, b, Mask{(2 * Lane < n ? 2 * Lane : 2 * Lane + 1)...});
#endif
}

// Every Step-th element from p on, 1 or 2; nothing is read beyond the last of them.
template <class T, int Step, class S>
CONVEXT_INLINE Vec<T> load_every_as(const S* p) {
  if constexpr (Step == 1) {
    return load_as<T>(p);
  } else {
    return load_evens_as<T>(p, std::make_integer_sequence<int, kLanes<T>>{});
  }
}

template <class S, class T>
CONVEXT_INLINE void store_as(S* p, Vec<T> v) {
  if constexpr (__is_same(S, T)) {
    store<T>(p, v);
  } else {
#if defined(__F16C__)
    if constexpr (__is_same(S, Float16) && CONVEXT_VECTOR_BYTES == 32) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                       _mm256_cvtps_ph(reinterpret_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#if defined(__AVX512F__)
    if constexpr (__is_same(S, Float16) && CONVEXT_VECTOR_BYTES == 64) {
      _mm256_storeu_si256(
          reinterpret_cast<__m256i*>(p),
          _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
      return;
    }
#endif
#endif
    if constexpr (__is_same(S, BFloat16)) {  // as narrow_bfloat16 does, lane by lane
      using Bits = typename MaskOf<T>::Type;
      const Bits bits = reinterpret_cast<Bits>(v);
      const Bits is_nan = (bits & 0x7fffffff) > 0x7f800000;
      const Bits rounded = (bits >> 16) + (((bits & 0xffff) + 0x7fff + ((bits >> 16) & 1)) >> 16);
      const Bits chosen = (is_nan & 0x7fc0) | (~is_nan & rounded);
      const vbfloat16 narrow = __builtin_convertvector(chosen, vbfloat16);
      std::memcpy(p, &narrow, sizeof narrow);
      return;
    }
    T lanes[kLanes<T>];
    store<T>(lanes, v);
    for (int i = 0; i < kLanes<T>; ++i) p[i] = to_storage<S>(lanes[i]);
  }
}

// ---- transpose -----------------------------------------------------------------------------------

// Exchanges blocks of `Half` lanes: the upper blocks of row a with the lower blocks of row b.
template <int Half, class T, int... Lane>
CONVEXT_INLINE void exchange(Vec<T>& a, Vec<T>& b, std::integer_sequence<int, Lane...>) {
  constexpr int n = sizeof...(Lane);
  const Vec<T> x = a, y = b;
#if defined(__clang__) || __GNUC__ >= 12
  a = __builtin_shufflevector(x, y, ((Lane & Half) ? n + Lane - Half : Lane)...);
  b = __builtin_shufflevector(x, y, ((Lane & Half) ? n + Lane : Lane + Half)...);
#else
  using Mask = typename MaskOf<T>::Type;
  a = __builtin_shuffle(x, y, Mask{((Lane & Half) ? n + Lane - Half : Lane)...});
  b = __builtin_shuffle(x, y, Mask{((Lane & Half) ? n + Lane : Lane + Half)...});
#endif
}

template <int Half, class T>
CONVEXT_INLINE void transpose_step(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (Half < kLanes<T>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & Half) == 0) {
        exchange<Half, T>(rows[i], rows[i + Half], std::make_integer_sequence<int, kLanes<T>>{});
      }
    }
    transpose_step<2 * Half, T>(rows);
  }
}

// rows[i][j] <- rows[j][i], in log2(lanes) exchanges of every row.
template <class T>
CONVEXT_INLINE void transpose(Vec<T> (&rows)[kLanes<T>]) {
  transpose_step<1, T>(rows);
}

// ---- pairs of bfloat16 ---------------------------------------------------------------------------

// A pair in each, the first in the lower half.
typedef std::uint32_t vpairs __attribute__((vector_size(CONVEXT_VECTOR_BYTES)));

// sum + a's pairs times b's: the product of the upper halves is added first, then that of the
// lower, each sum rounded to nearest even. The products themselves are exact. The instruction,
// unlike the portable code, takes subnormal numbers for zeros and gives none.
CONVEXT_INLINE vfloat dot_pairs(vfloat sum, vpairs a, vpairs b) {
#if defined(__AVX512BF16__)
  if constexpr (CONVEXT_VECTOR_BYTES == 64) {
    return reinterpret_cast<vfloat>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                     reinterpret_cast<__m512bh>(a),
                                                     reinterpret_cast<__m512bh>(b)));
  }
#endif
  constexpr std::uint32_t kUpper = 0xffff0000u;
  sum += reinterpret_cast<vfloat>(a & kUpper) * reinterpret_cast<vfloat>(b & kUpper);
  return sum + reinterpret_cast<vfloat>(a << 16) * reinterpret_cast<vfloat>(b << 16);
}

}  // namespace
}  // namespace convext::CONVEXT_ISA
