// The operators' schemas. Shapes: input N C H W, weight K C/groups R S, bias K, output N K P Q;
// stride and dilation hold 2 values (height, width); padding holds 2 (height, width) or, in F.pad's
// order, 4 (left, right, top, bottom).
//
// conv2d_backward returns the gradients of input, weight and bias; those that output_mask leaves
// out are undefined tensors (None in Python). For complex tensors it returns the adjoint, as
// autograd wants it: grad_input uses conj(weight) and grad_weight uses conj(input).
//
// The two ops with an underscore are the same kernels for eager calls from convext's own Python: a
// list costs a call more than a small convolution's arithmetic, so the geometry is one integer
// (pack_geometry) and the mask three bits. _conv2d returns an undefined tensor (None) where
// anything about the operands is unusual, and leaves them to conv2d. Neither has a derivative.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(convext, m) {
  m.def(
      "conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[] stride, SymInt[] padding, "
      "SymInt[] dilation, SymInt groups, str padding_mode) -> Tensor");
  m.def(
      "conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, SymInt[] stride, "
      "SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode, bool[3] output_mask) "
      "-> (Tensor, Tensor, Tensor)");
  m.def("_conv2d(Tensor input, Tensor weight, Tensor? bias, int geometry) -> Tensor");
  m.def(
      "_conv2d_backward(Tensor grad_output, Tensor input, Tensor weight, int geometry, "
      "int output_mask) -> (Tensor, Tensor, Tensor)");
}
