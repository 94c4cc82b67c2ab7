"""Whole models: ``convext bench models``. A model as it is against one that was converted."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import convext
from convext.bench.operands import DTYPES, LAYOUTS
from convext.bench.runner import Failure
from convext.bench.timing import CLOCKS, Effort, Spread, time_pairs

#: What is timed: forward, loss, backward and an SGD step; or forward alone without gradients.
BATCHES = {"training_step": 8, "inference": 1}
QUICK_BATCHES = {"training_step": 2, "inference": 1}
PASSES = tuple(BATCHES)

IMAGE = 224
LABELS = 1000

# A model amplifies rounding, by how much is its own affair: torch's error tells. Convext's may be
# this many times as large, or this many eps.
TIMES_TORCH = 4.0
LIMIT_IN_EPS = 100.0

FULL = Effort(budget_s=8.0, min_pairs=4, max_pairs=20)
QUICK = Effort(budget_s=1.0, min_pairs=2, max_pairs=10)


def _transformers() -> Any:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # configurations only: nothing is downloaded
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ValueError(
            "models are built from configurations of transformers, which is not installed: "
            "pip install transformers"
        ) from error
    kit: Any = transformers
    kit.logging.set_verbosity_error()
    return kit


def _resnet50() -> nn.Module:
    kit = _transformers()
    model: nn.Module = kit.ResNetForImageClassification(kit.ResNetConfig(num_labels=LABELS))
    return model


def _mobilenet_v2() -> nn.Module:
    kit = _transformers()
    # Without dropout, whose random numbers would differ between the two.
    config = kit.MobileNetV2Config(num_labels=LABELS, classifier_dropout_prob=0.0)
    model: nn.Module = kit.MobileNetV2ForImageClassification(config)
    return model


def _convnext_tiny() -> nn.Module:
    kit = _transformers()
    model: nn.Module = kit.ConvNextForImageClassification(kit.ConvNextConfig(num_labels=LABELS))
    return model


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet50": _resnet50,
    "mobilenet_v2": _mobilenet_v2,
    "convnext_tiny": _convnext_tiny,
}


@dataclass(frozen=True)
class ModelGrid:
    """The cells to measure, every combination of the sequences, and how to measure them."""

    models: Sequence[str]
    dtypes: Sequence[str]
    batches: Sequence[int] | None  # None: those of BATCHES
    layouts: Sequence[str]
    threads: Sequence[int]
    passes: Sequence[str]
    clock: str = "wall"
    batch_invariant: bool = False
    quick: bool = False

    def batches_of(self, pass_: str) -> Sequence[int]:
        """The batch sizes of a pass."""
        return self.batches or [(QUICK_BATCHES if self.quick else BATCHES)[pass_]]

    def __len__(self) -> int:
        length = sum(len(self.batches_of(pass_)) for pass_ in self.passes)
        return length * len(self.models) * len(self.dtypes) * len(self.layouts) * len(self.threads)


class Peer:
    """A model with the optimizer and the data of its steps."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor) -> None:
        self.model = model
        self.images = images
        self.labels = labels
        # So small that weights stay where they are: what is timed does not depend on them.
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def loss(self) -> Tensor:
        """The loss of a forward pass."""
        return nn.functional.cross_entropy(self.model(self.images).logits.float(), self.labels)

    def training_step(self, index: int) -> None:
        """Forward, loss, backward, SGD step."""
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def inference(self, index: int) -> None:
        """Forward without gradients."""
        with torch.inference_mode():
            self.model(self.images)


