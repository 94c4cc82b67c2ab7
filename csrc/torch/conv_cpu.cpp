// The operators on the CPU: tensors -> problem -> plan -> run. This file owns validation of what
// only tensors know (dtypes, devices) and allocation; geometry is ConvProblem's, loops over data
// are the kernels'.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../complex.h"
#include "../cpu/scratch.h"
#include "../run.h"

namespace convext {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] void fail(const std::string& message) { throw std::runtime_error(message); }

// ---- dtypes ------------------------------------------------------------------------------------

struct ElementType {
  DType real;  // the type itself, or that of a complex number's parts
  bool is_complex;
  const char* name;      // in torch's error messages
  const char* c10_name;  // in torch's other error messages
};

ElementType element_type(ScalarType type, const char* argument) {
  switch (type) {
    case ScalarType::Float: return {DType::kFloat32, false, "float", "Float"};
    case ScalarType::Double: return {DType::kFloat64, false, "double", "Double"};
    case ScalarType::BFloat16: return {DType::kBFloat16, false, "c10::BFloat16", "BFloat16"};
    case ScalarType::Half: return {DType::kFloat16, false, "c10::Half", "Half"};
    case ScalarType::Char: return {DType::kInt8, false, "signed char", "Char"};
    case ScalarType::Byte: return {DType::kUInt8, false, "unsigned char", "Byte"};
    case ScalarType::Short: return {DType::kInt16, false, "short", "Short"};
    case ScalarType::Int: return {DType::kInt32, false, "int", "Int"};
    case ScalarType::Long: return {DType::kInt64, false, "long", "Long"};
    case ScalarType::ComplexHalf:
      return {DType::kFloat16, true, "c10::complex<c10::Half>", "ComplexHalf"};
    case ScalarType::ComplexFloat:
      return {DType::kFloat32, true, "c10::complex<float>", "ComplexFloat"};
    case ScalarType::ComplexDouble:
      return {DType::kFloat64, true, "c10::complex<double>", "ComplexDouble"};
    default: break;
  }
  fail(std::string("convext::conv2d: ") + argument +
       " has a dtype that convolution does not support; it takes float32, float64, bfloat16, "
       "float16, complex32, complex64, complex128, int8, uint8, int16, int32 and int64");
}

// ---- views -------------------------------------------------------------------------------------

std::vector<std::int64_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

Size4 four_sizes(const Tensor& tensor) {
  const auto size = tensor.sizes();
  return {size[0], size[1], size[2], size[3]};
}

TensorView view_at(void* data, const Tensor& tensor, DType dtype) {
  TensorView view;
  view.data = data;
  view.dtype = dtype;
  const auto size = tensor.sizes();
  const auto stride = tensor.strides();
  if (size.size() == 1) {  // a bias, as 1 x K x 1 x 1
    view.size[0] = view.size[2] = view.size[3] = 1;
    view.size[1] = size[0];
    view.stride[1] = stride[0];
    return view;
  }
  for (int i = 0; i < 4; ++i) {
    view.size[i] = size[i];
    view.stride[i] = stride[i];
  }
  return view;
}

// Operands are only read: asking for writable memory would make torch copy a lazily cloned tensor.
TensorView view_of(const Tensor& tensor, DType dtype) {
  return view_at(const_cast<void*>(tensor.const_data_ptr()), tensor, dtype);
}

TensorView writable_view_of(const Tensor& tensor, DType dtype) {
  return view_at(tensor.mutable_data_ptr(), tensor, dtype);
}

// ATen's rule for whether strides suggest channels_last (c10's is_channels_last_strides_2d).
bool suggests_channels_last(const Tensor& tensor) {
  const auto size = tensor.sizes();
  const auto stride = tensor.strides();
  if (tensor.dim() != 4 || stride[1] == 0) return false;
  std::int64_t smallest = 0;
  for (int d : {1, 3, 2, 0}) {
    if (size[d] == 0 || stride[d] < smallest) return false;
    if (d == 0 && smallest == stride[1]) return false;  // N x C x 1 x 1 counts as contiguous
    smallest = stride[d];
    if (size[d] > 1) smallest *= size[d];
  }
  return true;
}

std::int32_t type_number(const Tensor& tensor) {
  std::int32_t number;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &number));
  return number;
}

constexpr std::int64_t kAdvisedBytes = std::int64_t{4} << 20;

