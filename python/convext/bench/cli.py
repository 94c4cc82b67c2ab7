"""``convext bench`` and its commands: what is run, shown, and written."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from convext.bench import (
    accuracy,
    arguments,
    environment,
    gpu,
    models,
    peaks,
    report,
    shapes,
    timing,
)
from convext.bench.compare import compare
from convext.bench.fit import fit
from convext.bench.operands import PASSES
from convext.bench.pages import files
from convext.bench.parser import bench_parser
from convext.bench.runner import Failure, Grid, run_grid
from convext.cli._console import make_console

# Where the output is a file. The table of cells leaves to a report what does not fit.
PIPED_WIDTH = 160

QUICK_PASSES = ["forward", "backward"]


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``bench`` to the subcommands of ``convext``; ``run`` is its ``args.run``."""
    parser = bench_parser(subparsers)
    parser.set_defaults(run=run, bench_command=None)
    return parser


def _layers(args: argparse.Namespace) -> list[shapes.ConvShape]:
    return shapes.select(shapes.read_tables(args.shapes), args.layers)


def _grid(args: argparse.Namespace) -> Grid:
    grid = Grid(
        shapes=_layers(args),
        dtypes=args.dtype,
        batches=args.batch or ([1] if args.quick else [1, 16]),
        layouts=args.layout,
        threads=args.threads or arguments.default_threads(args.quick),
        passes=args.passes or (QUICK_PASSES if args.quick else list(PASSES)),
        padding_modes=args.padding_mode,
        clock=args.clock,
        batch_invariant=args.batch_invariant,
        quick=args.quick,
    )
    if not len(grid):
        raise ValueError(f"--padding-mode {','.join(args.padding_mode)}: no layer has that padding")
    return grid


def _model_grid(args: argparse.Namespace) -> models.ModelGrid:
    return models.ModelGrid(
        models=args.models,
        dtypes=args.dtype,
        batches=args.batch,
        layouts=args.layout,
        threads=args.threads or arguments.default_threads(args.quick),
        passes=args.model_passes,
        clock=args.clock,
        batch_invariant=args.batch_invariant,
        quick=args.quick,
    )


