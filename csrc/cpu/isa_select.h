// The kernels of an instruction set that the build has.
#pragma once

#include "../conv_plan.h"
#include "isa_kernels.h"

namespace convext {

const IsaKernels& isa_kernels(Isa isa);

// For tests: runs other kernels of the same tiles in an instruction set's place, until nullptr
// takes them back. Not while anything else runs.
void replace_isa_kernels(Isa isa, const IsaKernels* kernels);

// Of Isa::kAvx512Bf16, and others for tests in their place.
const PairKernels& pair_kernels();
void replace_pair_kernels(const PairKernels* kernels);

template <class T>
const ComputeKernels<T>& compute_kernels(Isa isa) {
  if constexpr (sizeof(T) == 8) {
    return isa_kernels(isa).f64;
  } else {
    return isa_kernels(isa).f32;
  }
}

}  // namespace convext
