// How a kernel's work is cut, by shape alone.
#pragma once

#include "../conv_plan.h"

namespace convext {

// Sets the blocking of a plan that has its kernel and its problem, and the working memory which
// that takes.
void block(ConvPlan* plan);

// Sets plan->workspace_bytes and plan->thread_workspace_bytes by the blocking.
void set_workspace(ConvPlan* plan);

}  // namespace convext
