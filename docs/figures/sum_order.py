"""The order of a weight gradient's sum: chunks cut by shape, blocks, runs."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, GREEN, INK, LIGHT, ORANGE, canvas, cell, fit


def draw() -> Figure:
    figure, axes = canvas(9, 3.4)
    axes.set_aspect("auto")
    chunks, blocks, runs = 4, 3, 4
    width = 1.0
    total = chunks * blocks * runs * width
    for c in range(chunks):
        x0 = c * (blocks * runs * width + 1.2)
        for b in range(blocks):
            x = x0 + b * runs * width
            for i in range(runs):
                cell(axes, x + i * width, 8, face=LIGHT[BLUE], height=1.2)
            cell(
                axes,
                x + 0.2,
                5.2,
                f"block {b}",
                LIGHT[ORANGE],
                width=runs * width - 0.4,
                height=1.2,
            )
            axes.plot([x + runs / 2, x + runs / 2], [8, 6.4], color=INK, linewidth=0.8)
            axes.plot([x + runs / 2, x0 + blocks * runs / 2], [5.2, 3.8], color=INK, linewidth=0.8)
        cell(axes, x0 + 2, 2.6, f"chunk {c}", LIGHT[GREEN], width=blocks * runs - 4, height=1.2)
        axes.plot([x0 + blocks * runs / 2, (total + 3.6) / 2], [2.6, 1.2], color=INK, linewidth=0.8)
    cell(
        axes,
        (total + 3.6) / 2 - 14,
        0,
        "((chunk 0 + chunk 1) + chunk 2) + chunk 3",
        "#fff",
        width=28,
        height=1.2,
    )
    right = total + 3.6 + 0.6
    axes.text(right, 8.6, "pixels of the output,\nin the order n, p, q", va="center")
    axes.text(right, 5.8, "summed from zero\nin registers", va="center")
    axes.text(right, 3.2, "blocks added in order,\nby one thread", va="center")
    axes.text(right, 0.6, "chunks added in order,\nwhoever summed them", va="center")
    fit(axes, -0.5, right + 12, -0.5, 9.8)
    return figure
