// Packed weights of the kernels that slide over rows (fprop and dgrad: direct, direct_planes).
//
// Panels [group][block of `tile` destination channels][r][rank of s][source channel][tile], the
// columns of the kernel in the order of AxisClasses, so that taps which meet adjacent sources have
// adjacent weights.
#pragma once

#include <cstdint>
#include <vector>

#include "../int_math.h"
#include "../run.h"
#include "isa_kernels.h"
#include "scratch.h"
#include "views.h"

namespace convext {

struct TapPanelShape {
  bool forward;  // else destination channels are the input's
  std::int64_t groups, lanes, depth, R;
  std::int64_t tile;
};

template <class T>
class TapPanels : private TapPanelShape {
 public:
  // `order`: kernel columns by rank.
  TapPanels(const ComputeKernels<T>& kernels, const TensorView& weight, const TapPanelShape& shape,
            const std::vector<std::int64_t>& order)
      : TapPanelShape(shape),
        kernels_(kernels),
        weight_(weight),
        order_(order),
        lane_stride_(weight.stride[forward ? 0 : 1]),
        depth_stride_(weight.stride[forward ? 1 : 0]),
        in_order_(static_cast<std::int64_t>(order.size()) == weight.size[3]) {
    for (std::size_t i = 0; i < order.size(); ++i) {
      in_order_ = in_order_ && order[i] == static_cast<std::int64_t>(i);
    }
  }

  std::int64_t blocks() const { return ceil_div(lanes, tile); }
  std::int64_t taps() const { return R * static_cast<std::int64_t>(order_.size()); }
  std::int64_t panel_elements() const { return taps() * depth * tile; }
  const T* panel(std::int64_t g, std::int64_t block) const {
    return data_ + (g * blocks() + block) * panel_elements();
  }

  void pack(const Threads& threads) {
    data_ = scratch<T>(Slot::kPanels, groups * blocks() * panel_elements() + 1);
    const std::int64_t S = weight_.size[3];
    const bool taps_adjacent =
        R * S > 1 && weight_.stride[3] == 1 && (R == 1 || weight_.stride[2] == S);
    // Each item reads source rows along their contiguous direction.
    const bool lanes_adjacent = lane_stride_ == 1;
    const std::int64_t parts = lanes_adjacent ? 1 : blocks();
    const std::int64_t chunks = ceil_div(depth, kDepthChunk);
    threads.run(groups * parts * chunks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t g = item / chunks / parts, block = item / chunks % parts;
        const std::int64_t d0 = item % chunks * kDepthChunk;
        const std::int64_t d1 = d0 + kDepthChunk < depth ? d0 + kDepthChunk : depth;
        const std::int64_t left = lanes - block * tile;
        const std::int64_t count = lanes_adjacent || left < tile ? left : tile;
        if (taps_adjacent && !lanes_adjacent) {
          pack_by_depth(g, block, count, d0, d1);
        } else {
          pack_by_tap(g, block, count, d0, d1);
        }
      }
    });
  }

 private:
  static constexpr std::int64_t kDepthChunk = 32;

  void* source(std::int64_t g, std::int64_t block, std::int64_t d, std::int64_t r,
               std::int64_t s) const {
    const std::int64_t lane = block * tile;
    return forward ? element(weight_, g * lanes + lane, d, r, s)
                   : element(weight_, g * depth + d, lane, r, s);
  }

  void pack_by_tap(std::int64_t g, std::int64_t block, std::int64_t count, std::int64_t d0,
                   std::int64_t d1) {
    T* to = data_ + (g * blocks() + block) * panel_elements();
    for (std::int64_t r = 0; r < R; ++r) {
      for (const std::int64_t s : order_) {
        kernels_.pack({source(g, block, d0, r, s), weight_.dtype, depth_stride_, lane_stride_},
                      d1 - d0, count, tile, to + d0 * tile, tile, panel_elements());
        to += depth * tile;
      }
    }
  }

  // All taps of one (lane, depth) lie together: they are read in one go, then put in order.
  void pack_by_depth(std::int64_t g, std::int64_t block, std::int64_t count, std::int64_t d0,
                     std::int64_t d1) {
    const std::int64_t S = weight_.size[3];
    if (in_order_) {
      for (std::int64_t d = d0; d < d1; ++d) {
        kernels_.pack({source(g, block, d, 0, 0), weight_.dtype, 1, lane_stride_}, R * S, count,
                      tile, data_ + (g * blocks() + block) * panel_elements() + d * tile,
                      depth * tile, panel_elements());
      }
      return;
    }
    T* taps_of_depth = scratch<T>(Slot::kTile, R * S * tile);
    for (std::int64_t d = d0; d < d1; ++d) {
      kernels_.pack({source(g, block, d, 0, 0), weight_.dtype, 1, lane_stride_}, R * S, count, tile,
                    taps_of_depth, tile, 0);
      T* to = data_ + (g * blocks() + block) * panel_elements() + d * tile;
      for (std::int64_t r = 0; r < R; ++r) {
        for (const std::int64_t s : order_) {
          const T* from = taps_of_depth + (r * S + s) * tile;
          for (std::int64_t i = 0; i < tile; ++i) to[i] = from[i];
          to += depth * tile;
        }
      }
    }
  }

  const ComputeKernels<T>& kernels_;
  TensorView weight_;
  const std::vector<std::int64_t>& order_;
  std::int64_t lane_stride_, depth_stride_;
  bool in_order_;
  T* data_ = nullptr;
};

// Bias in compute type for each of groups * blocks * tile lanes, or zeros.
template <class T>
T* pack_lane_bias(const ComputeKernels<T>& kernels, const TensorView& bias, std::int64_t groups,
                  std::int64_t lanes, std::int64_t padded) {
  T* packed = scratch<T>(Slot::kBias, groups * padded);
  for (std::int64_t i = 0; i < groups * padded; ++i) packed[i] = 0;
  if (bias.data == nullptr) return packed;
  for (std::int64_t g = 0; g < groups; ++g) {
    kernels.pack({element(bias, 0, g * lanes, 0, 0), bias.dtype, 0, bias.stride[1]}, 1, lanes,
                 padded, packed + g * padded, 0, 0);
  }
  return packed;
}

}  // namespace convext
