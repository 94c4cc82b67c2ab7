"""Traces as HTML: one page that needs nothing else, and tables for notebooks."""

from __future__ import annotations

import functools
import itertools
import json
import math
from html import escape
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from .. import _C, _library
from . import quiz, text
from .convolution import ConvTrace
from .model import ModelTrace
from .plans import TILES, kernel_of
from .setting import LESSON, Setting

SCRIPTS = (
    "geometry.js",
    "convolution.js",
    "codegen.js",
    "grids.js",
    "controls.js",
    "views.js",
    "kernel.js",
    "quiz.js",
    "model.js",
    "main.js",
)

LIMITS = {
    "size": (1, 16),
    "kernel": (1, 11),
    "stride": (0, 8),
    "padding": (-1, 8),
    "dilation": (1, 6),
    "channels": (1, 8),
    "groups": (0, 8),
}
"""What the page's fields take. A stride of 0, a padding of -1 and no groups are there for torch's
words about them."""

GENERATED = 60
"""Questions of the quiz beyond the lesson's."""

# The settings whose plans the page knows.
GRID: dict[str, list[Any]] = {
    "size": [[n, n] for n in (4, 5, 6, 7, 8, 9, 10, 11, 12, 14, 16)],
    "kernel": [[1, 1], [2, 2], [3, 3], [5, 5], [7, 7], [1, 3], [3, 1]],
    "stride": [[1, 1], [2, 2]],
    "padding": [0, 1, 2],
    "dilation": [[1, 1], [2, 2]],
    "channels": [
        [1, 1, 1],
        [1, 4, 1],
        [3, 8, 1],
        [4, 4, 1],
        [4, 4, 4],
        [4, 8, 2],
        [8, 8, 1],
        [8, 8, 8],
    ],
    "mode": ["zeros", "reflect", "replicate", "circular"],
}


def render(trace: ConvTrace | ModelTrace) -> str:
    """The page.

    Raises:
        ValueError: a convolution's kernel, stride, padding or dilation is beyond :data:`LIMITS`.
    """
    files = resources.files(__package__) / "page"
    scripts = [(files / name).read_text(encoding="utf-8") for name in SCRIPTS]
    # In a script element, "</" could end it.
    data = json.dumps(_finite(page_data(trace)), separators=(",", ":"), allow_nan=False)
    data = data.replace("</", "<\\/")
    page = (files / "index.html").read_text(encoding="utf-8")
    for name, content in (
        ("STYLE", (files / "style.css").read_text(encoding="utf-8")),
        ("SCRIPT", "\n".join(scripts)),
        ("DATA", data),
    ):
        page = page.replace(f"@@{name}@@", content)
    return page


def _finite(value: Any) -> Any:
    """The same with infinities and NaN, which JSON does not have, as the texts that the page's
    scripts make numbers again."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(inner) for inner in value]
    return f"@{value}" if isinstance(value, float) and not math.isfinite(value) else value


def page_data(trace: ConvTrace | ModelTrace) -> dict[str, Any]:
    """What the page's scripts read: the first setting with its values and plans, the plans of
    :data:`GRID`, limits, quiz, and of a model its layers."""
    model = None
    if isinstance(trace, ModelTrace):
        model = trace.to_dict()
        for layer, facts in zip(trace.layers, model["layers"], strict=True):
            small = layer.setting and reduced(layer.setting)
            facts["shown"] = small and setting_data(small)
        known = (reduced(layer.setting) for layer in trace.convolutions if layer.setting)
        shown = ConvTrace.run(next((small for small in known if small), LESSON))
    else:
        shown, original = _shown(trace), text.title(trace)
    same = shown is trace or model is not None
    return {
        "versions": {"convext": _library.package_version(), "torch": torch.__version__},
        "isa": _C.active_isa(),
        "limits": LIMITS,
        "setting": setting_data(shown.setting),
        "operands": {
            "input": shown.input.double().tolist(),
            "weight": shown.weight.double().tolist(),
            "bias": None if shown.bias is None else shown.bias.double().tolist(),
        },
        "output": shown.output.double().tolist(),
        "plans": shown.plans,
        "original": None
        if same
        else {
            "note": f"What was traced is larger: {original}. Its forward pass is planned as "
            f"{trace.plans['forward']['kernel']}."  # type: ignore[union-attr]
        },
        "table": plan_table(),
        "tiles": TILES,
        "quiz": {
            "lesson": [question.to_dict() for question in quiz.lesson()],
            "generated": [question.to_dict() for question in quiz.generated(GENERATED)],
        },
        "model": model,
    }


def setting_data(setting: Setting) -> dict[str, Any]:
    """A setting as the page's scripts have it."""
    values = setting.to_dict()
    values["mode"] = values.pop("padding_mode")
    return values | {"same": setting.padding == "same"}


