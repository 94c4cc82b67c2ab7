// What the hardware's copies are told of tensors, taps and boxes, for the wgmma rungs. Host code.
#pragma once

#include <algorithm>
#include <vector>

#include "tensor_map.h"
#include "wgmma_geometry.h"

namespace convext::cuda {
namespace {

// A tensor of pixels with adjacent channels.
struct PixelTensor {
  const void* data;
  DType dtype;
  int images, channels, rows, columns;
  Strides strides;
  std::int64_t pixels() const { return static_cast<std::int64_t>(images) * rows * columns; }
};

// Whether the pixels that a class reads are all of the tensor's in order, evenly spaced: then a plain
// matrix describes them.
bool is_matrix(const PixelTensor& t, const TapClass& of) {
  const auto whole = [](const TapAxis& axis, int extent) {
    return axis.taps == 1 && axis.start == 0 && axis.step == 1 && axis.offset == 0 &&
           axis.count == extent;
  };
  return whole(of.rows, t.rows) && whole(of.columns, t.columns) &&
         pixel_pitch(t.strides, t.images, t.rows, t.columns) != 0;
}

MapSpec matrix_map(const PixelTensor& t, int channels, int pixels, int swizzle) {
  const std::int64_t element = bytes_of(t.dtype);
  MapSpec spec;
  spec.base = t.data;
  spec.dtype = t.dtype;
  spec.rank = 2;
  spec.size[0] = t.channels;
  spec.size[1] = t.pixels();
  // The one pixel of a tensor may have any stride.
  spec.stride[1] = t.pixels() > 1 ? pixel_pitch(t.strides, t.images, t.rows, t.columns) * element
                                  : t.channels * element;
  spec.swizzle = swizzle;
  spec.box[0] = channels;
  spec.box[1] = pixels;
  return spec;
}

// `pixels` pixels of a class, in the order of the result's, and `channels` channels of each.
MapSpec pixel_map(const PixelTensor& t, const TapClass& of, int channels, int pixels) {
  const std::int64_t element = bytes_of(t.dtype);
  if (is_matrix(t, of)) {
    return matrix_map(t, channels, pixels, channels * static_cast<int>(element));
  }
  MapSpec spec;
  spec.base = t.data;
  spec.dtype = t.dtype;
  spec.rank = 4;
  spec.im2col = true;
  spec.size[0] = t.channels;
  spec.size[1] = t.columns;
  spec.size[2] = t.rows;
  spec.size[3] = t.images;
  const std::int64_t strides[4] = {1, t.strides.w, t.strides.h, t.strides.n};
  for (int i = 1; i < 4; ++i) {
    spec.stride[i] =
        spec.size[i] > 1
            ? strides[i] * element
            : std::max<std::int64_t>(spec.stride[i - 1] * spec.size[i - 1], t.channels * element);
  }
  const TapAxis* const axes[2] = {&of.columns, &of.rows};
  for (int i = 0; i < 2; ++i) {
    const TapAxis& axis = *axes[i];
    spec.lower[i] = axis.start;
    // The box ends with the last pixel's.
    spec.upper[i] =
        axis.start + (axis.count - 1) * axis.step - (static_cast<int>(spec.size[i + 1]) - 1);
    spec.step[i] = axis.step;
  }
  spec.channels = channels;
  spec.pixels = pixels;
  spec.swizzle = channels * static_cast<int>(element);
  return spec;
}

// [rows][taps][depth or lanes, adjacent]
struct WeightTensor {
  const void* data;
  DType dtype;
  std::int64_t adjacent, taps, rows;
  std::int64_t tap_stride, row_stride;
};

MapSpec weight_map(const WeightTensor& t, int adjacent, int rows) {
  const std::int64_t element = bytes_of(t.dtype);
  MapSpec spec;
  spec.base = t.data;
  spec.dtype = t.dtype;
  spec.rank = 3;
  spec.size[0] = t.adjacent;
  spec.size[1] = t.taps;
  spec.size[2] = t.rows;
  // One tap, or one row, may have any stride.
  spec.stride[1] = (t.taps > 1 ? t.tap_stride : t.adjacent) * element;
  spec.stride[2] = (t.rows > 1 ? t.row_stride : t.adjacent * t.taps) * element;
  spec.box[0] = adjacent;
  spec.box[2] = rows;
  spec.swizzle = adjacent * static_cast<int>(element);
  return spec;
}

WeightTensor weight_of(const ConvParams& v, DType dtype, const void* data) {
  return {data,       dtype,
          v.channels, static_cast<std::int64_t>(v.R) * v.S,
          v.K,        v.S > 1 ? v.weight.w : v.weight.h,
          v.weight.n};
}

// TF32 is multiplied with the depth adjacent in both operands: input gradients' is the outputs.
WeightTensor transposed_weight(const ConvParams& v, DType dtype, const void* data) {
  const std::int64_t taps = static_cast<std::int64_t>(v.R) * v.S;
  return {data, dtype, v.K, taps, v.channels, v.K, taps * v.K};
}

PixelTensor input_of(const ConvParams& v, DType dtype, const void* data) {
  return {data, dtype, v.N, v.C, v.H, v.W, v.input};
}
PixelTensor output_of(const ConvParams& v, DType dtype, const void* data) {
  return {data, dtype, v.N, v.K, v.P, v.Q, v.output};
}

TapClass fprop_class(const ConvParams& v) {
  TapClass all;
  all.rows = fprop_axis(v.P, v.R, v.stride_h, v.pad_top, v.dilation_h);
  all.columns = fprop_axis(v.Q, v.S, v.stride_w, v.pad_left, v.dilation_w);
  return all;
}

// An output's own pixels, as wgrad reads them.
TapClass output_pixels(const ConvParams& v) {
  TapClass each;
  each.rows = fprop_axis(v.P, 1, 1, 0, 1);
  each.columns = fprop_axis(v.Q, 1, 1, 0, 1);
  return each;
}

// Those of the most taps first, so that the last tiles are short.
std::vector<TapClass> dgrad_classes(const ConvParams& v) {
  std::vector<TapClass> classes;
  for (int h = 0; h < residues(v.stride_h, v.H); ++h) {
    for (int w = 0; w < residues(v.stride_w, v.W); ++w) {
      TapClass one;
      one.rows =
          dgrad_axis(axis_class(h, v.H, v.R, v.stride_h, v.pad_top, v.dilation_h, v.tap_step_h),
                     v.tap_step_h, v.output_step_h, v.stride_h);
      one.columns =
          dgrad_axis(axis_class(w, v.W, v.S, v.stride_w, v.pad_left, v.dilation_w, v.tap_step_w),
                     v.tap_step_w, v.output_step_w, v.stride_w);
      classes.push_back(one);
    }
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const TapClass& a, const TapClass& b) { return a.taps() > b.taps(); });
  // Without taps, only zeros are read: from anywhere that the first class may read.
  for (TapClass& of : classes) {
    if (of.taps() > 0) continue;
    for (auto axis : {&TapClass::rows, &TapClass::columns}) {
      (of.*axis).taps = 0;
      (of.*axis).start = (classes[0].*axis).start;
      (of.*axis).step = (of.*axis).offset = 0;
    }
  }
  return classes;
}

std::vector<TapClass> classes_of(const ConvParams& v, Pass pass) {
  return pass == Pass::kFprop ? std::vector<TapClass>{fprop_class(v)} : dgrad_classes(v);
}

}  // namespace
}  // namespace convext::cuda
