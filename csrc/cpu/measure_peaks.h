// What the machine can do at most: the benchmark's yardsticks.
#pragma once

#include <cstdint>

#include "../conv_plan.h"

namespace convext {

struct Peaks {
  double float32 = 0, float64 = 0;  // multiplications and additions per second, in FMAs
  double copy = 0;                  // bytes per second, read plus written, beyond the caches
};

// The best of a few short runs on `threads` threads of its own, all at the same time. Copies
// between buffers of `buffer_bytes` altogether, which should be several times the last-level cache.
// Takes some tenths of a second.
Peaks measure_peaks(Isa isa, int threads, std::int64_t buffer_bytes);

// The clock in cycles per second that expected times are told by, in some milliseconds. On x86 the
// nominal one, so that times told by different processes can be compared: a core's own moves with
// what its neighbours do. Elsewhere that of the core it runs on.
double nominal_clock();

}  // namespace convext
