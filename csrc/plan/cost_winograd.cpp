// Costs of the Winograd kernels (cpu/run_winograd.cpp, cpu/run_winograd_wgrad.cpp).
#include "cost_terms.h"
#include "winograd_shape.h"

namespace convext {

namespace {

// Each pixel class of a dilation has tiles of its own; the first classes may be longer by one.
std::int64_t axis_tiles(const ConvPlan& plan, std::int64_t extent, std::int64_t step,
                        std::int64_t pad) {
  const std::int64_t longer = extent % step, shorter = step - longer;
  return longer * winograd_axis_tiles(plan, extent / step + 1, step, pad) +
         shorter * winograd_axis_tiles(plan, extent / step, step, pad);
}

}  // namespace

std::int64_t winograd_tiles_across(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return axis_tiles(plan, plan.pass == Pass::kDgrad ? p.W : p.Q, p.dilation_w, p.pad_left);
}

std::int64_t winograd_tiles(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  return p.N * axis_tiles(plan, plan.pass == Pass::kDgrad ? p.H : p.P, p.dilation_h, p.pad_top) *
         winograd_tiles_across(plan);
}

Cost cost_winograd(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const bool forward = plan.pass == Pass::kFprop;
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const WinogradShape shape = winograd_shape(plan);
  const double points = shape.points * shape.points, filters = shape.filters * shape.filters;
  const std::int64_t out = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  const auto tiles = static_cast<double>(winograd_tiles(plan));
  const double out_vectors = static_cast<double>(p.groups * ceil_div(out, lanes));
  const double in_vectors = static_cast<double>(ceil_div(p.groups * depth, lanes));
  Cost cost;
  cost.multiply = points * tiles / plan.kernel->mr * static_cast<double>(depth) *
                  tile_cycles(out_vectors / vectors, plan.kernel->mr, vectors);
  // Cycles for each vector that a transform moves, and for a register tile's start and end. The
  // transformed weight is written, read back, and read again for each further block of tiles, from
  // beyond the second-level cache.
  const double transform_cycles = shape.filters == 6 ? 7 : 3;
  constexpr double kSumsCycles = 40, kFilterByteCycles = 0.6, kPanelByteCycles = 0.1;
  const double near_filter_byte_cycles = shape.stride == 1 ? 0.15 : 0.25;  // beside more tiles
  const double blocks = tiles / static_cast<double>(plan.pixel_block);
  const double filter_bytes = filters * static_cast<double>(p.groups * depth) *
                              round_up(out, plan.kernel->nr) * (p.dtype == DType::kFloat64 ? 8 : 4);
  cost.move = points * transform_cycles * tiles * (in_vectors + out_vectors) +
              points * tiles / plan.kernel->mr * out_vectors / vectors * kSumsCycles +
              weight_elements(p) * kTransposeCycles +
              // Each share of the groups has its rows packed anew.
              layout_cycles(p, forward ? input_elements(p) : output_elements(p)) *
                  static_cast<double>(ceil_div(p.groups * depth, plan.channel_block)) +
              layout_cycles(p, forward ? output_elements(p) : input_elements(p));
  cost.memory = stream_tensors(p) +
                filter_bytes * (plan.few_tiles ? near_filter_byte_cycles : kFilterByteCycles) +
                (blocks > 1 ? (blocks - 1) * filter_bytes * kPanelByteCycles : 0);
  return cost;
}

Cost cost_winograd_wgrad(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const int vectors = plan.kernel->vectors, lanes = lanes_of(*plan.kernel, vectors);
  const WinogradShape shape = winograd_shape(plan);
  const double points = shape.points * shape.points, filters = shape.filters * shape.filters;
  const std::int64_t tiles = winograd_tiles(plan);
  const double blocks = static_cast<double>(ceil_div(tiles, plan.pixel_block));
  const double parts = static_cast<double>(ceil_div(p.K, plan.output_block));
  const auto c_vectors = static_cast<double>(ceil_div(p.C, lanes));
  const double register_tiles = ceil_div(p.K, plan.kernel->mr) * c_vectors / vectors;
  Cost cost;
  cost.multiply =
      points * tile_cycles(static_cast<double>(tiles) * register_tiles, plan.kernel->mr, vectors);
  constexpr double kTransformCycles = 6;  // a vector of a point, or one channel past the last
  constexpr double kSumCycles = 3;        // a vector of sums, to or from beyond the near caches
  const auto vectors_of = [lanes](std::int64_t channels) {
    return static_cast<double>(channels / lanes + channels % lanes);
  };
  const double sums = filters * static_cast<double>(p.K) * c_vectors;
  cost.move = points * kTransformCycles * static_cast<double>(tiles) *
                  ((blocks > 1 ? parts : 1) * vectors_of(p.C) + vectors_of(p.K)) +
              filters * blocks * register_tiles * kTileCycles * 2 + blocks * sums * kSumCycles * 2 +
              sums * kTransformCycles + layout_cycles(p, input_elements(p)) +
              layout_cycles(p, output_elements(p)) + weight_elements(p) * kCopyCycles;
  cost.memory = stream_tensors(p);
  return cost;
}

}  // namespace convext
