// Costs of the kernels for depthwise convolution and for few channels a group (cpu/run_strips.cpp,
// cpu/run_plane_strips.cpp, cpu/run_grouped_planes.cpp, cpu/run_depthwise_wgrad.cpp).
#include "cost_terms.h"

namespace convext {

Cost cost_depthwise(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const double vectors = static_cast<double>(ceil_div(p.K, lanes));
  Cost cost;
  // Every FMA loads its own operand. Kernel rows in the padding are skipped.
  const double live = p.padding_mode != PaddingMode::kZeros || p.P == 0
                          ? 1
                          : live_share(p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.H);
  cost.multiply = pixel_taps(plan) * live * vectors * (plan.pass == Pass::kWgrad ? 1.1 : 0.85);
  // Whole planes are one long row each.
  const bool planes = plan.channel_block > 0;
  cost.move = pixel_taps(plan) / p.S * 2 + weight_elements(p) * kTransposeCycles +
              (planes ? layout_cycles(p, input_elements(p)) + layout_cycles(p, output_elements(p))
                      : row_by_row_cycles(p, input_elements(p), p.W, lanes) +
                            row_by_row_cycles(p, output_elements(p), p.Q, lanes));
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_grouped(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const bool forward = plan.pass != Pass::kDgrad;
  const std::int64_t out = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  const std::int64_t vectors =
      out < lanes ? ceil_div(p.groups * out, lanes) : p.groups * ceil_div(out, lanes);
  Cost cost;
  // Tiles do not go beyond a row, so short rows leave them partly empty.
  const double columns = static_cast<double>(forward ? p.Q : ceil_div(p.W, p.stride_w));
  const double tiles =
      static_cast<double>(ceil_div(forward ? p.Q : ceil_div(p.W, p.stride_w), plan.kernel->mr));
  const double full = plan.pass == Pass::kWgrad ? 1 : tiles * plan.kernel->mr / columns;
  // Weight grad permutes or broadcasts its gradients for few sums each.
  cost.multiply = pixel_taps(plan) * static_cast<double>(vectors * depth) *
                  (plan.pass == Pass::kWgrad ? 0.65 : 0.5) * full;
  const double pixels = static_cast<double>(p.N) * (forward ? p.P * p.Q : p.H * p.W);
  // Rows of planes are transposed one by one, unless the planes are taken whole.
  const double planar = p.input_layout == Layout::kContiguous && plan.channel_block == 0 ? 2 : 1;
  // A stride leaves input grad few taps for each tile.
  const double a_tile = plan.pass == Pass::kDgrad && p.stride_w > 1 ? 20 : 10;
  cost.move = pixels / plan.kernel->mr * static_cast<double>(vectors) * a_tile +
              weight_elements(p) * kTransposeCycles +
              planar * (layout_cycles(p, input_elements(p)) + layout_cycles(p, output_elements(p)));
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_grouped_planes(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const bool forward = plan.pass != Pass::kDgrad;
  // What lies between the rows is computed too.
  const std::int64_t reach = (p.S - 1) * p.dilation_w / p.stride_w;
  const bool fold =
      !forward && p.padding_mode != PaddingMode::kZeros;  // padded planes, then folded
  const std::int64_t width = fold ? p.W + p.pad_left + p.pad_right : p.W;
  const std::int64_t height = fold ? p.H + p.pad_top + p.pad_bottom : p.H;
  const double columns = static_cast<double>(reach + (forward ? p.Q : ceil_div(width, p.stride_w)));
  const double rows = static_cast<double>(forward ? p.P : ceil_div(height, p.stride_h));
  const double planes = static_cast<double>(p.N) * (p.K + p.C);
  const double taps = static_cast<double>(p.taps() * p.channels_per_group());
  const std::int64_t outputs = forward ? p.outputs_per_group() : p.channels_per_group();
  Cost cost;
  // One channel loads x for each FMA. Weight grad has as many sums as it has channels and taps, up
  // to nine, and few sums wait for each other.
  const double sums =
      static_cast<double>((outputs < 4 ? outputs : 4) * (p.taps() < 9 ? p.taps() : 9));
  const double waits = plan.pass != Pass::kWgrad ? 1 : sums < 8 ? 2.4 : 1.2;
  cost.multiply = static_cast<double>(p.N) * p.K * taps * rows * columns / lanes *
                  (outputs >= 4   ? 0.55
                   : outputs >= 2 ? 0.6
                                  : 0.78) *
                  waits;
  // Copied padding is folded by whole planes, which may not stay near the core.
  constexpr std::int64_t kNearBytes = 1 << 20;
  if (fold) {
    cost.multiply *= plan.thread_workspace_bytes > kNearBytes ? 2 : 1.1;
  }
  const bool adjacent = p.stride_w == 1;
  // Weight grad gathers both activations a few channels at a time, each pass over whole pixels.
  const double gather = plan.pass == Pass::kWgrad ? 2 * kGatherCycles : kGatherCycles;
  const double planar = p.input_layout == Layout::kContiguous ? kCopyCycles : gather;
  // A stride's phases, which input grad of one group joins for all channels at once.
  const bool all_channels = plan.pass == Pass::kDgrad && p.groups == 1;
  const double phases = all_channels ? kGatherCycles : kGatherCycles / 2;
  cost.move = planes * 300 + weight_elements(p) * kTransposeCycles +
              input_elements(p) * (adjacent ? planar : phases) + output_elements(p) * planar;
  cost.memory = stream_tensors(p);
  return cost;
}

}  // namespace convext
