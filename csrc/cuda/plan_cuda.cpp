#include "plan_cuda.h"

#include <stdexcept>

namespace convext::cuda {
namespace {

// CTAs of a rung's grid that do anything, and the length of their sums as far as it depends on the
// tile.
struct Work {
  std::int64_t blocks = 1, depth = 1;
};

Work work_of(const Rung& rung, const ConvParams& v) {
  const auto parts = [](std::int64_t whole, std::int64_t part) {
    return (whole + part - 1) / part;
  };
  const std::int64_t outputs = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const std::int64_t inputs = static_cast<std::int64_t>(v.N) * v.H * v.W;
  switch (rung.pass) {
    case Pass::kFprop:
      return {parts(outputs, rung.tile_m) * parts(v.outputs, rung.tile_n) * v.groups, 1};
    case Pass::kDgrad:
      return {parts(inputs, rung.tile_m) * parts(v.channels, rung.tile_n) * v.groups, 1};
    case Pass::kWgrad: {
      const std::int64_t tiles =
          parts(v.outputs, rung.tile_m) * parts(v.channels, rung.tile_n) * v.R * v.S * v.groups;
      const Shares splits = split_pixels(v, tiles);
      return {tiles * splits.count, splits.size};
    }
    case Pass::kBgrad: break;
  }
  return {};
}

// Rungs of one algorithm differ in their tile: the time of a tile's multiplications, in waves of
// one CTA a multiprocessor. A smaller tile reads more for each multiplication.
double cost_of(const Rung& rung, const ConvParams& v, const DeviceTraits& device) {
  if (rung.cost != nullptr) return rung.cost(v, device.multiprocessors);
  if (rung.tile_m == 0) return 0;
  // How wgrad's sums are split depends on the tile, which then must not depend on the device.
  const std::int64_t at_once = rung.pass == Pass::kWgrad ? 128 : device.multiprocessors;
  const Work work = work_of(rung, v);
  const std::int64_t waves = (work.blocks + at_once - 1) / at_once;
  const double products = static_cast<double>(rung.tile_m) * rung.tile_n;
  const double traffic = 32.0 * (rung.tile_m + rung.tile_n);
  return static_cast<double>(waves) * (products + traffic) * static_cast<double>(work.depth);
}

bool is_named(const Rung& rung, const std::string& force) {
  return force == rung.algorithm || force == rung.name;
}

// Empty, or why the rung cannot run here.
std::string objection(const Rung& rung, const ConvParams& v, const DeviceTraits& device,
                      const CudaOptions& options) {
  std::string why;
  if (rung.least_capability > device.compute_capability) {
    return "needs compute capability " + std::to_string(rung.least_capability / 10) + "." +
           std::to_string(rung.least_capability % 10) + " or newer";
  }
  if (rung.most_capability != 0 && rung.most_capability < device.compute_capability) {
    return "is compiled for compute capability " + std::to_string(rung.most_capability / 10) + "." +
           std::to_string(rung.most_capability % 10) + " alone";
  }
  if (rung.only_forced && options.force.empty()) {
    return "has not been measured on a GPU: runs where it is forced, by CONVEXT_PLAN or force_plan";
  }
  if (!options.force.empty() && !is_named(rung, options.force)) {
    return "not what '" + options.force + "' forces";
  }
  if (rung.rounds_to_tf32 && !options.tf32 && options.force.empty()) {
    return "TF32 is not allowed: torch.backends.cudnn.conv.fp32_precision";
  }
  if (!rung.can(v, &why)) return why;
  const std::int64_t bytes = rung.workspace_bytes(v) +
                             (rung.channels_last ? options.copy_bytes : 0) +
                             (rung.channels_last && !rung.any_input ? options.input_copy_bytes : 0);
  if (bytes > options.workspace_limit) {
    return "needs " + std::to_string(bytes) + " bytes of workspace, the limit is " +
           std::to_string(options.workspace_limit);
  }
  return "";
}

}  // namespace

CudaPlan plan_cuda(const ConvParams& params, Pass pass, DType dtype, const DeviceTraits& device,
                   const CudaOptions& options) {
  CudaPlan plan;
  for (const Rung& rung : ladder()) {
    if (rung.pass != pass || rung.dtype != dtype) continue;
    const std::string why = objection(rung, params, device, options);
    if (!why.empty()) {
      plan.refused.emplace_back(rung.name, why);
      continue;
    }
    // The table's order is that of preference between algorithms.
    if (plan.rung == nullptr) {
      plan.rung = &rung;
    } else if (std::string(plan.rung->algorithm) != rung.algorithm) {
      plan.refused.emplace_back(rung.name, std::string("slower than ") + plan.rung->algorithm);
    } else if (cost_of(rung, params, device) < cost_of(*plan.rung, params, device)) {
      plan.refused.emplace_back(plan.rung->name, "its tiles fill the device worse");
      plan.rung = &rung;
    } else {
      plan.refused.emplace_back(rung.name, "its tiles fill the device worse");
    }
  }
  if (plan.rung == nullptr) {
    std::string message = "convext: no CUDA kernel can run this pass";
    for (const auto& [name, why] : plan.refused) message += "\n  " + name + ": " + why;
    throw std::runtime_error(message);
  }
  plan.workspace_bytes = plan.rung->workspace_bytes(params);
  plan.reason = options.force.empty() ? std::string("the highest rung that can run the problem")
                                      : "forced by '" + options.force + "'";
  return plan;
}

}  // namespace convext::cuda
