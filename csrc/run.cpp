#include "run.h"

#include <atomic>
#include <memory>
#include <mutex>

#include "cpu/drivers.h"
#include "plan/kernel_table.h"
#include "reference/reference.h"

namespace convext {
namespace {

std::atomic<std::int64_t>* run_counters() {
  static const std::unique_ptr<std::atomic<std::int64_t>[]> counters(
      new std::atomic<std::int64_t>[kernel_table().size()]());
  return counters.get();
}

// Of each pass; guarded by the mutex. A name is copied into the place of the last one: no call
// allocates but the first.
struct LastRuns {
  std::mutex mutex;
  KernelRun runs[kPassCount];
};

LastRuns& last_runs() {
  static LastRuns runs;
  return runs;
}

}  // namespace

KernelRun last_run(Pass pass) {
  LastRuns& last = last_runs();
  const std::lock_guard<std::mutex> lock(last.mutex);
  return last.runs[static_cast<int>(pass)];
}

void note_run(Pass pass, const ConvProblem& problem, const std::string& kernel) {
  LastRuns& last = last_runs();
  const std::lock_guard<std::mutex> lock(last.mutex);
  KernelRun& run = last.runs[static_cast<int>(pass)];
  run.kernel = kernel;
  run.problem = problem;
}

void forget_runs() {
  LastRuns& last = last_runs();
  const std::lock_guard<std::mutex> lock(last.mutex);
  for (KernelRun& run : last.runs) run = {};
}

std::int64_t kernel_runs(int index) { return run_counters()[index].load(); }

void reset_kernel_runs() {
  for (std::size_t i = 0; i < kernel_table().size(); ++i) run_counters()[i].store(0);
}

namespace {

void run_kernel(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  const ConvProblem& problem = plan.problem;
  switch (plan.kernel->algorithm) {
    case Algorithm::kReference:
      switch (plan.pass) {
        case Pass::kFprop: return reference_fprop(problem, tensors, threads);
        case Pass::kDgrad: return reference_dgrad(problem, tensors, threads);
        case Pass::kWgrad: return reference_wgrad(problem, tensors, threads);
        case Pass::kBgrad: return reference_bgrad(problem, tensors, threads);
      }
      return;
    case Algorithm::kIndirect:
    case Algorithm::kIndirectPairs: return run_indirect(plan, tensors, threads);
    case Algorithm::kIm2col: return run_im2col(plan, tensors, threads);
    case Algorithm::kDirect: return run_direct(plan, tensors, threads);
    case Algorithm::kDirectPlanes: return run_direct_planes(plan, tensors, threads);
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4:
    case Algorithm::kPolyphase2:
    case Algorithm::kPolyphase4:
      if (plan.pass == Pass::kWgrad) return run_winograd_wgrad(plan, tensors, threads);
      return run_winograd(plan, tensors, threads);
    case Algorithm::kDepthwise:
    case Algorithm::kGrouped:
      if (plan.pass == Pass::kWgrad) return run_depthwise_wgrad(plan, tensors, threads);
      return run_channel_strips(plan, tensors, threads);
    case Algorithm::kOuter: return run_outer(plan, tensors, threads);
    case Algorithm::kPointwise: return run_pointwise(plan, tensors, threads);
    case Algorithm::kDot: return run_dot(plan, tensors, threads);
    case Algorithm::kAxpy: return run_axpy(plan, tensors, threads);
    case Algorithm::kGroupedPlanes: return run_grouped_planes(plan, tensors, threads);
    case Algorithm::kRowsum: return run_rowsum(plan, tensors, threads);
  }
}

}  // namespace

void run_plan(const ConvPlan& plan, const ConvTensors& tensors, const Threads& all_threads) {
  const Threads threads = plan.one_thread ? Threads{} : all_threads;
  const ScratchUse use;
  run_counters()[plan.kernel->index].fetch_add(1, std::memory_order_relaxed);
  note_run(plan.pass, plan.problem, plan.kernel->name);
  if (plan.border == nullptr) return run_kernel(plan, tensors, threads);
  ConvPlan zeros = plan;
  zeros.problem.padding_mode = PaddingMode::kZeros;
  run_kernel(zeros, tensors, threads);
  run_border(plan, tensors, threads);
}

}  // namespace convext
