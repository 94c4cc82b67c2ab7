#include "kernel_table.h"

#include <array>

#include "cpu_features.h"

namespace convext {
namespace {

// Sets *why, if anyone wants to know; always false.
template <class Words>
bool refuse(std::string* why, Words&& words) {
  if (why != nullptr) *why = words();
  return false;
}

bool any_problem(const ConvProblem&, std::string*) { return true; }

// A replicated border pixel has as many sources in input grad as it has copies.
bool few_copies(const ConvProblem& p, std::string* why) {
  if (p.padding_mode != PaddingMode::kReplicate) return true;
  constexpr std::int64_t kMostCopies = 4096;
  const auto copies = [](std::int64_t begin, std::int64_t end, std::int64_t stride) {
    return 1 + (begin > end ? begin : end) / stride;
  };
  const std::int64_t down = copies(p.pad_top, p.pad_bottom, p.stride_h);
  const std::int64_t across = copies(p.pad_left, p.pad_right, p.stride_w);
  if (down <= kMostCopies && across <= kMostCopies && down * across <= kMostCopies) return true;
  return refuse(why, [&] {
    return "needs at most " + std::to_string(kMostCopies) +
           " copies of a corner pixel, there are " + std::to_string(down) + " x " +
           std::to_string(across);
  });
}

// Rows are packed with the padding that taps read, which must not be the greater part by far.
bool near_padding(const ConvProblem& p, std::string* why) {
  const auto is_near = [](std::int64_t outputs, std::int64_t stride, std::int64_t taps,
                          std::int64_t dilation, std::int64_t extent) {
    return (outputs - 1) * stride + (taps - 1) * dilation < 4 * extent + 64;
  };
  if (is_near(p.P, p.stride_h, p.R, p.dilation_h, p.H) &&
      is_near(p.Q, p.stride_w, p.S, p.dilation_w, p.W)) {
    return true;
  }
  return refuse(why, [] { return std::string("needs padding not much larger than the image"); });
}

bool one_input_channel(const ConvProblem& p, std::string* why) {
  if (p.channels_per_group() == 1) return near_padding(p, why);
  return refuse(why, [&] {
    return "needs one input channel a group, has " + std::to_string(p.channels_per_group());
  });
}

bool one_input_channel_few_copies(const ConvProblem& p, std::string* why) {
  return one_input_channel(p, why) && few_copies(p, why);
}

bool contiguous_planes(const ConvProblem& p, std::string* why) {
  if (p.input_layout != Layout::kContiguous || p.weight_layout != Layout::kContiguous) {
    return refuse(why, [&] {
      return std::string("needs a contiguous input and weight, they are ") +
             to_string(p.input_layout) + " and " + to_string(p.weight_layout);
    });
  }
  constexpr std::int64_t kFewestPixels = 8;  // below, most lanes of a pixel vector would be empty
  if (p.P * p.Q >= kFewestPixels) return true;
  return refuse(why, [&] {
    return "needs " + std::to_string(kFewestPixels) + " output pixels an image, there are " +
           std::to_string(p.P * p.Q);
  });
}

bool three_by_three_stride(const ConvProblem& p, std::int64_t stride, std::string* why) {
  const bool kernel_fits = p.R == 3 && p.S == 3;
  const bool stride_fits = p.stride_h == stride && p.stride_w == stride;
  if (kernel_fits && stride_fits) return true;
  return refuse(why, [&] {
    const auto by = [](std::int64_t height, std::int64_t width) {
      return std::to_string(height) + " x " + std::to_string(width);
    };
    std::string words = "needs a 3 x 3 kernel and stride " + std::to_string(stride) + ", ";
    if (!kernel_fits) words += "the kernel is " + by(p.R, p.S);
    if (!kernel_fits && !stride_fits) words += ", ";
    if (!stride_fits) words += "the stride is " + by(p.stride_h, p.stride_w);
    return words;
  });
}

bool one_group(const ConvProblem& p, std::string* why) {
  if (p.groups == 1) return true;
  return refuse(why, [&] { return "needs one group, has " + std::to_string(p.groups); });
}

bool three_by_three(const ConvProblem& p, std::string* why) {
  return three_by_three_stride(p, 1, why);
}
bool three_by_three_one_group(const ConvProblem& p, std::string* why) {
  return three_by_three(p, why) && one_group(p, why);
}
bool three_by_three_stride_two(const ConvProblem& p, std::string* why) {
  return three_by_three_stride(p, 2, why);
}
bool three_by_three_stride_two_one_group(const ConvProblem& p, std::string* why) {
  return three_by_three_stride_two(p, why) && one_group(p, why);
}

bool three_by_three_few_copies(const ConvProblem& p, std::string* why) {
  return three_by_three(p, why) && few_copies(p, why);
}

// Results an even dilation apart would all be of one phase.
bool three_by_three_stride_two_odd(const ConvProblem& p, std::string* why) {
  if (!three_by_three_stride_two(p, why) || !few_copies(p, why)) return false;
  if (p.dilation_h % 2 == 1 && p.dilation_w % 2 == 1) return true;
  return refuse(why, [&] {
    return "needs odd dilations, they are " + std::to_string(p.dilation_h) + " x " +
           std::to_string(p.dilation_w);
  });
}

bool one_by_one(const ConvProblem& p, std::string* why) {
  if (p.taps() != 1) {
    return refuse(why, [&] {
      return "needs a 1 x 1 kernel, it is " + std::to_string(p.R) + " x " + std::to_string(p.S);
    });
  }
  if (!one_group(p, why)) return false;
  if (p.pad_top + p.pad_bottom + p.pad_left + p.pad_right == 0) return true;
  return refuse(why, [] { return "needs no padding"; });
}

bool few_pixels(const ConvProblem& p, std::string* why) {
  if (p.groups != 1) {
    return refuse(why, [&] { return "needs one group, there are " + std::to_string(p.groups); });
  }
  if (p.weight_layout == Layout::kStrided) {
    return refuse(why, [] { return "needs a contiguous or channels_last weight"; });
  }
  constexpr std::int64_t kMostPixels = 256;  // of an image, whose gathered copy is kept
  if (p.P * p.Q <= kMostPixels) return true;
  return refuse(why, [&] {
    return "needs at most " + std::to_string(kMostPixels) + " output pixels an image, there are " +
           std::to_string(p.P * p.Q);
  });
}

// Packed rows hold their padding: more of it than of the image is not worth a row.
bool padding_fits_rows(const ConvProblem& p, std::string* why) {
  constexpr std::int64_t kNarrow = 64;
  if (p.pad_left + p.pad_right <= p.W + kNarrow) return true;
  return refuse(why, [&] {
    return "needs at most " + std::to_string(p.W + kNarrow) + " columns of padding, there are " +
           std::to_string(p.pad_left + p.pad_right);
  });
}

bool padding_fits_rows_few_copies(const ConvProblem& p, std::string* why) {
  return padding_fits_rows(p, why) && few_copies(p, why);
}

// Groups that fill vectors: 2, 4 or 8 inputs and outputs share or fill one, 16 and more fill some.
bool few_channels(const ConvProblem& p, std::string* why) {
  const std::int64_t in = p.channels_per_group(), out = p.outputs_per_group();
  constexpr std::int64_t kFewest = 16, kMost = 64;
  if (in == out && (in == 2 || in == 4 || in == 8)) return near_padding(p, why);
  if (in >= kFewest && out >= kFewest && in <= kMost && out <= kMost) {
    return near_padding(p, why);
  }
  return refuse(why, [&] {
    return "needs 2, 4 or 8 input and as many output channels a group, or " +
           std::to_string(kFewest) + " to " + std::to_string(kMost) + " of each, has " +
           std::to_string(in) + " and " + std::to_string(out);
  });
}

bool square_groups(const ConvProblem& p, std::string* why) {
  const std::int64_t in = p.channels_per_group(), out = p.outputs_per_group();
  if (in == out && (in == 2 || in == 4 || in == 8)) return near_padding(p, why);
  return refuse(why, [&] {
    return "needs 2, 4 or 8 input and as many output channels a group, has " + std::to_string(in) +
           " and " + std::to_string(out);
  });
}

bool few_channels_few_copies(const ConvProblem& p, std::string* why) {
  return few_channels(p, why) && few_copies(p, why);
}

bool small_groups(const ConvProblem& p, std::string* why) {
  constexpr std::int64_t kMostChannels = 64;
  if (p.channels_per_group() <= kMostChannels && p.outputs_per_group() <= kMostChannels) {
    return near_padding(p, why);
  }
  return refuse(why, [&] {
    return "needs at most " + std::to_string(kMostChannels) +
           " input and output channels a group, has " + std::to_string(p.channels_per_group()) +
           " and " + std::to_string(p.outputs_per_group());
  });
}

bool small_groups_of_planes(const ConvProblem& p, std::string* why) {
  if (p.input_layout == Layout::kContiguous) return small_groups(p, why);
  return refuse(why, [&] {
    return std::string("needs a contiguous input, it is ") + to_string(p.input_layout);
  });
}

bool small_groups_few_copies(const ConvProblem& p, std::string* why) {
  if (!small_groups_of_planes(p, why)) return false;
  // The gradient of the padded plane is folded as a whole.
  constexpr std::int64_t kMostPixels = 1 << 18;
  if (p.padding_mode == PaddingMode::kZeros) return true;
  const std::int64_t pixels = (p.H + p.pad_top + p.pad_bottom) * (p.W + p.pad_left + p.pad_right);
  if (pixels <= kMostPixels) return true;
  return refuse(why, [&] {
    return std::string("needs zero padding or at most ") + std::to_string(kMostPixels) +
           " padded pixels a plane, has " + to_string(p.padding_mode) + " padding and " +
           std::to_string(pixels);
  });
}

enum class Storage { Floats, All, Bf16 };

struct Row {
  Pass pass;
  Algorithm algorithm;
  const char* layout;
  Storage storage;
  int mr;
  int vectors[3];  // AVX-512, AVX2, generic; 0: scalar
  KernelRule rule;
  KernelCost cost;
};

constexpr Row kRows[] = {
#define CONVEXT_KERNEL(pass, algorithm, layout, storage, mr, v512, v2, vgeneric, rule, cost) \
  {Pass::k##pass,                                                                            \
   Algorithm::k##algorithm,                                                                  \
   #layout,                                                                                  \
   Storage::storage,                                                                         \
   mr,                                                                                       \
   {v512, v2, vgeneric},                                                                     \
   rule,                                                                                     \
   cost},
#include "../kernels.def"
#undef CONVEXT_KERNEL
};

constexpr DType kFloatTypes[] = {DType::kFloat32, DType::kFloat64, DType::kBFloat16,
                                 DType::kFloat16};
constexpr DType kIntegerTypes[] = {DType::kInt8, DType::kUInt8, DType::kInt16, DType::kInt32,
                                   DType::kInt64};

const char* short_name(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return "f32";
    case DType::kFloat64: return "f64";
    case DType::kBFloat16: return "bf16";
    case DType::kFloat16: return "f16";
    case DType::kInt8: return "i8";
    case DType::kUInt8: return "u8";
    case DType::kInt16: return "i16";
    case DType::kInt32: return "i32";
    case DType::kInt64: return "i64";
  }
  return "?";
}

int register_bytes(Isa isa) {
  return isa_includes(isa, Isa::kAvx512) ? 64 : isa == Isa::kAvx2 ? 32 : 16;
}

// By how much the transforms raise the root mean square of independent rounding errors over that of
// a direct sum, in two dimensions; the larger one of forward and weight grad.
double error_growth(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kWinograd2: return 2;
    case Algorithm::kWinograd4: return 7.125;
    case Algorithm::kPolyphase2: return 2;
    case Algorithm::kPolyphase4: return 5.224;
    default: return 0;
  }
}

