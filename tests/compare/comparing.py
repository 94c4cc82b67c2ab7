"""A small model, its comparison, and what a wrong kernel may do to a result."""

import math
from collections import OrderedDict

import torch
from torch import nn

import convext

SHORT = 1e-6  # seconds: two repetitions


def small_model():
    return nn.Sequential(
        OrderedDict(
            first=nn.Conv2d(3, 8, 3, padding=1),
            norm=nn.BatchNorm2d(8),
            relu=nn.ReLU(inplace=True),
            strided=nn.Conv2d(8, 6, 3, stride=2, padding=1, bias=False),
            drop=nn.Dropout(),
            depthwise=nn.Conv2d(6, 6, 3, padding=1, groups=6, padding_mode="reflect"),
            last=nn.Conv2d(6, 4, 1),
        )
    )


LAYERS = ["first", "strided", "depthwise", "last"]


def image(*size, **options):
    return torch.randn(size or (2, 3, 9, 10), **options)


def compare(model, example_input, **options):
    return convext.compare(model, example_input, seconds=SHORT, **options)


def only(comparison):
    (layer,) = comparison.layers
    return layer


def change_one(value):
    def change(result):
        result[(-1,) * result.dim()] = value

    return change


def add_to_one(result):
    result[(0,) * result.dim()] += 1e-3 * result.abs().max()


CHANGES = {
    "NaN": change_one(math.nan),
    "infinity": change_one(math.inf),
    "one element": add_to_one,
    "sign": torch.Tensor.neg_,
    "zeros": torch.Tensor.zero_,
    "scale": lambda result: result.mul_(1.001),
    "never written": lambda result: result.fill_(math.nan),
}
