"""``convext trace``: what a convolution, a prediction and a training do, step by step; a quiz; a
page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.live import Live

import convext
from convext.testing import one_thread
from convext.tracing import ConvTrace, ModelTrace, Setting, Trace, quiz, text
from convext.tracing.model import LearningCurve, Prediction

from . import digits
from ._console import make_console
from ._show import epoch_table, layer_table, print_lines, print_prediction, statistics_table

SEED = 0
LAYERS = ("first", "strided", "depthwise", "pointwise")
"""The convolutions of the digits' CNN."""


def add_parser(subparsers: Any) -> None:
    """Adds ``trace`` to the subcommands of ``convext``."""
    parser = subparsers.add_parser(
        "trace",
        help="one convolution step by step; a prediction, a training, a quiz, a page",
        description=(
            "Shows one convolution step by step, with values: padded input, windows, products, "
            "sums, output and the planned kernels. Without options a 5x5 input, padded to 7x7, a "
            "3x3 kernel and a stride of 2. Pairs are height,width; a negative one is written "
            "--padding=-1,0. A setting that torch refuses ends with torch's words and exit code 2."
        ),
    )
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--predict", action="store_true", help="one prediction of a digits CNN, layer by layer"
    )
    modes.add_argument(
        "--train", action="store_true", help="train the digits CNN, loss and accuracy as it runs"
    )
    modes.add_argument("--quiz", action="store_true", help="questions about output sizes")
    parser.add_argument(
        "--layer",
        choices=LAYERS,
        help="with --predict or --train: also this convolution of the CNN, step by step",
    )
    geometry = parser.add_argument_group("the convolution")
    lesson = Setting()
    for name, kind, default, help in (
        ("--in", _pair, (lesson.H, lesson.W), "size of the input"),
        ("--channels", _pair, (lesson.C, lesson.K), "input,output channels"),
        ("--kernel", _pair, (lesson.R, lesson.S), "size of the kernel"),
        ("--stride", _pair, lesson.stride, "distance of windows"),
        ("--dilation", _pair, lesson.dilation, "distance of kernel taps"),
        ("--padding", _padding, lesson.padding, "N, H,W, left,right,top,bottom, same or valid"),
    ):
        geometry.add_argument(
            name,
            dest=name.strip("-") + "_",
            type=kind,
            default=default,
            metavar="N" if kind is _padding else "N[,N]",
            help=f"{help} (default: {','.join(map(str, default))})",
        )
    geometry.add_argument("--groups", type=int, default=lesson.groups, help="(default: 1)")
    geometry.add_argument(
        "--padding-mode",
        choices=("zeros", "reflect", "replicate", "circular"),
        default=lesson.padding_mode,
        help="(default: zeros)",
    )
    geometry.add_argument(
        "--steps", type=_count, default=text.STEPS, help=f"windows to show (default: {text.STEPS})"
    )
    parser.add_argument(
        "--epochs", type=_count, default=5, help="of training, before a prediction too (default: 5)"
    )
    parser.add_argument(
        "--questions", type=_count, default=5, help="generated ones after the five (default: 5)"
    )
    parser.add_argument(
        "--seed", type=int, default=SEED, help=f"of weights and questions (default: {SEED})"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="also write the convolution, or the model, as one page"
    )
    parser.set_defaults(run=run, default_of=parser.get_default)


def run(args: argparse.Namespace) -> int:
    """Runs ``convext trace``: 0, or 1 if a sum is not what the kernel returned, or 2 if the setting
    is refused, no kernel that ``CONVEXT_PLAN`` leaves can run it, or the page cannot be written."""
    console = make_console()
    unused = _unused(args)
    if unused:
        print(f"convext: argument {unused[0]}: not allowed {unused[1]}", file=sys.stderr)
        return 2
    if args.quiz:
        return _quiz(console, args)
    try:
        if args.html:
            _check_writable(Path(args.html))
        content = _model(console, args) if args.train or args.predict else _convolution(args)
        if args.html:
            Trace(content).save_html(args.html)
        if isinstance(content, ConvTrace):
            print_lines(console, text.lines(content, args.steps))
        if args.html:
            console.print(f"\nWrote {args.html}: open it in a browser.", highlight=False)
    except (OSError, RuntimeError, ValueError) as error:
        print(f"convext: {error}", file=sys.stderr)
        return 2
    return 0 if isinstance(content, ModelTrace) or content.check()[0] else 1


GEOMETRY = (
    *("in_", "channels_", "kernel_", "stride_", "dilation_", "padding_"),
    *("groups", "padding_mode"),
)


def _unused(args: argparse.Namespace) -> tuple[str, str] | None:
    """An option that was given although what is to be shown does not depend on it, and why."""
    model = args.predict or args.train
    for names, used, why in (
        (GEOMETRY, not (model or args.quiz), "with --predict, --train or --quiz"),
        (("layer", "epochs"), model, "without --predict or --train"),
        (
            ("steps",),
            not (model or args.quiz) or args.layer,
            "without a convolution to step through",
        ),
        (("questions",), args.quiz, "without --quiz"),
        (("html",), not args.quiz, "with --quiz"),
    ):
        for name in names:
            if not used and getattr(args, name) != args.default_of(name):
                return "--" + name.strip("_").replace("_", "-"), why
    return None


