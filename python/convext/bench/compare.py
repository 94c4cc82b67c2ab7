"""Two runs side by side: what a change of the code did, and what the machine did meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from convext.bench.report import Cell, coloured, geomean, ratio_of, value_of
from convext.bench.runner import KEY

SHOWN = 10

# These differ between any two runs.
_EXPECTED = ("date", "command")


Key = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """A cell in two runs. What is a ratio is above 1 where the second run is better."""

    key: Key
    first: Cell
    second: Cell

    def sooner(self, peer: str) -> float:
        """A peer's own time in the first run / in the second."""
        return _time(self.first, peer) / _time(self.second, peer)

    @property
    def speedups(self) -> tuple[float, float]:
        """torch time / convext time in both runs."""
        return ratio_of(self.first), ratio_of(self.second)

    @property
    def gain(self) -> float:
        """The speed-up in the second run / in the first."""
        before, after = self.speedups
        return after / before


@dataclass(frozen=True)
class Changes:
    """Two runs' cells matched by their keys: those of both, and those of one alone."""

    shared: list[Change]
    only_first: list[Key]
    only_second: list[Key]

    @staticmethod
    def of(first: dict[str, Any], second: dict[str, Any]) -> Changes:
        """Match two runs."""
        a, b = ({_key(cell): cell for cell in run["cells"]} for run in (first, second))
        return Changes(
            [Change(key, a[key], b[key]) for key in a if key in b],
            [key for key in a if key not in b],
            [key for key in b if key not in a],
        )

    def groups(self) -> Iterator[tuple[str, str, list[Change]]]:
        """(dtype, pass, what they share): what geometric means are taken over."""
        names = [(each.first["dtype"], each.first["pass"]) for each in self.shared]
        for group in dict.fromkeys(names):
            chosen = [each for each, name in zip(self.shared, names, strict=True) if name == group]
            yield *group, chosen


def _key(cell: Cell) -> Key:
    return tuple(value_of(cell, name) for name in KEY)


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Leaves of nested dicts as (dotted name, text)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, str(value)


def differences(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The entries of two environments, or options, that are not equal: (name, first, second)."""
    a, b = dict(flat(first)), dict(flat(second))
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
    changes = Changes.of(first, second)
    shared = changes.shared
    if not shared:
        console.print("the two runs share no cell")
        return 1
    table = Table(title=f"{len(shared)} shared cells", title_justify="left")
    table.add_column("dtype")
    table.add_column("pass")
    for name in ("cells", "ratio A", "ratio B", "B / A", "torch A / B", "convext A / B"):
        table.add_column(name, justify="right")
    for dtype, pass_, group in changes.groups():
        before, after = (geomean(each.speedups[run] for each in group) for run in (0, 1))
        sooner = {
            peer: geomean(each.sooner(peer) for each in group) for peer in ("torch", "convext")
        }
        table.add_row(
            dtype,
            pass_,
            str(len(group)),
            f"{before:.2f}",
            f"{after:.2f}",
            coloured(after / before),
            f"{sooner['torch']:.2f}",
            f"{sooner['convext']:.2f}",
        )
    console.print(table)

    moved = sorted(shared, key=lambda change: change.gain)
    half = SHOWN // 2
    extremes = moved if len(moved) <= SHOWN else moved[:half] + moved[-half:]
    table = Table(title="cells that moved most", title_justify="left")
    for name in KEY:
        table.add_column(name, no_wrap=True)
    for name in ("ratio A", "ratio B", "B / A"):
        table.add_column(name, justify="right")
    for change in extremes:
        ratios = (f"{speedup:.2f}" for speedup in change.speedups)
        table.add_row(*map(str, change.key), *ratios, coloured(change.gain))
    console.print(table)

    for label, alone in (("A", changes.only_first), ("B", changes.only_second)):
        if alone:
            console.print(f"{len(alone)} cells only in {label}")
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
