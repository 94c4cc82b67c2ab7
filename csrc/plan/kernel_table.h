// kernels.def, expanded: one entry for each kernel, storage type and compiled instruction set.
#pragma once

#include <string>
#include <vector>

#include "../conv_plan.h"
#include "cost_model.h"

namespace convext {

// Whether the kernel can run the problem. If not and `why` is not null, it is told the reason.
using KernelRule = bool (*)(const ConvProblem&, std::string* why);

const std::vector<KernelInfo>& kernel_table();
// The kernels of one pass and dtype, in the table's order.
const std::vector<const KernelInfo*>& kernels_for(Pass pass, DType dtype);
KernelRule kernel_rule(const KernelInfo& kernel);
KernelCost kernel_cost(const KernelInfo& kernel);

}  // namespace convext
