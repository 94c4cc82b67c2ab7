"""The registered operators: fake kernels, opcheck, devices, FLOP counts, the short ways."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import convext
from convext import _aten, _ops

conv2d_op = torch.ops.convext.conv2d.default
backward_op = torch.ops.convext.conv2d_backward.default

Geometry = tuple[list[int], list[int], list[int], int, str]

GEOMETRIES: dict[str, Geometry] = {
    "plain": ([1, 1], [0, 0], [1, 1], 1, "zeros"),
    "strided": ([2, 1], [1, 2], [1, 2], 1, "zeros"),
    "grouped": ([1, 1], [1, 1], [1, 1], 2, "zeros"),
    "four_sided": ([1, 2], [0, 1, 2, 1], [1, 1], 1, "zeros"),
    "reflect": ([1, 1], [2, 1], [1, 1], 1, "reflect"),
    "replicate": ([2, 2], [1, 0, 3, 2], [1, 1], 2, "replicate"),
    "circular": ([1, 1], [3, 2, 0, 1], [1, 1], 1, "circular"),
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def operands(
    groups: int = 1, dtype: torch.dtype = torch.float64, requires_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (
        torch.randn(2, 4, 6, 5, dtype=dtype),
        torch.randn(6, 4 // groups, 3, 2, dtype=dtype),
        torch.randn(6, dtype=dtype),
    )
    for tensor in tensors:
        tensor.requires_grad_(requires_grad)
    return tensors


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
# The ways to the kernel


class Passive(TorchDispatchMode):
    """A dispatch mode that changes nothing, so that calls go through the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    """A subclass without ideas of its own."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
@geometries
def test_all_ways_give_the_same_bits(geometry: Geometry, dtype: torch.dtype) -> None:
    stride, padding, dilation, groups, mode = geometry
    input, weight, bias = operands(groups, dtype)
    grad_output = torch.randn_like(conv2d_op(input, weight, bias, *geometry))

    def short(*tensors: Tensor) -> Tensor:
        return convext.conv2d(*tensors, stride, padding, dilation, groups, padding_mode=mode)

    def dispatched(*tensors: Tensor) -> Tensor:
        with Passive() as seen:
            output = short(*tensors)
        assert conv2d_op in seen.seen
        return output

    def subclassed(*tensors: Tensor) -> Tensor:
        output = short(tensors[0].as_subclass(Subclass), *tensors[1:])
        assert type(output) is Subclass
        return output.as_subclass(Tensor)

    def direct(*tensors: Tensor) -> Tensor:
        return conv2d_op(*tensors, *geometry)

    def below(*tensors: Tensor) -> Tensor:
        with torch.no_grad():
            return short(*tensors)

    def inference(*tensors: Tensor) -> Tensor:
        with torch.inference_mode():
            return short(*tensors)

    reference = below(input, weight, bias)
    for way in (short, dispatched, subclassed, direct, inference):
        assert torch.equal(way(input, weight, bias), reference), way.__name__

    leaves = [tensor.requires_grad_() for tensor in (input, weight, bias)]
    references = torch.autograd.grad(short(*leaves), leaves, grad_output)
    for way in (dispatched, subclassed, direct):
        output = way(*leaves)
        assert torch.equal(output, reference), way.__name__
        for grad, wanted in zip(
            torch.autograd.grad(output, leaves, grad_output), references, strict=True
        ):
            assert torch.equal(grad, wanted), way.__name__


def test_short_ways_are_taken() -> None:
    """The dispatcher's Python kernels stay out of plain eager calls, and come in for the rest."""
    assert _ops._is_eager()
    with Passive():
        assert not _ops._is_eager()
    with torch.autocast("cpu"):
        assert not _ops._is_eager()
    with torch.autograd.forward_ad.dual_level():
        assert not _ops._is_eager()
    with convext.patch():
        assert not _ops._is_eager()
    seen = []
    torch.func.vmap(lambda x: (seen.append(_ops._is_eager()), x)[1])(torch.ones(2))
    torch.func.grad(lambda x: (seen.append(_ops._is_eager()), x)[1])(torch.tensor(1.0))
    assert seen == [False, False]
    assert not _ops._is_plain(torch.ones(2).as_subclass(Subclass))
    assert _ops._is_plain(torch.nn.Parameter(torch.ones(2)))


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"),
    [
        ((1, 1), (0, 0), (1, 1), 1),
        ((31, 2), (127, 3), (4, 31), 4095),
        ((5, 6), (1, 2, 3, 127), (7, 8), 9),
        ((0, 1), (0, 1), (1, 0), 0),  # refused later, in torch's words
    ],
)
def test_a_geometry_in_one_integer(
    stride: tuple[int, int],
    padding: tuple[int, ...],
    dilation: tuple[int, int],
    groups: int,
    mode: str,
) -> None:
    packed = convext._C.pack_geometry(stride, padding, dilation, groups, mode)
    assert packed >= 0
    assert _ops._unpack_geometry(packed) == (stride, padding, dilation, groups, mode)


