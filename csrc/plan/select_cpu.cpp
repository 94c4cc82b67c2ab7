// Chooses a kernel: of those that can run the problem, the one that the cost model (cost_model.h)
// expects to be cheapest. When a plan is to be explained, every refusal is kept with its reason. The
// blocking goes by shape alone.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "../cpu/scratch.h"
#include "../int_math.h"
#include "cpu_features.h"
#include "kernel_table.h"

namespace convext {
namespace {

struct Force {
  std::string text;
  bool matches(const KernelInfo& kernel) const {
    return text == to_string(kernel.algorithm) || text == kernel.name;
  }
};

// "a", or "fprop=a,wgrad=b": the part that speaks about `pass`.
Force force_for(const std::string& spec, Pass pass) {
  std::stringstream parts(spec);
  std::string part;
  while (std::getline(parts, part, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos) {
      // A bare algorithm name speaks about the passes that have it, a kernel name about its own.
      for (const KernelInfo& kernel : kernel_table()) {
        if (kernel.pass == pass && Force{part}.matches(kernel)) return Force{part};
      }
    } else if (part.substr(0, equals) == to_string(pass)) {
      return Force{part.substr(equals + 1)};
    }
  }
  return Force{};
}

// "reference, indirect, ...": those of the table.
std::string algorithm_names() {
  std::string names;
  std::vector<Algorithm> seen;
  for (const KernelInfo& kernel : kernel_table()) {
    if (std::find(seen.begin(), seen.end(), kernel.algorithm) != seen.end()) continue;
    seen.push_back(kernel.algorithm);
    names += std::string(names.empty() ? "" : ", ") + to_string(kernel.algorithm);
  }
  return names;
}

void validate_force(const std::string& spec) {
  std::stringstream parts(spec);
  std::string part;
  while (std::getline(parts, part, ',')) {
    const std::size_t equals = part.find('=');
    const std::string pass = equals == std::string::npos ? "" : part.substr(0, equals);
    const Force force{equals == std::string::npos ? part : part.substr(equals + 1)};
    bool known = false;
    for (const KernelInfo& kernel : kernel_table()) {
      known = known || (force.matches(kernel) && (pass.empty() || pass == to_string(kernel.pass)));
    }
    if (!known) {
      throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + part +
                               "' names no kernel of the table; give an algorithm (" +
                               algorithm_names() +
                               ") or a kernel name, optionally with its pass, as in "
                               "'fprop=indirect,wgrad=reference'");
    }
  }
}

std::int64_t clamp(std::int64_t v, std::int64_t low, std::int64_t high) {
  return v < low ? low : v > high ? high : v;
}

bool merges_columns(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const Algorithm algorithm = plan.kernel->algorithm;
  const bool can = (plan.pass == Pass::kFprop && algorithm == Algorithm::kIndirect) ||
                   (plan.pass == Pass::kWgrad && algorithm == Algorithm::kOuter);
  constexpr std::int64_t kFewChannels = 8;
  // With a stride wider than the kernel a packed row would hold columns that nothing reads.
  return can && p.groups == 1 && p.C <= kFewChannels && p.S > 1 && p.dilation_w == 1 &&
         p.stride_w <= p.S;
}

// ---- workspace of each thread ------------------------------------------------------------------

std::int64_t compute_bytes(const ConvProblem& p) { return p.dtype == DType::kFloat64 ? 8 : 4; }

// run_indirect: packed source rows, as RowCache holds them, a tile of results, zeros.
std::int64_t thread_bytes_pixels(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const bool forward = plan.pass == Pass::kFprop;
  const bool depthwise = plan.kernel->algorithm == Algorithm::kDepthwise;
  const std::int64_t channels = forward ? p.C : p.K;
  const std::int64_t rows = forward ? p.H : p.P, columns = forward ? p.W : p.Q;
  const std::int64_t packed_columns = plan.merged_columns ? (p.Q - 1) * p.stride_w + p.S : columns;
  const std::int64_t row_bytes = packed_columns * channels * compute_bytes(p);
  // Rows of an item: those of its pixels, times the kernel's rows and the copies of a border.
  const std::int64_t step_w = forward ? 1 : p.stride_w, width = forward ? p.Q : p.W;
  const std::int64_t item_rows = (plan.pixel_block - 1) / (width / step_w ? width / step_w : 1) + 2;
  const std::int64_t pad = p.pad_top > p.pad_bottom ? p.pad_top : p.pad_bottom;
  const std::int64_t copies =
      forward || p.padding_mode == PaddingMode::kZeros ? 1 : 3 + pad / p.stride_h;
  std::int64_t cached = (512 << 10) / (row_bytes + 1);
  if (cached < item_rows * p.R * copies) cached = item_rows * p.R * copies;
  if (cached > rows) cached = rows;
  const bool in_place = forward && !plan.merged_columns && p.dtype != DType::kBFloat16 &&
                        p.dtype != DType::kFloat16 &&
                        (p.input_layout == Layout::kChannelsLast || channels == 1);
  const std::int64_t tile_width = depthwise ? p.C : plan.kernel->nr;
  const std::int64_t zeros = plan.merged_columns ? p.S * channels : channels;
  return (in_place ? 0 : cached * row_bytes) +
         (plan.pixel_block * tile_width + zeros) * compute_bytes(p);
}

// run_im2col: columns and a tile of results.
std::int64_t thread_bytes_im2col(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return (plan.pixel_block * p.channels_per_group() * p.taps() +
          plan.kernel->mr * plan.kernel->nr) *
         compute_bytes(p);
}

// run_wgrad: packed rows of the input and of the gradient, for a block of output rows.
std::int64_t thread_bytes_wgrad(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const bool depthwise = plan.kernel->algorithm == Algorithm::kDepthwise;
  constexpr std::int64_t kBlockPixels = 256;
  const std::int64_t block_rows = clamp(kBlockPixels / p.Q, 1, ceil_div(p.N * p.P, plan.splits));
  const std::int64_t nr = plan.kernel->nr;
  const std::int64_t span = (p.Q - 1) * p.stride_w + (p.S - 1) * p.dilation_w + 1;
  const bool shared = plan.merged_columns || span <= p.Q * p.S;
  const std::int64_t columns = shared ? span : p.Q * p.S;
  const std::int64_t lanes =
      depthwise ? round_up(p.C, nr)
      : plan.merged_columns
          ? p.channels_per_group()
          : round_up(plan.channel_block < p.channels_per_group() ? plan.channel_block
                                                                 : p.channels_per_group(),
                     nr);
  const std::int64_t outputs = depthwise ? round_up(p.C, nr) : p.outputs_per_group();
  return (block_rows * p.R * columns * lanes + nr + outputs * (block_rows * p.Q + nr)) *
         compute_bytes(p);
}

// run_rowsum: packed pixels of the gradient.
std::int64_t thread_bytes_rowsum(const ConvPlan& plan) {
  constexpr std::int64_t kPiece = 256;
  const ConvProblem& p = plan.problem;
  return (p.Q < kPiece ? p.Q : kPiece) * round_up(p.K, plan.kernel->nr) * compute_bytes(p);
}

// ---- blocking ----------------------------------------------------------------------------------

// How weight grad and bias grad split their sums: by shape alone, never by threads. A small weight
// is summed in up to 16 chunks of output rows, each with a copy of the weight; a large one instead
// is cut by input channels, and its rows stay in one chunk.
void block_wgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const bool depthwise = plan->kernel->algorithm == Algorithm::kDepthwise ||
                         plan->kernel->algorithm == Algorithm::kGrouped;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t nr = plan->kernel->nr;
  // A copy of the sums holds whole tiles.
  const std::int64_t lanes =
      plan->merged_columns ? p.S * p.channels_per_group() : p.channels_per_group();
  const std::int64_t tile_rows = round_up(p.outputs_per_group(), plan->kernel->mr);
  const std::int64_t copy = depthwise ? p.taps() * p.channels_per_group() * round_up(p.K, nr)
                                      : p.groups * tile_rows * round_up(lanes, nr) *
                                            (plan->merged_columns ? p.R : p.taps());
  const std::int64_t rows = p.N * p.P;
  constexpr std::int64_t kSplitBytes = 1 << 20;
  constexpr std::int64_t kItems = 16;
  plan->channel_block = p.channels_per_group();
  if (copy * element <= kSplitBytes) {
    // A chunk has at least 512 pixels, so that filling its copy is a small part of its work.
    plan->splits = clamp(rows * p.Q / 512, 1, kItems < rows ? kItems : rows);
  } else if (p.groups < kItems && !depthwise) {
    const std::int64_t blocks = ceil_div(kItems, p.groups);
    plan->channel_block = round_up(ceil_div(p.channels_per_group(), blocks), nr);
    const std::int64_t smallest = p.taps() == 1 ? 256 : 64;
    if (plan->channel_block < smallest) plan->channel_block = smallest;
  }
  plan->workspace_bytes = plan->splits * copy * element;
  plan->thread_workspace_bytes = thread_bytes_wgrad(*plan);
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
  // Lanes of planes are transposed, rows are not: the fewer channels are the lanes.
  plan->swapped = pointwise && p.groups == 1 && p.input_layout == Layout::kContiguous &&
                  p.H * p.W > 1 && rows < lanes;
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
  plan->workspace_bytes = plan->splits * copy * element;
}

