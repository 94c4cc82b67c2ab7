#define CONVEXT_ISA generic
#define CONVEXT_VECTOR_BYTES 16
#include "isa_unit.h"

namespace convext {
extern const IsaKernels kKernelsGeneric;
constexpr IsaKernels kKernelsGeneric = generic::kIsaKernels;
}  // namespace convext
