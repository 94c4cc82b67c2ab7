// Input grad of a padding mode that copies border pixels, in two steps: a kernel that knows zeros
// only, and then what the copies bring, for the few pixels that have some (cpu/run_border.cpp).
#pragma once

#include "../conv_plan.h"

namespace convext {

// Whether the plan's kernel leaves the copies of border pixels to a second step. If so, sets what
// that step needs, and adds its working memory.
void add_border(ConvPlan* plan);

// What the second step costs; nothing where there is none.
Cost cost_border(const ConvPlan& plan);

}  // namespace convext
