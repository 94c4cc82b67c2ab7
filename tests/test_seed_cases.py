"""The cases convext began with, worked by hand: every number below can be checked on paper."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext

CONVOLUTIONS = {
    "convext.conv2d": convext.conv2d,
    "reference": None,  # the same under force_plan("reference")
    "F.conv2d": F.conv2d,  # the numbers themselves, checked against torch
}


@pytest.fixture(params=CONVOLUTIONS)
def conv2d(request: pytest.FixtureRequest):
    if CONVOLUTIONS[request.param] is None:
        with convext.force_plan("reference"):
            yield convext.conv2d
    else:
        yield CONVOLUTIONS[request.param]


def image(size: int) -> Tensor:
    """0, 1, 2, ... row by row: (1, 1, size, size)."""
    return torch.arange(float(size * size)).view(1, 1, size, size)


def matrix(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_five_by_five_padded_to_seven_by_seven(conv2d, dtype: torch.dtype) -> None:
    """5x5, padding 1, a 3x3 kernel of ones, stride 2: windows of a 7x7 image at 0, 2 and 4.

    The first sums 0 + 1 + 5 + 6 (the rest of its window is padding), the middle one
    6 + 7 + 8 + 11 + 12 + 13 + 16 + 17 + 18.
    """
    padded = F.pad(image(5), (1, 1, 1, 1))
    assert padded.shape == (1, 1, 7, 7)
    ones = torch.ones(1, 1, 3, 3)
    expected = matrix([12, 27, 24], [63, 108, 81], [72, 117, 84])
    actual = conv2d(image(5).to(dtype), ones.to(dtype), stride=2, padding=1)
    assert torch.equal(actual, expected.to(dtype))
    assert torch.equal(conv2d(padded.to(dtype), ones.to(dtype), stride=2), expected.to(dtype))


def test_five_by_five_with_a_kernel_that_tells_its_taps_apart(conv2d) -> None:
    """Sobel's kernel: right column minus left column, weighted 1, 2, 1. Bias 10.

    At the middle 1 * (8 - 6) + 2 * (13 - 11) + 1 * (18 - 16) = 8; at the left edge the left
    column is padding, so 1 * 6 + 2 * 11 + 1 * 16 = 44 in the second row.
    """
    sobel = matrix([-1, 0, 1], [-2, 0, 2], [-1, 0, 1])
    expected = matrix([8, 6, -14], [44, 8, -52], [58, 6, -64]) + 10
    actual = conv2d(image(5), sobel, torch.tensor([10.0]), stride=2, padding=1)
    assert torch.equal(actual, expected)


def test_gradients_of_the_five_by_five_case(conv2d) -> None:
    """With a gradient of ones the input's counts the windows over a pixel, the weight's sums the
    pixels under a tap, the bias's counts the outputs."""
    input = image(5).requires_grad_()
    weight = torch.ones(1, 1, 3, 3, requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    conv2d(input, weight, bias, stride=2, padding=1).sum().backward()
    across = torch.tensor([1.0, 2.0, 1.0, 2.0, 1.0])  # columns 1 and 3 lie in two windows
    assert torch.equal(input.grad, torch.outer(across, across)[None, None])
    # The middle tap meets rows and columns 0, 2, 4; the others 1 and 3 (and padding).
    expected = matrix(
        [6 + 8 + 16 + 18, 5 + 7 + 9 + 15 + 17 + 19, 6 + 8 + 16 + 18],
        [1 + 3 + 11 + 13 + 21 + 23, 0 + 2 + 4 + 10 + 12 + 14 + 20 + 22 + 24, 72],
        [48, 72, 48],
    )
    assert torch.equal(weight.grad, expected)
    assert torch.equal(bias.grad, torch.tensor([9.0]))


def test_seven_by_seven_to_four_by_four(conv2d) -> None:
    """(1, 1, 7, 7), kernel 3, stride 2, padding 1: 4x4. Its corner sums 0 + 1 + 7 + 8."""
    actual = conv2d(image(7), torch.ones(1, 1, 3, 3), stride=2, padding=1)
    assert actual.shape == (1, 1, 4, 4)
    expected = matrix(
        [16, 33, 45, 36],
        [87, 144, 162, 117],
        [171, 270, 288, 201],
        [156, 243, 255, 176],
    )
    assert torch.equal(actual, expected)


def test_kernel_five_keeps_seven_by_seven(conv2d) -> None:
    """Kernel 5, stride 1, padding 2 keeps 7x7; a kernel that is 1 in its middle keeps the image."""
    identity = torch.zeros(1, 1, 5, 5)
    identity[0, 0, 2, 2] = 1
    assert torch.equal(conv2d(image(7), identity, padding=2), image(7))
    actual = conv2d(image(7), torch.ones(1, 1, 5, 5), padding=2)
    assert actual.shape == (1, 1, 7, 7)
    assert actual[0, 0, 3, 3] == 25 * 24  # the mean of the window is its middle, 24
    assert actual[0, 0, 0, 0] == 0 + 1 + 2 + 7 + 8 + 9 + 14 + 15 + 16


@pytest.mark.parametrize("requires_grad", [False, True])
def test_kernel_exceeds_the_padded_input(conv2d, requires_grad: bool) -> None:
    input = torch.ones(1, 1, 1, 1, requires_grad=requires_grad)
    words = (
        r"Calculated padded input size per channel: \(1 x 1\)\. Kernel size: \(3 x 3\)\. "
        "Kernel size can't be greater than actual input size"
    )
    with pytest.raises(RuntimeError, match=words):
        conv2d(input, torch.ones(1, 1, 3, 3))
    # With padding 1 there is one window, and the input is its middle.
    assert torch.equal(conv2d(input, torch.ones(1, 1, 3, 3), padding=1), torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("zeros", [0, 1, 2, 0]),
        ("reflect", [1, 1, 2, 1]),
        ("replicate", [0, 1, 2, 2]),
        ("circular", [2, 1, 2, 0]),
    ],
)
def test_padding_modes_of_three_pixels(mode: str, expected: list[float]) -> None:
    """0 1 2 with one pixel on either side, seen through taps (1, 0) and (0, 1)."""
    row = torch.tensor([[[[0.0, 1.0, 2.0]]]])
    first, last = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    padded_left = convext.conv2d(row, first.view(1, 1, 1, 2), padding=(0, 1), padding_mode=mode)
    padded_right = convext.conv2d(row, last.view(1, 1, 1, 2), padding=(0, 1), padding_mode=mode)
    assert padded_left.flatten().tolist() == [expected[0], 0, 1, 2]
    assert padded_right.flatten().tolist() == [0, 1, 2, expected[3]]
