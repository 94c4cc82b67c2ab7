"""Problems worth running: around a kernel's tile, at the edges of the definition, and at random.

Every generator is a pure function of its arguments, and every problem it gives is one that torch
accepts.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from ._problem import INTEGER_DTYPES, LAYOUTS, PADDING_MODES, VALUES, Problem

_GEOMETRIES: tuple[dict[str, Any], ...] = (
    {"R": 3, "S": 3, "padding": (1, 1)},
    {"R": 1, "S": 1},
    {"R": 3, "S": 3, "padding": (1, 1), "stride": (2, 2)},
    {"R": 1, "S": 1, "stride": (2, 2)},
    {"R": 2, "S": 1, "stride": (3, 2)},  # stride > kernel: pixels that nothing reads
    {"R": 3, "S": 3, "padding": (2, 2), "dilation": (2, 2)},
    {"R": 2, "S": 3, "dilation": (3, 1), "stride": (2, 3), "padding": (2, 1)},
    {"R": 3, "S": 3, "padding": (0, 2, 1, 0)},
    {"R": 3, "S": 2, "padding": (3, 0, 0, 4), "stride": (1, 2)},
    {"R": 2, "S": 2, "padding": (5, 4)},  # rows and columns of nothing but padding
    {"R": 1, "S": 1, "padding": (2, 2)},
    {"R": 1, "S": 7, "padding": (0, 3)},
    {"R": 5, "S": 1, "padding": (2, 0)},
    {"R": 7, "S": 7, "padding": (3, 3), "stride": (2, 2)},
    {"R": 3, "S": 3, "padding": (12, 12), "dilation": (12, 12)},  # most taps lie in the padding
    {"R": 3, "S": 3, "padding": (0, 3, 1, 2), "dilation": (1, 3), "stride": (2, 2)},
)


def around(tile: int) -> list[int]:
    """Extents around a tile, ascending: 1, tile - 1, tile, tile + 1, 2 tile + 1, the next prime."""
    prime = next(n for n in itertools.count(tile + 2) if _is_prime(n))
    return sorted(n for n in {1, tile - 1, tile, tile + 1, 2 * tile + 1, prime} if n > 0)


def problems_around(
    kernel: Mapping[str, Any], *, seed: int = 0, dtype: torch.dtype | None = None
) -> list[Problem]:
    """Problems around the tile of one row of the kernel table (``convext._C.kernels()``).

    First every extent in turn (pixels, output channels, input channels) around the tile with the
    others at whole tiles, then every geometry, padding mode, layout and batch at residues in
    several dimensions. The kernel may refuse some. For a bias gradient every problem has a bias.

    Args:
        kernel: a row, or one of ``convext._C.cuda_kernels()``; ``pass``, ``tile``, ``mr``,
            ``nr``, ``algorithm``, ``dtype`` and ``layout`` are read.
        seed: of the data, and of the extents that are drawn.
        dtype: instead of the row's, for a kernel that takes any.
    """
    dtype = dtype or getattr(torch, str(kernel["dtype"]))
    rows, columns = max(int(kernel["mr"]), 1), max(int(kernel["nr"]), 1)
    depthwise = kernel["algorithm"] == "depthwise"
    polyphase = str(kernel["algorithm"]).startswith("polyphase")
    first_layer = str(kernel["algorithm"]).endswith("_first")
    needs_bias = kernel["pass"] == "bgrad"
    either = ("contiguous", "channels_last")
    layouts = {"nhwc": either[1:], "nchw": either[:1]}.get(str(kernel["layout"]), either)
    draw = random.Random(f"{kernel['algorithm']} {kernel['tile']} {seed}")  # alike in every dtype
    found = _Found(dtype, seed)
    sizes = sorted({*around(rows), *around(columns)})

    def add(pixels: int, outputs: int, inputs: int, **changes: Any) -> None:
        """One problem with these output columns and channels a group."""
        groups, multiplier = changes.pop("groups", 1), changes.pop("multiplier", 1)
        if depthwise:
            groups, inputs, outputs = outputs, 1, multiplier
        elif kernel["algorithm"] == "grouped":
            size = draw.choice((2, 4, 8, 16, 21, 24))
            groups, inputs = 1 + outputs // 4, size
            outputs = size if size < 16 else 16 + inputs % 7
        elif kernel["algorithm"] == "grouped_planes":
            # Its tile is of output channels by pixels; of channels it takes at most 64 a group.
            pixels, outputs, inputs = outputs, (pixels - 1) % 64 + 1, (inputs - 1) % 7 + 1
        elif first_layer:
            groups, inputs = 1, 1 + inputs % 4
        if polyphase and changes.get("R", 3) == 3 and changes.get("S", 3) == 3:
            changes["stride"] = (2, 2)
        changes = {"layout": draw.choice(layouts), **changes}
        changes["bias"] = needs_bias or changes.get("bias", False)
        found.add(pixels, K=groups * outputs, C=groups * inputs, groups=groups, **changes)

    for size in sizes:
        for geometry in _GEOMETRIES[:3]:
            add(size, columns, columns, **geometry)
        add(rows, size, columns, **draw.choice(_GEOMETRIES[:2]))
        add(rows, columns, size, **draw.choice(_GEOMETRIES[:2]))
        add(size, size, size, **_GEOMETRIES[0], bias=True)

    def residues() -> tuple[int, int, int]:
        return draw.choice(around(rows)), draw.choice(around(columns)), draw.choice(around(columns))

    for geometry in _GEOMETRIES:
        add(*residues(), **geometry, bias=True, N=2)
        add(*residues(), **geometry, padding_mode=draw.choice(PADDING_MODES))
    for mode in PADDING_MODES:
        add(*residues(), R=3, S=3, padding=(1, 1), padding_mode=mode, bias=True)
        add(*residues(), R=5, S=3, padding=(0, 3, 2, 1), padding_mode=mode)
        add(*residues(), R=2, S=3, padding=(3, 1), stride=(2, 1), padding_mode=mode, N=2)
    for other in LAYOUTS:
        add(*residues(), R=3, S=3, padding=(1, 1), layout=other, N=2, bias=True)
        add(*residues(), R=1, S=1, layout=other, N=3)
    for batch in (0, 2, 5):
        add(*residues(), R=3, S=3, N=batch, bias=True)
    for groups in (2, 3):
        pixels, outputs, inputs = residues()
        add(pixels, outputs, inputs, R=3, S=3, groups=groups, multiplier=groups)
        add(pixels, 1, 1, R=3, S=3, padding=(1, 1), groups=groups, N=2, multiplier=groups)
        add(pixels, 2, 1, R=3, S=3, groups=5, N=2, multiplier=groups, bias=True)
        add(pixels, columns, 2, R=1, S=1, groups=groups, multiplier=groups, bias=True)
    return list(found)


def edge_problems(dtype: torch.dtype, *, seed: int = 0) -> list[Problem]:
    """The edges of the definition, small and the same for every kernel.

    Every geometry, padding mode and layout with the others at rest, plus: empty batches, an input
    of one pixel, a kernel as large as the padded input, stride > input, reflect padding of size - 1
    and circular padding of the whole size (torch's limits), grouped, depthwise and depthwise with
    a channel multiplier.
    """
    found = _Found(dtype, seed)
    for geometry, mode in itertools.product(_GEOMETRIES, PADDING_MODES):
        found.add(5, C=3, K=4, padding_mode=mode, bias=True, **geometry)
    for layout, mode in itertools.product(LAYOUTS, PADDING_MODES):
        found.add(7, N=2, C=4, K=6, padding=(1, 1), layout=layout, padding_mode=mode, groups=2)
    for groups, outputs in ((2, 6), (3, 3), (6, 6), (6, 12), (6, 18), (1, 1)):
        for layout in ("contiguous", "channels_last"):
            for stride in (1, 2):
                shape = {"C": 6, "K": outputs, "groups": groups, "layout": layout}
                found.add(5, **shape, padding=(1, 1), stride=(stride, stride), bias=True)
    for mode in PADDING_MODES:
        found.put(N=0, C=2, H=4, W=5, K=3, padding=(1, 2), padding_mode=mode, bias=True)
        found.put(N=2, C=2, H=3, W=4, K=3, padding=(2, 2), padding_mode=mode)
        found.put(N=2, C=2, H=3, W=4, K=3, padding=(3, 3, 2, 2), padding_mode=mode)
        found.put(N=1, C=2, H=3, W=4, K=3, padding=(4, 4, 3, 3), padding_mode=mode)
    found.put(H=1, W=1, R=1, S=1, bias=True)
    found.put(H=1, W=1, R=3, S=3, padding=(1, 1), bias=True)
    found.put(H=1, W=1, R=3, S=3, padding=(1, 1), padding_mode="replicate", bias=True)
    found.put(N=2, C=3, H=4, W=6, K=5, R=4, S=6, bias=True)
    found.put(N=2, C=3, H=2, W=4, K=5, R=4, S=6, padding=(1, 1), bias=True)
    found.put(N=2, C=3, H=4, W=6, K=5, R=2, S=2, stride=(7, 9), bias=True)
    found.put(N=1, C=1, H=64, W=1, K=1, R=3, S=1, bias=True)
    found.put(N=1, C=64, H=2, W=2, K=1, R=2, S=2, bias=True)
    return list(found)


def random_problems(count: int, dtype: torch.dtype, *, seed: int = 0) -> list[Problem]:
    """Problems of every field drawn at random, small ones more often than large ones."""
    draw = random.Random(f"random {dtype} {seed}")

    def size(most: int) -> int:
        return int(math.exp(draw.uniform(0, math.log(most + 0.99))))

    found = _Found(dtype, seed)
    while len(found) < count:
        groups = draw.choice((1, 1, 1, 2, 3, 8, 17))
        padding = tuple(draw.randint(0, 3) for _ in range(draw.choice((2, 4))))
        found.put(
            N=draw.choice((1, 1, 2, 3)),
            C=groups * size(48 // groups),
            K=groups * size(48 // groups),
            H=size(20),
            W=size(20),
            R=size(7),
            S=size(7),
            stride=(size(3), size(3)),
            padding=padding,
            dilation=(size(3), size(3)),
            groups=groups,
            padding_mode=draw.choice(PADDING_MODES),
            bias=draw.random() < 0.5,
            layout=draw.choice(LAYOUTS),
        )
    return list(found)


class _Found:
    """An ordered set of valid problems that share a dtype; each gets a seed of its own, and about
    every second one small integers for data."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self._dtype = dtype
        self._seed = seed
        self._draw = random.Random(f"values {dtype} {seed}")
        self._problems: dict[Problem, Problem] = {}

    def __len__(self) -> int:
        return len(self._problems)

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._problems.values())

    def put(self, **fields: Any) -> None:
        problem = Problem(dtype=self._dtype, **fields)
        if problem in self._problems or not problem.valid:
            return
        values = "integer" if self._dtype in INTEGER_DTYPES else self._draw.choice(VALUES)
        seed = self._seed + len(self._problems)
        self._problems[problem] = problem.replace(values=values, seed=seed)

    def add(self, pixels: int, **fields: Any) -> None:
        """Puts a problem whose output rows have ``pixels`` elements, if there is such an input."""
        shape = Problem(**fields)
        left, right, top, bottom = shape.pad
        height = 1 + pixels % 3
        fields["H"] = (height - 1) * shape.stride[0] + shape.dilation[0] * (shape.R - 1) + 1
        fields["W"] = (pixels - 1) * shape.stride[1] + shape.dilation[1] * (shape.S - 1) + 1
        fields["H"] = max(fields["H"] - top - bottom, 1)
        fields["W"] = max(fields["W"] - left - right, 1)
        self.put(**fields)


def thinned(problems: Iterable[Problem], count: int) -> list[Problem]:
    """``count`` of the problems (or all), evenly spread over their order."""
    everything = list(problems)
    if len(everything) <= count:
        return everything
    return [everything[i * len(everything) // count] for i in range(count)]


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))
