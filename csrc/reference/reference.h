// The definition of right: naive loops for every pass, element type and padding mode.
//
// Sums are taken in float64 for floating types and modulo 2^64 for integers (so that a narrower
// integer result wraps exactly as if it had been summed in its own width).
#pragma once

#include "../run.h"

namespace convext {

void reference_fprop(const ConvProblem& problem, const ConvTensors& tensors,
                     const Threads& threads);
void reference_dgrad(const ConvProblem& problem, const ConvTensors& tensors,
                     const Threads& threads);
void reference_wgrad(const ConvProblem& problem, const ConvTensors& tensors,
                     const Threads& threads);
void reference_bgrad(const ConvProblem& problem, const ConvTensors& tensors,
                     const Threads& threads);

}  // namespace convext
