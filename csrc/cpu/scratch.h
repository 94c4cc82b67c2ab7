// Working memory of the drivers: one growing, 64-byte aligned buffer for each slot and thread,
// kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convext {

enum class Slot {
  kPanels,  // shared by a pass: packed weights
  kBias,    // shared: bias in compute type
  kSums,    // shared: partial sums of weight grad and bias grad
  kZeros,   // the pixel that padding points at
  kRows,    // packed source rows
  kGrad,    // packed gradient
  kPacked,  // a thread's own piece of the weights, in compute type
  kTile,    // results on their way to a layout or type that kernels do not store
  kFilter,  // weights on their way into Winograd's filter transform
  kPoints,  // Winograd: transformed input tiles
  kSumsOfPoints,  // Winograd: what the GEMMs of the points sum up
  kCount,
};

// Contents are undefined. Valid until the same thread asks for the same slot again.
void* scratch_bytes(Slot slot, std::size_t bytes);

template <class T>
T* scratch(Slot slot, std::int64_t count) {
  return static_cast<T*>(scratch_bytes(slot, static_cast<std::size_t>(count) * sizeof(T)));
}

}  // namespace convext
