// Tensor maps as the driver encodes them. The emulation has its own (tests/emulation).
#pragma once

#include <cuda.h>

#include "tensor_map.h"

namespace convext::cuda {

// By cuTensorMapEncodeTiled or cuTensorMapEncodeIm2col, of the driver that is loaded: nothing is
// linked against it. Encoding is some instructions of the host; maps hold pointers, and a cache of
// them would have to know when memory got another use. Throws std::runtime_error with what it said,
// or for what map_objection objects to.
CUtensorMap encode_map(const MapSpec& spec);

}  // namespace convext::cuda
