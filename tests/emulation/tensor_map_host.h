// What a CUtensorMap is to the emulation: the numbers that it was encoded from.
#pragma once

#include <cstdint>

#include "cuda/tensor_map.h"
#include "memory.h"

struct alignas(64) TensorMap {
  convext::cuda::MapSpec spec;
  std::uint64_t mark = 0;  // kMark once encoded
  static constexpr std::uint64_t kMark = 0x70616d2d726f736e;
};

// Throws emu::Error for what the hardware does not take.
inline TensorMap encode_map(const convext::cuda::MapSpec& spec) {
  if (const char* objection = convext::cuda::map_objection(spec)) throw emu::Error(objection);
  TensorMap map;
  map.spec = spec;
  map.mark = TensorMap::kMark;
  return map;
}
