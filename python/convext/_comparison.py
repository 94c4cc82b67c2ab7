"""What :func:`convext.compare` found: figures of each layer, as text, as HTML, as a dict."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ._capture import label_of
from .plan import PassPlan, size_text
from .testing import Problem


@dataclass(frozen=True)
class PassComparison:
    """One pass of one layer.

    Attributes:
        ok: whether convext's result is within its bound.
        message: what is wrong with it; empty when ``ok``.
        error, torch_error: the largest ``|result - float64 reference|`` of an element, convext's
            and torch's. NaN if a result has one.
        error_over_bound, torch_error_over_bound: the largest quotient of an element's error and
            its bound, :func:`convext.testing.error_bound` of convext's kernel; above 1 is wrong,
            infinite for NaN.
        plan: what ran, and why: kernel, tiles, expected time, the other kernels.
    """

    ok: bool
    message: str
    error: float
    error_over_bound: float
    torch_error: float
    torch_error_over_bound: float
    plan: PassPlan

    @property
    def kernel(self) -> str:
        """Of the plan."""
        return self.plan.kernel

    @property
    def algorithm(self) -> str:
        """Of the plan."""
        return self.plan.algorithm

    @property
    def workspace_bytes(self) -> int:
        """Working memory beyond the tensors, at most: that of the call and of all its threads."""
        return self.plan.most_workspace_bytes

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: numbers that are not finite become None."""
        found: dict[str, Any] = _jsonable({**vars(self), "workspace_bytes": self.workspace_bytes})
        return {**found, "plan": asdict(self.plan)}


@dataclass(frozen=True)
class Timing:
    """Medians over interleaved repetitions, in seconds a call; ``gain`` is the median of torch's
    time / convext's: above 1 convext is quicker."""

    torch_seconds: float
    convext_seconds: float
    gain: float
    repetitions: int


