"""The tables of a report, whatever they will be written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from convext.bench import report
from convext.bench.compare import Change, Changes, differences, flat
from convext.bench.operands import PEERS
from convext.bench.pages.roofline import Point, is_gpu
from convext.bench.report import Cell, ratio_of
from convext.bench.runner import KEY


@dataclass(frozen=True)
class Column:
    """A column: its head, how its values are written, and whether these are numbers.

    ``ratio`` marks those that are above 1 where convext is quicker, or the later run is.
    """

    name: str
    show: Callable[[Any], str] = str
    number: bool = False
    ratio: bool = False

    def text(self, value: Any) -> str:
        """A value as it is written; None is nothing."""
        return "" if value is None else self.show(value)


@dataclass(frozen=True)
class Listing:
    """A table: its title, columns, and rows of as many values.

    ``long`` marks those that one does not read from end to end. The title may be empty where the
    section's says enough.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    long: bool = False


def _three(value: float) -> str:
    return f"{value:.3f}"


def _milliseconds(value: float) -> str:
    return f"{value:.5g}"  # as many digits as the file has


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _signed_percent(value: float) -> str:
    return f"{100 * (value - 1):+.1f}"


def _count(name: str) -> Column:
    return Column(name, number=True)


def _ratio(name: str) -> Column:
    return Column(name, _three, number=True, ratio=True)


def threads_text(count: int) -> str:
    """A number of threads in words."""
    return f"{count} thread{'' if count == 1 else 's'}"


def peer_name(run: dict[str, Any], peer: str) -> str:
    """What a peer is called: on a GPU, torch's side is cuDNN."""
    return "cuDNN" if peer == "torch" and is_gpu(run) else peer


def _padded(cells: Sequence[Cell]) -> bool:
    return any(report.value_of(cell, "padding_mode") != "zeros" for cell in cells)


def _key_columns(cells: Sequence[Cell]) -> tuple[list[Column], list[str]]:
    """Columns that name cells, and the keys of their values."""
    named = {
        "table": Column("table"),
        "layer": Column("layer"),
        "dtype": Column("dtype"),
        "layout": Column("layout"),
        "batch": _count("N"),
        "threads": _count("threads"),
        "pass": Column("pass"),
        "padding_mode": Column("padding"),
    }
    if not _padded(cells):
        del named["padding_mode"]
    return list(named.values()), list(named)


def _names(cell: Cell, keys: Sequence[str]) -> list[Any]:
    return [report.value_of(cell, key) for key in keys]


def machine(run: dict[str, Any]) -> str:
    """What ran against what, and where, in one sentence."""
    environment = run["environment"]

    def said(*path: str) -> str:
        value: Any = environment
        for name in path:
            value = value.get(name, "unknown") if isinstance(value, dict) else "unknown"
        return str(value)

    if is_gpu(run):
        theirs = f"torch {said('torch', 'version')} (cuDNN {said('gpu', 'cudnn')})"
        where = f"{said('gpu', 'name')}, CUDA {said('gpu', 'cuda')}"
    else:
        theirs = f"torch {said('torch', 'version')} (oneDNN {said('torch', 'onednn')})"
        where = (
            f"{said('cpu', 'model')}, {said('cpu', 'logical_cores')} cores, "
            f"{said('convext', 'isa')}"
        )
    return f"convext {said('convext', 'version')} against {theirs} on {where}; {said('date')}."


def surroundings(run: dict[str, Any]) -> Listing:
    """The whole environment, then the options."""
    rows = [list(row) for what in ("environment", "options") for row in flat(run[what])]
    return Listing("", [Column("entry"), Column("value")], rows)


def means(cells: Sequence[Cell]) -> Listing:
    """A line a dtype and pass: geometric means over all cells, and by each key."""
    columns = [Column("dtype"), Column("pass")]
    padded = _padded(cells)
    columns += [Column("padding")] if padded else []
    columns += [_count("cells"), _count("below 1"), *map(_ratio, ("all", "worst", "best"))]
    labels: dict[str, Callable[[Any], str]] = {
        "layout": str,
        "batch": lambda value: f"N={value}",
        "threads": threads_text,
        "table": str,
    }
    splits = [
        (key, value)
        for key in labels
        for value in dict.fromkeys(report.value_of(cell, key) for cell in cells)
    ]
    columns += [_ratio(labels[key](value)) for key, value in splits]
    rows = []
    for row in report.summarise(cells):
        names = [row["dtype"], row["pass"], *([row["padding_mode"]] if padded else [])]
        by_key = [row[key].get(str(value), {}).get("geomean") for key, value in splits]
        rows.append([*names, *_group(row), *by_key])
    return Listing("", columns, rows)


def _group(row: dict[str, Any]) -> list[Any]:
    return [row[key] for key in ("cells", "behind", "geomean", "worst", "best")]


def crossed(cells: Sequence[Cell]) -> Listing:
    """A line a dtype, pass, layout, batch size and number of threads."""
    padded = _padded(cells)
    columns = [Column("dtype"), Column("pass"), *([Column("padding")] if padded else [])]
    columns += [Column("layout"), _count("N"), _count("threads"), _count("cells")]
    columns += [_count("below 1"), *map(_ratio, ("geometric mean", "worst", "best"))]
    rows = []
    for row in report.summarise(cells):
        names = [row["dtype"], row["pass"], *([row["padding_mode"]] if padded else [])]
        rows += [
            [*names, *(each[key] for key in report.CROSSED), *_group(each)]
            for each in row["crossed"]
        ]
    return Listing("By layout, batch size and threads together", columns, rows)


