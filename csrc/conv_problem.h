// The geometry of one convolution, validated once. Every other part of convext trusts it.
//
// output[n,k,p,q] = bias[k] + sum_{c,r,s} weight[k,c,r,s] * padded[n, c, p*stride_h + r*dilation_h,
//                                                                          q*stride_w +
//                                                                          s*dilation_w]
//
// with c running over the C/groups channels of k's group. `padded` is never built: AxisMap
// (axis_map.h) tells for each output index and tap which input index it reads.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "dtype.h"

namespace convext {

// How a tensor lies in memory. A dense tensor that is both (one channel, one pixel) counts as
// contiguous.
enum class Layout : std::uint8_t { kContiguous, kChannelsLast, kStrided };

enum class PaddingMode : std::uint8_t { kZeros, kReflect, kReplicate, kCircular };

// What a caller hands over, unchecked.
struct ConvArguments {
  std::vector<std::int64_t> input_size;   // N C H W
  std::vector<std::int64_t> weight_size;  // K C/groups R S
  std::vector<std::int64_t> stride;       // 2 values: height, width
  std::vector<std::int64_t> padding;   // 2 values (height, width) or 4 (left, right, top, bottom)
  std::vector<std::int64_t> dilation;  // 2 values: height, width
  std::int64_t groups = 1;
  std::string padding_mode = "zeros";
  DType dtype = DType::kFloat32;
  Layout input_layout = Layout::kContiguous;
  Layout weight_layout = Layout::kContiguous;
};

// What a convolution does, whatever the tensors: the operators' lists, checked for length only.
struct Geometry {
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  std::int64_t dilation_h = 1, dilation_w = 1;
  std::int64_t groups = 1;
  PaddingMode padding_mode = PaddingMode::kZeros;
};

using Size4 = std::array<std::int64_t, 4>;

struct ConvProblem {
  std::int64_t N = 0, C = 0, H = 0, W = 0;
  std::int64_t K = 0, R = 0, S = 0;
  std::int64_t P = 0, Q = 0;
  std::int64_t pad_top = 0, pad_bottom = 0, pad_left = 0, pad_right = 0;
  std::int64_t stride_h = 1, stride_w = 1;
  std::int64_t dilation_h = 1, dilation_w = 1;
  std::int64_t groups = 1;
  PaddingMode padding_mode = PaddingMode::kZeros;
  DType dtype = DType::kFloat32;
  Layout input_layout = Layout::kContiguous;
  Layout weight_layout = Layout::kContiguous;

  std::int64_t channels_per_group() const { return C / groups; }  // of the input
  std::int64_t outputs_per_group() const { return K / groups; }
  std::int64_t taps() const { return R * S; }
  // No arithmetic is left to do: an empty batch or, as in ATen, no input channels.
  bool is_empty() const { return N == 0 || C == 0 || K == 0; }
};

// Throws std::runtime_error, in torch's words where torch has words for it.
ConvProblem make_conv_problem(const ConvArguments& arguments);
ConvProblem make_conv_problem(const Size4& input_size, const Size4& weight_size,
                              const Geometry& geometry, DType dtype, Layout input_layout,
                              Layout weight_layout);

// Whether two problems are the same in every respect.
bool operator==(const ConvProblem& a, const ConvProblem& b);
std::size_t hash_of(const ConvProblem& problem);

// A geometry in one integer, which costs a call less than its lists; -1 for one that does not fit
// (a padding from 128, a stride or dilation from 32, groups from 4096).
std::int64_t pack_geometry(const Geometry& geometry);
Geometry unpack_geometry(std::int64_t packed);

// Throws std::runtime_error unless `bias_size` is [K].
void check_bias(const ConvProblem& problem, const std::vector<std::int64_t>& weight_size,
                const std::vector<std::int64_t>& bias_size);

Layout layout_of(const TensorView& view);
Layout parse_layout(const std::string& name);
const char* to_string(Layout layout);
PaddingMode parse_padding_mode(const std::string& name);
const char* to_string(PaddingMode mode);
const char* to_string(DType dtype);
std::string to_string(const ConvProblem& problem);
std::string format_sizes(const std::vector<std::int64_t>& sizes);  // "[2, 3, 5, 5]"

}  // namespace convext
