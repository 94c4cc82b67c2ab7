// The arithmetic of indices that kernels share: pure functions, tested on the host.
#pragma once

#include "conv_params.h"

namespace convext::cuda {

// ---- one axis of the forward map ----------------------------------------------------------------

// The index that output `o` reads through tap `t`, counted from the first real element; outside of
// [0, extent) it lies in the padding.
CONVEXT_HOST_DEVICE int virtual_index(int o, int t, int stride, int pad, int dilation) {
  return o * stride - pad + t * dilation;
}

// The element that a virtual index stands for, or -1 for a zero.
CONVEXT_HOST_DEVICE int source_index(PaddingMode mode, int v, int extent) {
  if (v >= 0 && v < extent) return v;
  switch (mode) {
    case PaddingMode::kZeros: return -1;
    case PaddingMode::kReflect: return v < 0 ? -v : 2 * (extent - 1) - v;
    case PaddingMode::kReplicate: return v < 0 ? 0 : extent - 1;
    case PaddingMode::kCircular: return v < 0 ? v + extent : v - extent;
  }
  return -1;
}

// The virtual indices that stand for element `h`: itself, and its copies in the padding.
CONVEXT_HOST_DEVICE int virtual_count(PaddingMode mode, int h, int extent, int before, int after) {
  switch (mode) {
    case PaddingMode::kZeros: return 1;
    case PaddingMode::kReflect:
      return 1 + (h >= 1 && h <= before) + (h <= extent - 2 && extent - 1 - h <= after);
    case PaddingMode::kReplicate: return 1 + (h == 0 ? before : 0) + (h == extent - 1 ? after : 0);
    case PaddingMode::kCircular: return 1 + (extent - h <= before) + (h < after);
  }
  return 1;
}

// The i-th of them. The element itself is the first, copies before the image come next.
CONVEXT_HOST_DEVICE int nth_virtual(PaddingMode mode, int h, int extent, int before, int i) {
  if (i == 0) return h;
  switch (mode) {
    case PaddingMode::kZeros: return h;
    case PaddingMode::kReflect: return i == 1 && h >= 1 && h <= before ? -h : 2 * (extent - 1) - h;
    case PaddingMode::kReplicate:
      if (h == 0 && i <= before) return -i;
      return extent - 1 + i - (h == 0 ? before : 0);
    case PaddingMode::kCircular: return i == 1 && extent - h <= before ? h - extent : h + extent;
  }
  return h;
}

// The output that reads virtual index v through a tap, or -1.
CONVEXT_HOST_DEVICE int output_index(int v, int t, int stride, int pad, int dilation, int outputs) {
  const int at = v + pad - t * dilation;
  if (at < 0 || at % stride != 0) return -1;
  return at / stride < outputs ? at / stride : -1;
}

// ---- one axis of input grad, by classes of the stride -------------------------------------------

// Input indices h = residue + i * stride, i < count, are reached through the same taps
// t = first_tap + j * tap_step, j < taps, and from outputs o = i + first_output - j * output_step,
// where tap_step = stride / gcd(stride, dilation) and output_step = dilation / gcd(stride,
// dilation). A class without taps receives nothing: its gradients are zeros, and must be written
// too.
struct AxisClass {
  int residue, count;
  int first_tap, taps;
  int first_output;
};

// Classes that have an input index.
CONVEXT_HOST_DEVICE int residues(int stride, int extent) {
  return stride < extent ? stride : extent;
}

CONVEXT_HOST_DEVICE AxisClass axis_class(int residue, int extent, int taps, int stride, int pad,
                                         int dilation, int tap_step) {
  AxisClass axis{};
  axis.residue = residue;
  axis.count = residue < extent ? (extent - residue + stride - 1) / stride : 0;
  for (int t = 0; t < tap_step && t < taps; ++t) {
    const int at = residue + pad - t * dilation;
    if (at % stride != 0) continue;
    axis.first_tap = t;
    axis.taps = (taps - t + tap_step - 1) / tap_step;
    axis.first_output = at / stride;
    break;
  }
  return axis;
}

// ---- pixels -------------------------------------------------------------------------------------

// Of an output, in the order n, p, q.
struct Pixel {
  int n, p, q;
};

CONVEXT_HOST_DEVICE Pixel pixel_at(std::int64_t index, const Divisor& by_P, const Divisor& by_Q) {
  const int q = by_Q.divide(&index), p = by_P.divide(&index);
  return {static_cast<int>(index), p, q};
}

// The pixel `by` places on; cheaper than pixel_at where `by` is not many rows.
CONVEXT_HOST_DEVICE void advance(Pixel* pixel, int by, int P, int Q) {
  pixel->q += by;
  while (pixel->q >= Q) {
    pixel->q -= Q;
    if (++pixel->p == P) {
      pixel->p = 0;
      ++pixel->n;
    }
  }
}

// Pixels of the input that are a class: in each image [rows.count][columns.count].
struct ClassPixels {
  AxisClass rows, columns;

