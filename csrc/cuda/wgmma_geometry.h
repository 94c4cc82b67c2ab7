// Which pixels, taps and channels a tile of the wgmma rungs multiplies, and in which order: pure
// functions, the same on host and device.
//
// fprop and dgrad are one sum. A result's pixel i of an axis reads, through the j-th of its taps,
// index start + i * step + offset + j * offset_step of the operand: the input (fprop), or the
// output's gradient for the pixels of a class of the stride (dgrad: AxisClass of index_math.h).
// Those are the terms in which hardware walks pixels: a box of base pixels, `start` its first and
// `step` its stride, and an offset, never negative, that is added to all of a copy.
#pragma once

#include "index_math.cuh"

namespace convext::cuda {

struct TapAxis {
  int count = 1;  // pixels
  Divisor by_count;
  int start = 0, step = 1;
  int taps = 1, first_tap = 0, tap_step = 1;
  int offset = 0, offset_step = 0;
  // Pixel i is row (column) residue + i * result_step of the result.
  int residue = 0, result_step = 1;
};

inline TapAxis fprop_axis(int outputs, int taps, int stride, int pad, int dilation) {
  TapAxis axis;
  axis.count = outputs;
  axis.by_count = Divisor(outputs);
  axis.start = -pad;
  axis.step = stride;
  axis.taps = taps;
  axis.offset_step = dilation;
  return axis;
}

// Outputs lie at first_output - j * output_step from a pixel's number: the last tap's is the least.
inline TapAxis dgrad_axis(const AxisClass& of, int tap_step, int output_step, int stride) {
  TapAxis axis;
  axis.count = of.count;
  axis.by_count = Divisor(of.count);
  axis.taps = of.taps;
  axis.first_tap = of.first_tap;
  axis.tap_step = tap_step;
  axis.offset = of.taps > 0 ? (of.taps - 1) * output_step : 0;
  axis.offset_step = -output_step;
  axis.start = of.taps > 0 ? of.first_output - axis.offset : 0;
  axis.residue = of.residue;
  axis.result_step = stride;
  return axis;
}

// Pixels of the result that are reached through the same taps.
struct TapClass {
  TapAxis rows, columns;
  bool matrix = false;          // the pixels that are read are all of their tensor's, evenly spaced
  std::int64_t first_item = 0;  // of the work, in the order in which it is done

  CONVEXT_HOST_DEVICE int taps() const { return rows.taps * columns.taps; }
  CONVEXT_HOST_DEVICE std::int64_t in_image() const {
    return static_cast<std::int64_t>(rows.count) * columns.count;
  }
  CONVEXT_HOST_DEVICE Pixel at(std::int64_t index) const {
    return pixel_at(index, rows.by_count, columns.by_count);
  }
};

// ---- the depth ----------------------------------------------------------------------------------

// A step of the main loop is 128 bytes of the depth: channels of one tap, or narrower slices of
// several taps where fewer channels would waste much of it.
inline constexpr int kStepBytes = 128;
template <class T>
inline constexpr int kStepDepth = kStepBytes / static_cast<int>(sizeof(T));

// 128, 64 or 32 bytes of channels, by their number alone, in channels. A narrow slice takes more
// copies.
inline int slice_of(int channels, int element_bytes) {
  int best = 0;
  double least = 0;
  for (int bytes = kStepBytes, penalty = 100; bytes >= 32; bytes /= 2, penalty += 10) {
    const int slice = bytes / element_bytes;
    const double cost = static_cast<double>(ceil_div(channels, slice)) * slice * penalty;
    if (best != 0 && cost >= least) continue;
    best = slice;
    least = cost;
  }
  return best;
}

// At least one, of zeros where there are no taps: their pixels have gradients too.
CONVEXT_HOST_DEVICE int steps_of(int taps, int channels, int slice, int step_depth) {
  const int slices = taps * ((channels + slice - 1) / slice);
  return slices == 0 ? 1 : (slices * slice + step_depth - 1) / step_depth;
}

// ---- views --------------------------------------------------------------------------------------

// Elements from a pixel to the next where all pixels of a tensor are evenly spaced, else 0.
inline std::int64_t pixel_pitch(const Strides& s, int n, int h, int w) {
  const std::int64_t pitch = w > 1 ? s.w : h > 1 ? s.h : n > 1 ? s.n : 1;
  if (w > 1 && h > 1 && s.h != w * pitch) return 0;
  if (n > 1 && static_cast<std::int64_t>(h) * w > 1 && s.n != h * w * pitch) return 0;
  return pitch;
}

// A kernel whose columns are as many as its stride, without padding: the columns that an output
// reads are adjacent, and no other reads them. They are one pixel of so many times the channels.
inline bool folds(const ConvParams& v, Pass pass) {
  const bool apart = v.S > 1 && v.S == v.stride_w && v.dilation_w == 1 && v.pad_left == 0 &&
                     v.Q * v.S <= v.W && v.groups == 1;
  const bool adjacent = v.input.w == v.C && v.weight.w == v.C;
  // Columns beyond the last output's have a gradient too: zeros, which nobody would write.
  return apart && adjacent && (pass != Pass::kDgrad || v.Q * v.S == v.W);
}

inline ConvParams folded(ConvParams v) {
  const int columns = v.S;
  v.C *= columns;
  v.channels *= columns;
  v.W = v.Q;
  v.S = 1;
  v.stride_w = 1;
  v.pad_right = 0;
  v.input.w = v.W > 1 ? v.C : 0;
  v.weight.w = 0;
  v.by_C = v.by_channels = Divisor(v.C);
  v.by_S = Divisor(1);
  v.tap_step_w = v.output_step_w = 1;
  for (int fewer = 0; fewer < 2; ++fewer) v.class_columns[fewer] = Divisor(v.W - fewer);
  return v;
}

}  // namespace convext::cuda
