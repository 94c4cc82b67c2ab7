// Each thread's last plans. A small convolution takes as long as its plan, and a model asks for the
// same few plans again and again. A plan is a pure function of the problem, the pass and the
// options, so a plan found here is the plan that would be made.
#include <memory>

#include "../conv_plan.h"

namespace convext {
namespace {

constexpr std::size_t kPlaces = 256;  // a power of two; a large model has some hundred plans

struct Place {
  bool taken = false;
  ConvPlan plan;
};

struct Cache {
  std::uint64_t version = 0;
  PlanOptions options;
  std::unique_ptr<Place[]> places;
};

}  // namespace

const ConvPlan& current_plan(const ConvProblem& problem, Pass pass) {
  thread_local Cache cache;
  // Read before the options: options that change meanwhile make the plan old at the next call.
  const std::uint64_t version = options_version();
  if (cache.places == nullptr || cache.version != version) {
    if (cache.places == nullptr) cache.places.reset(new Place[kPlaces]);
    for (std::size_t i = 0; i < kPlaces; ++i) cache.places[i].taken = false;
    cache.options = current_options();
    cache.version = version;
  }
  Place& place = cache.places[(hash_of(problem) + static_cast<std::size_t>(pass) * 61) % kPlaces];
  if (place.taken && place.plan.pass == pass && place.plan.problem == problem) return place.plan;
  place.taken = false;
  place.plan = make_plan(problem, pass, cache.options);
  place.taken = true;
  return place.plan;
}

}  // namespace convext
