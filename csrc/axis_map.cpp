#include "axis_map.h"

namespace convext {
namespace {

AxisMap forward_map(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                    std::int64_t dilation, std::int64_t pad, std::int64_t extent,
                    PaddingMode mode) {
  AxisMap map;
  map.destinations = outputs;
  map.taps = taps;
  map.longest = 1;
  map.start.reserve(outputs * taps + 1);
  map.sources.reserve(outputs * taps);
  map.start.push_back(0);
  for (std::int64_t o = 0; o < outputs; ++o) {
    std::int64_t v = o * stride - pad;
    for (std::int64_t t = 0; t < taps; ++t, v += dilation) {
      const std::int64_t source = resolve_padding(v, extent, mode);
      if (source >= 0) map.sources.push_back(source);
      map.start.push_back(static_cast<std::int64_t>(map.sources.size()));
    }
  }
  return map;
}

}  // namespace

AxisMap forward_map_h(const ConvProblem& p) {
  return forward_map(p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.H, p.padding_mode);
}

AxisMap forward_map_w(const ConvProblem& p) {
  return forward_map(p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.W, p.padding_mode);
}

AxisMap invert(const AxisMap& forward, std::int64_t extent) {
  AxisMap map;
  map.destinations = extent;
  map.taps = forward.taps;
  map.start.assign(extent * forward.taps + 1, 0);
  map.sources.resize(forward.sources.size());
  // Counting sort by (source, tap); outputs are visited in ascending order and stay so.
  for (std::int64_t o = 0; o < forward.destinations; ++o) {
    for (std::int64_t t = 0; t < forward.taps; ++t) {
      const std::int64_t source = forward.source(o, t);
      if (source >= 0) ++map.start[source * map.taps + t + 1];
    }
  }
  for (std::size_t i = 1; i < map.start.size(); ++i) {
    if (map.start[i] > map.longest) map.longest = map.start[i];
    map.start[i] += map.start[i - 1];
  }
  std::vector<std::int64_t> next(map.start.begin(), map.start.end() - 1);
  for (std::int64_t o = 0; o < forward.destinations; ++o) {
    for (std::int64_t t = 0; t < forward.taps; ++t) {
      const std::int64_t source = forward.source(o, t);
      if (source >= 0) map.sources[next[source * map.taps + t]++] = o;
    }
  }
  return map;
}

}  // namespace convext
