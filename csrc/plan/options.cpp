// The options of the whole process: from the environment at start, then by the setters.
#include "options.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "../cpu/scratch.h"
#include "../cuda_library.h"
#include "cpu_features.h"

namespace convext {
namespace {

// A part of a spec: [cuda:][pass=]name
struct ForcePart {
  std::string text;  // all of it
  bool cuda = false;
  std::string pass;  // empty: all that have it
  std::string name;
};

std::vector<ForcePart> parts_of(const std::string& spec) {
  constexpr char kCuda[] = "cuda:";
  std::vector<ForcePart> parts;
  std::stringstream texts(spec);
  std::string text;
  while (std::getline(texts, text, ',')) {
    ForcePart part;
    part.text = text;
    part.cuda = text.rfind(kCuda, 0) == 0;
    if (part.cuda) text = text.substr(sizeof kCuda - 1);
    const std::size_t equals = text.find('=');
    if (equals != std::string::npos) part.pass = text.substr(0, equals);
    part.name = equals == std::string::npos ? text : text.substr(equals + 1);
    parts.push_back(part);
  }
  return parts;
}

// Whether a part names one of CUDA's kernels.
bool is_cuda_kernel(const ForcePart& part, const CudaKernel& kernel) {
  return (part.name == kernel.algorithm || part.name == kernel.name) &&
         (part.pass.empty() || part.pass == to_string(kernel.pass));
}

// A bare algorithm name speaks about the passes that have it, a kernel name about its own.
bool speaks_about(const ForcePart& part, Pass pass) {
  if (!part.pass.empty()) return part.pass == to_string(pass);
  if (part.cuda) {
    for (const CudaKernel& kernel : cuda_library()->kernels()) {
      if (kernel.pass == pass && is_cuda_kernel(part, kernel)) return true;
    }
    return false;
  }
  for (const KernelInfo& kernel : kernel_table()) {
    if (kernel.pass == pass && Force{part.name}.matches(kernel)) return true;
  }
  return false;
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

void validate_pass(const std::string& pass) {
  for (Pass each : {Pass::kFprop, Pass::kDgrad, Pass::kWgrad, Pass::kBgrad}) {
    if (pass.empty() || pass == to_string(each)) return;
  }
  throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + pass +
                           "' is no pass; there are fprop (forward), dgrad (input gradient), "
                           "wgrad (weight gradient) and bgrad (bias gradient)");
}

void validate_cuda(const ForcePart& part) {
  if (cuda_library() == nullptr) {
    throw std::runtime_error("CONVEXT_PLAN / force_plan: 'cuda:" + part.name +
                             "' forces a CUDA kernel, and none are loaded");
  }
  std::string names;
  for (const CudaKernel& kernel : cuda_library()->kernels()) {
    if (is_cuda_kernel(part, kernel)) return;
    if (names.find(kernel.algorithm) == std::string::npos) {
      names += (names.empty() ? "" : ", ") + kernel.algorithm;
    }
  }
  throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + part.name + "' names no CUDA kernel" +
                           (part.pass.empty() ? "" : " of " + part.pass) + "; give an algorithm (" +
                           names + ") or a kernel's name");
}

// Of two names for one pass, which would win is anyone's guess.
void validate_no_contradiction(const std::vector<ForcePart>& parts) {
  for (Pass pass : {Pass::kFprop, Pass::kDgrad, Pass::kWgrad, Pass::kBgrad}) {
    const ForcePart* found[2] = {nullptr, nullptr};  // of the CPU's kernels, of CUDA's
    for (const ForcePart& part : parts) {
      if (!speaks_about(part, pass)) continue;
      const ForcePart*& first = found[part.cuda];
      if (first != nullptr && first->name != part.name) {
        throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + first->text + "' and '" +
                                 part.text + "' name different kernels for " + to_string(pass));
      }
      first = &part;
    }
  }
}

void validate_force(const std::string& spec) {
  const std::vector<ForcePart> parts = parts_of(spec);
  for (const ForcePart& part : parts) {
    validate_pass(part.pass);
    if (part.cuda) {
      validate_cuda(part);
      continue;
    }
    bool known = false;
    for (const KernelInfo& kernel : kernel_table()) {
      known = known || (Force{part.name}.matches(kernel) &&
                        (part.pass.empty() || part.pass == to_string(kernel.pass)));
    }
    if (!known) {
      throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + part.name +
                               "' names no kernel of the table" +
                               (part.pass.empty() ? "" : " for " + part.pass) +
                               "; give an algorithm (" + algorithm_names() +
                               ") or a kernel name, optionally with its pass, as in "
                               "'fprop=indirect,wgrad=reference'");
    }
  }
  validate_no_contradiction(parts);
}

std::int64_t limit_of_environment() {
  const char* text = std::getenv("CONVEXT_WORKSPACE_LIMIT");
  if (text == nullptr || *text == '\0') return kNoLimit;
  const std::string digits = text;
  try {
    if (digits.find_first_not_of("0123456789") == std::string::npos) return std::stoll(digits);
  } catch (const std::out_of_range&) {
  }
  throw std::runtime_error(
      "CONVEXT_WORKSPACE_LIMIT must be a number of bytes, a non-negative integer of 64 bits, but "
      "got '" +
      digits + "'");
}

struct Options {
  std::mutex mutex;
  std::string force;
  std::atomic<bool> batch_invariant{false};  // every call looks at it
  std::int64_t workspace_limit;
  std::atomic<std::uint64_t> version{1};

  Options() : workspace_limit(limit_of_environment()) {
    const char* text = std::getenv("CONVEXT_PLAN");
    force = text ? text : "";
    validate_force(force);
    bound_scratch(workspace_limit);
  }
};

Options& options() {
  static Options instance;
  return instance;
}

// Sets one of the options and tells what it was.
template <class T>
T exchange_option(T Options::* option, T value) {
  Options& all = options();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::swap(all.*option, value);
  all.version.fetch_add(1, std::memory_order_release);
  return value;
}

}  // namespace

Force force_for(const std::string& spec, Pass pass) {
  for (const ForcePart& part : parts_of(spec)) {
    if (!part.cuda && speaks_about(part, pass)) return Force{part.name};
  }
  return Force{};
}

std::string cuda_force_for(const std::string& spec, Pass pass) {
  if (spec.empty() || cuda_library() == nullptr) return "";
  for (const ForcePart& part : parts_of(spec)) {
    if (part.cuda && speaks_about(part, pass)) return part.name;
  }
  return "";
}

PlanOptions current_options() {
  static const Isa isa = active_isa();
  Options& all = options();
  const std::lock_guard<std::mutex> lock(all.mutex);
  PlanOptions current;
  current.isa = isa;
  current.force = all.force;
  current.batch_invariant = all.batch_invariant;
  current.workspace_limit = all.workspace_limit;
  return current;
}

std::uint64_t options_version() { return options().version.load(std::memory_order_acquire); }

bool set_batch_invariant(bool on) {
  Options& all = options();
  const std::lock_guard<std::mutex> lock(all.mutex);
  const bool previous = all.batch_invariant.exchange(on);
  all.version.fetch_add(1, std::memory_order_release);
  return previous;
}

bool is_batch_invariant() { return options().batch_invariant.load(); }

std::string set_forced_plan(const std::string& spec) {
  validate_force(spec);
  return exchange_option(&Options::force, spec);
}

std::int64_t set_workspace_limit(std::int64_t bytes) {
  const std::int64_t previous = exchange_option(&Options::workspace_limit, bytes);
  bound_scratch(bytes);
  if (bytes < previous) free_scratch();
  return previous;
}

}  // namespace convext
