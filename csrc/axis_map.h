// Which input index does an output index read through a tap, on one axis?
//
// The padding mode lives here and nowhere else in the fast kernels: zeros, reflect, replicate and
// circular differ only in the source index they name. The backward map is the forward map
// inverted, entry by entry, so input grad needs no formula of its own, whatever the stride and
// mode.
#pragma once

#include <cstdint>
#include <vector>

#include "conv_problem.h"

namespace convext {

// The source of virtual (padded) index `v`, counted from the first real element; -1 for a zero.
inline std::int64_t resolve_padding(std::int64_t v, std::int64_t extent, PaddingMode mode) {
  if (v >= 0 && v < extent) return v;
  switch (mode) {
    case PaddingMode::kZeros: return -1;
    case PaddingMode::kReflect: return v < 0 ? -v : 2 * (extent - 1) - v;
    case PaddingMode::kReplicate: return v < 0 ? 0 : extent - 1;
    case PaddingMode::kCircular: return v < 0 ? v + extent : v - extent;
  }
  return -1;
}

// For destination index d and tap t: the source indices in sources[start[d*taps+t] ..
// start[d*taps+t+1]). A forward map has none (zero padding) or one; a backward map of a mode that
// copies border pixels may have several.
struct AxisMap {
  std::int64_t destinations = 0;
  std::int64_t taps = 0;
  std::int64_t longest = 0;  // most sources of one (destination, tap)
  std::vector<std::int64_t> start;
  std::vector<std::int64_t> sources;

  std::int64_t count(std::int64_t d, std::int64_t t) const {
    return start[d * taps + t + 1] - start[d * taps + t];
  }
  const std::int64_t* list(std::int64_t d, std::int64_t t) const {
    return sources.data() + start[d * taps + t];
  }
  // The only source, or -1. For forward maps.
  std::int64_t source(std::int64_t d, std::int64_t t) const {
    return count(d, t) ? *list(d, t) : -1;
  }
};

AxisMap forward_map_h(const ConvProblem& problem);  // output row p, tap r -> input row
AxisMap forward_map_w(const ConvProblem& problem);  // output column q, tap s -> input column
// From a forward map over `extent` source indices: source index, tap -> destinations, ascending.
AxisMap invert(const AxisMap& forward, std::int64_t extent);

}  // namespace convext
