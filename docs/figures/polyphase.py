"""Stride 2: the middle tap meets odd inputs, the outer taps meet even ones with stride 1."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, INK, LIGHT, ORANGE, QUIET, canvas, cell, fit


def draw() -> Figure:
    figure, axes = canvas(8.6, 3.2)
    inputs, outputs = 9, 4
    for i in range(inputs):
        cell(axes, 1.4 * i, 6, f"d{i}", LIGHT[BLUE if i % 2 == 0 else ORANGE], width=1.2)
    for j in range(outputs):
        cell(axes, 1.4 * (2 * j + 1), 0, f"y{j}", width=1.2, edge=INK)
        for tap in range(3):
            axes.plot(
                [1.4 * (2 * j + tap) + 0.6, 1.4 * (2 * j + 1) + 0.6],
                [6, 1],
                color=ORANGE if tap == 1 else BLUE,
                linewidth=1.3,
            )
    axes.text(-0.5, 6.5, "inputs", ha="right", va="center")
    axes.text(-0.5, 0.5, "outputs", ha="right", va="center")
    left = 14.2
    axes.text(
        left,
        5.6,
        "outer taps g0, g2: even inputs, stride 1, 2 taps\nF(4, 2): 5 products for 4 outputs",
        color=BLUE,
        va="center",
    )
    axes.text(
        left,
        3.2,
        "middle tap g1: odd inputs, each met once\n4 products for 4 outputs",
        color=ORANGE,
        va="center",
    )
    axes.text(
        left,
        0.8,
        "9 products an axis instead of 12;\n81 instead of 144 in two dimensions",
        color=QUIET,
        va="center",
    )
    fit(axes, -3.5, 28, -0.5, 7.6)
    return figure
