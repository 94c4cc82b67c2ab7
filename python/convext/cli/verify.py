"""``convext verify``: the kernels of this build, on this machine, against float64."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import convext
from convext import _C, _library
from convext.testing import (
    COMPLEX_DTYPES,
    FLOATING_DTYPES,
    INTEGER_DTYPES,
    NATIVE_PASSES,
    PASSES,
    Problem,
    check,
    edge_problems,
    force_for,
    problems_around,
    random_problems,
    thinned,
)

from ._console import make_console, make_table

DTYPES = {
    str(d).removeprefix("torch."): d for d in FLOATING_DTYPES + COMPLEX_DTYPES + INTEGER_DTYPES
}
PYTHON_PASSES = {native: name for name, native in NATIVE_PASSES.items()}
SHOWN_FAILURES = 3

Kernel = Mapping[str, Any]
"""A row of the kernel table."""


@dataclasses.dataclass(frozen=True)
class Effort:
    """How many problems of each kind: at the edges, at random, around each kernel's tile. Complex
    and integer dtypes, which have no kernels of their own, get a quarter."""

    edges: int
    random: int
    around: int


QUICK = Effort(edges=40, random=20, around=6)
FULL = Effort(edges=160, random=200, around=40)


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem, its passes, the kernel that has to run them (if any), and the threads."""

    problem: Problem
    passes: tuple[str, ...]
    force: str = ""
    threads: int = 1


@dataclasses.dataclass
class Cell:
    """One dtype and pass: how many problems ran, how many failed, the worst error over its bound,
    which kernels ran."""

    problems: int = 0
    failed: int = 0
    ratio: float = 0.0
    kernels: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass
class Outcome:
    """What came out of all tasks."""

    cells: dict[tuple[torch.dtype, str], Cell] = dataclasses.field(default_factory=dict)
    failures: list[str] = dataclasses.field(default_factory=list)


def add_parser(subparsers: Any) -> None:
    """Adds ``verify`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "verify",
        help="check the kernels on this machine against float64",
        description=(
            "Runs generated problems through every pass and every kernel that this machine can "
            "run, and compares with PyTorch's convolution in float64. Exit code 1, and Python that "
            "shows it, if a result is wrong or a kernel was not reached."
        ),
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to run (default: cpu)"
    )
    parser.add_argument(
        "--dtype",
        action="append",
        choices=tuple(DTYPES),
        metavar="DTYPE",
        help=f"only this dtype; may be given several times ({', '.join(DTYPES)})",
    )
    parser.add_argument("--quick", action="store_true", help="fewer problems: a first look")
    parser.add_argument("--seed", type=int, default=0, help="of the problems and data (default: 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext verify``: 0 if everything is right, 1 if not, 2 if it cannot run."""
    console = make_console()
    if args.device == "cuda" and not _C.build_info()["cuda"]:
        console.print(
            "convext verify: this build has no CUDA kernels, so there is nothing to verify on a "
            "GPU: there, convext calls PyTorch's own convolution."
        )
        return 2
    if args.device == "cuda" and (problem := _cuda_problem()):
        console.print(f"convext verify: {problem}", markup=False)
        return 2
    dtypes = [DTYPES[name] for name in args.dtype] if args.dtype else list(DTYPES.values())
    if args.device == "cuda":  # neither PyTorch nor convext convolves integers there
        dtypes = [dtype for dtype in dtypes if dtype not in INTEGER_DTYPES]
    tasks = make_tasks(dtypes, QUICK if args.quick else FULL, args.seed, args.device)
    where = f"{_C.active_isa()} kernels, {torch.get_num_threads()} threads"
    if args.device == "cuda":
        where = torch.cuda.get_device_name()
    console.print(
        f"{len(tasks)} problems against float64: convext {convext.__version__}, "
        f"torch {torch.__version__}, {where}"
    )
    if convext.forced_plan():
        console.print(f"The plan is forced: {convext.forced_plan()}", markup=False)
    start = time.perf_counter()
    with _exact_float32():
        outcome = run_tasks(tasks)
    kernels = _kernels(dtypes, args.device)
    return _report(console, outcome, dtypes, kernels, time.perf_counter() - start)


