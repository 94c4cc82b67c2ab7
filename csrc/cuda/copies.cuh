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

namespace {

template <class T>
struct LayoutCopy {
  using Tile = LayoutTile<T>;

  int channels;
  std::int64_t pixels, images, width;
  const void* from;
  Strides f;
  void* to;
  Strides t;

  // Along what is adjacent: channels, or pixels.
  bool in_vectors(const Strides& s, const void* data) const {
    constexpr int kVec = Tile::kVector;
    const bool by_channels = s.c == 1;
    if (!by_channels && s.w != 1) return false;
    return (by_channels ? channels : pixels) % kVec == 0 && s.n % kVec == 0 &&
           (by_channels ? s.w : s.c) % kVec == 0 &&
           reinterpret_cast<std::uintptr_t>(data) % (kVec * sizeof(T)) == 0;
  }

  void run(void* stream) const {
    const bool even = f.h == width * f.w && t.h == width * t.w;
    if (even && in_vectors(f, from) && in_vectors(t, to)) {
      start(&copy_layout<T, Tile::kVector, false>, stream);
    } else if (even) {
      start(&copy_layout<T, 1, false>, stream);
    } else {
      start(&copy_layout<T, 1, true>, stream);
    }
  }

  template <class... Parameters>
  void start(void (*kernel)(Parameters...), void* stream) const {
    const std::int64_t blocks =
        ceil_div(channels, Tile::kSide) * ceil_div(pixels, Tile::kSide) * images;
    launch(kernel, blocks, Tile::kThreads, 0, static_cast<cudaStream_t>(stream), channels, pixels,
           Divisor(static_cast<int>(width)), static_cast<const T*>(from), f, static_cast<T*>(to),
           t);
  }
};

// Values that are moved, not looked at.
struct alignas(16) Bytes16 {
  std::uint64_t halves[2];
};

}  // namespace

void run_copy_layout(std::int64_t element_bytes, const std::int64_t (&size)[4], const void* from,
                     const Strides& from_strides, void* to, const Strides& to_strides,
                     void* stream) {
  const auto run = [&](auto element) {
    LayoutCopy<decltype(element)>{static_cast<int>(size[1]),
                                  size[2] * size[3],
                                  size[0],
                                  size[3],
                                  from,
                                  from_strides,
                                  to,
                                  to_strides}
        .run(stream);
  };
  switch (element_bytes) {
    case 2: run(std::uint16_t{}); break;
    case 4: run(std::uint32_t{}); break;
    case 8: run(std::uint64_t{}); break;
    default: run(Bytes16{}); break;
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
