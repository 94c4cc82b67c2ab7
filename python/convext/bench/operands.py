"""The tensors of one cell of the benchmark and the calls that are timed on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import convext
from convext.bench.shapes import ConvShape

#: What is timed, and the ``output_mask`` (input, weight, bias) of the backward op for it.
OUTPUT_MASKS: dict[str, list[bool] | None] = {
    "forward": None,
    "input_grad": [True, False, False],
    "weight_grad": [False, True, False],
    "backward": [True, True, False],
}
PASSES = tuple(OUTPUT_MASKS)

#: The tensors each pass computes.
RESULTS: dict[str, tuple[str, ...]] = {
    "forward": ("output",),
    "input_grad": ("grad_input",),
    "weight_grad": ("grad_weight",),
    "backward": ("grad_input", "grad_weight"),
}

LAYOUTS: dict[str, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

PEERS = ("torch", "convext")

# Rotation past the cache is bounded: more sets than this only cost memory.
MAX_SETS = 64
MAX_SET_BYTES = 1 << 30


@dataclass(frozen=True)
class Operands:
    """input (N, C, H, W), weight (K, C / groups, R, S), grad_output (N, K, P, Q): one layout."""

    input: Tensor
    weight: Tensor
    grad_output: Tensor

    def nbytes(self) -> int:
        """Bytes of the three tensors."""
        return self.input.nbytes + self.weight.nbytes + self.grad_output.nbytes

    def to(
        self,
        *,
        dtype: torch.dtype | None = None,
        memory_format: torch.memory_format = torch.preserve_format,
    ) -> Operands:
        """All three converted, the way ``Module.to`` converts a model."""
        return Operands(
            self.input.to(dtype=dtype, memory_format=memory_format),
            self.weight.to(dtype=dtype, memory_format=memory_format),
            self.grad_output.to(dtype=dtype, memory_format=memory_format),
        )

    def clone(self) -> Operands:
        """A copy in memory of its own, same strides."""
        return Operands(self.input.clone(), self.weight.clone(), self.grad_output.clone())


def make_operands(shape: ConvShape, batch: int, dtype: torch.dtype) -> Operands:
    """Normally distributed operands in contiguous layout, the same for every run of the same cell.

    The weight is scaled as an initialised layer's (fan-in), so that half types do not overflow.
    """
    generator = torch.Generator().manual_seed(0)
    fan_in = math.prod(shape.weight_size[1:])
    return Operands(
        torch.randn(shape.input_size(batch), generator=generator),
        torch.randn(shape.weight_size, generator=generator) / math.sqrt(fan_in),
        torch.randn(shape.output_size(batch), generator=generator),
    ).to(dtype=dtype)


def rotation(operands: Operands, cache_bytes: int) -> list[Operands]:
    """Enough copies of the operands that a round over them does not fit into the cache.

    Every call takes the next set, so neither peer finds the data of its last call (or of the
    peer's) in the cache. Operands larger than twice the cache evict themselves: one set is enough.
    """
    size = max(operands.nbytes(), 1)
    sets = math.ceil(2 * cache_bytes / size)
    sets = max(1, min(sets, MAX_SETS, MAX_SET_BYTES // size))
    return [operands] + [operands.clone() for _ in range(sets - 1)]


Results = tuple[Tensor, ...]
Call = Callable[[Operands], Results]


def make_call(peer: str, pass_: str, shape: ConvShape) -> Call:
    """The call of one peer for one pass: Operands -> the tensors it computed.

    Forward is what users call (``F.conv2d``, ``convext.conv2d``); the backward passes are the ops
    that autograd calls, with the mask that asks for the gradients in question. Autograd itself, the
    same for both, is left out.
    """
    stride, padding, dilation = list(shape.stride), list(shape.padding), list(shape.dilation)
    groups = shape.groups
    mask = OUTPUT_MASKS[pass_]

    if mask is None:
        conv2d = torch.nn.functional.conv2d if peer == "torch" else convext.conv2d

        def forward(operands: Operands) -> Results:
            return (
                conv2d(
                    operands.input,
                    operands.weight,
                    None,
                    shape.stride,
                    shape.padding,
                    shape.dilation,
                    groups,
                ),
            )

        return forward

    if peer == "torch":
        aten_backward = torch.ops.aten.convolution_backward.default

        def backward(operands: Operands) -> Results:
            grads: Results = aten_backward(
                operands.grad_output,
                operands.input,
                operands.weight,
                None,
                stride,
                padding,
                dilation,
                False,
                [0, 0],
                groups,
                mask,
            )
            return grads
    else:
        convext_backward = torch.ops.convext.conv2d_backward.default

        def backward(operands: Operands) -> Results:
            grads: Results = convext_backward(
                operands.grad_output,
                operands.input,
                operands.weight,
                stride,
                padding,
                dilation,
                groups,
                "zeros",
                mask,
            )
            return grads

    return backward