// A block's transformed tiles stay in the second-level cache where channels are few, and the sums of
// the output channels that are done at once in the last-level one.
void block_winograd_wgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t m = plan->kernel->algorithm == Algorithm::kWinograd4 ? 4 : 2;
  const std::int64_t points = (m + 2) * (m + 2), mr = plan->kernel->mr, nr = plan->kernel->nr;
  constexpr std::int64_t kSumBytes = 8 << 20, kTileBytes = 512 << 10;
  constexpr std::int64_t kFewestTiles = 96;  // fewer would not be worth a pass over the sums
  const std::int64_t lanes = round_up(p.C, nr);
  const std::int64_t most = clamp(kSumBytes / (points * lanes * element), 48, 512);
  plan->output_block = round_up(ceil_div(p.K, ceil_div(p.K, most)), mr);
  const auto tiles_across = [m](std::int64_t extent, std::int64_t step) {
    std::int64_t tiles = 0;
    for (std::int64_t d = 0; d < step && d < extent; ++d) {
      tiles += ceil_div(ceil_div(extent - d, step), m);
    }
    return tiles;
  };
  const std::int64_t tiles =
      p.N * tiles_across(p.P, p.dilation_h) * tiles_across(p.Q, p.dilation_w);
  const std::int64_t tile = points * (lanes + plan->output_block) * element;
  const std::int64_t longest = clamp(kTileBytes / tile, kFewestTiles, 256);
  plan->pixel_block = ceil_div(tiles, ceil_div(tiles, longest));
  plan->workspace_bytes = points * plan->output_block * lanes * element + plan->pixel_block * tile;
}

