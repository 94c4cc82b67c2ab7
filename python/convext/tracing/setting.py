"""The geometry of one convolution: sizes, formulas, and in whose words it is refused."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import _C
from ..functional import normalised_geometry
from ..modules import ConvExt2d


@dataclasses.dataclass(frozen=True)
class Setting:
    """One convolution of one image; the defaults are the lesson's.

    Args:
        C, H, W: channels, height and width of the input.
        K, R, S: output channels, height and width of the kernel.
        stride, dilation: (vertical, horizontal).
        padding: (vertical, horizontal), four values (left, right, top, bottom), ``'same'`` or
            ``'valid'``, as :func:`convext.conv2d` takes them.
        groups: divides C and K.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``.

    Of the numbers, only that they are integers is validated here: :meth:`refusal` tells what torch
    says to a setting. The properties are for settings that it does not refuse.

    Raises:
        TypeError: an argument is not an integer, or not as many integers as it must be.
    """

    C: int = 1
    H: int = 5
    W: int = 5
    K: int = 1
    R: int = 3
    S: int = 3
    stride: tuple[int, int] = (2, 2)
    padding: tuple[int, ...] | str = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        for name, counts, what in (
            ("stride", (2,), "two integers, (vertical, horizontal)"),
            ("dilation", (2,), "two integers, (vertical, horizontal)"),
            ("padding", (2, 4), "two or four integers, 'same' or 'valid'"),
        ):
            value: object = getattr(self, name)
            if name == "padding" and isinstance(value, str):
                continue
            if (
                not isinstance(value, (tuple, list))
                or len(value) not in counts
                or not all(isinstance(number, int) for number in value)
            ):
                raise TypeError(f"{name} must be {what}, but got {value!r}")
            object.__setattr__(self, name, tuple(value))
        for name in ("C", "H", "W", "K", "R", "S", "groups"):
            if not isinstance(getattr(self, name), int):
                raise TypeError(f"{name} must be an integer, but got {getattr(self, name)!r}")

    @classmethod
    def of_layer(cls, layer: nn.Conv2d, height: int, width: int) -> Setting:
        """The setting of a layer on images of ``height`` x ``width`` pixels."""
        R, S = layer.kernel_size
        return cls(
            layer.in_channels,
            height,
            width,
            layer.out_channels,
            R,
            S,
            layer.stride,  # type: ignore[arg-type]
            layer.padding,
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.padding_mode,
        )

    @classmethod
    def of_problem(cls, problem: _C.ConvProblem) -> Setting:
        """The setting of one image of a problem."""
        p = problem
        return cls(
            p.C,
            p.H,
            p.W,
            p.K,
            p.R,
            p.S,
            (p.stride_h, p.stride_w),
            (p.pad_left, p.pad_right, p.pad_top, p.pad_bottom),
            (p.dilation_h, p.dilation_w),
            p.groups,
            p.padding_mode,
        )

    @property
    def pad(self) -> tuple[int, int, int, int]:
        """Padding as :func:`torch.nn.functional.pad` takes it: left, right, top, bottom."""
        weight = torch.empty(1, 1, self.R, self.S, device="meta")
        pads = normalised_geometry(weight, 1, self.padding, self.dilation, 1)[1]
        if len(pads) == 2:
            pads = (pads[1], pads[1], pads[0], pads[0])
        left, right, top, bottom = pads
        return left, right, top, bottom

    @property
    def padded_size(self) -> tuple[int, int]:
        """Height and width of the padded input."""
        left, right, top, bottom = self.pad
        return self.H + top + bottom, self.W + left + right

    @property
    def effective_kernel(self) -> tuple[int, int]:
        """Height and width that the kernel spans: dilation * (size - 1) + 1."""
        return self.dilation[0] * (self.R - 1) + 1, self.dilation[1] * (self.S - 1) + 1

    @property
    def output_size(self) -> tuple[int, int]:
        """P and Q: floor((padded - effective kernel) / stride) + 1."""
        (height, width), (rows, columns) = self.padded_size, self.effective_kernel
        return (height - rows) // self.stride[0] + 1, (width - columns) // self.stride[1] + 1

    @property
    def weight_size(self) -> tuple[int, int, int, int]:
        """(K, C / groups, R, S)."""
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def formula(self) -> dict[str, str]:
        """The formulas of P and Q with this setting's numbers filled in."""
        left, right, top, bottom = self.pad
        axes = (
            ("P", self.H, top, bottom, self.R),
            ("Q", self.W, left, right, self.S),
        )
        return {
            name: f"floor(({size} + {before} + {after} - {self.dilation[axis]} * ({kernel} - 1) "
            f"- 1) / {self.stride[axis]}) + 1 = {self.output_size[axis]}"
            for axis, (name, size, before, after, kernel) in enumerate(axes)
        }

    @property
    def dropped(self) -> tuple[list[int], list[int]]:
        """Rows and columns of the padded input, at its end, that floor drops: no window gets
        there."""
        ends = [
            (self.output_size[axis] - 1) * self.stride[axis] + self.effective_kernel[axis]
            for axis in (0, 1)
        ]
        return tuple(  # type: ignore[return-value]
            list(range(end, size)) for end, size in zip(ends, self.padded_size, strict=True)
        )

    @property
    def problem(self) -> _C.ConvProblem:
        """The same as the planner takes it: one float32 image, contiguous."""
        return _C.ConvProblem(
            [1, self.C, self.H, self.W],
            list(self.weight_size),
            list(self.stride),
            list(self.pad),
            list(self.dilation),
            self.groups,
            self.padding_mode,
        )

    def refusal(self) -> str | None:
        """What torch says to this setting, word for word; where torch takes it, what ConvExt2d
        says.

        Four-sided padding, which ``nn.Conv2d`` does not have, is ``F.pad`` before it.

        Returns:
            ``"torch refuses this setting: ..."``, ``"ConvExt2d refuses this setting: ..."``, or
            None if both take it.
        """
        for name, attempt in (("torch", self._run_torch), ("ConvExt2d", self._run_convext)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of padded copies
                    attempt(torch.zeros(1, self.C, self.H, self.W))
            except (RuntimeError, ValueError, TypeError) as error:
                return f"{name} refuses this setting: {error}"
        return None

    def _run_torch(self, image: Tensor) -> None:
        padding, mode = self.padding, self.padding_mode
        sides = () if isinstance(padding, str) else padding
        if len(sides) == 4 and sides[0] == sides[1] and sides[2] == sides[3]:
            padding = (sides[2], sides[0])
        elif len(sides) == 4:
            image_mode = "constant" if mode == "zeros" else mode
            layer = nn.Conv2d(**self._arguments((0, 0), "zeros"))
            layer(F.pad(image, self.pad, image_mode))
            return
        nn.Conv2d(**self._arguments(padding, mode))(image)

    def _run_convext(self, image: Tensor) -> None:
        ConvExt2d(**self._arguments(self.padding, self.padding_mode))(image)

    def _arguments(self, padding: tuple[int, ...] | str, mode: str) -> dict[str, Any]:
        return {
            "in_channels": self.C,
            "out_channels": self.K,
            "kernel_size": (self.R, self.S),
            "stride": self.stride,
            "padding": padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": False,
            "padding_mode": mode,
        }

    def to_dict(self) -> dict[str, Any]:
        """The fields, padding as four values, fit for JSON."""
        return dataclasses.asdict(self) | {"padding": list(self.pad)}


LESSON = Setting()
"""A 5x5 input, padded to 7x7, a 3x3 kernel and a stride of 2: a 3x3 output."""


def small_integers(setting: Setting) -> tuple[Tensor, Tensor]:
    """Input (1, C, H, W) and weight (K, C / groups, R, S) of small integers, in float32.

    A rule without a generator, so that the page computes the same: sums of their products are
    exact.
    """
    K, channels, R, S = setting.weight_size
    c, h, w = _indices(setting.C, setting.H, setting.W)
    image = (7 * h + 3 * w + 5 * c + h * w) % 10
    k, c, r, s = _indices(K, channels, R, S)
    weight = (2 * r + s + 3 * c + k + r * s) % 5 - 2
    return image[None].float(), weight.float()


def _indices(*sizes: int) -> list[Tensor]:
    return [
        torch.arange(size).reshape([-1 if axis == at else 1 for at in range(len(sizes))])
        for axis, size in enumerate(sizes)
    ]
