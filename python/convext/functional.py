"""``convext.conv2d``: ``torch.nn.functional.conv2d`` on convext's kernels.

Arguments are normalised here (pairs, ``'same'``, unbatched input); what they mean for shapes is the
operator's business.
"""

from __future__ import annotations

import operator
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import _ops

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

# Those of torch's CPU kernels. Others raise NotImplementedError, which the operator cannot.
DTYPES = frozenset(
    {
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.complex32,
        torch.complex64,
        torch.complex128,
        torch.int8,
        torch.uint8,
        torch.int16,
        torch.int32,
        torch.int64,
    }
)

Size2 = int | Sequence[int]


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size2 = 1,
    padding: Size2 | str = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> Tensor:
    r"""A 2D convolution, as :func:`torch.nn.functional.conv2d` defines it.

    ``output[n, k, p, q] = bias[k] + sum over c, r, s of weight[k, c, r, s] *
    padded[n, c + group offset, p * stride + r * dilation, q * stride + s * dilation]``

    Args:
        input: (N, C, H, W), or (C, H, W) for one sample without a batch dimension. N may be 0.
        weight: (K, C / groups, R, S).
        bias: (K), or None.
        stride: one integer, or one for each of height and width.
        padding: zeros (or what ``padding_mode`` says) around the input: one integer; two, for
            height and width; four, ``(left, right, top, bottom)`` as
            :func:`torch.nn.functional.pad` takes them; ``'valid'``, which is none; or ``'same'``,
            which keeps the size of the input and puts the odd pixel of an even kernel to the right
            and to the bottom. ``'same'`` wants a stride of 1, as in torch.
        dilation: distance of kernel taps, like ``stride``.
        groups: C and K are split into as many groups, which do not see each other.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``: the padding's
            values, as :class:`torch.nn.Conv2d` knows them. No padded copy is made.

    Returns:
        (N, K, P, Q) with P = floor((H + top + bottom - dilation * (R - 1) - 1) / stride) + 1 and Q
        alike; (K, P, Q) for an unbatched input. The memory format is channels_last if ``input`` or
        ``weight`` suggests so. An input without channels gives (N, 0, P, Q), as in torch.

    Dtypes:
        float32, float64, bfloat16, float16 (half types accumulate in float32), complex32,
        complex64, complex128, and without gradients int8 to int64 and uint8, which wrap around as
        torch's do. All tensors have the same dtype; under :func:`torch.autocast` floats follow the
        context.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: unknown ``padding_mode``.
        NotImplementedError: a dtype without kernels (bool, float8, unsigned integers from 16 bits).
        RuntimeError: shapes, dtypes, devices or geometry do not fit; the words are torch's.

    Example:
        >>> image, sobel = torch.randn(1, 1, 5, 5), torch.tensor([[[[-1.0, 0.0, 1.0]]]])
        >>> convext.conv2d(image, sobel, padding="same", padding_mode="replicate").shape
        torch.Size([1, 1, 5, 5])
    """
    if not torch.compiler.is_compiling():  # which Dynamo folds, and reads no further
        short = _ops.short_conv2d(
            input, weight, bias, stride, padding, dilation, groups, padding_mode
        )
        if short is not None:
            return short
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            conv2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
        )
    if not (
        isinstance(input, Tensor)
        and isinstance(weight, Tensor)
        and (bias is None or isinstance(bias, Tensor))
    ):
        _raise_no_tensor(input, weight, bias)
    rank = input.dim()
    if rank not in (3, 4):
        raise RuntimeError(
            "Expected 3D (unbatched) or 4D (batched) input to conv2d, "
            f"but got input of size: {list(input.shape)}"
        )
    if weight.dim() != 4:
        # torch complains about the stride here, or with padding='same' about the input.
        raise RuntimeError(
            "Expected 4D weight (out_channels, in_channels / groups, kernel_height, kernel_width) "
            f"in conv2d, but got weight of size: {list(weight.shape)}. (Expected {weight.dim()}-"
            f"dimensional input for {weight.dim()}-dimensional weight, as torch has it.)"
        )
    if input.dtype not in DTYPES:
        name = str(input.dtype).removeprefix("torch.").capitalize().replace("Uint", "UInt")
        raise NotImplementedError(f'"convext::conv2d" not implemented for {name!r}')
    check_padding_mode(padding_mode)
    strides, pads, dilations, groups = normalised_geometry(
        weight, stride, padding, dilation, groups
    )
    if rank == 3:
        input = input.unsqueeze(0)
    output = _ops.conv2d(input, weight, bias, strides, pads, dilations, groups, padding_mode)
    return output.squeeze(0) if rank == 3 else output


