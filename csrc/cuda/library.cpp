// What this library tells the rest of convext when it is loaded (../cuda_library.h).
#include "../cuda_library.h"

#include <stdexcept>

#include "plan_cuda.h"

namespace convext::cuda {
namespace {

CudaKernel kernel_of(const Rung& rung) {
  return {rung.name,          rung.pass,           rung.algorithm,       rung.dtype,
          rung.tile_m,        rung.tile_n,         rung.tile_k,          rung.least_capability,
          rung.channels_last, rung.rounds_to_tf32, rung.most_capability, rung.only_forced};
}

std::vector<CudaKernel> all_kernels() {
  std::vector<CudaKernel> kernels;
  for (const Rung& rung : ladder()) kernels.push_back(kernel_of(rung));
  return kernels;
}

CudaChoice plan_of(const ConvProblem& problem, Pass pass, const CudaTarget& target,
                   const std::string& force, std::int64_t workspace_limit) {
  if (problem.is_empty()) {
    throw std::runtime_error("convext: the problem is empty: no kernel runs");
  }
  const ConvParams params = channels_last_params(problem);
  const CudaPlan plan =
      plan_cuda(params, pass, problem.dtype, {target.compute_capability, target.multiprocessors},
                {target.tf32, force, workspace_limit});
  CudaChoice choice;
  choice.kernel = kernel_of(*plan.rung);
  choice.workspace_bytes = plan.workspace_bytes;
  choice.reason = plan.reason;
  choice.refused = plan.refused;
  return choice;
}

constexpr CudaLibrary kLibrary{&all_kernels, &plan_of};

const bool registered = [] {
  set_cuda_library(&kLibrary);
  return true;
}();

}  // namespace
}  // namespace convext::cuda