def reduced(setting: Setting) -> Setting | None:
    """The setting on as small an image, and with as few channels, as the page can show; None if
    the rest of it is beyond the page."""
    within = all(
        LIMITS[name][0] <= value <= LIMITS[name][1]
        for name, values in (
            ("kernel", (setting.R, setting.S)),
            ("stride", setting.stride),
            ("padding", setting.pad),
            ("dilation", setting.dilation),
        )
        for value in values
    )
    if not within:
        return None
    most = LIMITS["channels"][1]
    inputs = min(setting.C // setting.groups, most)
    outputs = min(setting.K // setting.groups, most)
    groups = min(setting.groups, most // max(inputs, outputs))
    size = LIMITS["size"][1]
    small = Setting(
        inputs * groups,
        min(setting.H, size),
        min(setting.W, size),
        outputs * groups,
        setting.R,
        setting.S,
        setting.stride,
        setting.padding,
        setting.dilation,
        groups,
        setting.padding_mode,
    )
    return small if small.refusal() is None else None


def _shown(trace: ConvTrace) -> ConvTrace:
    small = reduced(trace.setting)
    if small is None:
        raise ValueError(
            "the page shows kernels up to {kernel[1]}x{kernel[1]}, strides and paddings up to "
            "{stride[1]} and dilations up to {dilation[1]} on images up to {size[1]}x{size[1]}; "
            "this setting is beyond that".format(**LIMITS)
        )
    return trace if small == trace.setting else ConvTrace.run(small, *_cut(trace, small))


def _cut(trace: ConvTrace, small: Setting) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input (1, C, H, W), weight and bias of the first groups, channels and pixels."""
    groups, inputs = trace.setting.groups, small.C // small.groups
    outputs = small.K // small.groups

    def first(tensor: Tensor) -> Tensor:  # of the axis whose channels are sorted by groups
        cut: Tensor = tensor.unflatten(0, (groups, -1))[: small.groups]
        return cut

    image = first(trace.input)[:, :inputs, : small.H, : small.W].flatten(0, 1)
    weight = first(trace.weight)[:, :outputs, :inputs].flatten(0, 1)
    bias = None if trace.bias is None else first(trace.bias)[:, :outputs].flatten(0, 1)
    return image[None], weight, bias


def plan_table() -> dict[str, Any]:
    """The kernels of forward, input and weight gradient for all of :data:`GRID`.

    Returns:
        ``axes``: the grid; ``kernels``: with their tiles and sources, which may differ for one
        kernel; ``plans``: triples of places in these; ``index``: of each setting, the last axis
        running fastest, the place of its triple, -1 where the setting is impossible or the forced
        kernel cannot run it.
    """
    return _plan_table(_C.forced_plan(), _C.batch_invariant(), _C.workspace_limit())


@functools.lru_cache(maxsize=1)
def _plan_table(*choices: object) -> dict[str, Any]:
    plans: dict[tuple[int, ...], int] = {}
    places: dict[tuple[str, ...], int] = {}
    kernels: list[dict[str, Any]] = []
    index = []
    for size, kernel, stride, padding, dilation, (C, K, groups), mode in itertools.product(
        *GRID.values()
    ):
        try:
            problem = _C.ConvProblem(
                [1, C, *size],
                [K, C // groups, *kernel],
                stride,
                [padding, padding],
                dilation,
                groups,
                mode,
            )
            chosen = [_C.plan(problem, name) for name in ("fprop", "dgrad", "wgrad")]
        except RuntimeError:
            index.append(-1)
            continue
        triple = []
        for found in map(kernel_of, chosen):
            place = places.setdefault((found["kernel"], *found["sources"]), len(kernels))
            if place == len(kernels):
                kernels.append(found)
            triple.append(place)
        index.append(plans.setdefault(tuple(triple), len(plans)))
    return {
        "axes": GRID,
        "plans": [list(triple) for triple in plans],
        "index": index,
        "kernels": kernels,
    }


def fragment(trace: ConvTrace | ModelTrace) -> str:
    """Tables and text for a notebook, without scripts."""
    if isinstance(trace, ModelTrace):
        return (
            f"<p><b>{escape(text.title(trace))}</b></p>"
            + _table(text.LAYER_COLUMNS, text.layer_rows(trace))
            + _table(text.STATISTICS_COLUMNS, text.statistics_rows(trace))
        )
    plan = trace.plans["forward"]
    formulas = "<br>".join(f"{name} = {line}" for name, line in trace.setting.formula.items())
    return (
        f"<p><b>{escape(text.title(trace))}</b></p><p><code>{formulas}</code></p>"
        f"<pre>{escape(text.plain(text.lines(trace)[2:]))}</pre>"
        f"<p>Forward: <code>{escape(plan['kernel'])}</code>, {escape(plan['reason'])}</p>"
    )


def _table(heads: tuple[str, ...], rows: list[list[str]]) -> str:
    body = [
        "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for tag, row in [("th", list(heads)), *(("td", row) for row in rows)]
    ]
    return f"<table>{''.join(body)}</table>"
