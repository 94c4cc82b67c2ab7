#define CONVEXT_ISA avx512
#define CONVEXT_VECTOR_BYTES 64
#include "isa_unit.h"

namespace convext {
extern const IsaKernels kKernelsAvx512;
constexpr IsaKernels kKernelsAvx512 = avx512::kIsaKernels;
}  // namespace convext
