// kernels.def, expanded: one entry for each kernel, storage type and compiled instruction set.
#pragma once

#include <string>
#include <vector>

#include "../conv_plan.h"

namespace convext {

// Empty when the kernel can run the problem, otherwise why it cannot.
using KernelRule = std::string (*)(const ConvProblem&);

// Empty when the kernel is worth choosing, otherwise why it is not.
using KernelWorth = std::string (*)(const ConvProblem&, const PlanOptions&);

const std::vector<KernelInfo>& kernel_table();
KernelRule kernel_rule(const KernelInfo& kernel);
KernelWorth kernel_worth(const KernelInfo& kernel);

}  // namespace convext