void block_bgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t rows = p.N * p.P;
  plan->splits = clamp(rows * p.Q / 1024, 1, 16 < rows ? 16 : rows);
  plan->workspace_bytes = plan->splits * round_up(p.K, plan->kernel->nr) * 8;
  plan->thread_workspace_bytes = thread_bytes_rowsum(*plan);
}

void block_pixels(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  // Eight register tiles share one pass over a panel of packed weights.
  plan->pixel_block = 8 * plan->kernel->mr;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t lanes = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  plan->workspace_bytes =
      (p.taps() * depth + 1) * p.groups * round_up(lanes, plan->kernel->nr) * element;
  plan->thread_workspace_bytes = thread_bytes_pixels(*plan);
}

// A work item is one row.
void block_strips(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  plan->workspace_bytes =
      p.taps() * p.K * p.channels_per_group() * (p.dtype == DType::kFloat64 ? 8 : 4);
}

// A work item is one group of one image, or of a chunk of images in weight grad.
void block_grouped_planes(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  if (plan->pass == Pass::kWgrad) {
    constexpr std::int64_t kItems = 16;
    plan->splits = clamp(p.N * p.P * p.Q / 512, 1, kItems < p.N ? kItems : p.N);
  }
  plan->workspace_bytes = plan->splits * p.K * p.channels_per_group() * p.taps() * element;
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
  plan->workspace_bytes = round_up(p.K, 24) * round_up(p.C, 24) * element;
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
  block_pixels(plan);
  plan->pixel_block = 0;
}