// A large result is fresh memory, as a rule: its pages come when the kernel first writes to them,
// and large ones come many times faster. On memory that is there already the advice does nothing.
void advise_new(const Tensor& tensor) {
  std::int64_t bytes;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  if (bytes >= kAdvisedBytes) {
    advise_huge_pages(tensor.mutable_data_ptr(), static_cast<std::size_t>(bytes));
  }
}

// A new tensor of the type that has torch's number `type`. Straight from the allocator: the
// dispatcher would cost more than the rest of a small convolution's preparations.
Tensor allocate(const std::array<std::int64_t, 4>& size, std::int32_t type, bool channels_last) {
  const auto [n, c, h, w] = size;
  const auto at_least_1 = [](std::int64_t extent) { return extent > 1 ? extent : 1; };
  std::int64_t stride[4] = {c * h * w, 1, c * w, c};
  if (!channels_last) {
    stride[3] = 1;
    stride[2] = at_least_1(w);
    stride[1] = stride[2] * at_least_1(h);
    stride[0] = stride[1] * at_least_1(c);
  }
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, size.data(), stride, type,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor tensor(handle);
  advise_new(tensor);
  return tensor;
}

Tensor allocate_vector(std::int64_t size, std::int32_t type) {
  constexpr std::int64_t kStride = 1;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &size, &kStride, type, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

// ---- running -----------------------------------------------------------------------------------

Threads torch_threads() {
  Threads threads;
  threads.count = static_cast<int>(torch::stable::get_num_threads());
  threads.parallel_for = [](std::int64_t items, Threads::Body body, void* context) {
    torch::stable::parallel_for(
        0, items, 1, [=](std::int64_t begin, std::int64_t end) { body(context, begin, end); });
  };
  return threads;
}

// Runs a pass on operands that have been checked; `result` is the tensor it writes.
void run(const ConvProblem& problem, Pass pass, const ConvTensors& tensors, bool is_complex,
         const Tensor& result) {
  if (!is_complex) {
    run_plan(current_plan(problem, pass), tensors, torch_threads());
    return;
  }
  Tensor sums[2];
  TensorView views[2];
  const DType dtype = complex_sum_dtype(problem.dtype);
  for (int i = 0; i < 2 && pass != Pass::kBgrad; ++i) {
    sums[i] =
        allocate(four_sizes(result),
                 dtype == DType::kFloat64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
                 suggests_channels_last(result));
    views[i] = writable_view_of(sums[i], dtype);
  }
  run_complex(problem, pass, tensors, views[0], views[1], torch_threads());
}

// ---- the operators -----------------------------------------------------------------------------

// An operator's arguments as they came.
struct Lists {
  std::vector<std::int64_t> stride, padding, dilation;
  std::int64_t groups;
  std::string padding_mode;
};

// The ranks are checked with the rest of the geometry, later.
Layout layout_of_tensor(const Tensor& tensor) {
  return tensor.dim() == 4 ? layout_of(view_at(nullptr, tensor, DType::kFloat32))
                           : Layout::kStrided;
}

// Where a sample's result must not depend on its batch, neither may how the samples lie.
Layout layout_of_input(const Tensor& input) {
  if (!is_batch_invariant() || input.dim() != 4 || input.sizes()[0] == 0) {
    return layout_of_tensor(input);
  }
  TensorView sample = view_at(nullptr, input, DType::kFloat32);
  sample.size[0] = 1;
  return layout_of(sample);
}

ConvProblem problem_of(const Tensor& input, const Tensor& weight, const Lists& lists, DType dtype) {
  return make_conv_problem({sizes_of(input), sizes_of(weight), lists.stride, lists.padding,
                            lists.dilation, lists.groups, lists.padding_mode, dtype,
                            layout_of_input(input), layout_of_tensor(weight)});
}

ConvProblem problem_of(const Tensor& input, const Tensor& weight, const Geometry& geometry,
                       DType dtype) {
  return make_conv_problem(four_sizes(input), four_sizes(weight), geometry, dtype,
                           layout_of_input(input), layout_of_tensor(weight));
}

void check_cpu(const Tensor& tensor, const char* argument) {
  if (!tensor.is_cpu()) {
    fail(std::string("convext: ") + argument +
         " is on another device than the CPU tensors it is convolved with; move all of them to "
         "one device");
  }
}

// The forward pass of operands that have been checked; `bias` may be null.
Tensor forward(const ConvProblem& problem, const ElementType& type, const Tensor& input,
               const Tensor& weight, const Tensor* bias) {
  const bool channels_last = suggests_channels_last(input) || suggests_channels_last(weight);
  // As in ATen, an input without channels gives an output without channels.
  Tensor output = allocate({problem.N, problem.C ? problem.K : 0, problem.P, problem.Q},
                           type_number(input), channels_last);
  if (problem.is_empty()) return output;
  ConvTensors tensors;
  tensors.input = view_of(input, type.real);
  tensors.weight = view_of(weight, type.real);
  if (bias != nullptr) tensors.bias = view_of(*bias, type.real);
  tensors.output = writable_view_of(output, type.real);
  run(problem, Pass::kFprop, tensors, type.is_complex, output);
  return output;
}

Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
              const Lists& lists) {
  check_cpu(input, "input");
  check_cpu(weight, "weight");
  const ElementType type = element_type(input.scalar_type(), "input");
  const ElementType weight_type = element_type(weight.scalar_type(), "weight");
  const ConvProblem problem = problem_of(input, weight, lists, type.real);
  if (bias) {
    check_cpu(*bias, "bias");
    check_bias(problem, sizes_of(weight), sizes_of(*bias));
    if (bias->scalar_type() != input.scalar_type()) {
      fail(std::string("Input type (") + type.name + ") and bias type (" +
           element_type(bias->scalar_type(), "bias").name + ") should be the same");
    }
  }
  if (weight.scalar_type() != input.scalar_type()) {
    fail(std::string("expected scalar type ") + type.c10_name + " but found " +
         weight_type.c10_name + ": input and weight must have the same dtype");
  }
  return forward(problem, type, input, weight, bias ? &*bias : nullptr);
}

