"""``convext.compare``: what it finds, above all what is wrong; and what it refuses."""

import copy
import json
import math

import pytest
import torch
import torch.nn.functional as F
from comparing import CHANGES, LAYERS, change_one, compare, image, only, small_model
from torch import nn

import convext
from convext import _C
from convext.testing import FLOATING_DTYPES, NATIVE_PASSES, PASSES


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
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
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


@pytest.mark.parametrize("force", ["", "winograd4", "indirect"])
def test_what_overflows_with_torch_too_is_not_wrong(force, spoil):
    layer = nn.Conv2d(8, 6, 3, padding=1)
    nn.init.constant_(layer.weight, 1e20)
    x = image(1, 8, 9, 9).abs() + 1
    x[:, :, :, 4:] = 0
    x[:, :, :, :4] *= 1e20
    with torch.no_grad(), convext.force_plan(force and f"fprop={force}"):
        comparison = compare(layer, x)
        found = only(comparison).passes["forward"]
        assert comparison.ok
        assert (found.beyond_range, found.elements) == (6 * 9 * 5, 6 * 9 * 9)
        assert found.error == found.torch_error == found.error_over_bound == 0
        remark = "forward: 270 of 486 elements are beyond float32's range, as torch's"
        assert f"the model itself: {remark}" in str(comparison).splitlines()
        assert remark in str(only(comparison))
        spoil("forward", change_one(math.nan))  # where torch's result is finite
        assert not compare(layer, x).ok


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
