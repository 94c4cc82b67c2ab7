"""The figures of a report, drawn by matplotlib into PNG files.

Figures are drawn without pyplot, on the Agg canvas that saving one brings, and in matplotlib's own
style, which holds only meanwhile: the process that asks for a report keeps its backend and style.
Colours are Okabe and Ito's, told apart by all kinds of colour vision; markers differ too.
"""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convext.bench.compare import Changes
from convext.bench.operands import PEERS
from convext.bench.pages.listings import peer_name, threads_text
from convext.bench.pages.roofline import Point, is_gpu
from convext.bench.report import Cell, value_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110

# What one figure of layers holds; more of either goes to further figures.
ROWS = 110
PANELS = 4

# Names of layers stand beside points of the roofline where there are no more than this many.
FEW = 12

# Inches of what stands around the axes, and between them.
_ROW, _LETTER, _PANEL, _GAP = 0.175, 0.068, 2.6, 0.28
_HEAD, _FOOT, _SIDE = 0.86, 0.6, 0.2

_BLUE, _VERMILION, _GREY = "#0072B2", "#D55E00", "#666666"
_STYLES = ((_BLUE, "o"), (_VERMILION, "s"))
_THIN: dict[str, Any] = {"linewidth": 0.4, "color": "#dddddd", "zorder": 0.5}
_PEER_STYLES = {"torch": (_VERMILION, "s"), "convext": (_BLUE, "o")}


@dataclass(frozen=True)
class Plot:
    """A figure: its kind, the name of its file without ending, what it shows, the PNG's bytes.

    Kinds are ``"speedup"``, ``"roofline"`` and ``"change"``.
    """

    kind: str
    name: str
    title: str
    png: bytes


@dataclass(frozen=True)
class Mark:
    """One point of a figure of layers, with its error bar."""

    row: tuple[str, str]  # table, layer
    panel: str
    series: str
    value: float
    low: float
    high: float


def check_available() -> None:
    """Find out before a run, not after it, whether figures can be drawn; imports nothing.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")


def draw(
    run: dict[str, Any], points: Sequence[Point | None], changes: Changes | None
) -> list[Plot]:
    """All figures of a run: speed-ups per layer, rooflines, and what changed since another run.

    Args:
        run: what was read from a run's file.
        points: the place of each of its cells under the roofline.
        changes: from the other run to this one.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib.style

    # A layer's name may hold a dollar sign.
    with matplotlib.style.context(["default", {"text.parse_math": False}]):
        plots = [*_speedups(run), *_rooflines(run, points)]
        if changes is not None:
            plots += _changes(run, changes)
    return plots


