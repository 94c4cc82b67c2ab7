// How a kernel's work is cut, by shape alone.
#pragma once

#include "../conv_plan.h"

namespace convext {

// Sets the blocking of a plan that has its kernel and its problem, and the working memory which
// that takes. `any_batch`: as for many images, so that no small batch takes more memory than those.
void block(ConvPlan* plan, bool any_batch);

// Groups of one or few channels in NCHW: whole planes of a part of the channels that stay in the
// near caches (cpu/packed_planes.h), or no parts where planes are too large for that; and what a
// thread holds of them.
void block_plane_strips(ConvPlan* plan);
std::int64_t plane_strip_bytes(const ConvPlan& plan);

// Whether pointwise's rows are channels and its lanes pixels, where the problem tells.
bool surely_planar(const ConvPlan& plan);

// Sets plan->workspace_bytes and plan->thread_workspace_bytes by the blocking.
void set_workspace(ConvPlan* plan);

}  // namespace convext
