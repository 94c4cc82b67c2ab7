// The body of an ISA unit: every kernel, instantiated for this instruction set with the tiles that
// kernels.def gives it. Included once by each isa_*.cpp, after its two macros.
#pragma once

#include "depthwise_strip.h"
#include "direct_channels.h"
#include "direct_planes.h"
#include "fma_peak.h"
#include "gemm_dot.h"
#include "gemm_indirect.h"
#include "gemm_strip.h"
#include "grouped_planes.h"
#include "grouped_strip.h"
#include "pack.h"
#include "wgrad_depthwise.h"
#include "wgrad_grouped.h"
#include "wgrad_outer.h"
#include "winograd_polyphase.h"
#include "winograd_tiles.h"
#include "winograd_wgrad.h"

namespace convext::CONVEXT_ISA {
namespace {

constexpr int pick(int avx512, int avx2, int generic) {
  return CONVEXT_VECTOR_BYTES == 64 ? avx512 : CONVEXT_VECTOR_BYTES == 32 ? avx2 : generic;
}
#define CONVEXT_KERNEL(pass, algorithm, layout, storage, mr, v512, v2, vgeneric, rule, worth) \
  [[maybe_unused]] constexpr int k##pass##algorithm##Mr = mr;                                 \
  [[maybe_unused]] constexpr int k##pass##algorithm##Vectors = pick(v512, v2, vgeneric);
#include "../kernels.def"
#undef CONVEXT_KERNEL
static_assert(kFpropIndirectMr <= kMostMr && kFpropDepthwiseMr <= kMostMr &&
                  kWgradOuterMr <= kMostMr && kWgradDepthwiseMr <= kMostMr,
              "the drivers' arrays of rows are too short");
// Rows that share a kernel have its tile.
#define CONVEXT_SAME_TILE(first, second)                                                  \
  static_assert(k##first##Mr == k##second##Mr && k##first##Vectors == k##second##Vectors, \
                "these share a kernel")
CONVEXT_SAME_TILE(FpropIndirect, DgradIndirect);
CONVEXT_SAME_TILE(FpropIndirect, FpropIm2col);
CONVEXT_SAME_TILE(FpropDirect, DgradDirect);
CONVEXT_SAME_TILE(FpropDirectPlanes, DgradDirectPlanes);
CONVEXT_SAME_TILE(FpropGrouped, DgradGrouped);
CONVEXT_SAME_TILE(FpropGroupedPlanes, DgradGroupedPlanes);
CONVEXT_SAME_TILE(FpropDepthwise, DgradDepthwise);
CONVEXT_SAME_TILE(FpropWinograd4, FpropWinograd2);
CONVEXT_SAME_TILE(FpropWinograd4, DgradWinograd2);
CONVEXT_SAME_TILE(FpropWinograd4, DgradWinograd4);
CONVEXT_SAME_TILE(FpropWinograd4, FpropPolyphase2);
CONVEXT_SAME_TILE(FpropWinograd4, FpropPolyphase4);
CONVEXT_SAME_TILE(FpropWinograd4, DgradPolyphase2);
CONVEXT_SAME_TILE(FpropWinograd4, DgradPolyphase4);
CONVEXT_SAME_TILE(WgradOuter, WgradWinograd2);
CONVEXT_SAME_TILE(WgradOuter, WgradWinograd4);
CONVEXT_SAME_TILE(WgradOuter, WgradPolyphase2);
CONVEXT_SAME_TILE(WgradOuter, WgradPolyphase4);
CONVEXT_SAME_TILE(FpropPointwise, DgradPointwise);
#undef CONVEXT_SAME_TILE
static_assert(kFpropPointwiseVectors <= kMostStripVectors && kDgradAxpyVectors <= kMostStripVectors,
              "gemm_strip has no instance for so many");

template <class T>
constexpr ComputeKernels<T> compute_kernels() {
  ComputeKernels<T> kernels{};
  kernels.lanes = kLanes<T>;
  kernels.gemm = gemm_indirect_dispatch<T, kFpropIndirectMr, kFpropIndirectVectors>;
  kernels.direct = direct_channels_dispatch<T, kFpropDirectMr, kFpropDirectVectors>;
  kernels.direct_planes =
      direct_planes_dispatch<T, kFpropDirectPlanesMr * kFpropDirectPlanesVectors,
                             kFpropDirectPlanesMr>;
  kernels.depthwise = depthwise_strip_dispatch<T, kFpropDepthwiseMr, kFpropDepthwiseVectors>;
  kernels.grouped = grouped_strip_dispatch<T, kFpropGroupedMr>;
  kernels.planes = planes_dispatch<T, kFpropGroupedPlanesMr, kFpropGroupedPlanesVectors>;
  kernels.strip = gemm_strip<T, kFpropPointwiseMr * kFpropPointwiseVectors>;
  kernels.dot = gemm_dot<T, kFpropDotMr>;
  kernels.outer_planes = wgrad_outer_dispatch<T, kWgradOuterMr, kWgradOuterVectors, false>;
  kernels.outer_pixels = wgrad_outer_dispatch<T, kWgradOuterMr, kWgradOuterVectors, true>;
  kernels.pack_outer_rows = pack_rows<T, kWgradOuterMr>;
  kernels.depthwise_outer = wgrad_depthwise_dispatch<T, kWgradDepthwiseMr>;
  kernels.grouped_outer = wgrad_grouped_dispatch<T>;
  kernels.planes_outer = planes_wgrad_dispatch<T>;
  kernels.pack = pack<T>;
  kernels.pack_planes = pack_planes<T>;
  kernels.unpack = unpack<T>;
  kernels.split_phases = split_phases<T>;
  kernels.join_phases = join_phases<T>;
  kernels.stream_copy = stream_copy<T>;
  kernels.add_rows = add_rows<T>;
  kernels.winograd_sums = winograd_sums<T, kFpropWinograd4Mr, kFpropWinograd4Vectors>;
  kernels.winograd2 = winograd_kernels<T, Winograd<2>>();
  kernels.winograd4 = winograd_kernels<T, Winograd<4>>();
  kernels.polyphase2 = winograd_kernels<T, Polyphase<2>>();
  kernels.polyphase4 = winograd_kernels<T, Polyphase<4>>();
  kernels.polyphase2_grad = winograd_grad_kernels<T, PolyphaseGrad<2>, Polyphase<2>>();
  kernels.polyphase4_grad = winograd_grad_kernels<T, PolyphaseGrad<4>, Polyphase<4>>();
  return kernels;
}

constexpr IsaKernels kIsaKernels = {compute_kernels<float>(), compute_kernels<double>(),
                                    fma_peak<float>, fma_peak<double>};

}  // namespace
}  // namespace convext::CONVEXT_ISA
