// fprop_naive, dgrad_naive, wgrad_naive, bgrad_naive: the definition, one thread a result
//
// computes  fprop  output[n,k,p,q]     = bias[k] + sum_{r,s,c} weight[k,c,r,s] *
//                  input[n,c,h(p,r),w(q,s)]
//           dgrad  grad_input[n,c,h,w] = sum_{r,s,k} weight[k,c,r,s] * grad_output[n,k,p,q] over
//                  all (p,r) and (q,s) that read pixel (h,w), copies of it in the padding among
//                  them
//           wgrad  grad_weight[k,c,r,s] = sum_{n,p} sum_q grad_output[n,k,p,q] *
//                  input[n,c,h(p,r),w(q,s)]
//           bgrad  grad_bias[k] = sum_{n,p} sum_q grad_output[n,k,p,q]
//           with c and k running over the channels of one group.
// owns      one thread: one result, summed in the order written above.
// budget    no shared memory; at most 80 registers, three CTAs an SM.
// needs     nothing: any dtype, strides, padding mode, number of groups.
// bound by  loads: two for each multiplication, none of them shared with a neighbour but by the
//           caches.
// step      the first rung. Indices are computed where they are used; the rungs above differ in who
//           computes them, how often, and how often each operand is read.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

inline constexpr int kNaiveThreads = 256;

CONVEXT_DEVICE std::int64_t thread_index() {
  return static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

template <class T>
__global__ void __launch_bounds__(kNaiveThreads, 3)
    fprop_naive(ConvParams v, const T* __restrict__ input, const T* __restrict__ weight,
                const T* __restrict__ bias, T* __restrict__ output) {
  std::int64_t index = thread_index();
  if (index >= static_cast<std::int64_t>(v.N) * v.P * v.Q * v.K) return;
  const int k = v.by_K.divide(&index), channel0 = k / v.outputs * v.channels;
  const Pixel at = pixel_at(index, v.by_P, v.by_Q);
  Compute<T> sum = 0;
  for (int r = 0; r < v.R; ++r) {
    const int h = source_index(v.padding_mode,
                               virtual_index(at.p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
    if (h < 0) continue;
    for (int s = 0; s < v.S; ++s) {
      const int w = source_index(v.padding_mode,
                                 virtual_index(at.q, s, v.stride_w, v.pad_left, v.dilation_w), v.W);
      if (w < 0) continue;
      const T* x = input + offset_of(v.input, at.n, channel0, h, w);
      const T* f = weight + offset_of(v.weight, k, 0, r, s);
      for (int c = 0; c < v.channels; ++c) {
        sum += to_compute(x[c * v.input.c]) * to_compute(f[c * v.weight.c]);
      }
    }
  }
  if (bias != nullptr) sum += to_compute(bias[k]);
  output[offset_of(v.output, at.n, k, at.p, at.q)] = to_storage<T>(sum);
}

// Rows or columns of the input, without those of a gap in their midst.
struct Lines {
  int first, gap_at, gap;  // the first; how many come before the gap; how many it leaves out
  Divisor by_count;        // how many there are

  CONVEXT_HOST_DEVICE int at(int i) const { return first + i + (i < gap_at ? 0 : gap); }
};

// Which pixels of the input dgrad_naive is for: all, or parts of the frame along the border, which
// is what copies in the padding reach.
struct Part {
  Lines rows, columns;
};

template <class T>
__global__ void __launch_bounds__(kNaiveThreads, 3)
    dgrad_naive(ConvParams v, Part part, const T* __restrict__ grad_output,
                const T* __restrict__ weight, T* __restrict__ grad_input) {
  std::int64_t index = thread_index();
  const std::int64_t pixels =
      static_cast<std::int64_t>(part.rows.by_count.d) * part.columns.by_count.d;
  if (index >= v.N * pixels * v.C) return;
  const int c = v.by_C.divide(&index), output0 = c / v.channels * v.outputs;
  const int channel = c % v.channels;
  const Pixel at = pixel_at(index, part.rows.by_count, part.columns.by_count);
  const int n = at.n, h = part.rows.at(at.p), w = part.columns.at(at.q);
  const int rows = virtual_count(v.padding_mode, h, v.H, v.pad_top, v.pad_bottom);
  const int columns = virtual_count(v.padding_mode, w, v.W, v.pad_left, v.pad_right);
  Compute<T> sum = 0;
  for (int i = 0; i < rows; ++i) {
    const int row = nth_virtual(v.padding_mode, h, v.H, v.pad_top, i);
    for (int j = 0; j < columns; ++j) {
      const int column = nth_virtual(v.padding_mode, w, v.W, v.pad_left, j);
      for (int r = 0; r < v.R; ++r) {
        const int p = output_index(row, r, v.stride_h, v.pad_top, v.dilation_h, v.P);
        if (p < 0) continue;
        for (int s = 0; s < v.S; ++s) {
          const int q = output_index(column, s, v.stride_w, v.pad_left, v.dilation_w, v.Q);
          if (q < 0) continue;
          const T* g = grad_output + offset_of(v.output, n, output0, p, q);
          const T* f = weight + offset_of(v.weight, output0, channel, r, s);
          for (int k = 0; k < v.outputs; ++k) {
            sum += to_compute(g[k * v.output.c]) * to_compute(f[k * v.weight.n]);
          }
        }
      }
    }
  }
  grad_input[offset_of(v.input, n, c, h, w)] = to_storage<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kNaiveThreads, 3)
    wgrad_naive(ConvParams v, const T* __restrict__ grad_output, const T* __restrict__ input,
                T* __restrict__ grad_weight) {
  std::int64_t index = thread_index();
  if (index >= static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels) return;
  const int c = v.by_channels.divide(&index), s = v.by_S.divide(&index), r = v.by_R.divide(&index);
  const int k = static_cast<int>(index);
  const int channel = k / v.outputs * v.channels + c;
  Compute<T> sum = 0;
  for (int n = 0; n < v.N; ++n) {
    for (int p = 0; p < v.P; ++p) {
      const int h = source_index(v.padding_mode,
                                 virtual_index(p, r, v.stride_h, v.pad_top, v.dilation_h), v.H);
      if (h < 0) continue;
      Compute<T> row = 0;  // a sum of short sums errs less than a long one
      for (int q = 0; q < v.Q; ++q) {
        const int w = source_index(v.padding_mode,
                                   virtual_index(q, s, v.stride_w, v.pad_left, v.dilation_w), v.W);
        if (w < 0) continue;
        row += to_compute(grad_output[offset_of(v.output, n, k, p, q)]) *
               to_compute(input[offset_of(v.input, n, channel, h, w)]);
      }
      sum += row;
    }
  }
  grad_weight[offset_of(v.weight, k, c, r, s)] = to_storage<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kNaiveThreads, 3)
    bgrad_naive(ConvParams v, const T* __restrict__ grad_output, T* __restrict__ grad_bias) {
  const std::int64_t k = thread_index();
  if (k >= v.K) return;
  Compute<T> sum = 0;
  for (int n = 0; n < v.N; ++n) {
    for (int p = 0; p < v.P; ++p) {
      Compute<T> row = 0;
      for (int q = 0; q < v.Q; ++q) {
        row += to_compute(grad_output[offset_of(v.output, n, static_cast<int>(k), p, q)]);
      }
      sum += row;
    }
  }
  grad_bias[k] = to_storage<T>(sum);
}

}  // namespace convext::cuda
