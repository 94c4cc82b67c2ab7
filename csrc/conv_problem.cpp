#include "conv_problem.h"

#include <initializer_list>
#include <sstream>
#include <stdexcept>

namespace convext {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

std::int64_t checked_add(std::int64_t a, std::int64_t b, const char* what) {
  std::int64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) {
    fail(std::string(what) + " is too large: it does not fit 64-bit arithmetic");
  }
  return sum;
}

std::int64_t checked_mul(std::int64_t a, std::int64_t b, const char* what) {
  std::int64_t product;
  if (__builtin_mul_overflow(a, b, &product)) {
    fail(std::string(what) + " is too large: it does not fit 64-bit arithmetic");
  }
  return product;
}

void check_two_values(const char* name, const std::vector<std::int64_t>& values) {
  if (values.size() != 2) {
    fail(std::string("expected ") + name +
         " to be a single integer value or a list of 2 values to match the convolution dimensions, "
         "but got " +
         name + "=" + format_sizes(values));
  }
}

// One axis of the output: floor((padded - dilation * (kernel - 1) - 1) / stride) + 1.
struct Axis {
  std::int64_t padded;     // extent with its padding
  std::int64_t effective;  // extent of the dilated kernel
};

Axis make_axis(std::int64_t extent, std::int64_t pad_begin, std::int64_t pad_end,
               std::int64_t kernel, std::int64_t dilation) {
  Axis axis;
  axis.padded = checked_add(checked_add(extent, pad_begin, "padding"), pad_end, "padding");
  axis.effective =
      checked_add(checked_mul(dilation, kernel - 1, "dilation * (kernel_size - 1)"), 1, "dilation");
  return axis;
}

void check_mode_limits(const ConvProblem& p) {
  const struct {
    const char* axis;
    std::int64_t extent, begin, end;
  } axes[] = {{"height", p.H, p.pad_top, p.pad_bottom}, {"width", p.W, p.pad_left, p.pad_right}};
  for (const auto& a : axes) {
    const std::int64_t largest = a.begin > a.end ? a.begin : a.end;
    if (p.padding_mode == PaddingMode::kReflect && largest >= a.extent) {
      std::ostringstream out;
      out << "padding_mode='reflect': Padding size should be less than the corresponding input "
             "dimension, but got padding ("
          << a.begin << ", " << a.end << ") at the " << a.axis << " of input, which is "
          << a.extent;
      fail(out.str());
    }
    if (p.padding_mode == PaddingMode::kCircular && largest > a.extent) {
      std::ostringstream out;
      out << "padding_mode='circular': Padding value causes wrapping around more than once: "
             "padding ("
          << a.begin << ", " << a.end << ") at the " << a.axis << " of input, which is "
          << a.extent;
      fail(out.str());
    }
  }
}

}  // namespace

std::string format_sizes(const std::vector<std::int64_t>& sizes) {
  std::ostringstream out;
  out << "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) out << (i ? ", " : "") << sizes[i];
  out << "]";
  return out.str();
}

Layout layout_of(const TensorView& view) {
  const auto dense_in_order = [&](const int (&order)[4]) {
    std::int64_t expected = 1;
    for (int d : order) {
      if (view.size[d] != 1 && view.stride[d] != expected) return false;
      expected *= view.size[d];
    }
    return true;
  };
  if (dense_in_order({3, 2, 1, 0})) return Layout::kContiguous;
  if (dense_in_order({1, 3, 2, 0})) return Layout::kChannelsLast;
  return Layout::kStrided;
}

Layout parse_layout(const std::string& name) {
  for (Layout layout : {Layout::kContiguous, Layout::kChannelsLast, Layout::kStrided}) {
    if (name == to_string(layout)) return layout;
  }
  fail("a layout must be one of contiguous, channels_last, strided, but got '" + name + "'");
}

const char* to_string(Layout layout) {
  switch (layout) {
    case Layout::kContiguous: return "contiguous";
    case Layout::kChannelsLast: return "channels_last";
    case Layout::kStrided: return "strided";
  }
  return "?";
}

