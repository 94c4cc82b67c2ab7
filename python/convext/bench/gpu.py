"""convext against cuDNN on a GPU: the same grid of cells, timed by the device's own clock.

A sample is a CUDA graph of enough calls to last some milliseconds, so that no launch from the host
is timed; calls in it take turns on sets of operands that together exceed the cache. The two peers'
graphs are replayed in turn. torch runs with ``cudnn.benchmark`` and no limit on what it tries.
``tf32`` stands for float32 tensors whose products both peers may round to TF32, ``float32`` for
exact ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

import convext
from convext import _C, _library
from convext.bench import operands as ops
from convext.bench.peaks import Peaks
from convext.bench.runner import KEY, Failure, Grid
from convext.bench.shapes import ConvShape
from convext.bench.timing import Effort, Pairs, Spread
from convext.bench.verify import (
    LIMIT_IN_EPS,
    VerificationError,
    errors_of_pass,
    reference,
    results,
    verify,
)

DTYPES: dict[str, torch.dtype] = {**ops.DTYPES, "tf32": torch.float32}

# TF32 keeps 10 bits behind the point: 2**-10, in units of float32's eps, twice.
TF32_LIMIT_IN_EPS = 2 * 2.0**13

# What a graph should last, and what it may hold.
GRAPH_S = 4e-3
MAX_CALLS = 200

FULL = Effort(budget_s=0.12, min_pairs=6, max_pairs=20)
QUICK = Effort(budget_s=0.03, min_pairs=4, max_pairs=6)

MATMUL_SIZE = 8192
COPY_BYTES = 1 << 31


def check_available() -> None:
    """Raises ``ValueError`` if there is nothing to measure: no GPU, or no kernels for it."""
    if not torch.cuda.is_available():
        raise ValueError("gpu: torch sees no GPU")
    if not _C.cuda_loaded():
        raise ValueError(f"gpu: no CUDA kernels: {_library.cuda_problem}")


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Inside, both peers multiply float32 exactly, or by TF32, and cuDNN tries all it has."""
    cudnn: Any = torch.backends.cudnn
    before = (cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.benchmark_limit)
    cudnn.conv.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.conv.fp32_precision, cudnn.benchmark, cudnn.benchmark_limit = before


