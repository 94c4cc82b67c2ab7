"""What the figures have in common: colours, fonts, and boxes with text in them."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK, QUIET, PALE = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, ORANGE, GREEN, RED, VIOLET = "#2f6db5", "#d9822b", "#3f8f5a", "#c0392b", "#7a5195"
LIGHT = {BLUE: "#cfe0f3", ORANGE: "#f8dfc2", GREEN: "#d0e8d8", RED: "#f3cfcb", VIOLET: "#e0d3ea"}

RC = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "convext",
    "savefig.bbox": "tight",
}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Axes without frame whose units are the same both ways."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height))
    axes.set_aspect("equal")
    axes.axis("off")
    return figure, axes


def cell(
    axes: Axes, x: float, y: float, text: str = "", face: str = "#fff", **options: Any
) -> None:
    """A box of one unit, or of `width` x `height`, with its lower left corner at x, y."""
    width, height = options.pop("width", 1.0), options.pop("height", 1.0)
    size = options.pop("size", 8)
    edge, line = options.pop("edge", QUIET), options.pop("line", 0.8)
    axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor=edge, linewidth=line))
    if text:
        axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", size=size)


def fit(axes: Axes, x0: float, x1: float, y0: float, y1: float) -> None:
    axes.set_xlim(x0, x1)
    axes.set_ylim(y0, y1)
