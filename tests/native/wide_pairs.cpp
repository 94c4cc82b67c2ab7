// The kernels of avx512_bf16 compiled for the baseline, with portable code in the instruction's place.
#define CONVEXT_ISA wide_pairs
#define CONVEXT_VECTOR_BYTES 64
#include "cpu/pair_unit.h"
#include "wide.h"

namespace convext_tests {

const convext::PairKernels kWidePairKernels = convext::wide_pairs::kPairKernels;

}  // namespace convext_tests
