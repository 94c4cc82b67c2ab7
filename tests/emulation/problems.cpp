#include "problems.h"

#include <algorithm>
#include <stdexcept>

#include "half.h"
#include "reference/reference.h"

namespace convext_tests {
namespace {

using convext::ConvArguments;
using convext::ConvTensors;
using convext::PaddingMode;
using convext::TensorView;

int pick(std::mt19937* random, int low, int high) {
  return std::uniform_int_distribution<int>(low, high)(*random);
}

// A size at, just below or just above a multiple of the tile's.
int around(std::mt19937* random, int tile) {
  const int near = tile + pick(random, -1, 1);
  return near < 1 ? 1 : near;
}

// For the rungs of Hopper: channels in eights, of every kind of slice, around the tile's edges.
ConvProblem make_problem_of_eights(std::mt19937* random, DType dtype, const Wanted& wanted,
                                   int number) {
  const int some[] = {8, 16, 24, 32, 40, 48, 64, 72, 96, 104, 128, 136};
  const auto any = [&] { return some[pick(random, 0, 11)]; };
  for (int tries = 0;; ++tries) {
    ConvArguments a;
    const int groups = number % 8 == 2 && tries < 50 ? 2 : 1;  // some kernels take no groups
    int channels = groups > 1 ? 64 : any(), outputs = groups > 1 ? 64 * pick(random, 1, 2) : any();
    if (groups == 1 && number % 5 == 2) outputs = wanted.tile.n + 8 * pick(random, -1, 1);
    if (groups == 1 && number % 5 == 4) channels = wanted.tile.n + 8 * pick(random, -1, 1);
    // Pixels of several tiles and shares, and kernels like their stride, now and then.
    const bool many_pixels = number % 8 == 7, padded_patches = number % 9 == 8;
    const bool patches = number % 9 == 5 || padded_patches;
    if (many_pixels) channels = 8 * pick(random, 1, 2), outputs = 8 * pick(random, 1, 2);
    const int least = many_pixels ? 22 : 1, most = many_pixels ? 27 : 4 + number % 4 * 3;
    const int h = pick(random, least, most), w = pick(random, least, most);
    const int r = pick(random, 1, 4), s = pick(random, patches ? 2 : 1, 4);
    a.input_size = {pick(random, many_pixels ? 2 : 1, 3), groups * channels,
                    patches ? r * pick(random, 1, 3) : h,
                    patches ? s * pick(random, 2, 4) + (padded_patches || number % 2) : w};
    a.weight_size = {groups * outputs, channels, r, s};
    const int stride = many_pixels ? 1 : number % 4 == 1 ? 4 : 2;
    a.stride = {pick(random, 1, stride), pick(random, 1, stride)};
    a.padding = {pick(random, 0, 3), pick(random, 0, 3), pick(random, 0, 3), pick(random, 0, 3)};
    a.dilation = {pick(random, 1, 3), pick(random, 1, 3)};
    if (patches) {  // a padded one has its last columns in the padding
      a.stride = {r, s}, a.dilation = {1, 1};
      a.padding = {0, padded_patches ? s - 1 : 0, 0, 0};
    }
    if (number % 9 == 6) {  // 1 x 1: a plain product
      a.weight_size[2] = a.weight_size[3] = 1;
      a.stride = {1, 1}, a.padding = {0, 0, 0, 0};
    }
    a.groups = groups;
    a.dtype = dtype;
    try {
      const ConvProblem made = convext::make_conv_problem(a);
      if (!wanted.accepts || wanted.accepts(made)) return made;
    } catch (const std::runtime_error&) {  // no such convolution: another
    }
  }
}

ConvProblem make_problem(std::mt19937* random, DType dtype, const Wanted& wanted, int number) {
  if (wanted.groups == Groups::kOfEights) {
    return make_problem_of_eights(random, dtype, wanted, number);
  }
  const Tile& tile = wanted.tile;
  const bool depthwise = wanted.groups == Groups::kOfOneChannel;
  const bool grouped = wanted.groups == Groups::kOfFewChannels;
  const bool first = wanted.groups == Groups::kOneOfFewChannels;
  const char* modes[] = {"zeros", "zeros", "reflect", "replicate", "circular"};
  for (;;) {
    ConvArguments a;
    // What networks have, for which there is a kernel of its own.
    const bool usual = depthwise && number % 3 == 1;
    const int groups = usual             ? 8 * pick(random, 1, 9)
                       : depthwise       ? pick(random, 1, number % 4 == 3 ? 90 : 20)
                       : grouped         ? pick(random, 2, 7)
                       : first           ? 1
                       : number % 3 == 0 ? pick(random, 2, 4)
                                         : 1;
    int channels = pick(random, 1, 20), outputs = pick(random, 1, 24);
    if (number % 4 == 1) channels = 4 * pick(random, 1, 6), outputs = 4 * pick(random, 1, 8);
    // Whole vectors of any type, in tensors that lie so (gaps of 16) and not so (of 1).
    if (number % 5 == 1) channels = 8 * pick(random, 1, 2), outputs = 8 * pick(random, 1, 3);
    if (tile.n > 0 && number % 5 == 2) outputs = around(random, tile.n);
    if (tile.n > 0 && number % 5 == 3) channels = around(random, tile.n);
    if (tile.k > 0 && number % 5 == 4) channels = around(random, tile.k);
    if (depthwise) channels = 1, outputs = number % 3 == 0 ? pick(random, 2, 3) : 1;
    if (first) channels = pick(random, 1, 4);
    // Kernels of more columns than are taken at once, and pixels that are summed in several shares.
    const bool wide_kernel = number % 7 == 3, many_pixels = number % 8 == 7;
    if (many_pixels && !depthwise && !first)
      channels = pick(random, 1, 5), outputs = pick(random, 1, 9);
    if (grouped && (channels > 32 || outputs > 32)) continue;
    const bool large = groups > 1 && channels * outputs > 1000;
    if (large) continue;
    const int least = many_pixels ? 17 : 1, most = many_pixels ? 23 : 5 + number % 4 * 3;
    const int h = pick(random, least, most), w = pick(random, least, most);
    const int r = pick(random, 1, wide_kernel ? 2 : 4);
    const int s = usual         ? 3 + 2 * pick(random, 0, 2)
                  : wide_kernel ? pick(random, 5, 11)
                                : pick(random, 1, 4);
    a.input_size = {pick(random, 1, many_pixels ? 2 : 3), groups * channels, h, w};
    a.weight_size = {groups * outputs, channels, r, s};
    // Such kernels stage a group's weights: of float64, this many fit.
    const std::int64_t staged = std::max(channels, outputs) * a.weight_size[2] * a.weight_size[3];
    if (grouped && staged > 256) continue;
    const int stride = many_pixels ? 1 : 3;
    a.stride = {pick(random, 1, stride), pick(random, 1, stride)};
    a.padding = {pick(random, 0, 3), pick(random, 0, 3), pick(random, 0, 3), pick(random, 0, 3)};
    a.dilation = {pick(random, 1, 3), pick(random, 1, 3)};
    if (usual) a.stride[1] = pick(random, 1, 2), a.dilation[1] = 1;
    if (usual && number % 2 == 0) a.stride = {1, 1};
    a.groups = groups;
    a.padding_mode = modes[pick(random, 0, 4)];
    a.dtype = dtype;
    try {
      return convext::make_conv_problem(a);
    } catch (const std::runtime_error&) {  // no such convolution: another
    }
  }
}

std::vector<double> draw(std::mt19937* random, const std::vector<std::int64_t>& size) {
  std::int64_t count = 1;
  for (std::int64_t extent : size) count *= extent;
  std::vector<double> values(static_cast<std::size_t>(count));
  for (double& value : values) value = pick(random, -3, 3);
  return values;
}

TensorView float64_view(std::vector<double>* values, const std::vector<std::int64_t>& size) {
  TensorView view;
  view.data = values->data();
  view.dtype = DType::kFloat64;
  std::int64_t strides[4];
  strides_of(size, false, strides);
  for (int i = 0; i < 4; ++i) {
    view.size[i] = size[static_cast<std::size_t>(i)];
    view.stride[i] = strides[i];
  }
  return view;
}

}  // namespace

std::vector<std::int64_t> input_size(const ConvProblem& p) { return {p.N, p.C, p.H, p.W}; }
std::vector<std::int64_t> weight_size(const ConvProblem& p) {
  return {p.K, p.channels_per_group(), p.R, p.S};
}
std::vector<std::int64_t> output_size(const ConvProblem& p) { return {p.N, p.K, p.P, p.Q}; }

void strides_of(const std::vector<std::int64_t>& size, bool channels_last,
                std::int64_t (&strides)[4]) {
  if (channels_last) {
    strides[1] = 1;
    strides[3] = size[1];
    strides[2] = size[3] * size[1];
  } else {
    strides[3] = 1;
    strides[2] = size[3];
    strides[1] = size[2] * size[3];
  }
  strides[0] = size[1] * size[2] * size[3];
}

Case make_case(std::mt19937* random, Pass pass, DType dtype, const Wanted& wanted, int number) {
  Case made;
  made.problem = make_problem(random, dtype, wanted, number);
  made.channels_last = wanted.channels_last || number % 2 == 0;
  made.with_bias = pass == Pass::kBgrad || (pass == Pass::kFprop && number % 2 == 0);
  made.gap = number % 10 == 1 ? 1 : number % 5 == 1 ? 16 : number % 5 == 3 ? 1 : 0;
  made.shift = number % 6 == 5 ? 1 : 0;
  if (wanted.groups == Groups::kOfEights) {  // and places in memory
    made.gap = number % 5 == 1 ? 16 : number % 5 == 3 ? 8 : 0;
    made.shift *= 8;
    made.columns_apart = number % 7 == 4 ? 1 : 0;
  }
  const ConvProblem& p = made.problem;
  made.input = draw(random, input_size(p));
  made.weight = draw(random, weight_size(p));
  made.output = draw(random, output_size(p));
  if (made.with_bias) made.bias = draw(random, {p.K});

  ConvProblem exact = p;
  exact.dtype = DType::kFloat64;
  ConvTensors tensors;
  Case scratch = made;
  tensors.input = float64_view(&scratch.input, input_size(p));
  tensors.weight = float64_view(&scratch.weight, weight_size(p));
  tensors.output = float64_view(&scratch.output, output_size(p));
  if (made.with_bias) tensors.bias = float64_view(&scratch.bias, {1, p.K, 1, 1});
  switch (pass) {
    case Pass::kFprop: convext::reference_fprop(exact, tensors, {}); break;
    case Pass::kDgrad: convext::reference_dgrad(exact, tensors, {}); break;
    case Pass::kWgrad: convext::reference_wgrad(exact, tensors, {}); break;
    case Pass::kBgrad: convext::reference_bgrad(exact, tensors, {}); break;
  }
  made.expected = pass == Pass::kFprop   ? scratch.output
                  : pass == Pass::kDgrad ? scratch.input
                  : pass == Pass::kWgrad ? scratch.weight
                                         : scratch.bias;
  return made;
}

void store(DType dtype, void* data, std::int64_t index, double value) {
  switch (dtype) {
    case DType::kFloat64: static_cast<double*>(data)[index] = value; return;
    case DType::kFloat32: static_cast<float*>(data)[index] = static_cast<float>(value); return;
    case DType::kFloat16:
      static_cast<convext::Float16*>(data)[index] =
          convext::narrow_float16(static_cast<float>(value));
      return;
    case DType::kBFloat16:
      static_cast<convext::BFloat16*>(data)[index] =
          convext::narrow_bfloat16(static_cast<float>(value));
      return;
    default: throw std::logic_error("no such dtype on CUDA");
  }
}

double fetch(DType dtype, const void* data, std::int64_t index) {
  switch (dtype) {
    case DType::kFloat64: return static_cast<const double*>(data)[index];
    case DType::kFloat32: return static_cast<const float*>(data)[index];
    case DType::kFloat16: return convext::widen(static_cast<const convext::Float16*>(data)[index]);
    case DType::kBFloat16:
      return convext::widen(static_cast<const convext::BFloat16*>(data)[index]);
    default: throw std::logic_error("no such dtype on CUDA");
  }
}

}  // namespace convext_tests