// The register tile of planes: of 6, 4 and 3 channels what passes soonest through a row.
void block_direct_planes(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t rows = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t columns = forward ? p.Q : ceil_div(p.W, p.stride_w);
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
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
  plan->workspace_bytes = p.K * p.channels_per_group() * p.taps() * element;
}

// The columns of a work item's pixels stay in a quarter megabyte, or are one panel.
void block_im2col(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t panel = p.channels_per_group() * p.taps() * plan->kernel->nr * element;
  plan->pixel_block = plan->kernel->nr * clamp((256 << 10) / panel, 1, 8);
  const bool weights_in_place = p.dtype == DType::kFloat32 || p.dtype == DType::kFloat64;
  const std::int64_t weights = p.K * p.channels_per_group() * p.taps();
  plan->workspace_bytes = ((weights_in_place ? 0 : weights) + p.K) * element;
  plan->thread_workspace_bytes = thread_bytes_im2col(*plan);
}

// A block of tiles, transformed and multiplied, is to stay near the core; but it needs enough tiles
// to be worth the weights that stream past it, all the more if these do not fit the last-level
// cache. A block takes as many groups at once as leave room for that.
void block_winograd(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t points = plan->kernel->algorithm == Algorithm::kWinograd4 ? 36 : 16;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t lanes = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  plan->workspace_bytes = points * p.groups * round_up(lanes, plan->kernel->nr) * depth * element;
  constexpr std::int64_t kBlockBytes = 768 << 10, kFewestTiles = 48, kMostTiles = 96;
  constexpr std::int64_t kLargeWeight = 16 << 20;
  const std::int64_t group_bytes = points * (lanes + depth) * element;
  plan->channel_block = depth * clamp(kBlockBytes / (kFewestTiles * group_bytes), 1, p.groups);
  plan->pixel_block = plan->workspace_bytes > kLargeWeight
                          ? kMostTiles
                          : clamp(kBlockBytes / (group_bytes * (plan->channel_block / depth)),
                                  kFewestTiles, kMostTiles);
  // Few tiles: rather than the transformed weight they stay near the core.
  constexpr std::int64_t kFewBytes = 640 << 10;
  const std::int64_t most = kFewBytes / (points * plan->channel_block * element);
  plan->few_tiles = winograd_tiles(*plan) <= clamp(most, 1, kMostTiles);
  if (plan->few_tiles) plan->workspace_bytes = points * plan->kernel->nr * depth * element;
}

// ---- options -----------------------------------------------------------------------------------

std::int64_t limit_of_environment() {
  const char* text = std::getenv("CONVEXT_WORKSPACE_LIMIT");
  if (text == nullptr || *text == '\0') return kNoLimit;
  const std::string digits = text;
  try {
    if (digits.find_first_not_of("0123456789") == std::string::npos) return std::stoll(digits);
  } catch (const std::out_of_range&) {
  }
  throw std::runtime_error(
      "CONVEXT_WORKSPACE_LIMIT must be a number of bytes, a non-negative integer of 64 bits, but "
      "got '" +
      digits + "'");
}

struct Options {
  std::mutex mutex;
  std::string force;
  bool batch_invariant = false;
  std::int64_t workspace_limit;
  std::atomic<std::uint64_t> version{1};

  Options() : workspace_limit(limit_of_environment()) {
    const char* text = std::getenv("CONVEXT_PLAN");
    force = text ? text : "";
    validate_force(force);
    bound_scratch(workspace_limit);
  }
};

Options& options() {
  static Options instance;
  return instance;
}

// Sets one of the options and tells what it was.
template <class T>
T exchange_option(T Options::* option, T value) {
  Options& all = options();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::swap(all.*option, value);
  all.version.fetch_add(1, std::memory_order_release);
  return value;
}