// Whether nothing about the operands is unusual; what is, conv2d has words for.
bool is_usual(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  const std::int32_t type = type_number(input);
  if (type != aoti_torch_dtype_float32() && type != aoti_torch_dtype_float64() &&
      type != aoti_torch_dtype_bfloat16() && type != aoti_torch_dtype_float16()) {
    return false;
  }
  return type_number(weight) == type && input.dim() == 4 && weight.dim() == 4 &&
         (!bias || (type_number(*bias) == type && bias->dim() == 1 &&
                    bias->sizes()[0] == weight.sizes()[0]));
}

std::array<Tensor, 3> backward(const ConvProblem& problem, const ElementType& type,
                               const Tensor& grad_output, const Tensor& input, const Tensor& weight,
                               const std::array<bool, 3>& output_mask) {
  const std::int32_t number = type_number(input);
  if (type_number(weight) != number || type_number(grad_output) != number) {
    fail(std::string("expected scalar type ") + type.c10_name + " but found " +
         element_type(weight.scalar_type(), "weight").c10_name + " (weight) and " +
         element_type(grad_output.scalar_type(), "grad_output").c10_name +
         " (grad_output): all must have input's dtype");
  }
  const Size4 expected{problem.N, problem.C ? problem.K : 0, problem.P, problem.Q};
  if (grad_output.dim() != 4 || four_sizes(grad_output) != expected) {
    fail("convext::conv2d_backward: expected grad_output of size " +
         format_sizes({expected.begin(), expected.end()}) + ", but got " +
         format_sizes(sizes_of(grad_output)));
  }
  const bool channels_last = suggests_channels_last(input) || suggests_channels_last(weight);
  std::array<Tensor, 3> gradients;
  ConvTensors tensors;
  tensors.input = view_of(input, type.real);
  tensors.weight = view_of(weight, type.real);
  tensors.output = view_of(grad_output, type.real);
  const auto zero_if_empty = [&](Tensor& gradient) {
    if (problem.is_empty()) torch::stable::zero_(gradient);
    return problem.is_empty();
  };
  if (output_mask[0]) {
    gradients[0] = allocate(four_sizes(input), number, channels_last);
    if (!zero_if_empty(gradients[0])) {
      ConvTensors t = tensors;
      t.input = writable_view_of(gradients[0], type.real);
      run(problem, Pass::kDgrad, t, type.is_complex, gradients[0]);
    }
  }
  if (output_mask[1]) {
    gradients[1] = allocate(four_sizes(weight), number, channels_last);
    if (!zero_if_empty(gradients[1])) {
      ConvTensors t = tensors;
      t.weight = writable_view_of(gradients[1], type.real);
      run(problem, Pass::kWgrad, t, type.is_complex, gradients[1]);
    }
  }
  if (output_mask[2]) {
    gradients[2] = allocate_vector(problem.K, number);
    if (!zero_if_empty(gradients[2])) {
      ConvTensors t = tensors;
      t.bias = writable_view_of(gradients[2], type.real);
      run(problem, Pass::kBgrad, t, type.is_complex, gradients[2]);
    }
  }
  return gradients;
}

