// Chooses a kernel: of those that can run the problem, the one that the cost model (cost_model.h)
// expects to be cheapest. When a plan is to be explained, every refusal is kept with its reason.
// The blocking goes by shape alone (blocking.h).
#include <sstream>
#include <stdexcept>

#include "blocking.h"
#include "border.h"
#include "cpu_features.h"
#include "options.h"

namespace convext {
namespace {

ConvPlan blocked_plan(const ConvProblem& problem, Pass pass, const KernelInfo& kernel,
                      const PlanOptions& options, bool any_batch = false) {
  ConvPlan plan;
  plan.images_apart = options.batch_invariant;
  plan.pass = pass;
  plan.problem = problem;
  plan.kernel = &kernel;
  block(&plan, any_batch);
  if (!problem.is_empty()) add_border(&plan);
  return plan;
}

// What a limit counts.
std::int64_t limited_bytes(const ConvPlan& plan) {
  return plan.workspace_bytes + plan.thread_workspace_bytes;
}

Cost cost_of(const ConvPlan& plan) {
  if (plan.problem.is_empty()) return Cost{};
  Cost cost = kernel_cost(*plan.kernel)(plan);
  const Cost border = cost_border(plan);
  cost.multiply += border.multiply;
  cost.move += border.move;
  cost.memory += border.memory;
  return cost;
}

constexpr char kNotForced[] = "not the forced ";

[[noreturn]] void raise_no_kernel(const ConvProblem& problem, Pass pass, const Force& force,
                                  const ConvPlan& refusals) {
  std::string message =
      std::string("no kernel can run ") + to_string(pass) + " of " + to_string(problem);
  if (!force.text.empty()) message += ", forced to '" + force.text + "'";
  for (const auto& [name, why] : refusals.refused) {
    if (why.rfind(kNotForced, 0) != 0) message += "; " + name + ": " + why;
  }
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
  // What a limit counts is then that of so many images that working memory grows no further.
  constexpr std::int64_t kManyImages = 1 << 16;
  ConvProblem limited = problem;
  if (options.batch_invariant && limited.N > 0) {
    limited.N = problem.N > kManyImages ? problem.N : kManyImages;
  }
  const bool any_batch = options.batch_invariant && options.workspace_limit != kNoLimit;

  const KernelInfo* best = nullptr;
  Cost best_cost;
  ConvPlan refusals;
  std::vector<std::pair<const KernelInfo*, Cost>> candidates;
  std::string why;
  for (const KernelInfo* kernel : kernels_for(pass, problem.dtype)) {
    const bool named = force.text == kernel->name;
    const bool own_isa =
        isa_includes(options.isa, kernel->isa) || kernel->algorithm == Algorithm::kReference;
    if (!own_isa && !named) continue;  // the same algorithm for another CPU
    if (!force.text.empty() && !force.matches(*kernel)) {
      if (explain)
        refusals.refused.emplace_back(kernel->name, kNotForced + ("'" + force.text + "'"));
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
    if (options.workspace_limit != kNoLimit) {
      const std::int64_t bytes =
          limited_bytes(blocked_plan(limited, pass, *kernel, options, any_batch));
      if (bytes > options.workspace_limit) {
        if (explain) {
          refusals.refused.emplace_back(kernel->name, "needs " + std::to_string(bytes) +
                                                          " bytes of workspace, the limit is " +
                                                          std::to_string(options.workspace_limit));
        }
        continue;
      }
    }
    const Cost cost = cost_of(blocked_plan(costed, pass, *kernel, options));
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
  ConvPlan plan = blocked_plan(problem, pass, *best, options, any_batch);
  plan.cost = cost_of(plan);
  constexpr double kFewestSharedCycles = 40e3;  // some microseconds: what waking a thread takes
  plan.one_thread = force.text.empty() && plan.cost.total() < kFewestSharedCycles;
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

std::vector<std::string> blocking_of(const ConvPlan& plan) {
  std::vector<std::string> lines;
  const auto say = [&lines](const std::string& what, std::int64_t value) {
    lines.push_back(what + ": " + std::to_string(value));
  };
  lines.push_back("register tile: " + std::to_string(plan.kernel->mr) + "x" +
                  std::to_string(plan.kernel->nr));
  if (plan.pixel_block) say("pixels a work item", plan.pixel_block);
  if (plan.one_thread) lines.push_back("one thread: too little to share");
  if (plan.row_block) say("rows a work item", plan.row_block);
  if (plan.tile_rows) say("channels of the register tile", plan.tile_rows);
  if (plan.by_panel) {
    lines.push_back("channels adjacent: each thread packs the weights it multiplies by");
  }
  if (plan.merged_columns) lines.push_back("a kernel row's taps and channels are one run");
  if (plan.channel_block) {
    const bool planes = plan.kernel->algorithm == Algorithm::kDepthwise ||
                        plan.kernel->algorithm == Algorithm::kGrouped;
    say(std::string(planes                      ? "whole planes,"
                    : plan.pass == Pass::kDgrad ? "output"
                                                : "input") +
            " channels a work item",
        plan.channel_block);
  }
  if (plan.border != nullptr) {
    lines.push_back("runs as with zeros for padding, then adds what copied pixels receive: " +
                    plan.border->name + ", " + std::to_string(plan.border_block) +
                    " border pixels a work item");
  }
  if (plan.pass == Pass::kWgrad || plan.pass == Pass::kBgrad) {
    say("chunks, summed in order", plan.splits);
  }
  return lines;
}

std::string to_string(const ConvPlan& plan) {
  std::ostringstream out;
  out << to_string(plan.pass) << ": " << plan.kernel->name << "\n  " << to_string(plan.problem)
      << "\n  why: " << plan.reason;
  for (const auto& [name, why] : plan.refused) out << "\n  refused: " << name << ": " << why;
  for (const std::string& line : blocking_of(plan)) out << "\n  " << line;
  out << "\n  expected: " << plan.cost.multiply / 1e3 << " kilocycles multiplying, "
      << plan.cost.move / 1e3 << " packing, " << plan.cost.memory / 1e3 << " for memory";
  out << "\n  workspace: " << plan.workspace_bytes << " bytes, and " << plan.thread_workspace_bytes
      << " of each thread";
  return out.str();
}

}  // namespace convext
