"""The operators, and operands and geometries for their tests."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

conv2d_op = torch.ops.convext.conv2d.default
backward_op = torch.ops.convext.conv2d_backward.default

Geometry = tuple[list[int], list[int], list[int], int, str]

GEOMETRIES: dict[str, Geometry] = {
    "plain": ([1, 1], [0, 0], [1, 1], 1, "zeros"),
    "strided": ([2, 1], [1, 2], [1, 2], 1, "zeros"),
    "grouped": ([1, 1], [1, 1], [1, 1], 2, "zeros"),
    "four_sided": ([1, 2], [0, 1, 2, 1], [1, 1], 1, "zeros"),
    "reflect": ([1, 1], [2, 1], [1, 1], 1, "reflect"),
    "replicate": ([2, 2], [1, 0, 3, 2], [1, 1], 2, "replicate"),
    "circular": ([1, 1], [3, 2, 0, 1], [1, 1], 1, "circular"),
}
geometries = pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)


def operands(
    groups: int = 1, dtype: torch.dtype = torch.float64, requires_grad: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    tensors = (
        torch.randn(2, 4, 6, 5, dtype=dtype),
        torch.randn(6, 4 // groups, 3, 2, dtype=dtype),
        torch.randn(6, dtype=dtype),
    )
    for tensor in tensors:
        tensor.requires_grad_(requires_grad)
    return tensors
