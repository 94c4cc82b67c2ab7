"""Long sums of forward and input grad: cut into chains, and nowhere else in another tile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext
from convext.testing import Problem, assert_correct

FORWARD = ("indirect", "direct", "direct_planes", "im2col", "winograd2")
INPUT_GRAD = ("indirect", "direct", "direct_planes", "winograd2")
# Several taps a chain, one, and several chains a tap.
CHANNELS = (24, 200, 300, 1100)


def forward(algorithm: str, input: Tensor, weight: Tensor, padding: int) -> Tensor:
    with convext.force_plan(f"fprop={algorithm}"):
        return convext.conv2d(input, weight, padding=padding)


def input_grad(
    algorithm: str, grad: Tensor, weight: Tensor, padding: int, padding_mode: str = "zeros"
) -> Tensor:
    rows = grad.shape[2] + 2 - 2 * padding
    columns = grad.shape[3] + 2 - 2 * padding
    input = torch.empty(grad.shape[0], weight.shape[1], rows, columns)
    with convext.force_plan(f"dgrad={algorithm}"):
        grads = torch.ops.convext.conv2d_backward(
            grad,
            input,
            weight,
            [1, 1],
            [padding, padding],
            [1, 1],
            1,
            padding_mode,
            [True, False, False],
        )
    return grads[0]


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("algorithm", FORWARD)
def test_forward_sums_are_cut_alike_in_every_tile(algorithm: str, channels: int) -> None:
    """At a border other taps are left out, and other pixels share a tile."""
    torch.manual_seed(0)
    input, weight = torch.randn(1, channels, 7, 12), torch.randn(13, channels, 3, 3)
    result = forward(algorithm, input, weight, 1)
    assert torch.equal(result, forward(algorithm, F.pad(input, (1, 1, 1, 1)), weight, 0))
    if algorithm != "winograd2":  # whose tiles are its transforms'
        shifted = forward(algorithm, input[..., 1:, 1:].contiguous(), weight, 1)
        assert torch.equal(result[..., 2:, 2:], shifted[..., 1:, 1:])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("algorithm", INPUT_GRAD)
def test_input_grad_sums_are_cut_alike_in_every_tile(algorithm: str, channels: int) -> None:
    torch.manual_seed(0)
    grad, weight = torch.randn(1, channels, 7, 12), torch.randn(channels, 13, 3, 3)
    result = input_grad(algorithm, grad, weight, 1)
    if algorithm != "winograd2":
        assert torch.equal(result, input_grad(algorithm, grad, weight, 0)[..., 1:-1, 1:-1])
        shifted = input_grad(algorithm, grad[..., 1:, 1:].contiguous(), weight, 1)
        assert torch.equal(result[..., 2:, 2:], shifted[..., 1:, 1:])


@pytest.mark.parametrize("channels", CHANNELS)
def test_copies_of_border_pixels_cut_no_chain(channels: int) -> None:
    """A border pixel has more entries than its neighbours in the tile, which these must not see."""
    torch.manual_seed(0)
    grad, weight = torch.randn(1, channels, 7, 12), torch.randn(channels, 13, 3, 3)
    result = input_grad("indirect", grad, weight, 1, "replicate")
    # One column more on the left: the others move on by a place in their tiles.
    wider = torch.randn(1, channels, 7, 13)
    wider[..., 1:] = grad
    moved = input_grad("indirect", wider, weight, 1, "replicate")
    assert torch.equal(result[..., 2:], moved[..., 3:])


@pytest.mark.parametrize("algorithm", FORWARD)
def test_forward_of_a_long_sum(algorithm: str) -> None:
    """One chain of float32 additions would be off by 1e-5 here."""
    channels = 4096
    input, weight = torch.full((1, channels, 4, 9), 0.1), torch.full((3, channels, 3, 3), 0.1)
    result = forward(algorithm, input, weight, 0).double()
    tenth = float(np.float32(0.1))
    assert (result / (9 * channels * tenth * tenth) - 1).abs().max() < 2e-6


@pytest.mark.parametrize("algorithm", INPUT_GRAD)
def test_input_grad_of_a_long_sum(algorithm: str) -> None:
    channels = 4096
    grad, weight = torch.full((1, channels, 4, 9), 0.1), torch.full((channels, 3, 3, 3), 0.1)
    result = input_grad(algorithm, grad, weight, 1)[..., 1:-1, 1:-1].double()
    tenth = float(np.float32(0.1))
    assert (result / (9 * channels * tenth * tenth) - 1).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [1, 3, 7, 9])
def test_axpy_of_fewer_channels_than_lanes(channels: int, dtype: torch.dtype) -> None:
    """A tap's whole vectors must leave the next pixel's first products alone."""
    problem = Problem(
        N=2,
        C=channels,
        H=8,
        W=8,
        K=24,
        R=4,
        S=4,
        stride=(4, 4),
        layout="channels_last",
        dtype=dtype,
        values="integer",
    )
    assert_correct(problem, ["input_grad"], force="dgrad=axpy")