@contextlib.contextmanager
def _exact_float32() -> Iterator[None]:
    """No TF32 on CUDA but in kernels that are forced."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.conv.fp32_precision
    cudnn.conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        cudnn.conv.fp32_precision = before


def _cuda_problem() -> str:
    """Why nothing can run on a GPU; empty if it can."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return f"CUDA kernels: {_library.cuda_problem}" if not _C.cuda_loaded() else ""


def make_tasks(
    dtypes: list[torch.dtype], effort: Effort, seed: int, device: str = "cpu"
) -> list[Task]:
    """Problems for each dtype as the plan would run them, then for each kernel, forced.

    Every fourth runs on all threads: small problems wait longer for threads than they take, and
    on a busy machine very much longer.
    """
    tasks = []
    for dtype in dtypes:
        share = 1 if dtype in FLOATING_DTYPES else 4
        problems = thinned(edge_problems(dtype, seed=seed), effort.edges // share)
        problems += random_problems(effort.random // share, dtype, seed=seed)
        tasks += [Task(problem, problem.passes) for problem in problems]
    for kernel in _kernels(dtypes, device):
        pass_name, force = _forced(kernel)
        problems = [p for p in problems_around(kernel, seed=seed) if _takes(kernel, p)]
        if kernel.get("rounds_to_tf32"):  # small integers survive it
            problems = [p.replace(values="integer") for p in problems]
        tasks += [Task(p, (pass_name,), force) for p in thinned(problems, effort.around)]
    threads = torch.get_num_threads()
    return [
        dataclasses.replace(
            task,
            problem=task.problem.replace(device=device),
            threads=1 if place % 4 else threads,
        )
        for place, task in enumerate(tasks)
    ]


def run_tasks(tasks: list[Task]) -> Outcome:
    """Runs them all, with a progress bar in a terminal."""
    outcome = Outcome()
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[now]}"),
    )
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        bar = progress.add_task("", total=len(tasks), now="")
        for task in tasks:
            progress.update(bar, now=task.force.split("=")[-1] or str(task.problem.dtype))
            _run_task(task, outcome)
            progress.advance(bar)
    return outcome


def _run_task(task: Task, outcome: Outcome) -> None:
    problem = task.problem
    _C.reset_kernel_runs()
    failures = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        report = check(problem, task.passes, force=task.force)
    except Exception as error:
        # torch takes the problem, so whatever convext raises is a failure of convext.
        failures = {name: f"{type(error).__name__}: {error}" for name in task.passes}
    else:
        failures = {name: c.message for name, c in report.items() if not c.ok}
    finally:
        torch.set_num_threads(threads)
    ran = {name for name, times in _C.kernel_runs().items() if times}
    for name in task.passes:
        cell = outcome.cells.setdefault((problem.dtype, name), Cell())
        cell.problems += 1
        # A kernel that ran on the way to another pass was not checked.
        cell.kernels |= {kernel for kernel in ran if kernel.startswith(NATIVE_PASSES[name] + "_")}
        if name in failures:
            cell.failed += 1
            outcome.failures.append(
                f"{name} of {problem}\n{failures[name]}\n\n"
                f"# CONVEXT_CPU_ISA={_C.active_isa()} OMP_NUM_THREADS={task.threads}\n"
                f"{problem.snippet([name], task.force)}"
            )
        else:
            cell.ratio = max(cell.ratio, report[name].ratio)


