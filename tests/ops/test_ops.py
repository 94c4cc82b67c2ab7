"""The registered operators: values, derivatives, fake kernels, opcheck, devices, FLOP counts."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from op_cases import GEOMETRIES, Geometry, backward_op, conv2d_op, geometries, operands
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import convext
from convext import _aten, _ops


def expected(input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """The definition in torch's words, independent of convext's own fallback."""
    stride, padding, dilation, groups, mode = geometry
    h, w = (padding + padding)[:2]
    pads = padding if len(padding) == 4 else [w, w, h, h]
    padded = F.pad(input, pads, mode="constant" if mode == "zeros" else mode)
    return F.conv2d(padded, weight, bias, stride, 0, dilation, groups)


# --------------------------------------------------------------------------------------------------
# Values and derivatives


@geometries
def test_forward_and_backward_match_aten(geometry: Geometry) -> None:
    input, weight, bias = operands(geometry[3], requires_grad=True)
    output = conv2d_op(input, weight, bias, *geometry)
    reference = expected(input, weight, bias, geometry)
    torch.testing.assert_close(output, reference, rtol=1e-12, atol=1e-12)
    grad_output = torch.randn_like(output)
    grads = torch.autograd.grad(output, (input, weight, bias), grad_output)
    references = torch.autograd.grad(reference, (input, weight, bias), grad_output)
    torch.testing.assert_close(grads, references, rtol=1e-12, atol=1e-12)


@geometries
def test_fallback_is_the_same_convolution(geometry: Geometry) -> None:
    """ATen's version, which transforms and other devices run, is one definition with the native."""
    input, weight, bias = operands(geometry[3])
    output = conv2d_op(input, weight, bias, *geometry)
    torch.testing.assert_close(_aten.conv2d(input, weight, bias, *geometry), output)
    grad_output = torch.randn_like(output)
    args = (grad_output, input, weight, *geometry, [True, True, True])
    torch.testing.assert_close(_aten.conv2d_backward(*args), backward_op(*args))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@geometries
def test_complex_backward_is_the_adjoint(geometry: Geometry, dtype: torch.dtype) -> None:
    input, weight, bias = operands(geometry[3], dtype)
    grad_output = torch.randn_like(conv2d_op(input, weight, bias, *geometry))
    args = (grad_output, input, weight, *geometry, [True, True, True])
    for leaf in (input, weight, bias):
        leaf.requires_grad_()
    reference = torch.autograd.grad(
        expected(input, weight, bias, geometry), (input, weight, bias), grad_output
    )
    with torch.no_grad():
        torch.testing.assert_close(backward_op(*args), reference)
        torch.testing.assert_close(_aten.conv2d_backward(*args), reference)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float64) for name in GEOMETRIES),
        *((name, torch.complex128) for name in ("plain", "strided", "circular")),
    ],
)
def test_gradcheck(name: str, dtype: torch.dtype) -> None:
    geometry = GEOMETRIES[name]
    groups = geometry[3]
    sizes = (1, 2, 4, 4), (2, 2 // groups, 3, 2), (2,)  # small: it is evaluated very often
    inputs = tuple(torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes)

    def function(*tensors: Tensor) -> Tensor:
        return conv2d_op(*tensors, *geometry)

    assert torch.autograd.gradcheck(
        function, inputs, check_forward_ad=True, check_batched_grad=True, fast_mode=True
    )
    assert torch.autograd.gradgradcheck(
        function, inputs, check_fwd_over_rev=dtype is torch.float64, fast_mode=True
    )


@pytest.mark.parametrize("mask", [*itertools.product([True, False], repeat=3)])
def test_backward_gradcheck_of_every_mask(mask: tuple[bool, bool, bool]) -> None:
    geometry = GEOMETRIES["grouped"]
    input = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    grad_output = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        grads = backward_op(*tensors, *geometry, mask)
        assert tuple(grad is not None for grad in grads) == mask
        return tuple(grad for grad in grads if grad is not None)

    if any(mask):
        inputs = (grad_output, input, weight)
        assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)
    else:
        assert function(grad_output, input, weight) == ()


def test_third_derivative() -> None:
    input, weight, _ = operands(requires_grad=True)
    vector = torch.randn_like(weight)

    def third(function: Callable[..., Tensor]) -> Tensor:
        scalar = function(input, weight).pow(4).sum()
        for _ in range(3):
            (grad,) = torch.autograd.grad(scalar, weight, create_graph=True)
            scalar = (grad * vector).sum()
        return scalar

    torch.testing.assert_close(third(convext.conv2d), third(F.conv2d))


