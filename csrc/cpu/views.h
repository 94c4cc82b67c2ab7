// Addresses within tensors.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../dtype.h"

namespace convext {

// Of T, which is a compute type or, where kernels read it, bfloat16.
template <class T>
constexpr DType compute_dtype() {
  if constexpr (std::is_same_v<T, BFloat16>) return DType::kBFloat16;
  return sizeof(T) == 8 ? DType::kFloat64 : DType::kFloat32;
}

template <class T>
bool channels_in_place(const TensorView& view, std::int64_t channels) {
  return view.dtype == compute_dtype<T>() && (view.stride[1] == 1 || channels == 1);
}

inline void* element(const TensorView& view, std::int64_t n, std::int64_t c, std::int64_t h,
                     std::int64_t w) {
  return static_cast<char*>(view.data) +
         bytes_of(view.dtype) *
             (n * view.stride[0] + c * view.stride[1] + h * view.stride[2] + w * view.stride[3]);
}

}  // namespace convext