struct Table {
  std::vector<KernelInfo> kernels;
  std::vector<KernelRule> rules;
  std::vector<KernelCost> costs;
};

void add(Table* table, const Row& row, DType dtype, Isa isa, int vectors) {
  KernelInfo kernel;
  kernel.pass = row.pass;
  kernel.algorithm = row.algorithm;
  kernel.dtype = dtype;
  kernel.isa = isa;
  kernel.layout = row.layout;
  kernel.mr = row.mr;
  kernel.error_growth = error_growth(row.algorithm);
  kernel.exact_on_integers =
      row.algorithm != Algorithm::kWinograd4 && row.algorithm != Algorithm::kPolyphase4;
  // Half types are summed in float32 lanes.
  kernel.vectors = vectors ? vectors : 1;
  kernel.nr = vectors ? vectors * register_bytes(isa) / (dtype == DType::kFloat64 ? 8 : 4) : 1;
  kernel.name = std::string(to_string(row.pass)) + "_" + to_string(row.algorithm) + "_" +
                short_name(dtype) + "_" + row.layout + "_" + std::to_string(kernel.mr) + "x" +
                std::to_string(kernel.nr) + "_" + (vectors ? to_string(isa) : "scalar");
  kernel.index = static_cast<int>(table->kernels.size());
  table->kernels.push_back(kernel);
  table->rules.push_back(row.rule);
  table->costs.push_back(row.cost);
}

