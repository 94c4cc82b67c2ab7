// What the operators of every device need of tensors: their types, their views, the arguments of an
// operator as they come.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../run.h"

namespace convext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

[[noreturn]] inline void fail(const std::string& message) { throw std::runtime_error(message); }

// ---- profiler ----------------------------------------------------------------------------------

// While it lives, torch's profiler shows an operator of this name. In a torch that cannot be told,
// there is none.
#pragma weak aoti_record_function_start
#pragma weak aoti_record_function_end

class ProfilerRange {
 public:
  explicit ProfilerRange(const std::string& name) {
    if (aoti_record_function_start == nullptr || aoti_record_function_end == nullptr) return;
    if (aoti_record_function_start(name.c_str(), nullptr, nullptr, 0, &handle_) != 0) {
      handle_ = nullptr;
    }
  }
  ~ProfilerRange() {
    if (handle_ != nullptr) aoti_record_function_end(handle_);
  }
  ProfilerRange(const ProfilerRange&) = delete;
  ProfilerRange& operator=(const ProfilerRange&) = delete;

 private:
  AtenRecordFunctionHandle handle_ = nullptr;
};

// ---- dtypes ------------------------------------------------------------------------------------

struct ElementType {
  DType real;  // the type itself, or that of a complex number's parts
  bool is_complex;
  const char* name;      // in torch's error messages
  const char* c10_name;  // in torch's other error messages
};

inline ElementType element_type(ScalarType type, const char* argument) {
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

inline std::vector<std::int64_t> sizes_of(const Tensor& tensor) {
  return {tensor.sizes().begin(), tensor.sizes().end()};
}

inline Size4 four_sizes(const Tensor& tensor) {
  const auto size = tensor.sizes();
  return {size[0], size[1], size[2], size[3]};
}

inline TensorView view_at(void* data, const Tensor& tensor, DType dtype) {
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
inline TensorView view_of(const Tensor& tensor, DType dtype) {
  return view_at(const_cast<void*>(tensor.const_data_ptr()), tensor, dtype);
}

inline TensorView writable_view_of(const Tensor& tensor, DType dtype) {
  return view_at(tensor.mutable_data_ptr(), tensor, dtype);
}

// ATen's rule for whether strides suggest channels_last (c10's is_channels_last_strides_2d).
inline bool suggests_channels_last(const Tensor& tensor) {
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

inline std::int32_t type_number(const Tensor& tensor) {
  std::int32_t number;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &number));
  return number;
}

// ---- allocation --------------------------------------------------------------------------------
// Straight from the allocator: the dispatcher would cost more than the rest of a small
// convolution's preparations.

// As torch numbers device types and devices.
struct Place {
  std::int32_t device_type, device;
};

// A new tensor of the type that has torch's number `type`, contiguous or channels_last.
inline Tensor allocate(const Size4& size, std::int32_t type, bool channels_last, Place place) {
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
                                                         place.device_type, place.device, &handle));
  return Tensor(handle);
}

inline Tensor allocate_vector(std::int64_t size, std::int32_t type, Place place) {
  constexpr std::int64_t kStride = 1;
  AtenTensorHandle handle;
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(1, &size, &kStride, type, place.device_type, place.device, &handle));
  return Tensor(handle);
}

// ---- the problem -------------------------------------------------------------------------------

// An operator's arguments as they came.
struct Lists {
  std::vector<std::int64_t> stride, padding, dilation;
  std::int64_t groups;
  std::string padding_mode;
};

// The ranks are checked with the rest of the geometry, later.
inline Layout layout_of_tensor(const Tensor& tensor) {
  return tensor.dim() == 4 ? layout_of(view_at(nullptr, tensor, DType::kFloat32))
                           : Layout::kStrided;
}

// Where a sample's result must not depend on its batch, neither may how the samples lie.
inline Layout layout_of_input(const Tensor& input) {
  if (!is_batch_invariant() || input.dim() != 4 || input.sizes()[0] == 0) {
    return layout_of_tensor(input);
  }
  TensorView sample = view_at(nullptr, input, DType::kFloat32);
  sample.size[0] = 1;
  return layout_of(sample);
}

inline ConvProblem problem_of(const Tensor& input, const Tensor& weight, const Lists& lists,
                              DType dtype) {
  return make_conv_problem({sizes_of(input), sizes_of(weight), lists.stride, lists.padding,
                            lists.dilation, lists.groups, lists.padding_mode, dtype,
                            layout_of_input(input), layout_of_tensor(weight)});
}

inline ConvProblem problem_of(const Tensor& input, const Tensor& weight, const Geometry& geometry,
                              DType dtype) {
  return make_conv_problem(four_sizes(input), four_sizes(weight), geometry, dtype,
                           layout_of_input(input), layout_of_tensor(weight));
}

// Whether nothing about the operands is unusual; what is, conv2d has words for.
inline bool is_usual(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias) {
  const std::int32_t type = type_number(input);
  if (type != aoti_torch_dtype_float32() && type != aoti_torch_dtype_float64() &&
      type != aoti_torch_dtype_bfloat16() && type != aoti_torch_dtype_float16()) {
    return false;
  }
  return type_number(weight) == type && input.dim() == 4 && weight.dim() == 4 &&
         (!bias || (type_number(*bias) == type && bias->dim() == 1 &&
                    bias->sizes()[0] == weight.sizes()[0]));
}

// ---- boxing ------------------------------------------------------------------------------------
// By hand rather than by TORCH_BOX: torch's header leaks a string for every `str` argument.

using torch::stable::detail::from;
using torch::stable::detail::to;

inline std::string take_string(StableIValue value) {
  const StringHandle handle = to<StringHandle>(value);
  const char* data = nullptr;
  std::size_t length = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
  STABLE_TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
  std::string text(data, length);
  STABLE_TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
  return text;
}

inline Lists take_lists(const StableIValue* stack) {
  // Every value is taken, so that all of them are freed whatever happens next.
  Lists lists;
  lists.stride = to<std::vector<std::int64_t>>(stack[0]);
  lists.padding = to<std::vector<std::int64_t>>(stack[1]);
  lists.dilation = to<std::vector<std::int64_t>>(stack[2]);
  lists.groups = to<std::int64_t>(stack[3]);
  lists.padding_mode = take_string(stack[4]);
  return lists;
}

}  // namespace convext
