#define CONVEXT_ISA avx2
#define CONVEXT_VECTOR_BYTES 32
#include "isa_unit.h"

namespace convext {
extern const IsaKernels kKernelsAvx2;
constexpr IsaKernels kKernelsAvx2 = avx2::kIsaKernels;
}  // namespace convext
