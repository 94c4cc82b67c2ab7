// Packed weights of run_pointwise.cpp where lanes are channels: panels of a register tile's vectors,
// [depth][lanes in whole vectors].
#pragma once

#include <cstdint>

#include "../int_math.h"
#include "../parallel.h"
#include "isa_kernels.h"
#include "scratch.h"
#include "views.h"

namespace convext {

struct LanePanelShape {
  std::int64_t lanes, depth;               // channels of the destination and of the source
  std::int64_t lane_stride, depth_stride;  // of the weight
};

template <class T>
class LanePanels {
 public:
  LanePanels(const ComputeKernels<T>& kernels, std::int64_t vectors, const TensorView& weight,
             const LanePanelShape& shape)
      : kernels_(kernels), weight_(weight), shape_(shape), panel_vectors_(vectors) {
    // The last two panels share what they have if it would leave the last a single vector.
    all_vectors_ = ceil_div(shape.lanes, kernels.lanes);
    equal_ = all_vectors_ / vectors;
    if (all_vectors_ % vectors == 1 && equal_ > 0) --equal_;
  }

  std::int64_t count() const { return ceil_div(all_vectors_, panel_vectors_); }
  // The first lane.
  std::int64_t begin(std::int64_t panel) const {
    if (panel <= equal_) return panel * panel_vectors_ * kernels_.lanes;
    const std::int64_t left = all_vectors_ - equal_ * panel_vectors_;
    const std::int64_t past = panel < count() ? ceil_div(left, 2) : left;
    return (equal_ * panel_vectors_ + past) * kernels_.lanes;
  }
  std::int64_t lanes(std::int64_t panel) const { return lane_end(panel + 1) - begin(panel); }

  // Depths [d, d + count) of panels [panel, end), each of which has `depth` of them in `packed`.
  void pack(std::int64_t panel, std::int64_t end, std::int64_t d, std::int64_t count, T* packed,
            std::int64_t depth) const {
    const std::int64_t first = begin(panel);
    while (panel < end) {
      const std::int64_t lane = begin(panel), tile = round_up(lanes(panel), kernels_.lanes);
      std::int64_t next = panel + 1;
      if (reads_across() && panel < equal_) next = end < equal_ ? end : equal_;
      const std::int64_t offset = lane * shape_.lane_stride + d * shape_.depth_stride;
      kernels_.pack({static_cast<char*>(weight_.data) + offset * bytes_of(weight_.dtype),
                     weight_.dtype, shape_.depth_stride, shape_.lane_stride},
                    count, lane_end(next) - lane, tile, packed + (lane - first) * depth, tile,
                    tile * depth);
      panel = next;
    }
  }

  // All of them, for all threads.
  const T* pack_all(const Threads& threads) const {
    const std::int64_t depth = shape_.depth;
    T* packed = scratch<T>(Slot::kPanels, all_vectors_ * kernels_.lanes * depth);
    // An item is a chunk of the depth of one call of the packing kernel.
    const std::int64_t at_once = reads_across() && equal_ > 0 ? equal_ : 1;
    const std::int64_t calls = count() - at_once + 1;
    const std::int64_t chunk = reads_across() ? 32 : 512, chunks = ceil_div(depth, chunk);
    threads.run(calls * chunks, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t item = first; item < last; ++item) {
        const std::int64_t call = item / chunks, d = item % chunks * chunk;
        const std::int64_t panel = call == 0 ? 0 : call + at_once - 1;
        const std::int64_t lane = begin(panel), tile = round_up(lanes(panel), kernels_.lanes);
        pack(panel, call == 0 ? at_once : panel + 1, d, depth - d < chunk ? depth - d : chunk,
             packed + lane * depth + d * tile, depth);
      }
    });
    return packed;
  }

 private:
  // Source rows are read along their contiguous direction: of all equal panels at once where lanes
  // are adjacent, of one panel where depth is.
  bool reads_across() const { return shape_.lane_stride == 1; }

  std::int64_t lane_end(std::int64_t panel) const {
    const std::int64_t lane = begin(panel);
    return lane < shape_.lanes ? lane : shape_.lanes;
  }

  const ComputeKernels<T>& kernels_;
  TensorView weight_;
  LanePanelShape shape_;
  std::int64_t panel_vectors_, all_vectors_ = 0, equal_ = 0;
};

}  // namespace convext
