// What the hardware that copies boxes of tensors (TMA) is told about them, and its limits.
#pragma once

#include <cstdint>

#include "../dtype.h"

namespace convext::cuda {

// Dimensions and coordinates begin with the innermost, whose elements are adjacent.
struct MapSpec {
  const void* base = nullptr;
  DType dtype = DType::kBFloat16;
  int rank = 0;
  std::int64_t size[4] = {1, 1, 1, 1};
  std::int64_t stride[4] = {0, 0, 0, 0};  // bytes; that of dimension 0 is an element's size
  int swizzle = 128;                      // bytes of a row of the box: 32, 64 or 128
  // A copy brings box[0] x box[1] x ... elements, in this order.
  int box[4] = {1, 1, 1, 1};
  // Or `pixels` pixels of `channels` channels each, of a tensor C W H N: they are taken one after the
  // other, across and then down, from the box of each image that reaches from lower to
  // extent - 1 + upper, every step-th; [0] is across.
  bool im2col = false;
  int lower[2] = {0, 0}, upper[2] = {0, 0}, step[2] = {1, 1};
  int channels = 0, pixels = 0;
};

// Null, or which of the hardware's limits it breaks (CUDA driver API: cuTensorMapEncodeTiled,
// cuTensorMapEncodeIm2col). Offsets within a copy may be 0 to 255.
const char* map_objection(const MapSpec& spec);

inline constexpr int kMostMapOffset = 255;

}  // namespace convext::cuda
