// The working memory that each kernel takes of scratch.h, at most, by shape and blocking: what the
// drivers (cpu/run_*.cpp) ask for, shared by all threads or by each for itself. Where the problem
// does not tell whether tensors are read or stored in place, this counts as if they were not.
#include "../int_math.h"
#include "blocking.h"
#include "cost_model.h"
#include "winograd_shape.h"

namespace convext {
namespace {

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
std::int64_t most(std::int64_t a, std::int64_t b) { return a > b ? a : b; }

// What most kernels want to know, seen from their pass.
struct Shape {
  const ConvProblem& p;
  bool forward;
  std::int64_t bytes;            // of an element of compute type
  std::int64_t mr, nr, vector;   // of the register tile, and lanes of one vector
  std::int64_t lanes, depth;     // destination and source channels of a group
  std::int64_t rows, columns;    // of the source
  std::int64_t width;            // of the destination
  std::int64_t source_channels;  // of all groups
  bool compute_type;             // storage is what the kernel computes in

  explicit Shape(const ConvPlan& plan)
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
    return 3 + most(p.pad_top, p.pad_bottom) / p.stride_h;
  }
  std::int64_t reach_w() const { return (p.S - 1) * p.dilation_w; }
};

// row_cache.h, plane_cache.h: as many rows as fit half a megabyte, or as one work item holds.
std::int64_t cached_rows_bytes(std::int64_t rows, std::int64_t row_bytes, std::int64_t item_rows) {
  return least(rows * row_bytes, most(512 << 10, item_rows * row_bytes));
}

// Columns of a source row that is packed with its padding in place (tap_classes.h).
std::int64_t padded_columns(const Shape& s) {
  const ConvProblem& p = s.p;
  if (s.forward) return (p.Q - 1) * p.stride_w + s.reach_w() + 1;
  const std::int64_t before = most(s.reach_w() - p.pad_left, 0) / p.stride_w;
  return before + (p.W - 1 + p.pad_left) / p.stride_w + 1;
}

// ---- fprop and dgrad ---------------------------------------------------------------------------

// Panels of weights, `depth` elements of compute type a lane and tap, and the bias.
std::int64_t panel_elements(const Shape& s, std::int64_t tile, std::int64_t depth) {
  return (s.p.taps() * depth + 1) * s.p.groups * round_up(s.lanes, tile) + 1;
}

// run_indirect: packed source rows, a tile of results, zeros; of pairs, merged taps of the weights.
std::int64_t thread_bytes_indirect(const ConvPlan& plan) {
  const Shape s(plan);
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
  const Shape s(plan);
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
  const Shape s(plan);
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
  const Shape s(plan);
  return (plan.pixel_block * s.depth * s.p.taps() + s.mr * s.nr) * s.bytes;
}

// run_strips: weights of all taps, for the lanes of all blocks, and the bias.
std::int64_t strip_weights(const ConvPlan& plan) {
  const Shape s(plan);
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
  const Shape s(plan);
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

// run_grouped_planes: packed planes of a group, results of four channels, whole padded planes of
// four where copies are folded; in weight grad packed gradients and the lanes' sums.
std::int64_t thread_bytes_planes(const ConvPlan& plan) {
  const Shape s(plan);
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

// Whether run_pointwise's rows are channels, where the problem tells.
bool surely_planar(const Shape& s) {
  return s.forward && s.p.input_layout == Layout::kContiguous && s.p.H * s.p.W > 1 && s.p.C > 1;
}

// run_pointwise: weights in panels of lanes or of rows, and the bias.
std::int64_t pointwise_weights(const Shape& s) {
  constexpr std::int64_t kRows = 24;
  const std::int64_t by_lanes = round_up(s.lanes, s.vector);
  const bool as_they_lie = s.compute_type && s.p.weight_layout == Layout::kContiguous;
  const std::int64_t by_rows = s.forward && as_they_lie ? 0 : round_up(s.lanes, kRows);
  const std::int64_t weights = surely_planar(s)      ? by_rows
                               : s.source_in_place() ? by_lanes
                                                     : most(by_lanes, by_rows);
  return weights * s.depth + by_lanes;
}

// Gathered pixels and a tile of results: rows of channels, or planes.
std::int64_t thread_bytes_pointwise(const ConvPlan& plan) {
  const Shape s(plan);
  constexpr std::int64_t kRows = 24, kMostDepth = 256;
  const bool strided = s.p.P != s.p.H || s.p.Q != s.p.W;
  const bool in_place = s.source_in_place() && !strided;
  const std::int64_t by_pixel = plan.pixel_block * ((in_place ? 0 : s.depth) + s.nr);
  const std::int64_t by_plane = (kMostDepth + round_up(s.lanes, kRows)) * s.nr;
  if (surely_planar(s)) return by_plane * s.bytes;
  const bool channels_last = s.forward && s.p.input_layout == Layout::kChannelsLast;
  return (channels_last ? by_pixel : most(by_pixel, by_plane)) * s.bytes;
}

// run_dot: gathered pixels and the bias are shared.
std::int64_t dot_elements(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return plan.pixel_block * p.C * p.taps() + p.K;
}

// A tile of results.
std::int64_t thread_bytes_dot(const ConvPlan& plan) {
  const Shape s(plan);
  const std::int64_t row_bytes = s.p.C * s.p.taps() * s.bytes;
  return plan.pixel_block * round_up(ceil_div(32 << 10, row_bytes), 8) * s.bytes;
}

// run_axpy: products of a work item's channels, converted weights, sums of one image.
std::int64_t thread_bytes_axpy(const ConvPlan& plan) {
  const Shape s(plan);
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

// ---- Winograd ----------------------------------------------------------------------------------

constexpr std::int64_t kPlanePadding = 16;
// The runs of a row's tiles, all as long as the longest.
std::int64_t winograd_run_tiles(const ConvPlan& plan, const Shape& s) {
  const std::int64_t step = s.p.dilation_w;
  const std::int64_t tiles = winograd_axis_tiles(plan, ceil_div(s.width, step), step, s.p.pad_left);
  const std::int64_t cuts = ceil_div(tiles, plan.pixel_block);
  return least(step, s.width) * cuts * ceil_div(tiles, cuts);
}

// run_winograd: packed source rows, a chunk of weights, points of a block of tiles and their sums,
// results on their way, zeros; with few tiles the transformed weights of a few panels.
std::int64_t thread_bytes_winograd(const ConvPlan& plan) {
  const Shape s(plan);
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
  const Shape s(plan);
  const std::int64_t side = winograd_shape(plan).filters;
  const std::int64_t bias = s.p.groups * round_up(s.lanes, s.vector);
  if (plan.few_tiles) return bias;
  return side * side * (s.p.groups * round_up(s.lanes, s.nr) * s.depth + kPlanePadding) + bias;
}

// run_winograd_wgrad: points of a block of tiles, and their sums.
std::int64_t winograd_wgrad_points(const ConvPlan& plan) {
  const Shape s(plan);
  const WinogradShape shape = winograd_shape(plan);
  const std::int64_t points = shape.points * shape.points, filters = shape.filters * shape.filters;
  constexpr std::int64_t kLong = 64;
  const std::int64_t lanes = round_up(s.p.C, s.nr), rows = round_up(plan.output_block, s.vector);
  const std::int64_t input = lanes + (lanes >= kLong ? s.nr : 0);
  const std::int64_t grad = rows + (rows >= kLong ? s.vector : 0);
  return points * (plan.pixel_block * (input + grad) + 2 * kPlanePadding) +
         filters * (plan.output_block * lanes + kPlanePadding);
}

// Packed rows of one of the two tensors, zeros, and the gradient of one output channel's weights.
std::int64_t thread_bytes_winograd_wgrad(const ConvPlan& plan) {
  const Shape s(plan);
  const ConvProblem& p = s.p;
  const WinogradShape shape = winograd_shape(plan);
  const std::int64_t outputs = least(plan.output_block, p.K);
  const std::int64_t input =
      s.input_in_place() ? 0 : cached_rows_bytes(p.H, p.W * p.C * s.bytes, shape.inputs);
  const std::int64_t grad = cached_rows_bytes(p.P, p.Q * outputs * s.bytes, shape.outputs);
  return most(input, grad) + (most(p.C, outputs) + 9 * round_up(p.C, s.nr)) * s.bytes;
}

// ---- other weight grad, and bias grad ----------------------------------------------------------

// run_outer: copies of the sums.
std::int64_t outer_sums(const ConvPlan& plan) {
  const Shape s(plan);
  const ConvProblem& p = s.p;
  const std::int64_t inputs = plan.swapped ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t rows = plan.swapped ? p.channels_per_group() : p.outputs_per_group();
  const std::int64_t lanes = plan.merged_columns ? p.S * inputs : inputs;
  const std::int64_t taps = plan.merged_columns ? p.R : p.taps();
  return plan.splits * p.groups * round_up(rows, s.mr) * round_up(lanes, s.nr) * taps;
}

// Packed rows of the input and of the gradient, for a block of pixels.
std::int64_t thread_bytes_outer(const ConvPlan& plan) {
  const Shape s(plan);
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
  return ((in_place ? 0 : strips * p.R * columns * lanes + s.nr) + grad) * s.bytes;
}

// run_depthwise_wgrad: copies of the sums.
std::int64_t depthwise_sums(const ConvPlan& plan) {
  const Shape s(plan);
  return plan.splits * s.p.taps() * s.p.channels_per_group() * round_up(s.p.K, s.vector);
}

// Packed ends of the input's rows, or whole ones, and rows of the gradient.
std::int64_t thread_bytes_depthwise_wgrad(const ConvPlan& plan) {
  const Shape s(plan);
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

// run_rowsum: packed pixels of the gradient.
std::int64_t thread_bytes_rowsum(const ConvPlan& plan) {
  const Shape s(plan);
  constexpr std::int64_t kPiece = 256;
  return least(s.p.Q, kPiece) * round_up(s.p.K, s.nr) * s.bytes;
}

}  // namespace

void set_workspace(ConvPlan* plan) {
  const Shape s(*plan);
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
      shared = weight_grad ? winograd_wgrad_points(*plan) : winograd_weights(*plan);
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
      shared = pointwise_weights(s);
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
