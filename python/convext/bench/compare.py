"""Two runs side by side: what a change of the code did, and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from convext.bench.report import Cell, coloured, geomean, ratio_of
from convext.bench.runner import KEY

SHOWN = 10

# These differ between any two runs.
_EXPECTED = ("date", "command")


def _keyed(run: dict[str, Any]) -> dict[tuple[Any, ...], Cell]:
    return {_key(cell): cell for cell in run["cells"]}


def _key(cell: Cell) -> tuple[Any, ...]:
    # Runs from before there were padding modes do not say theirs.
    return tuple(cell.get("padding_mode", "zeros") if k == "padding_mode" else cell[k] for k in KEY)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dicts as (dotted name, text)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, str(value)


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The entries of two environments, or options, that are not equal: (name, first, second)."""
    a, b = dict(_flat(first)), dict(_flat(second))
    names = [name for name in {**a, **b} if name not in _EXPECTED and not name.startswith("load.")]
    return [
        (name, a.get(name, ""), b.get(name, ""))
        for name in names
        if a.get(name, "") != b.get(name, "")
    ]


def _time(cell: Cell, peer: str) -> float:
    return float(cell[f"{peer}_ms"]["median"])


def compare(first: dict[str, Any], second: dict[str, Any], console: Console) -> int:
    """Print how the second run stands to the first; returns 0, or 1 if they share no cell.

    The gain is told by the ratio against torch, measured within each run, so a machine that was
    slower in one run does not count. torch's own change of time shows how far the machine moved.
    """
    a, b = _keyed(first), _keyed(second)
    shared = [key for key in a if key in b]
    if not shared:
        console.print("the two runs share no cell")
        return 1
    table = Table(title=f"{len(shared)} shared cells", title_justify="left")
    table.add_column("dtype")
    table.add_column("pass")
    for name in ("cells", "ratio A", "ratio B", "B / A", "torch A / B", "convext A / B"):
        table.add_column(name, justify="right")
    groups = dict.fromkeys((a[key]["dtype"], a[key]["pass"]) for key in shared)
    for dtype, pass_ in groups:
        keys = [key for key in shared if (a[key]["dtype"], a[key]["pass"]) == (dtype, pass_)]
        before = geomean(ratio_of(a[key]) for key in keys)
        after = geomean(ratio_of(b[key]) for key in keys)
        speedups = {
            peer: geomean(_time(a[key], peer) / _time(b[key], peer) for key in keys)
            for peer in ("torch", "convext")
        }
        table.add_row(
            dtype,
            pass_,
            str(len(keys)),
            f"{before:.2f}",
            f"{after:.2f}",
            coloured(after / before),
            f"{speedups['torch']:.2f}",
            f"{speedups['convext']:.2f}",
        )
    console.print(table)

    moved = sorted(shared, key=lambda key: ratio_of(b[key]) / ratio_of(a[key]))
    half = SHOWN // 2
    extremes = moved if len(moved) <= SHOWN else moved[:half] + moved[-half:]
    table = Table(title="cells that moved most", title_justify="left")
    for name in KEY:
        table.add_column(name, no_wrap=True)
    for name in ("ratio A", "ratio B", "B / A"):
        table.add_column(name, justify="right")
    for key in extremes:
        before, after = ratio_of(a[key]), ratio_of(b[key])
        table.add_row(*map(str, key), f"{before:.2f}", f"{after:.2f}", coloured(after / before))
    console.print(table)

    for label, run, other in (("A", a, b), ("B", b, a)):
        alone = sum(key not in other for key in run)
        if alone:
            console.print(f"{alone} cells only in {label}")
    for what in ("environment", "options"):
        unequal = differences(first[what], second[what])
        if unequal:
            table = Table(title=f"what differs in the {what}", title_justify="left")
            for name in ("", "A", "B"):
                table.add_column(name, overflow="fold")
            for row in unequal:
                table.add_row(*row)
            console.print(table)
    return 0