def _check_writable(path: Path) -> None:
    """Raises OSError if it is not, before anything is traced or trained."""
    there = path.exists()
    path.open("ab").close()
    if not there:
        path.unlink()


def _convolution(args: argparse.Namespace) -> ConvTrace:
    (C, K), (H, W), (R, S) = args.channels_, args.in_, args.kernel_
    return ConvTrace.run(
        Setting(
            C,
            H,
            W,
            K,
            R,
            S,
            args.stride_,
            args.padding_,
            args.dilation_,
            args.groups,
            args.padding_mode,
        )
    )


def _model(console: Console, args: argparse.Namespace) -> ModelTrace | ConvTrace:
    """Trains the digits' CNN and follows one prediction, or one of its convolutions."""
    epochs = args.epochs
    data = digits.load(args.seed)
    model = convext.convert(digits.make_model(args.seed, torch.float32))
    training = digits.Training(model)
    # Images of 8x8 pixels are too small to share.
    with one_thread():
        if args.train:
            console.print(
                f"[bold]Training with ConvExt2d[/] on {len(data.labels):,} handwritten digits, "
                f"epochs: {epochs}, tested on {len(data.test_labels)} others"
            )
            table = epoch_table({"ConvExt2d": training}, console.width)
            with Live(table, console=console, auto_refresh=False) as live:

                def show(so_far: digits.Training) -> None:
                    table = epoch_table({"ConvExt2d": so_far}, console.width)
                    live.update(table, refresh=console.is_terminal)

                training = digits.train(model, data, epochs, args.seed, show)
            # In a pipe the table comes once, without the end of its last line.
            newline = "" if console.is_terminal else "\n"
            console.print(f"{newline}Time: {training.seconds:.2f} s")
        elif epochs:
            with console.status("training"):
                training = digits.train(model, data, epochs, args.seed)
        image = data.test_images[:1].float()
        content = ModelTrace.run(model, image)
        content.prediction = Prediction.run(model, image, int(data.test_labels[0]))
        if epochs:
            curve = training.steps, training.losses, training.accuracies
            content.training = LearningCurve(*curve)
    if args.predict:
        reached = f"{training.accuracies[-1]:.2%} right" if epochs else "untrained"
        console.print(f"[bold]A CNN with ConvExt2d[/], epochs of training: {epochs}, {reached}")
        print_prediction(console, {"ConvExt2d": model}, image, int(data.test_labels[0]))
        console.print(layer_table(content))
        console.print("[bold]Outputs[/], and milliseconds: the shortest of three runs")
        console.print(statistics_table(content))
    if args.layer:
        console.print(f"\n[bold]The layer '{args.layer}' in this prediction[/]\n")
        return convext.trace(model, image, layer=args.layer).content
    return content


def _quiz(console: Console, args: argparse.Namespace) -> int:
    """Asks, grades and explains; the end of the input ends the quiz."""
    if args.questions > 100:
        print("convext: argument --questions: must be from 0 to 100", file=sys.stderr)
        return 2
    questions = [*quiz.lesson(), *quiz.generated(args.questions, args.seed)]
    right = asked = 0
    for index, question in enumerate(questions):
        console.print(f"\n[bold]Question {index + 1} of {len(questions)}[/]", end=" ")
        console.print(question.text, markup=False)
        verdict = None
        while verdict is None:
            try:
                reply = console.input(f"  {question.hint}: ", markup=False)
            except EOFError:
                console.print(
                    f"\n{right} of {asked} right." if asked else "\nNothing was answered."
                )
                return 0
            verdict = question.check(reply)
            if verdict is None:
                console.print(f"  Please answer with {question.hint}.", markup=False)
        asked += 1
        right += verdict
        console.print("  [green]Right.[/]" if verdict else "  [red]Not quite.[/]", end=" ")
        console.print(question.explanation, markup=False)
    console.print(f"\n[bold]{right} of {asked} right.[/]")
    return 0


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be integers with commas between, but got {text!r}"
        ) from None


def _pair(text: str) -> tuple[int, int]:
    numbers = _integers(text)
    if len(numbers) > 2:
        raise argparse.ArgumentTypeError(f"must be one or two integers, but got {text!r}")
    return numbers[0], numbers[-1]


def _padding(text: str) -> tuple[int, ...] | str:
    if text in ("same", "valid"):
        return text
    numbers = _integers(text)
    if len(numbers) not in (1, 2, 4):
        raise argparse.ArgumentTypeError(
            f"must be one, two or four integers, same or valid, but got {text!r}"
        )
    return numbers * 2 if len(numbers) == 1 else numbers


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 on, but got {text!r}")
    return number
