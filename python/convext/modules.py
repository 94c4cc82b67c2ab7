"""``ConvExt2d`` and ``LazyConvExt2d``: ``nn.Conv2d`` and ``nn.LazyConv2d`` on convext's kernels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from .functional import Size2, conv2d


class ConvExt2d(nn.Conv2d):
    """``torch.nn.Conv2d`` on convext's kernels: the same constructor, parameters and state.

    A model's ``state_dict`` goes from one to the other as it is, and the same seed gives the same
    initial weights. The padding modes other than zeros run inside the kernel, without a padded
    copy.

    Beyond ``nn.Conv2d``:

    - ``padding`` may have four values, ``(left, right, top, bottom)``, the order of
      :func:`torch.nn.functional.pad`.
    - Arguments that cannot work raise here and not at the first call.

    Args:
        in_channels, out_channels: C and K, both divisible by ``groups``.
        kernel_size: one integer, or (R, S).
        stride, dilation: one integer, or one for each of height and width.
        padding: as in :func:`convext.conv2d`: an integer, 2 or 4 of them, or a name.
        groups: C and K are split into as many groups, which do not see each other.
        bias: whether there is one.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.
        device, dtype: of the parameters; see :func:`convext.conv2d` for the dtypes.

    Shape:
        - Input: (N, C, H, W) or (C, H, W)
        - Output: (N, K, P, Q) or (K, P, Q), see :func:`convext.conv2d`

    Attributes:
        weight: (out_channels, in_channels / groups, kernel height, kernel width)
        bias: (out_channels), or None

    Raises:
        ValueError: as ``nn.Conv2d``, and for a kernel size, stride or dilation below 1, a negative
            padding, and tuples of a wrong length; the message names the argument.
        TypeError: for one of these that is no integer.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size2,
        stride: Size2 = 1,
        padding: Size2 | str = 0,
        dilation: Size2 = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        _check("in_channels", in_channels, least=0, lengths=())
        _check("out_channels", out_channels, least=0, lengths=())
        _check("kernel_size", kernel_size, least=1, lengths=(2,))
        _check("stride", stride, least=1, lengths=(1, 2))
        _check("dilation", dilation, least=1, lengths=(1, 2))
        if not isinstance(padding, str):
            _check("padding", padding, least=0, lengths=(1, 2, 4))
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,  # type: ignore[arg-type]
            stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            dilation,  # type: ignore[arg-type]
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        if isinstance(self.padding, tuple) and len(self.padding) == 4:
            self._reversed_padding_repeated_twice = list(self.padding)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # TorchScript reads this half alone, and only knows operators.
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            batched = input if input.dim() == 4 else input.unsqueeze(0)
            output: Tensor = torch.ops.convext.conv2d(
                batched,
                weight,
                bias,
                self.stride,
                self._reversed_padding_repeated_twice,
                self.dilation,
                self.groups,
                self.padding_mode,
            )
            return output if input.dim() == 4 else output.squeeze(0)
        else:
            return conv2d(
                input,
                weight,
                bias,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                padding_mode=self.padding_mode,
            )


class LazyConvExt2d(nn.LazyConv2d, ConvExt2d):  # type: ignore[misc]
    """``torch.nn.LazyConv2d`` that becomes a :class:`ConvExt2d` at its first call.

    Args:
        out_channels: K. C comes from the first input.
        kernel_size, stride, padding, dilation: as in :class:`ConvExt2d`.
        groups, bias, padding_mode, device, dtype: as in :class:`ConvExt2d`.

    Raises:
        RuntimeError: at the first call, for an input of neither 3 nor 4 dimensions.
    """

    cls_to_become = ConvExt2d


def _check(name: str, value: Any, least: int, lengths: tuple[int, ...]) -> None:
    """Refuses, with the argument's name, what nn.Conv2d would only stumble over when called."""
    values = tuple(value) if isinstance(value, Iterable) else (value,)
    kinds = f"an integer or {lengths[-1]} integers" if lengths else "an integer"
    if 4 in lengths:
        kinds = "an integer, or 2, or 4 as (left, right, top, bottom)"
    if isinstance(value, Iterable) and len(values) not in lengths:
        raise ValueError(f"{name} must be {kinds}, but got {value}")
    if any(isinstance(item, bool) or not hasattr(item, "__index__") for item in values):
        raise TypeError(f"{name} must be {kinds}, but got {value!r}")
    if any(item < least for item in values):
        raise ValueError(f"{name} must be at least {least}, but got {value}")
