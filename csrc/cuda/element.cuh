// What tensors store, and what kernels compute in: float for 16-bit types and itself, double for
// double.
#pragma once

#include "platform.cuh"

namespace convext::cuda {

template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

CONVEXT_DEVICE float to_compute(float value) { return value; }
CONVEXT_DEVICE double to_compute(double value) { return value; }
CONVEXT_DEVICE float to_compute(__half value) { return __half2float(value); }
CONVEXT_DEVICE float to_compute(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
CONVEXT_DEVICE T to_storage(Compute<T> value);
template <>
CONVEXT_DEVICE float to_storage<float>(float value) {
  return value;
}
template <>
CONVEXT_DEVICE double to_storage<double>(double value) {
  return value;
}
template <>
CONVEXT_DEVICE __half to_storage<__half>(float value) {
  return __float2half(value);
}
template <>
CONVEXT_DEVICE __nv_bfloat16 to_storage<__nv_bfloat16>(float value) {
  return __float2bfloat16(value);
}

// N elements that lie together and are moved in one access of 2, 4, 8 or 16 aligned bytes.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static constexpr int kCount = N;
  T element[N];
};

template <int N, class T>
CONVEXT_DEVICE Pack<T, N> load_pack(const T* from) {
  expect_aligned(from, sizeof(Pack<T, N>));
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <class T, int N>
CONVEXT_DEVICE void store_pack(T* to, const Pack<T, N>& values) {
  expect_aligned(to, sizeof values);
  *reinterpret_cast<Pack<T, N>*>(to) = values;
}

// As many of `values` as there are lanes left, to adjacent elements. Not Ragged: all or none, and
// aligned.
template <bool Ragged, class T, class Value, int N>
CONVEXT_DEVICE void store_lanes(T* to, const Pack<Value, N>& values, int left) {
  Pack<T, N> out;
#pragma unroll
  for (int e = 0; e < N; ++e) out.element[e] = to_storage<T>(values.element[e]);
  if constexpr (Ragged) {
#pragma unroll
    for (int e = 0; e < N; ++e) {
      if (e < left) to[e] = out.element[e];
    }
  } else if (left > 0) {
    store_pack(to, out);
  }
}

}  // namespace convext::cuda