def check_padding_mode(padding_mode: str) -> None:
    """Raises ValueError, in torch's words, if there is no such mode."""
    if padding_mode not in PADDING_MODES:
        raise ValueError(
            f"padding_mode must be one of {set(PADDING_MODES)}, "
            f"but got padding_mode={padding_mode!r}"
        )


def normalised_geometry(
    weight: Tensor, stride: Size2, padding: Size2 | str, dilation: Size2, groups: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Stride, padding, dilation and groups as the operators take them."""
    strides = _pair("stride", stride)
    dilations = _pair("dilation", dilation)
    if isinstance(padding, str):
        pads = _named_padding(padding, weight, strides, dilations)
    elif isinstance(padding, (tuple, list)) and len(padding) == 4:
        pads = tuple(_integer("padding", value) for value in padding)
    else:
        pads = _pair("padding", padding)
    return strides, pads, dilations, _integer("groups", groups)


def _raise_no_tensor(*values: object) -> NoReturn:
    for position, (name, value) in enumerate(zip(("input", "weight", "bias"), values, strict=True)):
        if not isinstance(value, Tensor):
            raise TypeError(
                f"conv2d(): argument {name!r} (position {position + 1}) must be Tensor, "
                f"not {type(value).__name__}"
            )
    raise AssertionError("all are tensors")


def _integer(name: str, value: Any) -> int:
    """``value`` as an integer, from anything torch takes for one; a bool it does not."""
    if type(value) is int or isinstance(value, torch.SymInt):
        return value  # type: ignore[return-value]
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    expected = "int" if name == "groups" else "int or tuple of ints"
    raise TypeError(f"conv2d(): argument {name!r} must be {expected}, not {type(value).__name__}")


def _pair(name: str, value: Any) -> tuple[int, ...]:
    """``value`` for height and width; a list of one counts for both."""
    if type(value) is int:
        return (value, value)
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value  # what modules hold, without the cost of looking closer
    if not isinstance(value, (tuple, list)):
        value = _integer(name, value)
        return (value, value)
    values = tuple(_integer(name, item) for item in value)
    if len(values) == 1:
        return values * 2
    if len(values) != 2:
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values "
            f"to match the convolution dimensions, but got {name}={list(values)}"
        )
    return values


def _named_padding(
    padding: str, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[int, ...]:
    """The numbers behind ``'valid'`` and ``'same'``."""
    if padding == "valid":
        return (0, 0)
    if padding != "same":
        raise RuntimeError(f"Invalid padding string: {padding!r}")
    if any(step != 1 for step in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    total_h, total_w = (d * (k - 1) for d, k in zip(dilation, _kernel_size(weight), strict=True))
    if total_h % 2 == 0 and total_w % 2 == 0:
        return (total_h // 2, total_w // 2)
    left, top = total_w // 2, total_h // 2
    return (left, total_w - left, top, total_h - top)


def _kernel_size(weight: Tensor) -> list[int]:
    sizes = list(weight.shape[2:])
    if any(isinstance(size, Tensor) for size in sizes):
        # torch.jit.trace hands out sizes as tensors. A kernel's are constants of the trace, as the
        # kernel itself is, so there is nothing to warn of.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TracerWarning)
            sizes = [int(size) for size in sizes]
    return sizes
