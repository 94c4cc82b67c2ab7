#include "isa_select.h"

namespace convext {

const IsaKernels& isa_kernels(Isa isa) {
  switch (isa) {
#if defined(CONVEXT_HAVE_AVX512)
    case Isa::kAvx512: return kKernelsAvx512;
#endif
#if defined(CONVEXT_HAVE_AVX2)
    case Isa::kAvx2: return kKernelsAvx2;
#endif
    default: return kKernelsGeneric;
  }
}

}  // namespace convext
