// How weight grad by outer products cuts its work, and where operands and sums lie: what all
// workers of run_outer.cpp share.
#pragma once

#include <utility>
#include <vector>

#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"

namespace convext {

// How the kernel finds the gradient.
enum class OuterGrad {
  kPlanes,        // in the tensor, a channel's pixels adjacent
  kPixels,        // in the tensor, a pixel's channels adjacent
  kPackedTiles,   // packed [tile of mr channels][pixel][mr]
  kPackedPlanes,  // packed [channel][pixel]
};

template <class T>
struct OuterLayout {
  OuterLayout(const ConvPlan& plan, const ConvTensors& t)
      : kernels(compute_kernels<T>(plan.kernel->isa)),
        p(plan.problem),
        mr(plan.kernel->mr),
        nr(plan.kernel->nr),
        splits(plan.splits),
        x(t.input),
        grad(t.output),
        weight(t.weight),
        merged(plan.merged_columns),
        block_pixels(plan.pixel_block) {
    if (plan.swapped) {
      std::swap(x, grad);
      std::swap(p.C, p.K);
      std::swap(weight.stride[0], weight.stride[1]);
    }
    flatten();
    const bool column_lanes = take_columns_as_lanes();
    groups = p.groups;
    channels = p.channels_per_group();
    outputs = p.outputs_per_group();
    // Few channels: one kernel row's taps and channels, adjacent in a packed row, are the lanes.
    taps = merged ? p.R : p.taps();
    lanes = merged ? p.S * channels : channels;
    lane_blocks = ceil_div(lanes, nr);
    lane_chunk = merged || column_lanes ? lanes : plan.channel_block;
    lane_chunks = ceil_div(lanes, lane_chunk);
    row_chunk = plan.output_block;
    row_chunks = ceil_div(outputs, row_chunk);
    const bool padded = p.pad_top | p.pad_bottom | p.pad_left | p.pad_right;
    x_in_place = column_lanes ||
                 (channels_in_place<T>(x, channels) && channels % kernels.lanes == 0 && !merged &&
                  (!padded || p.padding_mode == PaddingMode::kZeros) && plan.read_in_place);
    choose_grad(plan.read_in_place);
    if (!flat && !column_lanes) {
      rows_map = forward_map_h(p);
      columns_map = forward_map_w(p);
    }
    make_strips();
    sum_in_place = splits == 1 && channels_in_place<T>(weight, channels) &&
                   lanes % kernels.lanes == 0 && !merged;
    store_at_once = plan.one_block && !sum_in_place;
  }

  // Sums lie as [split][group][tile of output channels][lane block][tap][mr][nr].
  std::int64_t group_elements() const {
    return ceil_div(outputs, mr) * lane_blocks * taps * mr * nr;
  }
  std::int64_t sum_offset(std::int64_t k, std::int64_t lane_block, std::int64_t tap) const {
    return (((k / mr * lane_blocks + lane_block) * taps + tap) * mr + k % mr) * nr;
  }

  std::int64_t strip_count() const { return p.N * p.P * strips_a_row; }
  std::int64_t pixels_of(std::int64_t strip) const {
    const std::int64_t q = strip % strips_a_row * strip_pixels;
    return p.Q - q < strip_pixels ? p.Q - q : strip_pixels;
  }

  struct Strip {
    std::int64_t q, pixels;       // of the output row
    std::int64_t packed_columns;  // of the input row
    std::vector<ColumnRun> runs;
  };

  const ComputeKernels<T>& kernels;
  ConvProblem p;
  std::int64_t mr, nr, splits;
  TensorView x, grad, weight;
  // merged: few channels, lanes are (s, channel). flat: an image or the batch is one row.
  bool merged, flat = false, x_in_place = false, sum_in_place = false;
  bool store_at_once = false;  // each tile of rows when all its taps are summed
  OuterGrad how = OuterGrad::kPackedPlanes;
  AxisMap rows_map, columns_map;
  std::int64_t groups = 1, channels = 0, outputs = 0, taps = 1, lanes = 0, lane_blocks = 0;
  std::int64_t lane_chunk = 0, lane_chunks = 0, row_chunk = 0, row_chunks = 0;
  std::int64_t block_pixels, strips_a_row = 1, strip_pixels = 0;
  bool shared = true;
  std::int64_t pixel_step = 1, tap_step = 1, most_columns = 0;
  std::vector<Strip> strips;