@dataclass(frozen=True)
class Layer:
    """One call of a convolution layer.

    Attributes:
        name: of the module; all names of a shared one, with `` = `` in between.
        call: 1 at the module's first call in the model, 2 at its second, ...
        problem: its geometry and dtype. Under autocast the dtype is the context's.
        input_layout, weight_layout: ``"contiguous"``, ``"channels_last"`` or ``"strided"``.
        passes: by name; without ``bias_grad`` where there is no bias, and ``forward`` alone where
            there was no gradient, as ``note`` then says.
        forward: its time.
        backward: that of the gradients the model needs: None without one.
        note: what was left out of this layer, and why.
        failure: what convext raised where torch did not; ``passes`` is empty then.
    """

    name: str
    call: int
    problem: Problem
    input_layout: str
    weight_layout: str
    passes: Mapping[str, PassComparison] = field(default_factory=dict)
    forward: Timing | None = None
    backward: Timing | None = None
    note: str = ""
    failure: str = ""

    @property
    def ok(self) -> bool:
        """Whether convext ran, and every pass is within its bound."""
        return not self.failure and all(found.ok for found in self.passes.values())

    @property
    def label(self) -> str:
        """The name, and which call it is from the second on."""
        return label_of(self.name, self.call)

    @property
    def workspace_bytes(self) -> int:
        """The most that one of the passes takes."""
        return max((found.workspace_bytes for found in self.passes.values()), default=0)

    @property
    def problems(self) -> list[str]:
        """A sentence for each thing that is wrong."""
        wrong = [f"{name}: {found.message}" for name, found in self.passes.items() if not found.ok]
        return [self.failure, *wrong] if self.failure else wrong

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: numbers that are not finite become None."""
        problem = self.problem
        return {
            "name": self.name,
            "call": self.call,
            "ok": self.ok,
            "input": list(problem.input_size),
            "weight": list(problem.weight_size),
            "stride": list(problem.stride),
            "padding": list(problem.padding),
            "dilation": list(problem.dilation),
            "groups": problem.groups,
            "padding_mode": problem.padding_mode,
            "bias": problem.bias,
            "dtype": str(problem.dtype).removeprefix("torch."),
            "input_layout": self.input_layout,
            "weight_layout": self.weight_layout,
            "passes": {name: found.to_dict() for name, found in self.passes.items()},
            "forward": _jsonable(self.forward),
            "backward": _jsonable(self.backward),
            "note": self.note,
            "failure": self.failure,
        }

    def __str__(self) -> str:
        """A table with a row for each pass."""
        problem = self.problem
        title = (
            f"{self.label}: input {_extents(problem.input_size)} ({self.input_layout}), "
            f"weight {_extents(problem.weight_size)} ({self.weight_layout}), "
            f"{str(problem.dtype).removeprefix('torch.')}"
        )
        head = ["pass", "error", "/ bound", "torch's", "/ bound", "workspace", "kernel"]
        rows = [
            [
                name,
                f"{found.error:.1e}",
                _fraction(found.error_over_bound),
                f"{found.torch_error:.1e}",
                _fraction(found.torch_error_over_bound),
                size_text(found.workspace_bytes),
                found.kernel,
            ]
            for name, found in self.passes.items()
        ]
        times = [
            f"{name}: convext {_milliseconds(time.convext_seconds)} ms, torch "
            f"{_milliseconds(time.torch_seconds)} ms, gain {time.gain:.2f}"
            for name, time in (("forward", self.forward), ("backward", self.backward))
            if time
        ]
        notes = [self.note] if self.note else []
        return "\n".join(
            [title, *_aligned(head, rows, left=(0, 6)), *times, *notes, *map(_wrong, self.problems)]
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`convext.compare` returns. ``str()`` of it is a report; notebooks show tables.

    Attributes:
        layers: in the order in which the model called them, every call by itself.
        not_compared: name of a layer -> why it is not among ``layers``.
        threads: with which both were timed.
        isa: of convext's kernels.
        versions: of convext and torch.
    """

    layers: tuple[Layer, ...]
    not_compared: Mapping[str, str]
    threads: int
    isa: str
    versions: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether at least one layer was compared, and all of them are within their bounds."""
        return bool(self.layers) and all(layer.ok for layer in self.layers)

    @property
    def totals(self) -> dict[str, Any]:
        """Over all layers: ``layers``, ``disagreeing`` (how many are outside of a bound),
        ``workspace_bytes`` (the most that a layer takes), ``forward`` and ``backward`` (sums of
        seconds and geometric mean of the gains; None if nothing was timed), and ``worst``: the
        pass whose error comes nearest to its bound, or exceeds it most (None if there is none)."""
        passes = [
            (layer.label, name, found)
            for layer in self.layers
            for name, found in layer.passes.items()
        ]
        worst = max(passes, key=lambda each: each[2].error_over_bound, default=None)
        return {
            "layers": len(self.layers),
            "disagreeing": sum(not layer.ok for layer in self.layers),
            "workspace_bytes": max((layer.workspace_bytes for layer in self.layers), default=0),
            "forward": _sums([layer.forward for layer in self.layers]),
            "backward": _sums([layer.backward for layer in self.layers]),
            "worst": worst
            and {
                "layer": worst[0],
                "pass": worst[1],
                "error": worst[2].error,
                "error_over_bound": worst[2].error_over_bound,
                "torch_error": worst[2].torch_error,
                "torch_error_over_bound": worst[2].torch_error_over_bound,
            },
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON: numbers that are not finite become None."""
        found: dict[str, Any] = _jsonable(
            {
                "ok": self.ok,
                "versions": self.versions,
                "isa": self.isa,
                "threads": self.threads,
                "totals": self.totals,
                "not_compared": self.not_compared,
            }
        )
        return {**found, "layers": [layer.to_dict() for layer in self.layers]}

    def __repr__(self) -> str:
        return f"<convext.Comparison: {self._verdict()}>"

    def __str__(self) -> str:
        """Two tables with a row for each layer, and what they come to."""
        parts: list[str] = []
        if self.layers:
            for title, head, rows, left in self._tables():
                parts += [title, "", *_aligned(head, rows, left), ""]
        return "\n".join([*parts, *self._remarks(), self._verdict()])

    def _repr_html_(self) -> str:
        parts = []
        for title, head, rows, left in self._tables() if self.layers else ():
            parts.append(f"<p>{html.escape(title)}</p>{_html_table(head, rows, left)}")
        lines = [*self._remarks(), self._verdict()]
        return "".join(parts) + "".join(f"<p>{html.escape(line)}</p>" for line in lines)

    def _tables(self) -> list[tuple[str, list[str], list[list[str]], tuple[int, ...]]]:
        """(title, head, rows, columns that are words) of both tables."""
        names = list(dict.fromkeys(name for layer in self.layers for name in layer.passes))
        times = [
            [
                layer.label,
                _extents(layer.problem.input_size),
                _extents(layer.problem.weight_size),
                *_times(layer.forward),
                *_times(layer.backward),
                size_text(layer.workspace_bytes) if layer.passes else "",
                _algorithms(layer),
            ]
            for layer in self.layers
        ]
        errors = [
            [
                layer.label,
                *(_both(layer.passes.get(name)) for name in names),
                _largest(found.error for found in layer.passes.values()),
                _largest(found.torch_error for found in layer.passes.values()),
                "ok" if layer.ok else "WRONG",
            ]
            for layer in self.layers
        ]
        return [
            (
                f"convext {self.versions['convext']} ({self.isa}) and torch "
                f"{self.versions['torch']}, {self.threads} threads: milliseconds a call, medians; "
                "gain is torch / convext",
                [
                    *("layer", "input", "weight", "forward: torch", "convext", "gain"),
                    *("backward: torch", "convext", "gain", "workspace", "algorithms"),
                ],
                times,
                (0, 1, 2, 10),
            ),
            (
                "Errors against float64, as fractions of what rounding allows (above 1 is wrong), "
                "torch's in brackets; and the largest one itself",
                ["layer", *names, "convext", "torch", ""],
                errors,
                (0, len(names) + 3),
            ),
        ]

    def _remarks(self) -> list[str]:
        """What is wrong, what was left out, and the totals: a line each."""
        lines = [_wrong(f"{layer.label}: {p}") for layer in self.layers for p in layer.problems]
        lines += [f"{layer.label}: {layer.note}" for layer in self.layers if layer.note]
        lines += [f"not compared: {name}: {why}" for name, why in self.not_compared.items()]
        totals = self.totals
        for name in ("forward", "backward"):
            sums = totals[name]
            if sums:
                lines.append(
                    f"{name}: convext {_milliseconds(sums['convext_seconds'])} ms, torch "
                    f"{_milliseconds(sums['torch_seconds'])} ms in all; geometric mean of the "
                    f"gains {sums['geometric_mean_gain']:.2f}"
                )
        worst = totals["worst"]
        if worst:
            lines.append(
                f"nearest to its bound: {worst['pass']} of {worst['layer']}, "
                f"{_fraction(worst['error_over_bound'])} of it "
                f"(torch {_fraction(worst['torch_error_over_bound'])})"
            )
        return lines

    def _verdict(self) -> str:
        count = f"{len(self.layers)} layer{'s' if len(self.layers) != 1 else ''}"
        if not self.layers:
            return "no layer was compared"
        if self.ok:
            return f"{count}, all within the bounds"
        return f"{count}, {self.totals['disagreeing']} WRONG"


