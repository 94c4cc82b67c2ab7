"""``convext.compare``: it finds what is wrong, tells what it left out, and leaves no trace."""

import copy
import dataclasses
import json
import math
import random
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import convext
from convext import _C, _capture, _ops
from convext.bench import models
from convext.cli import main
from convext.testing import FLOATING_DTYPES, NATIVE_PASSES, PASSES

SHORT = 1e-6  # seconds: two repetitions


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The layers here are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


# ------------------------------------------------------------------------------- what it finds


@pytest.mark.parametrize("convert", [False, True], ids=["nn.Conv2d", "ConvExt2d"])
@pytest.mark.parametrize("dtype", FLOATING_DTYPES)
def test_a_right_model_is_ok(dtype, convert):
    model = small_model().to(dtype)
    comparison = compare(convext.convert(model) if convert else model, image(dtype=dtype))
    assert comparison.ok
    assert [layer.name for layer in comparison.layers] == LAYERS
    assert comparison.not_compared == {}
    for layer in comparison.layers:
        passes = [name for name in PASSES if name != "bias_grad" or layer.name != "strided"]
        assert list(layer.passes) == passes
        assert layer.problem.dtype == dtype
        assert layer.problems == []
        assert layer.note == layer.failure == ""
        for found in layer.passes.values():
            assert 0 <= found.error_over_bound <= 1
        for time in (layer.forward, layer.backward):
            assert min(time.torch_seconds, time.convext_seconds, time.gain) > 0
            assert time.repetitions >= 2


def test_errors_are_those_of_the_layers_own_operands():
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    model = nn.Sequential(nn.ReLU(), conv)
    x = image()
    layer = only(compare(model, x, loss=lambda output: output.square().sum()))
    operands = [x.relu(), conv.weight, conv.bias]
    with torch.no_grad():
        gradient = 2 * conv(operands[0])

    def results(convolve, dtype):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in operands]
        output = convolve(*leaves, stride=2, padding=1)
        return [output, *torch.autograd.grad(output, leaves, gradient.to(dtype))]

    exact = results(F.conv2d, torch.float64)
    for peer, convolve in (("error", convext.conv2d), ("torch_error", F.conv2d)):
        found = results(convolve, torch.float32)
        expected = [(a - b).abs().max().item() for a, b in zip(found, exact, strict=True)]
        assert [getattr(found, peer) for found in layer.passes.values()] == expected


def test_plans_are_what_runs():
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.Conv2d(32, 32, 3, groups=32))
    x = image(2, 16, 12, 12).to(memory_format=torch.channels_last).requires_grad_()
    comparison = compare(model, x)
    named = {found.kernel for layer in comparison.layers for found in layer.passes.values()}
    before = _C.kernel_runs()
    output = convext.convert(copy.deepcopy(model))(x)
    output.backward(torch.ones_like(output, memory_format=torch.contiguous_format))
    assert named == {name for name, runs in _C.kernel_runs().items() if runs != before[name]}
    first = comparison.layers[0]
    assert (first.input_layout, first.weight_layout) == ("channels_last", "contiguous")
    for name, found in first.passes.items():
        plan = _C.plan(first.problem.replace(layout="mixed").native(), NATIVE_PASSES[name])
        assert (found.kernel, found.algorithm) == (plan.kernel, plan.algorithm)
        assert found.workspace_bytes == plan.workspace_bytes + plan.thread_workspace_bytes
    assert first.workspace_bytes == max(p.workspace_bytes for p in first.passes.values()) > 0


@pytest.mark.parametrize(
    "layer",
    [
        convext.ConvExt2d(3, 4, 3, padding=(0, 2, 1, 0)),
        nn.Conv2d(3, 4, (2, 4), padding="same"),
        nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="circular", stride=(1, 2)),
        nn.Conv2d(3, 4, 2, dilation=(2, 3), padding=2, padding_mode="replicate"),
        nn.Conv2d(3, 4, 3, padding="valid", dtype=torch.complex64),
    ],
    ids=["four sides", "same", "circular", "replicate", "complex"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "unbatched", "empty"])