def test_only_needed_gradients_are_computed() -> None:
    input, weight, bias = operands(dtype=torch.float32)

    def passes(needed: tuple[Tensor, ...]) -> set[str]:
        for tensor in (input, weight, bias):
            tensor.requires_grad_(any(tensor is other for other in needed))
        output = convext.conv2d(input, weight, bias)
        convext._C.reset_kernel_runs()
        output.sum().backward()
        runs = convext._C.kernel_runs()
        return {name.split("_")[0] for name, count in runs.items() if count}

    assert passes((input,)) == {"dgrad"}
    assert passes((weight,)) == {"wgrad"}
    assert passes((bias,)) == {"bgrad"}
    assert passes((weight, bias)) == {"wgrad", "bgrad"}


def test_changed_weight_is_noticed() -> None:
    input, weight, bias = operands(requires_grad=True)
    output = convext.conv2d(input, weight, bias)
    with torch.no_grad():
        weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# --------------------------------------------------------------------------------------------------
# Fake kernels

SHAPES = [  # input, weight, groups
    ((2, 3, 5, 5), (6, 3, 3, 3), 1),
    ((1, 3, 5, 5), (6, 3, 3, 3), 1),
    ((2, 1, 5, 5), (6, 1, 3, 3), 1),
    ((2, 1, 5, 5), (1, 1, 1, 1), 1),
    ((2, 4, 5, 5), (6, 2, 3, 3), 2),
    ((2, 4, 5, 5), (4, 1, 3, 3), 4),
    ((1, 4, 3, 3), (4, 4, 3, 3), 1),
    ((2, 4, 5, 5), (6, 4, 1, 1), 1),
    ((1, 1, 1, 1), (1, 1, 1, 1), 1),
    ((2, 4, 1, 1), (6, 4, 1, 1), 1),
    ((0, 4, 5, 5), (6, 4, 3, 3), 1),
    ((0, 1, 5, 5), (1, 1, 3, 3), 1),
    ((2, 0, 5, 5), (6, 0, 3, 3), 1),
    ((2, 0, 5, 5), (6, 0, 3, 3), 2),
    ((1, 4, 1, 7), (6, 4, 1, 3), 1),
    ((2, 4, 7, 1), (6, 4, 3, 1), 1),
]


def layouts(size: tuple[int, ...]) -> list[Tensor]:
    """Tensors of one size in every layout that could mislead: all strides are legal."""
    n, c, h, w = size
    plain = torch.zeros(size)
    return [
        plain,
        plain.to(memory_format=torch.channels_last),
        torch.zeros(n, h, w, c).permute(0, 3, 1, 2),
        torch.zeros(w, h, c, n).permute(3, 2, 1, 0),
        torch.zeros(1, c, 1, w).expand(size),
        torch.zeros(n, c, 2 * h, 3 * w)[:, :, ::2, ::3],
        torch.zeros(n, 2 * c, h, w).to(memory_format=torch.channels_last)[:, :c],
    ]


@pytest.mark.parametrize(("input_size", "weight_size", "groups"), SHAPES)
def test_fake_kernels_have_the_real_shapes_and_strides(
    input_size: tuple[int, ...], weight_size: tuple[int, ...], groups: int
) -> None:
    geometry = ([1, 1], [0, 0], [1, 1], groups, "zeros")
    for input, weight in itertools.product(layouts(input_size), layouts(weight_size)):
        output = conv2d_op(input, weight, None, *geometry)
        real = [output, *backward_op(output, input, weight, *geometry, [True] * 3)]
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(tensor) for tensor in (input, weight)]
            fake_output = conv2d_op(*fakes, None, *geometry)
            fake = [fake_output, *backward_op(fake_output, *fakes, *geometry, [True] * 3)]
        metas = [torch.empty_strided(t.size(), t.stride(), device="meta") for t in (input, weight)]
        meta_output = conv2d_op(*metas, None, *geometry)
        meta = [meta_output, *backward_op(meta_output, *metas, *geometry, [True] * 3)]
        described = [(t.shape, t.stride(), t.dtype) for t in real]
        assert [(t.shape, t.stride(), t.dtype) for t in fake] == described
        assert [(t.shape, t.stride(), t.dtype) for t in meta] == described


@pytest.mark.parametrize(("input_size", "weight_size", "groups"), SHAPES)
def test_memory_format_is_atens(
    input_size: tuple[int, ...], weight_size: tuple[int, ...], groups: int
) -> None:
    """Where strides mean anything: not along dimensions of one, not in empty tensors."""

    def order(tensor: Tensor) -> list[int]:
        if tensor.numel() == 0:
            return []
        return [step for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]

    for input, weight in itertools.product(layouts(input_size)[:2], layouts(weight_size)[:2]):
        ours = [t.clone().requires_grad_() for t in (input, weight)]
        theirs = [t.clone().requires_grad_() for t in (input, weight)]
        output = convext.conv2d(*ours, groups=groups)
        reference = F.conv2d(*theirs, groups=groups)
        assert output.shape == reference.shape
        assert order(output) == order(reference)
        output.sum().backward()
        reference.sum().backward()
        for mine, other in zip(ours, theirs, strict=True):
            assert order(mine.grad) == order(other.grad)


