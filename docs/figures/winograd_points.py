"""What the choice of points does to rounding: float32 errors of F(4 x 4) and F(2 x 2), measured.

A 3 x 3 kernel on random tiles of 64 channels, each algorithm in float32 against float64. The
matrices are made from the points by the Toom-Cook construction, as those in
csrc/cpu/winograd_transform.h were.
"""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from style import BLUE, ORANGE

ROOT = float(np.sqrt(2))
CHANNELS, TILES = 64, 300
SETS = {
    "direct, one chain": None,
    "F(2 x 2): 0, ±1": (0.0, 1.0, -1.0),
    "F(4 x 4): 0, ±1/√2, ±√2": (0.0, 1 / ROOT, -1 / ROOT, ROOT, -ROOT),
    "F(4 x 4): 0, ±1, ±2": (0.0, 1.0, -1.0, 2.0, -2.0),
}

Matrix = NDArray[np.float64]


def toom_cook(points: tuple[float, ...], taps: int = 3) -> tuple[Matrix, Matrix, Matrix]:
    """A^T (m x n), G (n x taps), B^T (n x n) of F(m, taps) at these points and infinity."""
    n = len(points) + 1
    m = n - taps + 1
    output = np.zeros((m, n))
    filters = np.zeros((n, taps))
    for i, point in enumerate(points):
        scale = np.prod([point - other for other in points if other != point])
        output[:, i] = point ** np.arange(m)
        filters[i] = point ** np.arange(taps) / scale
    output[-1, -1] = filters[-1, -1] = 1
    inputs = np.zeros((n, n))
    for i, point in enumerate(points):
        others = [other for other in points if other != point]
        inputs[i, : n - 1] = np.poly(others)[::-1]
    inputs[-1] = np.poly(points)[::-1]
    return output, filters, inputs


def errors(points: tuple[float, ...] | None) -> Matrix:
    """Root mean square error at each place of a tile (m x m), relative to the exact results'."""
    random = np.random.default_rng(0)
    m = 4 if points is None else len(points) - 1
    data = random.standard_normal((TILES, CHANNELS, m + 2, m + 2)).astype(np.float32)
    taps = random.standard_normal((CHANNELS, 3, 3)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(data, (3, 3), axis=(2, 3))
    exact = np.einsum("tcmnrs,crs->tmn", windows.astype(np.float64), taps.astype(np.float64))
    result = np.zeros((TILES, m, m), np.float32)
    if points is None:
        for c, r, s in np.ndindex(CHANNELS, 3, 3):
            result += windows[:, c, :, :, r, s] * taps[c, r, s]
    else:
        output, filters, inputs = (matrix.astype(np.float32) for matrix in toom_cook(points))
        transformed = inputs @ data @ inputs.T
        weights = filters @ taps @ filters.T
        sums = np.zeros((TILES, m + 2, m + 2), np.float32)
        for c in range(CHANNELS):
            sums += transformed[:, c] * weights[c]
        result = output @ sums @ output.T
    rms: Matrix = np.sqrt(((result - exact) ** 2).mean(axis=0) / (exact**2).mean())
    return rms


def draw() -> Figure:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 3.2))
    found = [errors(points) for points in SETS.values()]
    rows = np.arange(len(SETS))
    for shift, colour, label, values in (
        (-0.2, BLUE, "over all results", [float(np.sqrt((e**2).mean())) for e in found]),
        (0.2, ORANGE, "at the worst place of a tile", [float(e.max()) for e in found]),
    ):
        bars = axes.barh(rows + shift, values, height=0.36, color=colour, label=label)
        axes.bar_label(bars, [f"{value:.1e}" for value in values], padding=4, size=8)
    axes.set_yticks(rows, list(SETS))
    axes.invert_yaxis()
    axes.set_xlim(0, max(float(e.max()) for e in found) * 1.15)
    axes.set_xlabel("root mean square error, relative to that of the results")
    axes.legend(frameon=False)
    return figure
