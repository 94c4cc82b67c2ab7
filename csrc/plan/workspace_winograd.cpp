// Working memory of the Winograd kernels.
#include "winograd_shape.h"
#include "workspace_terms.h"

namespace convext {

namespace {

constexpr std::int64_t kPlanePadding = 16;  // elements between the planes of two points

// The runs of a row's tiles, all as long as the longest.
std::int64_t winograd_run_tiles(const ConvPlan& plan, const WorkspaceShape& s) {
  const std::int64_t step = s.p.dilation_w;
  const std::int64_t tiles = winograd_axis_tiles(plan, ceil_div(s.width, step), step, s.p.pad_left);
  const auto run_of = [&](std::int64_t class_tiles) {
    return class_tiles > 0 ? ceil_div(class_tiles, ceil_div(class_tiles, plan.pixel_block)) : 0;
  };
  // Classes one tile shorter may be cut into fewer runs, and these be longer.
  const std::int64_t longest = most(run_of(tiles), run_of(tiles - 1));
  return least(step, s.width) * ceil_div(tiles, plan.pixel_block) * longest;
}

}  // namespace

// run_winograd: packed source rows, a chunk of weights, points of a block of tiles and their sums,
// results on their way, zeros; with few tiles the transformed weights of a few panels.
std::int64_t thread_bytes_winograd(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const WinogradShape shape = winograd_shape(plan);
  const std::int64_t points = shape.points * shape.points, m = shape.outputs;
  constexpr std::int64_t kDepthChunk = 128, kBlockChunk = 4, kSumsBytes = 256 << 10;
  const std::int64_t filter = kBlockChunk * 9 * kDepthChunk * s.nr;
  std::int64_t panels = 0, tiles = plan.pixel_block;
  if (plan.few_tiles) {
    const bool lanes_adjacent = p.weight_layout != Layout::kContiguous || s.lanes == 1;
    panels = shape.filters * shape.filters *
             ((lanes_adjacent ? kBlockChunk : 1) * s.depth * s.nr + kPlanePadding);
    const std::int64_t height = s.forward ? p.P : p.H, step = p.dilation_h;
    tiles = p.N * winograd_run_tiles(plan, s) * least(step, height) *
            winograd_axis_tiles(plan, ceil_div(height, step), step, p.pad_top);
  }
  const std::int64_t parts = p.groups == 1 ? 1 : ceil_div(p.groups * s.depth, plan.channel_block);
  const std::int64_t inputs =
      points * (tiles * round_up(ceil_div(p.groups, parts) * s.depth, s.vector) + kPlanePadding);
  const std::int64_t unit = points * tiles * s.nr;  // sums of one lane block
  const std::int64_t units = p.groups * ceil_div(s.lanes, s.nr);
  const std::int64_t sums = least(units * unit, most(kSumsBytes / s.bytes, 4 * unit));
  const std::int64_t row_bytes = s.columns * s.source_channels * s.bytes;
  return (s.source_in_place() ? 0 : cached_rows_bytes(s.rows, row_bytes, shape.inputs)) +
         (panels + filter + inputs + sums + points * kPlanePadding + tiles * m * m * 2 * s.nr +
          s.source_channels) *
             s.bytes;
}

// Transformed weights and the bias.
std::int64_t winograd_weights(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const std::int64_t side = winograd_shape(plan).filters;
  const std::int64_t bias = s.p.groups * round_up(s.lanes, s.vector);
  if (plan.few_tiles) return bias;
  return side * side * (s.p.groups * round_up(s.lanes, s.nr) * s.depth + kPlanePadding) + bias;
}

// run_winograd_wgrad: copies of the sums, if there are several.
std::int64_t winograd_wgrad_sums(const ConvPlan& plan) {
  if (plan.splits == 1) return 0;
  const WorkspaceShape s(plan);
  const std::int64_t side = winograd_shape(plan).filters;
  return plan.splits * side * side * (plan.output_block * round_up(s.p.C, s.nr) + kPlanePadding);
}

// Points of a block of tiles, and their sums; packed rows of one of the two tensors, zeros, and the
// gradient of one output channel's weights. As of one thread, whose part are all channels.
std::int64_t thread_bytes_winograd_wgrad(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const WinogradShape shape = winograd_shape(plan);
  const std::int64_t points = shape.points * shape.points, filters = shape.filters * shape.filters;
  constexpr std::int64_t kLong = 64;
  const std::int64_t lanes = round_up(p.C, s.nr), rows = round_up(plan.output_block, s.vector);
  const std::int64_t points_input = lanes + (lanes >= kLong ? s.nr : 0);
  const std::int64_t points_grad = rows + (rows >= kLong ? s.vector : 0);
  const std::int64_t sums =
      plan.splits > 1 ? 0 : filters * (plan.output_block * lanes + kPlanePadding);
  const std::int64_t outputs = least(plan.output_block, p.K);
  const std::int64_t input =
      s.input_in_place() ? 0 : cached_rows_bytes(p.H, p.W * p.C * s.bytes, shape.inputs);
  const std::int64_t grad = cached_rows_bytes(p.P, p.Q * outputs * s.bytes, shape.outputs);
  return most(input, grad) +
         (points * (plan.pixel_block * (points_input + points_grad) + 2 * kPlanePadding) + sums +
          most(p.C, outputs) + 9 * lanes) *
             s.bytes;
}

}  // namespace convext
