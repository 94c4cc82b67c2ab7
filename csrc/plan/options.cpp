// The options of the whole process: from the environment at start, then by the setters.
#include "options.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <stdexcept>

#include "../cpu/scratch.h"
#include "cpu_features.h"

namespace convext {
namespace {

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
    bool known = equals == std::string::npos;
    for (Pass each : {Pass::kFprop, Pass::kDgrad, Pass::kWgrad, Pass::kBgrad}) {
      known = known || pass == to_string(each);
    }
    if (!known) {
      throw std::runtime_error("CONVEXT_PLAN / force_plan: '" + pass +
                               "' is no pass; there are fprop (forward), dgrad (input gradient), "
                               "wgrad (weight gradient) and bgrad (bias gradient)");
    }
    known = false;
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
