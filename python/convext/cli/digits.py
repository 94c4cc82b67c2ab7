"""A small CNN and scikit-learn's bundled handwritten digits, for ``convext demo`` and
``convext trace``."""

from __future__ import annotations

import dataclasses
import time
from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 32
TRAINING_SAMPLES = 1437  # of 1797; the rest is for testing


@dataclasses.dataclass(frozen=True)
class Digits:
    """Images (n, 1, 8, 8) float64, mean 0 and variance 1, and labels (n,) int64: to train with and
    to test with.

    Source: the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI Machine Learning Repository, 1998, as scikit-learn ships it.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@dataclasses.dataclass
class Training:
    """One training run: the loss of every step; the mean loss and the accuracy on the test images
    of every epoch; the seconds it took; the trained model."""

    model: nn.Sequential
    steps: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)
    accuracies: list[float] = dataclasses.field(default_factory=list)
    seconds: float = 0.0


def load(seed: int) -> Digits:
    """The digits in an order that the seed decides.

    Raises:
        ModuleNotFoundError: without scikit-learn.
    """
    from sklearn.datasets import load_digits  # only this needs it, and it is slow to import

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).reshape(-1, 1, 8, 8)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    images, labels = images[order], labels[order]
    cut = TRAINING_SAMPLES
    images = (images - images[:cut].mean()) / images[:cut].std()
    return Digits(images[:cut], labels[:cut], images[cut:], labels[cut:])


def make_model(seed: int, dtype: torch.dtype) -> nn.Sequential:
    """Convolutions of several kinds: plain, strided, depthwise with reflected borders, 1x1.

    The initial weights are those of float32 whatever the dtype. The activation is smooth on
    purpose: where a ReLU's input rounds to the other side of 0 its gradient jumps, and two right
    runs part ways by 10 % of the loss within five epochs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            OrderedDict(
                first=nn.Conv2d(1, 16, 3, padding=1),
                gelu1=nn.GELU(),
                strided=nn.Conv2d(16, 32, 3, stride=2, padding=1),
                gelu2=nn.GELU(),
                depthwise=nn.Conv2d(32, 32, 3, padding=1, groups=32, padding_mode="reflect"),
                pointwise=nn.Conv2d(32, 64, 1),
                gelu3=nn.GELU(),
                flatten=nn.Flatten(),
                head=nn.Linear(64 * 4 * 4, 10),
            )
        )
    return model.to(dtype)


def train(
    model: nn.Sequential,
    digits: Digits,
    epochs: int,
    seed: int,
    on_epoch: Callable[[Training], object] = lambda training: None,
) -> Training:
    """Plain stochastic gradient descent; the seed decides the order of the batches.

    Not Adam: it divides gradients by their size, which turns the rounding of the smallest ones into
    steps of full length. ``on_epoch`` gets the training so far after every epoch.
    """
    dtype = next(model.parameters()).dtype
    images, test_images = digits.images.to(dtype), digits.test_images.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    shuffle = torch.Generator().manual_seed(seed)
    training = Training(model)
    start = time.perf_counter()
    for _ in range(epochs):
        steps = []
        for batch in torch.randperm(len(images), generator=shuffle).split(BATCH):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), digits.labels[batch])
            loss.backward()
            optimizer.step()
            steps.append(loss.item())
        with torch.no_grad():
            right = model(test_images).argmax(1) == digits.test_labels
        training.steps += steps
        training.losses.append(sum(steps) / len(steps))
        training.accuracies.append(float(right.double().mean()))
        training.seconds = time.perf_counter() - start
        on_epoch(training)
    return training
