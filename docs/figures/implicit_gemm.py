"""A convolution as a product of matrices, one never built, and its register tile."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, GREEN, INK, LIGHT, ORANGE, QUIET, canvas, cell, fit

PIXELS, TAPS, CHANNELS, LANES, MR, NR = 9, 4, 2, 8, 3, 4


def draw() -> Figure:
    figure, axes = canvas(8.6, 4.6)
    depth = TAPS * CHANNELS
    # x: pixels x (tap, channel); w: (tap, channel) x output channels; y: pixels x output channels.
    for row in range(PIXELS):
        for column in range(depth):
            in_tile = MR <= row < 2 * MR
            face = LIGHT[BLUE] if in_tile else "#fff"
            cell(axes, column, PIXELS - 1 - row, face=face)
        for lane in range(LANES):
            in_tile = MR <= row < 2 * MR and lane < NR
            cell(axes, depth + 2 + lane, PIXELS - 1 - row, face=LIGHT[GREEN] if in_tile else "#fff")
    for d in range(depth):
        for lane in range(LANES):
            face = LIGHT[ORANGE] if lane < NR else "#fff"
            cell(axes, depth + 2 + lane, PIXELS + 2 + depth - 1 - d, face=face)
    for tap in range(TAPS + 1):
        axes.plot([tap * CHANNELS] * 2, [0, PIXELS], color=INK, linewidth=1.6)
        y = PIXELS + 2 + depth - tap * CHANNELS
        axes.plot([depth + 2, depth + 2 + LANES], [y, y], color=INK, linewidth=1.6)
    for tap in range(TAPS):
        axes.text(tap * CHANNELS + 1, PIXELS + 0.35, f"{tap}", ha="center", size=8)
        y = PIXELS + 2 + depth - tap * CHANNELS - 1
        axes.text(depth + 1.7, y, f"tap {tap}", va="center", ha="right", size=8)
    axes.text(-0.4, PIXELS + 0.35, "tap", ha="right", size=8)
    axes.text(
        -0.6,
        PIXELS / 2,
        "x: a row for each pixel,\nC columns for each tap.\n\n"
        "It is never built: its rows\nare found where they lie",
        ha="right",
        va="center",
    )
    right = depth + 2 + LANES + 0.8
    axes.text(right, PIXELS + 2 + depth / 2, "w: packed weights,\nK columns", va="center")
    axes.text(right, PIXELS - 1.2, "y: a row for each pixel,\nK columns", va="center")
    axes.annotate(
        "a register tile, mr x nr results,\nis summed over the whole depth:\n"
        "each step takes mr values of x,\nnr of w, and multiplies them all",
        (depth + 2 + NR - 0.5, PIXELS - 1.8 * MR),
        (right, 2.2),
        arrowprops={"arrowstyle": "-", "color": QUIET},
        va="center",
    )
    fit(axes, -9.5, depth + LANES + 13, -0.3, PIXELS + depth + 2.3)
    return figure
