"""How far a result may be from the float64 reference, and the comparison that holds it to that."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

import convext
from convext import _C
from convext.plan import PASSES as NATIVE_PASSES

from ._problem import Convolution, Problem, Reference, one_thread

CONFIDENCE = 6.0
"""lambda in the bound on rounding errors: a right kernel breaks it for one element in 10**7."""


class Comparison(NamedTuple):
    """``ok``; ``ratio``, the worst of ``|difference| / bound`` (infinite for NaN, a wrong shape, or
    any difference where none is allowed); ``message``, which is empty when ``ok``."""

    ok: bool
    ratio: float
    message: str

    def __bool__(self) -> bool:
        return self.ok


SHORTEST_SUM = 4
"""Each product of transformed values stands for at least so many terms of the direct sum: 9 in the
forward pass, as many as a tile has pixels in weight grad."""

TRANSFORM_ROUNDINGS = 16
"""A value's own on its way through two transforms, there and back, in two dimensions."""


class Accuracy(NamedTuple):
    """What the kernel table says about a kernel's errors."""

    error_growth: float = 0.0
    exact_on_integers: bool = True


def error_bound(dtype: torch.dtype, reference: Reference, error_growth: float = 0.0) -> Tensor:
    """The largest right distance from the reference, per element, in float64.

    A sum of n products, added in whatever order in arithmetic of unit roundoff u, is off by at
    most ``min(n, lambda sqrt(n)) u sum |a b|``: the first is the classical bound, the second
    holds with overwhelming probability for errors that do not conspire (N. J. Higham and T. Mary,
    A New Approach to Probabilistic Rounding Error Analysis, SIAM J. Sci. Comput. 41(5), 2019).
    bfloat16 and float16 accumulate in float32 and round once, to the output's dtype. float64
    gets twice the bound, as its reference errs as well. A complex convolution is several real
    ones, each rounded, then added.

    A kernel that transforms its operands (``error_growth`` above 0) mixes neighbouring elements,
    so that an element's error follows the magnitudes around it: it is held to the largest
    ``sum |a b|`` of all elements. Its sums are shorter, ``n / 4`` products of transformed values at
    most, and each rounding error of such a value reaches the result multiplied by entries of
    the transforms; ``error_growth`` is what that does to the root mean square of independent
    errors.

    Args:
        dtype: of the result, floating-point or complex.
        reference: of the pass.
        error_growth: of the kernel, as the kernel table has it.
    """
    real = dtype.to_real() if dtype.is_complex else dtype
    output = torch.finfo(real)
    accumulator = torch.finfo(torch.float64 if real == torch.float64 else torch.float32)
    # Two more roundings than terms: the products' own where they are not fused, and the bias's.
    length = reference.length * (2 if dtype.is_complex else 1) + 2
    magnitude = reference.magnitude
    factor = 1.0
    if error_growth > 0 and magnitude.numel() > 0:
        factor = error_growth
        length = length.max().expand_as(length) / SHORTEST_SUM + TRANSFORM_ROUNDINGS
        magnitude = magnitude.max().expand_as(magnitude)
    growth = factor * torch.minimum(length, CONFIDENCE * length.sqrt())
    bound = growth * (accumulator.eps / 2) * magnitude
    if real == torch.float64:
        bound = 2 * bound
    if output.bits < 32:
        # Rounding to the output: half a unit in the last place, or half the least subnormal.
        if dtype.is_complex:
            bound = bound + 8 * (output.eps / 2) * reference.magnitude
        else:
            bound = bound + (output.eps / 2) * (reference.value.abs() + bound)
        bound = bound + output.smallest_normal * output.eps / 2
    elif dtype.is_complex:
        bound = 4 * bound
    return bound


def compare(
    actual: Tensor,
    reference: Reference,
    dtype: torch.dtype,
    exact: bool,
    error_growth: float = 0.0,
) -> Comparison:
    """Holds a result to its reference.

    An element passes when ``|actual - expected| <= bound``, so a NaN fails, or when it equals
    the reference rounded to ``dtype`` (an infinity, for instance).

    Args:
        actual: the result of a pass.
        reference: what it should be; float64, int64 or complex128.
        dtype: which ``actual`` must have.
        exact: demands the reference rounded to ``dtype``, nothing else.
        error_growth: of the kernel, as the kernel table has it; see :func:`error_bound`.
    """
    if actual.dtype != dtype:
        return Comparison(False, math.inf, f"dtype is {actual.dtype}, not {dtype}")
    if actual.shape != reference.value.shape:
        return Comparison(
            False,
            math.inf,
            f"shape is {tuple(actual.shape)}, not {tuple(reference.value.shape)}",
        )
    if actual.numel() == 0:
        return Comparison(True, 0.0, "")
    actual = actual.detach().cpu()
    rounded = reference.value.to(dtype)
    equal = actual == rounded
    wide = actual.to(reference.value.dtype)
    expected = rounded.to(wide.dtype) if exact else reference.value
    difference = (wide - expected).abs().double()
    bound = torch.zeros_like(difference) if exact else error_bound(dtype, reference, error_growth)
    passed = equal | (difference <= bound)
    # 0 / 0 is a right element; anything / 0, and NaN, is a wrong one.
    ratio = torch.where(passed & (difference == 0) | equal, 0.0, difference / bound)
    ratio = torch.where(ratio.isnan(), math.inf, ratio)
    worst = int(ratio.argmax())
    if bool(passed.all()):
        return Comparison(True, float(ratio.flatten()[worst]), "")
    index = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), actual.shape))
    wrong = int((~passed).sum())
    message = (
        f"{wrong} of {actual.numel()} elements are wrong, the worst at {index}: "
        f"{actual[index].item()} instead of {expected[index].item()}, off by "
        f"{difference[index].item():.3g} where {bound[index].item():.3g} is allowed"
    )
    return Comparison(False, float(ratio.flatten()[worst]), message)


