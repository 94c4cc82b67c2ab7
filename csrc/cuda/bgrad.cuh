// bgrad_channels, bgrad_planes: the gradient of the bias, a sum over pixels
//
// computes  sums[split][k] = sum_{pixel of split} grad_output[pixel][k]; then sum_chunks adds the
//           splits in order.
// owns      bgrad_channels (channels adjacent): CTA: 32 channels of one split; thread: one channel,
//           every 8th pixel. bgrad_planes (pixels adjacent): CTA: one channel of one split; thread:
//           every 256th pixel. Threads' sums are added in a fixed order.
// budget    shared: one sum a thread, 1 KiB (float) or 2 KiB.
// needs     nothing.
// bound by  memory: every element is read once, by neighbouring threads.
// step      from naive: a sum of short sums, and enough threads to fill the device.
#pragma once

#include "element.cuh"
#include "index_math.cuh"

namespace convext::cuda {

inline constexpr int kBgradChannels = 32, kBgradPhases = 8;
inline constexpr int kBgradThreads = kBgradChannels * kBgradPhases;

template <class T>
__global__ void __launch_bounds__(kBgradThreads, 4)
    bgrad_channels(ConvParams v, std::int64_t share, const T* __restrict__ grad_output,
                   Compute<T>* __restrict__ sums) {
  SHARED_ARRAY(Compute<T>, part, [kBgradPhases][kBgradChannels]);
  const int lane = static_cast<int>(threadIdx.x) % kBgradChannels;
  const int phase = static_cast<int>(threadIdx.x) / kBgradChannels;
  unsigned rest = blockIdx.x;
  const int k = take(&rest, block_count(v.K, kBgradChannels)) * kBgradChannels + lane;
  const std::int64_t split = rest;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const std::int64_t end = (split + 1) * share < pixels ? (split + 1) * share : pixels;
  Compute<T> sum = 0;
  if (k < v.K) {
    const std::int64_t first = split * share + phase;
    Pixel at = pixel_at(first, v.by_P, v.by_Q);
    for (std::int64_t i = first; i < end; i += kBgradPhases) {
      sum += to_compute(grad_output[offset_of(v.output, at.n, k, at.p, at.q)]);
      advance(&at, kBgradPhases, v.P, v.Q);
    }
  }
  part[phase][lane] = sum;
  __syncthreads();  // all threads' sums are there
  if (phase > 0 || k >= v.K) return;
  for (int i = 1; i < kBgradPhases; ++i) sum += part[i][lane];
  sums[split * v.K + k] = sum;
}

template <class T>
__global__ void __launch_bounds__(kBgradThreads, 4)
    bgrad_planes(ConvParams v, std::int64_t share, const T* __restrict__ grad_output,
                 Compute<T>* __restrict__ sums) {
  SHARED_ARRAY(Compute<T>, part, [kBgradThreads]);
  unsigned rest = blockIdx.x;
  const int k = take(&rest, v.K), thread = static_cast<int>(threadIdx.x);
  const std::int64_t split = rest;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const std::int64_t end = (split + 1) * share < pixels ? (split + 1) * share : pixels;
  Compute<T> sum = 0;
  const std::int64_t first = split * share + thread;
  for (std::int64_t i = first; i < end; i += kBgradThreads) {
    const Pixel at = pixel_at(i, v.by_P, v.by_Q);
    sum += to_compute(grad_output[offset_of(v.output, at.n, k, at.p, at.q)]);
  }
  part[thread] = sum;
  for (int half = kBgradThreads / 2; half > 0; half /= 2) {
    __syncthreads();  // the sums of the step before are there
    if (thread < half) part[thread] += part[thread + half];
  }
  if (thread == 0) sums[split * v.K + k] = part[0];
}

// to[i] = the chunks' sums[chunk][i], added in order: one thread an element.
template <class T>
__global__ void __launch_bounds__(256, 4)
    sum_chunks(std::int64_t elements, int chunks, const Compute<T>* __restrict__ sums,
               std::int64_t step, T* __restrict__ to) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= elements) return;
  Compute<T> total = sums[index];
  for (int chunk = 1; chunk < chunks; ++chunk) total += sums[chunk * elements + index];
  to[index * step] = to_storage<T>(total);
}

}  // namespace convext::cuda
