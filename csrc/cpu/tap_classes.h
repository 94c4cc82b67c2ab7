// Which taps a destination position meets on one axis, as distances instead of a table.
//
// Destination positions of equal remainder modulo the step (1 in fprop, the stride in dgrad) form a
// class: all its members meet the same taps, each at a constant distance from the member's own
// place in a source row that is packed with its padding in place. So a kernel that knows the first
// member's source slides to the others by adding.
#pragma once

#include <cstdint>
#include <vector>

#include "../axis_map.h"
#include "../int_math.h"

namespace convext {

struct TapClass {
  std::int64_t first, count;  // members: first, first + step, ...
  std::int64_t rank;          // of its first tap in AxisClasses::order
  // Of the source of member 0 through each of its taps, in packed positions, ascending; member i
  // adds i * source_step.
  std::vector<std::int64_t> offsets;

  // Whether the sources of all taps lie next to each other.
  bool adjacent() const {
    for (std::size_t i = 1; i < offsets.size(); ++i) {
      if (offsets[i] != offsets[i - 1] + 1) return false;
    }
    return true;
  }
};

struct AxisClasses {
  std::int64_t step = 1, source_step = 1;
  std::vector<TapClass> classes;
  std::vector<std::int64_t> order;   // the taps, class by class, by ascending offset
  std::vector<std::int64_t> packed;  // source of each packed position, or -1 for a zero

  // Packed positions are the source's own: a row need not be packed for its padding's sake.
  bool identity() const {
    for (std::size_t i = 0; i < packed.size(); ++i) {
      if (packed[i] != static_cast<std::int64_t>(i)) return false;
    }
    return true;
  }
};

// `count` items in pieces of nearly equal size, none above `most`: where each begins, and the end.
inline std::vector<std::int64_t> even_pieces(std::int64_t first, std::int64_t count,
                                             std::int64_t most) {
  const std::int64_t pieces = ceil_div(count, most);
  std::vector<std::int64_t> begins;
  for (std::int64_t i = 0; i <= pieces; ++i) {
    begins.push_back(first + (pieces ? count * i / pieces : 0));
  }
  return begins;
}

inline AxisClasses forward_classes(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                                   std::int64_t dilation, std::int64_t pad, std::int64_t extent,
                                   PaddingMode mode) {
  AxisClasses axis;
  axis.source_step = stride;
  TapClass all{0, outputs, 0, {}};
  for (std::int64_t t = 0; t < taps; ++t) {
    all.offsets.push_back(t * dilation);
    axis.order.push_back(t);
  }
  axis.classes.push_back(all);
  axis.packed.resize((outputs - 1) * stride + (taps - 1) * dilation + 1);
  for (std::size_t i = 0; i < axis.packed.size(); ++i) {
    axis.packed[i] = resolve_padding(static_cast<std::int64_t>(i) - pad, extent, mode);
  }
  return axis;
}

// For zero padding: a copied border position would have several sources for one tap.
inline AxisClasses backward_classes(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                                    std::int64_t dilation, std::int64_t pad, std::int64_t extent) {
  AxisClasses axis;
  axis.step = stride;
  std::int64_t lowest = 0, highest = 0;
  for (std::int64_t first = 0; first < stride && first < extent; ++first) {
    TapClass c{
        first, ceil_div(extent - first, stride), static_cast<std::int64_t>(axis.order.size()), {}};
    for (std::int64_t t = taps - 1; t >= 0; --t) {
      const std::int64_t distance = first + pad - t * dilation;
      if (distance % stride != 0) continue;
      c.offsets.push_back(distance / stride);
      axis.order.push_back(t);
    }
    if (!c.offsets.empty()) {
      if (c.offsets.front() < lowest) lowest = c.offsets.front();
      if (c.offsets.back() + c.count - 1 > highest) highest = c.offsets.back() + c.count - 1;
    }
    axis.classes.push_back(c);
  }
  for (TapClass& c : axis.classes) {
    for (std::int64_t& offset : c.offsets) offset -= lowest;
  }
  axis.packed.resize(highest - lowest + 1);
  for (std::size_t i = 0; i < axis.packed.size(); ++i) {
    const std::int64_t source = static_cast<std::int64_t>(i) + lowest;
    axis.packed[i] = source >= 0 && source < outputs ? source : -1;
  }
  return axis;
}

}  // namespace convext
