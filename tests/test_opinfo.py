"""torch's description of ``nn.functional.conv2d`` (OpInfo), with ``convext.conv2d`` in its place.

The samples, error inputs, dtypes and promises about derivatives are torch's. What they are put to
follows torch's own tests of its operators, but results are held to the bounds of
``convext.testing``, and to equal bits where nothing is added up in another order.

``CONVEXT_TEST_DEVICE=cuda`` runs them on a GPU (``make test-gpu``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("expecttest", reason="torch's OpInfo needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import ErrorInput, SampleInput

import convext
from convext.testing import Reference, compare

(OP,) = [op for op in op_db if op.name == "nn.functional.conv2d"]

DEVICE = os.environ.get("CONVEXT_TEST_DEVICE", "cpu")

# What the OpInfo names for the CPU, and for CUDA, where complex32 joins and integers leave.
DTYPES = sorted(OP.dtypesIfCUDA if DEVICE == "cuda" else OP.dtypes | OP.dtypesIfCUDA, key=str)
GRAD_DTYPES = [
    dtype
    for dtype in sorted(OP.backward_dtypes | OP.backward_dtypesIfCUDA, key=str)
    if dtype.is_floating_point or dtype.is_complex
]
CHECKED_DTYPES = [torch.float64, torch.complex128]

Convolution = Callable[..., Tensor]
Operands = tuple[Tensor, Tensor, Tensor | None]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The samples are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def samples(dtype: torch.dtype, requires_grad: bool = False) -> list[SampleInput]:
    found = list(OP.sample_inputs(DEVICE, dtype, requires_grad=requires_grad))
    assert len(found) >= 30
    return found


def operands(sample: SampleInput) -> Operands:
    weight, bias = sample.args
    return sample.input, weight, bias


def evaluate(
    conv2d: Convolution, tensors: Operands, kwargs: dict[str, Any], grad_output: Tensor | None
) -> list[Tensor]:
    """The output, then the gradients of all operands if there is a ``grad_output``."""
    if grad_output is None:
        return [conv2d(*tensors, **kwargs)]
    # Leaves that share memory with the operands, strides and conjugate bits included.
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = conv2d(*leaves, **kwargs)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [output.detach(), *torch.autograd.grad(output, wanted, grad_output)]


def draw_grad_output(tensors: Operands, kwargs: dict[str, Any]) -> Tensor:
    shape = F.conv2d(*(None if t is None else t.to("meta") for t in tensors), **kwargs).shape
    return torch.randn(shape).to(tensors[0].dtype).to(tensors[0].device)


def magnitude(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return torch.view_as_real(tensor.to(torch.complex128).resolve_conj()).abs().sum(-1)
    return tensor.double().abs()


def assert_close_to_aten(
    tensors: Operands, kwargs: dict[str, Any], grad_output: Tensor | None = None
) -> None:
    """convext's results against those of ``F.conv2d`` in float64 (int64, complex128)."""
    dtype = tensors[0].dtype
    wide = torch.int64
    if dtype.is_complex:
        wide = torch.complex128
    elif dtype.is_floating_point:
        wide = torch.float64

    def aten(prepare: Callable[[Tensor], Tensor]) -> list[Tensor]:
        prepared = [None if t is None else prepare(t.detach()) for t in (*tensors, grad_output)]
        return evaluate(F.conv2d, (prepared[0], prepared[1], prepared[2]), kwargs, prepared[3])

    references = zip(
        aten(lambda t: t.cpu().to(wide)),
        aten(lambda t: magnitude(t.cpu())),
        aten(lambda t: torch.ones(t.shape, dtype=torch.float64)),
        strict=True,
    )
    results = evaluate(convext.conv2d, tensors, kwargs, grad_output)
    exact = not (dtype.is_floating_point or dtype.is_complex)
    for result, reference in zip(results, references, strict=True):
        comparison = compare(result, Reference(*reference), dtype, exact)
        assert comparison.ok, (
            comparison.message,
            [t.shape for t in tensors if t is not None],
            kwargs,
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples(dtype: torch.dtype) -> None:
    for sample in samples(dtype):
        tensors = operands(sample)
        assert_close_to_aten(tensors, sample.kwargs)
        ours, atens = convext.conv2d(*tensors, **sample.kwargs), OP(*tensors, **sample.kwargs)
        assert (ours.shape, ours.dtype, ours.stride()) == (atens.shape, atens.dtype, atens.stride())


@pytest.mark.parametrize("dtype", GRAD_DTYPES, ids=str)
def test_gradients_of_samples(dtype: torch.dtype) -> None:
    for sample in samples(dtype):
        tensors = operands(sample)
        assert_close_to_aten(tensors, sample.kwargs, draw_grad_output(tensors, sample.kwargs))


@pytest.mark.parametrize("dtype", GRAD_DTYPES, ids=str)
def test_noncontiguous_samples(dtype: torch.dtype) -> None:
    for sample in samples(dtype):
        tensors = operands(sample.noncontiguous())
        assert not any(t.is_contiguous() for t in tensors if t is not None and t.numel() > 1)
        assert_close_to_aten(tensors, sample.kwargs, draw_grad_output(tensors, sample.kwargs))


def lazy_conjugate(tensor: Tensor) -> Tensor:
    """The same values behind a conjugate bit."""
    view = tensor.detach().conj().clone().conj()
    assert view.is_conj()
    return view


def lazy_negative(tensor: Tensor) -> Tensor:
    """The same values behind a negative bit."""
    view = torch._neg_view(tensor.detach().neg())
    assert view.is_neg()
    return view


@pytest.mark.parametrize(
    ("flag", "view", "dtype"),
    [
        ("test_conjugated_samples", lazy_conjugate, torch.complex64),
        ("test_neg_view", lazy_negative, torch.float32),
        ("test_neg_view", lazy_negative, torch.complex64),
    ],
)
def test_lazy_views(flag: str, view: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    assert getattr(OP, flag)
    for sample in samples(dtype):
        plain = operands(sample)
        grad_output = draw_grad_output(plain, sample.kwargs)
        views = tuple(None if t is None else view(t) for t in plain)
        expected = evaluate(convext.conv2d, plain, sample.kwargs, grad_output)
        for way in (grad_output, view(grad_output)):
            actual = evaluate(convext.conv2d, views, sample.kwargs, way)
            for one, other in zip(actual, expected, strict=True):
                assert torch.equal(one, other)


def test_lazy_clones_stay_lazy() -> None:
    """Reading an operand must not copy what a copy-on-write tensor shares."""
    assert OP.supports_cow_input_no_materialize_forward
    assert OP.supports_cow_input_no_materialize_backward
    is_lazy = torch._C._is_cow_tensor
    for sample in samples(torch.float32):
        clones = [None if t is None else torch._lazy_clone(t) for t in operands(sample)]
        grad_output = torch._lazy_clone(draw_grad_output(operands(sample), sample.kwargs))
        leaves = [None if t is None else t.requires_grad_() for t in clones]
        output = convext.conv2d(*leaves, **sample.kwargs)
        assert all(is_lazy(leaf) for leaf in leaves if leaf is not None)
        output.backward(grad_output)
        assert all(is_lazy(leaf) for leaf in (*leaves, grad_output) if leaf is not None)


ERRORS: list[ErrorInput] = list(OP.error_inputs(DEVICE))


@pytest.mark.parametrize("error", ERRORS, ids=[error.error_regex for error in ERRORS])
def test_error_inputs(error: ErrorInput) -> None:
    sample = error.sample_input
    with pytest.raises(error.error_type, match=error.error_regex):
        OP(sample.input, *sample.args, **sample.kwargs)
    with pytest.raises(error.error_type, match=error.error_regex):
        convext.conv2d(sample.input, *sample.args, **sample.kwargs)


def gradcheck_cases(sample: SampleInput) -> tuple[Convolution, Sequence[Tensor]]:
    tensors = operands(sample)
    leaves = [t for t in tensors if t is not None]
    assert all(leaf.requires_grad for leaf in leaves)

    def function(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return convext.conv2d(input, weight, bias, **sample.kwargs)

    return function, leaves


@pytest.mark.parametrize("dtype", CHECKED_DTYPES, ids=str)
def test_gradcheck(dtype: torch.dtype) -> None:
    """Reverse and forward mode, batched, undefined gradients; and not a bit of nondeterminism."""
    for sample in samples(dtype, requires_grad=True):
        function, leaves = gradcheck_cases(sample)
        assert torch.autograd.gradcheck(
            function,
            leaves,
            check_batched_grad=OP.check_batched_grad,
            check_grad_dtypes=True,
            nondet_tol=0.0,
            fast_mode=OP.gradcheck_fast_mode,
            check_forward_ad=OP.supports_forward_ad,
            check_backward_ad=True,
            check_undefined_grad=True,
            check_batched_forward_grad=OP.check_batched_forward_grad,
        )


@pytest.mark.parametrize("dtype", CHECKED_DTYPES, ids=str)
def test_gradgradcheck(dtype: torch.dtype) -> None:
    """Reverse over reverse and forward over reverse."""
    for sample in samples(dtype, requires_grad=True):
        function, leaves = gradcheck_cases(sample)
        assert torch.autograd.gradgradcheck(
            function,
            leaves,
            gen_non_contig_grad_outputs=False,
            check_batched_grad=OP.check_batched_gradgrad,
            check_grad_dtypes=True,
            nondet_tol=0.0,
            fast_mode=OP.gradcheck_fast_mode,
            check_fwd_over_rev=OP.supports_fwgrad_bwgrad,
            check_rev_over_rev=OP.supports_gradgrad,
        )


def test_promises_of_the_opinfo() -> None:
    """What the checks above read from the OpInfo must not turn them off."""
    assert OP.supports_autograd
    assert OP.supports_gradgrad
    assert OP.supports_forward_ad
    assert OP.supports_fwgrad_bwgrad
    assert OP.check_batched_grad
    assert OP.check_batched_gradgrad
    assert OP.check_batched_forward_grad
    assert {torch.float32, torch.bfloat16, torch.complex32} <= set(DTYPES)
    assert (torch.int64 in DTYPES) is (DEVICE == "cpu")