def make_peers(
    model: nn.Module, batch: int, dtype: str, layout: str, pass_: str
) -> tuple[Peer, Peer]:
    """The model as it is, and a converted copy, on the same images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, IMAGE, IMAGE, generator=generator)
    images = images.to(dtype=DTYPES[dtype], memory_format=LAYOUTS[layout])
    labels = torch.randint(0, LABELS, (batch,), generator=generator)
    model = copy.deepcopy(model).to(dtype=DTYPES[dtype])
    model.train(pass_ == "training_step")
    model.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    converted = convext.convert(copy.deepcopy(model))
    return Peer(model, images, labels), Peer(converted, images, labels)


def results(peer: Peer, pass_: str) -> Tensor:
    """What a pass computes, as one vector: the logits, or the gradients of all parameters."""
    if pass_ == "inference":
        with torch.inference_mode():
            logits: Tensor = peer.model(peer.images).logits
            return logits.double().reshape(-1)
    parameters = [each for each in peer.model.parameters() if each.requires_grad]
    grads = torch.autograd.grad(peer.loss(), parameters)
    return torch.cat([each.double().reshape(-1) for each in grads])


def reference(peer: Peer, pass_: str) -> Tensor:
    """The same in float64 from the same values, by torch."""
    model = copy.deepcopy(peer.model).to(dtype=torch.float64)
    return results(Peer(model, peer.images.double(), peer.labels), pass_)


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Length of the difference over the length of what is expected; NaN if there is one."""
    return float((found - expected).norm() / expected.norm())


def limit_of(torch_error: float, dtype: str) -> float:
    """The largest error that convext may have where torch has this one."""
    return max(TIMES_TORCH * torch_error, LIMIT_IN_EPS * torch.finfo(DTYPES[dtype]).eps)


def measure(first: Peer, second: Peer, pass_: str, effort: Effort, clock: str) -> dict[str, Any]:
    """Time both peers on one pass: the part of a cell that is figures."""
    pairs = time_pairs(getattr(first, pass_), getattr(second, pass_), effort, CLOCKS[clock])
    return {
        "ratio": pairs.ratio.as_dict(),
        "torch_ms": Spread.of(pairs.first).as_dict(1e3),
        "convext_ms": Spread.of(pairs.second).as_dict(1e3),
        "pairs": len(pairs.first),
        "calls_per_sample": pairs.calls_per_sample,
    }


def run_models(
    grid: ModelGrid, on_start: Callable[[str], None]
) -> Iterator[dict[str, Any] | Failure]:
    """Compare and time every cell of the grid; yields a dict for each timed cell.

    Where convext strays from float64 much farther than torch, a ``Failure`` takes the place of
    a cell.
    """
    threads_before = torch.get_num_threads()
    effort = QUICK if grid.quick else FULL
    try:
        with convext.batch_invariant(grid.batch_invariant):
            for name in grid.models:
                on_start(f"{name}: build")
                torch.manual_seed(0)
                model = MODELS[name]()
                for dtype in grid.dtypes:
                    for pass_ in grid.passes:
                        for batch in grid.batches_of(pass_):
                            yield from _run_cells(
                                grid, model, name, dtype, pass_, batch, effort, on_start
                            )
    finally:
        torch.set_num_threads(threads_before)


def _run_cells(
    grid: ModelGrid,
    model: nn.Module,
    name: str,
    dtype: str,
    pass_: str,
    batch: int,
    effort: Effort,
    on_start: Callable[[str], None],
) -> Iterator[dict[str, Any] | Failure]:
    """One model, pass and batch size in each layout on each number of threads."""
    expected = None
    for layout in grid.layouts:
        peers = make_peers(model, batch, dtype, layout, pass_)
        for threads in grid.threads:
            where = f"{name} {dtype} N={batch} {layout} {threads} threads {pass_}"
            on_start(f"{where}: compare")
            if expected is None:
                torch.set_num_threads(max(grid.threads))
                expected = reference(peers[0], pass_)
            torch.set_num_threads(threads)
            theirs, ours = (relative_error(results(peer, pass_), expected) for peer in peers)
            limit = limit_of(theirs, dtype)
            if not ours <= limit:  # a NaN fails too
                text = f"{pass_}: error {ours:.2g}, limit {limit:.2g}, torch {theirs:.2g}"
                yield Failure(name, dtype, batch, layout, threads, "zeros", text)
                continue
            on_start(where)
            yield {
                "layer": name,
                "dtype": dtype,
                "batch": batch,
                "layout": layout,
                "threads": threads,
                "pass": pass_,
                "padding_mode": "zeros",
                "table": "models",
                **measure(*peers, pass_, effort, grid.clock),
                "error": {"torch": float(f"{theirs:.3g}"), "convext": float(f"{ours:.3g}")},
            }
