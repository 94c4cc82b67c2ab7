"""Where a cell lies under the roofline: its operations, its bytes, the measured roofs over it.

Achieved GFLOP/s stand over operations per byte; a run can be no higher than the machine's peak of
arithmetic, and no higher than its bandwidth times the operations per byte (Williams, Waterman and
Patterson, "Roofline", 2009). Operations are those of a direct convolution, 2 N K P Q C / groups
R S, and bytes the operands read once and the results written once.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convext.bench.gpu import DTYPES
from convext.bench.operands import PEERS
from convext.bench.peaks import arithmetic
from convext.bench.report import Cell
from convext.bench.shapes import ConvShape, ShapeError, read_table, shipped_tables


class UnplacedError(ValueError):
    """A cell whose run does not hold what its place under the roofline needs; says what."""


@dataclass(frozen=True)
class Roof:
    """Measured peaks: arithmetic in GFLOP/s and a copy's bandwidth in GB/s."""

    gflops: float
    gbytes: float

    def at(self, intensity: float) -> float:
        """The most GFLOP/s that so many operations per byte allow."""
        return min(self.gflops, intensity * self.gbytes)


@dataclass(frozen=True)
class Point:
    """A cell's place: operations of a call, bytes of a call, what both peers achieve."""

    flops: int
    bytes: int
    gflops: dict[str, float]
    roof: Roof

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes

    def share(self, peer: str) -> float:
        """What a peer achieves, as a share of the roof at this intensity."""
        return self.gflops[peer] / self.roof.at(self.intensity)


def is_gpu(run: dict[str, Any]) -> bool:
    """Whether the run is one of ``convext bench gpu``."""
    return "gpu" in run["environment"]


def locate(run: dict[str, Any], cell: Cell) -> Point:
    """The place of a cell.

    Raises:
        UnplacedError: the layer's geometry or the machine's peaks are not known.
    """
    shape = _shape(run, cell)
    if cell["dtype"] not in DTYPES:
        raise UnplacedError(f"nothing is known of dtype {cell['dtype']}")
    roof = _roof(run, cell)
    batch, pass_ = cell["batch"], cell["pass"]
    flops = shape.pass_flops(pass_, batch)
    nbytes = shape.pass_bytes(pass_, batch, DTYPES[cell["dtype"]].itemsize)
    if cell.get("bytes", nbytes) != nbytes:
        raise UnplacedError(
            f"layer {cell['layer']} moved {cell['bytes']} bytes, and the one of that name in table "
            f"{cell['table']} would move {nbytes}: the table has changed"
        )
    gflops = {peer: flops / 1e6 / cell[f"{peer}_ms"]["median"] for peer in PEERS}
    return Point(flops, nbytes, gflops, roof)


def locate_all(
    run: dict[str, Any], cells: Sequence[Cell]
) -> tuple[list[Point | None], dict[str, int]]:
    """The place of each cell, None where it is not known, and how many lack one, by reason."""
    points: list[Point | None] = []
    reasons: dict[str, int] = {}
    for cell in cells:
        try:
            points.append(locate(run, cell))
        except UnplacedError as error:
            points.append(None)
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    return points, reasons


def _shape(run: dict[str, Any], cell: Cell) -> ConvShape:
    name, table = cell["layer"], cell.get("table", "")
    if table == "models":
        raise UnplacedError("a whole model has no one geometry")
    try:
        if name in run.get("layers", {}):
            return ConvShape.from_dict(name, run["layers"][name])
        # Runs from before the file held the layers: they stand in the tables that are shipped.
        return _shipped(table)[name]
    except KeyError as error:
        where = f"table {table}" if table else "any table"
        raise UnplacedError(
            f"the run does not hold the geometry of layer {name}, nor has {where} that is shipped"
        ) from error
    except ShapeError as error:
        raise UnplacedError(str(error)) from error


@functools.cache
def _shipped(table: str) -> dict[str, ConvShape]:
    """The layers of a shipped table by name; of all of them if the table is not said."""
    found = shipped_tables()
    paths = [found[table]] if table else list(found.values())
    return {shape.name: shape for path in paths for shape in read_table(path)}


def _roof(run: dict[str, Any], cell: Cell) -> Roof:
    dtype, threads = cell["dtype"], cell["threads"]
    peaks = run["environment"].get("peaks", {})
    try:
        if is_gpu(run):
            found = peaks[dtype]
            return Roof(1e3 * found["matmul_tflops"], found["copy_gbytes"])
        found = peaks[str(threads)]
        return Roof(arithmetic(found, dtype), found["copy_gbytes"])
    except KeyError as error:
        what = dtype if is_gpu(run) else f"{threads} threads"
        raise UnplacedError(f"the run holds no measured peaks of {what}") from error
