// What the process-wide options say about kernels (conv_plan.h has the options themselves).
#pragma once

#include <string>

#include "kernel_table.h"

namespace convext {

// One forced choice: an algorithm's or a kernel's name; empty where nothing is forced.
struct Force {
  std::string text;
  bool matches(const KernelInfo& kernel) const {
    return text == to_string(kernel.algorithm) || text == kernel.name;
  }
};

// "a", or "fprop=a,wgrad=b": the part that speaks about `pass`. Parts that begin with "cuda:" speak
// about CUDA's kernels: theirs is what cuda_force_for tells.
Force force_for(const std::string& spec, Pass pass);
std::string cuda_force_for(const std::string& spec, Pass pass);

}  // namespace convext
