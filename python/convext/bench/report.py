"""What a run shows and keeps: geometric means, tables, JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from convext.bench.operands import PASSES
from convext.bench.shapes import ConvShape

SCHEMA = 1
WORST = 10

# Columns that the table of cells needs for all it has to say.
WIDE = 200

CROSSED = ("layout", "batch", "threads")

# What every cell says of itself, of any age.
_KEY = ("layer", "dtype", "batch", "layout", "threads", "pass")
_SPREADS = {"ratio": ("median", "q1", "q3"), "torch_ms": ("median",), "convext_ms": ("median",)}

Cell = dict[str, Any]


def ratio_of(cell: Cell) -> float:
    """torch time / convext time of a cell: the median over its pairs."""
    return float(cell["ratio"]["median"])


def geomean(values: Iterable[float]) -> float:
    """Geometric mean of at least one positive number."""
    return statistics.geometric_mean(values)


def _in_order(cells: Sequence[Cell], key: str) -> list[Any]:
    """The values a key takes, in the order of their first appearance."""
    return list(dict.fromkeys(value_of(cell, key) for cell in cells))


def value_of(cell: Cell, key: str) -> Any:
    # Runs from before there were padding modes do not say theirs, nor a layer's table.
    return cell.get(key, {"padding_mode": "zeros", "table": ""}.get(key))


def workspace_of(plan: dict[str, Any]) -> int:
    """Bytes of a cell's plan: the call's and those of each thread, which older runs do not tell."""
    of_threads = plan.get("threads", 0) * plan.get("thread_workspace_bytes", 0)
    return int(plan["workspace_bytes"] + of_threads)


def _rows(cells: Sequence[Cell]) -> Iterator[tuple[str, str, str, list[Cell]]]:
    """(dtype, pass, padding mode, their cells): what geometric means are taken over."""
    known = [name for name in PASSES if any(cell["pass"] == name for cell in cells)]
    passes = list(dict.fromkeys([*known, *_in_order(cells, "pass")]))
    for dtype in _in_order(cells, "dtype"):
        for pass_ in passes:
            for mode in _in_order(cells, "padding_mode"):
                key = (dtype, pass_, mode)
                chosen = [cell for cell in cells if _row_key(cell) == key]
                if chosen:
                    yield *key, chosen


def _row_key(cell: Cell) -> tuple[str, str, str]:
    return (cell["dtype"], cell["pass"], value_of(cell, "padding_mode"))


def summarise(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Geometric means of the ratio per dtype, pass and padding mode: over all cells, by each key,
    and crossed."""
    rows = []
    for dtype, pass_, mode, chosen in _rows(cells):
        row: dict[str, Any] = {"dtype": dtype, "pass": pass_, "padding_mode": mode}
        row.update(_group(chosen))
        for key in ("layout", "batch", "threads", "table"):
            row[key] = {
                str(value): _group([cell for cell in chosen if value_of(cell, key) == value])
                for value in _in_order(chosen, key)
            }
        row["crossed"] = [
            {
                **dict(zip(CROSSED, values, strict=True)),
                **_group([cell for cell in chosen if _crossed(cell) == values]),
            }
            for values in dict.fromkeys(map(_crossed, chosen))
        ]
        rows.append(row)
    return rows


def _crossed(cell: Cell) -> tuple[Any, ...]:
    return tuple(cell[key] for key in CROSSED)


def _group(cells: Sequence[Cell]) -> dict[str, Any]:
    ratios = [ratio_of(cell) for cell in cells]
    return {
        "cells": len(ratios),
        "behind": sum(ratio < 1 for ratio in ratios),
        "geomean": round(geomean(ratios), 4),
        "worst": round(min(ratios), 4),
        "best": round(max(ratios), 4),
    }


def check_writable(path: Path) -> None:
    """Find out before a run, not after it, whether its file can be written.

    Raises:
        ValueError: it cannot.
    """
    there = path.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise ValueError(f"--out {path}: {error.strerror}") from error
    if not there:
        path.unlink()


def write_json(
    path: Path,
    environment: dict[str, Any],
    options: dict[str, Any],
    cells: Sequence[Cell],
    failures: Sequence[str],
    complete: bool,
    layers: Iterable[ConvShape] = (),
) -> None:
    """Write a run to a file: one line a cell, so that a diff of two runs can be read.

    The geometry of ``layers`` is written once, under their names.
    """
    head = {
        "schema": SCHEMA,
        "kind": "times",
        "complete": complete,
        "environment": environment,
        "options": options,
        "failures": list(failures),
        "summary": summarise(cells),
    }
    body = json.dumps(head, indent=2).removesuffix("\n}")
    geometry = ",\n".join(
        f"    {json.dumps(layer.name)}: {json.dumps(layer.as_dict())}" for layer in layers
    )
    if geometry:
        body += f',\n  "layers": {{\n{geometry}\n  }}'
    lines = ",\n".join("    " + json.dumps(cell) for cell in cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{body},\n  "cells": [\n{lines}\n  ]\n}}\n', encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what ``write_json`` wrote.

    Raises:
        ValueError: the file is not such a run.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(run, dict) or run.get("schema") != SCHEMA:
        raise ValueError(f"{path}: not a benchmark run of schema {SCHEMA}")
    if run.get("kind", "times") != "times":
        raise ValueError(f"{path}: holds {run['kind']}, not times")
    missing = _missing(run)
    if missing:
        raise ValueError(f"{path}: not a benchmark run: {missing}")
    return run