 private:
  void choose_grad(bool read_in_place) {
    const bool compute = grad.dtype == compute_dtype<T>();
    if (grad.stride[1] == 1 || outputs == 1) {
      how = compute && read_in_place ? OuterGrad::kPixels : OuterGrad::kPackedTiles;
    } else {
      how = compute && grad.stride[3] == 1 ? OuterGrad::kPlanes : OuterGrad::kPackedPlanes;
    }
  }

  // 1x1: an image, or the whole batch, is one long row where its memory is.
  void flatten() {
    if (p.taps() > 1 || p.stride_h > 1 || p.stride_w > 1 || p.pad_top || p.pad_bottom ||
        p.pad_left || p.pad_right) {
      return;
    }
    const auto long_rows = [&](const TensorView& v) {
      return p.H == 1 || v.stride[2] == p.W * v.stride[3];
    };
    if (p.W == 1) x.stride[3] = x.stride[2], grad.stride[3] = grad.stride[2];
    if (!long_rows(x) || !long_rows(grad)) return;
    flat = true;
    std::int64_t pixels = p.H * p.W;
    if (pixels == 1) {
      x.stride[3] = x.stride[0];
      grad.stride[3] = grad.stride[0];
    }
    if (p.N == 1 ||
        (x.stride[0] == pixels * x.stride[3] && grad.stride[0] == pixels * grad.stride[3])) {
      pixels *= p.N;
      p.N = 1;
    }
    p.H = p.P = 1;
    p.W = p.Q = pixels;
  }

  // Few channels that are planes, and no padding: where a kernel row is whole tiles of columns,
  // these are the lanes, read where they lie, and (channel, kernel row) are the taps. The weight
  // has them in that order too. As many sums as of merged lanes, in the same order.
  bool take_columns_as_lanes() {
    const auto planes_follow = [&](const TensorView& v, std::int64_t rows) {
      return p.C == 1 || v.stride[1] == rows * v.stride[2];
    };
    if (!merged || p.S % nr != 0 || p.pad_top || p.pad_bottom || p.pad_left || p.pad_right ||
        x.dtype != compute_dtype<T>() || x.stride[3] != 1 || !planes_follow(x, p.H) ||
        !planes_follow(weight, p.R)) {
      return false;
    }
    merged = false;
    const std::int64_t row_taps = p.C * p.R;
    rows_map.destinations = p.P;
    rows_map.taps = row_taps;
    rows_map.longest = 1;
    for (std::int64_t row = 0; row < p.P; ++row) {
      for (std::int64_t tap = 0; tap < row_taps; ++tap) {
        rows_map.start.push_back(row * row_taps + tap);
        rows_map.sources.push_back(tap / p.R * p.H + row * p.stride_h + tap % p.R * p.dilation_h);
      }
    }
    rows_map.start.push_back(p.P * row_taps);
    x.stride[1] = x.stride[3];
    weight.stride[1] = weight.stride[3];
    weight.stride[3] = weight.stride[2];
    p.C = p.S;
    p.R = row_taps;
    p.S = 1;
    return true;
  }

  // Where a packed row keeps the source column of (q, s). Overlapping taps share the padded row;
  // where taps would leave most of it unused (1x1 with a stride, wide dilation), each has a strip.
  void make_strips() {
    const bool whole = p.Q * 2 <= block_pixels * 3;
    strips_a_row = whole ? 1 : ceil_div(p.Q, block_pixels);
    strip_pixels = ceil_div(p.Q, strips_a_row);
    strips_a_row = ceil_div(p.Q, strip_pixels);
    const std::int64_t reach = (p.S - 1) * p.dilation_w + 1;
    shared = merged || (strip_pixels - 1) * p.stride_w + reach <= strip_pixels * p.S;
    pixel_step = shared ? p.stride_w : 1;
    tap_step = shared ? p.dilation_w : strip_pixels;
    most_columns = shared ? (strip_pixels - 1) * p.stride_w + reach : strip_pixels * p.S;
    if (flat || x_in_place) return;
    for (std::int64_t q0 = 0; q0 < p.Q; q0 += strip_pixels) {
      Strip strip;
      strip.q = q0;
      strip.pixels = p.Q - q0 < strip_pixels ? p.Q - q0 : strip_pixels;
      strip.packed_columns = most_columns - (strip_pixels - strip.pixels) * pixel_step;
      std::vector<std::int64_t> sources(strip.packed_columns, -1);
      for (std::int64_t i = 0; i < strip.pixels; ++i) {
        for (std::int64_t s = 0; s < p.S; ++s) {
          sources[i * pixel_step + s * tap_step] = columns_map.source(q0 + i, s);
        }
      }
      strip.runs = column_runs(sources);
      strips.push_back(std::move(strip));
    }
  }
};

}  // namespace convext