def test_geometries_that_do_not_fit_one_integer() -> None:
    """They take another way, and so does what is not plainly an integer."""
    usual: dict[str, Any] = {
        "stride": (1, 1),
        "padding": (1, 2, 3, 4),
        "dilation": 1,
        "groups": 1,
        "padding_mode": "zeros",
    }
    assert convext._C.pack_geometry(*usual.values()) >= 0
    for name, values in {
        "stride": [32, (1, 32), -1, True, 1.0, [1, 1], (1,), (1, True), 2**70, "1"],
        "padding": [128, (0, 128), -1, (0, 0, 0, 128), (1, 2, 3), "same", (1, 2, 3, 1.0), None],
        "dilation": [32, (32, 1), -1, (1, 1, 1)],
        "groups": [4096, -1, True, (1,)],
        "padding_mode": ["zero", "", None, 1, "zeros "],
    }.items():
        for value in values:
            arguments = {**usual, name: value}
            assert convext._C.pack_geometry(*arguments.values()) == -1, (name, value)


def test_large_geometries() -> None:
    input, weight, bias = operands(dtype=torch.float32, requires_grad=True)
    for arguments in (
        {"padding": 130, "stride": 40},
        {"dilation": 33, "padding": 128},
        {"padding": (0, 200, 1, 0)},
    ):
        output = convext.conv2d(input, weight, bias, **arguments)
        pads = arguments["padding"]
        pads = pads if isinstance(pads, tuple) else (pads,) * 4
        rest = {name: value for name, value in arguments.items() if name != "padding"}
        reference = F.conv2d(F.pad(input, pads), weight, bias, **rest)
        torch.testing.assert_close(output, reference)
        grad = torch.randn_like(output)
        torch.testing.assert_close(
            torch.autograd.grad(output, (input, weight, bias), grad),
            torch.autograd.grad(reference, (input, weight, bias), grad),
            rtol=1e-4,
            atol=1e-4,
        )


def test_the_shortest_way_leaves_the_rest_alone() -> None:
    geometry = ((1, 1), (1, 1), (1, 1), 1, "zeros")
    input, weight, bias = (tensor.float() for tensor in operands())
    short = _ops.short_conv2d
    reference = conv2d_op(input, weight, bias, *geometry)
    assert torch.equal(short(input, weight, bias, *geometry), reference)
    assert torch.equal(short(input, torch.nn.Parameter(weight), bias, *geometry), reference)
    assert torch.equal(short(input, weight, bias, 1, 1, 1, 1, "zeros"), reference)
    for unusual in (
        (input.as_subclass(Subclass), weight, bias),
        (input.to("meta"), weight, bias),
        (input, weight, bias.to("meta")),
        (input.double(), weight, bias),
        (input.cfloat(), weight.cfloat(), bias.cfloat()),
        (input.int(), weight.int(), bias.int()),
        (input[0], weight, bias),
        (input, weight[0], bias),
        (input, weight, bias[:-1]),
        (input, weight, bias[None]),
        (input, weight, 1.0),
        ([1.0], weight, bias),
    ):
        assert short(*unusual, *geometry) is None
    with Passive():
        assert short(input, weight, bias, *geometry) is None
    with torch.autocast("cpu"):
        assert short(input, weight, bias, *geometry) is None
    with torch.profiler.profile() as profile:
        assert short(input, weight, bias, *geometry) is None
        convext.conv2d(input, weight, bias, padding=1)
    assert "convext::conv2d" in [event.key for event in profile.key_averages()]
    # Wrong numbers are refused where they are looked at, in torch's words.
    with pytest.raises(RuntimeError, match="non-positive stride is not supported"):
        short(input, weight, bias, 0, 1, 1, 1, "zeros")
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels"):
        short(input[:, :3], weight, bias, *geometry)


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
