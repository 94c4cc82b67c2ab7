"""``convext demo``: the same training with ``nn.Conv2d`` and with ``ConvExt2d``, side by side."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import convext
from convext.testing import one_thread

from . import digits
from ._console import make_console, make_table

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
    _print_epochs(console, reference, ours)
    _print_prediction(console, reference.model, ours.model, data)
    _print_trace(console, ours.model, data.test_images[:1].float())
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


def _print_epochs(console: Console, reference: digits.Training, ours: digits.Training) -> None:
    width = 12 if console.width >= 100 else 5
    table = make_table()
    table.add_column("epoch", justify="right", no_wrap=True)
    for name in ("nn.Conv2d", "ConvExt2d"):
        table.add_column(f"{name}: loss", no_wrap=width > 5)
        table.add_column("accuracy", no_wrap=True)
    table.add_column("difference", justify="right", no_wrap=True)
    tallest = max(*reference.losses, *ours.losses)
    for epoch in range(len(ours.losses)):
        row = [str(epoch + 1)]
        for training in (reference, ours):
            loss, accuracy = training.losses[epoch], training.accuracies[epoch]
            row.append(f"{loss:.4f} [red]{_bar(loss / tallest, width)}[/]")
            row.append(f"{accuracy:7.2%} [green]{_bar(accuracy, width)}[/]")
        table.add_row(*row, f"{abs(reference.losses[epoch] - ours.losses[epoch]):.1e}")
    console.print(table)
    console.print(
        f"Time: nn.Conv2d {reference.seconds:.2f} s, ConvExt2d {ours.seconds:.2f} s "
        "(mostly the overhead of calls in so small a network; convext bench times the kernels)."
    )


def _bar(share: float, width: int) -> str:
    """A bar of up to ``width`` characters, drawn in eighths of one; nothing for NaN."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8) if share == share else 0
    whole, part = divmod(eighths, 8)
    parts = ("", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589")
    return ("\u2588" * whole + parts[part]).ljust(width)


def _print_prediction(
    console: Console, reference: nn.Module, ours: nn.Module, data: digits.Digits
) -> None:
    image = data.test_images[:1].float()
    console.print(f"\n[bold]One prediction[/], of a test image labelled {data.test_labels[0]}:")
    low, high = image.min(), image.max()
    for row in ((image[0, 0] - low) / (high - low) * 4).round().int().tolist():
        console.print("    " + "".join(" \u2591\u2592\u2593\u2588"[shade] * 2 for shade in row))
    with torch.no_grad():
        for name, model in (("nn.Conv2d", reference), ("ConvExt2d", ours)):
            shares = model(image)[0].softmax(0)
            console.print(f"    {name} sees a {int(shares.argmax())} ({float(shares.max()):.4%})")


def _print_trace(console: Console, model: nn.Module, image: Tensor) -> None:
    """What every convolution did with the image, and the kernel that did it."""
    table = make_table()
    for column in ("layer", "input", "padded", "kernel", "output"):
        table.add_column(column, no_wrap=True)
    table.add_column("planned forward", overflow="fold")

    def trace(name: str) -> Any:
        def hook(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
            table.add_row(name, *_trace_row(layer, inputs[0], output))

        return hook

    handles = [
        layer.register_forward_hook(trace(name))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    console.print(table)


def _trace_row(layer: nn.Conv2d, input: Tensor, output: Tensor) -> list[str]:
    left, right, top, bottom = layer._reversed_padding_repeated_twice
    height, width = input.shape[2] + top + bottom, input.shape[3] + left + right
    padded = f"{height}x{width}" if left or right or top or bottom else "-"
    if padded != "-" and layer.padding_mode != "zeros":
        padded += f" {layer.padding_mode}"
    kernel = "x".join(map(str, layer.kernel_size)) + f" stride {layer.stride[0]}"
    if layer.groups > 1:
        kernel += f" groups {layer.groups}"
    plan = convext.explain(layer, input)["forward"]
    sizes = ["x".join(map(str, tensor.shape[1:])) for tensor in (input, output)]
    return [sizes[0], padded, kernel, sizes[1], plan.kernel]


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