void block(ConvPlan* plan) {
  if (plan->problem.is_empty()) return;
  plan->merged_columns = merges_columns(*plan);
  const bool weight_grad = plan->pass == Pass::kWgrad;
  switch (plan->kernel->algorithm) {
    case Algorithm::kReference: return;
    case Algorithm::kIndirect: block_pixels(plan); break;
    case Algorithm::kIm2col: block_im2col(plan); break;
    case Algorithm::kDirect: block_direct(plan); break;
    case Algorithm::kDirectPlanes: block_direct_planes(plan); break;
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4:
      weight_grad ? block_winograd_wgrad(plan) : block_winograd(plan);
      break;
    case Algorithm::kDepthwise:
    case Algorithm::kGrouped: weight_grad ? block_wgrad(plan) : block_strips(plan); break;
    case Algorithm::kGroupedPlanes: block_grouped_planes(plan); break;
    case Algorithm::kPointwise: block_pointwise(plan); break;
    case Algorithm::kDot:
    case Algorithm::kAxpy: block_few_pixels(plan); break;
    case Algorithm::kOuter: block_outer(plan); break;
    case Algorithm::kRowsum: block_bgrad(plan); break;
  }
}

ConvPlan blocked_plan(const ConvProblem& problem, Pass pass, const KernelInfo& kernel) {
  ConvPlan plan;
  plan.pass = pass;
  plan.problem = problem;
  plan.kernel = &kernel;
  block(&plan);
  return plan;
}

// What a limit counts.
std::int64_t limited_bytes(const ConvPlan& plan) {
  return plan.workspace_bytes + plan.thread_workspace_bytes;
}

Cost cost_of(const ConvPlan& plan) {
  return plan.problem.is_empty() ? Cost{} : kernel_cost(*plan.kernel)(plan);
}

[[noreturn]] void raise_no_kernel(const ConvProblem& problem, Pass pass, const Force& force,
                                  const ConvPlan& refusals) {
  std::string message =
      std::string("no kernel can run ") + to_string(pass) + " of " + to_string(problem);
  if (!force.text.empty()) message += ", forced to '" + force.text + "'";
  for (const auto& [name, why] : refusals.refused) message += "; " + name + ": " + why;
  throw std::runtime_error(message);
}

std::string in_kilocycles(const Cost& cost) {
  std::ostringstream out;
  out.precision(3);
  out << cost.total() / 1e3 << " kilocycles";
  return out.str();
}

// The cheapest kernel that can run the problem, or the cheapest of the forced ones.
ConvPlan choose(const ConvProblem& problem, Pass pass, const PlanOptions& options, bool explain) {
  const Force force = options.force.empty() ? Force{} : force_for(options.force, pass);
  // A choice that must not look at N looks at this many images instead.
  constexpr std::int64_t kUsualBatch = 8;
  ConvProblem costed = problem;
  if (options.batch_invariant && costed.N > 0) costed.N = kUsualBatch;

  const KernelInfo* best = nullptr;
  Cost best_cost;
  ConvPlan refusals;
  std::vector<std::pair<const KernelInfo*, Cost>> candidates;
  std::string why;
  for (const KernelInfo* kernel : kernels_for(pass, problem.dtype)) {
    const bool named = force.text == kernel->name;
    const bool own_isa = kernel->isa == options.isa || kernel->algorithm == Algorithm::kReference;
    if (!own_isa && !named) continue;  // the same algorithm for another CPU
    if (!force.text.empty() && !force.matches(*kernel)) {
      if (explain)
        refusals.refused.emplace_back(kernel->name, "not the forced '" + force.text + "'");
      continue;
    }
    if (named && !isa_runnable(kernel->isa)) {
      if (explain) {
        refusals.refused.emplace_back(kernel->name,
                                      std::string("this CPU cannot run ") + to_string(kernel->isa));
      }
      continue;
    }
    if (!kernel_rule(*kernel)(problem, explain ? &why : nullptr)) {
      if (explain) refusals.refused.emplace_back(kernel->name, why);
      continue;
    }
    if (options.workspace_limit != kNoLimit) {
      const std::int64_t bytes = limited_bytes(blocked_plan(problem, pass, *kernel));
      if (bytes > options.workspace_limit) {
        if (explain) {
          refusals.refused.emplace_back(kernel->name, "needs " + std::to_string(bytes) +
                                                          " bytes of workspace, the limit is " +
                                                          std::to_string(options.workspace_limit));
        }
        continue;
      }
    }
    const Cost cost = cost_of(blocked_plan(costed, pass, *kernel));
    if (explain) candidates.emplace_back(kernel, cost);
    if (best == nullptr || cost.total() < best_cost.total()) {
      best = kernel;
      best_cost = cost;
    }
  }
  if (best == nullptr) {
    if (!explain) return choose(problem, pass, options, true);  // which says why
    raise_no_kernel(problem, pass, force, refusals);
  }
  ConvPlan plan = blocked_plan(problem, pass, *best);
  plan.cost = cost_of(plan);
  constexpr double kFewestSharedCycles = 40e3;  // some microseconds: what waking a thread takes
  plan.one_thread = force.text.empty() && plan.cost.total() < kFewestSharedCycles;
  if (!explain) return plan;
  plan.reason = (force.text.empty() ? "the cheapest that can run the problem: "
                                    : "forced by '" + force.text + "': ") +
                in_kilocycles(best_cost);
  if (options.batch_invariant) plan.reason += " for " + std::to_string(costed.N) + " images";
  plan.refused = std::move(refusals.refused);
  for (const auto& [kernel, cost] : candidates) {
    if (kernel != best) plan.refused.emplace_back(kernel->name, "dearer: " + in_kilocycles(cost));
  }
  return plan;
}

}  // namespace

