#pragma once

#include "cpu/isa_kernels.h"

namespace convext_tests {

extern const convext::IsaKernels kWideKernels;

}  // namespace convext_tests
