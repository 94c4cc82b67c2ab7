#include "border.h"

#include "../int_math.h"
#include "cost_model.h"
#include "kernel_table.h"

namespace convext {
namespace {

bool is_compute_type(DType dtype) { return dtype == DType::kFloat32 || dtype == DType::kFloat64; }

bool leaves_border(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  if (plan.pass != Pass::kDgrad || p.padding_mode == PaddingMode::kZeros) return false;
  if (p.pad_top + p.pad_bottom + p.pad_left + p.pad_right == 0) return false;
  switch (plan.kernel->algorithm) {
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4:
    case Algorithm::kPolyphase2:
    case Algorithm::kPolyphase4:
    case Algorithm::kDirect:
    case Algorithm::kDirectPlanes: return true;
    default: return false;
  }
}

// One axis, seen from the pixels that have copies.
struct BorderExtent {
  std::int64_t extent, outputs, taps, stride, dilation, before, after;

  // Pixels with copies, at most.
  std::int64_t touched(PaddingMode mode) const {
    if (mode == PaddingMode::kReplicate) return least((before > 0) + (after > 0), extent);
    return least(before + after, extent);
  }
  // Sources that a pixel meets, at most: its own, and those of its copies, of which there is one at
  // each end unless a border pixel is replicated.
  std::int64_t sources(PaddingMode mode) const {
    const std::int64_t first = ceil_div(before, stride), last = ceil_div(after, stride);
    const bool far = extent > before + after + 1;  // no pixel has copies on both sides
    const std::int64_t by_pad = taps + (far ? most(first, last) : first + last);
    return least(outputs, mode == PaddingMode::kReplicate ? by_pad : least(by_pad, 3 * taps));
  }
  // Pairs of an output and a tap that meet an image's pixel, and not one of its copies.
  double own_pairs() const {
    double pairs = 0;
    for (std::int64_t t = 0; t < taps; ++t) {
      const std::int64_t above = before - t * dilation;  // outputs whose tap lies before the image
      const std::int64_t begin = above > 0 ? ceil_div(above, stride) : 0;
      const std::int64_t past = extent + above;
      const std::int64_t end = least(past > 0 ? ceil_div(past, stride) : 0, outputs);
      if (end > begin) pairs += static_cast<double>(end - begin);
    }
    return pairs;
  }
};

BorderExtent down(const ConvProblem& p) {
  return {p.H, p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.pad_bottom};
}
BorderExtent across(const ConvProblem& p) {
  return {p.W, p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.pad_right};
}

// Pixels of one image that have copies.
double border_pixels(const ConvProblem& p) {
  const auto rows = static_cast<double>(down(p).touched(p.padding_mode));
  const auto columns = static_cast<double>(across(p).touched(p.padding_mode));
  const auto H = static_cast<double>(p.H), W = static_cast<double>(p.W);
  return rows * W + columns * H - rows * columns;
}

std::int64_t pixel_sources(const ConvProblem& p) {
  return down(p).sources(p.padding_mode) * across(p).sources(p.padding_mode);
}

}  // namespace

void add_border(ConvPlan* plan) {
  if (!leaves_border(*plan)) return;
  const ConvProblem& p = plan->problem;
  for (const KernelInfo* kernel : kernels_for(plan->pass, p.dtype)) {
    if (kernel->algorithm == Algorithm::kIndirect && kernel->isa == plan->kernel->isa) {
      plan->border = kernel;
    }
  }
  // Eight register tiles share one pass over a panel of packed weights, unless that makes too many
  // packed sources.
  constexpr std::int64_t kMostSources = 4096;
  const std::int64_t mr = plan->border->mr, sources = pixel_sources(p);
  plan->border_block = mr * most(least(kMostSources / (sources * mr + 1), 8), 1);
  const std::int64_t bytes = p.dtype == DType::kFloat64 ? 8 : 4, nr = plan->border->nr;
  const std::int64_t lanes = p.groups * round_up(p.channels_per_group(), nr);
  plan->workspace_bytes += (p.taps() * p.outputs_per_group() * lanes + nr + 1) * bytes;
  const std::int64_t packed = least(plan->border_block * sources, p.N * p.P * p.Q);
  plan->thread_workspace_bytes +=
      ((packed + 1) * p.K + most(plan->border_block, p.taps()) * nr) * bytes;
}

Cost cost_border(const ConvPlan& plan) {
  Cost cost;
  if (plan.border == nullptr) return cost;
  const ConvProblem& p = plan.problem;
  const int vectors = plan.border->vectors, mr = plan.border->mr;
  const int lanes = plan.border->nr / vectors;
  const auto images = static_cast<double>(p.N);
  const double pixels = images * border_pixels(p);
  const double all = static_cast<double>(p.P * p.R) * static_cast<double>(p.Q * p.S);
  double entries = images * (all - down(p).own_pairs() * across(p).own_pairs());
  const bool anew = !is_compute_type(p.dtype);
  if (anew) {  // own sources too
    entries +=
        pixels * static_cast<double>(p.taps()) / static_cast<double>(p.stride_h * p.stride_w);
  }
  const auto groups = static_cast<double>(p.groups);
  const auto out = static_cast<double>(ceil_div(p.channels_per_group(), lanes));
  // Tiles end at rows' ends, and have entries that some of their pixels lack.
  constexpr double kPartlyEmpty = 1.25;
  cost.multiply = kPartlyEmpty * entries * static_cast<double>(p.outputs_per_group()) / mr *
                  tile_cycles(groups * out / vectors, mr, vectors);
  constexpr double kPixelCycles = 100, kSourceCycles = 30;
  const bool adjacent = p.input_layout == Layout::kChannelsLast;
  const double sources = anew ? pixels : entries / static_cast<double>(most(least(p.R, p.S), 1));
  cost.move = pixels * kPixelCycles + entries * kSourceCycles +
              pixels / mr * groups * out / vectors * kTileCycles +
              static_cast<double>(p.K * p.channels_per_group() * p.taps()) *
                  (p.weight_layout == Layout::kContiguous ? kPackedWeightCycles : kCopyCycles * 2) +
              pixels * static_cast<double>(p.C) * (adjacent ? kCopyCycles * 2 : 2 * kGatherCycles) +
              (adjacent && !anew ? 0 : sources * static_cast<double>(p.K) * kGatherCycles);
  return cost;
}

}  // namespace convext
