"""What a run shows and keeps: geometric means, tables, JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from convext.bench.operands import PASSES

SCHEMA = 1
WORST = 10

Cell = dict[str, Any]


def ratio_of(cell: Cell) -> float:
    """torch time / convext time of a cell: the median over its pairs."""
    return float(cell["ratio"]["median"])


def geomean(values: Iterable[float]) -> float:
    """Geometric mean of at least one positive number."""
    return statistics.geometric_mean(values)


def _in_order(cells: Sequence[Cell], key: str) -> list[Any]:
    """The values a key takes, in the order of their first appearance."""
    return list(dict.fromkeys(cell[key] for cell in cells))


def summarise(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Geometric means of the ratio per dtype and pass: over all cells, by each key, and crossed."""
    rows = []
    for dtype in _in_order(cells, "dtype"):
        for pass_ in [name for name in PASSES if name in _in_order(cells, "pass")]:
            chosen = [cell for cell in cells if (cell["dtype"], cell["pass"]) == (dtype, pass_)]
            if not chosen:
                continue
            row: dict[str, Any] = {"dtype": dtype, "pass": pass_, **_group(chosen)}
            for key in ("layout", "batch", "threads"):
                row[key] = {
                    str(value): _group([cell for cell in chosen if cell[key] == value])
                    for value in _in_order(chosen, key)
                }
            row["crossed"] = [
                {
                    "layout": layout,
                    "batch": batch,
                    "threads": threads,
                    **_group(
                        [
                            cell
                            for cell in chosen
                            if (cell["layout"], cell["batch"], cell["threads"])
                            == (layout, batch, threads)
                        ]
                    ),
                }
                for layout, batch, threads in dict.fromkeys(
                    (cell["layout"], cell["batch"], cell["threads"]) for cell in chosen
                )
            ]
            rows.append(row)
    return rows


def _group(cells: Sequence[Cell]) -> dict[str, Any]:
    ratios = [ratio_of(cell) for cell in cells]
    return {
        "cells": len(ratios),
        "geomean": round(geomean(ratios), 4),
        "worst": round(min(ratios), 4),
        "best": round(max(ratios), 4),
    }


def write_json(
    path: Path,
    environment: dict[str, Any],
    options: dict[str, Any],
    cells: Sequence[Cell],
    failures: Sequence[str],
    complete: bool,
) -> None:
    """Write a run to a file: one line a cell, so that a diff of two runs can be read."""
    head = {
        "schema": SCHEMA,
        "complete": complete,
        "environment": environment,
        "options": options,
        "failures": list(failures),
        "summary": summarise(cells),
    }
    lines = ",\n".join("    " + json.dumps(cell) for cell in cells)
    body = json.dumps(head, indent=2).removesuffix("\n}")
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
    return run


def coloured(ratio: float) -> str:
    """A ratio in green where convext is ahead, red where it is behind by over 10 %."""
    colour = "green" if ratio >= 1.0 else "red" if ratio < 0.9 else "yellow"
    return f"[{colour}]{ratio:.2f}[/{colour}]"


def _right(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def cell_table(cells: Sequence[Cell], title: str) -> Table:
    """One line a cell: times, ratio with quartiles, GF/s, plan."""
    table = Table(title=title, title_justify="left")
    table.add_column("layer", no_wrap=True)
    table.add_column("dtype", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    _right(table, "N", "thr")
    table.add_column("pass", no_wrap=True)
    _right(table, "torch ms", "convext ms", "ratio", "q1..q3", "torch GF/s", "convext GF/s")
    table.add_column("kernel", overflow="fold")
    for cell in cells:
        spread = cell["ratio"]
        table.add_row(
            cell["layer"],
            cell["dtype"],
            cell["layout"],
            str(cell["batch"]),
            str(cell["threads"]),
            cell["pass"],
            f"{cell['torch_ms']['median']:.3f}",
            f"{cell['convext_ms']['median']:.3f}",
            coloured(ratio_of(cell)),
            f"{spread['q1']:.2f}..{spread['q3']:.2f}",
            f"{cell['torch_gflops']:.1f}",
            f"{cell['convext_gflops']:.1f}",
            ", ".join(plan["kernel"] for plan in cell["plans"]),
        )
    return table


def worst_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with the lowest ratios, lowest first."""
    return sorted(cells, key=ratio_of)[:WORST]


def summary_table(cells: Sequence[Cell]) -> Table:
    """One line a dtype and pass: geometric means of torch time / convext time."""
    table = Table(
        title="geometric mean of torch time / convext time (above 1: convext is quicker)",
        title_justify="left",
    )
    table.add_column("dtype", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    _right(table, "cells", "all", "worst")
    labels: dict[str, Callable[[Any], str]] = {
        "layout": str,
        "batch": lambda value: f"N={value}",
        "threads": lambda value: f"{value} thr",
    }
    columns = [(key, value) for key in labels for value in _in_order(cells, key)]
    _right(table, *(labels[key](value) for key, value in columns))
    for row in summarise(cells):
        table.add_row(
            row["dtype"],
            row["pass"],
            str(row["cells"]),
            coloured(row["geomean"]),
            coloured(row["worst"]),
            *(
                coloured(row[key][str(value)]["geomean"]) if str(value) in row[key] else ""
                for key, value in columns
            ),
        )
    return table
