"""Swap convext into a model of transformers: the same outputs, the same gradients.

Models are made from configurations with random weights; nothing is downloaded.
"""

from __future__ import annotations

import copy

import torch
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
)

import convext


def tiny_models() -> dict[str, torch.nn.Module]:
    resnet = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 2, 1, 1], num_labels=5
    )
    convnext = ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=5)
    return {
        "ResNet": ResNetForImageClassification(resnet),
        "ConvNeXt": ConvNextForImageClassification(convnext),
    }


def logits_and_grads(
    model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(images).logits
    loss = torch.nn.functional.cross_entropy(logits, labels)
    return logits, list(torch.autograd.grad(loss, list(model.parameters())))


def main() -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    for name, model in tiny_models().items():
        before = model.eval()
        after = convext.convert(copy.deepcopy(before))
        swapped = sum(isinstance(module, convext.ConvExt2d) for module in after.modules())
        assert swapped > 0

        logits, grads = logits_and_grads(before, images, labels)
        swapped_logits, swapped_grads = logits_and_grads(after, images, labels)
        torch.testing.assert_close(swapped_logits, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(swapped_grads, grads, rtol=1e-3, atol=1e-4)
        print(f"{name}: {swapped} convolutions swapped, outputs and gradients agree")


if __name__ == "__main__":
    main()
