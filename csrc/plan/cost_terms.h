// What the costs of several kernels have in common: elements of the tensors, and the cycles of
// moving them; see cost_model.h.
#pragma once

#include "../int_math.h"
#include "cost_model.h"

namespace convext {

inline bool is_compute_type(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kFloat64;
}

// Reading every operand and writing the result once.
inline double stream_tensors(const ConvProblem& p) {
  const double elements = static_cast<double>(p.N) * p.C * p.H * p.W +
                          static_cast<double>(p.N) * p.K * p.P * p.Q +
                          static_cast<double>(p.K) * p.channels_per_group() * p.taps();
  return stream_cycles(elements * static_cast<double>(bytes_of(p.dtype)));
}

// Bringing an activation to [pixel][channel] of compute type, or back from it.
inline double layout_cycles(const ConvProblem& p, double elements) {
  if (p.input_layout == Layout::kChannelsLast)
    return is_compute_type(p.dtype) ? 0 : elements * kCopyCycles;
  return elements * (p.input_layout == Layout::kContiguous ? kTransposeCycles : kGatherCycles);
}

// The same for one row at a time: whole vectors of columns, the last of which may overlap, or one
// by one where there are fewer columns than that.
inline double row_by_row_cycles(const ConvProblem& p, double elements, std::int64_t width,
                                int lanes) {
  if (p.input_layout != Layout::kContiguous) return layout_cycles(p, elements);
  constexpr double kScalarCycles = 4;
  if (width < lanes) return elements * kScalarCycles;
  return elements * kTransposeCycles * static_cast<double>(round_up(width, lanes)) /
         static_cast<double>(width);
}

inline double input_elements(const ConvProblem& p) {
  return static_cast<double>(p.N) * p.C * p.H * p.W;
}
inline double output_elements(const ConvProblem& p) {
  return static_cast<double>(p.N) * p.K * p.P * p.Q;
}
inline double weight_elements(const ConvProblem& p) {
  return static_cast<double>(p.K) * p.channels_per_group() * p.taps();
}

inline int lanes_of(const KernelInfo& kernel, int vectors_of_tile) {
  return kernel.nr / vectors_of_tile;
}

// Products of the taps that exist: in dgrad a destination pixel meets taps / (stride^2) of them.
inline double pixel_taps(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return static_cast<double>(p.N) * p.P * p.Q * p.taps();
}

// The share of an axis' taps that lie in the image, where those in the padding are skipped.
inline double live_share(std::int64_t outputs, std::int64_t taps, std::int64_t stride,
                         std::int64_t dilation, std::int64_t pad, std::int64_t extent) {
  std::int64_t live = 0;
  for (std::int64_t t = 0; t < taps; ++t) {
    const std::int64_t before = pad - t * dilation;  // outputs whose tap is above the image
    const std::int64_t first = before > 0 ? ceil_div(before, stride) : 0;
    const std::int64_t past = extent + before;
    const std::int64_t end = past > 0 ? ceil_div(past, stride) : 0;
    live += (end < outputs ? end : outputs) > first ? (end < outputs ? end : outputs) - first : 0;
  }
  return static_cast<double>(live) / static_cast<double>(outputs * taps);
}

}  // namespace convext