def test_every_geometry_and_layout(layer, layout):
    x = image(dtype=layer.weight.dtype)
    x = {
        "contiguous": x,
        "channels_last": x.to(memory_format=torch.channels_last),
        "sliced": x.repeat(1, 1, 1, 2)[..., ::2],
        "unbatched": x[0],
        "empty": x[:0],
    }[layout]
    comparison = compare(layer, x)
    assert comparison.ok, str(comparison)
    found = only(comparison)
    assert found.name == "the model itself"
    assert list(found.passes) == list(PASSES)
    assert found.problem.input_size[0] == {"unbatched": 1, "empty": 0}.get(layout, 2)


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


@pytest.fixture
def spoil(monkeypatch):
    """Makes a kernel wrong in one pass, for weights of a given shape: ``spoil(pass, change)``."""
    forward, backward = _ops.short_conv2d, _C.short_conv2d_backward

    def install(name, change, shape=(6, 8, 3, 3)):
        def spoiled_forward(input, weight, *args):
            output = forward(input, weight, *args)
            if output is not None and weight.shape == shape and name == "forward":
                with torch.no_grad():
                    change(output)
            return output

        def spoiled_backward(grad_output, input, weight, *args):
            grads = backward(grad_output, input, weight, *args)
            if grads is not None and weight.shape == shape and name != "forward":
                change(grads[PASSES.index(name) - 1])
            return grads

        monkeypatch.setattr(_ops, "short_conv2d", spoiled_forward)
        monkeypatch.setattr(_C, "short_conv2d_backward", spoiled_backward)

    return install


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", PASSES)
def test_a_wrong_kernel_is_caught_where_it_is(spoil, name, change):
    model = small_model()
    model.strided = nn.Conv2d(8, 6, 3, stride=2, padding=1)
    spoil(name, CHANGES[change])
    comparison = compare(model, image())
    assert not comparison.ok
    wrong = {layer.name: layer for layer in comparison.layers if not layer.ok}
    assert list(wrong) == ["strided"]
    assert [p for p, found in wrong["strided"].passes.items() if not found.ok] == [name]
    (problem,) = wrong["strided"].problems
    assert problem.startswith(f"{name}: ")
    found = wrong["strided"].passes[name]
    assert found.error_over_bound > 1 >= found.torch_error_over_bound
    totals = comparison.totals
    assert totals["disagreeing"] == 1
    assert (totals["worst"]["layer"], totals["worst"]["pass"]) == ("strided", name)
    assert f"WRONG: strided: {problem}" in str(comparison).splitlines()
    assert str(comparison).endswith("4 layers, 1 WRONG")
    assert f"WRONG: {problem}" in str(wrong["strided"])
    assert "WRONG" in comparison._repr_html_()
    assert "1 WRONG" in repr(comparison)
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_patched_torch_is_no_reference(spoil):
    spoil("forward", CHANGES["one element"])
    with convext.patch():
        comparison = compare(small_model(), image())
        assert torch._C._len_torch_function_stack() == 1
    (wrong,) = (layer for layer in comparison.layers if not layer.ok)
    assert wrong.problems[0].startswith("forward: 1 of ")
    assert wrong.passes["forward"].torch_error_over_bound <= 1


def test_a_kernel_that_raises_counts_as_wrong():
    with convext.force_plan("winograd4"):
        comparison = compare(small_model(), image())
    assert not comparison.ok
    failed = {layer.name: layer for layer in comparison.layers if layer.failure}
    assert "last" in failed
    assert failed["last"].failure.startswith("convext raises RuntimeError: ")
    assert failed["last"].passes == {}
    assert failed["last"].forward is failed["last"].backward is None
    assert f"WRONG: last: {failed['last'].failure}" in str(comparison)
    assert "convext raises" in str(failed["last"])
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_forced_plans_show():
    with convext.force_plan("reference"):
        comparison = compare(small_model(), image())
    assert comparison.ok
    found = [found for layer in comparison.layers for found in layer.passes.values()]
    assert {each.algorithm for each in found} == {"reference"}


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