@geometries
def test_fake_kernels_of_every_geometry_and_dtype(geometry: Geometry) -> None:
    for dtype in (torch.float32, torch.complex64, torch.bfloat16, torch.int64):
        input, weight, bias = (tensor.to(dtype) for tensor in operands(geometry[3]))
        if dtype is torch.int64 and geometry[4] in ("reflect", "replicate"):
            continue  # ATen has no padding of integers in these modes, convext has
        output = conv2d_op(input, weight, bias, *geometry)
        with FakeTensorMode() as mode:
            fakes = [mode.from_tensor(tensor) for tensor in (input, weight, bias)]
            fake = conv2d_op(*fakes, *geometry)
        assert (fake.shape, fake.stride(), fake.dtype) == (
            output.shape,
            output.stride(),
            output.dtype,
        )
        assert fake.device == output.device


@pytest.mark.parametrize(
    ("name", "requires_grad"), [("plain", False), *((name, True) for name in GEOMETRIES)]
)
def test_opcheck(name: str, requires_grad: bool) -> None:
    geometry = GEOMETRIES[name]
    input, weight, bias = operands(geometry[3], torch.float32, requires_grad)
    results = torch.library.opcheck(conv2d_op, (input, weight, bias, *geometry))
    assert set(results.values()) == {"SUCCESS"}
    grad_output = torch.randn_like(conv2d_op(input, weight, bias, *geometry)).detach()
    grad_output.requires_grad_(requires_grad)
    mask = [True, True, geometry[3] == 1]
    results = torch.library.opcheck(backward_op, (grad_output, input, weight, *geometry, mask))
    assert set(results.values()) == {"SUCCESS"}


# --------------------------------------------------------------------------------------------------
# Devices


@pytest.mark.parametrize("which", ["input", "weight", "bias"])
def test_mixed_devices_are_refused(which: str) -> None:
    tensors = dict(zip(("input", "weight", "bias"), operands(), strict=True))
    tensors[which] = tensors[which].to("meta")
    with pytest.raises(RuntimeError, match=r"should be the same|another device"):
        convext.conv2d(**tensors)


def test_meta_tensors_have_shapes() -> None:
    input, weight, bias = (tensor.to("meta") for tensor in operands())
    output = convext.conv2d(input, weight, bias, padding=1, padding_mode="reflect")
    assert output.device.type == "meta"
    assert output.shape == (2, 6, 6, 6)


def test_devices_without_kernels_run_aten(caplog: pytest.LogCaptureFixture) -> None:
    """As a CUDA tensor would, with the CPU's in its place."""
    keyset = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    geometry = GEOMETRIES["replicate"]
    input, weight, bias = operands(geometry[3])
    _ops._fallback_kinds.clear()
    convext._C.reset_kernel_runs()
    with caplog.at_level(logging.WARNING, "convext"):
        output = conv2d_op.redispatch(keyset, input, weight, bias, *geometry)
        args = (output, input, weight, *geometry, [True, True, True])
        grads = backward_op.redispatch(keyset, *args)
    assert not any(convext._C.kernel_runs().values())
    assert [record.message for record in caplog.records] == [
        "no convext kernel for cpu tensors: PyTorch's own convolution runs"
    ]
    torch.testing.assert_close(output, conv2d_op(input, weight, bias, *geometry))
    torch.testing.assert_close(grads, backward_op(*args))
    _ops._fallback_kinds.clear()


# --------------------------------------------------------------------------------------------------
# FLOP counts


@pytest.mark.parametrize("groups", [1, 2])
def test_flop_counter(groups: int) -> None:
    input, weight, bias = operands(groups, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        output = convext.conv2d(input, weight, bias, padding=1, groups=groups)
    forward = 2 * output.numel() * (4 // groups) * 3 * 2
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    assert counter.get_total_flops() == 2 * forward
    with FlopCounterMode(display=False) as counter:
        convext.conv2d(input.detach(), weight, padding=1, groups=groups).sum().backward()
    assert counter.get_total_flops() == 2 * forward
    if groups == 1:  # torch counts the backward pass of groups too high
        with FlopCounterMode(display=False) as counter:
            F.conv2d(input, weight, bias, padding=1).sum().backward()
        assert counter.get_total_flops() == 3 * forward
