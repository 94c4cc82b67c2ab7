// From a problem to what kernels take.
#include <numeric>
#include <stdexcept>

#include "ladder.h"

namespace convext::cuda {
namespace {

int narrow(std::int64_t value, const char* name) {
  // Coordinates in the padding and one stride past the end are computed too.
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  if (value > kMost) {
    throw std::runtime_error("convext: " + std::string(name) + " is " + std::to_string(value) +
                             "; CUDA kernels take at most " + std::to_string(kMost));
  }
  return static_cast<int>(value);
}

// A dimension of one index may have any stride: none, so that it does not look misaligned.
Strides strides_of(const std::int64_t (&s)[4], int n, int h, int w) {
  return {n > 1 ? s[0] : 0, s[1], h > 1 ? s[2] : 0, w > 1 ? s[3] : 0};
}

}  // namespace

ConvParams make_params(const ConvProblem& p, const std::int64_t (&input_strides)[4],
                       const std::int64_t (&weight_strides)[4],
                       const std::int64_t (&output_strides)[4]) {
  narrow(p.H + p.pad_top + p.pad_bottom + p.stride_h, "the padded height");
  narrow(p.W + p.pad_left + p.pad_right + p.stride_w, "the padded width");
  ConvParams v{};
  v.N = narrow(p.N, "the batch size");
  v.C = narrow(p.C, "the number of input channels");
  v.H = narrow(p.H, "the height");
  v.W = narrow(p.W, "the width");
  v.K = narrow(p.K, "the number of output channels");
  v.R = narrow(p.R, "the kernel's height");
  v.S = narrow(p.S, "the kernel's width");
  v.P = narrow(p.P, "the output's height");
  v.Q = narrow(p.Q, "the output's width");
  v.pad_top = narrow(p.pad_top, "padding");
  v.pad_bottom = narrow(p.pad_bottom, "padding");
  v.pad_left = narrow(p.pad_left, "padding");
  v.pad_right = narrow(p.pad_right, "padding");
  v.stride_h = narrow(p.stride_h, "stride");
  v.stride_w = narrow(p.stride_w, "stride");
  v.dilation_h = narrow(p.dilation_h, "dilation");
  v.dilation_w = narrow(p.dilation_w, "dilation");
  v.groups = narrow(p.groups, "groups");
  v.channels = static_cast<int>(p.channels_per_group());
  v.outputs = static_cast<int>(p.outputs_per_group());
  v.padding_mode = p.padding_mode;
  v.aligned = true;
  v.input = strides_of(input_strides, v.N, v.H, v.W);
  v.weight = strides_of(weight_strides, v.K, v.R, v.S);
  v.output = strides_of(output_strides, v.N, v.P, v.Q);
  v.by_C = Divisor(v.C);
  v.by_K = Divisor(v.K);
  v.by_channels = Divisor(v.channels);
  v.by_R = Divisor(v.R);
  v.by_S = Divisor(v.S);
  v.by_P = Divisor(v.P);
  v.by_Q = Divisor(v.Q);
  const auto divisor = [](std::int64_t a, std::int64_t b) {
    return static_cast<int>(std::gcd(a, b));
  };
  v.tap_step_h = v.stride_h / divisor(v.stride_h, v.dilation_h);
  v.tap_step_w = v.stride_w / divisor(v.stride_w, v.dilation_w);
  v.output_step_h = v.dilation_h / divisor(v.stride_h, v.dilation_h);
  v.output_step_w = v.dilation_w / divisor(v.stride_w, v.dilation_w);
  for (int fewer = 0; fewer < 2; ++fewer) {
    v.class_rows[fewer] = Divisor((v.H - 1) / v.stride_h + 1 - fewer);
    v.class_columns[fewer] = Divisor((v.W - 1) / v.stride_w + 1 - fewer);
  }
  return v;
}

ConvParams channels_last_params(const ConvProblem& p) {
  const std::int64_t channels = p.channels_per_group();
  const std::int64_t input[4] = {p.H * p.W * p.C, 1, p.W * p.C, p.C};
  const std::int64_t weight[4] = {p.R * p.S * channels, 1, p.S * channels, channels};
  const std::int64_t output[4] = {p.P * p.Q * p.K, 1, p.Q * p.K, p.K};
  return make_params(p, input, weight, output);
}

Shares cut(std::int64_t whole, std::int64_t parts) {
  if (whole == 0) return {1, 0};
  const std::int64_t size = (whole + parts - 1) / parts;
  return {static_cast<int>((whole + size - 1) / size), size};
}

Shares split_pixels(const ConvParams& v, std::int64_t tiles) {
  // Some waves on the largest devices, of shares that are worth a CTA's while; float32 sums of
  // thousands of products err little.
  constexpr std::int64_t kBlocks = 512, kFewestPixels = 256, kMostPixels = 8192;
  const std::int64_t pixels = static_cast<std::int64_t>(v.N) * v.P * v.Q;
  const auto parts = [&](std::int64_t size) { return (pixels + size - 1) / size; };
  const std::int64_t wanted = (kBlocks + tiles - 1) / tiles;
  const std::int64_t most = parts(kFewestPixels), fewest = parts(kMostPixels);
  const std::int64_t count = wanted < fewest ? fewest : wanted > most ? most : wanted;
  // Gigabytes of sums cost more than long sums err.
  constexpr std::int64_t kMostSums = std::int64_t{1} << 29;
  const std::int64_t room = kMostSums / (static_cast<std::int64_t>(v.K) * v.R * v.S * v.channels);
  return cut(pixels, count < room ? count : room > 1 ? room : 1);
}

}  // namespace convext::cuda
