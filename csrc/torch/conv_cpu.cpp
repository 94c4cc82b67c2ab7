// The operators on the CPU: tensors -> problem -> plan -> run.
#include "../complex.h"
#include "../cpu/scratch.h"
#include "conv_ops.h"

namespace convext {
namespace {

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

Place cpu() { return {aoti_torch_device_type_cpu(), 0}; }

Tensor allocate_advised(const Size4& size, std::int32_t type, bool channels_last) {
  const Tensor tensor = allocate(size, type, channels_last, cpu());
  advise_new(tensor);
  return tensor;
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
    const ConvPlan& plan = current_plan(problem, pass);
    const ProfilerRange range(plan.kernel->name);
    run_plan(plan, tensors, torch_threads());
    return;
  }
  Tensor sums[2];
  TensorView views[2];
  const DType dtype = complex_sum_dtype(problem.dtype);
  for (int i = 0; i < 2 && pass != Pass::kBgrad; ++i) {
    sums[i] = allocate_advised(
        four_sizes(result),
        dtype == DType::kFloat64 ? aoti_torch_dtype_float64() : aoti_torch_dtype_float32(),
        suggests_channels_last(result));
    views[i] = writable_view_of(sums[i], dtype);
  }
  run_complex(problem, pass, tensors, views[0], views[1], torch_threads());
}

struct Cpu {
  static bool is_here(const Tensor& tensor, const Tensor&) { return tensor.is_cpu(); }
  static Tensor allocate(const Tensor&, const Size4& size, std::int32_t type, bool channels_last) {
    return allocate_advised(size, type, channels_last);
  }
  static Tensor allocate_vector(const Tensor&, std::int64_t size, std::int32_t type) {
    return convext::allocate_vector(size, type, cpu());
  }
  static void run(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                  bool is_complex, const Tensor& result) {
    convext::run(problem, pass, tensors, is_complex, result);
  }
};

}  // namespace
}  // namespace convext

STABLE_TORCH_LIBRARY_IMPL(convext, CPU, m) {
  using Ops = convext::ConvOps<convext::Cpu>;
  m.impl("conv2d", &Ops::boxed_conv2d);
  m.impl("conv2d_backward", &Ops::boxed_conv2d_backward);
  m.impl("_conv2d", &Ops::boxed_short_conv2d);
  m.impl("_conv2d_backward", &Ops::boxed_short_conv2d_backward);
}
