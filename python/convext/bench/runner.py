"""The grid of cells and the loop over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import convext
from convext import _C
from convext.bench import operands as ops
from convext.bench import peaks as roofs
from convext.bench.shapes import ConvShape
from convext.bench.timing import CLOCKS, Effort, Pairs, Spread, effort_for, time_pairs
from convext.bench.verify import (
    VerificationError,
    errors_of_pass,
    reference,
    results,
    verify,
)

# What names a cell: equal in two files, the cells can be compared.
KEY = ("layer", "dtype", "batch", "layout", "threads", "pass", "padding_mode")


@dataclass(frozen=True)
class Grid:
    """The cells to measure, every combination of the sequences, and how to measure them.

    A layer that has a batch size of its own is run with that one alone, and one that a padding mode
    cannot be applied to, or would not change, is left out of that mode.
    """

    shapes: Sequence[ConvShape]
    dtypes: Sequence[str]
    batches: Sequence[int]
    layouts: Sequence[str]
    threads: Sequence[int]
    passes: Sequence[str]
    padding_modes: Sequence[str] = ("zeros",)
    clock: str = "wall"
    batch_invariant: bool = False
    quick: bool = False

    def problems(self) -> Iterator[tuple[ConvShape, str, int, str]]:
        """(layer, dtype, batch size, padding mode), in the order they are run."""
        for shape in self.shapes:
            for dtype in self.dtypes:
                for batch in shape.batches(self.batches):
                    for mode in self.padding_modes:
                        if shape.pads_with(mode):
                            yield shape, dtype, batch, mode

    def __len__(self) -> int:
        problems = sum(1 for _ in self.problems())
        return problems * len(self.layouts) * len(self.threads) * len(self.passes)


@dataclass(frozen=True)
class Failure:
    """A cell whose result was wrong, so that it was not timed."""

    layer: str
    dtype: str
    batch: int
    layout: str
    threads: int
    padding_mode: str
    text: str

    def __str__(self) -> str:
        mode = "" if self.padding_mode == "zeros" else f", {self.padding_mode}"
        return (
            f"{self.layer}, {self.dtype}, N={self.batch}, {self.layout}, {self.threads} threads"
            f"{mode}: {self.text}"
        )


def plans(
    shape: ConvShape, batch: int, dtype: str, layout: str, pass_: str, padding_mode: str = "zeros"
) -> list[dict[str, Any]]:
    """What convext plans for the pass: one entry, two for both gradients."""
    input, weight = (
        torch.empty(size, dtype=ops.DTYPES[dtype], device="meta", memory_format=ops.LAYOUTS[layout])
        for size in (shape.input_size(batch), shape.weight_size)
    )
    geometry = (shape.stride, shape.padding, shape.dilation, shape.groups)
    directions = ("input_grad", "weight_grad") if pass_ == "backward" else (pass_,)
    plan = convext.explain(convext.problem(input, weight, *geometry, padding_mode=padding_mode))
    return [
        {
            "kernel": found.kernel,
            "algorithm": found.algorithm,
            "workspace_bytes": found.workspace_bytes,
            "thread_workspace_bytes": found.thread_workspace_bytes,
            "threads": found.threads,
            "cycles": {name: float(f"{value:.4g}") for name, value in found.cycles.items()},
        }
        for found in (plan[name] for name in directions)
    ]


def _time(
    first: ops.Call,
    second: ops.Call,
    sets: Sequence[ops.Operands],
    effort: Effort,
    clock: str,
) -> Pairs:
    return time_pairs(
        lambda index: first(sets[index % len(sets)]),
        lambda index: second(sets[index % len(sets)]),
        effort,
        CLOCKS[clock],
    )


def measure(
    shape: ConvShape,
    pass_: str,
    sets: Sequence[ops.Operands],
    effort: Effort,
    clock: str,
    padding_mode: str,
    peaks: roofs.Peaks,
) -> dict[str, Any]:
    """Time both peers on one pass: the part of a cell that is figures."""
    torch_call, convext_call = (
        ops.make_call(peer, pass_, shape, padding_mode, through_autograd=padding_mode != "zeros")
        for peer in ops.PEERS
    )
    if padding_mode != "zeros" and pass_ != "forward":
        for operands in sets:  # graphs are not built while the clock runs
            torch_call(operands), convext_call(operands)
    pairs = _time(torch_call, convext_call, sets, effort, clock)
    batch = sets[0].input.shape[0]
    gigaflops = shape.pass_flops(pass_, batch) / 1e9
    nbytes = shape.pass_bytes(pass_, batch, sets[0].input.itemsize)
    dtype = str(sets[0].input.dtype).removeprefix("torch.")
    found: dict[str, Any] = {"ratio": pairs.ratio.as_dict()}
    for peer, samples in (("torch", pairs.first), ("convext", pairs.second)):
        spread = Spread.of(samples)
        found[f"{peer}_ms"] = spread.as_dict(1e3)
        found[f"{peer}_gflops"] = round(gigaflops / spread.median, 2)
        found[f"{peer}_share"] = roofs.shares(peaks, dtype, gigaflops, nbytes, spread.median)
    return {
        **found,
        "bytes": nbytes,
        "pairs": len(pairs.first),
        "calls_per_sample": pairs.calls_per_sample,
        "operand_sets": len(sets),
    }


def measure_cost(
    shape: ConvShape,
    pass_: str,
    sets: Sequence[ops.Operands],
    effort: Effort,
    clock: str,
    padding_mode: str,
    batch_invariant: bool,
) -> dict[str, Any] | None:
    """What a padding mode, or else batch invariance, costs convext itself.

    The time over that with zeros, or without invariance, in pairs of their own; None if there is
    neither. Both sides call the ops, without autograd.
    """
    ours = ops.make_call("convext", pass_, shape, padding_mode)
    if padding_mode != "zeros":
        over, base = "zeros", ops.make_call("convext", pass_, shape)
    elif batch_invariant:
        over, base = "any batch", ours
    else:
        return None

    def switched(call: ops.Call, on: bool) -> ops.Call:
        def function(operands: ops.Operands) -> ops.Results:
            _C.set_batch_invariant(on)
            return call(operands)

        return function

    if over == "any batch":
        ours, base = switched(ours, True), switched(base, False)
    previous = _C.batch_invariant()
    try:
        pairs = _time(ours, base, sets, effort, clock)
    finally:
        _C.set_batch_invariant(previous)
    return {"over": over, **pairs.ratio.as_dict()}


def run_grid(
    grid: Grid,
    cache_bytes: int,
    peaks: Mapping[int, roofs.Peaks],
    on_start: Callable[[str], None],
) -> Iterator[dict[str, Any] | Failure]:
    """Verify and time every cell of the grid; yields a dict for each timed cell.

    A layer that fails verification yields one ``Failure`` in place of its passes. torch's number of
    threads and convext's batch invariance are set on the way and put back at the end.

    Args:
        grid: the cells.
        cache_bytes: the cache that operands are rotated past.
        peaks: the machine's, for each number of threads.
        on_start: told in words what comes next.
    """
    threads_before = torch.get_num_threads()
    invariant_before = _C.set_batch_invariant(grid.batch_invariant)
    try:
        with torch.no_grad():
            for shape, dtype, batch, mode in grid.problems():
                torch.set_num_threads(max(grid.threads))
                on_start(f"{shape.name} {dtype} N={batch}: float64 reference")
                plain = ops.make_operands(shape, batch, ops.DTYPES[dtype])
                expected = reference(shape, plain, mode)
                yield from _run_layer(
                    grid, shape, dtype, mode, plain, expected, cache_bytes, peaks, on_start
                )
    finally:
        torch.set_num_threads(threads_before)
        _C.set_batch_invariant(invariant_before)


def _run_layer(
    grid: Grid,
    shape: ConvShape,
    dtype: str,
    mode: str,
    plain: ops.Operands,
    expected: tuple[Tensor, ...],
    cache_bytes: int,
    peaks: Mapping[int, roofs.Peaks],
    on_start: Callable[[str], None],
) -> Iterator[dict[str, Any] | Failure]:
    """The layouts, threads and passes of one layer, dtype, batch size and padding mode."""
    batch = plain.input.shape[0]
    effort = effort_for(dtype, grid.quick)
    for layout in grid.layouts:
        sets = ops.rotation(plain.to(memory_format=ops.LAYOUTS[layout]), cache_bytes)
        torch.set_num_threads(max(grid.threads))
        on_start(f"{shape.name} {dtype} N={batch} {layout}: torch's results")
        theirs = results("torch", shape, sets[0], mode)
        for threads in grid.threads:
            torch.set_num_threads(threads)
            where = f"{shape.name} {dtype} N={batch} {layout} {threads} threads"
            where += "" if mode == "zeros" else f" {mode}"
            on_start(f"{where}: verify")
            try:
                errors = verify(shape, sets[0], expected, mode, theirs)
            except VerificationError as error:
                yield Failure(shape.name, dtype, batch, layout, threads, mode, str(error))
                continue
            for pass_ in grid.passes:
                on_start(f"{where}: {pass_}")
                key = (shape.name, dtype, batch, layout, threads, pass_, mode)
                cell = {
                    **dict(zip(KEY, key, strict=True)),
                    "table": shape.table,
                    **measure(shape, pass_, sets, effort, grid.clock, mode, peaks[threads]),
                    "plans": plans(shape, batch, dtype, layout, pass_, mode),
                    "error": errors_of_pass(errors, pass_),
                }
                cost = measure_cost(
                    shape, pass_, sets, effort, grid.clock, mode, grid.batch_invariant
                )
                yield cell if cost is None else {**cell, "cost": cost}
