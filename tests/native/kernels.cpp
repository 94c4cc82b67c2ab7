// Every kernel on problems around its own tile, against the reference in float64.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "check.h"
#include "cpu/isa_select.h"
#include "cpu/scratch.h"
#include "plan/cpu_features.h"
#include "plan/kernel_table.h"
#include "run.h"
#include "tensors.h"
#include "wide.h"

namespace convext_tests {
namespace {

using convext::Algorithm;
using convext::ConvArguments;
using convext::ConvPlan;
using convext::ConvProblem;
using convext::ConvTensors;
using convext::DType;
using convext::Isa;
using convext::KernelInfo;
using convext::Pass;
using convext::Threads;

using Sizes = std::vector<std::int64_t>;

// ---- problems ------------------------------------------------------------------------------------

struct Geometry {
  std::int64_t r, s;
  Sizes stride, padding, dilation;
};

const Geometry kGeometries[] = {
    {3, 3, {1, 1}, {1, 1}, {1, 1}},       {1, 1, {1, 1}, {0, 0}, {1, 1}},
    {3, 3, {2, 2}, {1, 1}, {1, 1}},       {1, 1, {2, 2}, {0, 0}, {1, 1}},
    {2, 1, {3, 2}, {0, 0}, {1, 1}},  // stride > kernel: pixels that nothing reads
    {3, 3, {1, 1}, {2, 2}, {2, 2}},       {2, 3, {2, 3}, {2, 1}, {3, 1}},
    {3, 2, {1, 2}, {3, 0, 0, 4}, {1, 1}},  // left, right, top, bottom
    {2, 2, {1, 1}, {5, 4}, {1, 1}},        // rows and columns of nothing but padding
    {1, 9, {1, 1}, {0, 4}, {1, 1}},        // more taps in a row than wgrad_depthwise takes at once
    {5, 1, {1, 1}, {2, 0}, {1, 1}},       {7, 7, {2, 2}, {3, 3}, {1, 1}},
    {3, 3, {1, 1}, {9, 9}, {9, 9}},  // most taps lie in the padding
    {3, 3, {2, 2}, {0, 3, 1, 2}, {1, 3}},
};
constexpr const char* kModes[] = {"zeros", "reflect", "replicate", "circular"};

class Problems {
 public:
  // Adds a problem whose output rows have `pixels` elements, unless the mode forbids its padding.
  void add(std::int64_t pixels, const Geometry& g, std::int64_t n, std::int64_t groups,
           std::int64_t inputs, std::int64_t outputs, const char* mode = "zeros") {
    const bool four = g.padding.size() == 4;
    const std::int64_t across = four ? g.padding[0] + g.padding[1] : 2 * g.padding[1];
    const std::int64_t down = four ? g.padding[2] + g.padding[3] : 2 * g.padding[0];
    const std::int64_t h = pixels % 3 * g.stride[0] + g.dilation[0] * (g.r - 1) + 1 - down;
    const std::int64_t w = (pixels - 1) * g.stride[1] + g.dilation[1] * (g.s - 1) + 1 - across;
    ConvArguments a;
    a.input_size = {n, groups * inputs, std::max<std::int64_t>(h, 1), std::max<std::int64_t>(w, 1)};
    a.weight_size = {groups * outputs, inputs, g.r, g.s};
    a.stride = g.stride;
    a.padding = g.padding;
    a.dilation = g.dilation;
    a.groups = groups;
    a.padding_mode = mode;
    if (mode != std::string("zeros") && mode != std::string("replicate")) {
      for (int i : {2, 3}) {  // as much input as reflect and circular padding want
        const std::int64_t most =
            four ? std::max(g.padding[i == 3 ? 0 : 2], g.padding[i == 3 ? 1 : 3])
                 : g.padding[i - 2];
        a.input_size[i] = std::max(a.input_size[i], most + 1);
      }
    }
    found_.push_back(a);
  }
  const std::vector<ConvArguments>& all() const { return found_; }

