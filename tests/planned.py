"""The C++ plan of one pass, for tests of what planners decide."""

from __future__ import annotations

from typing import Any

import torch

import convext
from convext.plan import PASSES


def planned(
    input: torch.Tensor,
    weight: torch.Tensor,
    *geometry: Any,
    direction: str = "forward",
    **more: Any,
) -> convext._C.Plan:
    """Arguments as for :func:`convext.problem`, and the pass."""
    return convext._C.plan(convext.problem(input, weight, *geometry, **more), PASSES[direction])
