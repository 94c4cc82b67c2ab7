// The operators on CUDA: tensors -> problem -> plan -> rung, on torch's current stream, in torch's
// memory, without waiting for the device.
#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/plan_cuda.h"
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

void* current_stream(std::int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
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
  return allocate_vector(bytes, aoti_torch_dtype_uint8(),
                         {aoti_torch_device_type_cuda(), device});
}

// A tensor as a rung wants it: itself, or a copy with adjacent channels.
struct Adjacent {
  TensorView view;
  Tensor copy;
  bool copied = false;
};

bool channels_are_adjacent(const TensorView& view) {
  return view.stride[1] == 1 || view.size[1] == 1;
}

Strides strides_of(const TensorView& view) {
  return {view.stride[0], view.stride[1], view.stride[2], view.stride[3]};
}

// Without its data.
Adjacent with_adjacent_channels(const TensorView& view, std::int32_t device) {
  Adjacent made{view, Tensor(), false};
  if (channels_are_adjacent(view)) return made;
  const auto [n, c, h, w] = view.size;
  made.copy = bytes_on(device, n * c * h * w * bytes_of(view.dtype));
  made.copied = true;
  made.view.data = made.copy.mutable_data_ptr();
  made.view.stride[1] = 1;
  made.view.stride[3] = c;
  made.view.stride[2] = w * c;
  made.view.stride[0] = h * w * c;
  return made;
}

void copy(const TensorView& from, const TensorView& to, void* stream) {
  cuda::run_copy_layout(from.dtype, from.size, from.data, strides_of(from), to.data,
                        strides_of(to), stream);
}

struct Cuda {
  static void check(const Tensor& tensor, const char* argument) {
    if (tensor.is_cuda()) return;
    fail(std::string("convext: ") + argument +
         " is on another device than the CUDA tensors it is convolved with; move all of them to "
         "one device");
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
    if (is_complex || bytes_of(problem.dtype) < 2 || problem.dtype == DType::kInt16 ||
        problem.dtype == DType::kInt32 || problem.dtype == DType::kInt64) {
      fail("convext: the CUDA kernels take float32, float64, bfloat16 and float16");
    }
    const std::int32_t device = device_index(result);
    const torch::stable::accelerator::DeviceGuard guard(device);
    void* stream = current_stream(device);
    try {
      run_on(problem, pass, tensors, device, stream);
    } catch (const cuda::LaunchFailed& error) {
      fail(std::string("convext: CUDA: ") + error.what);
    }
  }

 private:
  static void run_on(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                     std::int32_t device, void* stream) {
    const auto params_of = [&](const TensorView& x, const TensorView& w, const TensorView& y) {
      return cuda::make_params(problem, x.stride, w.stride, y.stride);
    };
    const auto plan_for = [&](const ConvParams& params) {
      cuda::CudaOptions options;
      options.tf32 = cuda::tf32_allowed();
      options.workspace_limit = current_options().workspace_limit;
      return cuda::plan_cuda(params, pass, problem.dtype, traits_of(device), options);
    };
    // The plan supposes adjacent channels; a rung that does without takes tensors as they are.
    const bool bias_alone = pass == Pass::kBgrad;
    Adjacent input{tensors.input, Tensor(), false}, weight{tensors.weight, Tensor(), false};
    Adjacent output{tensors.output, Tensor(), false};
    if (!bias_alone) {
      input = with_adjacent_channels(tensors.input, device);
      weight = with_adjacent_channels(tensors.weight, device);
      output = with_adjacent_channels(tensors.output, device);
    }
    ConvParams params = params_of(input.view, weight.view, output.view);
    const cuda::CudaPlan plan = plan_for(params);
    if (!plan.rung->channels_last) {
      input = {tensors.input, Tensor(), false};
      weight = {tensors.weight, Tensor(), false};
      output = {tensors.output, Tensor(), false};
      params = params_of(input.view, weight.view, output.view);
    }
    const auto bring = [&](const Adjacent& made, const TensorView& original) {
      if (made.copied) copy(original, made.view, stream);
    };
    if (pass != Pass::kDgrad) bring(input, tensors.input);
    if (pass != Pass::kWgrad) bring(weight, tensors.weight);
    if (pass != Pass::kFprop) bring(output, tensors.output);

    const Tensor workspace = bytes_on(device, plan.workspace_bytes);
    cuda::Operands operands;
    operands.input = input.view.data;
    operands.weight = weight.view.data;
    operands.output = output.view.data;
    operands.bias = tensors.bias.data;
    operands.workspace = workspace.mutable_data_ptr();
    const Adjacent& made = pass == Pass::kFprop   ? output
                           : pass == Pass::kDgrad ? input
                                                  : weight;
    operands.result = bias_alone ? tensors.bias.data : made.view.data;
    plan.rung->run(params, operands, stream);
    if (!bias_alone && made.copied) {
      copy(made.view,
           pass == Pass::kFprop   ? tensors.output
           : pass == Pass::kDgrad ? tensors.input
                                  : tensors.weight,
           stream);
    }
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
