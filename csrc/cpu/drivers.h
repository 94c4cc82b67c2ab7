// The loops around the kernels: work items, packing, per-thread scratch. One driver serves every
// instruction set; what differs between them is reached through IsaKernels (isa_kernels.h).
#pragma once

#include "../run.h"

namespace convext {

void run_indirect(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
// After a kernel that knows zeros only; see ConvPlan::border.
void run_border(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_channel_strips(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
// Where tensors are planes that the plan takes whole; false if not, and nothing is done.
bool run_plane_strips(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_direct(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_direct_planes(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_grouped_planes(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_im2col(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_winograd(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_pointwise(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_dot(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_axpy(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_outer(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_winograd_wgrad(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_depthwise_wgrad(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);
void run_rowsum(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);

}  // namespace convext