ConvPlan make_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options) {
  return choose(problem, pass, options, false);
}

ConvPlan explain_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options) {
  return choose(problem, pass, options, true);
}

std::string to_string(const ConvPlan& plan) {
  std::ostringstream out;
  out << to_string(plan.pass) << ": " << plan.kernel->name << "\n  " << to_string(plan.problem)
      << "\n  why: " << plan.reason;
  for (const auto& [name, why] : plan.refused) out << "\n  refused: " << name << ": " << why;
  out << "\n  register tile: " << plan.kernel->mr << "x" << plan.kernel->nr;
  if (plan.pixel_block) out << "\n  pixels a work item: " << plan.pixel_block;
  if (plan.one_thread) out << "\n  one thread: too little to share";
  if (plan.row_block) out << "\n  rows a work item: " << plan.row_block;
  if (plan.tile_rows) out << "\n  channels of the register tile: " << plan.tile_rows;
  if (plan.merged_columns) out << "\n  a kernel row's taps and channels are one run";
  if (plan.channel_block) {
    out << (plan.pass == Pass::kDgrad ? "\n  output" : "\n  input")
        << " channels a work item: " << plan.channel_block;
  }
  if (plan.pass == Pass::kWgrad || plan.pass == Pass::kBgrad) {
    out << "\n  chunks of output rows, summed in order: " << plan.splits;
  }
  out << "\n  expected: " << plan.cost.multiply / 1e3 << " kilocycles multiplying, "
      << plan.cost.move / 1e3 << " packing, " << plan.cost.memory / 1e3 << " for memory";
  out << "\n  workspace: " << plan.workspace_bytes << " bytes, and " << plan.thread_workspace_bytes
      << " of each thread";
  return out.str();
}

PlanOptions current_options() {
  static const Isa isa = active_isa();
  Options& all = options();
  const std::lock_guard<std::mutex> lock(all.mutex);
  PlanOptions current;
  current.isa = isa;
  current.force = all.force;
  current.batch_invariant = all.batch_invariant;
  current.workspace_limit = all.workspace_limit;
  return current;
}

std::uint64_t options_version() { return options().version.load(std::memory_order_acquire); }

bool set_batch_invariant(bool on) { return exchange_option(&Options::batch_invariant, on); }

std::string set_forced_plan(const std::string& spec) {
  validate_force(spec);
  return exchange_option(&Options::force, spec);
}

std::int64_t set_workspace_limit(std::int64_t bytes) {
  const std::int64_t previous = exchange_option(&Options::workspace_limit, bytes);
  bound_scratch(bytes);
  if (bytes < previous) free_scratch();
  return previous;
}

}  // namespace convext
