// Scalar conversion between float32 and the 16-bit types, round to nearest even.
// Internal linkage and forced inlining on purpose: this header is compiled into units with
// different instruction sets, and the linker must never pick one unit's copy for another.
#pragma once

#include <cstdint>
#include <cstring>

#include "dtype.h"

namespace convext {

#define CONVEXT_INLINE static inline __attribute__((always_inline, unused))

CONVEXT_INLINE std::uint32_t float_bits(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

CONVEXT_INLINE float bits_float(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

CONVEXT_INLINE float widen(BFloat16 value) {
  return bits_float(static_cast<std::uint32_t>(value.bits) << 16);
}

CONVEXT_INLINE BFloat16 narrow_bfloat16(float value) {
  const std::uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return BFloat16{0x7fc0};  // NaN stays NaN
  return BFloat16{static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

CONVEXT_INLINE float widen(Float16 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
  const std::uint32_t rest = value.bits & 0x7fffu;
  if (rest >= 0x7c00u) return bits_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Shift exponent and mantissa into float32's places and rescale by 2^112 to move the bias from
  // 15 to 127. The product is exact, and it normalises subnormals on the way.
  return bits_float(sign | float_bits(bits_float(rest << 13) * 0x1p112f));
}

CONVEXT_INLINE Float16 narrow_float16(float value) {
  const std::uint32_t bits = float_bits(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // 65520 and above round to infinity
  } else if (magnitude < 0x38800000u) {
    // Subnormal result: adding 0.5 aligns the mantissa so that the FPU rounds at bit 2^-24.
    half = float_bits(bits_float(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return Float16{static_cast<std::uint16_t>(sign | half)};
}

}  // namespace convext
