"""The grid of cells and the loop over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

import convext
from convext.bench import operands as ops
from convext.bench.shapes import ConvShape
from convext.bench.timing import CLOCKS, Effort, Spread, time_pairs
from convext.bench.verify import Errors, VerificationError, reference, verify

# What names a cell: equal in two files, the cells can be compared.
KEY = ("layer", "dtype", "batch", "layout", "threads", "pass")


@dataclass(frozen=True)
class Grid:
    """The cells to measure, every combination of the sequences, and the clock to use."""

    shapes: Sequence[ConvShape]
    dtypes: Sequence[str]
    batches: Sequence[int]
    layouts: Sequence[str]
    threads: Sequence[int]
    passes: Sequence[str]
    clock: str = "wall"

    def __len__(self) -> int:
        length = len(self.shapes) * len(self.dtypes) * len(self.batches)
        return length * len(self.layouts) * len(self.threads) * len(self.passes)


@dataclass(frozen=True)
class Failure:
    """A cell whose result was wrong, so that it was not timed."""

    layer: str
    dtype: str
    batch: int
    layout: str
    threads: int
    text: str

    def __str__(self) -> str:
        return (
            f"{self.layer}, {self.dtype}, N={self.batch}, {self.layout}, {self.threads} threads: "
            f"{self.text}"
        )


def plans(shape: ConvShape, batch: int, dtype: str, pass_: str) -> list[dict[str, Any]]:
    """Kernel and workspace that convext plans for the pass: one entry, two for both gradients."""
    input = torch.empty(shape.input_size(batch), dtype=ops.DTYPES[dtype], device="meta")
    weight = torch.empty(shape.weight_size, dtype=ops.DTYPES[dtype], device="meta")
    geometry = (shape.stride, shape.padding, shape.dilation, shape.groups)
    directions = ("input_grad", "weight_grad") if pass_ == "backward" else (pass_,)
    found = (convext.explain(input, weight, *geometry, direction=name) for name in directions)
    return [{"kernel": plan.kernel, "workspace_bytes": plan.workspace_bytes} for plan in found]


def measure(
    shape: ConvShape, pass_: str, sets: Sequence[ops.Operands], effort: Effort, clock: str
) -> dict[str, Any]:
    """Time both peers on one pass: the part of a cell that is figures."""
    torch_call, convext_call = (ops.make_call(peer, pass_, shape) for peer in ops.PEERS)
    pairs = time_pairs(
        lambda index: torch_call(sets[index % len(sets)]),
        lambda index: convext_call(sets[index % len(sets)]),
        effort,
        CLOCKS[clock],
    )
    gradients = 2 if pass_ == "backward" else 1
    gigaflops = gradients * shape.flops(sets[0].input.shape[0]) / 1e9
    theirs, ours = Spread.of(pairs.first), Spread.of(pairs.second)
    return {
        "ratio": pairs.ratio.as_dict(),
        "torch_ms": theirs.as_dict(1e3),
        "convext_ms": ours.as_dict(1e3),
        "torch_gflops": round(gigaflops / theirs.median, 2),
        "convext_gflops": round(gigaflops / ours.median, 2),
        "pairs": len(pairs.first),
        "calls_per_sample": pairs.calls_per_sample,
        "operand_sets": len(sets),
    }


def run_grid(
    grid: Grid,
    effort: Effort,
    cache_bytes: int,
    on_start: Callable[[str], None],
) -> Iterator[dict[str, Any] | Failure]:
    """Verify and time every cell of the grid; yields a dict for each timed cell.

    A layer that fails verification yields one ``Failure`` in place of its passes. torch's number of
    threads is set on the way and put back at the end.

    Args:
        grid: the cells.
        effort: how long each is measured.
        cache_bytes: the cache that operands are rotated past.
        on_start: told in words what comes next.
    """
    threads_before = torch.get_num_threads()
    try:
        with torch.no_grad():
            for shape in grid.shapes:
                for dtype in grid.dtypes:
                    for batch in grid.batches:
                        torch.set_num_threads(max(grid.threads))
                        on_start(f"{shape.name} {dtype} N={batch}: float64 reference")
                        plain = ops.make_operands(shape, batch, ops.DTYPES[dtype])
                        expected = reference(shape, plain)
                        yield from _run_layer(
                            grid, shape, dtype, plain, expected, effort, cache_bytes, on_start
                        )
    finally:
        torch.set_num_threads(threads_before)


def _run_layer(
    grid: Grid,
    shape: ConvShape,
    dtype: str,
    plain: ops.Operands,
    expected: tuple[torch.Tensor, ...],
    effort: Effort,
    cache_bytes: int,
    on_start: Callable[[str], None],
) -> Iterator[dict[str, Any] | Failure]:
    """The layouts, threads and passes of one layer, dtype and batch size."""
    batch = plain.input.shape[0]
    for layout in grid.layouts:
        sets = ops.rotation(plain.to(memory_format=ops.LAYOUTS[layout]), cache_bytes)
        for threads in grid.threads:
            torch.set_num_threads(threads)
            where = f"{shape.name} {dtype} N={batch} {layout} {threads} threads"
            on_start(f"{where}: verify")
            try:
                errors = verify(shape, sets[0], expected)
            except VerificationError as error:
                yield Failure(shape.name, dtype, batch, layout, threads, str(error))
                continue
            for pass_ in grid.passes:
                on_start(f"{where}: {pass_}")
                key = (shape.name, dtype, batch, layout, threads, pass_)
                yield {
                    **dict(zip(KEY, key, strict=True)),
                    **measure(shape, pass_, sets, effort, grid.clock),
                    "plans": plans(shape, batch, dtype, pass_),
                    "error": _errors(errors, pass_),
                }


def _errors(errors: Errors, pass_: str) -> dict[str, float]:
    """Largest relative error of each peer over the tensors that a pass computes."""
    names = ops.RESULTS[pass_]
    return {
        peer: float(f"{max(found[name] for name in names):.3g}")
        for peer, found in (("torch", errors.torch), ("convext", errors.convext))
    }
