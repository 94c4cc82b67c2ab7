"""The cost model held against measurements: ``convext bench model-fit RUN.json``."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from convext.bench.report import Cell

SHOWN = 10

# Of one vector, in float32; the cost model counts two FMAs a cycle.
_LANES = {"avx512_bf16": 16, "avx512": 16, "avx2": 8, "generic": 4}
_FLOPS_OF_FMA = 2
_FMAS_OF_CYCLE = 2


def clock_ghz(run: dict[str, Any], threads: int) -> float:
    """Cycles per nanosecond of one core, from the measured peak of FMAs.

    Raises:
        ValueError: the run holds no peaks.
    """
    environment = run["environment"]
    peaks = environment.get("peaks", {}).get(str(threads))
    if peaks is None:
        raise ValueError(
            "this run holds no measured peaks: it is older than the cost model's check"
        )
    lanes = _LANES[environment["convext"]["isa"]]
    return float(peaks["float32_gflops"]) / (threads * lanes * _FLOPS_OF_FMA * _FMAS_OF_CYCLE)


def over_prediction(run: dict[str, Any], cell: Cell) -> float:
    """Cycles measured on all cores together, over those that the plan predicts."""
    threads = cell["threads"]
    cycles = cell["convext_ms"]["median"] * 1e6 * clock_ghz(run, threads) * threads
    return float(cycles / predicted(cell))


def predicted(cell: Cell) -> float:
    """Cycles that the cell's plans predict: multiply, move and memory."""
    return float(sum(sum(plan["cycles"].values()) for plan in cell["plans"]))


def fit(run: dict[str, Any], console: Console) -> int:
    """Print, per algorithm, how measured time stands to predicted cycles; returns 0.

    Only the order of candidates matters to a plan: a factor that all algorithms share is harmless,
    a factor that differs between them, or a wide spread within one, makes wrong choices.

    Raises:
        ValueError: the run has no predictions.
    """
    # Both gradients in one call have two plans, whose shares of the time are unknown.
    cells = [cell for cell in run["cells"] if len(cell.get("plans", ())) == 1]
    cells = [cell for cell in cells if "cycles" in cell["plans"][0] and predicted(cell) > 0]
    if not cells:
        raise ValueError("no cell of this run has a single plan with predicted cycles")
    console.print(_table(run, cells))
    console.print(_outliers(run, cells))
    return 0


def _group_of(cell: Cell) -> tuple[Any, ...]:
    return (cell["dtype"], cell["pass"], cell["plans"][0]["algorithm"], cell["threads"])


def _table(run: dict[str, Any], cells: Sequence[Cell]) -> Table:
    table = Table(
        title="measured cycles / predicted cycles (1: as predicted)", title_justify="left"
    )
    for name in ("dtype", "pass", "algorithm"):
        table.add_column(name, no_wrap=True)
    # Factor: e to the standard deviation of the logarithms, so a third of the cells lie beyond it.
    for name in ("thr", "cells", "median", "q1", "q3", "least", "most", "spread factor"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in dict.fromkeys(map(_group_of, cells)):
        found = sorted(over_prediction(run, cell) for cell in cells if _group_of(cell) == group)
        several = found if len(found) > 1 else found * 2
        q1, median, q3 = statistics.quantiles(several, n=4, method="inclusive")
        spread = math.exp(statistics.pstdev(map(math.log, found)))
        values = (median, q1, q3, found[0], found[-1], spread)
        table.add_row(*map(str, group), str(len(found)), *(f"{value:.2f}" for value in values))
    return table


def _outliers(run: dict[str, Any], cells: Sequence[Cell]) -> Table:
    """The cells that are farthest from the median of their pass and number of threads."""

    def peers(cell: Cell) -> tuple[Any, ...]:
        return (cell["dtype"], cell["pass"], cell["threads"])

    medians = {
        key: statistics.median(over_prediction(run, cell) for cell in cells if peers(cell) == key)
        for key in dict.fromkeys(map(peers, cells))
    }

    def distance(cell: Cell) -> float:
        return abs(math.log(over_prediction(run, cell) / medians[peers(cell)]))

    table = Table(title="cells farthest from the median of their pass", title_justify="left")
    for name in ("layer", "dtype", "layout", "N", "thr", "pass", "algorithm"):
        table.add_column(name, no_wrap=True)
    names = ("multiply", "move", "memory")
    for name in ("measured kcycles", *names, "measured / predicted"):
        table.add_column(name, justify="right")
    for cell in sorted(cells, key=distance, reverse=True)[:SHOWN]:
        plan = cell["plans"][0]
        measured = over_prediction(run, cell) * predicted(cell)
        table.add_row(
            *(str(cell[key]) for key in ("layer", "dtype", "layout", "batch", "threads", "pass")),
            plan["algorithm"],
            f"{measured / 1e3:.0f}",
            *(f"{plan['cycles'][name] / 1e3:.0f}" for name in names),
            f"{over_prediction(run, cell):.2f}",
        )
    return table
