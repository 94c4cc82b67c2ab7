#include "tensor_map.h"

#include <initializer_list>

namespace convext::cuda {

const char* map_objection(const MapSpec& spec) {
  const std::int64_t element = bytes_of(spec.dtype);
  if (reinterpret_cast<std::uintptr_t>(spec.base) % 16 != 0) {
    return "tensors must begin at multiples of 16 bytes";
  }
  for (int i = 0; i < spec.rank; ++i) {
    if (spec.size[i] < 1 || spec.size[i] > std::int64_t{1} << 32) {
      return "extents must be 1 to 2**32";
    }
  }
  for (int i = 1; i < spec.rank; ++i) {
    if (spec.stride[i] <= 0 || spec.stride[i] % 16 != 0 ||
        spec.stride[i] >= std::int64_t{1} << 40) {
      return "strides must be multiples of 16 bytes, positive and below 2**40";
    }
  }
  const int row = spec.im2col ? spec.channels : spec.box[0];
  // Shorter rows can be encoded, but where they lie in shared memory is not documented.
  if (row * element != spec.swizzle) return "rows of a box must be as long as the swizzle";
  if (!spec.im2col) {
    for (int i = 0; i < spec.rank; ++i) {
      if (spec.box[i] < 1 || spec.box[i] > 256) return "extents of a box must be 1 to 256";
    }
    return nullptr;
  }
  for (int i = 0; i < 2; ++i) {
    for (int corner : {spec.lower[i], spec.upper[i]}) {
      if (corner < -128 || corner > 127) return "corners of the box must be -128 to 127";
    }
    if (spec.step[i] < 1 || spec.step[i] > 8) return "strides of the convolution must be 1 to 8";
    if (spec.size[i + 1] + spec.upper[i] <= spec.lower[i]) return "the box must hold pixels";
  }
  if (spec.channels > 256 || spec.pixels < 1 || spec.pixels > 1024) {
    return "copies have at most 256 channels and 1024 pixels";
  }
  return nullptr;
}

}  // namespace convext::cuda
