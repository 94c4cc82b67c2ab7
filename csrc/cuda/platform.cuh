// Where kernels meet nvcc or, in tests on machines without a GPU, the emulation that runs the same
// sources as C++ (tests/emulation). Kernels include no other header of either.
//
// Shared memory is declared with SHARED_ARRAY(type, name, [extents]) and SHARED_DYNAMIC(name), so
// that the emulation can guard and poison it, and kernels are started with convext::cuda::launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "divisor.h"

#if defined(__CUDACC__)

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "encode_map.h"

#define SHARED_ARRAY(type, name, extents) __shared__ __align__(16) type name extents
#define SHARED_DYNAMIC(name) extern __shared__ __align__(1024) unsigned char name[]

#else

#include "cuda_host.h"

#define SHARED_ARRAY(type, name, extents)      \
  using name##_shared_t = type extents;        \
  auto& name = *static_cast<name##_shared_t*>( \
      emu::static_shared(__FILE__, __LINE__, sizeof(name##_shared_t), alignof(name##_shared_t)))
#define SHARED_DYNAMIC(name) unsigned char* const name = emu::dynamic_shared()

using cudaStream_t = void*;

#endif

#define CONVEXT_DEVICE __device__ __forceinline__

namespace convext::cuda {

#if defined(__CUDACC__)
using TensorMap = CUtensorMap;  // the emulation has its own (tests/emulation/tensor_map_host.h)
#endif

#if defined(__CUDACC__)
inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // told now, it must not be told again
  throw std::runtime_error(std::string("convext: CUDA: ") + cudaGetErrorString(error));
}
#endif

// CTAs that fill any device some times over; problems of the emulation are small.
#if defined(__CUDACC__)
inline constexpr std::int64_t kManyBlocks = 2048;
#else
inline constexpr std::int64_t kManyBlocks = 3;
#endif

// Makes the current device's context this thread's: a thread that autograd runs may have none, without
// which the driver encodes no tensor maps.
inline void bind_device() {
#if defined(__CUDACC__)
  int device = 0;
  check(cudaGetDevice(&device));
  check(cudaSetDevice(device));
#endif
}

// Of the current device: how many CTAs that stay until all is done.
inline int multiprocessors() {
#if defined(__CUDACC__)
  int device = 0, count = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
#else
  return 2;  // so that small problems have tiles for several rounds
#endif
}

// Of an access of so many bytes: the emulation looks.
CONVEXT_DEVICE void expect_aligned(const void* at, std::size_t bytes) {
#if !defined(__CUDACC__)
  emu::expect_aligned(at, bytes);
#else
  (void)at;
  (void)bytes;
#endif
}

// Lets the kernel have more dynamic shared memory than the 48 KiB that any may.
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...), std::size_t bytes) {
#if defined(__CUDACC__)
  if (bytes <= 48 * 1024) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)));
#else
  (void)kernel;
  (void)bytes;
#endif
}

// In clusters of `ctas` blocks, which divide `blocks`.
template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), std::int64_t blocks, int ctas, unsigned threads,
                     std::size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  const dim3 grid(static_cast<unsigned>(blocks));
#if defined(__CUDACC__)
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(ctas), 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...));
#else
  (void)stream;
  emu::launch_cluster(kernel, ctas, grid, dim3(threads), shared_bytes, arguments...);
#endif
}

// kernel<<<blocks, threads, shared bytes, stream>>>(arguments...). Throws std::runtime_error for more
// blocks than a grid may have, and with what CUDA said.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), std::int64_t blocks, unsigned threads,
            std::size_t shared_bytes, cudaStream_t stream, Arguments... arguments) {
  if (blocks > 0x7fffffff) {
    throw std::runtime_error("convext: the problem needs " + std::to_string(blocks) +
                             " thread blocks, a grid has at most 2147483647");
  }
  const dim3 grid(static_cast<unsigned>(blocks));
#if defined(__CUDACC__)
  kernel<<<grid, threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError());
#else
  (void)stream;
  emu::launch(kernel, grid, dim3(threads), shared_bytes, arguments...);
#endif
}

}  // namespace convext::cuda
