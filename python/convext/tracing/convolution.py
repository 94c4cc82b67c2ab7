"""One convolution, followed from the padded input to the output."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _C, explaining
from ..functional import conv2d
from .plans import planned
from .setting import Setting, small_integers


class Window(NamedTuple):
    """One output pixel: ``rows`` and ``columns`` of the padded input under the kernel's taps, the
    values there (C / groups, R, S), the weight, the products and their sum with the bias, all in
    float64, and what :func:`convext.conv2d` returned."""

    k: int
    p: int
    q: int
    first_channel: int
    rows: list[int]
    columns: list[int]
    values: Tensor
    weight: Tensor
    products: Tensor
    total: float
    output: float


@dataclasses.dataclass(frozen=True, eq=False)
class ConvTrace:
    """One convolution of one image (the first, if there are several), and what it is made of.

    Attributes:
        setting: the geometry.
        input, weight, bias: (C, H, W), (K, C / groups, R, S), (K) or None.
        output: (K, P, Q), from :func:`convext.conv2d`.
        plans: pass -> kernel, algorithm, tile, reason, refused, of the whole batch.
        problem: what the planner was asked.
    """

    setting: Setting
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    output: Tensor
    plans: dict[str, dict[str, Any]]
    problem: _C.ConvProblem

    @classmethod
    def run(
        cls,
        setting: Setting,
        input: Tensor | None = None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        problem: _C.ConvProblem | None = None,
    ) -> ConvTrace:
        """Runs :func:`convext.conv2d` on a setting.

        Args:
            setting: the geometry.
            input: (N, C, H, W), real and floating-point; small integers by default.
            weight: (K, C / groups, R, S); small integers by default.
            bias: (K) or None.
            problem: what to ask the planner; by default that of ``input`` and ``weight``.

        Raises:
            TypeError: ``input`` is not a tensor of a real floating-point dtype.
            ValueError: torch or ConvExt2d refuses the setting; the words are theirs. Or there are
                no images.
        """
        refusal = setting.refusal()
        if refusal is not None:
            raise ValueError(refusal)
        integers = small_integers(setting)
        input = integers[0] if input is None else input.detach()
        weight = integers[1] if weight is None else weight.detach()
        bias = None if bias is None else bias.detach()
        if not input.dtype.is_floating_point:
            raise TypeError(f"input must be of a real floating-point dtype, but is {input.dtype}")
        if input.shape[0] == 0:
            raise ValueError("input must have at least one image, but its batch is empty")
        mode = setting.padding_mode
        output = conv2d(
            input,
            weight,
            bias,
            setting.stride,
            setting.pad,
            setting.dilation,
            setting.groups,
            padding_mode=mode,
        )
        problem = problem or problem_of(setting, input, weight)
        return cls(setting, input[0], weight, bias, output[0], planned(problem), problem)

    @cached_property
    def padded(self) -> Tensor:
        """(C, H + top + bottom, W + left + right), by :func:`torch.nn.functional.pad`."""
        return _pad(self.input[None], self.setting)[0]

    @cached_property
    def sources(self) -> Tensor:
        """(H + top + bottom, W + left + right) int64: from which pixel, ``h * W + w``, the padded
        input took each value; -1 where it is a zero of the padding."""
        s = self.setting
        pixels = torch.arange(1, s.H * s.W + 1, dtype=torch.float64).reshape(1, 1, s.H, s.W)
        return _pad(pixels, s)[0, 0].long() - 1

    @cached_property
    def _taps(self) -> tuple[Tensor, Tensor]:
        """Rows (P, R) and columns (Q, S) of the padded input under each tap of each window."""
        s = self.setting
        P, Q = s.output_size
        rows = torch.arange(P)[:, None] * s.stride[0] + torch.arange(s.R) * s.dilation[0]
        columns = torch.arange(Q)[:, None] * s.stride[1] + torch.arange(s.S) * s.dilation[1]
        return rows, columns

    @cached_property
    def sums(self) -> Tensor:
        """(K, P, Q) float64: the sums of the windows' products, with the bias."""
        return self._sum(self.padded, self.weight, self.bias)

    def _sum(self, padded: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        s = self.setting
        rows, columns = self._taps
        windows = padded.double().cpu()[:, rows[:, None, :, None], columns[None, :, None, :]]
        windows = windows.reshape(s.groups, s.C // s.groups, *windows.shape[1:])
        kernels = weight.double().cpu().reshape(s.groups, s.K // s.groups, *weight.shape[1:])
        sums = torch.einsum("gcpqrs,gkcrs->gkpq", windows, kernels).flatten(0, 1)
        return sums if bias is None else sums + bias.double().cpu()[:, None, None]

    def check(self) -> tuple[bool, str]:
        """Whether every sum is what :func:`convext.conv2d` returned, and a sentence about it.

        Small integers and a kernel that is exact on them: equal. Otherwise as close as
        :func:`convext.testing.compare` wants it.
        """
        from ..testing import Reference, compare  # only this needs it

        kernels = {kernel["name"]: kernel for kernel in _C.kernels()}
        kernel = kernels[self.plans["forward"]["kernel"]]
        operands = [t for t in (self.input, self.weight, self.bias) if t is not None]
        integers = all(bool((t == t.round()).all() and t.abs().max() <= 64) for t in operands)
        exact = integers and kernel["exact_on_integers"]
        bias = self.bias
        reference = Reference(
            self.sums,
            self._sum(self.padded.abs(), self.weight.abs(), None if bias is None else bias.abs()),
            self._sum(
                torch.ones_like(self.padded),
                torch.ones_like(self.weight),
                None if bias is None else torch.ones_like(bias),
            ),
        )
        outcome = compare(self.output, reference, self.output.dtype, exact, kernel["error_growth"])
        count = self.output.numel()
        if not outcome.ok:
            return (
                False,
                f"the sums of the products are not what convext.conv2d returned: {outcome.message}",
            )
        how = "equal" if exact else "are, but for rounding,"
        return True, f"{count} sums of products {how} what convext.conv2d returned"

    def windows(self, k: int = 0) -> Iterator[Window]:
        """The windows of one output channel, row by row."""
        s = self.setting
        rows, columns = self._taps
        per_group = s.C // s.groups
        first = k // (s.K // s.groups) * per_group
        weight = self.weight[k].double()
        bias = 0.0 if self.bias is None else float(self.bias[k])
        for p in range(rows.shape[0]):
            for q in range(columns.shape[0]):
                at_rows, at_columns = rows[p], columns[q]
                values = self.padded[first : first + per_group][:, at_rows[:, None], at_columns]
                products = values.double() * weight
                yield Window(
                    k,
                    p,
                    q,
                    first,
                    at_rows.tolist(),
                    at_columns.tolist(),
                    values.double(),
                    weight,
                    products,
                    float(products.sum()) + bias,
                    float(self.output[k, p, q]),
                )

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: setting, values (nested lists), sizes, formulas, plans."""
        s = self.setting
        ok, sentence = self.check()
        return {
            "kind": "convolution",
            "setting": s.to_dict(),
            "input": self.input.double().tolist(),
            "padded": self.padded.double().tolist(),
            "weight": self.weight.double().tolist(),
            "bias": None if self.bias is None else self.bias.double().tolist(),
            "output": self.output.double().tolist(),
            "padded_size": list(s.padded_size),
            "effective_kernel": list(s.effective_kernel),
            "output_size": list(s.output_size),
            "formula": s.formula,
            "dropped": {"rows": s.dropped[0], "columns": s.dropped[1]},
            "check": {"ok": ok, "message": sentence},
            "plans": self.plans,
        }


def problem_of(setting: Setting, input: Tensor, weight: Tensor) -> _C.ConvProblem:
    """What the planner is asked for a batch (N, C, H, W) and a weight: dtype and layouts too."""
    return explaining.problem(
        input,
        weight,
        setting.stride,
        setting.pad,
        setting.dilation,
        setting.groups,
        padding_mode=setting.padding_mode,
    )


def _pad(images: Tensor, setting: Setting) -> Tensor:
    mode = "constant" if setting.padding_mode == "zeros" else setting.padding_mode
    return F.pad(images, setting.pad, mode)
