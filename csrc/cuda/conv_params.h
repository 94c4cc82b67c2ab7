// A problem as kernels take it, by value: extents that fit 31 bits each, and how tensors lie.
// Products of extents may not fit: pixels are counted and addresses computed in 64 bits.
#pragma once

#include <cstdint>

#include "../conv_problem.h"
#include "divisor.h"

namespace convext::cuda {

// In elements, of a tensor in NCHW index order; of a weight n is K, h and w are R and S.
struct Strides {
  std::int64_t n, c, h, w;
};

struct ConvParams {
  int N, C, H, W;
  int K, R, S;
  int P, Q;
  int pad_top, pad_bottom, pad_left, pad_right;
  int stride_h, stride_w;
  int dilation_h, dilation_w;
  int groups;
  int channels, outputs;  // of a group: C / groups, K / groups
  PaddingMode padding_mode;
  bool aligned;  // every tensor begins at a multiple of 16 bytes
  Strides input, weight, output;
  Divisor by_C, by_K, by_channels, by_R, by_S, by_P, by_Q;
  // Rows and columns of the input in a class of the stride (index_math.cuh): ceil(extent / stride),
  // and one fewer.
  Divisor class_rows[2], class_columns[2];
  // From a tap of a class to the next: taps, and outputs.
  int tap_step_h, tap_step_w, output_step_h, output_step_w;
};

}  // namespace convext::cuda
