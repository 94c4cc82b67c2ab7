// The operators, whatever the device: what only tensors know is checked (dtypes, devices), results
// are allocated, and passes run. Geometry is ConvProblem's, loops over data are the kernels'.
//
// A Device has
//   is_here(tensor, input)                     whether the tensor is on the device, where `input` is
//   allocate(like, size, type, channels_last)  a new tensor where `like` is
//   allocate_vector(like, size, type)
//   run(problem, pass, tensors, is_complex, result)
#pragma once

#include "tensors.h"

namespace convext {

template <class Device>
struct ConvOps {
  static void check_device(const Tensor& tensor, const char* argument, const Tensor& input) {
    if (Device::is_here(tensor, input)) return;
    fail(std::string("convext: ") + argument +
         " is on another device than the tensors it is convolved with; move all of them to one "
         "device");
  }

  // The forward pass of operands that have been checked; `bias` may be null.
  static Tensor forward(const ConvProblem& problem, const ElementType& type, const Tensor& input,
                        const Tensor& weight, const Tensor* bias) {
    const bool channels_last = suggests_channels_last(input) || suggests_channels_last(weight);
    // As in ATen, an input without channels gives an output without channels.
    Tensor output =
        Device::allocate(input, {problem.N, problem.C ? problem.K : 0, problem.P, problem.Q},
                         type_number(input), channels_last);
    if (problem.is_empty()) return output;
    ConvTensors tensors;
    tensors.input = view_of(input, type.real);
    tensors.weight = view_of(weight, type.real);
    if (bias != nullptr) tensors.bias = view_of(*bias, type.real);
    tensors.output = writable_view_of(output, type.real);
    Device::run(problem, Pass::kFprop, tensors, type.is_complex, output);
    return output;
  }

  static Tensor conv2d(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                       const Lists& lists) {
    check_device(input, "input", input);
    check_device(weight, "weight", input);
    const ElementType type = element_type(input.scalar_type(), "input");
    const ElementType weight_type = element_type(weight.scalar_type(), "weight");
    const ConvProblem problem = problem_of(input, weight, lists, type.real);
    if (bias) {
      check_device(*bias, "bias", input);
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

  static std::array<Tensor, 3> backward(const ConvProblem& problem, const ElementType& type,
                                        const Tensor& grad_output, const Tensor& input,
                                        const Tensor& weight,
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
      gradients[0] = Device::allocate(input, four_sizes(input), number, channels_last);
      if (!zero_if_empty(gradients[0])) {
        ConvTensors t = tensors;
        t.input = writable_view_of(gradients[0], type.real);
        Device::run(problem, Pass::kDgrad, t, type.is_complex, gradients[0]);
      }
    }
    if (output_mask[1]) {
      gradients[1] = Device::allocate(input, four_sizes(weight), number, channels_last);
      if (!zero_if_empty(gradients[1])) {
        ConvTensors t = tensors;
        t.weight = writable_view_of(gradients[1], type.real);
        Device::run(problem, Pass::kWgrad, t, type.is_complex, gradients[1]);
      }
    }
    if (output_mask[2]) {
      gradients[2] = Device::allocate_vector(input, problem.K, number);
      if (!zero_if_empty(gradients[2])) {
        ConvTensors t = tensors;
        t.bias = writable_view_of(gradients[2], type.real);
        Device::run(problem, Pass::kBgrad, t, type.is_complex, gradients[2]);
      }
    }
    return gradients;
  }

  template <class GeometryOrLists>
  static std::array<Tensor, 3> conv2d_backward(const Tensor& grad_output, const Tensor& input,
                                               const Tensor& weight,
                                               const GeometryOrLists& geometry,
                                               const std::array<bool, 3>& output_mask) {
    check_device(grad_output, "grad_output", input);
    check_device(input, "input", input);
    check_device(weight, "weight", input);
    const ElementType type = element_type(input.scalar_type(), "input");
    return backward(problem_of(input, weight, geometry, type.real), type, grad_output, input,
                    weight, output_mask);
  }

  static void boxed_conv2d(StableIValue* stack, std::uint64_t, std::uint64_t) {
    const Tensor input = to<Tensor>(stack[0]);
    const Tensor weight = to<Tensor>(stack[1]);
    const std::optional<Tensor> bias = to<std::optional<Tensor>>(stack[2]);
    const Lists lists = take_lists(stack + 3);
    stack[0] = from(conv2d(input, weight, bias, lists));
  }

  static void boxed_conv2d_backward(StableIValue* stack, std::uint64_t, std::uint64_t) {
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

  static void boxed_short_conv2d(StableIValue* stack, std::uint64_t, std::uint64_t) {
    const Tensor input = to<Tensor>(stack[0]);
    const Tensor weight = to<Tensor>(stack[1]);
    const std::optional<Tensor> bias = to<std::optional<Tensor>>(stack[2]);
    const Geometry geometry = unpack_geometry(to<std::int64_t>(stack[3]));
    if (!is_usual(input, weight, bias) || !Device::is_here(weight, input) ||
        (bias && !Device::is_here(*bias, input))) {
      stack[0] = from(Tensor());
      return;
    }
    const ElementType type = element_type(input.scalar_type(), "input");
    const ConvProblem problem = problem_of(input, weight, geometry, type.real);
    stack[0] = from(forward(problem, type, input, weight, bias ? &*bias : nullptr));
  }

  static void boxed_short_conv2d_backward(StableIValue* stack, std::uint64_t, std::uint64_t) {
    const Tensor grad_output = to<Tensor>(stack[0]);
    const Tensor input = to<Tensor>(stack[1]);
    const Tensor weight = to<Tensor>(stack[2]);
    const Geometry geometry = unpack_geometry(to<std::int64_t>(stack[3]));
    const std::int64_t mask = to<std::int64_t>(stack[4]);
    const std::array<Tensor, 3> gradients = conv2d_backward(
        grad_output, input, weight, geometry, {(mask & 1) != 0, (mask & 2) != 0, (mask & 4) != 0});
    for (int i = 0; i < 3; ++i) stack[i] = from(gradients[i]);
  }
};

}  // namespace convext
