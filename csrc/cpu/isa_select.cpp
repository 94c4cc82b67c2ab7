#include "isa_select.h"

namespace convext {
namespace {

const IsaKernels* replacements[3] = {};

}  // namespace

void replace_isa_kernels(Isa isa, const IsaKernels* kernels) {
  replacements[static_cast<int>(isa)] = kernels;
}

const IsaKernels& isa_kernels(Isa isa) {
  if (const IsaKernels* replacement = replacements[static_cast<int>(isa)]) return *replacement;
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
