"""``convext.trace`` and what it returns."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import _C
from . import html, text
from .convolution import ConvTrace
from .model import ModelTrace, layer_input
from .setting import Setting, small_integers


class Trace:
    """What :func:`trace` found. ``print`` shows it as text, a notebook as tables.

    Attributes:
        content: a :class:`ConvTrace` (one convolution) or a :class:`ModelTrace`.
    """

    def __init__(self, content: ConvTrace | ModelTrace) -> None:
        self.content = content

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: ``kind`` is ``"convolution"`` or ``"model"``.

        A convolution's values are lists as large as its tensors.
        """
        return self.content.to_dict()

    def to_text(self, steps: int = text.STEPS) -> str:
        """What ``print`` shows, with more windows of a convolution, or fewer.

        Args:
            steps: how many windows of the first output channel, from 0 on.

        Raises:
            ValueError: ``steps`` is negative.
        """
        if steps < 0:
            raise ValueError(f"steps must be at least 0, but got {steps}")
        return text.plain(text.lines(self.content, steps))

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<convext.tracing.Trace of {text.title(self.content)}>"

    def _repr_html_(self) -> str:
        return html.fragment(self.content)

    def save_html(self, path: str | os.PathLike[str]) -> None:
        """Writes one page that needs nothing else, no network either: move the kernel over the
        input, change every number, look at gradients, tiles and code, answer questions.

        Of a convolution larger than the page can show, it shows the first pixels and channels, and
        says so. A model's convolutions can be put into its form, as large as it can show them, and
        have small integers there; the values of one are on the page of ``trace(..., layer=name)``.

        Args:
            path: the file, which is replaced if there is one.

        Raises:
            ValueError: the kernel, stride, padding or dilation is beyond what the page can show.
            OSError: the file cannot be written.
        """
        Path(path).write_text(html.render(self.content), encoding="utf-8")


def trace(
    what: nn.Module | _C.ConvProblem | Setting | None = None,
    input: Tensor | None = None,
    *,
    layer: str | None = None,
) -> Trace:
    """Follows one convolution step by step, or a model layer by layer.

    >>> print(convext.trace())                      # the lesson: 5x5, padding 1, 3x3, stride 2
    input 1x5x5, kernel 3x3, stride 2, padding 1 -> output 1x3x3 ...
    >>> print(convext.trace(layer, image))          # the windows of the first image
    input 3x8x8, ...
    >>> print(convext.trace(model, batch, layer="2"))   # one convolution, as the model runs it
    input 4x8x8, ...
    >>> convext.trace(model, batch).save_html("trace.html")

    Args:
        what: an ``nn.Conv2d`` or :class:`convext.ConvExt2d`; any other module, which is followed
            layer by layer; a problem of the planner, or a :class:`convext.tracing.Setting`, both of
            which are filled with small integers; None for the lesson.
        input: (N, C, H, W), or (C, H, W) for a single convolution. A convolution may go without:
            then it gets an image of small integers, of 5x5 pixels or as large as its kernel.
        layer: the name of a convolution of the model, as ``named_modules`` has it: it is followed
            step by step, on the values that reach it when the model runs on ``input``.

    Returns:
        the trace. A convolution's values come from :func:`convext.conv2d`, the products from its
        windows.

    Raises:
        TypeError: ``what`` is none of these, or ``input`` is no tensor of a dtype that can be
            followed.
        ValueError: ``input`` is missing for a model, or given where nothing takes it; ``layer`` is
            no convolution that the model calls; or torch or ConvExt2d refuses the convolution, in
            their words.
    """
    if input is not None and not isinstance(input, Tensor):
        raise TypeError(f"input must be a Tensor, but got {type(input).__name__}")
    if what is None or isinstance(what, (Setting, _C.ConvProblem)):
        if layer is not None:
            raise ValueError("layer must be None unless a model is traced")
        if input is not None:
            raise ValueError("input must be None unless a module is traced")
        if isinstance(what, _C.ConvProblem):
            return Trace(_of_problem(what))
        return Trace(ConvTrace.run(what or Setting()))
    if not isinstance(what, nn.Module):
        raise TypeError(
            f"what must be a module, a problem or a setting to trace, but got {type(what).__name__}"
        )
    if isinstance(what, nn.Conv2d) and layer is None:
        return Trace(_of_layer(what, input))
    if input is None:
        raise ValueError("input must be a batch for the model, but is missing")
    if layer is not None:
        return Trace(_of_layer(*layer_input(what, input, layer)))
    return Trace(ModelTrace.run(what, input))


def _of_layer(layer: nn.Conv2d, input: Tensor | None) -> ConvTrace:
    if input is None:
        span = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        setting = Setting.of_layer(layer, *(max(5, size) for size in span))
        input = small_integers(setting)[0].to(layer.weight)
    elif input.dim() not in (3, 4) or input.shape[-3] != layer.in_channels:
        raise ValueError(
            f"input must be (N, {layer.in_channels}, H, W) or ({layer.in_channels}, H, W), "
            f"but is {tuple(input.shape)}"
        )
    else:
        input = input if input.dim() == 4 else input.unsqueeze(0)
        setting = Setting.of_layer(layer, *input.shape[-2:])
    return ConvTrace.run(setting, input, layer.weight, layer.bias)


def _of_problem(problem: _C.ConvProblem) -> ConvTrace:
    setting = Setting.of_problem(problem)
    image, weight = small_integers(setting)
    dtype = getattr(torch, problem.dtype)
    batch = image.expand(max(problem.N, 1), -1, -1, -1).to(dtype)
    images = _laid_out(batch, problem.input_layout)
    kernels = _laid_out(weight.to(dtype), problem.weight_layout)
    return ConvTrace.run(setting, images, kernels, problem=problem)


def _laid_out(tensor: Tensor, layout: str) -> Tensor:
    last = layout == "channels_last"
    return tensor.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
