// The CUDA kernels are a library of their own, which is there or not. What the rest of convext
// wants to know of it goes through here: once loaded, the library tells.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "conv_plan.h"

namespace convext {

// One rung of the ladder (cuda/ladder.h).
struct CudaKernel {
  std::string name;
  Pass pass;
  std::string algorithm;
  DType dtype;
  int tile_m, tile_n, tile_k;  // of a CTA; 0 where there is none
  int least_capability;        // 10 * major + minor
  bool channels_last;          // wants channels that are adjacent in memory
  bool rounds_to_tf32;         // float32 operands
  int most_capability;         // 0: any newer device can run it
  bool only_forced;            // plans do not choose it by themselves
};

// A GPU as plans see it.
struct CudaTarget {
  int compute_capability = 90;  // 10 * major + minor
  int multiprocessors = 132;
  bool tf32 = false;  // float32 products may be rounded to TF32
};

struct CudaChoice {
  CudaKernel kernel;
  std::int64_t workspace_bytes = 0;  // partial sums; copies of tensors come on top
  std::string reason;
  std::vector<std::pair<std::string, std::string>> refused;  // kernel, why
};

struct CudaLibrary {
  std::vector<CudaKernel> (*kernels)();
  // `force`: an algorithm or a kernel, or empty. Throws std::runtime_error if nothing can run it.
  CudaChoice (*plan)(const ConvProblem& problem, Pass pass, const CudaTarget& target,
                     const std::string& force, std::int64_t workspace_limit);
};

// Null until the library is loaded, which sets it then.
const CudaLibrary* cuda_library();
void set_cuda_library(const CudaLibrary* library);

// How often each kernel was started since the process began or the counts were reset.
void count_cuda_run(const std::string& kernel);
std::map<std::string, std::int64_t> cuda_runs();
void reset_cuda_runs();

// What torch says about float32 convolutions on CUDA, asked for each of them: whether TF32 may be
// used. Without a query, no.
bool tf32_allowed();
void set_tf32_query(bool (*query)());

}  // namespace convext