# ------------------------------------------------------------------------- arguments


def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((F.conv2d, image()), TypeError, "model must be a torch.nn.Module, but got builtin"),
        ((nn.ReLU(), image()), ValueError, "model must have at least one torch.nn.Conv2d"),
        ((lazy(), image()), ValueError, "model must not have lazy layers that never ran, which 0"),
        ((nn.Conv2d(3, 1, 1), [image()]), TypeError, "example_input must be a Tensor, a tuple"),
        ((nn.Conv2d(3, 1, 1), {1: image()}), TypeError, "example_input must have strings as keys"),
    ],
)
def test_wrong_models_and_inputs(arguments, error, message):
    with pytest.raises(error, match=message):
        convext.compare(*arguments)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"loss": 1}, TypeError, "loss must be a function or None, but got int"),
        ({"loss": lambda output: 1.0}, TypeError, "loss must return a Tensor, but returned float"),
        ({"loss": lambda output: output}, ValueError, "loss must return one number, but"),
        ({"seconds": "1"}, TypeError, "seconds must be a number, but got str"),
        ({"seconds": True}, TypeError, "seconds must be a number, but got bool"),
        ({"seconds": 0}, ValueError, "seconds must be positive and finite, but got 0"),
        ({"seconds": math.nan}, ValueError, "seconds must be positive and finite, but got nan"),
    ],
)
def test_wrong_options(options, error, message):
    with pytest.raises(error, match=message):
        convext.compare(nn.Conv2d(3, 1, 1), image(), **options)


# --------------------------------------------------------------------------- what it shows


@pytest.fixture(scope="module")
def comparison():
    torch.manual_seed(0)
    return compare(small_model(), image())


def test_totals(comparison):
    totals, layers = comparison.totals, comparison.layers
    assert (totals["layers"], totals["disagreeing"]) == (4, 0)
    assert totals["workspace_bytes"] == max(layer.workspace_bytes for layer in layers)
    for name in ("forward", "backward"):
        times = [getattr(layer, name) for layer in layers]
        found = totals[name]
        assert found["torch_seconds"] == pytest.approx(sum(t.torch_seconds for t in times))
        assert found["convext_seconds"] == pytest.approx(sum(t.convext_seconds for t in times))
        logs = [math.log(time.gain) for time in times]
        assert math.log(found["geometric_mean_gain"]) == pytest.approx(sum(logs) / 4)
    ratios = {
        (layer.label, name): found.error_over_bound
        for layer in layers
        for name, found in layer.passes.items()
    }
    worst = totals["worst"]
    assert ratios[worst["layer"], worst["pass"]] == max(ratios.values())
    assert worst["error_over_bound"] == max(ratios.values())


def test_text(comparison):
    text = str(comparison)
    assert text.endswith("4 layers, all within the bounds")
    assert "WRONG" not in text
    rows = [line.split() for line in text.splitlines()]
    for layer in comparison.layers:
        times, errors = (row for row in rows if row and row[0] == layer.name)
        assert times[1] == "x".join(map(str, layer.problem.input_size))
        assert times[2] == "x".join(map(str, layer.problem.weight_size))
        assert times[5] == f"{layer.forward.gain:.2f}"
        assert errors[-1] == "ok"
        assert errors[-3] == f"{max(found.error for found in layer.passes.values()):.1e}"
        for name, found in layer.passes.items():
            assert [name, found.kernel] in [
                [*line.split()[:1], *line.split()[-1:]] for line in str(layer).splitlines()
            ]
    assert repr(comparison) == "<convext.Comparison: 4 layers, all within the bounds>"


