#include "cost_model.h"

#include "../int_math.h"
#include "cost_terms.h"

namespace convext {
namespace {

// The indirect kernels skip a tap where all pixels of a tile find it in the padding: rows of it,
// and columns where a dilation leaves as many as a tile is wide.
double live_taps(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  if (p.padding_mode != PaddingMode::kZeros || p.P * p.Q == 0) return 1;
  double share = 1;
  if (p.Q >= 2 * plan.kernel->mr) {
    share *= live_share(p.P, p.R, p.stride_h, p.dilation_h, p.pad_top, p.H);
    if (p.dilation_w >= plan.kernel->mr) {
      share *= live_share(p.Q, p.S, p.stride_w, p.dilation_w, p.pad_left, p.W);
    }
  }
  return share;
}

}  // namespace

double tile_cycles(double steps, int mr, int vectors) {
  const double fma = 0.5 * mr * vectors, loads = 0.5 * (mr + vectors);
  return steps * (fma > loads ? fma : loads);
}

double stream_cycles(double bytes) { return bytes / 8; }

Cost cost_reference(const ConvPlan& plan) {
  // One scalar multiplication at a time, with its index arithmetic.
  Cost cost;
  cost.multiply = 10 * pixel_taps(plan) * plan.problem.channels_per_group() * plan.problem.K;
  return cost;
}

Cost cost_indirect(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const bool forward = plan.pass == Pass::kFprop;
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const std::int64_t out = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  // Vectors of lanes a group, in whole panels and one narrower one.
  const double vector_count = static_cast<double>(p.groups * ceil_div(out, lanes));
  Cost cost;
  cost.multiply = pixel_taps(plan) * live_taps(plan) * depth / plan.kernel->mr *
                  tile_cycles(vector_count / vectors, plan.kernel->mr, vectors);
  const double pixels = static_cast<double>(p.N) * (forward ? p.P * p.Q : p.H * p.W);
  const double tiles = pixels / plan.kernel->mr * p.groups * ceil_div(out, plan.kernel->nr);
  const double entries = pixel_taps(plan) / (plan.merged_columns ? p.S : 1);
  constexpr double kTablePixelCycles = 60, kTableEntryCycles = 5;
  cost.move = tiles * kTileCycles + pixels * kTablePixelCycles + entries * kTableEntryCycles +
              weight_elements(p) * kPackedWeightCycles + layout_cycles(p, input_elements(p)) +
              layout_cycles(p, output_elements(p));
  cost.memory = stream_tensors(p);
  return cost;
}

// Not measured on any machine yet. An instruction multiplies twice as many terms as an FMA does,
// and pixels of adjacent channels are read where they lie.
Cost cost_indirect_pairs(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  Cost cost = cost_indirect(plan);
  cost.multiply /= 2;
  if (p.input_layout == Layout::kChannelsLast && !plan.merged_columns) {
    const bool forward = plan.pass == Pass::kFprop;
    cost.move -= layout_cycles(p, forward ? input_elements(p) : output_elements(p));
  }
  return cost;
}

double step_cycles(double rows, double vectors) {
  constexpr double kLatency = 4;
  const double fma = 0.5 * rows * vectors, loads = 0.5 * (rows + vectors);
  const double busy = fma > loads ? fma : loads;
  return busy > kLatency ? busy : kLatency;
}

double planes_row_cycles(std::int64_t rows, std::int64_t columns, std::int64_t mr, int lanes,
                         std::int64_t budget) {
  const auto tile_row = [&](std::int64_t m) {
    const std::int64_t most = budget / m < 4 ? budget / m : 4;
    const std::int64_t vectors = ceil_div(columns, lanes), tiles = ceil_div(vectors, most);
    return static_cast<double>(tiles) *
           step_cycles(static_cast<double>(m), static_cast<double>(vectors) / tiles);
  };
  return static_cast<double>(rows / mr) * tile_row(mr) + (rows % mr ? tile_row(rows % mr) : 0);
}

namespace {

constexpr double kL1Bytes = 32 << 10;

// What the kernels that slide over rows have in common.
struct Rows {
  std::int64_t out, depth;        // channels of a group: of the destination, of the source
  std::int64_t classes, columns;  // of a destination row, and columns of each class
  double rows;                    // of the destination, of all images

