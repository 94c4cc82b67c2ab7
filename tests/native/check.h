// A test is a function; a check that fails is counted, printed and survived.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace convext_tests {

struct Totals {
  std::int64_t checks = 0;
  std::int64_t failures = 0;
  std::int64_t kernel_runs = 0;  // (kernel, problem) pairs
};

Totals& totals();
void record(bool passed, const char* file, int line, const std::string& message);

// CHECK(sum == 3, "sum is " << sum)
#define CHECK(condition, message)                                   \
  do {                                                              \
    const bool check_passed = (condition);                          \
    std::ostringstream check_text;                                  \
    if (!check_passed) check_text << #condition << ": " << message; \
    record(check_passed, __FILE__, __LINE__, check_text.str());     \
  } while (false)

void test_problems();
void test_axis_maps();
void test_half();
void test_cuda_index_math();
void test_kernels(std::int64_t every);

}  // namespace convext_tests
