"""A convolution that is right, ones that are spoiled, and a problem for them."""

import torch.nn.functional as F

from convext.testing import Problem

TYPICAL = Problem(N=2, C=3, H=6, W=7, K=4, R=3, S=2, stride=(2, 1), padding=(1, 1), bias=True)


def sequential(input, weight, bias=None, *, stride, padding, dilation, groups, padding_mode):
    """A convolution that adds tap after tap in float32: right, but in an order of its own."""
    left, right, top, bottom = (
        padding if len(padding) == 4 else (padding[1],) * 2 + (padding[0],) * 2
    )
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = F.pad(input.float(), (left, right, top, bottom), mode=mode)
    patches = F.unfold(padded, weight.shape[2:], dilation=dilation, stride=stride)
    n, k = input.shape[0], weight.shape[0]
    terms = weight[0].numel()
    patches = patches.reshape(n, groups, 1, terms, -1)
    products = patches * weight.float().reshape(1, groups, k // groups, terms, 1)
    total = products[..., 0, :]
    for term in range(1, terms):
        total = total + products[..., term, :]
    total = total.reshape(n, k, -1)
    if bias is not None:
        total = total + bias.float()[:, None]
    size = [
        (extent - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis, extent in enumerate(padded.shape[2:])
    ]
    return total.reshape(n, k, *size).to(input.dtype)


def spoiled(change):
    """``sequential``, its output changed in place by ``change``."""

    def conv2d(*args, **kwargs):
        output = sequential(*args, **kwargs)
        spoil = output.detach().clone()
        changed = change(spoil)
        return output + (spoil if changed is None else changed) - output.detach()

    return conv2d