template <class GeometryOrLists>
std::array<Tensor, 3> conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                      const Tensor& weight, const GeometryOrLists& geometry,
                                      const std::array<bool, 3>& output_mask) {
  check_cpu(grad_output, "grad_output");
  check_cpu(input, "input");
  check_cpu(weight, "weight");
  const ElementType type = element_type(input.scalar_type(), "input");
  return backward(problem_of(input, weight, geometry, type.real), type, grad_output, input, weight,
                  output_mask);
}

// ---- boxing ------------------------------------------------------------------------------------
// By hand rather than by TORCH_BOX: torch's header leaks a string for every `str` argument.

using torch::stable::detail::from;
using torch::stable::detail::to;

std::string take_string(StableIValue value) {
  const StringHandle handle = to<StringHandle>(value);
  const char* data = nullptr;
  std::size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  std::string text(data, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
}

Lists take_lists(const StableIValue* stack) {
  // Every value is taken, so that all of them are freed whatever happens next.
  Lists lists;
  lists.stride = to<std::vector<std::int64_t>>(stack[0]);
  lists.padding = to<std::vector<std::int64_t>>(stack[1]);
  lists.dilation = to<std::vector<std::int64_t>>(stack[2]);
  lists.groups = to<std::int64_t>(stack[3]);
  lists.padding_mode = take_string(stack[4]);
  return lists;
}

void boxed_conv2d(StableIValue* stack, std::uint64_t, std::uint64_t) {
  const Tensor input = to<Tensor>(stack[0]);
  const Tensor weight = to<Tensor>(stack[1]);
  const std::optional<Tensor> bias = to<std::optional<Tensor>>(stack[2]);
  const Lists lists = take_lists(stack + 3);
  stack[0] = from(conv2d(input, weight, bias, lists));
}

void boxed_conv2d_backward(StableIValue* stack, std::uint64_t, std::uint64_t) {
  const Tensor grad_output = to<Tensor>(stack[0]);
  const Tensor input = to<Tensor>(stack[1]);
  const Tensor weight = to<Tensor>(stack[2]);
  const Lists lists = take_lists(stack + 3);
  const std::vector<bool> mask = to<std::vector<bool>>(stack[8]);
  if (mask.size() != 3) fail("convext::conv2d_backward: output_mask must hold 3 values");
  const std::array<Tensor, 3> gradients =
      conv2d_backward(grad_output, input, weight, lists, {mask[0], mask[1], mask[2]});
  for (int i = 0; i < 3; ++i) stack[i] = from(gradients[i]);
}

void boxed_short_conv2d(StableIValue* stack, std::uint64_t, std::uint64_t) {
  const Tensor input = to<Tensor>(stack[0]);
  const Tensor weight = to<Tensor>(stack[1]);
  const std::optional<Tensor> bias = to<std::optional<Tensor>>(stack[2]);
  const Geometry geometry = unpack_geometry(to<std::int64_t>(stack[3]));
  if (!is_usual(input, weight, bias)) {
    stack[0] = from(Tensor());
    return;
  }
  const ElementType type = element_type(input.scalar_type(), "input");
  const ConvProblem problem = problem_of(input, weight, geometry, type.real);
  stack[0] = from(forward(problem, type, input, weight, bias ? &*bias : nullptr));
}

void boxed_short_conv2d_backward(StableIValue* stack, std::uint64_t, std::uint64_t) {
  const Tensor grad_output = to<Tensor>(stack[0]);
  const Tensor input = to<Tensor>(stack[1]);
  const Tensor weight = to<Tensor>(stack[2]);
  const Geometry geometry = unpack_geometry(to<std::int64_t>(stack[3]));
  const std::int64_t mask = to<std::int64_t>(stack[4]);
  const std::array<Tensor, 3> gradients = conv2d_backward(
      grad_output, input, weight, geometry, {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0});
  for (int i = 0; i < 3; ++i) stack[i] = from(gradients[i]);
}

}  // namespace
}  // namespace convext

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  m.impl("conv2d", &convext::boxed_conv2d);
  m.impl("conv2d_backward", &convext::boxed_conv2d_backward);
  m.impl("_conv2d", &convext::boxed_short_conv2d);
  m.impl("_conv2d_backward", &convext::boxed_short_conv2d_backward);
}
