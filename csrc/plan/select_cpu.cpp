// Chooses a kernel: of those that can run the problem, the one that the cost model (cost_model.h)
// expects to be cheapest. When a plan is to be explained, every refusal is kept with its reason. The
// blocking goes by shape alone.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "../int_math.h"
#include "cpu_features.h"
#include "kernel_table.h"

namespace convext {
namespace {

struct Force {
  std::string text;
  bool matches(const KernelInfo& kernel) const {
    return text == to_string(kernel.algorithm) || text == kernel.name;
  }
};

// "a", or "fprop=a,wgrad=b": the part that speaks about `pass`.
Force force_for(const std::string& spec, Pass pass) {
  std::stringstream parts(spec);
  std::string part;
  while (std::getline(parts, part, ',')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string::npos) {
      // A bare algorithm name speaks about the passes that have it, a kernel name about its own.
      for (const KernelInfo& kernel : kernel_table()) {
        if (kernel.pass == pass && Force{part}.matches(kernel)) return Force{part};
      }
    } else if (part.substr(0, equals) == to_string(pass)) {
      return Force{part.substr(equals + 1)};
    }
  }
  return Force{};
}

// "reference, indirect, ...": those of the table.
std::string algorithm_names() {
  std::string names;
  std::vector<Algorithm> seen;
  for (const KernelInfo& kernel : kernel_table()) {
    if (std::find(seen.begin(), seen.end(), kernel.algorithm) != seen.end()) continue;
    seen.push_back(kernel.algorithm);
    names += std::string(names.empty() ? "" : ", ") + to_string(kernel.algorithm);
  }
  return names;
}

void validate_force(const std::string& spec) {
  std::stringstream parts(spec);
  std::string part;
  while (std::getline(parts, part, ',')) {
    const std::size_t equals = part.find('=');
    const std::string pass = equals == std::string::npos ? "" : part.substr(0, equals);
    const Force force{equals == std::string::npos ? part : part.substr(equals + 1)};
    bool known = false;
    for (const KernelInfo& kernel : kernel_table()) {
      known = known || (force.matches(kernel) && (pass.empty() || pass == to_string(kernel.pass)));
    }
    if (!known) {
      throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + part +
                               "' names no kernel of the table; give an algorithm (" +
                               algorithm_names() +
                               ") or a kernel name, optionally with its pass, as in "
                               "'fprop=indirect,wgrad=reference'");
    }
  }
}

std::int64_t clamp(std::int64_t v, std::int64_t low, std::int64_t high) {
  return v < low ? low : v > high ? high : v;
}

bool merges_columns(const ConvPlan& plan) {
  const ConvProblem& p = plan.problem;
  const Algorithm algorithm = plan.kernel->algorithm;
  const bool can = (plan.pass == Pass::kFprop && algorithm == Algorithm::kIndirect) ||
                   (plan.pass == Pass::kWgrad && algorithm == Algorithm::kOuter);
  constexpr std::int64_t kFewChannels = 8;
  // With a stride wider than the kernel a packed row would hold columns that nothing reads.
  return can && p.groups == 1 && p.C <= kFewChannels && p.S > 1 && p.dilation_w == 1 &&
         p.stride_w <= p.S;
}

// How weight grad and bias grad split their sums: by shape alone, never by threads. A small weight
// is summed in up to 16 chunks of output rows, each with a copy of the weight; a large one instead
// is cut by input channels, and its rows stay in one chunk.
void block_wgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const bool depthwise = plan->kernel->algorithm == Algorithm::kDepthwise;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t nr = plan->kernel->nr;
  // A copy of the sums holds whole tiles.
  const std::int64_t lanes =
      plan->merged_columns ? p.S * p.channels_per_group() : p.channels_per_group();
  const std::int64_t tile_rows = round_up(p.outputs_per_group(), plan->kernel->mr);
  const std::int64_t copy = depthwise ? p.taps() * round_up(p.C, nr)
                                      : p.groups * tile_rows * round_up(lanes, nr) *
                                            (plan->merged_columns ? p.R : p.taps());
  const std::int64_t rows = p.N * p.P;
  constexpr std::int64_t kSplitBytes = 1 << 20;
  constexpr std::int64_t kItems = 16;
  plan->channel_block = p.channels_per_group();
  if (copy * element <= kSplitBytes) {
    // A chunk has at least 512 pixels, so that filling its copy is a small part of its work.
    plan->splits = clamp(rows * p.Q / 512, 1, kItems < rows ? kItems : rows);
  } else if (p.groups < kItems && !depthwise) {
    const std::int64_t blocks = ceil_div(kItems, p.groups);
    plan->channel_block = round_up(ceil_div(p.channels_per_group(), blocks), nr);
    const std::int64_t smallest = p.taps() == 1 ? 256 : 64;
    if (plan->channel_block < smallest) plan->channel_block = smallest;
  }
  plan->workspace_bytes = plan->splits * copy * element;
}