def costs(cells: Sequence[Cell]) -> Listing | None:
    """What a padding mode or batch invariance costs convext itself; None if none was asked."""
    found = report.costs(cells)
    if not found:
        return None
    columns = [Column("dtype"), Column("pass"), Column("padding"), Column("over"), _count("cells")]
    columns += [
        Column(name, _signed_percent, number=True)
        for name in ("geometric mean %", "median %", "least %", "most %")
    ]
    rows = [list(vars(cost).values()) for cost in found]
    return Listing("Cost to convext itself, in percent of its time without", columns, rows)


def cells_listing(
    run: dict[str, Any], cells: Sequence[Cell], points: Sequence[Point | None]
) -> Listing:
    """A line a cell: times, ratio with quartiles, place under the roofline, kernels."""
    columns, keys = _key_columns(cells)
    names = [peer_name(run, peer) for peer in PEERS]
    columns += [Column(f"{name} ms", _milliseconds, number=True) for name in names]
    columns += [_ratio("ratio"), _ratio("q1"), _ratio("q3")]
    placed = any(points)
    if placed:
        columns += [Column("flops/byte", "{:.3g}".format, number=True)]
        columns += [Column(f"{name} GF/s", "{:.4g}".format, number=True) for name in names]
        columns += [Column(f"{name} % roof", _percent, number=True) for name in names]
    planned = any(cell.get("plans") for cell in cells)
    if planned:
        columns += [Column("planned kcycles", "{:.0f}".format, number=True)]
        columns += [Column("workspace KiB", "{:.0f}".format, number=True)]
    costly = any("cost" in cell for cell in cells)
    columns += [Column("cost %", _signed_percent, number=True)] if costly else []
    kernels = any(map(_kernels, cells))
    columns += [Column("kernel")] if kernels else []
    rows = []
    for cell, point in zip(cells, points, strict=True):
        spread = cell["ratio"]
        row = [*_names(cell, keys), *(cell[f"{peer}_ms"]["median"] for peer in PEERS)]
        row += [ratio_of(cell), spread["q1"], spread["q3"]]
        row += _place(point) if placed else []
        row += _planned(cell) if planned else []
        row += [cell.get("cost", {}).get("median")] if costly else []
        row += [_kernels(cell)] if kernels else []
        rows.append(row)
    return Listing("", columns, rows, long=True)


def _place(point: Point | None) -> list[float | None]:
    if point is None:
        return [None] * 5
    achieved = [point.gflops[peer] for peer in PEERS]
    return [point.intensity, *achieved, *(point.share(peer) for peer in PEERS)]


def _planned(cell: Cell) -> list[float | None]:
    plans = cell.get("plans") or ()
    if not all("cycles" in plan and "workspace_bytes" in plan for plan in plans) or not plans:
        return [None, None]
    cycles = sum(sum(plan["cycles"].values()) for plan in plans)
    return [cycles / 1e3, sum(map(report.workspace_of, plans)) / 1024]


def _kernels(cell: Cell) -> str:
    """The kernels of a cell: of a GPU's plan, or of a CPU's plans."""
    return ", ".join(cell.get("kernels") or [plan["kernel"] for plan in cell.get("plans") or ()])


def changes_summary(changes: Changes) -> Listing:
    """A line a dtype and pass: geometric means of what changed between two runs."""
    columns = [Column("dtype"), Column("pass"), _count("cells")]
    columns += map(_ratio, ("convext before / after", "torch before / after"))
    columns += map(_ratio, ("speed-up before", "speed-up after", "speed-up after / before"))
    rows = []
    for dtype, pass_, group in changes.groups():
        sooner = [report.geomean(each.sooner(peer) for each in group) for peer in reversed(PEERS)]
        before, after = (report.geomean(each.speedups[run] for each in group) for run in (0, 1))
        rows.append([dtype, pass_, len(group), *sooner, before, after, after / before])
    return Listing("Geometric means", columns, rows)


def changes_cells(changes: Changes) -> Listing:
    """A line a cell of both runs."""
    columns, keys = _key_columns([each.second for each in changes.shared])
    columns += [Column(f"convext ms {when}", _milliseconds, number=True) for when in _WHEN]
    columns += map(_ratio, ("convext before / after", "torch before / after"))
    columns += map(_ratio, ("speed-up before", "speed-up after", "speed-up after / before"))
    return Listing(
        "Every cell of both runs",
        columns,
        [[*_names(each.second, keys), *_changed(each)] for each in changes.shared],
        long=True,
    )


_WHEN = ("before", "after")


def _changed(change: Change) -> list[float]:
    times = [cell["convext_ms"]["median"] for cell in (change.first, change.second)]
    sooner = [change.sooner(peer) for peer in reversed(PEERS)]
    return [*times, *sooner, *change.speedups, change.gain]


def alone(changes: Changes) -> Listing | None:
    """The cells that only one of two runs has; None if there are none."""
    rows = [["before", *key] for key in changes.only_first]
    rows += [["after", *key] for key in changes.only_second]
    if not rows:
        return None
    columns = [Column("run"), *map(Column, KEY)]
    return Listing("Cells of one run only", columns, rows, long=True)


def unequal(before: dict[str, Any], after: dict[str, Any]) -> Listing | None:
    """What differs between two runs' environments and options; None if nothing does."""
    rows = [
        [f"{what}.{name}", *values]
        for what in ("environment", "options")
        for name, *values in differences(before[what], after[what])
    ]
    if not rows:
        return None
    columns = [Column("entry"), Column("before"), Column("after")]
    return Listing("What differs between the runs besides the code", columns, rows)
