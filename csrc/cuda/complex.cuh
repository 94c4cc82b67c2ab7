// expand_complex_weight, fold_complex_gradient: complex convolution as a real one of twice the
// channels
//
// computes  A complex tensor with adjacent channels is a real one of twice the channels as it lies:
//           channel 2c is the real part of c, 2c + 1 the imaginary one. Of a weight w its real
//           counterpart has
//               expanded[2k]    [2c], [2c + 1] = re w[k][c], -im w[k][c]
//               expanded[2k + 1][2c], [2c + 1] = im w[k][c],  re w[k][c]
//           so that real convolution by `expanded` is complex convolution by w, its adjoint
//           that of w, and
//               fold[k][c] = (g[2k][2c] + g[2k + 1][2c + 1]) + i (g[2k + 1][2c] - g[2k][2c + 1])
//           of a real weight gradient g that of w.
// owns      one thread: one element of the expanded weight, or of the folded gradient.
// needs     nothing of the weight; the expanded one is dense, channels adjacent.
// bound by  memory, and little of it: weights.
// step      every rung serves complex numbers, at the four multiplications that they take.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

inline constexpr int kComplexThreads = 256;

// `v` is the real problem's, but for v.weight: strides of the complex weight, in complex elements.
template <class T>
__global__ void __launch_bounds__(kComplexThreads, 4)
    expand_complex_weight(ConvParams v, const T* __restrict__ weight, T* __restrict__ expanded) {
  const std::int64_t at = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels) return;
  std::int64_t rest = at;
  const int c = v.by_channels.divide(&rest), s = v.by_S.divide(&rest), r = v.by_R.divide(&rest);
  const int k = static_cast<int>(rest);
  const int part = (c ^ k) & 1;  // 0: the real part
  const T value = weight[2 * offset_of(v.weight, k / 2, c / 2, r, s) + part];
  expanded[at] = part == 1 && k % 2 == 0 ? to_storage<T>(-to_compute(value)) : value;
}

template <class T>
__global__ void __launch_bounds__(kComplexThreads, 4)
    fold_complex_gradient(ConvParams v, const T* __restrict__ expanded, T* __restrict__ gradient) {
  std::int64_t rest = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const int channels = v.channels / 2;
  if (rest >= static_cast<std::int64_t>(v.K / 2) * v.R * v.S * channels) return;
  rest *= 2;  // as if of real channels, of which there are twice as many
  const int c = v.by_channels.divide(&rest), s = v.by_S.divide(&rest), r = v.by_R.divide(&rest);
  const int k = 2 * static_cast<int>(rest);
  const T* even = expanded + ((static_cast<std::int64_t>(k) * v.R + r) * v.S + s) * v.channels + c;
  const T* odd = even + static_cast<std::int64_t>(v.R) * v.S * v.channels;
  T* to = gradient + 2 * offset_of(v.weight, k / 2, c / 2, r, s);
  to[0] = to_storage<T>(to_compute(even[0]) + to_compute(odd[1]));
  to[1] = to_storage<T>(to_compute(odd[0]) - to_compute(even[1]));
}

}  // namespace convext::cuda
