#pragma once

#include "cpu/isa_kernels.h"

namespace convext_tests {

extern const convext::IsaKernels kWideKernels;
extern const convext::PairKernels kWidePairKernels;

}  // namespace convext_tests
