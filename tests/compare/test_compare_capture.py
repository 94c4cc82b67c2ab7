"""``convext.compare``: what it takes from a model and what it leaves out; it leaves no trace."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F
from comparing import LAYERS, compare, image, small_model
from torch import nn
from torch.utils.checkpoint import checkpoint

from convext import _capture

# ------------------------------------------------------------------- what it leaves out, and why


class Branching(nn.Module):
    """A shared layer with two names, one that is called twice, and others not compared."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.repeated = nn.Conv2d(4, 4, 3, padding=1)
        self.again = self.repeated
        self.unused = nn.Conv2d(4, 4, 1)
        self.own = OwnForward(4, 4, 1)
        self.alias = Alias(4, 4, 1)
        self.elsewhere = nn.Conv2d(4, 4, 1, device="meta")
        self.overflowing = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        x = self.again(self.repeated(self.stem(x)))
        x = self.alias(self.own(x))
        self.elsewhere(x.to("meta"))
        self.overflowing(x * math.inf)
        return x


class OwnForward(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


class Alias(nn.Conv2d):
    pass


def test_every_layer_is_named():
    comparison = compare(Branching(), image())
    assert comparison.ok
    assert [layer.label for layer in comparison.layers] == [
        "stem",
        "repeated = again",
        "repeated = again (call 2)",
        "alias",
    ]
    assert [layer.call for layer in comparison.layers] == [1, 1, 2, 1]
    assert comparison.not_compared == {
        "own": "OwnForward is a subclass with its own _conv_forward",
        "unused": "the model does not call it",
        "elsewhere": "its input is on meta, and layers are compared on the CPU",
        "overflowing": "its input holds NaN or infinity",
    }
    assert str(comparison).endswith("\n4 of 8 layers compared, all within the bounds")
    for name, reason in comparison.not_compared.items():
        assert f"not compared: {name}: {reason}" in str(comparison)
        assert f"not compared: {name}: {reason}" in comparison._repr_html_()


def test_dtypes_without_kernels_are_named(monkeypatch):
    # nn.Conv2d holds no weights that torch could not convolve, so nothing runs here.
    layer = nn.Conv2d(3, 4, 1)
    layer.weight = nn.Parameter(layer.weight.detach().to(torch.float8_e5m2), requires_grad=False)
    monkeypatch.setattr(F, "conv2d", lambda input, *args: input)
    comparison = compare(layer, image(dtype=torch.float32).to(torch.float8_e5m2))
    assert comparison.not_compared == {
        "the model itself": "its input is torch.float8_e5m2, which has no kernels that could be "
        "compared"
    }


def test_nothing_compared_is_not_ok():
    comparison = compare(nn.Conv2d(3, 4, 1, device="meta"), image(device="meta"))
    assert not comparison.ok
    assert comparison.totals == {
        "layers": 0,
        "disagreeing": 0,
        "workspace_bytes": 0,
        "forward": None,
        "backward": None,
        "worst": None,
    }
    assert str(comparison).endswith("no layer was compared")
    assert "no layer was compared" in comparison._repr_html_()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients_forward_alone_is_compared(context):
    with context():
        x = image()
        comparison = compare(small_model(), x)
    assert comparison.ok
    for layer in comparison.layers:
        assert list(layer.passes) == ["forward"]
        assert layer.note == "forward only: no gradient reaches its output"
        assert layer.forward is not None
        assert layer.backward is None
    assert comparison.totals["backward"] is None


def test_layers_that_no_gradient_reaches_say_so():
    model = small_model()
    model.first.requires_grad_(False)
    model.norm.requires_grad_(False)
    comparison = compare(model, image())
    notes = {layer.name: layer.note for layer in comparison.layers}
    expected = "forward only: no gradient reaches its output"
    assert notes == dict.fromkeys(LAYERS, "") | {"first": expected}
    assert f"first: {expected}" in str(comparison)
    assert not any(parameter.requires_grad for parameter in model.first.parameters())


def test_a_gradient_that_overflows_is_left_out():
    comparison = compare(small_model(), image(), loss=lambda output: output.sum() * math.inf)
    assert comparison.ok
    for layer in comparison.layers:
        assert list(layer.passes) == ["forward"]
        assert layer.note == "forward only: the gradient of its output holds NaN or infinity"


# --------------------------------------------------------------------------- what it captures


def captured(model, *inputs, loss=None):
    capture = _capture.Capture(_capture.convolutions(model))
    _capture.run(model, inputs, loss, capture)
    return capture.calls


class InPlace(nn.Module):
    """Overwrites its input, and the convolution's output."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return 3 * F.relu_(self.conv(x.mul_(2)))


def test_operands_are_those_of_the_call():
    model, x = InPlace(), image()
    before = x.clone()
    (call,) = captured(model, x, loss=torch.sum)
    assert torch.equal(x, before)
    assert torch.equal(call.input, 2 * x)
    assert torch.equal(call.weight, model.conv.weight)
    assert torch.equal(call.grad_output, 3 * (model.conv(2 * x) > 0).float())
    assert call.need == (False, True, True)


def test_the_gradient_is_that_of_the_convolution_not_of_hooks():
    layer, x = nn.Conv2d(3, 4, 3), image()
    layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    layer.register_forward_hook(lambda module, args, output: 3 * output)
    (call,) = captured(layer, x, loss=torch.sum)
    assert torch.equal(call.input, x + 1)
    assert torch.equal(call.grad_output, torch.full_like(call.grad_output, 3))


def test_inputs_overwritten_later_are_kept():
    class Overwriting(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            output = self.conv(x)
            x.zero_()
            return output

    x = image()
    with torch.no_grad():
        (call,) = captured(Overwriting(), x)
    assert torch.equal(call.input, x)


def test_recomputation_does_not_count():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_model()

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False)

    comparison = compare(Checkpointed(), image())
    assert [layer.label for layer in comparison.layers] == [f"body.{name}" for name in LAYERS]
    assert all(layer.backward for layer in comparison.layers)


def test_parametrized_layers_are_compared():
    model = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    (call,) = captured(model, image())
    assert torch.equal(call.weight, model.weight)
    assert compare(model, image()).ok


def test_compiled_models_run_eagerly():
    model = torch.compile(small_model(), backend="eager")
    model(image())
    comparison = compare(model, image())
    assert comparison.ok
    assert [layer.name for layer in comparison.layers] == [f"_orig_mod.{name}" for name in LAYERS]
    torch._dynamo.reset()


def test_autocast_decides_the_dtype():
    class Inside(nn.Module):
        def __init__(self, enabled=True):
            super().__init__()
            self.body, self.enabled = small_model(), enabled

        def forward(self, x):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.enabled):
                return self.body(x)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = compare(small_model(), image())
        assert torch.is_autocast_enabled("cpu")
    for comparison in (around, compare(Inside(), image())):
        assert comparison.ok
        assert {layer.problem.dtype for layer in comparison.layers} == {torch.bfloat16}
        assert all(layer.backward for layer in comparison.layers)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        double = compare(small_model().double(), image().double())
        single = compare(Inside(enabled=False), image())
    for comparison, dtype in ((double, torch.float64), (single, torch.float32)):
        assert comparison.ok
        assert {layer.problem.dtype for layer in comparison.layers} == {dtype}


class Calling(nn.Module):
    """Takes several arguments and returns what models return."""

    @dataclasses.dataclass
    class Output:
        features: tuple
        extra: dict

    def __init__(self):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, image, *, scale=1.0, more=()):
        second = more[0] if more else image
        return self.Output((self.conv(input=image * scale),), {"other": [self.other(second), 1]})


@pytest.mark.parametrize(
    "example_input",
    [
        image(),
        (image(),),
        {"image": image(), "scale": 2.0},
        {"image": image(), "more": [image()]},
    ],
    ids=["tensor", "tuple", "dict", "nested"],
)
def test_inputs_and_outputs_of_every_kind(example_input):
    comparison = compare(Calling(), example_input)
    assert comparison.ok
    assert [layer.name for layer in comparison.layers] == ["conv", "other"]
    assert all(layer.backward for layer in comparison.layers)


# ------------------------------------------------------------------------------ no trace


class Stateful(nn.Module):
    """Everything that could be left changed."""

    def __init__(self):
        super().__init__()
        self.body = small_model()
        self.register_buffer("replaced", torch.zeros(()))
        self.register_buffer("absent", None)
        self.body.first.register_forward_hook(self.count)
        self.calls = 0

    def count(self, module, args, output):
        self.calls += 1

    def forward(self, x):
        self.replaced = self.replaced + 1
        self.absent = torch.ones(())
        random.random()
        x = self.body(x)
        if self.training and x.shape[2] == 1:
            raise RuntimeError("too small")
        return x


def state_of(model):
    modules = list(model.modules())
    return {
        "training": [module.training for module in modules],
        "hooks": [
            list(getattr(module, name).items())
            for module in modules
            for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
        ],
        "kwargs hooks": [dict(module._forward_hooks_with_kwargs) for module in modules],
        "ids": [(name, id(buffer)) for name, buffer in model.named_buffers()],
        "buffer names": [list(module._buffers) for module in modules],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "classes": [type(module) for module in modules],
        "random": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def tensors_of(model):
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [*model.state_dict().values(), *grads, torch.get_rng_state()]


def fails(output):
    raise ZeroDivisionError


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("size", "loss", "error"),
    [
        ((2, 3, 9, 10), None, None),
        ((2, 3, 2, 2), None, RuntimeError),  # for training, in the model; else in reflect padding
        ((2, 3, 9, 10), fails, ZeroDivisionError),
        ((2, 3, 9, 10), lambda output: output, ValueError),
    ],
    ids=["returns", "the model raises", "the loss raises", "the loss is no scalar"],
)
def test_the_model_is_left_as_it_was(training, size, loss, error):
    model = Stateful().train(training)
    model(image()).sum().backward()
    model.body.last.weight.grad = None
    model.absent = None
    example_input = image(*size)
    before = state_of(model), [t.clone() for t in tensors_of(model)], example_input.clone()
    if error is None:
        assert compare(model, example_input, loss=loss).ok
    else:
        with pytest.raises(error):
            compare(model, example_input, loss=loss)
    assert state_of(model) == before[0]
    assert len(tensors_of(model)) == len(before[1])
    for now, then in zip(tensors_of(model), before[1], strict=True):
        assert torch.equal(now, then)
    assert model.body.last.weight.grad is None
    assert torch.equal(example_input, before[2])
    assert model.calls == 2  # the model's own hook ran as ever


def test_the_examples_own_gradient_stays():
    x = image().requires_grad_()
    assert compare(small_model(), x).layers[0].backward is not None
    assert x.grad is None
