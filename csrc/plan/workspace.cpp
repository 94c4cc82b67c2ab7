// The working memory that each kernel takes of scratch.h, at most, by shape and blocking: what the
// drivers (cpu/run_*.cpp) ask for, shared by all threads or by each for itself. Where the problem
// does not tell whether tensors are read or stored in place, this counts as if they were not.
#include "../int_math.h"
#include "blocking.h"
#include "workspace_terms.h"

namespace convext {
namespace {

// ---- fprop and dgrad ---------------------------------------------------------------------------

// Panels of weights, `depth` elements of compute type a lane and tap, and the bias.
std::int64_t panel_elements(const WorkspaceShape& s, std::int64_t tile, std::int64_t depth) {
  return (s.p.taps() * depth + 1) * s.p.groups * round_up(s.lanes, tile) + 1;
}

// run_indirect: packed source rows, a tile of results, zeros; of pairs, merged taps of the weights.
std::int64_t thread_bytes_indirect(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const bool pairs = plan.kernel->algorithm == Algorithm::kIndirectPairs;
  const std::int64_t bytes = pairs ? 2 : s.bytes;
  const std::int64_t row_bytes =
      (plan.merged_columns ? (p.Q - 1) * p.stride_w + p.S : s.columns) * s.source_channels * bytes;
  // Rows of an item: those of its pixels, times the kernel's rows and the copies of a border.
  const std::int64_t across = s.forward ? p.Q : most(p.W / p.stride_w, 1);
  const std::int64_t item_rows = ((plan.pixel_block - 1) / across + 2) * p.R * s.row_copies();
  const bool lies_so = p.input_layout == Layout::kChannelsLast || p.C == 1;
  const bool in_place =
      !plan.merged_columns && (pairs ? s.forward && lies_so : s.source_in_place());
  const std::int64_t zeros = plan.merged_columns ? p.S * s.source_channels : s.source_channels;
  return (in_place ? 0 : cached_rows_bytes(s.rows, row_bytes, item_rows)) +
         plan.pixel_block * s.nr * s.bytes + zeros * bytes +
         (pairs && plan.merged_columns ? p.S * s.depth * s.nr * bytes : 0);
}

// run_direct: packed source rows; a row of results, or a channel's taps while weights are packed.
std::int64_t thread_bytes_direct(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const std::int64_t columns = padded_columns(s);
  const bool in_place = s.source_in_place() && p.pad_left == 0 && columns <= p.W;
  const std::int64_t row_bytes = columns * s.source_channels * s.bytes;
  const std::int64_t results = s.forward ? p.Q : ceil_div(p.W, p.stride_w);
  return (in_place ? 0 : cached_rows_bytes(s.rows, row_bytes, plan.row_block * p.R)) +
         most(results, p.taps()) * s.nr * s.bytes;
}

// run_direct_planes: packed source rows, a row before it is taken apart, a chunk of results.
std::int64_t thread_bytes_direct_planes(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  constexpr std::int64_t kChunk = 24, kMostVectors = 4;
  const std::int64_t slack = kMostVectors * s.vector, line = 64 / s.bytes;
  const std::int64_t source_step = s.forward ? p.stride_w : 1, step = s.forward ? 1 : p.stride_w;
  const std::int64_t columns = padded_columns(s);
  const std::int64_t lines = ceil_div(ceil_div(columns, source_step) + slack, line) | 1;
  const std::int64_t row_bytes = lines * 64 * source_step * s.source_channels;
  const std::int64_t staged = source_step > 1 ? s.source_channels * columns : 0;
  const std::int64_t results = kChunk * step * (ceil_div(s.width, step) + slack);
  return cached_rows_bytes(s.rows, row_bytes, p.R) +
         (staged + most(results, p.taps() * plan.tile_rows)) * s.bytes;
}

// run_im2col: columns and a tile of results.
std::int64_t thread_bytes_im2col(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  return (plan.pixel_block * s.depth * s.p.taps() + s.mr * s.nr) * s.bytes;
}

// Whether run_pointwise's rows are surely pixels.
bool surely_by_pixel(const WorkspaceShape& s) {
  return s.forward && s.p.input_layout == Layout::kChannelsLast;
}

// Whether they are one run of pixels, which is read where it lies.
bool pixels_in_place(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  return s.source_in_place() && s.p.input_layout != Layout::kStrided &&
         (s.p.N == 1 || !plan.images_apart) && s.p.P == s.p.H && s.p.Q == s.p.W;
}

// run_pointwise: weights in panels of lanes or of rows, or gathered pixels; and the bias.
std::int64_t pointwise_elements(const ConvPlan& plan) {
  constexpr std::int64_t kRows = 24;
  const WorkspaceShape s(plan);
  const std::int64_t lanes = round_up(s.lanes, s.vector);
  const bool as_they_lie = s.compute_type && s.p.weight_layout == Layout::kContiguous;
  const std::int64_t by_channel = s.forward && as_they_lie ? 0 : round_up(s.lanes, kRows);
  const std::int64_t gathered = pixels_in_place(plan) ? 0 : s.p.N * s.p.P * s.p.Q;
  const std::int64_t by_pixel = plan.by_panel ? gathered : lanes;
  const std::int64_t most_rows = surely_planar(plan)  ? by_channel
                                 : surely_by_pixel(s) ? by_pixel
                                                      : most(by_pixel, by_channel);
  return most_rows * s.depth + lanes;
}

// Gathered pixels or a group of panels, and a tile of results: rows of channels, or planes.
std::int64_t thread_bytes_pointwise(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  constexpr std::int64_t kRows = 24, kMostDepth = 256, kPanelsOfGroup = 8;
  const std::int64_t pixels = s.p.N * s.p.P * s.p.Q;
  const std::int64_t group = least(kPanelsOfGroup, ceil_div(s.lanes, s.nr)) * s.nr;
  const std::int64_t by_pixel =
      plan.by_panel ? group * (least(kMostDepth, s.depth) + pixels)
                    : plan.pixel_block * ((pixels_in_place(plan) ? 0 : s.depth) + s.nr);
  const std::int64_t by_plane = (kMostDepth + round_up(s.lanes, kRows)) * s.nr;
  if (surely_planar(plan)) return by_plane * s.bytes;
  return (surely_by_pixel(s) ? by_pixel : most(by_pixel, by_plane)) * s.bytes;
}

// run_dot: gathered pixels and the bias are shared.
std::int64_t dot_elements(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return plan.pixel_block * p.C * p.taps() + p.K;
}

// A tile of results.
std::int64_t thread_bytes_dot(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const std::int64_t row_bytes = s.p.C * s.p.taps() * s.bytes;
  return plan.pixel_block * round_up(ceil_div(32 << 10, row_bytes), 8) * s.bytes;
}

// run_axpy: products of a work item's channels, converted weights, sums of one image.
std::int64_t thread_bytes_axpy(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const bool by_tap = p.weight_layout == Layout::kChannelsLast;
  const std::int64_t unit = by_tap ? s.nr : ceil_div(s.nr, p.taps());
  const std::int64_t channels = least(p.C, 2 * unit - 1);
  const std::int64_t surplus = by_tap && channels < s.vector ? s.vector - channels : 0;
  const std::int64_t products = round_up(channels * p.taps() + surplus, s.vector);
  const std::int64_t strip = round_up(by_tap ? channels : channels * p.taps(), s.vector);
  const std::int64_t adjacent = by_tap ? p.C : p.C * p.taps();
  const std::int64_t weights =
      s.compute_type && adjacent >= s.vector ? 0 : p.K * least(strip, s.nr);
  const bool direct = p.taps() == 1 && p.P == p.H && p.Q == p.W && p.pad_top + p.pad_left == 0;
  return (plan.pixel_block * products + weights + (direct ? 0 : p.H * p.W * channels)) * s.bytes;
}

// ---- weight grad and bias grad -----------------------------------------------------------------

// run_outer: copies of the sums.
std::int64_t outer_sums(const ConvPlan& plan) {
  if (plan.one_block) return 0;
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const std::int64_t inputs = plan.swapped ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t rows = plan.swapped ? p.channels_per_group() : p.outputs_per_group();
  const std::int64_t lanes = plan.merged_columns ? p.S * inputs : inputs;
  const std::int64_t taps = plan.merged_columns ? p.R : p.taps();
  return plan.splits * p.groups * round_up(rows, s.mr) * round_up(lanes, s.nr) * taps;
}

// Packed rows of the input and of the gradient, for a block of pixels; sums of a tile of rows.
std::int64_t thread_bytes_outer(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const std::int64_t inputs = plan.swapped ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t outputs = plan.swapped ? p.channels_per_group() : p.outputs_per_group();
  const std::int64_t block = plan.pixel_block;
  std::int64_t strips = 1, strip = block + block / 2;
  const bool pointwise = p.taps() == 1 && p.stride_h == 1 && p.stride_w == 1;
  if (!pointwise) {  // whose rows may be longer than an output's
    strip = p.Q * 2 <= block * 3 ? p.Q : ceil_div(p.Q, ceil_div(p.Q, block));
    strips = most(block / strip, 1);
  }
  const std::int64_t reach = s.reach_w() + 1, spread = (strip - 1) * p.stride_w + reach;
  const std::int64_t columns = plan.merged_columns || spread <= strip * p.S ? spread : strip * p.S;
  const std::int64_t lanes = plan.merged_columns
                                 ? p.channels_per_group()
                                 : round_up(least(plan.channel_block, inputs), s.nr);
  const bool padded = p.pad_top | p.pad_bottom | p.pad_left | p.pad_right;
  const bool in_place = plan.read_in_place && !plan.swapped && !plan.merged_columns &&
                        s.input_in_place() && inputs % s.vector == 0 &&
                        (!padded || p.padding_mode == PaddingMode::kZeros);
  const std::int64_t rows = least(plan.output_block, outputs), pixels = strips * strip;
  const std::int64_t grad =
      most(ceil_div(rows, s.mr) * (pixels * s.mr + 2 * s.vector), rows * (pixels + s.vector));
  const std::int64_t sums = plan.one_block ? s.mr * p.taps() * lanes : 0;
  return ((in_place ? 0 : strips * p.R * columns * lanes + s.nr) + grad + sums) * s.bytes;
}

// run_rowsum: packed pixels of the gradient.
std::int64_t thread_bytes_rowsum(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  constexpr std::int64_t kPiece = 256;
  return least(s.p.Q, kPiece) * round_up(s.p.K, s.nr) * s.bytes;
}

}  // namespace

void set_workspace(ConvPlan* plan) {
  const WorkspaceShape s(*plan);
  const ConvProblem& p = s.p;
  const bool weight_grad = plan->pass == Pass::kWgrad;
  std::int64_t shared = 0, thread = 0;  // elements, bytes
  switch (plan->kernel->algorithm) {
    case Algorithm::kReference: break;
    case Algorithm::kIndirect:
    case Algorithm::kDirect:
      shared = panel_elements(s, s.nr, s.depth);
      thread = plan->row_block > 0 ? thread_bytes_direct(*plan) : thread_bytes_indirect(*plan);
      break;
    case Algorithm::kIndirectPairs:
      shared = panel_elements(s, s.nr, ceil_div(s.depth, 2));
      thread = thread_bytes_indirect(*plan);
      break;
    case Algorithm::kDirectPlanes:
      shared = panel_elements(s, plan->tile_rows, s.depth);
      thread = thread_bytes_direct_planes(*plan);
      break;
    case Algorithm::kIm2col:
      shared = (s.compute_type ? 0 : p.K * s.depth * p.taps()) + p.K;
      thread = thread_bytes_im2col(*plan);
      break;
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4:
    case Algorithm::kPolyphase2:
    case Algorithm::kPolyphase4:
      shared = weight_grad ? winograd_wgrad_sums(*plan) : winograd_weights(*plan);
      thread = weight_grad ? thread_bytes_winograd_wgrad(*plan) : thread_bytes_winograd(*plan);
      break;
    case Algorithm::kDepthwise:
    case Algorithm::kGrouped:
      shared = weight_grad ? depthwise_sums(*plan) : strip_weights(*plan);
      thread = weight_grad ? thread_bytes_depthwise_wgrad(*plan) : thread_bytes_strips(*plan);
      thread = most(thread, plane_strip_bytes(*plan));
      break;
    case Algorithm::kGroupedPlanes:
      shared = plan->splits * p.K * p.channels_per_group() * p.taps();
      if (!weight_grad) shared += 4 + p.K + p.C;  // the bias, and room to read a last vector
      thread = thread_bytes_planes(*plan);
      break;
    case Algorithm::kPointwise:
      shared = pointwise_elements(*plan);
      thread = thread_bytes_pointwise(*plan);
      break;
    case Algorithm::kDot:
      shared = dot_elements(*plan);
      thread = thread_bytes_dot(*plan);
      break;
    case Algorithm::kAxpy:
      shared = plan->pixel_block * p.K;  // gathered gradients
      thread = thread_bytes_axpy(*plan);
      break;
    case Algorithm::kOuter:
      shared = outer_sums(*plan);
      thread = thread_bytes_outer(*plan);
      break;
    case Algorithm::kRowsum:
      shared = plan->splits * round_up(p.K, s.nr) * 8 / s.bytes;  // float64 whatever the type
      thread = thread_bytes_rowsum(*plan);
      break;
  }
  plan->workspace_bytes = shared * s.bytes;
  plan->thread_workspace_bytes = thread;
}

}  // namespace convext
