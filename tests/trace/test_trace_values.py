"""``convext.trace``: values, text and errors of traces of convolutions and models."""

import json
import random
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convext
from convext import _C
from convext.explaining import cpu_pass
from convext.tracing import LESSON, ConvTrace, ModelTrace, Setting, html, text
from convext.tracing.plans import TILES
from convext.tracing.setting import small_integers

MODES = ("zeros", "reflect", "replicate", "circular")


def random_setting(draw):
    groups = draw.choice((1, 1, 2, 4))
    H, W = draw.randint(3, 10), draw.randint(3, 10)
    return Setting(
        groups * draw.randint(1, 2),
        H,
        W,
        groups * draw.randint(1, 2),
        draw.randint(1, 3),
        draw.randint(1, 3),
        (draw.randint(1, 3), draw.randint(1, 3)),
        tuple(draw.randint(0, 2) for _ in range(4)),
        (draw.randint(1, 2), draw.randint(1, 2)),
        groups,
        draw.choice(MODES),
    )


def test_the_lesson():
    trace = convext.trace()
    content = trace.content
    assert content.setting == LESSON
    assert (content.setting.padded_size, content.setting.output_size) == ((7, 7), (3, 3))
    assert content.setting.formula["P"] == "floor((5 + 1 + 1 - 1 * (3 - 1) - 1) / 2) + 1 = 3"
    image, weight = small_integers(LESSON)
    assert torch.equal(content.output, F.conv2d(image, weight, stride=2, padding=1)[0])
    assert content.check() == (True, "9 sums of products equal what convext.conv2d returned")
    shown = str(trace)
    assert shown.startswith("input 1x5x5, kernel 3x3, stride 2, padding 1 -> output 1x3x3\n")
    assert "\n    0 [0][0][0][0][0][0][0]\n" in shown
    assert "Window 3 of 9: output[0, 0, 2], padded rows 0, 1, 2, columns 4, 5, 6" in shown
    for name, plan in content.plans.items():
        assert re.search(rf"{name} +{plan['kernel']} +tile ", shown)
    assert repr(trace).startswith("<convext.tracing.Trace of input 1x5x5")


@pytest.mark.parametrize("seed", range(30))
def test_sums_and_windows_are_the_convolution(seed):
    setting = random_setting(random.Random(seed))
    if setting.refusal() is not None:
        setting = Setting(H=9, W=8, padding_mode=setting.padding_mode)
    trace = ConvTrace.run(setting)
    image, weight = (tensor.double() for tensor in small_integers(setting))
    mode = "constant" if setting.padding_mode == "zeros" else setting.padding_mode
    padded = F.pad(image, setting.pad, mode)
    expected = F.conv2d(padded, weight, None, setting.stride, 0, setting.dilation, setting.groups)[
        0
    ]
    assert expected.shape[1:] == setting.output_size
    assert torch.equal(trace.sums, expected)
    assert torch.equal(trace.padded.double(), padded[0])
    assert trace.check()[0]
    for k in range(setting.K):
        windows = list(trace.windows(k))
        assert [window.total for window in windows] == expected[k].flatten().tolist()
        assert [window.output for window in windows] == trace.output[k].flatten().tolist()
    flat = image[0, 0].flatten()
    zeros = trace.sources < 0
    assert torch.equal(flat[trace.sources.clamp(min=0)].masked_fill(zeros, 0), padded[0, 0])
    assert zeros.any() == (setting.padding_mode == "zeros" and any(setting.pad))


def test_rows_and_columns_that_floor_drops():
    setting = Setting(H=6, W=8, stride=(2, 3), padding=(0, 0))
    assert setting.dropped == ([5], [6, 7])
    shown = text.plain(text.lines(ConvTrace.run(setting)))
    assert "floor drops row 5 of the padded input" in shown
    assert "floor drops columns 6, 7 of the padded input" in shown
    marked = [line for line in shown.splitlines() if line.endswith(" x")]
    assert [line.split()[0] for line in marked] == ["5"] * (len(marked) - 1) + ["x"]
    assert LESSON.dropped == ([], [])


def test_a_wrong_output_is_noticed():
    trace = ConvTrace.run(LESSON)
    trace.output[0, 1, 1] += 1
    ok, sentence = trace.check()
    assert not ok
    assert "1 of 9 elements are wrong" in sentence
    assert sentence in text.plain(text.lines(trace))