PaddingMode parse_padding_mode(const std::string& name) {
  if (name == "zeros") return PaddingMode::kZeros;
  if (name == "reflect") return PaddingMode::kReflect;
  if (name == "replicate") return PaddingMode::kReplicate;
  if (name == "circular") return PaddingMode::kCircular;
  fail(
      "padding_mode must be one of {'zeros', 'reflect', 'replicate', 'circular'}, but got "
      "padding_mode='" +
      name + "'");
}

const char* to_string(PaddingMode mode) {
  switch (mode) {
    case PaddingMode::kZeros: return "zeros";
    case PaddingMode::kReflect: return "reflect";
    case PaddingMode::kReplicate: return "replicate";
    case PaddingMode::kCircular: return "circular";
  }
  return "?";
}

const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "float32";
    case DType::kFloat64: return "float64";
    case DType::kBFloat16: return "bfloat16";
    case DType::kFloat16: return "float16";
    case DType::kInt8: return "int8";
    case DType::kUInt8: return "uint8";
    case DType::kInt16: return "int16";
    case DType::kInt32: return "int32";
    case DType::kInt64: return "int64";
  }
  return "?";
}

ConvProblem make_conv_problem(const ConvArguments& a) {
  const std::int64_t weight_rank = static_cast<std::int64_t>(a.weight_size.size());
  if (weight_rank != 4) {
    fail(
        "Expected 4D weight [out_channels, in_channels/groups, kernel height, kernel width], but "
        "got weight of size " +
        format_sizes(a.weight_size));
  }
  if (a.input_size.size() != 4) {
    fail("Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: " +
         format_sizes(a.input_size));
  }
  check_two_values("stride", a.stride);
  check_two_values("dilation", a.dilation);
  if (a.padding.size() != 4) check_two_values("padding", a.padding);
  Geometry g;
  g.padding_mode = parse_padding_mode(a.padding_mode);
  g.groups = a.groups;
  g.stride_h = a.stride[0];
  g.stride_w = a.stride[1];
  g.dilation_h = a.dilation[0];
  g.dilation_w = a.dilation[1];
  if (a.padding.size() == 2) {
    g.pad_top = g.pad_bottom = a.padding[0];
    g.pad_left = g.pad_right = a.padding[1];
  } else {
    g.pad_left = a.padding[0];
    g.pad_right = a.padding[1];
    g.pad_top = a.padding[2];
    g.pad_bottom = a.padding[3];
  }
  const auto four = [](const std::vector<std::int64_t>& v) {
    return Size4{v[0], v[1], v[2], v[3]};
  };
  return make_conv_problem(four(a.input_size), four(a.weight_size), g, a.dtype, a.input_layout,
                           a.weight_layout);
}

