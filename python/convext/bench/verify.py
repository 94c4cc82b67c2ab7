"""Results of both peers against float64, before anything is timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.grad import conv2d_weight

from convext.bench.operands import RESULTS, Operands, make_call
from convext.bench.shapes import ConvShape

TENSORS = ("output", "grad_input", "grad_weight")

# Largest error allowed, relative to the largest element of the result, in units of the dtype's eps.
# 84 eps is 1e-5 in float32: room for a long sum or a Winograd transform, none for a wrong term.
# Half types accumulate in float32, so their error is the rounding of the result. Torch's own error,
# which may be larger, excuses nothing.
LIMIT_IN_EPS = {
    torch.float32: 84.0,
    torch.float64: 84.0,
    torch.bfloat16: 2.0,
    torch.float16: 2.0,
}


class VerificationError(Exception):
    """convext's result is not the one it should be; the text says where."""


@dataclass(frozen=True)
class Errors:
    """Largest error of each tensor, relative to its largest element, against float64."""

    torch: dict[str, float]
    convext: dict[str, float]


def results(
    peer: str, shape: ConvShape, operands: Operands, padding_mode: str = "zeros"
) -> tuple[Tensor, ...]:
    """output, grad_input and grad_weight of one peer."""
    (output,) = make_call(peer, "forward", shape, padding_mode)(operands)
    grad_input, grad_weight, _ = make_call(peer, "backward", shape, padding_mode)(operands)
    return (output, grad_input, grad_weight)


def reference(
    shape: ConvShape, operands: Operands, padding_mode: str = "zeros"
) -> tuple[Tensor, ...]:
    """output, grad_input and grad_weight in float64 from the operands' exact values, by torch.

    Torch adds up a weight gradient pixel by pixel, and so errs by up to 200 eps: far below a
    narrower type's eps, but no measure for float64 results. For these it is summed by parts.
    In float64 torch runs a group after the other, which many threads only delay.
    """
    threads = torch.get_num_threads()
    if shape.groups > 1:
        torch.set_num_threads(1)
    try:
        doubles = operands.to(dtype=torch.float64)
        output, grad_input, grad_weight = results("torch", shape, doubles, padding_mode)
        if operands.input.dtype == torch.float64:
            grad_weight = _weight_grad_by_parts(shape, doubles, padding_mode)
        return (output, grad_input, grad_weight)
    finally:
        torch.set_num_threads(threads)


def _weight_grad_by_parts(shape: ConvShape, operands: Operands, padding_mode: str) -> Tensor:
    """Torch's weight gradients of a few output rows of one image each, added up in pairs."""
    rows = 8
    (down, across), step = shape.padding, shape.stride[0]
    reach = (shape.R - 1) * shape.dilation[0] + 1
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = torch.nn.functional.pad(operands.input, (across, across, down, down), mode)
    parts = []
    for n in range(padded.shape[0]):
        for first in range(0, operands.grad_output.shape[2], rows):
            grad = operands.grad_output[n : n + 1, :, first : first + rows]
            top = first * step
            parts.append(
                conv2d_weight(
                    padded[n : n + 1, :, top : top + (grad.shape[2] - 1) * step + reach],
                    list(operands.weight.shape),
                    grad,
                    shape.stride,
                    0,
                    shape.dilation,
                    shape.groups,
                )
            )
            # As a binary counter carries: sums of equally many parts are added.
            count = n * -(-operands.grad_output.shape[2] // rows) + first // rows + 1
            while count % 2 == 0:
                parts.append(parts.pop() + parts.pop())
                count //= 2
    return torch.stack(parts).sum(0)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """max |result - expected| / max |expected|; NaN if the result has one."""
    scale = expected.abs().max().item()
    error = (result.to(torch.float64) - expected).abs().max().item()
    return float(error / scale) if scale else float(error)


def _strides(tensor: Tensor) -> list[int]:
    """Strides of the dimensions that have any: those of extent 1 are arbitrary."""
    strides = tensor.stride()
    return [strides[i] for i, extent in enumerate(tensor.shape) if extent > 1]


def verify(
    shape: ConvShape,
    operands: Operands,
    expected: tuple[Tensor, ...],
    padding_mode: str = "zeros",
    theirs: tuple[Tensor, ...] | None = None,
    limit_in_eps: float | None = None,
) -> Errors:
    """Compare both peers' results with the float64 ones.

    Args:
        shape: the layer.
        operands: the operands the peers get, in their dtype and layout.
        expected: ``reference`` of the same values.
        padding_mode: of both.
        theirs: torch's ``results`` on the same operands, if they are there already.
        limit_in_eps: the largest error allowed, instead of ``LIMIT_IN_EPS``.

    Raises:
        VerificationError: convext's result has another dtype, shape or, with zeros, layout than
            torch's, holds a NaN, or errs more than ``LIMIT_IN_EPS``.
    """
    if theirs is None:
        theirs = results("torch", shape, operands, padding_mode)
    try:
        ours = results("convext", shape, operands, padding_mode)
    except RuntimeError as error:
        raise VerificationError(f"convext raised: {error}") from error
    if limit_in_eps is None:
        limit_in_eps = LIMIT_IN_EPS[operands.input.dtype]
    limit = limit_in_eps * torch.finfo(operands.input.dtype).eps
    errors = Errors({}, {})
    for name, peer, own, exact in zip(TENSORS, theirs, ours, expected, strict=True):
        for what, right, found in (
            ("dtype", peer.dtype, own.dtype),
            ("shape", tuple(peer.shape), tuple(own.shape)),
            ("strides", _strides(peer), _strides(own)),
        ):
            if what == "strides" and padding_mode != "zeros":
                continue  # torch's are those of its pad and slice operators
            if right != found:
                raise VerificationError(f"{name}: {what} {found}, torch has {right}")
        errors.torch[name] = relative_error(peer, exact)
        errors.convext[name] = relative_error(own, exact)
        if not errors.convext[name] <= limit:  # a NaN fails too
            raise VerificationError(
                f"{name}: error {errors.convext[name]:.2g} of the largest element, "
                f"limit {limit:.2g}, torch {errors.torch[name]:.2g}"
            )
    return errors


def errors_of_pass(errors: Errors, pass_: str) -> dict[str, float]:
    """Largest relative error of each peer over the tensors that a pass computes."""
    names = RESULTS[pass_]
    return {
        peer: float(f"{max(found[name] for name in names):.3g}")
        for peer, found in (("torch", errors.torch), ("convext", errors.convext))
    }
