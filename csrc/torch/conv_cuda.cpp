// The operators on CUDA: tensors -> problem -> plan -> rung, on torch's current stream, in torch's
// memory, without waiting for the device.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/plan_cuda.h"
#include "../cuda_library.h"
#include "../plan/options.h"
#include "conv_ops.h"

namespace convext {
namespace {

using cuda::ConvParams;
using cuda::Strides;

std::int32_t device_index(const Tensor& tensor) {
  std::int32_t index;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &index));
  return index;
}

// Of torch's CUDA build alone, and of a library that this one is not linked to, so that it can be
// loaded into any torch (its plans can be looked at there). Python loads torch's libraries for
// themselves: a name that is left open here would not be found in them.
using StreamQuery = AOTITorchError (*)(std::int32_t, void**);

StreamQuery find_stream_query() {
  void* const library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<StreamQuery>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

void* current_stream(std::int32_t device) {
  static const StreamQuery query = find_stream_query();
  if (query == nullptr) {
    fail(
        "convext: CUDA tensors need a torch whose libtorch_cuda.so is loaded and tells its current "
        "stream; this one does not");
  }
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(query(device, &stream));
  return stream;
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, which, device);
  if (error != cudaSuccess) fail(std::string("convext: CUDA: ") + cudaGetErrorString(error));
  return value;
}

cuda::DeviceTraits traits_of(std::int32_t device) {
  return {10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
              attribute(cudaDevAttrComputeCapabilityMinor, device),
          attribute(cudaDevAttrMultiProcessorCount, device)};
}

Place place_of(const Tensor& tensor) {
  return {aoti_torch_device_type_cuda(), device_index(tensor)};
}

// Bytes of the caching allocator: what is freed while kernels still run is reused after them.
Tensor bytes_on(std::int32_t device, std::int64_t bytes) {
  return allocate_vector(bytes, aoti_torch_dtype_uint8(), {aoti_torch_device_type_cuda(), device});
}

// An operand as most rungs want it, with adjacent channels: where it lies, or a copy.
struct Operand {
  TensorView original, view;
  std::int64_t element_bytes;
  bool copied;
  std::int64_t bytes = 0;  // of the copy
  Tensor memory;           // the copy

  explicit Operand(const TensorView& tensor, bool is_complex = false)
      : original(tensor),
        view(tensor),
        element_bytes(bytes_of(tensor.dtype) * (is_complex ? 2 : 1)),
        copied(tensor.data != nullptr && tensor.stride[1] != 1 && tensor.size[1] > 1) {
    if (!copied) return;
    const auto [n, c, h, w] = view.size;
    bytes = n * c * h * w * element_bytes;
    view.data = nullptr;
    view.stride[1] = 1;
    view.stride[3] = c;
    view.stride[2] = w * c;
    view.stride[0] = h * w * c;
  }

  void take_as_it_lies() {
    view = original;
    copied = false;
  }
  void allocate(std::int32_t device) {
    if (!copied) return;
    memory = bytes_on(device, bytes);
    view.data = memory.mutable_data_ptr();
  }
  void copy_in(void* stream) const {
    if (copied) copy(original, view, stream);
  }
  void copy_out(void* stream) const {
    if (copied) copy(view, original, stream);
  }

 private:
  void copy(const TensorView& from, const TensorView& to, void* stream) const {
    cuda::run_copy_layout(element_bytes, from.size, from.data, strides_of(from), to.data,
                          strides_of(to), stream);
  }
  static Strides strides_of(const TensorView& view) {
    return {view.stride[0], view.stride[1], view.stride[2], view.stride[3]};
  }
};

// Complex channels that are adjacent, as twice as many real ones.
TensorView as_real(TensorView view) {
  for (std::int64_t& stride : view.stride) stride *= 2;
  view.stride[1] = 1;
  view.size[1] *= 2;
  return view;
}

struct Queue {
  std::int32_t device;
  void* stream;
};

struct Cuda {
  static bool is_here(const Tensor& tensor, const Tensor& input) {
    return tensor.is_cuda() && input.is_cuda() && device_index(tensor) == device_index(input);
  }

  static Tensor allocate(const Tensor& like, const Size4& size, std::int32_t type,
                         bool channels_last) {
    return convext::allocate(size, type, channels_last, place_of(like));
  }

  static Tensor allocate_vector(const Tensor& like, std::int64_t size, std::int32_t type) {
    return convext::allocate_vector(size, type, place_of(like));
  }

  static void run(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                  bool is_complex, const Tensor& result) {
    if (!is_floating_point(problem.dtype)) {
      fail("convext::conv2d: CUDA kernels take floating point and complex tensors, no integers");
    }
    const std::int32_t device = device_index(result);
    const torch::stable::accelerator::DeviceGuard guard(device);
    const Queue queue{device, current_stream(device)};
    is_complex ? run_complex(problem, pass, tensors, queue)
               : run_real(problem, pass, tensors, queue);
  }