  CONVEXT_HOST_DEVICE std::int64_t in_image() const {
    return static_cast<std::int64_t>(rows.count) * columns.count;
  }
  CONVEXT_HOST_DEVICE Pixel at(const ConvParams& v, std::int64_t index) const {
    return pixel_at(index, v.class_rows[rows.count != v.class_rows[0].d],
                    v.class_columns[columns.count != v.class_columns[0].d]);
  }
};

CONVEXT_HOST_DEVICE std::int64_t offset_of(const Strides& s, int n, int c, int h, int w) {
  return n * s.n + c * s.c + h * s.h + w * s.w;
}

// Of a: on the device b is a constant.
CONVEXT_HOST_DEVICE std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// ---- the depth of a product ---------------------------------------------------------------------

// Walks the depth of fprop and dgrad: taps, and `slice` channels of each at a time.
struct TapWalk {
  int taps_across, channels, slice;
  int r = 0, s = 0, c = 0;  // numbers of the tap, first channel

  CONVEXT_HOST_DEVICE void next() {
    c += slice;
    if (c < channels) return;
    c = 0;
    if (++s < taps_across) return;
    s = 0;
    ++r;
  }
};

// j / channels, for j below 2**14 and few channels.
CONVEXT_HOST_DEVICE int few_quotient(int j, int channels) {
  return channels == 3 ? j * 21846 >> 16 : j >> (channels >> 1);
}

// ---- shared memory without bank conflicts -------------------------------------------------------

// Where 16-byte chunk `chunk` of a row of 64 bytes lies: two rows fill the banks.
CONVEXT_HOST_DEVICE int depth_row_offset(int row, int chunk) {
  return row * 64 + ((chunk ^ (row >> 1 & 3)) << 4);
}

// The same where a row is a depth, of `bytes`. Eight depths of one chunk, which ldmatrix reads of
// 16-bit elements, meet all banks; and four depths of two chunks, which 32-bit loads do.
CONVEXT_HOST_DEVICE int lane_row_offset(int depth, int chunk, int bytes, int element_bytes) {
  const int key = element_bytes == 2 ? depth & 7 : depth << 1 & 6;
  return depth * bytes + ((chunk ^ key) << 4);
}

// ---- what a CTA works on ------------------------------------------------------------------------

// Its place among `count` along the fastest of the dimensions that a grid's one dimension holds;
// `rest` becomes its place in the others.
CONVEXT_HOST_DEVICE int take(unsigned* rest, int count) {
  const unsigned place = *rest % static_cast<unsigned>(count);
  *rest /= static_cast<unsigned>(count);
  return static_cast<int>(place);
}

// Blocks of `size`, a constant, that cover a positive extent.
CONVEXT_HOST_DEVICE int block_count(int extent, int size) { return (extent - 1) / size + 1; }

}  // namespace convext::cuda