def _seconds(function: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def measure_peaks(dtype: str) -> Peaks:
    """TFLOP/s of an 8192 x 8192 x 8192 matrix product in the dtype, and GB/s of a copy."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
    try:
        a, b = (
            torch.randn(MATMUL_SIZE, MATMUL_SIZE, device="cuda").to(DTYPES[dtype]) for _ in range(2)
        )
        best = min(_seconds(lambda: a @ b) for _ in range(8))
    finally:
        matmul.fp32_precision = before
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    copy = min(_seconds(lambda: target.copy_(source)) for _ in range(8))
    return {
        "matmul_tflops": float(f"{2 * MATMUL_SIZE**3 / best / 1e12:.4g}"),
        "copy_gbytes": float(f"{2 * COPY_BYTES / copy / 1e9:.4g}"),
    }


def graph_of(call: ops.Call, sets: Sequence[ops.Operands], calls: int) -> torch.cuda.CUDAGraph:
    """A graph of so many calls, which take turns on the sets."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # what is chosen and built at first is not captured
        for operands in sets[:2]:
            call(operands)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(calls):
            call(sets[index % len(sets)])
    return graph


def time_graphs(
    first: ops.Call, second: ops.Call, sets: Sequence[ops.Operands], effort: Effort
) -> Pairs:
    """Seconds a call of each peer, from graphs replayed in interleaved pairs."""
    single = []
    for call in (first, second):
        call(sets[0])
        torch.cuda.synchronize()
        single.append(min(_seconds(lambda c=call: c(sets[-1])) for _ in range(3)))  # type: ignore[misc]
    calls = max(2, min(math.ceil(GRAPH_S / min(single)), MAX_CALLS))
    graphs = [graph_of(call, sets, calls) for call in (first, second)]
    for graph in graphs:
        graph.replay()
    torch.cuda.synchronize()
    pairs = Pairs([], [], calls)
    turns = list(zip(graphs, (pairs.first, pairs.second), strict=True))
    for index in range(effort.pairs(calls * sum(single))):
        for graph, samples in turns if index % 2 == 0 else reversed(turns):
            samples.append(_seconds(graph.replay) / calls)
    return pairs


def plan_of(shape: ConvShape, batch: int, dtype: str, layout: str, pass_: str) -> list[Any]:
    """What convext plans for the pass on this device."""
    major, minor = torch.cuda.get_device_capability()
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    problem = _C.ConvProblem(
        list(shape.input_size(batch)),
        list(shape.weight_size),
        list(shape.stride),
        list(shape.padding),
        list(shape.dilation),
        shape.groups,
        "zeros",
        str(DTYPES[dtype]).removeprefix("torch."),
        layout,
        layout,
    )
    directions = {"forward": ["fprop"], "input_grad": ["dgrad"], "weight_grad": ["wgrad"]}
    return [
        _C.cuda_plan(
            problem,
            direction,
            10 * major + minor,
            properties.multi_processor_count,
            dtype == "tf32",
        )["name"]
        for direction in directions.get(pass_, ["dgrad", "wgrad"])
    ]


def measure(
    shape: ConvShape, pass_: str, sets: Sequence[ops.Operands], effort: Effort, peaks: Peaks
) -> dict[str, Any]:
    """Time both peers on one pass: the part of a cell that is figures."""
    pairs = time_graphs(
        ops.make_call("torch", pass_, shape),
        ops.make_call("convext", pass_, shape),
        sets,
        effort,
    )
    batch = sets[0].input.shape[0]
    teraflops = shape.pass_flops(pass_, batch) / 1e12
    nbytes = shape.pass_bytes(pass_, batch, sets[0].input.itemsize)
    floor = max(teraflops / peaks["matmul_tflops"], nbytes / 1e9 / peaks["copy_gbytes"])
    found: dict[str, Any] = {"ratio": pairs.ratio.as_dict(), "floor_ms": round(1e3 * floor, 5)}
    for peer, samples in (("torch", pairs.first), ("convext", pairs.second)):
        spread = Spread.of(samples)
        found[f"{peer}_ms"] = spread.as_dict(1e3)
        found[f"{peer}_tflops"] = round(teraflops / spread.median, 2)
        found[f"{peer}_floor_share"] = round(floor / spread.median, 3)
    return {
        **found,
        "bytes": nbytes,
        "pairs": len(pairs.first),
        "calls_per_sample": pairs.calls_per_sample,
        "operand_sets": len(sets),
    }


def run_grid(
    grid: Grid, peaks: dict[str, Peaks], on_start: Callable[[str], None]
) -> Iterator[dict[str, Any] | Failure]:
    """Verify and time every cell of the grid; yields a dict for each timed cell."""
    cache_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    effort = QUICK if grid.quick else FULL
    for shape, dtype, batch, mode in grid.problems():
        on_start(f"{shape.name} {dtype} N={batch}: float64 reference")
        with torch.no_grad():
            plain = on_device(ops.make_operands(shape, batch, DTYPES[dtype]))
            expected = reference(shape, plain, mode)  # of the first algorithm that cuDNN proposes
        with torch.no_grad(), precision(dtype):
            for layout in grid.layouts:
                sets = ops.rotation(plain.to(memory_format=ops.LAYOUTS[layout]), cache_bytes)
                where = f"{shape.name} {dtype} N={batch} {layout}"
                on_start(f"{where}: verify")
                try:  # a plan that is forced may not fit
                    kernels = {p: plan_of(shape, batch, dtype, layout, p) for p in grid.passes}
                except RuntimeError as error:
                    yield Failure(shape.name, dtype, batch, layout, 1, mode, str(error))
                    continue
                try:
                    limit = TF32_LIMIT_IN_EPS if dtype == "tf32" else LIMIT_IN_EPS[DTYPES[dtype]]
                    theirs = results("torch", shape, sets[0], mode)
                    errors = verify(shape, sets[0], expected, mode, theirs, limit)
                except VerificationError as error:
                    yield Failure(shape.name, dtype, batch, layout, 1, mode, str(error))
                    continue
                for pass_ in grid.passes:
                    on_start(f"{where}: {pass_}")
                    key = (shape.name, dtype, batch, layout, 1, pass_, mode)
                    yield {
                        **dict(zip(KEY, key, strict=True)),
                        "table": shape.table,
                        **measure(shape, pass_, sets, effort, peaks[dtype]),
                        "kernels": kernels[pass_],
                        "error": errors_of_pass(errors, pass_),
                    }
                del sets
        del plain, expected
        torch.cuda.empty_cache()


def on_device(operands: ops.Operands) -> ops.Operands:
    """The same operands on the GPU."""
    tensors: list[Tensor] = [
        getattr(operands, field.name).cuda() for field in dataclasses.fields(operands)
    ]
    return ops.Operands(*tensors)


def describe() -> dict[str, Any]:
    """The GPU and what runs on it, for a run's environment."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "kernels": len(_C.cuda_kernels()),
        "convext": convext.__version__,
    }
