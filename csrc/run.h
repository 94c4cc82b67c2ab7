// Runs a plan.
#pragma once

#include <string>

#include "conv_plan.h"
#include "parallel.h"

namespace convext {

// The four tensors of a convolution; each pass writes one of them and reads others:
//   fprop  writes output, reads input, weight and bias (bias.data may be null)
//   dgrad  writes input (the gradient), reads output (the gradient) and weight
//   wgrad  writes weight (the gradient), reads input and output (the gradient)
//   bgrad  writes bias (the gradient), reads output (the gradient)
// A written tensor may have any strides without overlap. `bias` is viewed as 1 x K x 1 x 1.
struct ConvTensors {
  TensorView input, weight, bias, output;
};

void run_plan(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads);

// A kernel's run: of which pass of which problem.
struct KernelRun {
  std::string kernel;  // empty: none yet
  ConvProblem problem;
};

// The last run of a pass in this process, on whichever thread and device.
KernelRun last_run(Pass pass);
void note_run(Pass pass, const ConvProblem& problem, const std::string& kernel);
void forget_runs();

// How often each kernel of the table ran in this process, by table index.
std::int64_t kernel_runs(int index);
void reset_kernel_runs();

}  // namespace convext
