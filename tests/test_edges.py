"""Geometries at the edge of reason: right results, in little memory, without a crash."""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from planned import planned

import convext
from convext import _C
from convext.testing import Problem, assert_correct


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_stride_of_a_dimension_of_one_element_is_arbitrary(axis: int) -> None:
    """numpy's newaxis gives the dimension stride 0."""
    size = [2, 3, 9, 10]
    del size[axis]
    values = np.random.default_rng(0).integers(-3, 4, size).astype("float32")
    index = [slice(None)] * 3
    index.insert(axis, np.newaxis)  # type: ignore[arg-type]
    input = torch.from_numpy(values[tuple(index)])
    assert input.stride(axis) == 0
    weight = torch.randint(-3, 4, (4, input.shape[1], min(3, input.shape[2]), 1)).float()
    assert torch.equal(convext.conv2d(input, weight), F.conv2d(input, weight))
    grad_output = torch.ones_like(F.conv2d(input, weight))
    arguments = ([1, 1], [0, 0], [1, 1], 1, "zeros", [True, True, False])
    grads = torch.ops.convext.conv2d_backward(grad_output, input, weight, *arguments)
    expected = torch.ops.aten.convolution_backward(
        grad_output,
        input,
        weight,
        None,
        [1, 1],
        [0, 0],
        [1, 1],
        False,
        [0, 0],
        1,
        [True, True, False],
    )
    assert torch.equal(grads[0], expected[0])
    assert torch.equal(grads[1], expected[1])


@pytest.mark.parametrize("direction", ["forward", "input_grad", "weight_grad"])
@pytest.mark.parametrize("size", [(1, 0, 5, 5), (0, 2, 5, 5)])
def test_plan_of_nothing(direction: str, size: tuple[int, ...]) -> None:
    weight = torch.empty(2, size[1], 1, 1)
    assert planned(torch.empty(size), weight, direction=direction).kernel


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"sizes must not be negative.*\[1, -2, 5, 5\]"):
        _C.ConvProblem([1, -2, 5, 5], [2, -2, 1, 1])


@pytest.mark.parametrize("stride", [7, 64, 200])
def test_large_stride(stride: int) -> None:
    assert_correct(
        Problem(C=3, H=130, W=131, K=4, R=1, S=2, stride=(stride, stride), values="integer")
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_padding_and_stride_far_beyond_the_image(layout: str) -> None:
    far = 10**7
    problem = Problem(
        C=2,
        K=2,
        stride=(2 * far, 2 * far),
        padding=(far, far),
        layout=layout,
        values="integer",
    )
    input, weight = problem.tensors()[:2]
    before = peak_mib()
    output = convext.conv2d(input, weight, stride=2 * far, padding=far)
    assert output.shape == (1, 2, 2, 2)
    assert not output.any()  # every tap but the ones in the padding misses the image
    assert peak_mib() - before < 64


def test_kernel_as_large_as_the_image() -> None:
    input = torch.randint(-2, 3, (1, 2, 200, 210)).float()
    weight = torch.randint(-2, 3, (3, 2, 200, 210)).float()
    grad_output = torch.ones(1, 3, 1, 1)
    arguments = ([1, 1], [0, 0], [1, 1], 1, "zeros")
    assert torch.equal(convext.conv2d(input, weight), F.conv2d(input, weight))
    grads = torch.ops.convext.conv2d_backward(
        grad_output, input, weight, *arguments, [True, True, False]
    )
    assert torch.equal(grads[0], weight.sum(0, keepdim=True))
    assert torch.equal(grads[1], input.expand(3, -1, -1, -1))


def test_replicated_far_beyond_the_image() -> None:
    problem = Problem(
        H=3, W=3, R=1, S=1, padding=(150, 150), padding_mode="replicate", values="integer"
    )
    plan = _C.plan(problem.native(), "dgrad")
    assert plan.algorithm == "reference"
    assert any("copies of a corner pixel" in why for _, why in plan.refused)
    assert_correct(problem)


@pytest.mark.parametrize("groups", [1, 8])
def test_sums_over_wide_rows_are_sums_of_short_sums(groups: int) -> None:
    """One chain of float32 additions would be off by 1e-4 here."""
    width = 50_000
    input = torch.full((1, 8, 1, width), 0.1)
    weight = torch.ones(8, 8 // groups, 1, 1)
    grad_output = torch.full((1, 8, 1, width), 0.1)
    grads = torch.ops.convext.conv2d_backward(
        grad_output, input, weight, [1, 1], [0, 0], [1, 1], groups, "zeros", [False, True, True]
    )
    tenth = float(np.float32(0.1))
    assert (grads[1].double() / (width * tenth * tenth) - 1).abs().max() < 5e-6
    assert (grads[2].double() / (width * tenth) - 1).abs().max() < 1e-6


@pytest.mark.parametrize("channels", [1, 3, 5, 10, 23])
@pytest.mark.parametrize("kernel", [(2, 2), (3, 3), (1, 9)])
def test_axpy_of_few_channels_a_tap(channels: int, kernel: tuple[int, int]) -> None:
    """A tap's channels do not fill a vector: the last tap's must not reach the next pixel."""
    input = torch.randint(-2, 3, (2, channels, 4, 10)).float().requires_grad_()
    weight = torch.randint(-2, 3, (97, channels, *kernel)).float()
    weight = weight.to(memory_format=torch.channels_last)
    output = convext.conv2d(input, weight)
    grad_output = torch.randint(-1, 2, output.shape).float()
    with convext.force_plan("dgrad=axpy"):
        (result,) = torch.autograd.grad(output, input, grad_output, retain_graph=True)
    with convext.force_plan("dgrad=reference"):
        (expected,) = torch.autograd.grad(output, input, grad_output)
    assert torch.equal(result, expected)
