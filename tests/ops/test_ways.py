"""The ways from a call to the kernel: all give the same, and the short ones are taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_cases import Geometry, conv2d_op, geometries, operands
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import convext
from convext import _ops


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
