// What the working memory of several kernels depends on; see workspace.cpp.
#pragma once

#include "../conv_plan.h"
#include "../int_math.h"

namespace convext {

// What most kernels want to know, seen from their pass.
struct WorkspaceShape {
  const ConvProblem& p;
  bool forward;
  std::int64_t bytes;            // of an element of compute type
  std::int64_t mr, nr, vector;   // of the register tile, and lanes of one vector
  std::int64_t lanes, depth;     // destination and source channels of a group
  std::int64_t rows, columns;    // of the source
  std::int64_t width;            // of the destination
  std::int64_t source_channels;  // of all groups
  bool compute_type;             // storage is what the kernel computes in

  explicit WorkspaceShape(const ConvPlan& plan)
      : p(plan.problem),
        forward(plan.pass == Pass::kFprop),
        bytes(p.dtype == DType::kFloat64 ? 8 : 4),
        mr(plan.kernel->mr),
        nr(plan.kernel->nr),
        vector(plan.kernel->nr / plan.kernel->vectors),
        lanes(forward ? p.outputs_per_group() : p.channels_per_group()),
        depth(forward ? p.channels_per_group() : p.outputs_per_group()),
        rows(forward ? p.H : p.P),
        columns(forward ? p.W : p.Q),
        width(forward ? p.Q : p.W),
        source_channels(p.groups * depth),
        compute_type(p.dtype == DType::kFloat32 || p.dtype == DType::kFloat64) {}

  // Channels of the source are adjacent and need no conversion. In input grad the source is a
  // gradient, of which nothing is known.
  bool input_in_place() const {
    return compute_type && (p.input_layout == Layout::kChannelsLast || p.C == 1);
  }
  bool source_in_place() const { return forward && input_in_place(); }
  // Output rows that one tap of a source row meets, at most, where padding copies rows.
  std::int64_t row_copies() const {
    if (forward || p.padding_mode == PaddingMode::kZeros) return 1;
    if (p.padding_mode != PaddingMode::kReplicate) return 3;  // its own, a copy at each end
    return 3 + most(p.pad_top, p.pad_bottom) / p.stride_h;
  }
  std::int64_t reach_w() const { return (p.S - 1) * p.dilation_w; }
};

// row_cache.h, plane_cache.h: as many rows as fit half a megabyte, or as one work item holds.
inline std::int64_t cached_rows_bytes(std::int64_t rows, std::int64_t row_bytes,
                                      std::int64_t item_rows) {
  return least(rows * row_bytes, most(512 << 10, item_rows * row_bytes));
}

// Columns of a source row that is packed with its padding in place (tap_classes.h).
inline std::int64_t padded_columns(const WorkspaceShape& s) {
  const ConvProblem& p = s.p;
  if (s.forward) return (p.Q - 1) * p.stride_w + s.reach_w() + 1;
  const std::int64_t before = most(s.reach_w() - p.pad_left, 0) / p.stride_w;
  return before + (p.W - 1 + p.pad_left) / p.stride_w + 1;
}

// ---- in files of their own: elements of shared memory, bytes of each thread's --------------------

std::int64_t strip_weights(const ConvPlan& plan);  // workspace_grouped.cpp
std::int64_t thread_bytes_strips(const ConvPlan& plan);
std::int64_t thread_bytes_planes(const ConvPlan& plan);
std::int64_t depthwise_sums(const ConvPlan& plan);
std::int64_t thread_bytes_depthwise_wgrad(const ConvPlan& plan);
std::int64_t winograd_weights(const ConvPlan& plan);  // workspace_winograd.cpp
std::int64_t thread_bytes_winograd(const ConvPlan& plan);
std::int64_t winograd_wgrad_sums(const ConvPlan& plan);
std::int64_t thread_bytes_winograd_wgrad(const ConvPlan& plan);

}  // namespace convext
