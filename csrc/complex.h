// Convolution of complex numbers, as real convolutions of their real and imaginary parts.
#pragma once

#include "run.h"

namespace convext {

// What the sums of the parts are kept in: float64 for float64 parts, float32 for others.
DType complex_sum_dtype(DType part);

// Runs `pass` on complex tensors, whose views in `tensors` hold complex strides and the dtype of a
// part (that of `problem` as well). The gradients are the adjoints: they conjugate the operand that
// is not a gradient. `first` and `second` are room for a part of the result each, of its size, in
// complex_sum_dtype(); bgrad needs none.
void run_complex(const ConvProblem& problem, Pass pass, const ConvTensors& tensors,
                 const TensorView& first, const TensorView& second, const Threads& threads);

}  // namespace convext
