// The table's rows of Hopper. Included by hopper.cu, which nvcc compiles, and by the emulation.
#pragma once

#include "wgmma_launch.cuh"

namespace convext::cuda {

void add_hopper(std::vector<Rung>* rungs) {
  add_wgmma_data_tiles<__half, Pass::kFprop>(rungs);
  add_wgmma_data_tiles<__half, Pass::kDgrad>(rungs);
  add_wgmma_weight_tiles<__half>(rungs);
  add_wgmma_data_tiles<__nv_bfloat16, Pass::kFprop>(rungs);
  add_wgmma_data_tiles<__nv_bfloat16, Pass::kDgrad>(rungs);
  add_wgmma_weight_tiles<__nv_bfloat16>(rungs);
  add_wgmma_data_tiles<float, Pass::kFprop>(rungs);
  add_wgmma_data_tiles<float, Pass::kDgrad>(rungs);
}

}  // namespace convext::cuda
