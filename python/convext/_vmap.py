"""vmap for the two operators: the batch is folded into samples, output channels or groups.

In the shapes below B is the size of the mapped dimension and G the number of groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Dims = tuple[int | None, ...]


def _to_front(tensor: Tensor, dim: int | None) -> Tensor:
    return tensor if dim is None else tensor.movedim(dim, 0)


def _fold(tensor: Tensor, dim: int) -> Tensor:
    """(B, ...) with ``dim`` counted behind B -> B merged into that dimension, B outermost."""
    return tensor.movedim(0, dim).flatten(dim, dim + 1)


def _split(tensor: Tensor, dim: int, *sizes: int) -> Tensor:
    """Splits a dimension into ``sizes`` and a rest."""
    rest = tensor.size(dim) // math.prod(sizes)
    return tensor.reshape(*tensor.shape[:dim], *sizes, rest, *tensor.shape[dim + 1 :])


def _unfold(tensor: Tensor, dim: int, batch: int) -> Tensor:
    """The inverse of :func:`_fold`: (..., B * size, ...) -> (B, ..., size, ...)."""
    return _split(tensor, dim, batch).movedim(dim, 0)


def conv2d(
    info: Any,
    in_dims: Dims,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> tuple[Tensor, int]:
    """``convext::conv2d`` with any of its three tensors batched; the result is batched in front."""
    op = torch.ops.convext.conv2d.default
    batch = info.batch_size
    input_dim, weight_dim, bias_dim = in_dims[:3]
    input, weight = _to_front(input, input_dim), _to_front(weight, weight_dim)
    bias = None if bias is None else _to_front(bias, bias_dim)
    # A bias that is batched where the channels are not cannot ride along.
    outer_bias = None
    if bias is not None and bias_dim is not None and weight_dim is None:
        outer_bias, bias = bias, None
    geometry = (stride, padding, dilation)

    if weight_dim is None:
        if input_dim is None:
            output = op(input, weight, bias, *geometry, groups, padding_mode).unsqueeze(0)
        else:  # samples: (B * N, C, H, W)
            output = op(_fold(input, 0), weight, bias, *geometry, groups, padding_mode)
            output = _unfold(output, 0, batch)
    else:
        channels = weight.size(1)
        if bias is not None and bias_dim is None:
            bias = bias.expand(batch, channels)
        if input_dim is None:  # output channels of each group: (G, B, K / G) filters
            weight = _split(weight, 1, groups).movedim(0, 1).flatten(0, 2)
            if bias is not None:
                bias = _split(bias, 1, groups).movedim(0, 1).flatten()
            output = op(input, weight, bias, *geometry, groups, padding_mode)
            output = _split(output, 1, groups, batch).movedim(2, 0).flatten(2, 3)
        else:  # groups: (N, B * C, H, W) with B * G groups
            bias = None if bias is None else bias.flatten()
            output = op(
                _fold(input, 1),
                weight.flatten(0, 1),
                bias,
                *geometry,
                batch * groups,
                padding_mode,
            )
            output = _unfold(output, 1, batch)
    if outer_bias is not None:
        output = output + outer_bias[:, None, :, None, None]
    return output, 0


def conv2d_backward(
    info: Any,
    in_dims: Dims,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
    output_mask: Sequence[bool],
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """``convext::conv2d_backward``: B independent problems are B times the groups of one.

    What is not batched is repeated, which is right for every mixture of batched arguments.
    """
    op = torch.ops.convext.conv2d_backward.default
    batch = info.batch_size

    def front(tensor: Tensor, dim: int | None) -> Tensor:
        if dim is None:
            return tensor.unsqueeze(0).expand(batch, *tensor.shape)
        return tensor.movedim(dim, 0)

    grad_output = front(grad_output, in_dims[0])
    input = front(input, in_dims[1])
    weight = front(weight, in_dims[2])
    grad_input, grad_weight, grad_bias = op(
        _fold(grad_output, 1),
        _fold(input, 1),
        weight.flatten(0, 1),
        stride,
        padding,
        dilation,
        batch * groups,
        padding_mode,
        output_mask,
    )
    results = (
        None if grad_input is None else _unfold(grad_input, 1, batch),
        None if grad_weight is None else _unfold(grad_weight, 0, batch),
        None if grad_bias is None else _unfold(grad_bias, 0, batch),
    )
    return results, tuple(None if result is None else 0 for result in results)