 private:
  std::vector<ConvArguments> found_;
};

Sizes around(std::int64_t tile) {
  Sizes sizes;
  for (std::int64_t size : {std::int64_t{1}, tile - 1, tile, tile + 1, 2 * tile + 1}) {
    if (size > 0 && std::find(sizes.begin(), sizes.end(), size) == sizes.end()) {
      sizes.push_back(size);
    }
  }
  return sizes;
}

std::vector<ConvArguments> problems_around(const KernelInfo& kernel) {
  Problems found;
  const std::int64_t mr = kernel.mr, nr = kernel.nr;
  const Geometry &k1 = kGeometries[1], &k3s2 = kGeometries[2];
  const bool polyphase =
      kernel.algorithm == Algorithm::kPolyphase2 || kernel.algorithm == Algorithm::kPolyphase4;
  const Geometry& k3 = polyphase ? k3s2 : kGeometries[0];
  const bool depthwise = kernel.algorithm == Algorithm::kDepthwise;
  if (kernel.pass == Pass::kWgrad || kernel.pass == Pass::kBgrad) {
    // Sums over so many pixels that they are split into chunks.
    for (std::int64_t channels : {1, 3, 7, 10}) {
      const std::int64_t groups = depthwise ? channels : 1, depth = depthwise ? 1 : channels;
      found.add(1100, k1, 2, groups, depth, depthwise ? 1 : 5);
      found.add(130, k3, 3, groups, depth, depthwise ? 1 : 2);
    }
  }
  if (depthwise) {
    for (std::int64_t pixels : around(mr)) found.add(pixels, k3, 2, nr + 1, 1, 1);
    for (std::int64_t groups : around(nr)) found.add(mr + 1, k3, 1, groups, 1, 1);
    for (std::int64_t groups : around(nr)) found.add(mr, k3s2, 2, groups, 1, 1);
    for (const Geometry& g : kGeometries) {
      for (const char* mode : kModes) found.add(mr + 1, g, 2, nr + 3, 1, 1, mode);
    }
    return found.all();
  }
  if (kernel.algorithm == Algorithm::kGrouped || kernel.algorithm == Algorithm::kGroupedPlanes) {
    for (std::int64_t size : {2, 4, 8, 16, 21}) {
      for (std::int64_t pixels : around(mr)) found.add(pixels, k3, 2, nr / size + 1, size, size);
      for (std::int64_t groups : {1, 3, 5}) {
        found.add(mr + 1, k3, 1, groups, size, size);
        found.add(mr, k3s2, 2, groups, size, size);
      }
      for (const Geometry& g : kGeometries) {
        for (const char* mode : kModes) found.add(mr + 1, g, 2, 3, size, size, mode);
      }
    }
    return found.all();
  }
  for (std::int64_t size : around(mr)) {
    found.add(size, k3, 1, 1, 9, nr + 1);
    found.add(size, k1, 2, 1, nr + 1, size);
    found.add(mr, k3, 2, 1, 3, size);
    found.add(mr, k1, 1, 1, size, nr);
  }
  for (std::int64_t size : around(nr)) {
    found.add(mr + 1, k3, 1, 1, 9, size);
    found.add(mr, k3, 2, 1, size, 5);
    found.add(mr + 2, k1, 1, 1, size, size);
    found.add(5, k3s2, 1, 2, 3, size);
    found.add(5, k3, 1, 2, size, 3);
    if (kernel.algorithm == Algorithm::kIm2col) {  // its columns are pixels
      found.add(size, k3, 1, 1, 4, mr + 1);
      found.add(size, k1, 2, 1, 9, mr);
      found.add(size, k3s2, 1, 2, 2, size % 7 + 1);
    }
  }
  for (const Geometry& g : kGeometries) {
    for (const char* mode : kModes) {
      found.add(mr + 1, g, 2, 1, 10, 7, mode);
      found.add(2 * mr + 1, g, 1, 1, 3, nr + 1, mode);  // few channels: taps of a row are merged
      found.add(mr + 1, g, 2, 3, 2, 5, mode);
    }
  }
  found.add(3, k3, 17, 1, 4, 4);
  found.add(40, k3, 2, 1, 5, 6);  // several work items and chunks
  found.add(300, k1, 3, 1, 9, 3);
  found.add(3, k3, 2, 5, 1, 2);  // channel multiplier
  return found.all();
}

// ---- running -------------------------------------------------------------------------------------

Threads three_threads() {
  Threads threads;
  threads.count = 3;
  threads.parallel_for = [](std::int64_t items, Threads::Body body, void* context) {
    std::vector<std::thread> others;
    for (std::int64_t i = 0; i < 3; ++i) {
      const std::int64_t begin = items * i / 3, end = items * (i + 1) / 3;
      if (begin < end) others.emplace_back([=] { body(context, begin, end); });
    }
    for (std::thread& other : others) other.join();
  };
  return threads;
}

// Every byte of working memory to NaN, so that reading what nobody wrote shows.
void poison_scratch() {
  constexpr std::size_t kBytes = 64 * 1024;
  for (int slot = 0; slot < static_cast<int>(convext::Slot::kCount); ++slot) {
    std::memset(convext::scratch_bytes(static_cast<convext::Slot>(slot), kBytes), 0xff, kBytes);
  }
}

double draw(std::uint64_t* state) {  // uniform in [0, 1)
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return static_cast<double>(*state >> 11) / static_cast<double>(std::uint64_t{1} << 53);
}

// Four tensors of a problem; `written` is the one that the pass computes.
struct Operands {
  Tensor input, weight, bias, output;

