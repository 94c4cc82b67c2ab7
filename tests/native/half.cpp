// Conversion of the 16-bit types: every value there and back, and rounding at every boundary.
#include "half.h"

#include <cmath>

#include "check.h"

namespace convext_tests {
namespace {

using convext::BFloat16;
using convext::Float16;

// What the 16 bits mean, from the definition of a binary floating-point format.
double value_of(std::uint16_t bits, int exponent_bits, int mantissa_bits) {
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

template <class Half, class Narrow>
void check_type(int exponent_bits, int mantissa_bits, Narrow narrow) {
  for (std::uint32_t i = 0; i < 0x10000; ++i) {
    const Half half{static_cast<std::uint16_t>(i)};
    const double expected = value_of(half.bits, exponent_bits, mantissa_bits);
    const float wide = convext::widen(half);
    if (std::isnan(expected)) {
      CHECK(std::isnan(wide) && std::isnan(convext::widen(narrow(wide))), "bits " << i);
      continue;
    }
    CHECK(static_cast<double>(wide) == expected, "bits " << i << " are " << wide);
    CHECK(narrow(wide).bits == half.bits, "bits " << i << " do not come back");
    // Half way to the next magnitude goes to the even one, a little less or more to the nearer.
    const std::uint16_t next = static_cast<std::uint16_t>(i + 1);
    const double above = value_of(next, exponent_bits, mantissa_bits);
    if (!std::isfinite(expected) || std::isnan(above) || (next & 0x7fff) == 0) continue;
    const double half_way = std::isfinite(above)
                                ? (expected + above) / 2
                                : expected + (expected < 0 ? -1 : 1) *
                                                 std::ldexp(std::ldexp(1.0, -mantissa_bits - 1),
                                                            static_cast<int>(std::ilogb(expected)));
    if (static_cast<double>(static_cast<float>(half_way)) != half_way) continue;
    const float middle = static_cast<float>(half_way);
    CHECK(narrow(middle).bits == (i & 1 ? next : half.bits), "half way above bits " << i);
    CHECK(narrow(std::nextafterf(middle, 0.0f)).bits == half.bits, "below half way, bits " << i);
    const float far = middle < 0 ? -INFINITY : INFINITY;
    CHECK(narrow(std::nextafterf(middle, far)).bits == next, "above half way, bits " << i);
  }
}

}  // namespace

void test_half() {
  check_type<Float16>(5, 10, [](float value) { return convext::narrow_float16(value); });
  check_type<BFloat16>(8, 7, [](float value) { return convext::narrow_bfloat16(value); });
}

}  // namespace convext_tests