def test_a_layer_of_ones_own():
    layer = convext.ConvExt2d(3, 4, 3, padding=(0, 1, 2, 0), padding_mode="reflect")
    batch = torch.randn(2, 3, 6, 7)
    trace = convext.trace(layer, batch)
    assert torch.equal(trace.content.output, layer(batch)[0])
    assert trace.content.problem.N == 2
    assert trace.content.check()[0]
    shown = str(trace)
    assert "padding (0, 1, 2, 0) reflect" in shown
    assert "Planned kernels of the batch of 2, float32, contiguous" in shown
    assert "bias" in shown
    single = convext.trace(layer, batch[0]).content
    assert torch.equal(single.output, trace.content.output)
    assert convext.trace(nn.Conv2d(2, 2, 7)).content.setting.output_size == (1, 1)
    assert torch.equal(convext.trace(nn.Conv2d(2, 2, 3)).content.input.frac(), torch.zeros(2, 5, 5))


def test_a_layer_of_a_model_on_what_reaches_it():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Dropout(), nn.Conv2d(4, 2, 2), nn.Tanh()
    )
    batch = torch.randn(2, 3, 6, 7)
    trace = convext.trace(model, batch, layer="3").content
    with torch.no_grad():
        inner = model[0](batch).relu()
        expected = model[3](inner)
    torch.testing.assert_close(trace.input, inner[0])
    torch.testing.assert_close(trace.output, expected[0])
    assert trace.problem.N == 2
    assert trace.check()[0]
    assert model.training
    assert not model[3]._forward_pre_hooks
    first = convext.trace(model, batch, layer="0").content
    assert torch.equal(first.input, batch[0])


def test_layers_that_cannot_be_traced():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU())
    model[1].spare = nn.Conv2d(1, 1, 3)
    batch = torch.zeros(1, 1, 5, 5)
    message = r"layer must be a convolution of the model \('0', '1.spare'\), but got '1'"
    with pytest.raises(ValueError, match=message):
        convext.trace(model, batch, layer="1")
    with pytest.raises(ValueError, match=r"the model \(it has none\), but got '0'"):
        convext.trace(nn.Sequential(nn.ReLU()), batch, layer="0")
    with pytest.raises(ValueError, match="layer must be one that the model calls"):
        convext.trace(model, batch, layer="1.spare")
    with pytest.raises(ValueError, match="layer must be None unless a model is traced"):
        convext.trace(LESSON, layer="0")
    with pytest.raises(ValueError, match="input must be a batch for the model"):
        convext.trace(model, layer="0")


def test_as_many_windows_as_asked_for():
    trace = convext.trace()
    for steps, count in ((0, 0), (1, 1), (9, 9), (20, 9)):
        assert len(re.findall(r"^Window ", trace.to_text(steps), re.M)) == count
    assert trace.to_text() == str(trace)
    with pytest.raises(ValueError, match="steps must be at least 0, but got -1"):
        trace.to_text(-1)


def test_a_problem_of_the_planner():
    problem = _C.ConvProblem(
        [3, 4, 6, 6],
        [8, 4, 3, 3],
        padding=[1, 1],
        dtype="float64",
        input_layout="channels_last",
    )
    trace = convext.trace(problem).content
    assert trace.output.dtype == torch.float64
    assert trace.plans["forward"]["kernel"] == _C.plan(problem).kernel
    assert trace.problem is problem
    assert trace.check()[0]


def test_dictionaries_are_fit_for_json():
    facts = json.loads(json.dumps(convext.trace().to_dict()))
    assert facts["kind"] == "convolution"
    assert facts["padded"][0][0] == [0] * 7
    assert facts["output_size"] == [3, 3]
    assert facts["check"]["ok"] is True
    assert set(facts["plans"]) == {"forward", "input_grad", "weight_grad", "bias_grad"}
    model = convext.trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.randn(1, 1, 5, 5))
    facts = json.loads(json.dumps(model.to_dict()))
    assert [layer["type"] for layer in facts["layers"]] == ["Conv2d", "ReLU"]
    assert facts["layers"][0]["setting"]["K"] == 2
    assert facts["layers"][1]["setting"] is None


