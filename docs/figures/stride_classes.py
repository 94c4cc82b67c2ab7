"""The input gradient under stride 2: pixels fall into classes that meet the same taps."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, GREEN, LIGHT, ORANGE, QUIET, VIOLET, canvas, cell, fit

STRIDE, TAPS, PAD, EXTENT = 2, 3, 1, 8
COLOURS = {(0, 0): BLUE, (0, 1): ORANGE, (1, 0): GREEN, (1, 1): VIOLET}


def taps_of(residue: int) -> list[int]:
    """Taps t that connect inputs of this residue with an output: (h + pad - t) % stride == 0."""
    return [t for t in range(TAPS) if (residue + PAD - t) % STRIDE == 0]


def draw() -> Figure:
    figure, axes = canvas(9, 3.6)
    for h in range(EXTENT):
        for w in range(EXTENT):
            colour = COLOURS[h % STRIDE, w % STRIDE]
            taps = len(taps_of(h % STRIDE)) * len(taps_of(w % STRIDE))
            cell(axes, w, EXTENT - 1 - h, str(taps), LIGHT[colour])
    axes.text(EXTENT / 2, -0.4, "grad_input: how many taps each pixel meets", ha="center", va="top")
    for i, ((row, column), colour) in enumerate(COLOURS.items()):
        left = EXTENT + 2.5 + 4.6 * i
        for r in range(TAPS):
            for s in range(TAPS):
                met = r in taps_of(row) and s in taps_of(column)
                cell(
                    axes,
                    left + s,
                    4 - r,
                    f"{r},{s}" if met else "",
                    LIGHT[colour] if met else "#fff",
                    edge=QUIET,
                )
        axes.text(left + 1.5, 5.3, f"h % 2 = {row}\nw % 2 = {column}", ha="center", va="bottom")
    axes.text(
        EXTENT + 2.5 + 4.6 * 2 - 0.8,
        1.6,
        "the taps of each class: 1 + 2 + 2 + 4 = 9, so nothing is multiplied by zero",
        ha="center",
        va="top",
    )
    fit(axes, -0.3, EXTENT + 2.5 + 4.6 * 4, -1.4, EXTENT + 0.3)
    return figure
