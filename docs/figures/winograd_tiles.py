"""Winograd's tiles: inputs overlap by two pixels, outputs do not."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from style import BLUE, INK, LIGHT, ORANGE, QUIET, VIOLET, canvas, cell, fit


def draw() -> Figure:
    figure, axes = canvas(9, 3.6)
    size = 10
    for h in range(size):
        for w in range(size):
            cell(axes, w, size - 1 - h, face="#fff")
    for row, column, colour in ((0, 0, BLUE), (0, 1, ORANGE)):
        axes.add_patch(
            Rectangle(
                (4 * column, size - 6 - 4 * row),
                6,
                6,
                facecolor=LIGHT[colour],
                alpha=0.6,
                edgecolor=colour,
                linewidth=2,
            )
        )
    axes.text(size / 2, -0.4, "input: tiles of 6 x 6, four apart", ha="center", va="top")

    def arrow(x: float, text: str) -> None:
        axes.annotate("", (x + 3.4, 7), (x, 7), arrowprops={"arrowstyle": "->", "color": INK})
        axes.text(x + 1.7, 7.4, text, ha="center", va="bottom", size=8)

    arrow(10.4, r"$V = B^T\,d\,B$")
    for i in range(6):
        for j in range(6):
            cell(axes, 14.2 + j, 4 + i, face=LIGHT[VIOLET])
    axes.text(
        17.2,
        3.6,
        "36 points; at each, a product of\nmatrices: tiles x C by C x K",
        ha="center",
        va="top",
    )
    arrow(20.6, r"$A^T\,M\,A$")
    for row, column, colour in ((0, 0, BLUE), (0, 1, ORANGE)):
        for i in range(4):
            for j in range(4):
                cell(axes, 24.4 + 4 * column + j, 9 - i - 4 * row, face=LIGHT[colour], edge=QUIET)
    axes.text(28.4, 5.6, "output: tiles of 4 x 4, side by side", ha="center", va="top")
    fit(axes, -0.3, 33, -1.4, size + 0.3)
    return figure
