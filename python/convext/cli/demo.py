"""``convext demo``: the same training with ``nn.Conv2d`` and with ``ConvExt2d``, side by side."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from rich.console import Console

import convext
from convext.testing import one_thread
from convext.tracing import ModelTrace

from . import digits
from ._console import make_console
from ._show import epoch_table, layer_table, print_prediction

EPOCHS = 5
SEED = 0
SLACK = 16.0
"""How much further from the control than nn.Conv2d a ConvExt2d may be. Two right convolutions that
add in different orders were seen up to 2 times as far from it as each other."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How far the runs are apart, each the largest difference of the loss over all steps.

    ``torch32`` and ``convext32`` are float32 runs against the float64 control, ``pair32`` float32
    against each other, ``pair64`` the two float64 runs. ``limit32`` and ``limit64`` are what
    ``convext32`` and ``pair64`` may be. ``problem`` says what is wrong, or is empty.
    """

    torch32: float
    convext32: float
    pair32: float
    pair64: float
    limit32: float
    limit64: float
    problem: str


def add_parser(subparsers: Any) -> None:
    """Adds ``demo`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "demo",
        help="train a small CNN with nn.Conv2d and with ConvExt2d and compare",
        description=(
            "Trains a small CNN on scikit-learn's handwritten digits from the same seed, once with "
            "nn.Conv2d and once with ConvExt2d, in float32 and, as a control, in float64. Exit "
            "code 1 if the runs part ways."
        ),
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"of weights and batches (default: {SEED})"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext demo``: 0 if the two runs agree, 1 if they part ways."""
    console = make_console()
    data = digits.load(args.seed)
    model = digits.make_model(args.seed, torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"[bold]A CNN of {parameters:,} parameters on {len(data.labels):,} handwritten digits[/], "
        f"{EPOCHS} epochs, one thread, tested on {len(data.test_labels)} others"
    )
    # Images of 8x8 pixels are too small to share.
    with one_thread(), console.status("training") as status:
        runs = {}
        for dtype in (torch.float32, torch.float64):
            for name in ("nn.Conv2d", "ConvExt2d"):
                status.update(f"training with {name} in {dtype}")
                model = digits.make_model(args.seed, dtype)
                if name == "ConvExt2d":
                    model = convext.convert(model)
                runs[name, dtype] = digits.train(model, data, EPOCHS, args.seed)
    reference, ours = runs["nn.Conv2d", torch.float32], runs["ConvExt2d", torch.float32]
    verdict = judge(
        reference,
        ours,
        control=runs["nn.Conv2d", torch.float64],
        ours64=runs["ConvExt2d", torch.float64],
    )
    runs32 = {"nn.Conv2d": reference, "ConvExt2d": ours}
    console.print(epoch_table(runs32, console.width))
    console.print(
        f"Time: nn.Conv2d {reference.seconds:.2f} s, ConvExt2d {ours.seconds:.2f} s "
        "(mostly the overhead of calls in so small a network; convext bench times the kernels)."
    )
    image = data.test_images[:1].float()
    models = {name: training.model for name, training in runs32.items()}
    print_prediction(console, models, image, int(data.test_labels[0]))
    console.print(layer_table(ModelTrace.run(ours.model, image), convolutions=True))
    return _print_verdict(console, verdict)


def judge(
    reference: digits.Training,
    ours: digits.Training,
    *,
    control: digits.Training,
    ours64: digits.Training,
) -> Verdict:
    """Whether two trainings differ by more than rounding.

    How far rounding alone carries this training is measured: nn.Conv2d in float32 differs from
    nn.Conv2d in float64 (the control) by nothing else. A right ConvExt2d differs from the control
    by about as much, and in float64 by as much less as float64 is finer.

    Args:
        reference: nn.Conv2d in float32.
        ours: ConvExt2d in float32.
        control: nn.Conv2d in float64.
        ours64: ConvExt2d in float64.
    """
    rounding = _distance(reference, control)
    limit32 = SLACK * max(rounding, torch.finfo(torch.float32).eps)
    limit64 = limit32 * torch.finfo(torch.float64).eps / torch.finfo(torch.float32).eps
    convext32, pair64 = _distance(ours, control), _distance(ours64, control)
    problem = ""
    if not convext32 <= limit32:
        problem = (
            f"in float32 the loss with ConvExt2d strays {convext32:.1e} from the float64 control, "
            f"with nn.Conv2d {rounding:.1e}; up to {limit32:.1e} would be rounding"
        )
    elif not pair64 <= limit64:
        problem = (
            f"in float64 the losses with nn.Conv2d and ConvExt2d differ by {pair64:.1e}; up to "
            f"{limit64:.1e} would be rounding"
        )
    return Verdict(
        rounding, convext32, _distance(ours, reference), pair64, limit32, limit64, problem
    )


def _distance(a: digits.Training, b: digits.Training) -> float:
    """The largest difference of the loss over all steps; NaN if any is."""
    steps = torch.tensor([a.steps, b.steps], dtype=torch.float64)
    return float((steps[0] - steps[1]).abs().max())


def _print_verdict(console: Console, verdict: Verdict) -> int:
    console.print(
        f"Largest deviation of the loss over all steps: nn.Conv2d and ConvExt2d in float32 "
        f"{verdict.pair32:.1e}, in float64 {verdict.pair64:.1e}.\n"
        f"From the float64 control, in float32: nn.Conv2d {verdict.torch32:.1e}, ConvExt2d "
        f"{verdict.convext32:.1e} (limit {verdict.limit32:.1e})."
    )
    if verdict.problem:
        console.print(f"[bold red]The two runs part ways[/]: {verdict.problem}.")
        return 1
    console.print("[bold green]The two runs agree[/]: they differ by rounding alone.")
    return 0