def test_a_model_layer_by_layer():
    model = nn.Sequential(
        convext.ConvExt2d(3, 8, 3, padding="same", padding_mode="circular"),
        nn.BatchNorm2d(8),
        nn.Sequential(nn.Conv2d(8, 8, (1, 3), stride=(1, 2), groups=4, dilation=2), nn.ReLU()),
        nn.Flatten(),
    )
    model[1].eval()
    batch = torch.randn(2, 3, 6, 9)
    statistics = model[1].running_mean.clone()
    trace = convext.trace(model, batch)
    assert isinstance(trace.content, ModelTrace)
    assert torch.equal(model[1].running_mean, statistics)
    assert [module.training for module in model] == [True, False, True, True]
    names = [layer.name for layer in trace.content.layers]
    assert names == ["0", "1", "2.0", "2.1", "3"]
    first, _, strided, relu, _ = trace.content.layers
    assert (first.padded, first.kernel) == ("8x11 circular", "3x3 stride 1")
    assert (strided.padded, strided.kernel) == ("-", "1x3 stride 1x2 dilation 2x2 groups 4")
    with torch.no_grad():
        values = model[0](batch).double()
    assert first.mean == pytest.approx(float(values.mean()))
    assert first.std == pytest.approx(float(values.std(correction=0)))
    assert (first.minimum, first.maximum) == (float(values.min()), float(values.max()))
    assert relu.minimum == 0
    assert all(layer.milliseconds > 0 for layer in trace.content.layers)
    plan = convext.explain(model[0], batch)["forward"]
    assert first.plans["forward"]["kernel"] == plan.kernel
    shown = str(trace)
    assert re.search(rf"^0 +3x6x9 +8x11 circular +3x3 stride 1 +8x6x9 +{plan.kernel}$", shown, re.M)
    assert re.search(r"^2.1 +ReLU +8x6x3 +", shown, re.M)
    assert "<table>" in trace._repr_html_()


def test_notebooks_get_escaped_html():
    shown = convext.trace()._repr_html_()
    assert "-&gt; output 1x3x3" in shown
    assert "<script" not in shown


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            Setting(H=2, W=2, padding=(0, 0)),
            "torch refuses this setting: Calculated padded input size per channel: (2 x 2). Kernel "
            "size: (3 x 3). Kernel size can't be greater than actual input size",
        ),
        (
            Setting(stride=(0, 1)),
            "torch refuses this setting: non-positive stride is not supported",
        ),
        (
            Setting(H=-5),
            "torch refuses this setting: zeros: Dimension size must be non-negative",
        ),
        (Setting(H=10**9, W=10**9), "torch refuses this setting: "),
        (Setting(C=3, K=2, groups=2), "in_channels must be divisible by groups"),
        (Setting(padding=(1, 2, 5, 0), padding_mode="reflect"), "Argument #6: Padding size should"),
        (Setting(padding=(6, 6), padding_mode="circular"), "wrapping around more than once."),
        (Setting(padding=(-1, 0, 0, 0)), "ConvExt2d refuses this setting: padding must be at"),
    ],
    ids=["kernel", "stride", "size", "memory", "groups", "reflect", "circular", "negative"],
)
def test_refused_settings(setting, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        convext.trace(setting)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("stride", 2, r"two integers, \(vertical, horizontal\), but got 2"),
        ("stride", (1, 2, 3), "two integers"),
        ("dilation", (1, 1.5), "two integers"),
        ("padding", 1, "two or four integers, 'same' or 'valid', but got 1"),
        ("padding", (1, 1, 1), "two or four integers"),
        ("H", 5.0, "an integer, but got 5.0"),
        ("groups", None, "an integer, but got None"),
    ],
)
def test_settings_are_of_integers(name, value, message):
    with pytest.raises(TypeError, match=f"^{name} must be {message}"):
        Setting(**{name: value})


@pytest.mark.parametrize(
    ("what", "input", "error", "message"),
    [
        ("layer", None, TypeError, "what must be a module, a problem or a setting"),
        (nn.ReLU(), None, ValueError, "input must be a batch for the model"),
        (LESSON, torch.zeros(1, 1, 5, 5), ValueError, "input must be None unless"),
        (nn.Conv2d(1, 1, 3), [1], TypeError, "input must be a Tensor, but got list"),
        (nn.Conv2d(1, 1, 3), torch.zeros(1, 2, 5, 5), ValueError, r"input must be \(N, 1, H, W\)"),
        (nn.Conv2d(1, 1, 3), torch.zeros(0, 1, 5, 5), ValueError, "at least one image"),
        (
            nn.Conv2d(1, 1, 3, dtype=torch.complex64),
            torch.zeros(1, 1, 5, 5, dtype=torch.complex64),
            TypeError,
            "input must be of a real floating-point dtype",
        ),
    ],
)
def test_what_cannot_be_traced(what, input, error, message):
    with pytest.raises(error, match=message):
        convext.trace(what, input)


