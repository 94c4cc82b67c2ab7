// The body of an ISA unit of kernels that multiply pairs of bfloat16. Included after the unit's two
// macros (simd.h).
#pragma once

#include "gemm_pairs.h"
#include "pack_pairs.h"

namespace convext::CONVEXT_ISA {
namespace {

namespace pair_tiles {
#define CONVEXT_KERNEL(pass, algorithm, layout, storage, mr, v512, v2, vgeneric, rule, cost) \
  [[maybe_unused]] constexpr int k##pass##algorithm##Mr = mr;                                \
  [[maybe_unused]] constexpr int k##pass##algorithm##Vectors = v512;
#include "../kernels.def"
#undef CONVEXT_KERNEL
static_assert(kFpropIndirectPairsMr == kDgradIndirectPairsMr &&
                  kFpropIndirectPairsVectors == kDgradIndirectPairsVectors,
              "these share a kernel");
static_assert(kFpropIndirectPairsMr <= kMostMr, "the drivers' arrays of rows are too short");
}  // namespace pair_tiles

constexpr PairKernels kPairKernels = {
    gemm_pairs_dispatch<pair_tiles::kFpropIndirectPairsMr, pair_tiles::kFpropIndirectPairsVectors>,
    pack_bfloat16, pack_pairs};

}  // namespace
}  // namespace convext::CONVEXT_ISA
