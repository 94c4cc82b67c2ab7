// Working memory of the drivers: one growing, 64-byte aligned buffer for each slot and thread, kept
// between calls up to a bound, and known to a register, so that what all threads hold can be told
// and given back.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convext {

enum class Slot {
  kPanels,        // shared by a pass: packed weights
  kBias,          // shared: bias in compute type
  kSums,          // partial sums of weight grad and bias grad, shared but for Winograd's parts
  kZeros,         // the pixel that padding points at
  kRows,          // packed source rows
  kGrad,          // packed gradient
  kPacked,        // a thread's own piece of the weights, in compute type
  kTile,          // results on their way to a layout or type that kernels do not store
  kFilter,        // weights on their way into Winograd's filter transform
  kPoints,        // Winograd: transformed input tiles
  kSumsOfPoints,  // Winograd: what the GEMMs of the points sum up
  kCount,
};

// Contents are undefined. Valid until the same thread asks for the same slot again or its outermost
// ScratchUse ends.
void* scratch_bytes(Slot slot, std::size_t bytes);

template <class T>
T* scratch(Slot slot, std::int64_t count) {
  return static_cast<T*>(scratch_bytes(slot, static_cast<std::size_t>(count) * sizeof(T)));
}

// While one of these lives, its thread's buffers stay. They nest: run_plan holds one for the thread
// that calls it, and Threads::run one for each thread that helps.
class ScratchUse {
 public:
  ScratchUse();
  ~ScratchUse();
  ScratchUse(const ScratchUse&) = delete;
  ScratchUse& operator=(const ScratchUse&) = delete;
};

// What a thread may keep when nothing runs on it; larger buffers are freed after the call.
inline constexpr std::int64_t kKeptScratchBytes = std::int64_t{64} << 20;

// With less than this to keep, a thread first frees what its present call does not use.
void bound_scratch(std::int64_t bytes);

// Bytes that the buffers of all threads hold now.
std::int64_t held_scratch();

// Frees the buffers of every thread: at once where nothing runs, otherwise when the call ends.
void free_scratch();

// Asks for large pages for the whole ones of [data, data + bytes), which are best not touched yet.
// Does nothing for less than a few of them, and where the system has no such request.
void advise_huge_pages(void* data, std::size_t bytes);

}  // namespace convext
