"""What the tests of the benchmark share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convext.bench import cli, report, timing
from convext.bench.shapes import ConvShape

TINY = ConvShape("tiny", 4, 9, 7, 6, 3, 2, (2, 1), (1, 0), (1, 2), 2)
TINY_CSV = """\
# comment
name,C,H,W,K,R,S,stride,padding,dilation,groups
tiny,4,9,7,6,3,2,2x1,1x0,1x2,2
plain,4,6,6,4,3,3,1,1,1,1
"""
EFFORT = timing.Effort(budget_s=0.0, min_pairs=4, max_pairs=4)


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
PEAKS = {"float32_gflops": 64.0, "float64_gflops": 32.0, "copy_gbytes": 16.0}


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="convext")
    cli.add_parser(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


def bench(*words: str) -> int:
    """`convext bench` with the given arguments."""
    args = parse(*words)
    return int(args.run(args))


def cell(pass_: str, ratio: float, **key: Any) -> report.Cell:
    spread = {"median": ratio, "q1": ratio, "q3": ratio, "min": ratio, "max": ratio}
    named = {"layer": "tiny", "dtype": "float32", "batch": 1, "layout": "contiguous", "threads": 1}
    return {
        "plans": [],
        **{**named, **key},
        "pass": pass_,
        "ratio": spread,
        "torch_ms": {**spread},
        "convext_ms": {**spread, "median": 1.0},
    }


def measured(run_path: Path, cells: list[report.Cell], **environment: Any) -> Path:
    """A run's file with the tiny layer in it."""
    described = {"peaks": {"1": PEAKS}, "date": run_path.stem, **environment}
    report.write_json(run_path, described, {"clock": "wall"}, cells, [], True, [TINY])
    return run_path
