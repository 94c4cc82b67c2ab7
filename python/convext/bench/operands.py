"""The tensors of one cell of the benchmark and the calls that are timed on them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import convext
from convext import _C
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

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

# Rotation past the cache is bounded: more sets than this only cost memory.
MAX_SETS = 64
MAX_SET_BYTES = 1 << 29


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


def make_call(
    peer: str,
    pass_: str,
    shape: ConvShape,
    padding_mode: str = "zeros",
    through_autograd: bool = False,
) -> Call:
    """The call of one peer for one pass: Operands -> the tensors it computed.

    Forward is what users call (``F.conv2d``, ``convext.conv2d``); the backward passes are what each
    one's autograd calls, with the mask that asks for the gradients in question. Autograd itself is
    left out; what it calls is called from Python here, which it need not be for torch.

    In other padding modes torch pads in a copy, as ``nn.Conv2d`` does. The gradient then goes
    through the padding too, which only autograd knows how to do, so torch's backward passes run
    ``torch.autograd.grad`` on a graph that the first call on some operands builds;
    ``through_autograd`` asks convext to do likewise.
    """
    if pass_ == "forward":
        return _forward(peer, shape, padding_mode)
    if through_autograd or (peer == "torch" and padding_mode != "zeros"):
        return _autograd_backward(peer, pass_, shape, padding_mode)
    return _backward_op(peer, pass_, shape, padding_mode)


def _forward(peer: str, shape: ConvShape, padding_mode: str) -> Call:
    stride, padding, dilation, groups = shape.stride, shape.padding, shape.dilation, shape.groups
    torch_conv2d, convext_conv2d = torch.nn.functional.conv2d, convext.conv2d

    def plain(operands: Operands) -> Results:
        input, weight = operands.input, operands.weight
        return (torch_conv2d(input, weight, None, stride, padding, dilation, groups),)

    def padded(operands: Operands) -> Results:
        ph, pw = padding
        input = torch.nn.functional.pad(operands.input, (pw, pw, ph, ph), padding_mode)
        return (torch_conv2d(input, operands.weight, None, stride, 0, dilation, groups),)

    def own(operands: Operands) -> Results:
        input, weight = operands.input, operands.weight
        return (convext_conv2d(input, weight, None, stride, padding, dilation, groups),)

    def own_padded(operands: Operands) -> Results:
        return (
            convext_conv2d(
                operands.input,
                operands.weight,
                None,
                stride,
                padding,
                dilation,
                groups,
                padding_mode=padding_mode,
            ),
        )

    if peer == "torch":
        return plain if padding_mode == "zeros" else padded
    return own if padding_mode == "zeros" else own_padded


def _backward_op(peer: str, pass_: str, shape: ConvShape, padding_mode: str) -> Call:
    stride, padding, dilation = list(shape.stride), list(shape.padding), list(shape.dilation)
    groups, mask = shape.groups, OUTPUT_MASKS[pass_]
    aten_backward = torch.ops.aten.convolution_backward.default
    convext_backward = torch.ops.convext.conv2d_backward.default

    def plain(operands: Operands) -> Results:
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

    # What autograd calls for plain tensors on the CPU; anything else goes through the operator.
    geometry = _C.pack_geometry(
        tuple(stride), tuple(padding), tuple(dilation), groups, padding_mode
    )
    needed = tuple(mask or ())

    def own(operands: Operands) -> Results:
        grads: Results | None = None
        if geometry >= 0:
            grads = _C.short_conv2d_backward(
                operands.grad_output, operands.input, operands.weight, geometry, needed
            )
        if grads is None:
            grads = convext_backward(
                operands.grad_output,
                operands.input,
                operands.weight,
                stride,
                padding,
                dilation,
                groups,
                padding_mode,
                mask,
            )
        return grads

    return plain if peer == "torch" else own


def _autograd_backward(peer: str, pass_: str, shape: ConvShape, padding_mode: str) -> Call:
    forward, mask = _forward(peer, shape, padding_mode), OUTPUT_MASKS[pass_]
    assert mask is not None
    # The operands are kept beside the graph, or another object could come to have their id.
    graphs: dict[int, tuple[Operands, Tensor, list[Tensor]]] = {}

    def graph(operands: Operands) -> tuple[Operands, Tensor, list[Tensor]]:
        leaves = Operands(
            operands.input.detach().requires_grad_(mask[0]),
            operands.weight.detach().requires_grad_(mask[1]),
            operands.grad_output,
        )
        with torch.enable_grad():
            (output,) = forward(leaves)
        wanted = [leaf for leaf in (leaves.input, leaves.weight) if leaf.requires_grad]
        return operands, output, wanted

    def backward(operands: Operands) -> Results:
        if id(operands) not in graphs:
            graphs[id(operands)] = graph(operands)
        _, output, wanted = graphs[id(operands)]
        grads = iter(torch.autograd.grad(output, wanted, operands.grad_output, retain_graph=True))
        results = tuple(next(grads) if asked else None for asked in mask)
        return results  # type: ignore[return-value]

    return backward
