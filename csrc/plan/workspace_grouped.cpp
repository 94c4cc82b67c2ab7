// Working memory of the kernels for depthwise convolution and for few channels a group.
#include "workspace_terms.h"

namespace convext {

// run_strips: weights of all taps, for the lanes of all blocks, and the bias.
std::int64_t strip_weights(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const bool grouped = plan.kernel->algorithm == Algorithm::kGrouped;
  const std::int64_t channels = most(grouped && !s.forward ? p.C : p.K, s.vector);
  if (!grouped) return (p.taps() + 1) * channels;
  const std::int64_t lanes =
      s.lanes < s.vector ? round_up(channels, s.vector) : p.groups * round_up(s.lanes, s.vector);
  return p.taps() * lanes * s.depth + channels;
}

// Packed ends of source rows, or whole ones, and a row of results.
std::int64_t thread_bytes_strips(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const bool grouped = plan.kernel->algorithm == Algorithm::kGrouped;
  const bool fold = !s.forward && p.padding_mode != PaddingMode::kZeros;
  const std::int64_t repeat = !grouped && s.forward ? p.outputs_per_group() : 1;
  const std::int64_t channels = grouped && !s.forward ? p.C : p.K;
  const bool in_place = s.source_in_place() && repeat == 1 && s.source_channels >= s.vector &&
                        p.pad_left == 0 && p.pad_right == 0;
  const std::int64_t columns =
      s.forward ? padded_columns(s)
                : s.reach_w() / p.stride_w + (p.pad_left + p.W + p.pad_right) / p.stride_w + 2;
  const std::int64_t row_bytes = columns * most(s.source_channels * repeat, s.vector) * s.bytes;
  const std::int64_t results = fold ? p.pad_left + p.W + p.pad_right : s.width;
  return (in_place ? 0 : cached_rows_bytes(s.rows, row_bytes, p.R * s.row_copies())) +
         results * most(channels, s.vector) * s.bytes;
}

namespace {

// One axis of plane_layout.h.
struct PlaneExtent {
  std::int64_t positions, reach, phases;
};

PlaneExtent plane_extent(bool forward, bool fold, std::int64_t outputs, std::int64_t taps,
                         std::int64_t stride, std::int64_t dilation, std::int64_t pad,
                         std::int64_t pad_end, std::int64_t extent) {
  const std::int64_t reach = (taps - 1) * dilation / stride;
  if (forward) return {outputs, reach, least(taps, stride)};
  if (fold) return {(extent + pad + pad_end - 1) / stride + 1, reach, 1};
  return {(extent - 1 + pad) / stride - pad / stride + 1, reach, 1};
}

// PlaneLayout's strips, with as many phases as there may be.
struct PlaneStrips {
  std::int64_t channel;  // elements of one packed channel
  std::int64_t results;  // positions of a strip
};

PlaneStrips plane_strips(const ConvProblem& p, bool forward, std::int64_t depth,
                         std::int64_t budget) {
  const bool fold = !forward && p.padding_mode != PaddingMode::kZeros;
  if (fold) budget = std::int64_t{1} << 40;
  const PlaneExtent down =
      plane_extent(forward, fold, p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.pad_bottom, p.H);
  const PlaneExtent across =
      plane_extent(forward, fold, p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.pad_right, p.W);
  const std::int64_t ld = across.positions + across.reach;
  const auto strip_rows = [&](std::int64_t phases) {
    const std::int64_t rows =
        most(budget / (ld * (phases * depth + 1)) - down.reach, down.reach + 1);
    return ceil_div(down.positions, ceil_div(down.positions, rows));
  };
  // Fewer phases than counted make higher strips.
  const std::int64_t phases = down.phases * across.phases;
  const std::int64_t same = p.dilation_h == 1 && p.dilation_w == 1 ? phases : 1;
  const std::int64_t rows = strip_rows(same);
  return {phases * (rows + down.reach) * ld, rows * ld};
}

}  // namespace

// run_grouped_planes: packed planes of a group, results of four channels, whole padded planes of
// four where copies are folded; in weight grad packed gradients and the lanes' sums.
std::int64_t thread_bytes_planes(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  const std::int64_t vector = s.vector;
  if (plan.pass == Pass::kWgrad) {
    const std::int64_t depth = p.channels_per_group(), outputs = p.outputs_per_group();
    const PlaneStrips strips = plane_strips(p, true, depth, 16 << 10);
    return (depth * strips.channel + vector +
            outputs * (round_up(strips.results, vector) + vector) +
            outputs * depth * p.taps() * vector) *
           s.bytes;
  }
  const PlaneStrips strips = plane_strips(p, s.forward, s.depth, (192 << 10) / 4);
  const std::int64_t folded =
      s.forward || p.padding_mode == PaddingMode::kZeros
          ? 0
          : (p.H + p.pad_top + p.pad_bottom) * (p.W + p.pad_left + p.pad_right);
  return (s.depth * strips.channel + vector +
          4 * (round_up(strips.results, vector) + vector + folded)) *
         s.bytes;
}

// run_depthwise_wgrad: copies of the sums.
std::int64_t depthwise_sums(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  return plan.splits * s.p.taps() * s.p.channels_per_group() * round_up(s.p.K, s.vector);
}

// Packed ends of the input's rows, or whole ones, and rows of the gradient.
std::int64_t thread_bytes_depthwise_wgrad(const ConvPlan& plan) {
  const WorkspaceShape s(plan);
  const ConvProblem& p = s.p;
  constexpr std::int64_t kBlockPixels = 256;
  const std::int64_t block_rows = most(least(kBlockPixels / p.Q, p.P), 1);
  const std::int64_t width = most(p.K, s.vector);
  const bool grouped = plan.kernel->algorithm == Algorithm::kGrouped;
  const std::int64_t repeat = grouped ? 1 : p.outputs_per_group();
  const auto columns_of = [&](std::int64_t outputs) {
    return outputs > 0 ? (outputs - 1) * p.stride_w + s.reach_w() + 1 : 0;
  };
  std::int64_t columns = columns_of(p.Q);
  if (s.input_in_place() && repeat == 1 && p.K >= s.vector) {
    // Output columns [begin, end) read the tensor itself.
    const std::int64_t begin = ceil_div(p.pad_left, p.stride_w);
    const std::int64_t room = p.W + p.pad_left - s.reach_w();
    const std::int64_t end = room > 0 ? least(ceil_div(room, p.stride_w), p.Q) : 0;
    if (begin < end) columns = columns_of(begin) + columns_of(p.Q - end);
  }
  const std::int64_t row_bytes = columns * most(p.C * repeat, width) * s.bytes;
  return cached_rows_bytes(p.H, row_bytes, block_rows * p.R) + block_rows * p.Q * width * s.bytes;
}

}  // namespace convext