void block_bgrad(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t rows = p.N * p.P;
  plan->splits = clamp(rows * p.Q / 1024, 1, 16 < rows ? 16 : rows);
  plan->workspace_bytes = plan->splits * round_up(p.K, plan->kernel->nr) * 8;
}

void block_pixels(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  // Eight register tiles share one pass over a panel of packed weights.
  plan->pixel_block = 8 * plan->kernel->mr;
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t lanes = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  plan->workspace_bytes = p.taps() * element * p.groups * round_up(lanes, plan->kernel->nr) * depth;
}

// A work item is one row.
void block_strips(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  plan->workspace_bytes = p.taps() * p.K * (p.dtype == DType::kFloat64 ? 8 : 4);
}

// The source of a work item's pixels stays in a quarter of the second-level cache.
void block_pointwise(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t depth = plan->pass == Pass::kFprop ? p.C : p.K;
  constexpr std::int64_t kSourceBytes = 128 << 10;
  // Whole tiles and vectors, whichever way round.
  constexpr std::int64_t kUnit = 48;
  plan->pixel_block = clamp(kSourceBytes / (depth * element) / kUnit, 1, 8) * kUnit;
  plan->workspace_bytes = round_up(p.K, 24) * round_up(p.C, 24) * element;
}

// A few dozen pixels: of axpy, which adds up their products, whole images'.
void block_few_pixels(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  constexpr std::int64_t kPixels = 48;
  const std::int64_t image = plan->kernel->algorithm == Algorithm::kDot ? 1 : p.P * p.Q;
  plan->pixel_block = clamp(kPixels / image, 1, p.N * p.P * p.Q / image) * image;
}

// The columns of a work item's pixels stay in a quarter megabyte, or are one panel.
void block_im2col(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t panel = p.channels_per_group() * p.taps() * plan->kernel->nr * element;
  plan->pixel_block = plan->kernel->nr * clamp((256 << 10) / panel, 1, 8);
  const bool weights_in_place = p.dtype == DType::kFloat32 || p.dtype == DType::kFloat64;
  plan->workspace_bytes = weights_in_place ? 0 : p.K * p.channels_per_group() * p.taps() * element;
}

// A block of tiles, transformed and multiplied, is to stay in the second-level cache; but it needs
// enough tiles to be worth the filters that stream past it.
void block_winograd(ConvPlan* plan) {
  const ConvProblem& p = plan->problem;
  const std::int64_t element = p.dtype == DType::kFloat64 ? 8 : 4;
  const std::int64_t points = plan->kernel->algorithm == Algorithm::kWinograd4 ? 36 : 16;
  plan->pixel_block = clamp((384 << 10) / (points * (p.C + p.K) * element), 24, 96);
  const bool forward = plan->pass == Pass::kFprop;
  const std::int64_t lanes = forward ? p.outputs_per_group() : p.channels_per_group();
  const std::int64_t depth = forward ? p.channels_per_group() : p.outputs_per_group();
  plan->workspace_bytes = points * p.groups * round_up(lanes, plan->kernel->nr) * depth * element;
}

std::mutex options_mutex;
std::string& forced_plan_storage() {
  static std::string value = [] {
    const char* text = std::getenv("CONVEXT_PLAN");
    const std::string spec = text ? text : "";
    validate_force(spec);
    return spec;
  }();
  return value;
}
std::atomic<bool> batch_invariant_flag{false};

void block(ConvPlan* plan) {
  if (plan->problem.is_empty()) return;
  plan->merged_columns = merges_columns(*plan);
  switch (plan->kernel->algorithm) {
    case Algorithm::kReference: return;
    case Algorithm::kIndirect: return block_pixels(plan);
    case Algorithm::kIm2col: return block_im2col(plan);
    case Algorithm::kWinograd2:
    case Algorithm::kWinograd4: return block_winograd(plan);
    case Algorithm::kDepthwise:
      return plan->pass == Pass::kWgrad ? block_wgrad(plan) : block_strips(plan);
    case Algorithm::kPointwise: return block_pointwise(plan);
    case Algorithm::kDot:
    case Algorithm::kAxpy: return block_few_pixels(plan);
    case Algorithm::kOuter: return block_wgrad(plan);
    case Algorithm::kRowsum: return block_bgrad(plan);
  }
}

ConvPlan blocked_plan(const ConvProblem& problem, Pass pass, const KernelInfo& kernel) {
  ConvPlan plan;
  plan.pass = pass;
  plan.problem = problem;
  plan.kernel = &kernel;
  block(&plan);
  return plan;
}

[[noreturn]] void raise_no_kernel(const ConvProblem& problem, Pass pass, const Force& force,
                                  const ConvPlan& refusals) {
  std::string message =
      std::string("no kernel can run ") + to_string(pass) + " of " + to_string(problem);
  if (!force.text.empty()) message += ", forced to '" + force.text + "'";
  for (const auto& [name, why] : refusals.refused) message += "; " + name + ": " + why;
  throw std::runtime_error(message);
}