def test_every_forward_algorithm_has_its_tiles_described():
    algorithms = {kernel["algorithm"] for kernel in _C.kernels() if kernel["pass"] == "fprop"}
    assert algorithms == set(TILES)


def test_the_plan_table_of_a_forced_kernel():
    with convext.force_plan("fprop=winograd4"):
        table = html.page_data(convext.trace(Setting(H=8, W=8, stride=(1, 1))).content)["table"]
        algorithms = {table["kernels"][forward]["algorithm"] for forward, _, _ in table["plans"]}
    assert algorithms == {"winograd4"}
    assert 0 < sum(index >= 0 for index in table["index"]) < len(table["index"]) / 2
    assert html.plan_table() != table


def test_the_plan_table_is_the_planner():
    table = html.plan_table()
    draw, axes = random.Random(0), table["axes"]
    for _ in range(100):
        index, chosen = 0, {}
        for name, values in axes.items():
            at = draw.randrange(len(values))
            chosen[name] = values[at]
            index = index * len(values) + at
        C, K, groups = chosen["channels"]
        setting = Setting(
            C,
            *chosen["size"],
            K,
            *chosen["kernel"],
            tuple(chosen["stride"]),
            (chosen["padding"],) * 2,
            tuple(chosen["dilation"]),
            groups,
            chosen["mode"],
        )
        at = table["index"][index]
        assert (at < 0) == (setting.refusal() is not None)
        if at >= 0:
            names = [_C.plan(setting.problem, name).kernel for name in ("fprop", "dgrad", "wgrad")]
            kernels = [table["kernels"][place] for place in table["plans"][at]]
            assert [kernel["kernel"] for kernel in kernels] == names
            for kernel, name in zip(kernels, ("forward", "input_grad", "weight_grad"), strict=True):
                plan = cpu_pass(setting.problem, name)
                assert tuple(kernel["sources"]) == plan.sources
                assert kernel["chapter"] == plan.chapter


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (convext.ConvExt2d(20, 30, 3, padding=1), (8, 8, 1)),
        (convext.ConvExt2d(24, 12, (3, 1), stride=2, groups=6, bias=False), (8, 4, 2)),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 3, 1)),
    ],
)
def test_pages_of_what_is_too_large_show_a_part_of_it(layer, channels):
    image = torch.randn(1, layer.in_channels, 19, 18)
    data = html.page_data(convext.trace(layer, image).content)
    C, K, groups = channels
    assert [data["setting"][name] for name in ("C", "H", "W", "K")] == [C, 16, 16, K]
    assert data["setting"]["groups"] == groups
    assert data["original"] is not None
    # The same by a mask: what is not shown adds nothing.
    part = image[:, :, :16, :16].clone()
    per_group, outputs = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    inside = torch.arange(layer.in_channels)
    part[:, inside % per_group >= C // groups] = 0
    with torch.no_grad():
        whole = layer(part)[0]
    of_group = torch.arange(layer.out_channels) % outputs < K // groups
    expected = whole[of_group][:K]
    torch.testing.assert_close(torch.tensor(data["output"]).float(), expected)


def test_pages_of_what_is_too_large_show_a_smaller_one(tmp_path):
    layer = convext.ConvExt2d(64, 128, 3, padding=1, groups=2)
    trace = convext.trace(layer, torch.randn(1, 64, 56, 56))
    data = html.page_data(trace.content)
    assert [data["setting"][name] for name in "CHWK"] == [8, 16, 16, 8]
    assert trace.content.plans["forward"]["kernel"] in data["original"]["note"]
    depthwise = html.reduced(Setting(96, 56, 56, 96, 7, 7, (1, 1), (3, 3), groups=96))
    assert (depthwise.C, depthwise.K, depthwise.groups) == (8, 8, 8)
    trace.save_html(tmp_path / "trace.html")
    with pytest.raises(ValueError, match="the page shows kernels up to 11x11"):
        convext.trace(nn.Conv2d(3, 4, 16, stride=16), torch.randn(1, 3, 32, 32)).save_html(
            tmp_path / "patches.html"
        )
    assert not (tmp_path / "patches.html").exists()
