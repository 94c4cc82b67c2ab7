// What this CPU can run, and which instruction set the kernels use.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "../conv_plan.h"

namespace convext {

std::vector<std::pair<std::string, bool>> cpu_features();

bool isa_compiled(Isa isa);        // the build has it
bool isa_runnable(Isa isa);        // the build has it and this CPU can run it
std::vector<Isa> runnable_isas();  // best first

// Whether the kernels of `part` belong to those of `isa`: its own do, and AVX-512's to kAvx512Bf16.
bool isa_includes(Isa isa, Isa part);

// The best runnable set, or the one CONVEXT_CPU_ISA names. Throws std::runtime_error, naming the
// variable, when its value is unknown or cannot run here.
Isa active_isa();

}  // namespace convext
