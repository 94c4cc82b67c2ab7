// Enough of CUDA C++ to run a kernel as plain C++ on a CPU, for tests on small problems.
//
// A block's threads are fibers of one OS thread. A fiber runs until it blocks at a barrier or at a
// meeting of its warp, so that a run is the same each time given its order and seed; the same
// launch under several orders shows races. Compiled with -fsanitize=thread and linked with
// check_hooks.cpp in place of libtsan, every load and store of the kernel is checked too, whatever
// the order: races, reads of what was never written, bounds.
//
// The blocks of a cluster run together, as if they were one. Asynchronous copies arrive, and
// products are formed, as late as they may. It says nothing about speed, registers, bank conflicts
// or the hardware's rounding.
#pragma once

#include "device.h"
#include "hopper_host.h"
#include "ptx_host.h"