Table make_table() {
  Table table;
  for (const Row& row : kRows) {
    if (row.storage == Storage::Bf16) {  // products of pairs, which one instruction set has
      if (isa_compiled(Isa::kAvx512Bf16)) {
        add(&table, row, DType::kBFloat16, Isa::kAvx512Bf16, row.vectors[0]);
      }
      continue;
    }
    if (row.vectors[0] == 0) {  // scalar code: the same whatever the instruction set
      for (DType dtype : kFloatTypes) add(&table, row, dtype, Isa::kGeneric, 0);
      if (row.storage == Storage::All) {
        for (DType dtype : kIntegerTypes) add(&table, row, dtype, Isa::kGeneric, 0);
      }
      continue;
    }
    for (DType dtype : kFloatTypes) {
      if (isa_compiled(Isa::kAvx512)) add(&table, row, dtype, Isa::kAvx512, row.vectors[0]);
      if (isa_compiled(Isa::kAvx2)) add(&table, row, dtype, Isa::kAvx2, row.vectors[1]);
      add(&table, row, dtype, Isa::kGeneric, row.vectors[2]);
    }
  }
  return table;
}

const Table& table() {
  static const Table instance = make_table();
  return instance;
}

}  // namespace

const std::vector<KernelInfo>& kernel_table() { return table().kernels; }

