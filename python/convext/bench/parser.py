"""The command line of ``convext bench`` and its commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from convext.bench import accuracy, arguments, gpu, models


def bench_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add ``bench`` with its options and commands to the subcommands of ``convext``."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "bench",
        help="time convext against torch in interleaved pairs",
        description=(
            "Time convext against torch (oneDNN) on the CPU: each cell is verified against "
            "float64, then both are timed in turn. Ratios are torch time / convext time: above 1, "
            "convext is quicker. Lists are separated by commas. Without a command, layers are "
            "timed one by one."
        ),
    )
    arguments.add(parser)

    commands = parser.add_subparsers(
        dest="bench_command", metavar="{models,gpu,report,compare,model-fit,accuracy}"
    )
    whole = commands.add_parser(
        "models",
        help="time whole models before and after convext.convert",
        description=(
            "Time a training step (forward, loss, backward, SGD) of 8 images and inference of one, "
            "before and after convext.convert. Random weights; the results are compared first."
        ),
    )
    whole.add_argument(
        "--models",
        type=arguments.names(models.MODELS, "model"),
        default=list(models.MODELS),
        metavar="NAMES",
        help=f"{', '.join(models.MODELS)} (default: all)",
    )
    whole.add_argument(
        "--pass",
        dest="model_passes",
        type=arguments.names(models.PASSES, "pass of a model"),
        default=list(models.PASSES),
        metavar="PASSES",
        help=f"{', '.join(models.PASSES)} (default: both)",
    )
    shared: tuple[str, ...] = (
        *("--dtype", "--layout", "--batch", "--threads", "--batch-invariant", "--isa"),
        *("--quick", "--malloc", "--clock", "--out", "--report", "--before", "--cells"),
    )
    arguments.add(
        whole,
        *shared,
        nested=True,
        batch="batch sizes (default: 8 to train, with --quick 2; 1 to infer)",
        quick="fewer pairs and images, on all cores",
    )

    device = commands.add_parser(
        "gpu",
        help="time convext against cuDNN on a GPU",
        description=(
            "Time convext against torch (cuDNN, benchmark mode) on the GPU: each cell is verified "
            "against float64, then both are timed in turn, as CUDA graphs. tf32 stands for float32 "
            "tensors whose products may be rounded to TF32."
        ),
    )
    arguments.add(
        device,
        *("--shapes", "--layers", "--pass", "--layout", "--batch", "--quick"),
        *("--out", "--report", "--before", "--cells"),
        nested=True,
        batch="batch sizes of layers whose table gives none (default: 128; with --quick, 16)",
        quick="a first look: fewer pairs, bfloat16 alone",
    )
    device.add_argument(
        "--dtype",
        dest="gpu_dtypes",
        type=arguments.names(gpu.DTYPES, "dtype"),
        default=None,
        metavar="DTYPES",
        help=f"{', '.join(gpu.DTYPES)} (default: bfloat16, tf32, float32; with --quick, bfloat16)",
    )

    stored = commands.add_parser(
        "report",
        help="make the report of a stored run: HTML, Markdown, figures",
        description=(
            "Make the report of a run that --out stored, of layers, models or a GPU, without "
            "running anything: report.html, one file that needs no other; report.md with its "
            "figures as PNG files; and the run itself, run.json. Given an earlier run too, the "
            "report tells what changed. Needs matplotlib."
        ),
    )
    stored.add_argument("run_file", type=Path, metavar="RUN.json", help="the run")
    stored.add_argument(
        "before_file", type=Path, nargs="?", metavar="BEFORE.json", help="an earlier run"
    )
    stored.add_argument(
        "--out",
        dest="directory",
        type=Path,
        required=True,
        metavar="DIR",
        help="where the report is written; made if need be",
    )

    comparison = commands.add_parser("compare", help="compare two JSON files of this command")
    comparison.add_argument("first", type=Path, metavar="A.json")
    comparison.add_argument("second", type=Path, metavar="B.json")

    fitting = commands.add_parser(
        "model-fit", help="hold the cost model's predicted cycles against a run's measured times"
    )
    fitting.add_argument("run_file", type=Path, metavar="RUN.json")

    errors = commands.add_parser(
        "accuracy",
        help="largest errors of both in float32, against float64",
        description=(
            "Largest error of torch's and of convext's float32 results against float64, relative "
            "to the largest element, for each layer, pass, batch size and layout. Exit code 1 "
            "where convext breaks the rule: " + accuracy.RULE
        ),
    )
    arguments.add(errors, "--shapes", "--layers", "--layout", "--isa", "--out", nested=True)
    errors.add_argument(
        "--batch",
        type=arguments.counts,
        default=argparse.SUPPRESS,
        metavar="SIZES",
        help="batch sizes; of a layer's, those whose forward pass is short (default: 1,16)",
    )
    errors.add_argument(
        "--markdown", type=Path, metavar="FILE", help="renew the tables between a page's markers"
    )
    return parser