def _sums(times: Sequence[Timing | None]) -> dict[str, float] | None:
    found = [time for time in times if time]
    if not found:
        return None
    return {
        "torch_seconds": sum(time.torch_seconds for time in found),
        "convext_seconds": sum(time.convext_seconds for time in found),
        "geometric_mean_gain": statistics.geometric_mean(time.gain for time in found),
    }


def _jsonable(value: Any) -> Any:
    if isinstance(value, Timing):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _jsonable(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _wrong(problem: str) -> str:
    return f"WRONG: {problem}"


def _extents(size: Sequence[int]) -> str:
    return "x".join(map(str, size))


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}" if seconds < 10e-3 else f"{seconds * 1e3:.1f}"


def _fraction(ratio: float) -> str:
    if 0 < ratio < 0.01:
        return "<0.01"
    return f"{ratio:.2f}" if ratio < 100 else f"{ratio:.1e}"


def _times(time: Timing | None) -> list[str]:
    if time is None:
        return ["-", "-", "-"]
    seconds = (time.torch_seconds, time.convext_seconds)
    return [*map(_milliseconds, seconds), f"{time.gain:.2f}"]


def _algorithms(layer: Layer) -> str:
    """Those of the three large passes, in the order in which they stand in the other table."""
    return ", ".join(each.algorithm for name, each in layer.passes.items() if name != "bias_grad")


def _both(found: PassComparison | None) -> str:
    if found is None:
        return "-"
    ours, theirs = map(_fraction, (found.error_over_bound, found.torch_error_over_bound))
    return f"{ours} ({theirs})"


def _largest(errors: Any) -> str:
    found = list(errors)
    worst = next((error for error in found if error != error), max(found, default=None))
    return "-" if worst is None else f"{worst:.1e}"


def _aligned(
    head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)
) -> list[str]:
    """Lines of a table of text; ``left`` are the columns that do not stand to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * width for width in widths]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in (head, rule, *rows)
    ]


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "".join(
            f'<{tag} style="text-align:{"left" if place in left else "right"}">'
            f"{html.escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(
        f"<tr{STYLE_OF_WRONG if 'WRONG' in row else ''}>{line('td', row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{line('th', head)}</tr></thead><tbody>{body}</tbody></table>"


STYLE_OF_WRONG = ' style="color:#b00020;font-weight:bold"'
