// The table of rungs. Included by ladder.cu, which nvcc compiles, and by the emulation.
#pragma once

#include "group_launchers.cuh"

namespace convext::cuda {
namespace {

std::vector<Rung> make_ladder() {
  std::vector<Rung> rungs;
  add_depthwise<float>(&rungs);
  add_depthwise<double>(&rungs);
  add_depthwise<__half>(&rungs);
  add_depthwise<__nv_bfloat16>(&rungs);
  add_grouped<float>(&rungs);
  add_grouped<double>(&rungs);
  add_grouped<__half>(&rungs);
  add_grouped<__nv_bfloat16>(&rungs);
  add_first_layer<__half, MmaF16Small>("mma_first", 75, false, &rungs);
  add_first_layer<__nv_bfloat16, MmaBf16Small>("mma_first", 80, false, &rungs);
  add_first_layer<float, MmaTf32>("mma_tf32_first", 80, true, &rungs);
  add_first_layer<float, SimtF32Small>("simt_first", 75, false, &rungs);
  add_first_layer<double, SimtF64>("simt_first", 75, false, &rungs);
#if CONVEXT_HAVE_HOPPER
  add_hopper(&rungs);
#endif
  add_gemm<__half, MmaF16>("mma", 75, false, &rungs);
  add_gemm<__half, MmaF16Small>("mma", 75, false, &rungs);
  add_gemm<__nv_bfloat16, MmaBf16>("mma", 80, false, &rungs);
  add_gemm<__nv_bfloat16, MmaBf16Small>("mma", 80, false, &rungs);
  add_gemm<float, MmaTf32>("mma_tf32", 80, true, &rungs);
  add_gemm<float, SimtF32>("simt", 75, false, &rungs);
  add_gemm<float, SimtF32Small>("simt", 75, false, &rungs);
  add_gemm<double, MmaF64>("mma", 80, false, &rungs);
  add_gemm<double, SimtF64>("simt", 75, false, &rungs);
  add_gemm<__nv_bfloat16, SimtBf16>("simt", 75, false, &rungs);
  add_naive<float>(&rungs);
  add_naive<double>(&rungs);
  add_naive<__half>(&rungs);
  add_naive<__nv_bfloat16>(&rungs);
  return rungs;
}

}  // namespace

const std::vector<Rung>& ladder() {
  static const std::vector<Rung> rungs = make_ladder();
  return rungs;
}

}  // namespace convext::cuda
