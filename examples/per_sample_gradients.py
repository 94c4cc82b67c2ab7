"""The gradient of each sample's own loss, for all samples at once, with torch.func.

``torch.func.grad`` differentiates by rules that a custom operator cannot register, so PyTorch's own
convolution computes these gradients; the loop they are held against runs on convext's kernels. A
``torch.vmap`` without ``grad`` around it does too, as the second half shows.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

import convext


def main() -> None:
    torch.manual_seed(0)
    model = convext.convert(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 64, 3))
    )
    images, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1])
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(
        parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor
    ) -> torch.Tensor:
        logits = functional_call(model, parameters, (image.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, label.unsqueeze(0))

    together = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)

    for i in range(len(images)):
        model.zero_grad()
        nn.functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(together[name][i], parameter.grad, msg=f"{name} of {i}")

    # An ensemble: each image through a filter of its own, one call.
    filters = torch.randn(5, 4, 3, 3, 3)
    outputs = vmap(lambda image, weight: convext.conv2d(image, weight, padding=1))(images, filters)
    for i in range(len(images)):
        torch.testing.assert_close(
            outputs[i], convext.conv2d(images[i], filters[i], padding=1), rtol=1e-4, atol=1e-4
        )
    print(f"gradients of {len(images)} samples agree with a loop; so does an ensemble by vmap")


if __name__ == "__main__":
    main()
