// Which rung runs a pass on a GPU: a pure function of the problem, the device and the options.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ladder.h"

namespace convext::cuda {

struct DeviceTraits {
  int compute_capability = 80;  // 10 * major + minor
  int multiprocessors = 108;
};

struct CudaOptions {
  bool tf32 = false;  // float32 products may be rounded to TF32
  std::string force;  // an algorithm, or a rung's name; empty for the plan's own choice
  std::int64_t workspace_limit = kNoLimit;
  // Of tensors that are copied for rungs that want channels adjacent: the input, and the others.
  std::int64_t input_copy_bytes = 0, copy_bytes = 0;
};

struct CudaPlan {
  const Rung* rung = nullptr;
  std::int64_t workspace_bytes = 0;  // of the rung, without copies
  std::string reason;
  std::vector<std::pair<std::string, std::string>> refused;  // rung, why
};

// Throws std::runtime_error if no rung can run it: only a forced one, or a limit, can cause that.
CudaPlan plan_cuda(const ConvParams& params, Pass pass, DType dtype, const DeviceTraits& device,
                   const CudaOptions& options);

}  // namespace convext::cuda
