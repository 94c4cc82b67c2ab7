"""What :func:`convext.compare` found: figures of each layer, as text, as HTML, as a dict."""

from __future__ import annotations

import html
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from ._capture import label_of
from .bench.environment import NOISE_CORES
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
        beyond_range: how many elements neither convext nor torch has a finite result for, as their
            terms are beyond the dtype's range. They are left out of the errors.
        elements: how many there are.
    """

    ok: bool
    message: str
    error: float
    error_over_bound: float
    torch_error: float
    torch_error_over_bound: float
    plan: PassPlan
    beyond_range: int = 0
    elements: int = 0

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
    """Medians and quartiles over interleaved repetitions, in seconds a call."""

    torch_seconds: float
    convext_seconds: float
    torch_quartiles: tuple[float, float]
    convext_quartiles: tuple[float, float]
    repetitions: int

    @property
    def gain(self) -> float:
        """torch's median / convext's: above 1 convext is quicker."""
        return self.torch_seconds / self.convext_seconds

    @property
    def is_certain(self) -> bool:
        """Whether the quartiles do not overlap: the middle halves of both peers' times are
        apart."""
        (low, high), (other_low, other_high) = self.torch_quartiles, self.convext_quartiles
        return high < other_low or other_high < low

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        return {**vars(self), "gain": self.gain}


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

    @property
    def remarks(self) -> list[str]:
        """What is to be known of it besides: what was left out, and what no bound was held to."""
        dtype = str(self.problem.dtype).removeprefix("torch.")
        beyond = [
            f"{name}: {found.beyond_range} of {found.elements} elements are beyond {dtype}'s "
            "range, as torch's"
            for name, found in self.passes.items()
            if found.beyond_range
        ]
        return [*([self.note] if self.note else []), *beyond]

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
            f"{name}: convext {_milliseconds(time.convext_seconds)} ms "
            f"({_range(time.convext_quartiles)}), torch {_milliseconds(time.torch_seconds)} ms "
            f"({_range(time.torch_quartiles)}), gain {_gain(time)}, {time.repetitions} repetitions"
            for name, time in (("forward", self.forward), ("backward", self.backward))
            if time
        ]
        lines = [*times, *self.remarks, *map(_wrong, self.problems)]
        return "\n".join([title, *_aligned(head, rows, left=(0, 6)), *lines])


@dataclass(frozen=True, repr=False)
class Comparison:
    """What :func:`convext.compare` returns. ``str()`` of it is a report; notebooks show tables.

    Attributes:
        layers: in the order in which the model called them, every call by itself.
        not_compared: name of a layer -> why it is not among ``layers``.
        threads: with which both were timed.
        isa: of convext's kernels.
        versions: of convext and torch.
        cores_of_others: how many cores other processes kept busy meanwhile, on average; None where
            the system does not say, or it was over too soon to tell.
    """

    layers: tuple[Layer, ...]
    not_compared: Mapping[str, str]
    threads: int
    isa: str
    versions: Mapping[str, str]
    cores_of_others: float | None = None

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
                "cores_busy_with_others": self.cores_of_others,
                "totals": self.totals,
                "not_compared": self.not_compared,
            }
        )
        return {**found, "layers": [layer.to_dict() for layer in self.layers]}

    def __repr__(self) -> str:
        return f"<convext.Comparison: {self._verdict()}>"

    def __str__(self) -> str:
        """Two tables with a row for each layer, and what they come to."""
        parts = [f"{line}\n" for line in self._noise()]
        if self.layers:
            for title, head, rows, left in self._tables():
                parts += [title, "", *_aligned(head, rows, left), ""]
        return "\n".join([*parts, *self._remarks(), self._verdict()])

    def _repr_html_(self) -> str:
        parts = [f"<p><strong>{html.escape(line)}</strong></p>" for line in self._noise()]
        for title, head, rows, left in self._tables() if self.layers else ():
            parts.append(f"<p>{html.escape(title)}</p>{_html_table(head, rows, left)}")
        lines = [*self._remarks(), self._verdict()]
        return "".join(parts) + "".join(f"<p>{html.escape(line)}</p>" for line in lines)

    def save_html(self, path: str | PathLike[str]) -> None:
        """Writes the tables as a page that needs no other file.

        Raises:
            OSError: ``path`` cannot be written.
        """
        title = html.escape(f"convext and torch: {self._verdict()}")
        page = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
            f"{self._repr_html_()}\n</body>\n</html>\n"
        )
        Path(path).write_text(page, encoding="utf-8")

    def _noise(self) -> list[str]:
        """A warning where other processes may have taken the time; it comes first."""
        if self.cores_of_others is None or self.cores_of_others <= NOISE_CORES:
            return []
        return [
            f"{self.cores_of_others:.2f} cores were busy with other processes: "
            "these times and gains are noise"
        ]

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
                f"{self.versions['torch']}, {self.threads} threads: milliseconds a call, medians "
                f"of {self._repetitions()}; gain is torch / convext, ? where quartiles overlap",
                [
                    *("layer", "input", "weight", "forward: torch", "convext", "gain"),
                    *("backward: torch", "convext", "gain", "workspace", "algorithms"),
                ],
                times,
                (0, 1, 2, 10),
            ),
            (
                "Errors against float64, as fractions of the bound that convext's are held to "
                "(above 1 is wrong), torch's in brackets, which need not keep it; and the largest "
                "one itself",
                ["layer", *names, "convext", "torch", ""],
                errors,
                (0, len(names) + 3),
            ),
        ]

    def _remarks(self) -> list[str]:
        """What is wrong, what was left out, and the totals: a line each."""
        lines = [_wrong(f"{layer.label}: {p}") for layer in self.layers for p in layer.problems]
        lines += [f"{layer.label}: {remark}" for layer in self.layers for remark in layer.remarks]
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

    def _repetitions(self) -> str:
        times = [time for layer in self.layers for time in (layer.forward, layer.backward) if time]
        counts = sorted({time.repetitions for time in times}) or [0]
        few, many = counts[0], counts[-1]
        return f"{many}" if few == many else f"{few} to {many}"

    def _verdict(self) -> str:
        compared, left_out = len(self.layers), len(self.not_compared)
        count = f"{compared} layer{'s' if compared != 1 else ''}"
        if left_out:
            count = f"{compared} of {compared + left_out} layers compared"
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
        value = value.to_dict()
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
    return [*map(_milliseconds, seconds), _gain(time)]


def _gain(time: Timing) -> str:
    return f"{time.gain:.2f}{'' if time.is_certain else '?'}"


def _range(quartiles: tuple[float, float]) -> str:
    return " to ".join(map(_milliseconds, quartiles))


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


_STYLE = "body{font-family:sans-serif}td,th{padding:0 .6em}"
STYLE_OF_WRONG = ' style="color:#b00020;font-weight:bold"'