def _slug(*parts: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", "_".join(part for part in parts if part)).strip("_")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def _subject(cell: Cell) -> tuple[str, str, str]:
    """(dtype, pass, padding mode unless that is zeros): what a figure of layers is about."""
    mode = value_of(cell, "padding_mode")
    return (cell["dtype"], cell["pass"], "" if mode == "zeros" else mode)


def _row(cell: Cell) -> tuple[str, str]:
    return (value_of(cell, "table"), cell["layer"])


def _panel(run: dict[str, Any], cell: Cell) -> str:
    batch = f"N = {cell['batch']}"
    return batch if is_gpu(run) else f"{batch}, {threads_text(cell['threads'])}"


def _spread(ratio: dict[str, float]) -> dict[str, float]:
    return {"value": ratio["median"], "low": ratio["q1"], "high": ratio["q3"]}


def _speedups(run: dict[str, Any]) -> Iterator[Plot]:
    """Speed-up per layer: a figure per dtype, pass and padding mode."""
    cells = run["cells"]
    label = (
        f"{peer_name(run, 'torch')} time / convext time, median and quartiles of the pairs; "
        "in the shade convext is slower"
    )
    for subject in dict.fromkeys(map(_subject, cells)):
        marks = [
            Mark(_row(cell), _panel(run, cell), cell["layout"], **_spread(cell["ratio"]))
            for cell in cells
            if _subject(cell) == subject
        ]
        yield from _dots("speedup", "Speed-up", subject, label, marks)


def _changes(run: dict[str, Any], changes: Changes) -> Iterator[Plot]:
    """What changed per layer: a figure per dtype, pass and padding mode."""
    label = "a ratio above 1 is better than before"
    for subject in dict.fromkeys(_subject(each.second) for each in changes.shared):
        chosen = [each for each in changes.shared if _subject(each.second) == subject]
        quantities = [
            ("convext's time, before / after", [each.sooner("convext") for each in chosen]),
            ("speed-up, after / before", [each.gain for each in chosen]),
        ]
        marks = [
            Mark(
                _row(each.second),
                f"{_panel(run, each.second)}\n{quantity}",
                each.second["layout"],
                value,
                low=value,
                high=value,
            )
            for quantity, values in quantities
            for each, value in zip(chosen, values, strict=True)
        ]
        yield from _dots("change", "Before and after", subject, label, marks)


def _dots(
    kind: str, what: str, subject: tuple[str, str, str], label: str, marks: Sequence[Mark]
) -> Iterator[Plot]:
    """Layers as rows under the names of their tables, and a panel a batch size and threads."""
    seen = dict.fromkeys(mark.row for mark in marks)
    tables = dict.fromkeys(table for table, _ in seen)
    rows = [row for table in tables for row in seen if row[0] == table]
    panels = list(dict.fromkeys(mark.panel for mark in marks))
    parts = [
        (rows[row : row + ROWS], panels[panel : panel + PANELS])
        for row in range(0, len(rows), ROWS)
        for panel in range(0, len(panels), PANELS)
    ]
    dtype, pass_, mode = subject
    for index, (some_rows, some_panels) in enumerate(parts, 1):
        title = f"{what}: {pass_}, {dtype}" + (f", padding {mode}" if mode else "")
        title += f" ({index} of {len(parts)})" if len(parts) > 1 else ""
        figure = _dot_figure(title, label, some_rows, some_panels, marks)
        number = str(index) if len(parts) > 1 else ""
        yield Plot(kind, _slug(kind, dtype, pass_, mode, number), title, _png(figure))


def _dot_figure(
    title: str,
    label: str,
    rows: Sequence[tuple[str, str]],
    panels: Sequence[str],
    marks: Sequence[Mark],
) -> Figure:
    from matplotlib.figure import Figure

    heights, names = _lines(rows)
    left = _LETTER * max(len(name) for name, _ in names) + _SIDE
    width = max(left + (_PANEL + _GAP) * len(panels), _LETTER * len(label) + 2 * _SIDE)
    height = _HEAD + 0.15 * panels[0].count("\n") + _ROW * len(names) + _FOOT
    figure = Figure(figsize=(width, height))
    # Of all marks, so that the parts of a figure can be held side by side.
    low, high = min(mark.low for mark in marks), max(mark.high for mark in marks)
    series = list(dict.fromkeys(mark.series for mark in marks))
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    figure.subplots_adjust(
        left=left / width,
        right=1 - _SIDE / width,
        bottom=_FOOT / height,
        top=1 - (height - _FOOT - _ROW * len(names)) / height,
        wspace=_GAP / _PANEL,
    )
    for panel, axis in zip(panels, axes, strict=True):
        axis.set_title(panel, fontsize=10, y=1.0)  # given: matplotlib need not look for a place
        axis.axvspan(1e-9, 1.0, color="#000000", alpha=0.05, linewidth=0)
        axis.axvline(1.0, color="#000000", linewidth=1.0)
        for index, name in enumerate(series):
            chosen = [m for m in marks if (m.panel, m.series) == (panel, name) and m.row in heights]
            shift = 0.5 * (index - (len(series) - 1) / 2) / len(series)
            colour, marker = _STYLES[index % len(_STYLES)]
            axis.errorbar(
                [mark.value for mark in chosen],
                [heights[mark.row] + shift for mark in chosen],
                xerr=[
                    [max(0.0, mark.value - mark.low) for mark in chosen],
                    [max(0.0, mark.high - mark.value) for mark in chosen],
                ],
                fmt=marker,
                color=colour,
                markersize=3.4,
                elinewidth=0.8,
                label=name,
            )
        _ratio_axis(axis, (min(0.5, low / 1.1), max(2.0, high * 1.1)))
        axis.hlines(list(heights.values()), 0, 1, transform=axis.get_yaxis_transform(), **_THIN)
        axis.set_axisbelow(True)
        axis.set_yticks([])
        axis.set_ylim(len(names) - 0.3, -0.7)
    axes[0].set_yticks(range(len(names)), [name for name, _ in names], fontsize=7.5)
    for text, (_, is_table) in zip(axes[0].get_yticklabels(), names, strict=True):
        text.set_fontweight("bold" if is_table else "normal")
    _head_and_foot(figure, title, label, axes[0])
    return figure


def _head_and_foot(figure: Figure, title: str, label: str, axis: Axes) -> None:
    """The title, under it what an axis's markers stand for, and below all the name of x."""
    width, height = figure.get_size_inches()
    left = _SIDE / width
    style: dict[str, Any] = {"x": left, "ha": "left"}
    figure.suptitle(title, **style, y=1 - 0.12 / height, va="top", fontsize=12, fontweight="bold")
    figure.text(left, 0.1 / height, label, va="bottom", fontsize=9)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(left, 1 - 0.36 / height),
        borderpad=0.0,
        borderaxespad=0.0,
        ncols=len(handles),
        fontsize=9,
        frameon=False,
    )


