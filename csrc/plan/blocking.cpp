// The blocking of each kernel.
#include "blocking.h"

#include <utility>

#include "../int_math.h"
#include "cost_model.h"
#include "winograd_shape.h"

namespace convext {
namespace {

std::int64_t clamp(std::int64_t v, std::int64_t low, std::int64_t high) {
  return v < low ? low : v > high ? high : v;
}

bool merges_columns(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const Algorithm algorithm = plan.kernel->algorithm;
  const bool indirect = algorithm == Algorithm::kIndirect || algorithm == Algorithm::kIndirectPairs;
  const bool can = (plan.pass == Pass::kFprop && indirect) ||
                   (plan.pass == Pass::kWgrad && algorithm == Algorithm::kOuter);
  constexpr std::int64_t kFewChannels = 8;
  // With a stride wider than the kernel a packed row would hold columns that nothing reads.
  return can && p.groups == 1 && p.C <= kFewChannels && p.S > 1 && p.dilation_w == 1 &&
         p.stride_w <= p.S;
}

// How weight grad of channels' own taps splits its sums: by shape alone, never by threads. A small
// weight is summed in up to 16 chunks of output rows, each with a copy of the weight.
void block_depthwise_wgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t copy = p.taps() * p.channels_per_group() * round_up(p.K, plan->kernel->nr);
  const std::int64_t rows = p.N * p.P;
  constexpr std::int64_t kSplitBytes = 1 << 20, kItems = 16;
  block_plane_strips(plan);
  if (copy * element > kSplitBytes) return;
  if (plan->channel_block > 0) {
    // Parts of the channels are items already; chunks are whole images.
    plan->splits = clamp(kItems / ceil_div(p.K, plan->channel_block), 1, p.N);
    return;
  }
  // A chunk has at least 512 pixels, so that filling its copy is a small part of its work.
  plan->splits = clamp(rows * p.Q / 512, 1, kItems < rows ? kItems : rows);
}

// Weight grad by outer products: pixels are cut into chunks, each with a copy of the sums, and the
// result into blocks, so that there are up to 16 work items that are worth a thread's while.
void block_outer(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t mr = plan->kernel->mr, nr = plan->kernel->nr;
  const bool pointwise = p.taps() == 1 && p.stride_h == 1 && p.stride_w == 1 && !p.pad_top &&
                         !p.pad_bottom && !p.pad_left && !p.pad_right;
  std::int64_t lanes = plan->merged_columns ? p.S * p.channels_per_group() : p.channels_per_group();
  std::int64_t rows = p.outputs_per_group();
  // Lanes of planes are transposed, rows are not: the fewer channels are the lanes, unless that
  // saves less than the result costs, which then is transposed.
  plan->swapped = pointwise && p.groups == 1 && p.input_layout == Layout::kContiguous &&
                  p.H * p.W > 1 && rows < lanes &&
                  (lanes - rows) * p.N * p.P * p.Q > 2 * lanes * rows;
  if (plan->swapped) std::swap(lanes, rows);
  const std::int64_t taps = plan->merged_columns ? p.R : p.taps();
  const std::int64_t copy = p.groups * round_up(rows, mr) * round_up(lanes, nr) * taps;
  const std::int64_t pixels = p.N * p.P * p.Q;
  // Few channels are read where they lie, in blocks that stay in the first-level cache; more would
  // be read too often to be left far apart.
  plan->read_in_place = lanes + rows <= 160;
  plan->pixel_block = plan->read_in_place ? 128 : 256;
  constexpr std::int64_t kItems = 16, kSplitBytes = 1 << 20, kFewestPixels = 512;
  constexpr double kFewestCycles = 9e4;  // of a work item
  // A chunk has enough pixels that filling and adding its copy is a small part of its work.
  if (copy * element <= kSplitBytes) {
    plan->splits = clamp(pixels / kFewestPixels, 1, kItems);
    // Chunks are whole rows, unless rows are as good as long ones.
    if (!pointwise && plan->splits > p.N * p.P) plan->splits = p.N * p.P;
  }
  const double cycles = static_cast<double>(copy) * static_cast<double>(pixels) /
                        static_cast<double>(2 * plan->kernel->nr / plan->kernel->vectors);
  const std::int64_t wanted = clamp(static_cast<std::int64_t>(cycles / kFewestCycles), 1, kItems);
  // Blocks of the result, such that packed operands stay in the second-level cache. Each
  // block packs its operands again, so none is small.
  const auto blocks_of = [](std::int64_t whole, std::int64_t blocks, std::int64_t unit) {
    return round_up(ceil_div(whole, blocks), unit);
  };
  std::int64_t lane_blocks = plan->merged_columns ? 1 : ceil_div(lanes, taps == 1 ? 256 : 128);
  std::int64_t row_blocks = ceil_div(rows, 256);
  const auto items = [&] { return plan->splits * p.groups * lane_blocks * row_blocks; };
  while (items() < wanted) {
    const bool can_rows = blocks_of(rows, 2 * row_blocks, mr) >= 96;
    const bool can_lanes =
        !plan->merged_columns && blocks_of(lanes, 2 * lane_blocks, nr) >= (lanes > 256 ? 256 : 96);
    if (can_rows && (!can_lanes || rows / row_blocks >= lanes / lane_blocks)) {
      row_blocks *= 2;
    } else if (can_lanes) {
      lane_blocks *= 2;
    } else {
      break;
    }
  }
  plan->channel_block =
      plan->merged_columns ? p.channels_per_group() : blocks_of(lanes, lane_blocks, nr);
  plan->output_block = blocks_of(rows, row_blocks, mr);
  plan->one_block =
      plan->splits == 1 && pixels <= plan->pixel_block && !plan->merged_columns && !plan->swapped;
}

// A block's transformed tiles stay in the second-level cache where channels are few, and the sums
// of the output channels that are done at once in the last-level one.
void block_winograd_wgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const WinogradShape shape = winograd_shape(*plan);
  const std::int64_t points = shape.points * shape.points, filters = shape.filters * shape.filters;
  const std::int64_t mr = plan->kernel->mr, nr = plan->kernel->nr;
  constexpr std::int64_t kSumBytes = 8 << 20, kTileBytes = 512 << 10;
  // Fewer would not be worth a pass over the sums.
  const std::int64_t fewest_tiles = 96 * filters / points;
  const std::int64_t lanes = round_up(p.C, nr);
  const std::int64_t most = clamp(kSumBytes / (filters * lanes * element), 48, 512);
  plan->output_block = round_up(ceil_div(p.K, ceil_div(p.K, most)), mr);
  const std::int64_t tiles = winograd_tiles(*plan);
  const std::int64_t tile = points * (lanes + plan->output_block) * element;
  const std::int64_t longest = clamp(kTileBytes / tile, fewest_tiles, 256);
  // Whole rows of tiles, if they fit: pixels that are transposed are so for each block anew.
  const std::int64_t across = winograd_tiles_across(*plan);
  const std::int64_t unit = across > 0 && across <= longest ? across : 1;
  const std::int64_t units = tiles / unit;
  plan->pixel_block = unit * ceil_div(units, ceil_div(units, longest / unit));
  // Small sums: chunks of the tiles are summed apart, long enough that adding them up is little.
  constexpr std::int64_t kSplitBytes = 256 << 10, kFewestTiles = 128, kItems = 16;
  if (filters * lanes * p.K * element <= kSplitBytes && p.K <= plan->output_block) {
    plan->splits = clamp(tiles / kFewestTiles, 1, kItems < units ? kItems : units);
  }
}

