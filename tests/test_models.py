"""Real architectures, built from their configurations by transformers (nothing is downloaded), with
every ``nn.Conv2d`` converted."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import convext

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers", reason="pip install 'convext[test]' brings it")

LABELS = 5


def resnet() -> nn.Module:
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 2, 1, 1],
        layer_type="bottleneck",
        num_labels=LABELS,
    )
    return transformers.ResNetForImageClassification(config)


def convnext() -> nn.Module:
    config = transformers.ConvNextConfig(
        hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], num_labels=LABELS
    )
    return transformers.ConvNextForImageClassification(config)


def mobilenet_v2() -> nn.Module:
    config = transformers.MobileNetV2Config(
        depth_multiplier=0.25, expand_ratio=2, classifier_dropout_prob=0.0, num_labels=LABELS
    )
    return transformers.MobileNetV2ForImageClassification(config)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {  # with the number of convolutions
    "resnet": (resnet, 19),
    "convnext": (convnext, 9),
    "mobilenet_v2": (mobilenet_v2, 52),
}
models = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _fresh_compiler_on_one_thread() -> Iterator[None]:
    """Layers this small lose more to waking threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    torch.set_num_threads(threads)


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, nn.Module]:
    """The model as it is and converted, from one seed."""
    build, convolutions = MODELS[name]
    torch.manual_seed(0)
    theirs = build().to(dtype)
    torch.manual_seed(0)
    ours = build().to(dtype)
    assert convext.convert(ours) is ours
    converted = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    assert len(converted) == convolutions
    assert all(type(m) is convext.ConvExt2d for m in converted)
    assert not any(isinstance(m, convext.ConvExt2d) for m in theirs.modules())
    return theirs, ours


def settle(model: nn.Module) -> None:
    """Gives batch normalisation the statistics of the images, so that signals do not fade."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the average over all batches
    with torch.no_grad():
        model.train()(images(next(model.parameters()).dtype, 8))
    model.eval()


def images(dtype: torch.dtype = torch.float64, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 64, 48, dtype=torch.float64).to(dtype)


def loss_of(model: nn.Module, input: Tensor) -> Tensor:
    labels = torch.arange(len(input)) % LABELS
    loss: Tensor = model(input, labels=labels).loss
    return loss


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert list(actual) == list(expected)
    for name, tensor in expected.items():
        difference = float((actual[name] - tensor).detach().abs().max())
        assert difference <= tolerance * max(1.0, float(tensor.detach().abs().max())), name


@models
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_forward_and_all_gradients(
    name: str, training: bool, memory_format: torch.memory_format
) -> None:
    theirs, ours = (m.train(training).to(memory_format=memory_format) for m in pair(name))
    input = images().contiguous(memory_format=memory_format).requires_grad_()
    results = []
    for model in (theirs, ours):
        output = model(input, labels=torch.tensor([0, 1, 2, 3]))
        parameters = dict(model.named_parameters())
        grads = torch.autograd.grad(output.loss, [input, *parameters.values()])
        assert all(bool(grad.any()) for grad in grads)
        named = dict(zip(["input", *parameters], grads, strict=True))
        results.append({"logits": output.logits.detach(), **named})
    assert_same(results[1], results[0], 1e-9)


@models
def test_float32_is_as_close_to_float64_as_torchs(name: str) -> None:
    exact, _ = pair(name)
    settle(exact)
    input = images()
    with torch.no_grad():
        expected = exact(input).logits
        errors = []
        for model in pair(name, torch.float32):
            model.load_state_dict(exact.state_dict())
            difference = model.eval()(input.float()).logits - expected
            errors.append(float(difference.norm() / expected.norm()))
    assert 0 < errors[0] < 1e-3
    assert errors[1] <= 3 * errors[0] + 1e-6


@models
def test_state_dict_round_trip(name: str) -> None:
    theirs, ours = pair(name)
    torch.manual_seed(1)
    trained = MODELS[name][0]().double()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    input = images()
    expected = trained.eval()(input).logits
    ours.load_state_dict(trained.state_dict())
    assert_same({"": ours.eval()(input).logits}, {"": expected}, 1e-9)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(theirs.eval()(input).logits, expected)
    reverted = convext.revert(copy.deepcopy(ours))
    assert not any(isinstance(m, convext.ConvExt2d) for m in reverted.modules())
    assert torch.equal(reverted.eval()(input).logits, expected)


@models
def test_five_training_steps(name: str) -> None:
    """In float64, from one seed: losses, weights and running statistics match to 1e-8."""
    histories = []
    for model in pair(name):
        torch.manual_seed(2)
        optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)
        losses = []
        for _ in range(5):
            optimizer.zero_grad()
            loss = loss_of(model, images())
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        histories.append((torch.stack(losses), state(model)))
    (their_losses, theirs), (our_losses, ours) = histories
    assert their_losses.unique().numel() == 5
    assert (our_losses - their_losses).abs().max() <= 1e-8
    assert list(ours) == list(theirs)
    for key, tensor in theirs.items():
        assert (ours[key] - tensor).abs().max() <= 1e-8, key


@models
def test_compile(name: str) -> None:
    _, ours = pair(name)
    compiled: Any = torch.compile(ours, backend="aot_eager")
    input = images(batch=2)
    results = []
    for model in (ours, compiled):
        before = state(ours)
        logits = model(input).logits
        grads = torch.autograd.grad(logits.pow(2).sum(), list(ours.parameters()))
        results.append({"logits": logits.detach(), **dict(enumerate(grads))})
        ours.load_state_dict(before)  # running statistics
    assert_same(results[1], results[0], 1e-9)


def test_compile_with_inductor() -> None:
    """Forward alone: Inductor's C++ compiler takes its time."""
    _, ours = pair("convnext", torch.float32)
    input = images(torch.float32, 2)
    with torch.no_grad():
        actual = torch.compile(ours.eval(), backend="inductor")(input).logits
        torch.testing.assert_close(actual, ours(input).logits, rtol=1e-4, atol=1e-4)


@models
def test_compiled_graph_holds_the_operator(name: str) -> None:
    """One graph, with convext's convolutions in it."""
    _, ours = pair(name, torch.float32)
    found: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        targets = [str(node.target) for node in graph.graph.nodes]
        found.append(sum("convext" in target for target in targets))
        return graph.forward

    with torch.no_grad():
        torch.compile(ours.eval(), backend=backend, fullgraph=True)(images(torch.float32, 1))
    assert found == [MODELS[name][1]]


@models
def test_autocast(name: str) -> None:
    """Convolutions run in bfloat16, the loss and the gradients stay near those of float32."""
    theirs, ours = pair(name, torch.float32)
    input = images(torch.float32)
    dtypes = set()
    for module in ours.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, __, output: dtypes.add(output.dtype))
    settle(theirs)
    ours.eval().load_state_dict(theirs.state_dict())
    exact = theirs(input).logits.detach()
    errors = []
    dtypes.clear()
    for model in (theirs, ours):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(input, labels=torch.arange(4))
        errors.append(float((output.logits.detach().float() - exact).norm() / exact.norm()))
        output.loss.backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.dtype == torch.float32
            assert bool(parameter.grad.isfinite().all())
    assert dtypes == {torch.bfloat16}
    assert 0 < errors[0] < 0.5  # torch's own, after up to 52 layers of bfloat16
    assert errors[1] <= 3 * errors[0]
