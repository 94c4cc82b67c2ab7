"""``convext.conv2d`` against ``F.conv2d``: arguments, dtypes, layouts, errors."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import convext

CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "ints": {"stride": 2, "padding": 1, "dilation": 2},
    "pairs": {"stride": (2, 1), "padding": (0, 2), "dilation": [1, 2]},
    "lists_of_one": {"stride": [2], "padding": (1,), "dilation": [1]},
    "size": {"stride": torch.Size([1, 2])},
    "numpy": {"stride": np.int64(2), "padding": (np.int32(1), 1), "groups": np.int64(1)},
    "tensors": {"stride": torch.tensor(2), "padding": (torch.tensor(1), 0)},
    "valid": {"padding": "valid", "stride": 2},
    "same": {"padding": "same"},
    "same_dilated": {"padding": "same", "dilation": (2, 3)},
    "same_stride_of_one": {"padding": "same", "stride": [1]},
    "groups": {"groups": 2, "padding": 1},
    "stride_beyond_kernel": {"stride": 5},
}


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 4)])
def test_arguments_mean_what_they_mean_in_torch(
    arguments: dict[str, Any], bias: bool, kernel: tuple[int, int]
) -> None:
    input = torch.randn(2, 4, 9, 13, dtype=torch.float64)
    weight = torch.randn(6, 4 // int(arguments.get("groups", 1)), *kernel, dtype=torch.float64)
    addend = torch.randn(6, dtype=torch.float64) if bias else None
    output = convext.conv2d(input, weight, addend, **arguments)
    torch.testing.assert_close(output, F.conv2d(input, weight, addend, **arguments))


def test_arguments_by_position_and_by_name() -> None:
    input, weight, bias = torch.randn(2, 4, 6, 6), torch.randn(4, 2, 3, 3), torch.randn(4)
    output = convext.conv2d(input, weight, bias, 2, 1, 1, 2)
    named = convext.conv2d(
        groups=2, dilation=1, padding=1, stride=2, bias=bias, weight=weight, input=input
    )
    assert torch.equal(output, named)
    with pytest.raises(TypeError):
        convext.conv2d(input, weight, bias, 2, 1, 1, 2, "zeros")  # only by name


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [1, (2, 1), (1, 0, 2, 3), "same", "valid"])
def test_padding_modes(mode: str, padding: Any) -> None:
    input = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    weight = torch.randn(4, 3, 2, 3, dtype=torch.float64)
    if padding == "same":
        pads = [1, 1, 0, 1]
    elif padding == "valid":
        pads = [0, 0, 0, 0]
    elif padding == (1, 0, 2, 3):
        pads = list(padding)
    else:
        h, w = (padding, padding) if isinstance(padding, int) else padding
        pads = [w, w, h, h]
    reference = F.conv2d(F.pad(input, pads, "constant" if mode == "zeros" else mode), weight)
    output = convext.conv2d(input, weight, padding=padding, padding_mode=mode)
    torch.testing.assert_close(output, reference)


def test_same_keeps_the_size_and_puts_the_odd_pixel_right_and_below() -> None:
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 3, 3] = 1
    output = convext.conv2d(image, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), padding="same")
    assert output.shape == image.shape
    assert output[0, 0, 2:, 2:].tolist() == [[4.0, 3.0], [2.0, 1.0]]


@pytest.mark.parametrize("requires_grad", [False, True])
def test_unbatched_input(requires_grad: bool) -> None:
    input = torch.randn(3, 5, 6, dtype=torch.float64, requires_grad=requires_grad)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64, requires_grad=requires_grad)
    output = convext.conv2d(input, weight, padding=1, padding_mode="reflect")
    reference = convext.conv2d(input[None], weight, padding=1, padding_mode="reflect")[0]
    assert torch.equal(output, reference)
    assert output.requires_grad == requires_grad
    if requires_grad:
        grads = torch.autograd.grad(output.pow(2).sum(), (input, weight))
        assert grads[0].shape == input.shape
        references = torch.autograd.grad(reference.pow(2).sum(), (input, weight))
        assert all(map(torch.equal, grads, references))


@pytest.mark.parametrize(
    ("input_size", "weight_size", "groups"),
    [
        ((0, 3, 5, 5), (4, 3, 3, 3), 1),
        ((2, 0, 5, 5), (4, 0, 3, 3), 1),
        ((2, 0, 5, 5), (4, 0, 3, 3), 2),
        ((0, 5, 5), (4, 0, 3, 3), 1),
    ],
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_empty_tensors(
    input_size: tuple[int, ...], weight_size: tuple[int, ...], groups: int, with_bias: bool
) -> None:
    """No samples; no channels, which torch answers with no channels (whatever the bias)."""

    def run(function: Any) -> list[Tensor]:
        tensors = [torch.zeros(input_size), torch.zeros(weight_size)]
        if with_bias:
            tensors.append(torch.ones(weight_size[0]))
        for tensor in tensors:
            tensor.requires_grad_()
        output = function(*tensors, groups=groups)
        return [output, *torch.autograd.grad(output.sum(), tensors)]

    for mine, other in zip(run(convext.conv2d), run(F.conv2d), strict=True):
        assert mine.shape == other.shape
        assert torch.equal(mine, other)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("groups", [1, 2])
def test_integers_wrap_as_in_torch(dtype: torch.dtype, groups: int) -> None:
    info = torch.iinfo(dtype)
    input, weight, bias = (
        torch.randint(max(info.min, -(2**40)), min(info.max, 2**40), size).to(dtype)
        for size in ((2, 4, 6, 6), (6, 4 // groups, 3, 3), (6,))
    )
    output = convext.conv2d(input, weight, bias, padding=1, groups=groups)
    assert output.dtype is dtype
    assert torch.equal(output, F.conv2d(input, weight, bias, padding=1, groups=groups))


@pytest.mark.parametrize(
    ("dtype", "wide", "tolerance"),
    [
        (torch.float32, torch.float64, 1e-6),
        (torch.bfloat16, torch.float64, 2**-8),
        (torch.float16, torch.float64, 2**-11),
        (torch.complex64, torch.complex128, 1e-6),
        (torch.complex128, torch.complex128, 1e-14),
        (torch.complex32, torch.complex128, 2**-10),
    ],
)
@pytest.mark.parametrize(("mode", "padding"), [("zeros", 1), ("reflect", (1, 2))])
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_dtypes(
    dtype: torch.dtype, wide: torch.dtype, tolerance: float, mode: str, padding: Any
) -> None:
    sizes = (2, 4, 6, 6), (6, 2, 3, 3), (6,)
    narrow = [torch.randn(size, dtype=wide).to(dtype).requires_grad_() for size in sizes]
    wider = [tensor.detach().to(wide).requires_grad_() for tensor in narrow]
    settings = {"padding": padding, "groups": 2, "padding_mode": mode}
    output = convext.conv2d(*narrow, **settings)
    reference = convext.conv2d(*wider, **settings)
    assert output.dtype is dtype
    h, w = (padding, padding) if isinstance(padding, int) else padding
    padded = F.pad(wider[0], (w, w, h, h), "constant" if mode == "zeros" else mode)
    torch.testing.assert_close(reference, F.conv2d(padded, *wider[1:], groups=2))
    grad_output = torch.randn_like(output)
    pairs = [(output, reference)]
    pairs += zip(
        torch.autograd.grad(output, narrow, grad_output),
        torch.autograd.grad(reference, wider, grad_output.to(wide)),
        strict=True,
    )
    for mine, other in pairs:
        scale = other.abs().max()
        assert (mine.to(wide) - other).abs().max() <= 2 * tolerance * scale


@pytest.mark.parametrize("dtype", [torch.bool, torch.float8_e4m3fn, torch.uint16, torch.uint64])
def test_dtypes_without_kernels_raise_as_in_torch(dtype: torch.dtype) -> None:
    input, weight = (torch.ones(2, 3, 5, 5).to(dtype), torch.ones(4, 3, 3, 3).to(dtype))
    with pytest.raises(NotImplementedError) as theirs:
        F.conv2d(input, weight)
    words = re.search("not implemented for '.*'", str(theirs.value))
    assert words is not None
    with pytest.raises(NotImplementedError, match=re.escape(words[0])):
        convext.conv2d(input, weight)


def test_requires_grad_as_in_torch() -> None:
    for flags in itertools.product([False, True], repeat=3):
        tensors = [torch.randn(size) for size in ((2, 3, 5, 5), (4, 3, 3, 3), (4,))]
        for tensor, flag in zip(tensors, flags, strict=True):
            tensor.requires_grad_(flag)
        assert convext.conv2d(*tensors).requires_grad == any(flags)
        with torch.no_grad():
            assert not convext.conv2d(*tensors).requires_grad
    integers = torch.ones(1, 1, 3, 3, dtype=torch.int32), torch.ones(1, 1, 3, 3, dtype=torch.int32)
    assert not convext.conv2d(*integers).requires_grad


def test_layouts_without_a_wrong_answer() -> None:
    base = torch.randn(4, 6, 10, 8, dtype=torch.float64)
    inputs = {
        "sliced": base[:, ::2, 1:, ::2],
        "transposed": base.transpose(2, 3),
        "expanded": base[:1].expand(3, 6, 10, 8),
        "permuted": base.permute(3, 2, 1, 0),
        "channels_last": base.to(memory_format=torch.channels_last),
        "flipped": base.flip(2),
        "negated": torch.complex(base, base).conj().imag,  # has its negative bit set
    }
    assert inputs["negated"].is_neg()
    for name, input in inputs.items():
        weight = torch.randn(5, input.size(1), 3, 2, dtype=torch.float64)
        for filters in (weight, weight.flip(0), weight.transpose(2, 3)):
            output = convext.conv2d(input, filters, padding=1)
            reference = F.conv2d(input, filters, padding=1)
            torch.testing.assert_close(output, reference, msg=lambda text, n=name: f"{n}: {text}")
    conjugated = torch.complex(base, base).conj()
    assert conjugated.is_conj()
    weight = torch.randn(5, 6, 3, 3, dtype=torch.complex128)
    torch.testing.assert_close(
        convext.conv2d(conjugated, weight.conj()), F.conv2d(conjugated, weight.conj())
    )


# --------------------------------------------------------------------------------------------------
# Errors

X, W = torch.randn(2, 3, 5, 5), torch.randn(6, 3, 3, 3)

# Arguments for both functions, and the words of torch's message that decide.
SAME_ERRORS: dict[str, tuple[tuple[Any, ...], dict[str, Any], str]] = {
    "kernel_too_large": (
        (X, torch.randn(6, 3, 7, 3)),
        {},
        "Calculated padded input size per channel: (5 x 5). Kernel size: (7 x 3). "
        "Kernel size can't be greater than actual input size",
    ),
    "dilated_kernel_too_large": ((X, W), {"dilation": 3}, "Kernel size: (7 x 7)"),
    "channels": (
        (X, torch.randn(6, 4, 3, 3)),
        {},
        "Given groups=1, weight of size [6, 4, 3, 3], expected input[2, 3, 5, 5] to have 4 "
        "channels, but got 3 channels instead",
    ),
    "groups_divide": (
        (torch.randn(2, 6, 5, 5), torch.randn(5, 2, 3, 3)),
        {"groups": 2},
        "Given groups=2, expected weight to be divisible by 2 at dimension 0, but got weight of "
        "size [[5, 2, 3, 3]] instead",
    ),
    "no_filters": (
        (X, torch.randn(0, 3, 3, 3)),
        {},
        "Given groups=1, expected weight to be at least 1 at dimension 0, but got weight of size "
        "[0, 3, 3, 3] instead",
    ),
    "groups_zero": ((X, W), {"groups": 0}, "non-positive groups is not supported"),
    "stride_zero": ((X, W), {"stride": (1, 0)}, "non-positive stride is not supported"),
    "dilation_zero": ((X, W), {"dilation": 0}, "is not supported"),
    "padding_negative": ((X, W), {"padding": (0, -1)}, "negative padding is not supported"),
    "rank_2": (
        (X[0, 0], W),
        {},
        "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [5, 5]",
    ),
    "rank_5": ((X[None], W), {}, "but got input of size: [1, 2, 3, 5, 5]"),
    "stride_length": (
        (X, W),
        {"stride": (2, 2, 2)},
        "expected stride to be a single integer value or a list of 2 values to match the "
        "convolution dimensions, but got stride=[2, 2, 2]",
    ),
    "padding_length": ((X, W), {"padding": (1, 1, 1)}, "but got padding=[1, 1, 1]"),
    "dilation_length": ((X, W), {"dilation": ()}, "but got dilation=[]"),
    "bias_length": (
        (X, W, torch.randn(5)),
        {},
        "Given weight of size [6, 3, 3, 3], expected bias to be 1-dimensional with 6 elements, "
        "but got bias of size [5] instead",
    ),
    "bias_rank": ((X, W, torch.randn(6, 1)), {}, "but got bias of size [6, 1] instead"),
    "double_input": ((X.double(), W), {}, "expected scalar type Double but found Float"),
    "bias_dtype": (
        (X, W, torch.randn(6).double()),
        {},
        "Input type (float) and bias type (double) should be the same",
    ),
    "padding_name": ((X, W), {"padding": "full"}, "Invalid padding string: 'full'"),
    "same_strided": (
        (X, W),
        {"padding": "same", "stride": 2},
        "padding='same' is not supported for strided convolutions",
    ),
    "empty_image": (
        (torch.randn(2, 3, 0, 5), torch.randn(4, 3, 1, 3)),
        {"padding": 1},
        "Only zero batch or zero channel inputs are supported, but got input shape: [2, 3, 0, 5]",
    ),
}


@pytest.mark.parametrize("case", SAME_ERRORS.values(), ids=SAME_ERRORS)
def test_errors_are_torchs(case: tuple[tuple[Any, ...], dict[str, Any], str]) -> None:
    args, kwargs, words = case
    with pytest.raises(RuntimeError) as theirs:
        F.conv2d(*args, **kwargs)
    assert words in str(theirs.value)
    with pytest.raises(RuntimeError) as ours:
        convext.conv2d(*args, **kwargs)
    assert words in str(ours.value)
    assert not isinstance(ours.value, NotImplementedError)


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((), {}, "input"),
        ((X,), {}, "weight"),
        (([[1.0]], W), {}, "argument 'input' (position 1) must be Tensor, not list"),
        ((X, None), {}, "argument 'weight' (position 2) must be Tensor, not NoneType"),
        ((X.numpy(), W), {}, "argument 'input' (position 1) must be Tensor, not ndarray"),
        ((X, W, 1.0), {}, "argument 'bias' (position 3) must be Tensor, not float"),
        ((X, W), {"stride": 1.0}, "argument 'stride' must be int or tuple of ints, not float"),
        ((X, W), {"stride": True}, "argument 'stride' must be int or tuple of ints, not bool"),
        ((X, W), {"stride": (True, 1)}, "argument 'stride'"),
        ((X, W), {"padding": None}, "argument 'padding'"),
        ((X, W), {"padding": (0.5, 1)}, "argument 'padding'"),
        ((X, W), {"dilation": "same"}, "argument 'dilation'"),
        ((X, W), {"groups": 1.0}, "argument 'groups' must be int, not float"),
        ((X, W), {"groups": (1,)}, "argument 'groups' must be int, not tuple"),
        ((X, W), {"foo": 1}, "foo"),
        ((None, W), {}, "argument 'input'"),
    ],
)
def test_wrong_types(args: tuple[Any, ...], kwargs: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError):
        F.conv2d(*args, **kwargs)
    with pytest.raises(TypeError, match=re.escape(words)):
        convext.conv2d(*args, **kwargs)


def test_weight_rank_is_named() -> None:
    """torch complains about the stride, whatever it is."""
    for weight in (W[0], W[None]):
        with pytest.raises(RuntimeError, match="Expected 4D weight"):
            convext.conv2d(X, weight)


def test_padding_mode_and_its_limits() -> None:
    with pytest.raises(ValueError, match=r"padding_mode must be one of .* got padding_mode='same'"):
        convext.conv2d(X, W, padding=1, padding_mode="same")
    with pytest.raises(RuntimeError, match="less than the corresponding input dimension"):
        convext.conv2d(X, W, padding=5, padding_mode="reflect")
    with pytest.raises(RuntimeError, match="wrapping around more than once"):
        convext.conv2d(X, W, padding=6, padding_mode="circular")
    assert convext.conv2d(X, W, padding=4, padding_mode="reflect").shape == (2, 6, 11, 11)
    assert convext.conv2d(X, W, padding=5, padding_mode="circular").shape == (2, 6, 13, 13)
    assert convext.conv2d(X, W, padding=9, padding_mode="replicate").shape == (2, 6, 21, 21)


def test_huge_numbers_are_errors_and_do_not_wrap() -> None:
    for name in ("padding", "dilation"):
        with pytest.raises(RuntimeError):
            convext.conv2d(X, W, **{name: 2**62})
    assert convext.conv2d(X, W, stride=2**62).shape == (2, 6, 1, 1)
    with pytest.raises((RuntimeError, TypeError, OverflowError)):
        convext.conv2d(X, W, stride=2**70)


# --------------------------------------------------------------------------------------------------
# The seed cases


def test_seven_by_seven_by_hand() -> None:
    """A 5x5 image, padded to 7x7, under a 3x3 kernel of stride 2: 3x3, every sum written out."""
    image = torch.arange(1.0, 26.0).view(1, 1, 5, 5)
    kernel = torch.tensor([[[[1.0, 2.0, 1.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -1.0]]]])
    output = convext.conv2d(image, kernel, stride=2, padding=1)
    # The row above minus the row below, each weighted 1 2 1, at pixels 1, 3 and 5 of each axis.
    assert output.tolist() == [
        [
            [
                [-(2 * 6 + 7.0), -(7 + 2 * 8 + 9.0), -(9 + 2 * 10.0)],
                [
                    (2 * 6 + 7) - (2 * 16 + 17.0),
                    (7 + 2 * 8 + 9) - (17 + 2 * 18 + 19.0),
                    (9 + 2 * 10) - (19 + 2 * 20.0),
                ],
                [2 * 16 + 17.0, 17 + 2 * 18 + 19.0, 19 + 2 * 20.0],
            ]
        ]
    ]
    assert convext.conv2d(F.pad(image, (1, 1, 1, 1)), kernel, stride=2).equal(output)


def test_sizes_by_hand() -> None:
    image = torch.randn(1, 1, 7, 7)
    assert convext.conv2d(image, torch.ones(1, 1, 3, 3), stride=2, padding=1).shape[2:] == (4, 4)
    assert convext.conv2d(image, torch.ones(1, 1, 5, 5), padding=2).shape[2:] == (7, 7)
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        convext.conv2d(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 3, 3))