def _missing(run: dict[str, Any]) -> str:
    """The first thing that what is called a run has not, in words; empty if it has all."""
    for name, kind in (("environment", dict), ("options", dict), ("cells", list)):
        if not isinstance(run.get(name), kind):
            return f"no {name}"
    for index, cell in enumerate(run["cells"]):
        if not isinstance(cell, dict):
            return f"cell {index} is not an object"
        for name in _KEY:
            if not isinstance(cell.get(name), (str, int)):
                return f"cell {index} has no {name}"
        for name, parts in _SPREADS.items():
            for part in parts:
                spread = cell.get(name)
                found = spread.get(part) if isinstance(spread, dict) else None
                if not isinstance(found, (int, float)) or not 0 < found < math.inf:
                    return f"cell {index} has no positive {name}.{part}"
    return ""


def coloured(ratio: float) -> str:
    """A ratio in green where convext is ahead, red where it is behind by over 10 %."""
    colour = "green" if ratio >= 1.0 else "red" if ratio < 0.9 else "yellow"
    return f"[{colour}]{ratio:.2f}[/{colour}]"


def _right(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def cell_table(cells: Sequence[Cell], title: str, width: int = WIDE) -> Table:
    """One line a cell: times, ratio with quartiles, shares of the peaks, what was planned.

    On a terminal narrower than ``WIDE``, figures give way, and algorithms stand for kernels.
    """
    table = Table(title=title, title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    _right(table, "N", "thr")
    table.add_column("pass", no_wrap=True)
    padded = _in_order(cells, "padding_mode") != ["zeros"]
    if padded:
        table.add_column("padding", no_wrap=True)
    _right(table, "torch ms", "convext ms", "ratio", "q1..q3")
    detailed = any("convext_share" in cell for cell in cells)
    if detailed and width < WIDE:
        _right(table, "% FMA")
        table.add_column("algorithm", overflow="fold")
    elif detailed:
        _right(table, "GF/s", "% FMA", "% copy", "planned kcycles", "KiB")
        table.add_column("kernel", overflow="fold")
    for cell in cells:
        spread = cell["ratio"]
        row = [cell["layer"], cell["dtype"], cell["layout"], str(cell["batch"])]
        row += [str(cell["threads"]), cell["pass"]]
        row += [value_of(cell, "padding_mode")] if padded else []
        row += [f"{cell['torch_ms']['median']:.3f}", f"{cell['convext_ms']['median']:.3f}"]
        row += [coloured(ratio_of(cell)), f"{spread['q1']:.2f}..{spread['q3']:.2f}"]
        details = _details(cell) if detailed else []
        table.add_row(*row, *(details[:-1] if width >= WIDE else details[1:2] + details[-1:]))
    if detailed and width >= WIDE:
        table.caption = (
            "GF/s, % FMA, % copy: torch's, convext's, as shares of the measured peaks; "
            "planned kcycles: multiply + move + memory, of one core; KiB: workspace"
        )
        table.caption_justify = "left"
    return table


def _details(cell: Cell) -> list[str]:
    """Columns of ``cell_table`` that only a run over layers has; torch's figure, then convext's."""
    peers = ("torch", "convext")
    texts = [" ".join(f"{cell[f'{peer}_gflops']:.1f}" for peer in peers)]
    for peak in ("fma", "bandwidth"):
        texts.append(" ".join(f"{100 * cell[f'{peer}_share'][peak]:.0f}" for peer in peers))
    cycles = [plan["cycles"] for plan in cell["plans"]]
    texts.append(" + ".join(f"{sum(c[term] for c in cycles) / 1e3:.0f}" for term in cycles[0]))
    texts.append(f"{sum(map(workspace_of, cell['plans'])) / 1024:.0f}")
    texts.append(", ".join(plan["kernel"] for plan in cell["plans"]))
    texts.append(", ".join(plan["algorithm"] for plan in cell["plans"]))
    return texts


def gpu_cell_table(cells: Sequence[Cell], title: str) -> Table:
    """One line a cell of a run on a GPU: times, ratio, TFLOP/s, share of the floor, kernels.

    The floor is the longer of the arithmetic at the speed of a large matrix product and the bytes
    at that of a copy.
    """
    table = Table(title=title, title_justify="left")
    for name in ("layer", "dtype", "layout"):
        table.add_column(name, no_wrap=True)
    _right(table, "N")
    table.add_column("pass", no_wrap=True)
    _right(table, "cuDNN ms", "convext ms", "ratio", "q1..q3", "TF/s", "% floor")
    table.add_column("kernel", overflow="fold")
    for cell in cells:
        spread, peers = cell["ratio"], ("torch", "convext")
        table.add_row(
            *(cell["layer"], cell["dtype"], cell["layout"], str(cell["batch"]), cell["pass"]),
            *(f"{cell[f'{peer}_ms']['median']:.4f}" for peer in peers),
            *(coloured(ratio_of(cell)), f"{spread['q1']:.2f}..{spread['q3']:.2f}"),
            " ".join(f"{cell[f'{peer}_tflops']:.0f}" for peer in peers),
            " ".join(f"{100 * cell[f'{peer}_floor_share']:.0f}" for peer in peers),
            ", ".join(cell["kernels"]),
        )
    return table


def worst_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the lowest ratios, lowest first."""
    return sorted(cells, key=ratio_of)[:WORST]


def _summary(title: str, cells: Sequence[Cell]) -> tuple[Table, bool]:
    """A table whose lines are dtypes, passes and, if there are others than zeros, padding modes."""
    table = Table(title=title, title_justify="left")
    table.add_column("dtype", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    padded = _in_order(cells, "padding_mode") != ["zeros"]
    if padded:
        table.add_column("padding", no_wrap=True)
    return table, padded


def _row_names(row: dict[str, Any], padded: bool) -> list[str]:
    return [row["dtype"], row["pass"], *([row["padding_mode"]] if padded else [])]


def summary_table(cells: Sequence[Cell]) -> Table:
    """One line a dtype and pass: geometric means of torch time / convext time."""
    table, padded = _summary(
        "geometric mean of torch time / convext time (above 1: convext is quicker)", cells
    )
    _right(table, "cells", "below 1", "all", "worst", "best")
    labels: dict[str, Callable[[Any], str]] = {
        "layout": str,
        "batch": lambda value: f"N={value}",
        "threads": lambda value: f"{value} thr",
    }
    columns = [(key, value) for key in labels for value in _in_order(cells, key)]
    _right(table, *(labels[key](value) for key, value in columns))
    for row in summarise(cells):
        table.add_row(
            *_row_names(row, padded),
            str(row["cells"]),
            str(row["behind"]),
            *(coloured(row[key]) for key in ("geomean", "worst", "best")),
            *_means(row, columns),
        )
    return table


def table_summary(cells: Sequence[Cell]) -> Table | None:
    """The same by shape table; None if there is but one."""
    columns = [("table", name) for name in _in_order(cells, "table")]
    if len(columns) < 2:
        return None
    table, padded = _summary("geometric mean by shape table", cells)
    _right(table, *(name for _, name in columns))
    for row in summarise(cells):
        table.add_row(*_row_names(row, padded), *_means(row, columns))
    return table


def _means(row: dict[str, Any], columns: Iterable[tuple[str, Any]]) -> list[str]:
    return [
        coloured(row[key][str(value)]["geomean"]) if str(value) in row[key] else ""
        for key, value in columns
    ]


@dataclass(frozen=True)
class Cost:
    """What a padding mode or batch invariance costs convext itself: its time / that without."""

    dtype: str
    pass_: str
    padding_mode: str
    over: str
    cells: int
    geomean: float
    median: float
    least: float
    most: float


def costs(cells: Sequence[Cell]) -> list[Cost]:
    """The costs per dtype, pass and padding mode; none if no cell has one."""
    found = []
    for dtype, pass_, mode, group in _rows([cell for cell in cells if "cost" in cell]):
        times = [float(cell["cost"]["median"]) for cell in group]
        values = (geomean(times), statistics.median(times), min(times), max(times))
        found.append(Cost(dtype, pass_, mode, group[0]["cost"]["over"], len(group), *values))
    return found


def cost_table(cells: Sequence[Cell]) -> Table | None:
    """The costs in percent; None if there are none."""
    found = costs(cells)
    if not found:
        return None
    title = "cost to convext itself, in percent of its time without"
    table, padded = _summary(title, [cell for cell in cells if "cost" in cell])
    table.add_column("over", no_wrap=True)
    _right(table, "cells", "geomean", "median", "least", "most")
    for cost in found:
        names = {"dtype": cost.dtype, "pass": cost.pass_, "padding_mode": cost.padding_mode}
        values = (cost.geomean, cost.median, cost.least, cost.most)
        percentages = (f"{100 * (value - 1):+.1f}" for value in values)
        table.add_row(*_row_names(names, padded), cost.over, str(cost.cells), *percentages)
    return table
