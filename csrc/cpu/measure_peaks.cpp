#include "measure_peaks.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "isa_select.h"

namespace convext {
namespace {

using Clock = std::chrono::steady_clock;

// The best run counts. Some milliseconds each, so that one that nothing disturbs is among them; for
// long enough that new threads have spread over the cores, which they may begin on one of.
constexpr double kSeconds = 0.4;
constexpr std::int64_t kRounds = 1000 * 1000;  // of kPeakSums FMAs: a few milliseconds

// Seconds from the first start to the last end of body(thread), once on each of `threads` threads
// that wait for each other before they start.
template <class F>
double run_together(int threads, const F& body) {
  std::vector<Clock::time_point> begin(static_cast<std::size_t>(threads)), end(begin.size());
  std::atomic<int> waiting{threads};
  const auto work = [&](int thread) {
    --waiting;
    while (waiting > 0) std::this_thread::yield();
    const auto slot = static_cast<std::size_t>(thread);
    begin[slot] = Clock::now();
    body(thread);
    end[slot] = Clock::now();
  };
  std::vector<std::thread> others;
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(work, thread);
  work(0);
  for (std::thread& other : others) other.join();
  Clock::time_point first = begin[0], last = end[0];
  for (std::size_t i = 1; i < begin.size(); ++i) {
    if (begin[i] < first) first = begin[i];
    if (end[i] > last) last = end[i];
  }
  return std::chrono::duration<double>(last - first).count();
}

// Work per second in the best of the runs.
template <class F>
double best_rate(int threads, double work, const F& body) {
  double best = 0;
  const Clock::time_point begin = Clock::now();
  while (std::chrono::duration<double>(Clock::now() - begin).count() < kSeconds) {
    const double rate = work / run_together(threads, body);
    if (rate > best) best = rate;
  }
  return best;
}

double fma_rate(int threads, int lanes, double (*kernel)(std::int64_t)) {
  // Results are kept, so that no compiler can leave the work out.
  std::vector<double> results(static_cast<std::size_t>(threads));
  const double work = 2.0 * static_cast<double>(kRounds) * kPeakSums * lanes * threads;
  return best_rate(threads, work, [&](int thread) {
    results[static_cast<std::size_t>(thread)] = kernel(kRounds);
  });
}

double copy_rate(int threads, std::int64_t buffer_bytes) {
  const auto count = static_cast<std::size_t>(threads);
  const std::size_t bytes = static_cast<std::size_t>(buffer_bytes) / 2 / count;
  std::vector<std::unique_ptr<char[]>> from(count), to(count);
  // Each thread touches its own pages first, which gives it memory nearby.
  run_together(threads, [&](int thread) {
    const auto slot = static_cast<std::size_t>(thread);
    from[slot].reset(new char[bytes]);
    to[slot].reset(new char[bytes]);
    std::memset(from[slot].get(), 1, bytes);
    std::memset(to[slot].get(), 1, bytes);
  });
  const double work = 2.0 * static_cast<double>(bytes) * threads;
  return best_rate(threads, work, [&](int thread) {
    const auto slot = static_cast<std::size_t>(thread);
    std::memcpy(to[slot].get(), from[slot].get(), bytes);
  });
}

#if defined(__x86_64__)
// The time-stamp counter ticks at the nominal clock, whatever the core's own is just then.
double clock_rate() {
  constexpr double kInterval = 2e-3;
  const Clock::time_point begin = Clock::now();
  const std::uint64_t first = __rdtsc();
  double seconds = 0;
  while (seconds < kInterval) {
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return static_cast<double>(__rdtsc() - first) / seconds;
}
#else
// A chain of additions, each of which takes a cycle: the best of some short runs.
double clock_rate() {
  constexpr int kRuns = 50, kAdditions = 100 * 1000;
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::uint64_t sum = 0;
    const Clock::time_point begin = Clock::now();
    for (int i = 0; i < kAdditions; ++i) {
      sum += 3;
      asm volatile("" : "+r"(sum));  // no compiler adds two at once
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    best = std::max(best, kAdditions / seconds);
  }
  return best;
}
#endif

}  // namespace

Peaks measure_peaks(Isa isa, int threads, std::int64_t buffer_bytes) {
  const IsaKernels& kernels = isa_kernels(isa);
  Peaks peaks;
  peaks.float32 = fma_rate(threads, kernels.f32.lanes, kernels.fma_peak_f32);
  peaks.float64 = fma_rate(threads, kernels.f64.lanes, kernels.fma_peak_f64);
  peaks.copy = copy_rate(threads, buffer_bytes);
  return peaks;
}

double nominal_clock() {
  constexpr int kRuns = 5;  // of which an interrupted one is not the median
  double found[kRuns];
  for (double& rate : found) rate = clock_rate();
  std::sort(found, found + kRuns);
  return found[kRuns / 2];
}

}  // namespace convext
