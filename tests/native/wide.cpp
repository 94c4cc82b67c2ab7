// The kernels once more with AVX-512's vectors and tiles, compiled for the baseline: the compiler
// splits each vector, so that the shapes of the AVX-512 kernels run on every machine.
#define CONVEXT_ISA wide
#define CONVEXT_VECTOR_BYTES 64
#include "wide.h"
#include "cpu/isa_unit.h"

namespace convext_tests {

const convext::IsaKernels kWideKernels = convext::wide::kIsaKernels;

}  // namespace convext_tests
