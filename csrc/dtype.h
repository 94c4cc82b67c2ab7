// Element types that tensors are stored in. Plain data only: kernels include this file.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convext {

enum class DType : std::uint8_t {
  kFloat32,
  kFloat64,
  kBFloat16,
  kFloat16,
  kInt8,
  kUInt8,
  kInt16,
  kInt32,
  kInt64,
};

inline constexpr int kDTypeCount = 9;

// 16-bit storage. Arithmetic happens in float32; conversion is in half.h.
struct BFloat16 {
  std::uint16_t bits;
};
struct Float16 {
  std::uint16_t bits;
};

constexpr std::int64_t bytes_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64: return 8;
    case DType::kFloat32:
    case DType::kInt32: return 4;
    case DType::kBFloat16:
    case DType::kFloat16:
    case DType::kInt16: return 2;
    case DType::kInt8:
    case DType::kUInt8: return 1;
  }
  return 0;
}

constexpr bool is_floating_point(DType dtype) { return dtype <= DType::kFloat16; }

// A 4-d tensor in NCHW index order (a weight is KCRS), whatever its memory order. Strides count
// elements and may be 0 (expanded) or describe a slice.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::kFloat32;
  std::int64_t size[4] = {0, 0, 0, 0};
  std::int64_t stride[4] = {0, 0, 0, 0};
};

}  // namespace convext