def _lines(
    rows: Sequence[tuple[str, str]],
) -> tuple[dict[tuple[str, str], int], list[tuple[str, bool]]]:
    """Where each row stands, and the lines' names: tables, which are headings, and layers."""
    heights: dict[tuple[str, str], int] = {}
    names: list[tuple[str, bool]] = []
    for row in rows:
        table, layer = row
        if table and (table, True) not in names:
            names.append((table, True))
        heights[row] = len(names)
        names.append((layer, False))
    return heights, names


def _ratio_axis(axis: Axes, limits: tuple[float, float]) -> None:
    """A logarithmic axis of ratios: a step is a factor of two."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_xscale("log", base=2)
    axis.set_xlim(*limits)
    axis.xaxis.set_major_locator(LogLocator(base=2))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(LogLocator(base=2, subs=(1.25, 1.5, 1.75)))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(axis="x", which="both", **_THIN)


def _rooflines(run: dict[str, Any], points: Sequence[Point | None]) -> Iterator[Plot]:
    """Achieved GFLOP/s over operations per byte: a figure per dtype, threads and padding mode."""
    placed = [
        (cell, point) for cell, point in zip(run["cells"], points, strict=True) if point is not None
    ]

    def group_of(cell: Cell) -> tuple[str, int, str]:
        dtype, _, mode = _subject(cell)
        return (dtype, cell["threads"], mode)

    for group in dict.fromkeys(group_of(cell) for cell, _ in placed):
        dtype, threads, mode = group
        chosen = [each for each in placed if group_of(each[0]) == group]
        of_threads = "" if is_gpu(run) else f", {threads_text(threads)}"
        title = f"Roofline: {dtype}{of_threads}" + (f", padding {mode}" if mode else "")
        figure = _roofline_figure(run, title, chosen)
        name = _slug("roofline", dtype, "" if is_gpu(run) else f"{threads}_threads", mode)
        yield Plot("roofline", name, title, _png(figure))


def _roofline_figure(
    run: dict[str, Any], title: str, placed: Sequence[tuple[Cell, Point]]
) -> Figure:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    passes = list(dict.fromkeys(cell["pass"] for cell, _ in placed))
    columns = min(2, len(passes))
    lines = -(-len(passes) // columns)
    width, height = 6.3 * columns, 4.6 * lines + _HEAD
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(
        left=0.95 / width,
        right=1 - _SIDE / width,
        bottom=0.95 / height,
        top=1 - _HEAD / height,
        wspace=0.06,
        hspace=0.2,
    )
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    intensities = [point.intensity for _, point in placed]
    left, right = min(intensities) / 1.6, max(intensities) * 1.6
    roof = placed[0][1].roof
    for axis in grid.flat[len(passes) :]:
        axis.set_axis_off()
    for pass_, axis in zip(passes, grid.flat, strict=False):
        chosen = [(cell, point) for cell, point in placed if cell["pass"] == pass_]
        axis.set_title(f"{pass_}: {len(chosen)} cells", fontsize=10, y=1.0)
        knots = sorted({left, right, min(max(roof.gflops / roof.gbytes, left), right)})
        axis.plot(knots, [roof.at(knot) for knot in knots], color="#000000", linewidth=1.4)
        axis.vlines(
            [point.intensity for _, point in chosen],
            *([point.gflops[peer] for _, point in chosen] for peer in PEERS),
            color=_GREY,
            linewidth=0.4,
            alpha=0.5,
        )
        for peer in PEERS:
            colour, marker = _PEER_STYLES[peer]
            axis.plot(
                [point.intensity for _, point in chosen],
                [point.gflops[peer] for _, point in chosen],
                marker,
                color=colour,
                markersize=4.0,
                markeredgewidth=0.0,
                alpha=0.65,
                label=peer_name(run, peer),
            )
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(left, right)
        axis.tick_params(axis="x", labelbottom=True)  # the panel below it may be none
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.grid(which="major", **_THIN)
        axis.set_axisbelow(True)
    for pass_, axis in zip(passes, grid.flat, strict=False):  # now that no limit changes any more
        _name_layers(axis, figure.dpi, [each for each in placed if each[0]["pass"] == pass_])
    for axis in grid[:, 0]:
        axis.set_ylabel("achieved GFLOP/s", fontsize=9)
    for axis in grid.flat[max(0, len(passes) - columns) : len(passes)]:  # with none below
        axis.set_xlabel("operations per byte", fontsize=9)
    label = (
        f"roof: {roof.gflops:g} GFLOP/s and {roof.gbytes:g} GB/s, as measured; a line joins a "
        "cell's two points"
    )
    # Of one panel, the figure is too narrow for both.
    label += "; " if columns > 1 else ";\n"
    label += "Winograd's kernels multiply less than is counted, and may rise above the roof"
    _head_and_foot(figure, title, label, grid.flat[0])
    return figure


def _name_layers(axis: Axes, dpi: float, placed: Sequence[tuple[Cell, Point]]) -> None:
    """The names of few layers, each beside its highest point, one over the other if need be."""
    highest: dict[str, tuple[float, float]] = {}
    for cell, point in sorted(placed, key=lambda each: each[1].gflops["convext"]):
        highest[cell["layer"]] = (point.intensity, point.gflops["convext"])
    if len(highest) > FEW:
        return
    size = 7.0  # of the letters, in points
    taken: list[tuple[float, float, float]] = []  # left, right, bottom
    for name, place in sorted(highest.items(), key=lambda each: each[1][1]):
        x, y = axis.transData.transform(place) * 72 / dpi
        left, right, up = x + 5, x + 5 + 0.65 * size * len(name), 2.0
        while any(left < r and lft < right and abs(y + up - b) < size for lft, r, b in taken):
            up += 1.0
        taken.append((left, right, y + up))
        axis.annotate(name, place, xytext=(5, up), textcoords="offset points", fontsize=size)
