#include "encode_map.h"

#include <cudaTypedefs.h>
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

namespace convext::cuda {
namespace {

template <class Function>
Function driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result{};
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess || found == nullptr) {
    throw std::runtime_error("convext: the CUDA driver has no " + std::string(name) +
                             "; kernels of Hopper need one of CUDA 12.0 or newer");
  }
  return reinterpret_cast<Function>(found);
}

CUtensorMapDataType type_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case DType::kBFloat16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    default: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  }
}

CUtensorMapSwizzle swizzle_of(int bytes) {
  return bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
                       : CU_TENSOR_MAP_SWIZZLE_32B;
}

}  // namespace

CUtensorMap encode_map(const MapSpec& spec) {
  if (const char* objection = map_objection(spec)) {
    throw std::runtime_error("convext: a tensor map cannot be made: it " + std::string(objection));
  }
  CUtensorMap map{};
  void* const base = const_cast<void*>(spec.base);  // maps of operands are only read through
  const auto rank = static_cast<cuuint32_t>(spec.rank);
  cuuint64_t size[4] = {}, stride[3] = {};
  for (int i = 0; i < spec.rank; ++i) {
    size[i] = static_cast<cuuint64_t>(spec.size[i]);
    if (i > 0) stride[i - 1] = static_cast<cuuint64_t>(spec.stride[i]);
  }
  cuuint32_t step[4] = {1, 1, 1, 1};
  CUresult result = CUDA_SUCCESS;
  if (spec.im2col) {
    static const auto encode =
        driver_function<PFN_cuTensorMapEncodeIm2col_v12000>("cuTensorMapEncodeIm2col");
    step[1] = static_cast<cuuint32_t>(spec.step[0]);
    step[2] = static_cast<cuuint32_t>(spec.step[1]);
    result = encode(&map, type_of(spec.dtype), rank, base, size, stride, spec.lower, spec.upper,
                    static_cast<cuuint32_t>(spec.channels), static_cast<cuuint32_t>(spec.pixels),
                    step, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(spec.swizzle),
                    CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  } else {
    static const auto encode =
        driver_function<PFN_cuTensorMapEncodeTiled_v12000>("cuTensorMapEncodeTiled");
    cuuint32_t box[4] = {};
    for (int i = 0; i < spec.rank; ++i) box[i] = static_cast<cuuint32_t>(spec.box[i]);
    result = encode(&map, type_of(spec.dtype), rank, base, size, stride, box, step,
                    CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(spec.swizzle),
                    CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  }
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("convext: the CUDA driver refuses a tensor map, error " +
                             std::to_string(static_cast<int>(result)));
  }
  return map;
}

}  // namespace convext::cuda