  explicit Rows(const ConvPlan& plan) {
    const ConvProblem& p = plan.problem;
    const bool forward = plan.pass == Pass::kFprop;
    out = forward ? p.outputs_per_group() : p.channels_per_group();
    depth = forward ? p.channels_per_group() : p.outputs_per_group();
    classes = forward ? 1 : p.stride_w < p.W ? p.stride_w : p.W;
    columns = forward ? p.Q : ceil_div(p.W, classes);
    rows = static_cast<double>(p.N) * (forward ? p.P : p.H);
  }
};

// Bringing `elements` of an activation to rows of pixels or of planes, or back.
double rows_layout_cycles(const ConvProblem& p, double elements, std::int64_t channels,
                          std::int64_t width, bool planes) {
  const bool lie_so = p.input_layout == (planes ? Layout::kContiguous : Layout::kChannelsLast);
  if (lie_so) return elements * kCopyCycles;
  constexpr std::int64_t kShortRow = 32;  // which transposes badly
  const bool gather = p.input_layout == Layout::kStrided || channels < 8 || width < kShortRow;
  return elements * (gather ? kGatherCycles : kTransposeCycles);
}

double rows_layout_cycles(const ConvProblem& p, bool planes) {
  return rows_layout_cycles(p, input_elements(p), p.C, p.W, planes) +
         rows_layout_cycles(p, output_elements(p), p.K, p.Q, planes);
}

}  // namespace

Cost cost_direct(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const Rows r(plan);
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const double row_tiles = static_cast<double>(ceil_div(r.columns, plan.kernel->mr));
  const double mr = static_cast<double>(r.columns) / row_tiles;
  double tile_step = 0;  // one step through all lanes of a group
  for (std::int64_t left = r.out; left > 0; left -= plan.kernel->nr) {
    const std::int64_t width = left < plan.kernel->nr ? left : plan.kernel->nr;
    tile_step += step_cycles(mr, static_cast<double>(ceil_div(width, lanes)));
  }
  const double blocks = static_cast<double>(p.groups * ceil_div(r.out, plan.kernel->nr));
  const double panel = static_cast<double>(p.taps() * r.depth * plan.kernel->nr * 4);
  // Narrow tiles read a panel that exceeds the first-level cache too often.
  if (panel > kL1Bytes) tile_step += 0.5 * blocks / static_cast<double>(p.groups);
  const double tiles = r.rows * row_tiles * static_cast<double>(r.classes) * blocks;
  const bool merged = p.groups == 1 && p.dilation_w == 1;
  const double taps = static_cast<double>(merged ? p.R : p.taps());
  const double entries =
      plan.pass == Pass::kFprop ? taps : taps / (p.stride_h * (merged ? 1 : p.stride_w));
  Cost cost;
  cost.multiply = pixel_taps(plan) * static_cast<double>(r.depth * p.groups) / mr * tile_step;
  cost.move = tiles * (kTileCycles + entries * kEntryCycles) +
              weight_elements(p) * kPackedWeightCycles + rows_layout_cycles(p, false);
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_direct_planes(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const Rows r(plan);
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const std::int64_t budget = plan.kernel->mr * plan.kernel->vectors;
  // Planes lie apart: every step of a deep sum reads other lines, most of them across two.
  const double apart = r.depth > 8 ? 1.2 : 1.05;
  const double row_step =
      planes_row_cycles(r.out, r.columns, plan.tile_rows, lanes, budget) * apart;
  const double tiles = r.rows * static_cast<double>(r.classes * p.groups) *
                       static_cast<double>(ceil_div(r.out, plan.tile_rows)) *
                       static_cast<double>(ceil_div(r.columns, lanes * 3));
  const double taps = static_cast<double>(p.taps() * (r.depth <= 4 ? r.depth : 1));
  const double entries = plan.pass == Pass::kFprop ? taps : taps / (p.stride_h * p.stride_w);
  Cost cost;
  cost.multiply = pixel_taps(plan) / static_cast<double>(r.columns) * row_step *
                  static_cast<double>(r.depth * p.groups);
  cost.move = tiles * (kTileCycles + entries * kEntryCycles) +
              weight_elements(p) * kPackedWeightCycles + rows_layout_cycles(p, true) +
              (p.stride_w > 1 ? input_elements(p) * (p.stride_w == 2 ? 2 : 4) * kCopyCycles : 0);
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_im2col(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const double pixel_vectors = static_cast<double>(p.N) * ceil_div(p.P * p.Q, lanes);
  const double depth = static_cast<double>(p.channels_per_group() * p.taps());
  Cost cost;
  cost.multiply =
      tile_cycles(pixel_vectors / vectors * ceil_div(p.outputs_per_group(), plan.kernel->mr) *
                      static_cast<double>(p.groups) * depth,
                  plan.kernel->mr, vectors);
  const bool adjacent = p.stride_w == 1;
  // Each panel copies a short piece of a row for every tap, from all channels.
  const bool whole = adjacent && p.taps() == 1;
  const double piece = whole ? 0 : adjacent ? 300 : 500;
  const double copy = whole ? kCopyCycles : adjacent ? kGatherCycles : 3 * kGatherCycles;
  cost.move = pixel_vectors * lanes * depth * static_cast<double>(p.groups) * copy +
              pixel_vectors / vectors * static_cast<double>(p.groups * p.taps()) * piece +
              pixel_vectors / vectors * ceil_div(p.K, plan.kernel->mr) * kTileCycles +
              (is_compute_type(p.dtype) ? 0 : weight_elements(p) * kCopyCycles);
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_pointwise(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const bool forward = plan.pass == Pass::kFprop;
  const bool planar = p.input_layout != Layout::kChannelsLast;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const std::int64_t outputs = forward ? p.K : p.C, depth = forward ? p.C : p.K;
  const double pixels = static_cast<double>(p.N) * p.P * p.Q;
  // One of pixels and outputs is in vectors.
  const double vectors = planar ? static_cast<double>(p.N) * ceil_div(p.P * p.Q, lanes) * outputs
                                : pixels * ceil_div(outputs, lanes);
  const int sums = plan.kernel->mr * plan.kernel->vectors;
  Cost cost;
  cost.multiply = vectors / sums *
                  tile_cycles(static_cast<double>(depth), plan.kernel->mr, plan.kernel->vectors);
  const bool gathered = p.P != p.H || p.Q != p.W || !is_compute_type(p.dtype);
  const double gather = pixels * (planar && p.stride_w > 1 ? kGatherCycles : kCopyCycles);
  cost.move = vectors / sums * kTileCycles + (gathered ? gather * (outputs + depth) : 0) +
              weight_elements(p) * (planar == forward ? 0
                                    : planar          ? kCopyCycles
                                    : forward         ? kTransposeCycles
                                                      : kCopyCycles);
  cost.memory = stream_tensors(p);
  return cost;
}

namespace {

// Whether an image's pixels are gathered for each tap, or found where they are.
bool pixels_in_place(const ConvProblem& p) {
  return p.taps() == 1 && p.P == p.H && p.Q == p.W && is_compute_type(p.dtype) &&
         (p.input_layout == Layout::kChannelsLast || p.H * p.W == 1);
}

}  // namespace

Cost cost_dot(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const double pixels = static_cast<double>(p.N) * p.P * p.Q;
  const double steps = static_cast<double>(ceil_div(p.C * p.taps(), lanes));
  constexpr double kAddLanesCycles = 3;  // a result's share of adding up the lanes
  Cost cost;
  // Both operands stream from memory, without reuse beyond the tile.
  constexpr double kStreams = 1.2;
  cost.multiply =
      pixels / 3 * p.K / plan.kernel->mr * tile_cycles(steps, 3, plan.kernel->mr) * kStreams;
  cost.move =
      pixels * p.K * kAddLanesCycles +
      (pixels_in_place(p)
           ? 0
           : pixels * p.C * p.taps() *
                 (p.input_layout == Layout::kChannelsLast ? kCopyCycles : 2 * kGatherCycles));
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_axpy(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int lanes = lanes_of(*plan.kernel, plan.kernel->vectors);
  const double pixels = static_cast<double>(p.N) * p.P * p.Q;
  const double columns = static_cast<double>(p.C * p.taps());
  Cost cost;
  // Rows of weights are read in short pieces.
  constexpr double kShortPieces = 1.7;
  cost.multiply = pixels * p.K * static_cast<double>(ceil_div(p.C * p.taps(), lanes)) / 12 *
                  tile_cycles(1, 4, 3) * kShortPieces;
  // Products go to their places in the image a tap at a time.
  constexpr double kScatterCycles = 150;
  const double taps = static_cast<double>(p.taps());
  cost.move =
      (pixels_in_place(p) ? 0 : pixels * (columns * kGatherCycles + taps * kScatterCycles)) +
      (is_compute_type(p.dtype) ? 0 : weight_elements(p) * kCopyCycles);
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_outer(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const std::int64_t lane_count =
      plan.merged_columns ? p.S * p.channels_per_group() : p.channels_per_group();
  const double taps = static_cast<double>(plan.merged_columns ? p.R : p.taps());
  const double tiles = static_cast<double>(p.groups) *
                       ceil_div(p.outputs_per_group(), plan.kernel->mr) *
                       ceil_div(lane_count, lanes) / vectors;
  Cost cost;
  // Broadcasts of gradients that lie a row apart; merged lanes are few for each of them.
  const bool channels_last = p.input_layout == Layout::kChannelsLast;
  // Columns that are whole tiles are lanes where they lie.
  const bool column_lanes = plan.merged_columns && p.input_layout == Layout::kContiguous &&
                            is_compute_type(p.dtype) && p.S % plan.kernel->nr == 0 &&
                            p.pad_top + p.pad_bottom + p.pad_left + p.pad_right == 0;
  const double broadcasts = !plan.merged_columns || column_lanes ? 1.1 : channels_last ? 1.0 : 1.25;
  cost.multiply = broadcasts * tile_cycles(static_cast<double>(p.N) * p.P * p.Q * taps * tiles,
                                           plan.kernel->mr, vectors);
  const double blocks = static_cast<double>(ceil_div(p.N * p.P * p.Q, 256));
  const bool in_place = plan.read_in_place && channels_last && is_compute_type(p.dtype);
  cost.move =
      blocks * taps * tiles * kTileCycles * 2 + input_elements(p) * kCopyCycles +
      (column_lanes ? 0 : layout_cycles(p, input_elements(p))) +
      (p.input_layout == Layout::kContiguous || in_place ? 0
                                                         : output_elements(p) * kTransposeCycles) +
      (plan.one_block ? weight_elements(p) : static_cast<double>(plan.workspace_bytes) / 4) *
          kTransposeCycles;
  cost.memory = stream_tensors(p);
  return cost;
}

Cost cost_rowsum(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  Cost cost;
  cost.move = layout_cycles(p, output_elements(p));
  cost.memory = stream_cycles(output_elements(p) * static_cast<double>(bytes_of(p.dtype)));
  return cost;
}

}  // namespace convext