  Operands(const ConvProblem& p, DType dtype, Layout in, Layout w, Layout b, Layout out)
      : input(dtype, {p.N, p.C, p.H, p.W}, in),
        weight(dtype, {p.K, p.channels_per_group(), p.R, p.S}, w),
        bias(dtype, {1, p.K, 1, 1}, b),
        output(dtype, {p.N, p.K, p.P, p.Q}, out) {}

  Tensor& written(Pass pass) {
    return pass == Pass::kFprop   ? output
           : pass == Pass::kDgrad ? input
           : pass == Pass::kWgrad ? weight
                                  : bias;
  }
  ConvTensors views(bool with_bias) const {
    ConvTensors t;
    t.input = input.view();
    t.weight = weight.view();
    if (with_bias) t.bias = bias.view();
    t.output = output.view();
    return t;
  }
  std::vector<Tensor*> all() { return {&input, &weight, &bias, &output}; }
};

void run(const ConvProblem& problem, Pass pass, Isa isa, const char* algorithm, Operands* operands,
         bool with_bias, const Threads& threads, const KernelInfo** kernel = nullptr) {
  convext::PlanOptions options;
  options.isa = isa;
  options.force = std::string(to_string(pass)) + "=" + algorithm;
  const ConvPlan plan = make_plan(problem, pass, options);
  if (kernel) *kernel = plan.kernel;
  run_plan(plan, operands->views(with_bias || pass == Pass::kBgrad), threads);
}

double largest_number_of_terms(const ConvProblem& p, Pass pass) {
  const double pixels = static_cast<double>(p.N * p.P * p.Q), taps = static_cast<double>(p.taps());
  switch (pass) {
    case Pass::kFprop: return taps * static_cast<double>(p.channels_per_group()) + 1;
    // Replicate padding may send every output pixel to one input pixel.
    case Pass::kDgrad:
      return taps * static_cast<double>(p.outputs_per_group()) *
             (p.padding_mode == convext::PaddingMode::kZeros ? 1 : static_cast<double>(p.P * p.Q));
    case Pass::kWgrad:
    case Pass::kBgrad: return pixels;
  }
  return 0;
}

// The largest right distance of a sum of `terms` products from the exact one; see error_bound in
// python/convext/testing for where it comes from.
// `magnitude` is the largest of all results' where the kernel's errors grow.
double error_bound(const KernelInfo& kernel, double value, double magnitude, double terms) {
  const DType dtype = kernel.dtype;
  const double unit = dtype == DType::kFloat64 ? 0x1p-53 : 0x1p-24;
  const bool grows = kernel.error_growth > 0;
  const double length = grows ? (terms + 2) / 4 + 16 : terms + 2;
  double bound = std::min(length, 6 * std::sqrt(length)) * unit * magnitude;
  if (grows) bound *= kernel.error_growth;
  if (dtype == DType::kFloat64) bound *= 2;
  if (dtype == DType::kBFloat16) bound += 0x1p-8 * (std::fabs(value) + bound) + 0x1p-134;
  if (dtype == DType::kFloat16) bound += 0x1p-11 * (std::fabs(value) + bound) + 0x1p-25;
  return bound;
}

double wrapped(DType dtype, double value) {  // to the integer type
  const auto bits = static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
  switch (dtype) {
    case DType::kInt8: return static_cast<std::int8_t>(bits);
    case DType::kUInt8: return static_cast<std::uint8_t>(bits);
    case DType::kInt16: return static_cast<std::int16_t>(bits);
    default: return value;
  }
}

bool is_integral(DType dtype) { return dtype >= DType::kInt8; }

// Runs one problem, dressed by `seed`, and checks everything written; false if the kernel refuses it.
bool check_problem(const KernelInfo& kernel, Isa isa, const ConvArguments& arguments,
                   std::uint64_t seed) {
  ConvArguments a = arguments;
  a.dtype = kernel.dtype;
  ConvProblem problem = convext::make_conv_problem(a);
  a.dtype = DType::kFloat64;
  const ConvProblem exact_problem = convext::make_conv_problem(a);
  const Pass pass = kernel.pass;
  const bool small_integers = seed % 2 == 0 || is_integral(kernel.dtype);
  const bool with_bias = seed % 3 != 0;

  // Layouts go round so that every operand meets every layout its kernel takes; what is written is
  // never expanded.
  const Layout dense = Layout::kContiguous;
  const auto layout = [&](Pass writer, std::uint64_t turn) {
    const bool fixed = kernel.layout != std::string("any") && writer != Pass::kFprop;
    if (fixed) return kernel.layout == std::string("nhwc") ? Layout::kChannelsLast : dense;
    return static_cast<Layout>(turn % (writer == pass ? kWritableLayouts : kReadableLayouts));
  };
  Operands actual(problem, kernel.dtype, layout(Pass::kDgrad, seed), layout(Pass::kWgrad, seed / 3),
                  layout(Pass::kBgrad, 0), layout(Pass::kFprop, seed / 2));
  problem.input_layout = convext::layout_of(actual.input.view());
  problem.weight_layout = convext::layout_of(actual.weight.view());
  if (!kernel_rule(kernel)(problem, nullptr)) return false;
  Operands value(exact_problem, DType::kFloat64, dense, dense, dense, dense);
  Operands magnitude(exact_problem, DType::kFloat64, dense, dense, dense, dense);

  std::uint64_t state = seed;
  for (int i = 0; i < 4; ++i) {
    Tensor& t = *actual.all()[i];
    if (&t == &actual.written(pass)) continue;
    for (std::int64_t e = 0; e < t.numel(); ++e) {
      const double lowest = kernel.dtype == DType::kUInt8 ? 0 : -3;
      const double drawn =
          small_integers ? lowest + std::floor(draw(&state) * (4 - lowest)) : 2 * draw(&state) - 1;
      t.set(e, drawn);
    }
    for (std::int64_t e = 0; e < t.numel(); ++e) {  // afterwards: expanded elements are shared
      value.all()[i]->set(e, t.get(e));
      magnitude.all()[i]->set(e, std::fabs(t.get(e)));
    }
  }
  std::vector<std::vector<unsigned char>> before;
  for (Tensor* t : actual.all()) before.push_back(t->bytes());

  run(exact_problem, pass, Isa::kGeneric, "reference", &value, with_bias, Threads{});
  run(exact_problem, pass, Isa::kGeneric, "reference", &magnitude, with_bias, Threads{});
  poison_scratch();
  const KernelInfo* ran = nullptr;
  run(problem, pass, isa, to_string(kernel.algorithm), &actual, with_bias, Threads{}, &ran);
  ++totals().kernel_runs;
  CHECK(ran == &kernel, "planned " << ran->name << " instead of " << kernel.name);

  const Tensor& result = actual.written(pass);
  const double terms = largest_number_of_terms(problem, pass);
  std::int64_t wrong = 0, first = -1;
  const Tensor& magnitudes = magnitude.written(pass);
  double largest = 0;
  for (std::int64_t e = 0; e < magnitudes.numel(); ++e) {
    largest = std::max(largest, magnitudes.get(e));
  }
  for (std::int64_t e = 0; e < result.numel(); ++e) {
    const double expected = value.written(pass).get(e);
    const double got = result.get(e);
    bool right = got == (is_integral(kernel.dtype) ? wrapped(kernel.dtype, expected)
                                                   : rounded(kernel.dtype, expected));
    if (!right && (!small_integers || !kernel.exact_on_integers)) {
      const double scale = kernel.error_growth > 0 ? largest : magnitudes.get(e);
      right = std::fabs(got - expected) <= error_bound(kernel, expected, scale, terms);
    }
    if (!right && wrong++ == 0) first = e;
  }
  const auto text = [&] { return kernel.name + " on " + to_string(problem); };
  CHECK(wrong == 0, text() << ", case " << seed << ": " << wrong << " of " << result.numel()
                           << " wrong, element " << first << " is " << result.get(first)
                           << " instead of " << value.written(pass).get(first));
  CHECK(result.surroundings_are_intact(), text() << " wrote outside of its output");
  for (int i = 0; i < 4; ++i) {
    if (actual.all()[i] == &result) continue;
    CHECK(before[i] == actual.all()[i]->bytes(), text() << " changed operand " << i);
  }

  // The same bits from any number of threads.
  if (seed % 4 != 0) return true;
  const std::vector<unsigned char> alone = result.bytes();
  run(problem, pass, isa, to_string(kernel.algorithm), &actual, with_bias, three_threads());
  CHECK(alone == result.bytes(), text() << " gives other bits with three threads");
  return true;
}

// Runs each kernel on the first of its problems that it takes, and then on every `every`-th.
void test_isa(const char* name, Isa isa, std::int64_t every) {
  std::uint64_t seed = 0;
  std::int64_t kernels = 0;
  const std::int64_t pairs_before = totals().kernel_runs;
  for (const KernelInfo& kernel : convext::kernel_table()) {
    if (kernel.isa != isa) continue;
    ++kernels;
    const std::int64_t runs_before = convext::kernel_runs(kernel.index);
    std::int64_t skip = 0;
    for (const ConvArguments& problem : problems_around(kernel)) {
      if (skip-- > 0) continue;
      skip = check_problem(kernel, isa, problem, ++seed) ? every - 1 : 0;
    }
    CHECK(convext::kernel_runs(kernel.index) > runs_before, kernel.name << " was never run");
  }
  CHECK(kernels > 0, "no kernels for " << name);
  std::printf("%s: %lld kernels, %lld problems\n", name, static_cast<long long>(kernels),
              static_cast<long long>(totals().kernel_runs - pairs_before));
}

}  // namespace

void test_kernels(std::int64_t every) {
  const char* wanted = std::getenv("CONVEXT_CPU_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    const Isa isa = convext::active_isa();
    test_isa(to_string(isa), isa, every);
    return;
  }
  for (Isa isa : convext::runnable_isas()) test_isa(to_string(isa), isa, every);
  if (!convext::isa_compiled(Isa::kAvx512)) {
    std::printf("avx512 on the baseline: not in this build\n");
    return;
  }
  convext::replace_isa_kernels(Isa::kAvx512, &kWideKernels);
  test_isa("avx512 on the baseline", Isa::kAvx512, every);
  convext::replace_isa_kernels(Isa::kAvx512, nullptr);
  if (!convext::isa_compiled(Isa::kAvx512Bf16)) {
    std::printf("avx512_bf16 on the baseline: not in this build\n");
    return;
  }
  convext::replace_isa_kernels(Isa::kAvx512Bf16, &kWideKernels);
  convext::replace_pair_kernels(&kWidePairKernels);
  test_isa("avx512_bf16 on the baseline", Isa::kAvx512Bf16, every);
  convext::replace_pair_kernels(nullptr);
  convext::replace_isa_kernels(Isa::kAvx512Bf16, nullptr);
}

}  // namespace convext_tests
