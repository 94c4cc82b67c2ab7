"""The pointer table of one register tile: where each tap of each pixel is, or padding."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, GREEN, LIGHT, ORANGE, PALE, QUIET, canvas, cell, fit

H = W = 5
MR = 4  # pixels (0, 0) .. (0, 3) of the output of a 3x3 kernel with padding 1


def draw() -> Figure:
    figure, axes = canvas(9, 3.9)
    # The image with the padding that is never made.
    for h in range(-1, H + 1):
        for w in range(-1, W + 1):
            inside = 0 <= h < H and 0 <= w < W
            under = 0 <= h <= 1 and -1 <= w <= MR
            face = LIGHT[BLUE] if inside and under else "#fff" if inside else PALE
            label = f"{h},{w}" if inside else ""
            cell(axes, w + 1, H - h, label, face, edge=QUIET if inside else "#fff")
    axes.text(3.5, -0.4, "input, with the padding that no one builds", ha="center", va="top")
    # The table: one line an entry, mr pointers each.
    left, top = 12.0, H + 1.0
    axes.text(left - 0.3, top + 0.35, "tap (r, s)", ha="right")
    for m in range(MR):
        axes.text(left + 1.6 * m + 0.8, top + 0.35, f"pixel 0,{m}", ha="center", size=8)
    line = 0
    for r in range(3):
        if r == 0:
            axes.text(left - 0.3, top - 0.5, "0, 0 .. 2", ha="right", va="center", color=QUIET)
            axes.text(
                left + 0.1,
                top - 0.5,
                "no entry: no pixel of the tile has a source here",
                va="center",
                color=QUIET,
            )
            line += 1
            continue
        for s in range(3):
            y = top - 1 - line
            axes.text(left - 0.3, y + 0.5, f"{r}, {s}", ha="right", va="center")
            for m in range(MR):
                h, w = r - 1, m + s - 1
                source = 0 <= w < W
                cell(
                    axes,
                    left + 1.6 * m,
                    y,
                    f"&x[{h},{w}]" if source else "&zeros",
                    LIGHT[GREEN] if source else LIGHT[ORANGE],
                    width=1.6,
                )
            line += 1
    axes.text(
        left + 1.6 * MR / 2,
        top - 1 - line + 0.6,
        "entries: for each, C channels of mr pixels",
        ha="center",
        va="top",
    )
    fit(axes, -0.3, left + 1.6 * MR + 3, -1.6, top + 1.2)
    return figure