std::string in_kilocycles(const Cost& cost) {
  std::ostringstream out;
  out.precision(3);
  out << cost.total() / 1e3 << " kilocycles";
  return out.str();
}

// The cheapest kernel that can run the problem, or the cheapest of the forced ones.
ConvPlan choose(const ConvProblem& problem, Pass pass, const PlanOptions& options, bool explain) {
  const Force force = options.force.empty() ? Force{} : force_for(options.force, pass);
  // A choice that must not look at N looks at this many images instead.
  constexpr std::int64_t kUsualBatch = 8;
  ConvProblem costed = problem;
  if (options.batch_invariant && costed.N > 0) costed.N = kUsualBatch;

  const KernelInfo* best = nullptr;
  Cost best_cost;
  ConvPlan refusals;
  std::vector<std::pair<const KernelInfo*, Cost>> candidates;
  std::string why;
  for (const KernelInfo* kernel : kernels_for(pass, problem.dtype)) {
    const bool named = force.text == kernel->name;
    const bool own_isa = kernel->isa == options.isa || kernel->algorithm == Algorithm::kReference;
    if (!own_isa && !named) continue;  // the same algorithm for another CPU
    if (!force.text.empty() && !force.matches(*kernel)) {
      if (explain)
        refusals.refused.emplace_back(kernel->name, "not the forced '" + force.text + "'");
      continue;
    }
    if (named && !isa_runnable(kernel->isa)) {
      if (explain) {
        refusals.refused.emplace_back(kernel->name,
                                      std::string("this CPU cannot run ") + to_string(kernel->isa));
      }
      continue;
    }
    if (!kernel_rule(*kernel)(problem, explain ? &why : nullptr)) {
      if (explain) refusals.refused.emplace_back(kernel->name, why);
      continue;
    }
    const Cost cost = kernel_cost(*kernel)(blocked_plan(costed, pass, *kernel));
    if (explain) candidates.emplace_back(kernel, cost);
    if (best == nullptr || cost.total() < best_cost.total()) {
      best = kernel;
      best_cost = cost;
    }
  }
  if (best == nullptr) {
    if (!explain) return choose(problem, pass, options, true);  // which says why
    raise_no_kernel(problem, pass, force, refusals);
  }
  ConvPlan plan = blocked_plan(problem, pass, *best);
  plan.cost = kernel_cost(*best)(plan);
  if (!explain) return plan;
  plan.reason = (force.text.empty() ? "the cheapest that can run the problem: "
                                    : "forced by '" + force.text + "': ") +
                in_kilocycles(best_cost);
  if (options.batch_invariant) plan.reason += " for " + std::to_string(costed.N) + " images";
  plan.refused = std::move(refusals.refused);
  for (const auto& [kernel, cost] : candidates) {
    if (kernel != best) plan.refused.emplace_back(kernel->name, "dearer: " + in_kilocycles(cost));
  }
  return plan;
}

}  // namespace

ConvPlan make_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options) {
  return choose(problem, pass, options, false);
}

ConvPlan explain_plan(const ConvProblem& problem, Pass pass, const PlanOptions& options) {
  return choose(problem, pass, options, true);
}

std::string to_string(const ConvPlan& plan) {
  std::ostringstream out;
  out << to_string(plan.pass) << ": " << plan.kernel->name << "\n  " << to_string(plan.problem)
      << "\n  why: " << plan.reason;
  for (const auto& [name, why] : plan.refused) out << "\n  refused: " << name << ": " << why;
  out << "\n  register tile: " << plan.kernel->mr << "x" << plan.kernel->nr;
  if (plan.pixel_block) out << "\n  pixels a work item: " << plan.pixel_block;
  if (plan.merged_columns) out << "\n  a kernel row's taps and channels are one run";
  if (plan.channel_block) out << "\n  input channels a work item: " << plan.channel_block;
  if (plan.pass == Pass::kWgrad || plan.pass == Pass::kBgrad) {
    out << "\n  chunks of output rows, summed in order: " << plan.splits;
  }
  out << "\n  expected: " << plan.cost.multiply / 1e3 << " kilocycles multiplying, "
      << plan.cost.move / 1e3 << " packing, " << plan.cost.memory / 1e3 << " for memory";
  out << "\n  workspace: " << plan.workspace_bytes << " bytes";
  return out.str();
}

PlanOptions current_options() {
  static const Isa isa = active_isa();
  PlanOptions options;
  options.isa = isa;
  options.batch_invariant = batch_invariant_flag.load(std::memory_order_relaxed);
  const std::lock_guard<std::mutex> lock(options_mutex);
  options.force = forced_plan_storage();
  return options;
}

bool set_batch_invariant(bool on) { return batch_invariant_flag.exchange(on); }

std::string set_forced_plan(const std::string& spec) {
  validate_force(spec);
  const std::lock_guard<std::mutex> lock(options_mutex);
  std::string previous = forced_plan_storage();
  forced_plan_storage() = spec;
  return previous;
}

}  // namespace convext