def test_html_escapes_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("a&b", nn.Conv2d(3, 1, 1))
            self.add_module("<b>", nn.Conv2d(3, 1, 1))

        def forward(self, x):
            return self.get_submodule("a&b")(x)

    found = compare(Named(), image())._repr_html_()
    assert found.count("<table>") == found.count("</table>") == 2
    assert '<td style="text-align:left">a&amp;b</td>' in found
    assert "not compared: &lt;b&gt;: the model does not call it" in found


def test_to_dict_is_json(comparison):
    found = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert found["ok"] is True
    assert found["versions"] == {"convext": convext.__version__, "torch": torch.__version__}
    assert (found["threads"], found["isa"]) == (1, _C.active_isa())
    assert found["totals"] == comparison.totals
    for kept, layer in zip(found["layers"], comparison.layers, strict=True):
        assert kept["name"] == layer.name
        assert kept["input"] == list(layer.problem.input_size)
        assert kept["passes"]["forward"] == vars(layer.passes["forward"])
        assert kept["backward"] == vars(layer.backward)


def test_it_needs_no_extras():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('rich', 'sklearn', 'transformers')))\n"
        "import torch, convext\n"
        "model = torch.nn.Conv2d(3, 4, 3)\n"
        "print(convext.compare(model, torch.randn(1, 3, 8, 8), seconds=1e-6))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.endswith("1 layer, all within the bounds\n"), result.stderr


# --------------------------------------------------------------------------- the command


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the current directory with functions that return a model and its input."""
    (tmp_path / "compared_model.py").write_text(
        "import torch\n"
        "def pair():\n"
        "    return torch.nn.Conv2d(8, 6, 3), (torch.randn(1, 8, 6, 6),)\n"
        "def alone():\n"
        "    return torch.nn.Conv2d(8, 6, 3)\n"
        "def wrong():\n"
        "    return torch.nn.ReLU(), torch.randn(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("compared_model", None)


def command(*arguments):
    return main(["compare", "--seconds", "1e-6", *arguments])


def test_command(module, capsys, spoil):
    path = list(sys.path)
    assert command("compared_model:pair", "--json", "found.json") == 0
    assert capsys.readouterr().out.endswith("1 layer, all within the bounds\n")
    found = json.loads((module / "found.json").read_text())
    assert list(found["layers"][0]["passes"]) == list(PASSES)
    assert command("compared_model:pair", "--forward") == 0
    assert "forward only" in capsys.readouterr().out
    spoil("weight_grad", CHANGES["sign"])
    assert command("compared_model:pair") == 1
    assert capsys.readouterr().out.endswith("1 layer, 1 WRONG\n")
    assert sys.path == path


def test_command_with_a_known_model(monkeypatch, capsys):
    monkeypatch.setitem(models.MODELS, "tiny", lambda: nn.Conv2d(3, 2, 5, stride=16))
    options = ["--batch", "2", "--dtype", "bfloat16", "--layout", "channels_last"]
    assert command("tiny", *options) == 0
    assert "2x3x224x224" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vgg"], "model must be one of resnet50, mobilenet_v2, convnext_tiny, or MODULE:FUNCTION"),
        (["no_such_module:pair"], "model 'no_such_module:pair': No module named 'no_such_module'"),
        (
            ["compared_model:absent"],
            "model 'compared_model:absent': compared_model has no function",
        ),
        (["compared_model:alone"], "it must return a model and its example input"),
        (["compared_model:wrong"], "model must have at least one torch.nn.Conv2d, but has none"),
        (["compared_model:pair", "--batch", "2"], "--batch, --dtype and --layout are for models"),
        (["compared_model:pair", "--seconds", "-1"], "seconds must be positive and finite"),
        (["compared_model:pair", "--json", "no/such/folder"], "No such file or directory"),
        (["resnet50", "--batch", "-1"], "--batch must be at least 1, but got -1"),
    ],
)
def test_command_that_cannot_run(module, capsys, arguments, message):
    assert command(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("convext compare: ")
    assert message in error
    assert error.count("\n") == 1