def _kernels(dtypes: list[torch.dtype], device: str) -> list[Kernel]:
    """The kernels that have to be reached: all that this machine can run, whatever it would choose;
    or, where CONVEXT_CPU_ISA names an instruction set, those of that one."""
    if device == "cuda":
        capability = _capability()
        return [
            kernel
            for kernel in _C.cuda_kernels()
            if kernel["least_capability"] <= capability <= (kernel["most_capability"] or capability)
            and getattr(torch, kernel["dtype"]) in dtypes
        ]
    kernels = [k for k in _C.kernels() if k["runnable"] and getattr(torch, k["dtype"]) in dtypes]
    if os.environ.get("CONVEXT_CPU_ISA"):
        # Plain loops, the same in every instruction set, are called scalar.
        suffixes = (f"_{_C.active_isa()}", "_scalar")
        kernels = [k for k in kernels if k["name"].endswith(suffixes)]
    return [dict(kernel) for kernel in kernels]


def _capability() -> int:
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


def _is_cuda(kernel: Kernel) -> bool:
    return "least_capability" in kernel


def _forced(kernel: Kernel) -> tuple[str, str]:
    """The pass of a kernel, and what forces the kernel in it."""
    pass_name = PYTHON_PASSES[kernel["pass"]]
    force = force_for(pass_name, kernel["name"])
    return pass_name, f"cuda:{force}" if _is_cuda(kernel) else force


def _takes(kernel: Kernel, problem: Problem) -> bool:
    """Whether a kernel can run a problem; its own rule decides."""
    pass_name, force = _forced(kernel)
    if pass_name not in problem.passes:
        return False
    try:
        if _is_cuda(kernel):
            properties = torch.cuda.get_device_properties()
            _C.cuda_plan(
                problem.native(),
                kernel["pass"],
                _capability(),
                properties.multi_processor_count,
                force=kernel["name"],
            )
        else:
            _C.plan(problem.native(), kernel["pass"], force=force)
    except RuntimeError:
        return False
    return True


def _report(
    console: Console,
    outcome: Outcome,
    dtypes: list[torch.dtype],
    kernels: list[Kernel],
    seconds: float,
) -> int:
    table = make_table()
    for column in ("dtype", "pass"):
        table.add_column(column, no_wrap=True)
    table.add_column("problems", justify="right")
    table.add_column("error / bound", justify="right")
    table.add_column("kernels that ran")
    table.add_column("")
    for dtype in dtypes:
        cells = [(name, outcome.cells.get((dtype, name))) for name in PASSES]
        for place, (name, cell) in enumerate((name, cell) for name, cell in cells if cell):
            table.add_row(
                "" if place else str(dtype).removeprefix("torch."),
                name,
                str(cell.problems),
                "exact" if dtype in INTEGER_DTYPES else f"{cell.ratio:.2f}",
                _algorithms(cell.kernels, kernels),
                f"[bold red]{cell.failed} WRONG[/]" if cell.failed else "[green]ok[/]",
            )
        table.add_section()
    console.print(table)
    console.print(
        "error / bound: the largest error as a fraction of what rounding allows; above 1 is wrong",
        style="dim",
    )
    for failure in outcome.failures[:SHOWN_FAILURES]:
        console.rule("wrong", style="red", align="left")
        console.print(failure, markup=False, soft_wrap=True)
    reached = set().union(*(cell.kernels for cell in outcome.cells.values()))
    missed = [kernel["name"] for kernel in kernels if kernel["name"] not in reached]
    coverage = f"{len(kernels) - len(missed)} of {len(kernels)} kernels that can run here were run"
    if missed:
        console.rule("not reached", style="red", align="left")
        console.print("No problem ran " + ", ".join(missed), markup=False)
    if outcome.failures or missed:
        console.print(
            f"[bold red]FAILED[/]: {len(outcome.failures)} results are wrong; {coverage} "
            f"({seconds:.0f} s)"
        )
        return 1
    console.print(f"[bold green]All results are right[/]; {coverage} ({seconds:.0f} s).")
    return 0


def _algorithms(names: set[str], kernels: list[Kernel]) -> str:
    """How many kernels ran, and their algorithms: "3: indirect, reference"."""
    rows = [*_C.kernels(), *kernels]
    algorithms = {kernel["algorithm"] for kernel in rows if kernel["name"] in names}
    return f"{len(names)}: " + ", ".join(sorted(algorithms))