void block_bgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t rows = p.N * p.P;
  plan->splits = clamp(rows * p.Q / 1024, 1, 16 < rows ? 16 : rows);
}

// Eight register tiles share one pass over a panel of packed weights.
void block_pixels(ConvPlan* plan) { plan->pixel_block = 8 * plan->kernel->mr; }

// A work item is one group of one image, or of a chunk of images in weight grad.
void block_grouped_planes(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  if (plan->pass != Pass::kWgrad) return;
  constexpr std::int64_t kItems = 16;
  plan->splits = clamp(p.N * p.P * p.Q / 512, 1, kItems < p.N ? kItems : p.N);
}

// The source of a work item's pixels stays in a quarter of the second-level cache.
void block_pointwise(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t depth = plan->pass == Pass::kFprop ? p.C : p.K;
  constexpr std::int64_t kSourceBytes = 128 << 10;
  // Whole tiles and vectors, whichever way round.
  constexpr std::int64_t kUnit = 48;
  plan->pixel_block = clamp(kSourceBytes / (depth * element) / kUnit, 1, 8) * kUnit;
  // Fewer pixels than weights: what is packed stays in the near caches, pixels and their results
  // through a group of panels in the last.
  const std::int64_t outputs = plan->pass == Pass::kFprop ? p.K : p.C, pixels = p.N * p.P * p.Q;
  constexpr std::int64_t kMostBytes = 4 << 20, kPanelsOfGroup = 8;
  const std::int64_t row = most(depth, least(outputs, kPanelsOfGroup * plan->kernel->nr));
  plan->by_panel =
      !surely_planar(*plan) && pixels <= outputs && pixels * row * element <= kMostBytes;
}

