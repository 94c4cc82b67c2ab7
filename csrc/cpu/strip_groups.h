// Blocks of channels for depthwise_strip.h and grouped_strip.h, and their weights.
#pragma once

#include <cstdint>
#include <vector>

#include "../conv_problem.h"
#include "isa_kernels.h"
#include "views.h"

namespace convext {

// Vectors of several groups where these fit, otherwise one or two vectors of one group. The last of
// a group, or of all, ends with it and may overlap its neighbour.
struct StripGroups {
  std::vector<GroupBlock> blocks;
  std::int64_t group = 1, depth = 1;  // destination and source channels of a group
  std::int64_t unit = 0;              // channels that several blocks never straddle
  std::int64_t tap_weights = 0;       // packed weights of one tap
  int vectors = 1;                    // of the largest block
  int spread = 0;                     // channels of a group, where a vector holds several groups

  StripGroups() = default;

  // Of `channels` destination channels, in pixels of `width`.
  StripGroups(std::int64_t channels, std::int64_t width, std::int64_t a_group, std::int64_t a_depth,
              std::int64_t vector)
      : group(a_group), depth(a_depth) {
    if (group < vector) {
      spread = static_cast<int>(group);
      unit = vector;
      for (std::int64_t c = 0; c < width; c += vector) {
        add(c + vector <= width ? c : width - vector, 1, vector);
      }
      return;
    }
    unit = group;
    for (std::int64_t g = 0; g < channels / group; ++g) {
      for (std::int64_t c = 0; c < group;) {
        const int count = group - c >= 2 * vector ? 2 : 1;
        const std::int64_t first = c + count * vector <= group ? c : group - vector;
        add(g * group + first, count, vector);
        c += count * vector;
        if (count > vectors) vectors = count;
      }
    }
  }

  // From channels, in whole units, to blocks. `width`: where the last unit ends.
  void find(std::int64_t width, std::int64_t* first, std::int64_t* last) const {
    const auto count = static_cast<std::int64_t>(blocks.size());
    const std::int64_t units = spread > 0 ? count : width / unit;
    const std::int64_t a_unit = count / units;
    *first = *first / unit * a_unit;
    *last = *last == width ? count : *last / unit * a_unit;
  }

 private:
  void add(std::int64_t channel, int count, std::int64_t vector) {
    blocks.push_back({channel, channel / group * depth, tap_weights, count});
    tap_weights += depth * count * vector;
  }
};

// The weights of blocks [begin, end), [tap][block][depth][lane], of channels from first_channel on.
template <class T>
void pack_group_weights(const ComputeKernels<T>& kernels, const ConvProblem& p, bool forward,
                        const TensorView& weight, const StripGroups& groups,
                        std::int64_t first_channel, std::int64_t begin, std::int64_t end,
                        T* panels) {
  const std::int64_t vector = kernels.lanes, group = groups.group, depth = groups.depth;
  const std::int64_t lane_stride = weight.stride[forward ? 0 : 1];
  const std::int64_t depth_stride = weight.stride[forward ? 1 : 0];
  for (std::int64_t b = begin; b < end; ++b) {
    const GroupBlock& block = groups.blocks[b];
    const std::int64_t lanes = block.vectors * vector;
    // Lanes of one group each, in pieces.
    for (std::int64_t lane = 0; lane < lanes;) {
      const std::int64_t channel = first_channel + block.destination + lane, g = channel / group;
      const std::int64_t count = groups.spread > 0 ? group : lanes;
      for (std::int64_t tap = 0; tap < p.taps(); ++tap) {
        T* to = panels + tap * groups.tap_weights + block.panel + lane;
        if (g >= p.groups) {
          for (std::int64_t d = 0; d < depth; ++d) {
            for (std::int64_t i = 0; i < count; ++i) to[d * lanes + i] = 0;
          }
          continue;
        }
        const std::int64_t k = forward ? channel : g * depth;
        const std::int64_t c = forward ? 0 : channel % group;
        kernels.pack(
            {element(weight, k, c, tap / p.S, tap % p.S), weight.dtype, depth_stride, lane_stride},
            depth, count, count, to, lanes, 0);
      }
      lane += count;
    }
  }
}

// Of one-channel groups: `count` output channels from k on, [tap][padded], `ld` from tap to tap.
template <class T>
void pack_tap_weights(const ComputeKernels<T>& kernels, const ConvProblem& p,
                      const TensorView& weight, std::int64_t k, std::int64_t count,
                      std::int64_t padded, T* to, std::int64_t ld) {
  const std::int64_t taps = p.taps();
  if (weight.stride[3] == 1 && (p.R == 1 || weight.stride[2] == p.S) && taps > 1) {
    kernels.pack({element(weight, k, 0, 0, 0), weight.dtype, 1, weight.stride[0]}, taps, count,
                 padded, to, ld, 0);
    return;
  }
  for (std::int64_t tap = 0; tap < taps; ++tap) {
    kernels.pack({element(weight, k, 0, tap / p.S, tap % p.S), weight.dtype, 0, weight.stride[0]},
                 1, count, padded, to + tap * ld, ld, 0);
  }
}

// `count` channels from k on, and zeros up to `width`; zeros where there is no bias.
template <class T>
void pack_strip_bias(const ComputeKernels<T>& kernels, const TensorView& bias, std::int64_t k,
                     std::int64_t count, std::int64_t width, T* to) {
  if (bias.data == nullptr) {
    for (std::int64_t i = 0; i < width; ++i) to[i] = 0;
    return;
  }
  kernels.pack({element(bias, 0, k, 0, 0), bias.dtype, 0, bias.stride[1]}, 1, count, width, to,
               width, 0);
}

}  // namespace convext
