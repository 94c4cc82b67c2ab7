"""``convext info``: what was built, what this machine has, what can run."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

import convext
from convext import _C
from convext.explaining import usable_cores

from ._console import make_console, make_table


def add_parser(subparsers: Any) -> None:
    """Adds ``info`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "info",
        help="versions, what was built, CPU features, kernels that can run here",
        description="Versions, what was built, CPU features, threads, kernels that can run here.",
    )
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="list every kernel by name, and why those that cannot run here cannot",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext info``; always 0."""
    facts = describe()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    console = make_console()
    _print_facts(console, facts)
    if args.kernels:
        _print_kernels(console, facts["kernels"])
    else:
        _print_summary(console, facts)
    return 0


def describe() -> dict[str, Any]:
    """Everything ``convext info`` knows, fit for JSON."""
    build = _C.build_info()
    active = _C.active_isa()
    forced = os.environ.get("CONVEXT_CPU_ISA", "")
    reason = "forced by CONVEXT_CPU_ISA" if forced else "the best that was built and this CPU runs"
    return {
        "versions": {
            "convext": convext.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "compiler": build["compiler"],
        },
        "build": {
            "isas": build["isas"],
            "cuda": build["cuda"],
            "cuda_report": build.get("cuda_report", ""),
            "cuda_problem": convext._library.cuda_problem,
            "cxx_flags": build["cxx_flags"],
            "torch_target_version": build["torch_target_version"],
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cpu": _cpu_name(),
            "features": _C.cpu_features(),
            "cores": usable_cores(),
            "threads": torch.get_num_threads(),
            "torch_cuda": torch.version.cuda if torch.cuda.is_available() else None,
        },
        "isa": {"active": active, "reason": reason, "runnable": _C.isas()},
        "settings": {
            "forced_plan": convext.forced_plan(),
            "batch_invariant": convext.is_batch_invariant(),
            "workspace_limit": convext.workspace_limit(),
            "held_workspace": convext.held_workspace(),
        },
        "kernels": [dict(kernel) for kernel in _C.kernels()],
    }


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _print_facts(console: Console, facts: dict[str, Any]) -> None:
    versions, build, machine = facts["versions"], facts["build"], facts["machine"]
    present = [name for name, has in machine["features"].items() if has]
    missing = [name for name, has in machine["features"].items() if not has]
    features = " ".join(present) or "none of those convext asks for"
    if missing:
        features += f" (not: {' '.join(missing)})"
    lines = {
        "convext": versions["convext"],
        "torch": f"{versions['torch']} (built for the stable ABI of "
        f"{build['torch_target_version']} and newer)",
        "python": versions["python"],
        "compiler": versions["compiler"],
        "CPU kernels": f"built for {', '.join(build['isas'])}",
        "CUDA kernels": _cuda_line(facts),
        "machine": f"{machine['cpu']}, {machine['system']}",
        "CPU features": features,
        "threads": f"{machine['threads']} (torch.set_num_threads), {machine['cores']} cores usable",
        "runs now": f"{facts['isa']['active']}: {facts['isa']['reason']}",
    }
    limit, held = facts["settings"]["workspace_limit"], facts["settings"]["held_workspace"]
    lines["workspace"] = f"{'no limit' if limit is None else f'limit {limit} bytes'}, {held} held"
    if facts["settings"]["forced_plan"]:
        lines["forced plan"] = facts["settings"]["forced_plan"]
    for name, line in lines.items():
        style = "bold yellow" if name == "CUDA kernels" and not build["cuda"] else ""
        text = escape(line)
        console.print(f"[bold]{name:<13}[/bold] {f'[{style}]{text}[/{style}]' if style else text}")


def _cuda_line(facts: dict[str, Any]) -> str:
    if facts["build"]["cuda"]:
        problem: str = facts["build"]["cuda_problem"]
        return problem or str(facts["build"]["cuda_report"])
    # The build's own words are "not built (why)".
    report: str = facts["build"]["cuda_report"]
    line = report.replace("not built", "NOT BUILT")
    return line + "; tensors on a GPU go to PyTorch's own convolution"


def _print_summary(console: Console, facts: dict[str, Any]) -> None:
    """One line for each pass, algorithm and instruction set."""
    table = make_table("Kernels that can run here")
    for column in ("pass", "algorithm", "runs on", "register tile of each dtype"):
        table.add_column(column)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for kernel in facts["kernels"]:
        if kernel["runnable"]:
            # The name ends in the instruction set, or in "scalar" where any will do.
            arch = "scalar" if kernel["name"].endswith("_scalar") else kernel["arch"]
            key = (kernel["pass"], kernel["algorithm"], arch)
            groups.setdefault(key, []).append(f"{kernel['dtype']} {kernel['tile']}")
    for (pass_name, algorithm, arch), tiles in groups.items():
        # avx512_bf16 runs the kernels of avx512 too.
        active = arch in (facts["isa"]["active"], facts["isa"]["active"].removesuffix("_bf16"))
        sizes = {tile.split()[1] for tile in tiles}
        shown = ", ".join(tiles) if len(sizes) > 1 else ", ".join(t.split()[0] for t in tiles)
        table.add_row(pass_name, algorithm, f"{arch} *" if active else arch, shown)
    console.print()
    console.print(table)
    runnable = sum(kernel["runnable"] for kernel in facts["kernels"])
    console.print(
        f"* what runs now. {runnable} of {len(facts['kernels'])} kernels can run on this CPU; "
        "[bold]convext info --kernels[/bold] names each."
    )


def _print_kernels(console: Console, kernels: list[dict[str, Any]]) -> None:
    table = make_table("Kernels")
    table.add_column("kernel", no_wrap=True)
    table.add_column("runs here")
    for kernel in kernels:
        table.add_row(kernel["name"], "yes" if kernel["runnable"] else f"no: {kernel['reason']}")
    console.print()
    console.print(table)
