"""The two operators written with ATen's: a portable definition, and the fallback.

Used for
- function transforms (``torch.func``) and forward-mode AD, whose rules ATen's convolution has and
  a custom operator cannot register completely,
- devices that convext has no kernel for,
- ``convext.decompositions()``, which makes exported programs free of convext,
- the output shape in the fake kernels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

aten = torch.ops.aten

Grads = tuple[Tensor | None, Tensor | None, Tensor | None]


def is_plain_padding(padding: Sequence[int], padding_mode: str) -> bool:
    """Whether ATen's convolution can do this padding itself: zeros, the same on both sides."""
    return padding_mode == "zeros" and len(padding) == 2


def four_sided(padding: Sequence[int]) -> list[int]:
    """Padding as ``F.pad`` takes it: (left, right, top, bottom)."""
    if any(p < 0 for p in padding):
        raise RuntimeError("negative padding is not supported")
    if len(padding) == 4:
        return list(padding)
    pad_h, pad_w = padding
    return [pad_w, pad_w, pad_h, pad_h]


def pad(input: Tensor, pads: Sequence[int], padding_mode: str) -> Tensor:
    """``F.pad`` with a convolution's names of modes; without writing in place.

    ``F.pad`` fills a circular padding in place, which ``torch.func.linearize`` gets wrong.
    """
    if padding_mode != "circular":
        return F.pad(
            input, list(pads), mode="constant" if padding_mode == "zeros" else padding_mode
        )
    for dim, before, after in ((-1, pads[0], pads[1]), (-2, pads[2], pads[3])):
        size = input.size(dim)
        if before > size or after > size:
            raise RuntimeError("Padding value causes wrapping around more than once.")
        input = torch.cat(
            [input.narrow(dim, size - before, before), input, input.narrow(dim, 0, after)], dim
        )
    return input


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """``convext::conv2d`` in ATen's operators: a padded copy where ATen cannot pad by itself.

    Then ``aten.conv2d`` and not ``aten.convolution``: only the former knows complex numbers.
    """
    if not is_plain_padding(padding, padding_mode):
        input = pad(input, four_sided(padding), padding_mode)
        padding = [0, 0]
    result: Tensor = aten.conv2d.default(input, weight, bias, stride, padding, dilation, groups)
    return result


def conv2d_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
    output_mask: Sequence[bool],
) -> Grads:
    """``convext::conv2d_backward`` in ATen's operators, which take no complex numbers here."""
    if grad_output.is_complex():
        geometry = (stride, padding, dilation, groups, padding_mode)
        return _complex_backward(grad_output, input, weight, geometry, output_mask)
    plain = is_plain_padding(padding, padding_mode)
    padded = input if plain else pad(input, four_sided(padding), padding_mode)
    grads: Grads = aten.convolution_backward.default(
        grad_output,
        padded,
        weight,
        [weight.size(0)],
        stride,
        padding if plain else [0, 0],
        dilation,
        False,
        [0, 0],
        groups,
        output_mask,
    )
    grad_padded, grad_weight, grad_bias = grads
    if plain or grad_padded is None:
        return grads
    return _unpad(grad_padded, input, four_sided(padding), padding_mode), grad_weight, grad_bias


def _unpad(grad_padded: Tensor, input: Tensor, pads: Sequence[int], padding_mode: str) -> Tensor:
    """The transpose of :func:`pad`: pixels' gradients go where the pixels were copied from."""
    if padding_mode == "zeros":
        return F.pad(grad_padded, [-p for p in pads])
    height, width = input.shape[2:]
    # The position every padded pixel was copied from. As floats, for F.pad lacks integer kernels in
    # some modes; exact up to 2**53.
    positions = torch.arange(height * width, device=input.device, dtype=torch.float64)
    source = pad(positions.view(1, 1, height, width), pads, padding_mode).flatten().long()
    grad = grad_padded.new_zeros((*input.shape[:2], height * width))
    return grad.index_add(2, source, grad_padded.flatten(2)).view(input.shape)


def _complex_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    geometry: tuple[Sequence[int], Sequence[int], Sequence[int], int, str],
    output_mask: Sequence[bool],
) -> Grads:
    """``g * conj(w)`` part by part: four real gradients, each of input and of weight."""

    def real_backward(part: str, other: str) -> Grads:
        return conv2d_backward(
            getattr(grad_output, part).contiguous(),
            getattr(input, other).contiguous(),
            getattr(weight, other).contiguous(),
            *geometry,
            [output_mask[0], output_mask[1], False],
        )

    grads: list[Tensor | None] = [None, None]
    if output_mask[0] or output_mask[1]:
        real_real, imag_imag = real_backward("real", "real"), real_backward("imag", "imag")
        real_imag, imag_real = real_backward("real", "imag"), real_backward("imag", "real")
        for i in range(2):
            rr, ii, ri, ir = real_real[i], imag_imag[i], real_imag[i], imag_real[i]
            if rr is not None and ii is not None and ri is not None and ir is not None:
                grads[i] = torch.complex(rr + ii, ir - ri)
    grad_bias = grad_output.sum((0, 2, 3)) if output_mask[2] else None
    return grads[0], grads[1], grad_bias