def run(args: argparse.Namespace) -> int:
    """Run ``convext bench``. Returns 0; 1 if a result was wrong; 2 if an argument was."""
    try:
        return _run(args)
    except ValueError as error:
        print(f"convext bench: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    if args.out:
        report.check_writable(args.out)
    _check_report(args)
    if args.isa:
        environment.enter_isa(args.isa, _arguments(args))
    console = make_console(PIPED_WIDTH)
    if args.bench_command == "report":
        return _run_report(args, console)
    if args.bench_command == "compare":
        runs = [report.read_json(path) for path in (args.first, args.second)]
        return compare(runs[0], runs[1], console)
    if args.bench_command == "model-fit":
        return fit(report.read_json(args.run_file), console)
    if args.bench_command == "accuracy":
        return _run_accuracy(args, console)
    if args.bench_command == "models":
        return _run_models(args, console)
    if args.bench_command == "gpu":
        return _run_gpu(args, console)
    return _run_layers(args, console)


def _check_report(args: argparse.Namespace) -> None:
    """Find out before a run, not after it, whether the report that is asked for can be made.

    Raises:
        ValueError: it cannot.
    """
    if args.report and args.bench_command not in (None, "models", "gpu"):
        raise ValueError(f"--report: {args.bench_command} runs nothing that it could report")
    if args.before and not args.report:
        raise ValueError("--before: needs --report DIR")
    if args.before:
        report.read_json(args.before)
    if args.report:
        files.check("--report", args.report)


def _write_report(
    option: str,
    directory: Path,
    run: files.Stored,
    before: files.Stored | None,
    console: Console,
) -> None:
    written = files.write(option, directory, run, before)
    figures = sum(name.endswith(".png") for name in written)
    pages = ", ".join(name for name in written if not name.endswith(".png"))
    count = f"{figures} figure{'' if figures == 1 else 's'}"
    console.print(f"written: {directory} ({pages}, {count})", soft_wrap=True)


def _run_report(args: argparse.Namespace, console: Console) -> int:
    run = files.Stored.read(args.run_file)
    before = files.Stored.read(args.before_file) if args.before_file else None
    files.check("--out", args.directory)
    _write_report("--out", args.directory, run, before, console)
    return 0


def _arguments(args: argparse.Namespace) -> list[str]:
    """The command line after ``convext``."""
    found: list[str] = getattr(args, "arguments", sys.argv[1:])
    return found


def _describe(args: argparse.Namespace) -> dict[str, Any]:
    return environment.describe(environment.set_malloc(args.malloc), _arguments(args))


def _run_layers(args: argparse.Namespace, console: Console) -> int:
    grid = _grid(args)
    described = _describe(args)
    watch = environment.LoadWatch.start()
    _print_environment(console, described, watch)
    cache_bytes = environment.cache_bytes()
    roofs = peaks.measure(grid.threads, cache_bytes)
    described["peaks"] = {str(threads): found for threads, found in roofs.items()}
    for threads, found in roofs.items():
        console.print(
            f"peaks of {threads} threads: {found['float32_gflops']:.0f} GF/s float32, "
            f"{found['float64_gflops']:.0f} GF/s float64, copy {found['copy_gbytes']:.1f} GB/s"
        )
    options = {
        **_options(args, grid),
        "shapes": [environment.without_directories(name) for name in args.shapes],
        "padding_mode": list(grid.padding_modes),
        "effort": {d: vars(timing.effort_for(d, grid.quick)) for d in grid.dtypes},
    }

    def cells(on_start: Callable[[str], None]) -> Iterable[report.Cell | Failure]:
        return run_grid(grid, cache_bytes, roofs, on_start)

    per_failure = len(grid.passes)
    return _run_cells(
        args, console, cells, len(grid), per_failure, described, options, watch, grid.shapes
    )


def _run_models(args: argparse.Namespace, console: Console) -> int:
    grid = _model_grid(args)
    described = _describe(args)
    watch = environment.LoadWatch.start()
    _print_environment(console, described, watch)
    options = {
        **_options(args, grid),
        "models": list(grid.models),
        "effort": vars(models.QUICK if grid.quick else models.FULL),
    }

    def cells(on_start: Callable[[str], None]) -> Iterable[report.Cell | Failure]:
        return models.run_models(grid, on_start)

    return _run_cells(args, console, cells, len(grid), 1, described, options, watch, ())


def _run_gpu(args: argparse.Namespace, console: Console) -> int:
    gpu.check_available()
    grid = Grid(
        shapes=_layers(args),
        dtypes=args.gpu_dtypes or (["bfloat16"] if args.quick else ["bfloat16", "tf32", "float32"]),
        batches=args.batch or ([16] if args.quick else [128]),
        layouts=args.layout,
        threads=[1],
        passes=args.passes or ["forward", "input_grad", "weight_grad"],
        quick=args.quick,
    )
    described = environment.describe("not chosen", _arguments(args))
    described["gpu"] = gpu.describe()
    watch = environment.LoadWatch.start()
    device, version = described["gpu"], described["torch"]["version"]
    console.print(
        f"{device['name']}, CUDA {device['cuda']}, cuDNN {device['cudnn']}; torch {version}; "
        f"convext {described['convext']['version']}"
    )
    roofs = {dtype: gpu.measure_peaks(dtype) for dtype in grid.dtypes}
    described["peaks"] = roofs
    for dtype, found in roofs.items():
        console.print(
            f"peaks of {dtype}: {found['matmul_tflops']:.0f} TFLOP/s in a matrix product, copy "
            f"{found['copy_gbytes']:.0f} GB/s"
        )
    effort = gpu.QUICK if grid.quick else gpu.FULL
    options = {
        **_options(args, grid),
        "shapes": [environment.without_directories(name) for name in args.shapes],
        "effort": vars(effort),
    }

    def cells(on_start: Callable[[str], None]) -> Iterable[report.Cell | Failure]:
        return gpu.run_grid(grid, roofs, on_start)

    per_failure = len(grid.passes)
    return _run_cells(
        args, console, cells, len(grid), per_failure, described, options, watch, grid.shapes
    )


def _options(args: argparse.Namespace, grid: Grid | models.ModelGrid) -> dict[str, Any]:
    return {
        "quick": args.quick,
        "dtype": list(grid.dtypes),
        "batch": list(grid.batches or ()),
        "layout": list(grid.layouts),
        "threads": list(grid.threads),
        "passes": list(grid.passes),
        "clock": grid.clock,
        "batch_invariant": grid.batch_invariant,
        "isa": args.isa,
    }


def _progress() -> Progress:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM (of ``timeout``, say) is taken like Ctrl-C: what was measured is kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run_cells(
    args: argparse.Namespace,
    console: Console,
    run_cells: Callable[[Callable[[str], None]], Iterable[report.Cell | Failure]],
    total: int,
    per_failure: int,
    described: dict[str, Any],
    options: dict[str, Any],
    watch: environment.LoadWatch,
    layers: Sequence[shapes.ConvShape],
) -> int:
    """Run cells behind a progress bar, then print and write what came out."""
    # Read now: it may be the file that this run's report replaces.
    before = files.Stored.read(args.before) if args.before else None
    cells: list[report.Cell] = []
    failures: list[Failure] = []
    complete = False
    try:
        with _ended_by_sigterm(), _progress() as progress:
            task = progress.add_task("", total=total)
            for result in run_cells(lambda text: progress.update(task, description=text)):
                if isinstance(result, Failure):
                    failures.append(result)
                    progress.console.print(f"wrong result: {result}", markup=False)
                    progress.advance(task, per_failure)
                else:
                    cells.append(result)
                    progress.advance(task)
        complete = True
    except KeyboardInterrupt:
        console.print("interrupted: what follows is only part of the run")

    described["load"] = watch.as_dict()
    _print_results(console, args, cells, failures, watch)
    texts = [str(failure) for failure in failures]
    for path in (args.out, args.report and args.report / files.RUN):
        if path:
            report.write_json(path, described, options, cells, texts, complete, layers)
    if args.out:
        console.print(f"written: {args.out}", soft_wrap=True)
    if args.report:
        run = files.Stored.read(args.report / files.RUN)
        _write_report("--report", args.report, run, before, console)
    return 0 if complete and not failures else 1


def _print_environment(
    console: Console, described: dict[str, Any], watch: environment.LoadWatch
) -> None:
    machine, torch_, own = described["cpu"], described["torch"], described["convext"]
    onednn = f"oneDNN {torch_['onednn']}" if torch_["mkldnn_enabled"] else "oneDNN off"
    console.print(
        f"{machine['model']} ({machine['family']}), {machine['logical_cores']} cores; "
        f"torch {torch_['version']}, {onednn}, {torch_['cpu_capability']}; "
        f"convext {own['version']}, {own['isa']}; malloc {described['malloc']}; "
        f"load average {watch.load_at_start:.2f}"
    )


def _print_results(
    console: Console,
    args: argparse.Namespace,
    cells: list[report.Cell],
    failures: list[Failure],
    watch: environment.LoadWatch,
) -> None:
    def cell_table(chosen: list[report.Cell], title: str) -> Table:
        if args.bench_command == "gpu":
            return report.gpu_cell_table(chosen, title)
        return report.cell_table(chosen, title, console.width)

    others = watch.cores_of_others()
    noise = others is not None and others > environment.NOISE_CORES and args.clock == "wall"
    load = "" if others is None else f"{others:.2f} cores were busy with other processes"
    if noise:  # before the figures, and again behind them, where a long run ends
        console.print(f"[bold yellow]{load}: these figures are noise[/]")
    if cells:
        few = len(cells) <= report.WORST
        if args.cells or few:
            console.print(cell_table(cells, "cells"))
        if not few:
            console.print(cell_table(report.worst_cells(cells), "worst cells"))
        for table in (report.table_summary(cells), report.cost_table(cells)):
            if table is not None:
                console.print(table)
        console.print(report.summary_table(cells))
    for failure in failures:
        console.print(f"wrong result, not timed: {failure}", style="red", markup=False)
    if load:
        console.print(load + (": these figures are noise" if noise else ""))


def _run_accuracy(args: argparse.Namespace, console: Console) -> int:
    layers = _layers(args)
    batches = args.batch or [1, 16]
    if args.markdown:
        accuracy.check_markers(args.markdown)
    described = _describe(args)
    cells: list[report.Cell] = []
    with _progress() as progress:
        task = progress.add_task("", total=len(layers))
        for shape in layers:
            progress.update(task, description=shape.name)
            found = accuracy.errors_of(shape, batches, args.layout)
            accuracy.report_broken(found, console)
            cells += found
            if args.out:
                accuracy.write_json(args.out, cells, described)
            progress.advance(task)
    return accuracy.conclude(cells, described, console, args.out, args.markdown)