const std::vector<const KernelInfo*>& kernels_for(Pass pass, DType dtype) {
  static const auto lists = [] {
    std::array<std::array<std::vector<const KernelInfo*>, kDTypeCount>, kPassCount> sorted;
    for (const KernelInfo& kernel : kernel_table()) {
      sorted[static_cast<int>(kernel.pass)][static_cast<int>(kernel.dtype)].push_back(&kernel);
    }
    return sorted;
  }();
  return lists[static_cast<int>(pass)][static_cast<int>(dtype)];
}

KernelRule kernel_rule(const KernelInfo& kernel) { return table().rules[kernel.index]; }
KernelCost kernel_cost(const KernelInfo& kernel) { return table().costs[kernel.index]; }

const char* to_string(Pass pass) {
  switch (pass) {
    case Pass::kFprop: return "fprop";
    case Pass::kDgrad: return "dgrad";
    case Pass::kWgrad: return "wgrad";
    case Pass::kBgrad: return "bgrad";
  }
  return "?";
}

const char* to_string(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::kReference: return "reference";
    case Algorithm::kIndirect: return "indirect";
    case Algorithm::kIm2col: return "im2col";
    case Algorithm::kDirect: return "direct";
    case Algorithm::kDirectPlanes: return "direct_planes";
    case Algorithm::kOuter: return "outer";
    case Algorithm::kDepthwise: return "depthwise";
    case Algorithm::kGrouped: return "grouped";
    case Algorithm::kGroupedPlanes: return "grouped_planes";
    case Algorithm::kRowsum: return "rowsum";
    case Algorithm::kWinograd2: return "winograd2";
    case Algorithm::kWinograd4: return "winograd4";
    case Algorithm::kPolyphase2: return "polyphase2";
    case Algorithm::kPolyphase4: return "polyphase4";
    case Algorithm::kPointwise: return "pointwise";
    case Algorithm::kDot: return "dot";
    case Algorithm::kAxpy: return "axpy";
    case Algorithm::kIndirectPairs: return "indirect_pairs";
  }
  return "?";
}

const char* to_string(Isa isa) {
  switch (isa) {
    case Isa::kGeneric: return "generic";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAvx512Bf16: return "avx512_bf16";
  }
  return "?";
}

}  // namespace convext