 private:
  static void run_real(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                       const Queue& queue) {
    Operand input(tensors.input), weight(tensors.weight), output(tensors.output);
    Operand bias(tensors.bias);
    const auto params = [&] {
      ConvParams made =
          cuda::make_params(problem, input.view.stride, weight.view.stride, output.view.stride);
      for (const Operand* each : {&input, &weight, &output}) {
        if (reinterpret_cast<std::uintptr_t>(each->view.data) % 16 != 0) made.aligned = false;
      }
      return made;
    };
    const PlanOptions process = current_options();
    cuda::CudaOptions options;
    options.tf32 = problem.dtype == DType::kFloat32 && tf32_allowed();
    options.force = cuda_force_for(process.force, pass);
    options.workspace_limit = process.workspace_limit;
    options.input_copy_bytes = input.bytes;
    options.copy_bytes = weight.bytes + output.bytes;
    if (process.batch_invariant && process.workspace_limit != kNoLimit) {
      // Copies grow with the batch, on which nothing may depend: a limit bars them of any size.
      if (input.copied) options.input_copy_bytes = kNoLimit / 4;
      if (output.copied) options.copy_bytes = kNoLimit / 4;
    }
    const cuda::CudaPlan plan =
        cuda::plan_cuda(params(), pass, problem.dtype, traits_of(queue.device), options);
    if (!plan.rung->channels_last) {
      for (Operand* each : {&input, &weight, &output}) each->take_as_it_lies();
    } else if (plan.rung->any_input) {
      input.take_as_it_lies();
    }

    Operand* const result = pass == Pass::kFprop   ? &output
                            : pass == Pass::kDgrad ? &input
                            : pass == Pass::kWgrad ? &weight
                                                   : &bias;
    for (Operand* each : {&input, &weight, &output, &bias}) {
      each->allocate(queue.device);
      if (each != result) each->copy_in(queue.stream);
    }
    const Tensor workspace = bytes_on(queue.device, plan.workspace_bytes);
    cuda::Operands operands;
    operands.input = input.view.data;
    operands.weight = weight.view.data;
    operands.output = output.view.data;
    operands.bias = bias.view.data;
    operands.workspace = workspace.mutable_data_ptr();
    operands.result = result->view.data;
    const ProfilerRange range(plan.rung->name);
    plan.rung->run(params(), operands, queue.stream);
    count_cuda_run(plan.rung->name);
    note_run(pass, problem, plan.rung->name);
    result->copy_out(queue.stream);
  }

  // As a real convolution of twice the channels (cuda/complex.cuh).
  static void run_complex(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                          const Queue& queue) {
    ConvProblem real = problem;
    real.C *= 2;
    real.K *= 2;
    Operand input(tensors.input, true), output(tensors.output, true), bias(tensors.bias, true);
    // Before anything is copied: this refuses extents that kernels cannot count.
    const std::int64_t (&complex_strides)[4] = tensors.weight.stride;
    const cuda::ConvParams params = cuda::make_params(real, as_real(input.view).stride,
                                                      complex_strides, as_real(output.view).stride);
    Operand* const result = pass == Pass::kFprop   ? &output
                            : pass == Pass::kDgrad ? &input
                            : pass == Pass::kBgrad ? &bias
                                                   : nullptr;
    for (Operand* each : {&input, &output, &bias}) {
      each->allocate(queue.device);
      if (each != result) each->copy_in(queue.stream);
    }
    ConvTensors parts;
    parts.input = as_real(input.view);
    parts.output = as_real(output.view);
    parts.bias = as_real(bias.view);

    parts.weight.dtype = problem.dtype;
    const std::int64_t channels = real.channels_per_group();
    const std::int64_t size[4] = {real.K, channels, real.R, real.S};
    const std::int64_t stride[4] = {real.R * real.S * channels, 1, real.S * channels, channels};
    for (int i = 0; i < 4; ++i) {
      parts.weight.size[i] = size[i];
      parts.weight.stride[i] = stride[i];
    }
    const Tensor expanded = bytes_on(queue.device, real.K * stride[0] * bytes_of(problem.dtype));
    parts.weight.data = expanded.mutable_data_ptr();
    if (pass == Pass::kFprop || pass == Pass::kDgrad) {
      cuda::run_expand_complex_weight(problem.dtype, params, tensors.weight.data, parts.weight.data,
                                      queue.stream);
    }
    run_real(real, pass, parts, queue);
    if (pass == Pass::kWgrad) {
      cuda::run_fold_complex_gradient(problem.dtype, params, parts.weight.data, tensors.weight.data,
                                      queue.stream);
    }
    if (result != nullptr) result->copy_out(queue.stream);
  }
};

}  // namespace
}  // namespace convext

STABLE_TORCH_LIBRARY_IMPL(convext, CUDA, m) {
  using Ops = convext::ConvOps<convext::Cuda>;
  m.impl("conv2d", &Ops::boxed_conv2d);
  m.impl("conv2d_backward", &Ops::boxed_conv2d_backward);
  m.impl("_conv2d", &Ops::boxed_short_conv2d);
  m.impl("_conv2d_backward", &Ops::boxed_short_conv2d_backward);
}