// A few dozen pixels: of axpy, which adds up their products, whole images'.
void block_few_pixels(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  constexpr std::int64_t kPixels = 48;
  const std::int64_t image = plan->kernel->algorithm == Algorithm::kDot ? 1 : p.P * p.Q;
  plan->pixel_block = clamp(kPixels / image, 1, p.N * p.P * p.Q / image) * image;
}

// Rows of at least eight register tiles share one pass over a panel of packed weights.
void block_direct(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t width = plan->pass == Pass::kFprop ? p.Q : p.W;
  plan->row_block = ceil_div(8 * plan->kernel->mr, width);
}

// The register tile of planes: of 6, 4 and 3 channels what passes soonest through a row.
void block_direct_planes(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t rows = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t columns = forward ? p.Q : ceil_div(p.W, p.stride_w);
  plan->tile_rows = rows;
  if (rows > plan->kernel->mr) {
    const std::int64_t budget = plan->kernel->mr * plan->kernel->vectors;
    double least = 0;
    for (std::int64_t mr : {6, 4, 3}) {
      const double cycles =
          planes_row_cycles(rows, columns, mr, plan->kernel->nr / plan->kernel->vectors, budget);
      if (least > 0 && cycles >= least) continue;
      least = cycles;
      plan->tile_rows = mr;
    }
  }
}

// The columns of a work item's pixels stay in a quarter megabyte, or are one panel.
void block_im2col(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t panel = p.channels_per_group() * p.taps() * plan->kernel->nr * element;
  plan->pixel_block = plan->kernel->nr * clamp((256 << 10) / panel, 1, 8);
}

// A block of tiles, transformed and multiplied, is to stay near the core; but it needs enough tiles
// to be worth the weights that stream past it, all the more if these do not fit the last-level
// cache. A block takes as many groups at once as leave room for that.
void block_winograd(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const WinogradShape shape = winograd_shape(*plan);
  const std::int64_t points = shape.points * shape.points, filters = shape.filters * shape.filters;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t lanes = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  const std::int64_t weight_bytes =
      filters * p.groups * round_up(lanes, plan->kernel->nr) * depth * element;
  constexpr std::int64_t kBlockBytes = 768 << 10, kMostTiles = 96;
  // Points that share a filter read its panel one after the other.
  const std::int64_t fewest_tiles = 48 * filters / points;
  constexpr std::int64_t kLargeWeight = 16 << 20;
  const std::int64_t group_bytes = points * (lanes + depth) * element;
  plan->channel_block = depth * clamp(kBlockBytes / (fewest_tiles * group_bytes), 1, p.groups);
  plan->pixel_block = weight_bytes > kLargeWeight
                          ? kMostTiles
                          : clamp(kBlockBytes / (group_bytes * (plan->channel_block / depth)),
                                  fewest_tiles, kMostTiles);
  // Few tiles: rather than the transformed weight they stay near the core.
  const std::int64_t few_bytes = shape.stride == 1 ? 640 << 10 : 1400 << 10;
  const std::int64_t most = few_bytes / (points * plan->channel_block * element);
  plan->few_tiles = winograd_tiles(*plan) <= clamp(most, 1, kMostTiles);
}

}  // namespace

bool surely_planar(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return plan.pass == Pass::kFprop && p.input_layout == Layout::kContiguous && p.H * p.W > 1 &&
         p.C > 1;
}

void block(ConvPlan* plan, bool any_batch) {
  if (plan->problem.is_empty()) return;
  plan->merged_columns = merges_columns(*plan);
  const bool weight_grad = plan->pass == Pass::kWgrad;
  switch (plan->kernel->algorithm) {
    case Algorithm::kReference: return;
    case Algorithm::kIndirect:
    case Algorithm::kIndirectPairs: block_pixels(plan); break;
    case Algorithm::kIm2col: block_im2col(plan); break;
    case Algorithm::kDirect: block_direct(plan); break;
    case Algorithm::kDirectPlanes: block_direct_planes(plan); break;
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4:
    case Algorithm::kPolyphase2:
    case Algorithm::kPolyphase4:
      weight_grad ? block_winograd_wgrad(plan) : block_winograd(plan);
      break;
    case Algorithm::kDepthwise:
    case Algorithm::kGrouped:
      weight_grad ? block_depthwise_wgrad(plan) : block_plane_strips(plan);
      break;  // without parts of the channels an item is one row
    case Algorithm::kGroupedPlanes: block_grouped_planes(plan); break;
    case Algorithm::kPointwise: block_pointwise(plan); break;
    case Algorithm::kDot:
    case Algorithm::kAxpy: block_few_pixels(plan); break;
    case Algorithm::kOuter: block_outer(plan); break;
    case Algorithm::kRowsum: block_bgrad(plan); break;
  }
  if (any_batch) plan->few_tiles = plan->by_panel = false;
  set_workspace(plan);
}

}  // namespace convext
