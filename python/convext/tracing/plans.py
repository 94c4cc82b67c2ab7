"""What the planner says, as traces show it."""

from __future__ import annotations

from typing import Any

from .. import _C
from .._sources import chapter_of
from ..explaining import cpu_sources
from ..plan import PASSES


def kernel_of(plan: _C.Plan) -> dict[str, Any]:
    """The kernel of a plan, fit for JSON: its tile, its sources and its chapter."""
    return {
        "kernel": plan.kernel,
        "algorithm": plan.algorithm,
        "tile": [plan.mr, plan.nr],
        "sources": list(cpu_sources(plan)),
        "chapter": chapter_of(plan.algorithm, plan.pass_),
    }


def planned(problem: _C.ConvProblem) -> dict[str, dict[str, Any]]:
    """The plan of every pass of a problem, fit for JSON: the kernel, why, and why not others."""
    plans = {}
    for name, short in PASSES.items():
        plan = _C.plan(problem, short)
        plans[name] = {
            **kernel_of(plan),
            "isa": plan.isa,
            "reason": plan.reason,
            "refused": [list(pair) for pair in plan.refused],
            "workspace_bytes": plan.workspace_bytes,
        }
    return plans


TILES: dict[str, dict[str, str]] = {
    "indirect": {
        "rows": "pixels",
        "lanes": "channels",
        "text": "mr output pixels times nr output channels of one group; a table of pointers finds "
        "each pixel's window",
    },
    "indirect_pairs": {
        "rows": "pixels",
        "lanes": "channels",
        "text": "mr output pixels times nr output channels of one group, two products a step",
    },
    "direct": {
        "rows": "row pixels",
        "lanes": "channels",
        "text": "mr neighbouring pixels of one output row times nr output channels of one group",
    },
    "depthwise": {
        "rows": "row pixels",
        "lanes": "all channels",
        "text": "mr neighbouring pixels of one output row times nr channels; nothing is summed "
        "over channels",
    },
    "grouped": {
        "rows": "row pixels",
        "lanes": "all channels",
        "text": "mr neighbouring pixels of one output row times nr output channels, of one group "
        "or of several",
    },
    "im2col": {
        "rows": "channels",
        "lanes": "pixels",
        "text": "mr output channels of one group times nr output pixels: the operands change "
        "places",
    },
    "direct_planes": {
        "rows": "channels",
        "lanes": "row pixels",
        "text": "mr output channels of one group times nr neighbouring pixels of one output row",
    },
    "grouped_planes": {
        "rows": "channels",
        "lanes": "pixels",
        "text": "mr output channels of one group times nr pixels of the plane; what lies between "
        "its rows is computed too and not stored",
    },
    "pointwise": {
        "rows": "channels",
        "lanes": "pixels",
        "text": "mr output channels times nr pixels of a contiguous image",
    },
    "dot": {
        "rows": "channels",
        "lanes": "depth",
        "text": "mr output channels; the lanes run along the sum, which is added up at its end",
    },
    "winograd2": {
        "rows": "blocks of 2",
        "lanes": "channels",
        "text": "mr blocks of 2x2 output pixels times nr output channels, once for each of the 16 "
        "points of the transform",
    },
    "winograd4": {
        "rows": "blocks of 4",
        "lanes": "channels",
        "text": "mr blocks of 4x4 output pixels times nr output channels, once for each of the 36 "
        "points of the transform",
    },
    "polyphase2": {
        "rows": "blocks of 2",
        "lanes": "channels",
        "text": "mr blocks of 2x2 output pixels times nr output channels, once for each of the 25 "
        "points of the transform",
    },
    "polyphase4": {
        "rows": "blocks of 4",
        "lanes": "channels",
        "text": "mr blocks of 4x4 output pixels times nr output channels, once for each of the 81 "
        "points of the transform",
    },
    "reference": {
        "rows": "pixels",
        "lanes": "channels",
        "text": "one output at a time",
    },
}
"""What the rows (mr) and the lanes (nr) of each forward algorithm's register tile are, as the heads
of the kernels' sources tell it. A tile of ``row pixels`` does not reach over the end of an output
row; ``blocks of m`` are squares of m x m output pixels."""
