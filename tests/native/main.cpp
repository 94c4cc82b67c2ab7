// Tests of the core without torch or Python. Exit code 0 if every check passed.
//
// Runs the kernels of every instruction set that this CPU can run, or of the one CONVEXT_CPU_ISA
// names. With an argument n, every kernel gets every n-th of its problems only.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "check.h"

namespace convext_tests {

Totals& totals() {
  static Totals instance;
  return instance;
}

void record(bool passed, const char* file, int line, const std::string& message) {
  ++totals().checks;
  if (passed) return;
  constexpr std::int64_t kMostMessages = 50;
  if (++totals().failures <= kMostMessages) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  }
}

}  // namespace convext_tests

int main(int argc, char** argv) {
  using namespace convext_tests;
  const long every = argc > 1 ? std::atol(argv[1]) : 1;
  if (argc > 2 || every < 1) {
    std::fprintf(stderr, "usage: %s [n]\n", argv[0]);
    return 2;
  }
  try {
    test_problems();
    test_axis_maps();
    test_half();
    test_cuda_index_math();
    test_kernels(every);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stopped: %s\n", error.what());
    return 1;
  }
  const Totals& t = totals();
  std::printf("%lld (kernel, problem) pairs, %lld checks, %lld failed\n",
              static_cast<long long>(t.kernel_runs), static_cast<long long>(t.checks),
              static_cast<long long>(t.failures));
  return t.failures == 0 && t.kernel_runs > 0 ? 0 : 1;
}
