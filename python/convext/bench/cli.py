"""Arguments of ``convext bench`` and ``convext bench compare``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from convext.bench import environment, report, shapes, timing
from convext.bench.compare import compare
from convext.bench.operands import DTYPES, LAYOUTS, PASSES
from convext.bench.runner import Failure, Grid, run_grid

# Wide enough for the table of cells where the output is a file.
PIPED_WIDTH = 200

# Above this many cores busy with other work, figures are not worth keeping.
NOISE_CORES = 0.1


def _names(known: dict[str, Any] | tuple[str, ...], what: str) -> Callable[[str], list[str]]:
    """An argparse type: a list separated by commas of names out of ``known``."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not a {what}: {', '.join(known)}")
        return names

    return parse


def _counts(text: str) -> list[int]:
    """An argparse type: a list separated by commas of positive integers."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers") from error
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: numbers must be positive")
    return values


def _words(text: str) -> list[str]:
    return text.split(",")


def _default_threads() -> list[int]:
    """One thread, and as many as torch takes by default."""
    return sorted({1, os.cpu_count() or 1})


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``bench`` to the subcommands of ``convext``; ``run`` is its ``args.run``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="time convext against torch in interleaved pairs",
        description=(
            "Time convext against torch (oneDNN) on the CPU: each cell is verified against "
            "float64, then both are timed in turn. Ratios are torch time / convext time: above 1, "
            "convext is quicker. Lists are separated by commas."
        ),
    )
    parser.add_argument(
        "--shapes",
        type=_words,
        default=["resnet50"],
        metavar="TABLES",
        help="shape tables: names of shipped ones or CSV files (default: resnet50)",
    )
    parser.add_argument(
        "--layers",
        type=_words,
        default=[],
        metavar="NAMES",
        help="only these layers; shell wildcards work (default: all)",
    )
    parser.add_argument(
        "--pass",
        dest="passes",
        type=_names(PASSES, "pass"),
        default=list(PASSES),
        metavar="PASSES",
        help=f"{', '.join(PASSES)}; the last is both gradients in one call (default: all)",
    )
    parser.add_argument(
        "--dtype",
        type=_names(DTYPES, "dtype"),
        default=["float32"],
        metavar="DTYPES",
        help=f"{', '.join(DTYPES)} (default: float32)",
    )
    parser.add_argument(
        "--layout",
        type=_names(LAYOUTS, "layout"),
        default=list(LAYOUTS),
        metavar="LAYOUTS",
        help=f"{', '.join(LAYOUTS)} (default: both)",
    )
    parser.add_argument(
        "--batch",
        type=_counts,
        default=[1, 16],
        metavar="SIZES",
        help="batch sizes (default: 1,16)",
    )
    parser.add_argument(
        "--threads",
        type=_counts,
        default=None,
        metavar="COUNTS",
        help="numbers of threads (default: 1 and all cores; with --quick, all cores)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="fewer pairs, forward and backward only, all cores: a first look in under two minutes",
    )
    parser.add_argument(
        "--malloc",
        choices=("warm", "default"),
        default="warm",
        help="warm: both sides reuse freed pages; default: what the C library does (default: warm)",
    )
    parser.add_argument(
        "--clock",
        choices=list(timing.CLOCKS),
        default="wall",
        help="cpu: CPU time, for one thread on a machine that is busy otherwise (default: wall)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the run to a JSON file")
    parser.add_argument("--cells", action="store_true", help="print every cell, not only the worst")
    parser.set_defaults(run=run, bench_command=None)

    commands = parser.add_subparsers(dest="bench_command", metavar="compare")
    comparison = commands.add_parser("compare", help="compare two JSON files of this command")
    comparison.add_argument("first", type=Path, metavar="A.json")
    comparison.add_argument("second", type=Path, metavar="B.json")
    return parser


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PIPED_WIDTH)
    return console


def _grid(args: argparse.Namespace) -> Grid:
    layers = [shape for name in args.shapes for shape in shapes.read_table(shapes.find_table(name))]
    threads = args.threads
    passes = args.passes
    if args.quick:
        threads = threads or [os.cpu_count() or 1]
        if passes == list(PASSES):
            passes = ["forward", "backward"]
    return Grid(
        shapes=shapes.select(layers, args.layers),
        dtypes=args.dtype,
        batches=args.batch,
        layouts=args.layout,
        threads=threads or _default_threads(),
        passes=passes,
        clock=args.clock,
    )


def run(args: argparse.Namespace) -> int:
    """Run ``convext bench``. Returns 0; 1 if a result was wrong; 2 if an argument was."""
    try:
        if args.bench_command == "compare":
            runs = [report.read_json(path) for path in (args.first, args.second)]
            return compare(runs[0], runs[1], _console())
        grid = _grid(args)
    except ValueError as error:
        print(f"convext bench: {error}", file=sys.stderr)
        return 2
    return _run_bench(args, grid)


def _run_bench(args: argparse.Namespace, grid: Grid) -> int:
    console = _console()
    effort = timing.QUICK if args.quick else timing.FULL
    described = environment.describe(environment.set_malloc(args.malloc), sys.argv[1:])
    watch = environment.LoadWatch.start()
    _print_environment(console, described, watch)

    cells: list[report.Cell] = []
    failures: list[Failure] = []
    complete = False
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    errors = Console(stderr=True)
    try:
        with Progress(*columns, console=errors, transient=True) as progress:
            task = progress.add_task("", total=len(grid))
            for result in run_grid(
                grid,
                effort,
                environment.cache_bytes(),
                lambda text: progress.update(task, description=text),
            ):
                if isinstance(result, Failure):
                    failures.append(result)
                    progress.console.print(f"wrong result: {result}", markup=False)
                    progress.advance(task, len(grid.passes))
                else:
                    cells.append(result)
                    progress.advance(task)
        complete = True
    except KeyboardInterrupt:
        console.print("interrupted: what follows is only part of the run")

    described["load"] = watch.as_dict()
    _print_results(console, args, grid, cells, failures, watch)
    if args.out:
        options = {
            "shapes": args.shapes,
            "quick": args.quick,
            "effort": vars(effort),
            "dtype": list(grid.dtypes),
            "batch": list(grid.batches),
            "layout": list(grid.layouts),
            "threads": list(grid.threads),
            "passes": list(grid.passes),
            "clock": grid.clock,
        }
        texts = [str(failure) for failure in failures]
        report.write_json(args.out, described, options, cells, texts, complete)
        console.print(f"written: {args.out}")
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
    grid: Grid,
    cells: list[report.Cell],
    failures: list[Failure],
    watch: environment.LoadWatch,
) -> None:
    if cells:
        few = len(cells) <= report.WORST
        if args.cells or few:
            console.print(report.cell_table(cells, "cells"))
        if not few:
            console.print(report.cell_table(report.worst_cells(cells), "worst cells"))
        console.print(report.summary_table(cells))
    for failure in failures:
        console.print(f"wrong result, not timed: {failure}", style="red", markup=False)
    others = watch.cores_of_others()
    if others is not None:
        noise = others > NOISE_CORES and grid.clock == "wall"
        quiet = ": these figures are noise" if noise else ""
        console.print(f"{others:.2f} cores were busy with other processes{quiet}")
