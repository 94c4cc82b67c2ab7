// How tensors are copied to where and what rungs take: other layouts, complex weights as real ones.
#pragma once

#include "complex.cuh"
#include "ladder.h"
#include "layout.cuh"

namespace convext::cuda {
namespace {

template <class F>
void with_element(DType dtype, F&& f) {
  switch (dtype) {
    case DType::kFloat64: return f(double{});
    case DType::kFloat16: return f(__half{});
    case DType::kBFloat16: return f(__nv_bfloat16{});
    default: return f(float{});
  }
}

}  // namespace

void run_copy_layout(std::int64_t element_bytes, const std::int64_t (&size)[4], const void* from,
                     const Strides& from_strides, void* to, const Strides& to_strides,
                     void* stream) {
  const std::int64_t pixels = size[2] * size[3];
  const std::int64_t blocks =
      ceil_div(size[1], kLayoutTile) * ceil_div(pixels, kLayoutTile) * size[0];
  const auto start = [&](auto element) {
    using T = decltype(element);
    launch(&copy_layout<T>, blocks, kLayoutTile * kLayoutRows, 0, static_cast<cudaStream_t>(stream),
           static_cast<int>(size[1]), pixels, Divisor(static_cast<int>(size[3])),
           static_cast<const T*>(from), from_strides, static_cast<T*>(to), to_strides);
  };
  switch (element_bytes) {  // values are moved, not looked at
    case 2: start(std::uint16_t{}); break;
    case 4: start(std::uint32_t{}); break;
    case 8: start(std::uint64_t{}); break;
    default: start(uint4{}); break;
  }
}

void run_expand_complex_weight(DType dtype, const ConvParams& v, const void* weight, void* expanded,
                               void* stream) {
  const std::int64_t elements = static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels;
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    launch(&expand_complex_weight<T>, ceil_div(elements, kComplexThreads), kComplexThreads, 0,
           static_cast<cudaStream_t>(stream), v, static_cast<const T*>(weight),
           static_cast<T*>(expanded));
  });
}

void run_fold_complex_gradient(DType dtype, const ConvParams& v, const void* expanded,
                               void* gradient, void* stream) {
  const std::int64_t elements = static_cast<std::int64_t>(v.K / 2) * v.R * v.S * (v.channels / 2);
  with_element(dtype, [&](auto element) {
    using T = decltype(element);
    launch(&fold_complex_gradient<T>, ceil_div(elements, kComplexThreads), kComplexThreads, 0,
           static_cast<cudaStream_t>(stream), v, static_cast<const T*>(expanded),
           static_cast<T*>(gradient));
  });
}

}  // namespace convext::cuda
