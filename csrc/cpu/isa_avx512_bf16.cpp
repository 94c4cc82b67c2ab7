#define CONVEXT_ISA avx512_bf16
#define CONVEXT_VECTOR_BYTES 64
#include "pair_unit.h"

namespace convext {
extern const PairKernels kPairKernelsAvx512Bf16;
constexpr PairKernels kPairKernelsAvx512Bf16 = avx512_bf16::kPairKernels;
}  // namespace convext