def expected_memory_format(input: Tensor, weight: Tensor) -> torch.memory_format:
    """ATen's rule for a convolution's output: channels_last if the strides of the input or of the
    weight suggest it, else contiguous."""
    for operand in (input, weight):
        if suggest_memory_format(operand) == torch.channels_last:
            return torch.channels_last
    return torch.contiguous_format


def accuracy_of(runs_before: dict[str, int]) -> dict[str, Accuracy]:
    """The least accuracy, by native pass, among the kernels that ran since ``_C.kernel_runs()``
    gave ``runs_before``."""
    found: dict[str, Accuracy] = {}
    runs = _C.kernel_runs()
    for kernel in _C.kernels():
        if runs[kernel["name"]] == runs_before[kernel["name"]]:
            continue
        other = found.get(kernel["pass"], Accuracy())
        found[kernel["pass"]] = Accuracy(
            max(kernel["error_growth"], other.error_growth),
            kernel["exact_on_integers"] and other.exact_on_integers,
        )
    return found


def check(
    problem: Problem,
    passes: Sequence[str] | None = None,
    *,
    force: str = "",
    conv2d: Convolution | None = None,
) -> dict[str, Comparison]:
    """Runs a problem and compares each pass with float64.

    Problems of small integers must come out exactly equal (complex32 apart, whose parts are
    rounded before they are added, and kernels of which the table says otherwise). The output must
    also lie in memory as ATen's would.

    Args:
        problem: what to run.
        passes: which of ``problem.passes``; all by default.
        force: an algorithm or kernel, as :func:`convext.force_plan` takes it.
        conv2d: what to run instead of :func:`convext.conv2d`.

    Raises:
        RuntimeError: if the forced kernel cannot run the problem.
    """
    passes = problem.passes if passes is None else tuple(passes)
    runs_before = _C.kernel_runs()
    with convext.force_plan(force) if force else contextlib.nullcontext():
        results = problem.run(passes, conv2d)
    references = problem.reference(passes)
    integral = not (problem.dtype.is_floating_point or problem.dtype.is_complex)
    exact = integral or (problem.values == "integer" and problem.dtype != torch.complex32)
    kernels = accuracy_of(runs_before)
    report = {}
    with one_thread():
        for name in passes:
            growth, exact_on_integers = kernels.get(NATIVE_PASSES[name], Accuracy())
            report[name] = compare(
                results[name],
                references[name],
                problem.dtype,
                exact and (integral or exact_on_integers),
                growth,
            )
    if "forward" in passes and report["forward"].ok:
        tensors = problem.tensors()
        output = results["forward"]
        expected = expected_memory_format(tensors.input, tensors.weight)
        if not output.is_contiguous(memory_format=expected):
            message = f"output strides are {output.stride()}, which is not {expected}"
            report["forward"] = Comparison(False, math.inf, message)
    return report


def assert_correct(
    problem: Problem,
    passes: Sequence[str] | None = None,
    *,
    force: str = "",
    conv2d: Convolution | None = None,
) -> dict[str, Comparison]:
    """:func:`check`, but raising.

    Raises:
        AssertionError: that names the pass, the worst element and a snippet that reproduces it.
    """
    report = check(problem, passes, force=force, conv2d=conv2d)
    for name, comparison in report.items():
        if not comparison.ok:
            raise AssertionError(
                f"{name}: {comparison.message}\n\n{problem.snippet([name], force)}"
            )
    return report


def force_for(pass_name: str, kernel: str) -> str:
    """The text that makes :func:`convext.force_plan` run ``kernel`` in one pass and leaves the
    others alone, e.g. ``"dgrad=reference"``."""
    return f"{NATIVE_PASSES[pass_name]}={kernel}"
