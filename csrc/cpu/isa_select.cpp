#include "isa_select.h"

#include <stdexcept>

namespace convext {
namespace {

const IsaKernels* replacements[kIsaCount] = {};
const PairKernels* pair_replacement = nullptr;

}  // namespace

void replace_isa_kernels(Isa isa, const IsaKernels* kernels) {
  replacements[static_cast<int>(isa)] = kernels;
}

const IsaKernels& isa_kernels(Isa isa) {
  if (const IsaKernels* replacement = replacements[static_cast<int>(isa)]) return *replacement;
  switch (isa) {
#if defined(CONVEXT_HAVE_AVX512)
    case Isa::kAvx512Bf16:
    case Isa::kAvx512: return kKernelsAvx512;
#endif
#if defined(CONVEXT_HAVE_AVX2)
    case Isa::kAvx2: return kKernelsAvx2;
#endif
    default: return kKernelsGeneric;
  }
}

void replace_pair_kernels(const PairKernels* kernels) { pair_replacement = kernels; }

const PairKernels& pair_kernels() {
  if (pair_replacement != nullptr) return *pair_replacement;
#if defined(CONVEXT_HAVE_AVX512_BF16)
  return kPairKernelsAvx512Bf16;
#else
  throw std::logic_error("this build has no kernels for avx512_bf16");
#endif
}

}  // namespace convext