ConvProblem make_conv_problem(const Size4& input_size, const Size4& weight_size, const Geometry& g,
                              DType dtype, Layout input_layout, Layout weight_layout) {
  ConvProblem p;
  p.dtype = dtype;
  p.input_layout = input_layout;
  p.weight_layout = weight_layout;
  p.padding_mode = g.padding_mode;
  p.groups = g.groups;
  p.N = input_size[0];
  p.C = input_size[1];
  p.H = input_size[2];
  p.W = input_size[3];
  p.K = weight_size[0];
  p.R = weight_size[2];
  p.S = weight_size[3];
  p.stride_h = g.stride_h;
  p.stride_w = g.stride_w;
  p.dilation_h = g.dilation_h;
  p.dilation_w = g.dilation_w;
  p.pad_top = g.pad_top;
  p.pad_bottom = g.pad_bottom;
  p.pad_left = g.pad_left;
  p.pad_right = g.pad_right;
  const auto input_text = [&] { return format_sizes({input_size.begin(), input_size.end()}); };
  const auto weight_text = [&] { return format_sizes({weight_size.begin(), weight_size.end()}); };

  if (p.N < 0 || p.C < 0 || p.H < 0 || p.W < 0 || p.K < 0) {
    fail("sizes must not be negative, but got input of size " + input_text() +
         " and weight of size " + weight_text());
  }
  if (p.groups <= 0) fail("non-positive groups is not supported");
  if (p.pad_top < 0 || p.pad_bottom < 0 || p.pad_left < 0 || p.pad_right < 0) {
    fail("negative padding is not supported");
  }
  if (p.stride_h <= 0 || p.stride_w <= 0) fail("non-positive stride is not supported");
  if (p.dilation_h <= 0 || p.dilation_w <= 0) {  // torch has both sentences
    fail("non-positive dilation is not supported: dilation should be greater than zero, but got " +
         format_sizes({p.dilation_h, p.dilation_w}));
  }
  if (p.R <= 0 || p.S <= 0) {
    fail("kernel size must be positive, but got weight of size " + weight_text());
  }
  if (p.R > INT32_MAX / p.S) {  // the pointer table counts taps in 32 bits
    fail("kernel size is too large, got weight of size " + weight_text());
  }

  const auto given = [&] { return "Given groups=" + std::to_string(p.groups) + ", "; };
  if (p.K < p.groups) {
    fail(given() + "expected weight to be at least " + std::to_string(p.groups) +
         " at dimension 0, but got weight of size " + weight_text() + " instead");
  }
  if (p.K % p.groups != 0) {
    fail(given() + "expected weight to be divisible by " + std::to_string(p.groups) +
         " at dimension 0, but got weight of size [" + weight_text() + "] instead");
  }
  const std::int64_t expected_channels =
      checked_mul(weight_size[1], p.groups, "weight.size(1) * groups");
  if (p.C != expected_channels) {
    std::ostringstream out;
    out << "weight of size " << weight_text() << ", expected input" << input_text() << " to have "
        << expected_channels << " channels, but got " << p.C << " channels instead";
    fail(given() + out.str());
  }

  const Axis h = make_axis(p.H, p.pad_top, p.pad_bottom, p.R, p.dilation_h);
  const Axis w = make_axis(p.W, p.pad_left, p.pad_right, p.S, p.dilation_w);
  if (h.padded < h.effective || w.padded < w.effective) {
    std::ostringstream out;
    out << "Calculated padded input size per channel: (" << h.padded << " x " << w.padded
        << "). Kernel size: (" << h.effective << " x " << w.effective
        << "). Kernel size can't be greater than actual input size";
    fail(out.str());
  }
  if ((p.H == 0 || p.W == 0) && p.N != 0 && p.C != 0) {
    fail("Only zero batch or zero channel inputs are supported, but got input shape: " +
         input_text());
  }
  if (p.H > 0 && p.W > 0) check_mode_limits(p);
  p.P = (h.padded - h.effective) / p.stride_h + 1;
  p.Q = (w.padded - w.effective) / p.stride_w + 1;

  // Byte counts of all three tensors fit int64_t, with room for rounding up to tiles, so no later
  // product can wrap.
  const auto check_size = [](const char* what, std::initializer_list<std::int64_t> extents) {
    std::int64_t bytes = 4096;
    for (std::int64_t extent : extents) bytes = checked_mul(bytes, extent ? extent : 1, what);
  };
  check_size("the input", {p.N, p.C, p.H, p.W});
  check_size("the weight", {p.K, weight_size[1], p.R, p.S});
  check_size("the output", {p.N, p.K, p.P, p.Q});
  return p;
}

bool operator==(const ConvProblem& a, const ConvProblem& b) {
  // P and Q follow from the rest.
  return a.N == b.N && a.C == b.C && a.H == b.H && a.W == b.W && a.K == b.K && a.R == b.R &&
         a.S == b.S && a.pad_top == b.pad_top && a.pad_bottom == b.pad_bottom &&
         a.pad_left == b.pad_left && a.pad_right == b.pad_right && a.stride_h == b.stride_h &&
         a.stride_w == b.stride_w && a.dilation_h == b.dilation_h && a.dilation_w == b.dilation_w &&
         a.groups == b.groups && a.padding_mode == b.padding_mode && a.dtype == b.dtype &&
         a.input_layout == b.input_layout && a.weight_layout == b.weight_layout;
}

