"""What the planner expects of each kernel that can run a few layers: its own numbers."""

from __future__ import annotations

from matplotlib.figure import Figure
from style import BLUE, GREEN, ORANGE

from convext import _C

# Title; N, C, H, W; K, C / groups, R, S; stride, padding, groups.
LAYERS = [
    ("3x3, 64 channels, 56x56", (1, 64, 56, 56), (64, 64, 3, 3), 1, 1, 1),
    ("1x1, 256 to 64 channels, 56x56", (1, 256, 56, 56), (64, 256, 1, 1), 1, 0, 1),
    ("3x3 depthwise, 96 channels, 28x28", (1, 96, 28, 28), (96, 1, 3, 3), 1, 1, 96),
    ("7x7 of stride 2, 3 to 64 channels, 224x224", (1, 3, 224, 224), (64, 3, 7, 7), 2, 3, 1),
]
PARTS = {"multiply": BLUE, "move": ORANGE, "memory": GREEN}


def candidates(
    input: tuple[int, ...], weight: tuple[int, ...], stride: int, padding: int, groups: int
) -> list[tuple[str, dict[str, float]]]:
    """(algorithm, cycles) of every forward kernel that can run the problem, cheapest first."""
    problem = _C.ConvProblem(list(input), list(weight), [stride] * 2, [padding] * 2, [1, 1], groups)
    plan = _C.plan(problem)
    able = {plan.kernel} | {name for name, why in plan.refused if why.startswith("dearer")}
    plans = [_C.plan(problem, force=name) for name in able if "reference" not in name]
    costs = [(other.algorithm, dict(other.cycles)) for other in plans]
    return sorted(costs, key=lambda cost: sum(cost[1].values()))


def draw() -> Figure:
    from matplotlib import pyplot as plt

    figure, grid = plt.subplots(2, 2, figsize=(9, 5.6), layout="constrained")
    for axes, (title, *layer) in zip(grid.flat, LAYERS, strict=True):
        found = candidates(*layer)
        left = [0.0] * len(found)
        for part, colour in PARTS.items():
            widths = [cycles[part] / 1e6 for _, cycles in found]
            names = [name for name, _ in found]
            axes.barh(names, widths, left=left, color=colour, label=part, height=0.65)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_title(title, size=9, loc="left")
        axes.set_xlabel("million cycles of one core, as predicted", size=8)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center"
    )
    figure.suptitle(f"forward pass, float32, contiguous, kernels of {_C.active_isa()}", size=10)
    return figure
