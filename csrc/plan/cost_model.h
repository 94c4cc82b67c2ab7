// What a plan is expected to cost: three terms, in cycles of one core at its full clock, added up.
// They are small models, there to order the candidates of one problem, not to predict a time on a
// given day; docs and `convext bench` hold them against measurements.
#pragma once

#include "../conv_plan.h"

namespace convext {

// `plan` has its kernel and its blocking.
using KernelCost = Cost (*)(const ConvPlan& plan);

Cost cost_reference(const ConvPlan& plan);
Cost cost_indirect(const ConvPlan& plan);
Cost cost_indirect_pairs(const ConvPlan& plan);
Cost cost_direct(const ConvPlan& plan);
Cost cost_direct_planes(const ConvPlan& plan);
Cost cost_im2col(const ConvPlan& plan);
Cost cost_winograd(const ConvPlan& plan);
Cost cost_pointwise(const ConvPlan& plan);
Cost cost_dot(const ConvPlan& plan);
Cost cost_axpy(const ConvPlan& plan);
Cost cost_winograd_wgrad(const ConvPlan& plan);
std::int64_t winograd_tiles(const ConvPlan& plan);         // of all images
std::int64_t winograd_tiles_across(const ConvPlan& plan);  // of one row of tiles
Cost cost_depthwise(const ConvPlan& plan);
Cost cost_grouped(const ConvPlan& plan);
Cost cost_grouped_planes(const ConvPlan& plan);
Cost cost_outer(const ConvPlan& plan);
Cost cost_rowsum(const ConvPlan& plan);

// ---- the terms, for the costs of further kernels ------------------------------------------------

// Cycles of a register tile's main loop: `steps` times mr*vectors FMAs, of which two start a cycle,
// and mr+vectors loads, of which two are done a cycle.
double tile_cycles(double steps, int mr, int vectors);

// One step of a register tile of `rows` x `vectors`; with few sums, each waits for itself.
double step_cycles(double rows, double vectors);

// A step of planes through a destination row of `columns` and all its channels `rows`, in register
// tiles of mr channels and at most `budget` sums.
double planes_row_cycles(std::int64_t rows, std::int64_t columns, std::int64_t mr, int lanes,
                         std::int64_t budget);

// Cycles of moving `elements` between the tensor and packed memory.
constexpr double kCopyCycles = 0.25;         // an element that keeps its direction
constexpr double kTransposeCycles = 0.6;     // an element of a block transposed in registers
constexpr double kGatherCycles = 1.5;        // an element on its own
constexpr double kPackedWeightCycles = 1.5;  // a weight to its panel, and from there once
constexpr double kTileCycles = 20;           // a kernel call: its sums to zero and to memory
constexpr double kEntryCycles = 2;           // an entry of a tile that slides over rows

// Bytes that come from beyond the cache or go there.
double stream_cycles(double bytes);

}  // namespace convext