std::size_t hash_of(const ConvProblem& p) {
  std::uint64_t hash = 0;
  const auto add = [&](std::int64_t value) {
    hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9E3779B97F4A7C15u;
    hash ^= hash >> 32;
  };
  // Padding, stride and dilation tell in P and Q, or are rarely all that differs.
  for (std::int64_t value : {p.N, p.C, p.H, p.W, p.K, p.R, p.S, p.P, p.Q, p.groups}) add(value);
  add(static_cast<int>(p.dtype) * 9 + static_cast<int>(p.input_layout) * 3 +
      static_cast<int>(p.weight_layout));
  return hash;
}

namespace {

constexpr int kPaddingBits = 7, kStrideBits = 5, kGroupsBits = 12, kModeBits = 2;

}  // namespace

std::int64_t pack_geometry(const Geometry& g) {
  std::uint64_t packed = 0;
  bool fits = true;
  const auto add = [&](std::int64_t value, int bits) {
    fits = fits && value >= 0 && value >> bits == 0;
    packed = packed << bits | static_cast<std::uint64_t>(value);
  };
  for (std::int64_t value : {g.pad_top, g.pad_bottom, g.pad_left, g.pad_right}) {
    add(value, kPaddingBits);
  }
  for (std::int64_t value : {g.stride_h, g.stride_w, g.dilation_h, g.dilation_w}) {
    add(value, kStrideBits);
  }
  add(g.groups, kGroupsBits);
  add(static_cast<std::int64_t>(g.padding_mode), kModeBits);
  return fits ? static_cast<std::int64_t>(packed) : -1;
}

Geometry unpack_geometry(std::int64_t value) {
  std::uint64_t packed = static_cast<std::uint64_t>(value);
  const auto take = [&](int bits) {  // the last that was added
    const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
    const std::int64_t taken = static_cast<std::int64_t>(packed & mask);
    packed >>= bits;
    return taken;
  };
  Geometry g;
  g.padding_mode = static_cast<PaddingMode>(take(kModeBits));
  g.groups = take(kGroupsBits);
  for (std::int64_t* value : {&g.dilation_w, &g.dilation_h, &g.stride_w, &g.stride_h}) {
    *value = take(kStrideBits);
  }
  for (std::int64_t* value : {&g.pad_right, &g.pad_left, &g.pad_bottom, &g.pad_top}) {
    *value = take(kPaddingBits);
  }
  return g;
}

void check_bias(const ConvProblem& problem, const std::vector<std::int64_t>& weight_size,
                const std::vector<std::int64_t>& bias_size) {
  if (bias_size.size() != 1 || bias_size[0] != problem.K) {
    std::ostringstream out;
    out << "Given weight of size " << format_sizes(weight_size)
        << ", expected bias to be 1-dimensional with " << problem.K
        << " elements, but got bias of size " << format_sizes(bias_size) << " instead";
    fail(out.str());
  }
}

std::string to_string(const ConvProblem& p) {
  std::ostringstream out;
  out << "ConvProblem(N=" << p.N << ", C=" << p.C << ", H=" << p.H << ", W=" << p.W << ", K=" << p.K
      << ", R=" << p.R << ", S=" << p.S << ", P=" << p.P << ", Q=" << p.Q << ", padding=("
      << p.pad_left << ", " << p.pad_right << ", " << p.pad_top << ", " << p.pad_bottom
      << "), stride=(" << p.stride_h << ", " << p.stride_w << "), dilation=(" << p.dilation_h
      << ", " << p.dilation_w << "), groups=" << p.groups << ", padding_mode='"
      << to_string(p.padding_mode) << "', dtype=" << to_string(p.dtype) << ", layouts=("
      << to_string(p.input_layout) << ", " << to_string(p.weight_layout) << "))";
  return out.str();
}

}  // namespace convext
