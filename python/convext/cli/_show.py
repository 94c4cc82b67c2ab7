"""What ``convext demo`` and ``convext trace`` show alike: epochs, predictions, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from convext.tracing import ModelTrace, text

from . import digits
from ._console import make_table


def print_lines(console: Console, lines: Sequence[text.Line]) -> None:
    """Prints lines of pieces with styles."""
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def bar(share: float, width: int) -> str:
    """A bar of up to ``width`` characters, drawn in eighths of one; nothing for NaN."""
    eighths = round(max(0.0, min(share, 1.0)) * width * 8) if share == share else 0
    whole, part = divmod(eighths, 8)
    parts = ("", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589")
    return ("\u2588" * whole + parts[part]).ljust(width)


def epoch_table(runs: Mapping[str, digits.Training], console_width: int) -> Table:
    """Loss and accuracy of every epoch so far; of two runs also how far the losses are apart."""
    width = 12 if console_width >= 100 else 5
    trainings = list(runs.values())
    table = make_table()
    table.add_column("epoch", justify="right", no_wrap=True)
    for name in runs:
        table.add_column(f"{name}: loss", no_wrap=width > 5)
        table.add_column("accuracy", no_wrap=True)
    if len(trainings) == 2:
        table.add_column("difference", justify="right", no_wrap=True)
    tallest = max((loss for training in trainings for loss in training.losses), default=1.0)
    for epoch in range(len(trainings[0].losses)):
        row = [str(epoch + 1)]
        for training in trainings:
            loss, accuracy = training.losses[epoch], training.accuracies[epoch]
            row.append(f"{loss:.4f} [red]{bar(loss / tallest, width)}[/]")
            row.append(f"{accuracy:7.2%} [green]{bar(accuracy, width)}[/]")
        if len(trainings) == 2:
            row.append(f"{abs(trainings[0].losses[epoch] - trainings[1].losses[epoch]):.1e}")
        table.add_row(*row)
    return table


def print_prediction(
    console: Console, models: Mapping[str, nn.Module], image: Tensor, label: int
) -> None:
    """An image (1, 1, H, W) in shades, and of each model what it takes it for and the three digits
    that it holds most likely, and the right one."""
    console.print(f"\n[bold]One prediction[/], of a test image labelled {label}:")
    low, high = image.min(), image.max()
    for row in ((image[0, 0] - low) / (high - low) * 4).round().int().tolist():
        console.print("    " + "".join(" \u2591\u2592\u2593\u2588"[shade] * 2 for shade in row))
    with torch.no_grad():
        for name, model in models.items():
            shares = model(image)[0].softmax(0)
            guess = int(shares.argmax())
            right = "[green]right[/]" if guess == label else "[red]wrong[/]"
            console.print(f"    {name} sees {with_article(guess)} ({shares[guess]:.4%}): {right}")
            shown = shares.topk(3).indices.tolist()
            for digit in shown if label in shown else [*shown, label]:
                share = float(shares[digit])
                mark = " [green]the label[/]" if digit == label else ""
                console.print(f"      {digit} [cyan]{bar(share, 12)}[/] {share:9.4%}{mark}")


def with_article(digit: int) -> str:
    """``a 2``, ``an 8``."""
    return f"an {digit}" if digit == 8 else f"a {digit}"


def layer_table(trace: ModelTrace, convolutions: bool = False) -> Table:
    """Sizes and the planned kernel of every layer, or of the convolutions alone."""
    table = make_table()
    *columns, last = text.LAYER_COLUMNS
    for column in columns:
        table.add_column(column, no_wrap=True)
    table.add_column(last, overflow="fold")
    for row in text.layer_rows(trace, convolutions):
        table.add_row(*row)
    return table


def statistics_table(trace: ModelTrace) -> Table:
    """Mean, standard deviation and extremes of every layer's output, and its time."""
    table = make_table()
    for at, column in enumerate(text.STATISTICS_COLUMNS):
        table.add_column(column, justify="left" if at < 3 else "right", no_wrap=True)
    for row in text.statistics_rows(trace):
        table.add_row(*row)
    return table
