// The blocking and the working memory of groups of one or few channels that are taken as whole
// planes (cpu/run_plane_strips.cpp, cpu/run_depthwise_wgrad.cpp).
#include "../channel_parts.h"
#include "../int_math.h"
#include "blocking.h"

namespace convext {
namespace {

struct Planes {
  std::int64_t bytes;                // of an element of compute type
  std::int64_t vector, channels;     // of the destination; of the gradient in weight grad
  std::int64_t group, depth;         // channels of a group: of these, and of the source
  std::int64_t source, destination;  // packed pixels
  bool grouped;

  explicit Planes(const ConvPlan& plan) {
    const ConvProblem& p = plan.problem;
    const bool backward = plan.pass == Pass::kDgrad;
    bytes = p.dtype == DType::kFloat64 ? 8 : 4;
    vector = plan.kernel->nr / plan.kernel->vectors;
    channels = backward ? p.C : p.K;
    group = channels / p.groups;
    depth = (backward ? p.K : p.C) / p.groups;
    source = source_columns(p, backward) * (backward ? p.P : p.H);
    destination = backward ? p.H * p.W : p.P * p.Q;
    grouped = plan.kernel->algorithm == Algorithm::kGrouped;
  }

  // With their padding.
  static std::int64_t source_columns(const ConvProblem& p, bool backward) {
    const std::int64_t reach = (p.S - 1) * p.dilation_w;
    if (!backward) {
      const std::int64_t right = (p.Q - 1) * p.stride_w + reach + 1 - p.pad_left;
      return p.pad_left + (right > p.W ? right : p.W);
    }
    const std::int64_t left = reach > p.pad_left ? ceil_div(reach - p.pad_left, p.stride_w) : 0;
    const std::int64_t right = (p.W - 1 + p.pad_left) / p.stride_w + 1;
    return left + (right > p.Q ? right : p.Q);
  }
};

}  // namespace

void block_plane_strips(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const Planes s(*plan);
  if (p.input_layout != Layout::kContiguous) return;
  if (!s.grouped && p.outputs_per_group() > 1) return;
  if (plan->pass == Pass::kDgrad && p.padding_mode != PaddingMode::kZeros) return;
  constexpr std::int64_t kPartBytes = 64 << 10, kMostPartBytes = 256 << 10, kItems = 16;
  // Channels that kernels take at once.
  const std::int64_t unit = !s.grouped ? 2 * s.vector : s.group < s.vector ? s.vector : s.group;
  const std::int64_t bytes =
      unit * (ceil_div(s.source * s.depth, s.group) + s.destination) * s.bytes;
  if (bytes > kMostPartBytes) return;
  const std::int64_t units = s.channels < unit ? 1 : s.channels / unit;
  const std::int64_t near = kPartBytes / bytes;
  const std::int64_t shared = p.N * units / kItems;  // that leave enough items
  std::int64_t most = near < shared ? near : shared;
  if (most < 1) most = 1;
  plan->channel_block = ceil_div(units, ceil_div(units, most)) * unit;
}

std::int64_t plane_strip_bytes(const ConvPlan& plan) {
  if (plan.channel_block == 0) return 0;
  const ConvProblem& p = plan.problem;
  const Planes s(plan);
  const std::int64_t width = ChannelParts(s.channels, plan.channel_block, s.vector).widest;
  const std::int64_t planes = ceil_div(width, s.group) * s.depth * s.source + width * s.destination;
  if (plan.pass == Pass::kWgrad) return planes * s.bytes;
  const std::int64_t lanes = !s.grouped           ? width
                             : s.group < s.vector ? round_up(width, s.vector)
                                                  : width / s.group * round_up(s.group, s.vector);
  return (planes + p.taps() * lanes * (s.grouped ? s.depth : 1) + width) * s.bytes;
}

}  // namespace convext
