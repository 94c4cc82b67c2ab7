"""``convext.explain``, plans, ``last_plan``, and ``convext explain``."""

from __future__ import annotations

import copy
import html
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import convext
from convext.cli import main
from convext.cli.explain import Conv, parse_conv
from convext.explaining import _clock
from convext.plan import PASSES

ROOT = Path(__file__).parent.parent

LAYERS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "3x3": (
        {"in_channels": 16, "out_channels": 24, "kernel_size": 3, "padding": 1},
        (2, 16, 20, 20),
    ),
    "strided": (
        {"in_channels": 16, "out_channels": 8, "kernel_size": 3, "stride": 2},
        (1, 16, 17, 15),
    ),
    "1x1": ({"in_channels": 32, "out_channels": 16, "kernel_size": 1}, (1, 32, 14, 14)),
    "depthwise": (
        {"in_channels": 16, "out_channels": 16, "kernel_size": (3, 5), "groups": 16},
        (2, 16, 12, 12),
    ),
    "grouped": (
        {"in_channels": 16, "out_channels": 16, "kernel_size": 3, "groups": 4, "padding": "same"},
        (2, 16, 9, 9),
    ),
    "reflect": (
        {
            "in_channels": 4,
            "out_channels": 6,
            "kernel_size": 5,
            "padding": (2, 1),
            "dilation": (1, 2),
            "padding_mode": "reflect",
        },
        (2, 4, 11, 13),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_kernels_it_names_are_those_that_run(
    name: str, channels_last: bool, dtype: torch.dtype
) -> None:
    options, shape = LAYERS[name]
    layer = convext.ConvExt2d(**options, dtype=dtype)
    input = torch.randn(shape, dtype=dtype)
    if channels_last:
        layer = layer.to(memory_format=torch.channels_last)
        input = input.contiguous(memory_format=torch.channels_last)
    expected = {key: plan.kernel for key, plan in convext.explain(layer, input).passes.items()}

    # By what the operator notes, and by what torch's profiler saw.
    convext._C.reset_kernel_runs()
    assert convext.last_plan() == {}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        output = layer(input.requires_grad_())
        # Of the output's layout, as a gradient that has come from another layer.
        output.backward(torch.ones_like(output))
    last = convext.last_plan()
    assert {key: run.kernel for key, run in last.items()} == expected
    assert tuple(output.shape[2:]) == (last["forward"].problem.P, last["forward"].problem.Q)
    seen = {event.key for event in profiler.key_averages()}
    assert set(expected.values()) <= seen
    assert {"convext::conv2d", "convext::conv2d_backward"} <= seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_under_autocast_too(dtype: torch.dtype) -> None:
    layer = convext.ConvExt2d(16, 24, 3, padding=1, dtype=dtype)
    for input in (
        torch.randn(2, 16, 20, 20, dtype=dtype),
        torch.randn(2, 16, 20, 40, dtype=dtype)[..., ::2],
    ):
        convext._C.reset_kernel_runs()
        with torch.autocast("cpu", torch.bfloat16):
            plan = convext.explain(layer, input)
            layer(input).sum().backward()
        assert plan.problem.dtype == ("bfloat16" if dtype == torch.float32 else "float64")
        assert convext.last_plan()["forward"].kernel == plan["forward"].kernel
        problem = convext.last_plan()["forward"].problem
        assert problem.input_layout == plan.problem.input_layout
        assert convext.explain(layer, input).problem.dtype == str(dtype).removeprefix("torch.")


def test_a_shape_stands_for_a_tensor_like_the_weight() -> None:
    layer = convext.ConvExt2d(8, 8, 1).to(memory_format=torch.channels_last, dtype=torch.float64)
    plan = convext.explain(layer, (2, 8, 9, 9))
    assert plan == convext.explain(
        layer, torch.empty(2, 8, 9, 9, dtype=torch.float64).to(memory_format=torch.channels_last)
    )
    assert plan.problem.dtype == "float64"
    assert convext.explain(layer, (8, 9, 9)).output_size == (1, 8, 9, 9)
    assert convext.explain(nn.Conv2d(3, 4, 2), (1, 3, 5, 5)).output_size == (1, 4, 4, 4)


def test_output_size_and_formula() -> None:
    generator = random.Random(0)
    for _ in range(50):
        kernel = (generator.randint(1, 4), generator.randint(1, 4))
        layer = nn.Conv2d(
            2,
            3,
            kernel,
            stride=(generator.randint(1, 3), generator.randint(1, 3)),
            padding=(generator.randint(0, 3), generator.randint(0, 3)),
            dilation=(generator.randint(1, 2), generator.randint(1, 2)),
        )
        input = torch.randn(2, 2, generator.randint(8, 12), generator.randint(8, 12))
        output = layer(input)
        plan = convext.explain(layer, input)
        assert plan.output_size == tuple(output.shape)
        for key, extent in zip("PQ", output.shape[2:], strict=True):
            formula, _, result = plan.formula[key].partition(" = ")
            assert int(result) == extent
            arithmetic = formula.replace("floor(", "int(")
            assert eval(arithmetic) == extent
        expected = 2 * output.numel() * 2 * kernel[0] * kernel[1]
        assert plan.flops == plan["weight_grad"].flops == expected
        assert plan.bytes == 4 * (input.numel() + layer.weight.numel() + output.numel())
        assert plan.intensity == pytest.approx(plan.flops / plan.bytes)


def test_expected_time_and_what_bounds_it() -> None:
    plan = convext.explain(convext.problem((8, 64, 56, 56), (64, 64, 3, 3), padding=1))["forward"]
    assert plan.threads == torch.get_num_threads()
    cycles = plan.cycles
    assert plan.seconds is not None
    assert plan.seconds > 0
    words = {"multiply": "multiplying", "move": "packing", "memory": "memory"}
    assert plan.bound == words[max(cycles, key=lambda key: cycles[key])]
    small = convext.explain(convext.problem((1, 4, 6, 6), (4, 4, 3, 3)))["forward"]
    assert small.threads == 1
    # Some hundred megahertz to some gigahertz: the clock it is told by is a clock.
    assert 3e8 < convext._C.nominal_clock() < 1e10
    assert plan.clock == pytest.approx(_clock())
    assert f" at {_clock() / 1e9:.2f} GHz, bound by {plan.bound}" in str(plan)


def test_more_threads_than_cores_are_remarked(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = convext.problem((8, 64, 56, 56), (64, 64, 3, 3), padding=1)
    small = convext.problem((1, 4, 6, 6), (4, 4, 3, 3))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr("convext.explaining.usable_cores", lambda: 2)
    (remark,) = convext.explain(problem)["forward"].remarks
    assert remark.startswith("64 threads, but this process may use 2 cores")
    assert convext.explain(small)["forward"].remarks == ()
    monkeypatch.setattr("convext.explaining.usable_cores", lambda: 64)
    assert convext.explain(problem)["forward"].remarks == ()


def test_complex_layers() -> None:
    layer = convext.ConvExt2d(16, 24, 3, dtype=torch.complex64)
    plan = convext.explain(layer, (2, 16, 20, 20))
    assert plan.complex_dtype == "complex64"
    assert "complex64, run as real convolutions of float32" in str(plan)
    parts = torch.empty(2, 16, 20, 20, 2)[..., 0], torch.empty(24, 16, 3, 3, 2)[..., 0]
    real = convext.explain(convext.problem(*parts))
    for name, found in plan.passes.items():
        times = 2 if name == "bias_grad" else 4
        assert found.kernel == real[name].kernel
        assert found.flops == times * real[name].flops
        assert found.bytes == 2 * real[name].bytes
        assert found.seconds == pytest.approx(times * real[name].seconds)
        assert found.remarks[0].startswith(f"runs {times} times")
    convext._C.reset_kernel_runs()
    output = layer(torch.randn(2, 16, 20, 20, dtype=torch.complex64).requires_grad_())
    output.abs().sum().backward()
    runs = convext._C.kernel_runs()
    for name, found in plan.passes.items():
        assert runs[found.kernel] == (2 if name == "bias_grad" else 4)
    assert convext.Plan.from_dict(plan.to_dict()) == plan
    assert real.complex_dtype == ""


def test_of_nothing_nothing_runs() -> None:
    plan = convext.explain(convext.ConvExt2d(4, 6, 3), (0, 4, 9, 9))
    for found in plan.passes.values():
        assert ("expected", "nothing runs: there is nothing to compute") in found.facts()


def test_passes_have_two_names() -> None:
    plan = convext.explain(convext.problem((1, 4, 9, 9), (6, 4, 3, 3)))
    for name, native in PASSES.items():
        assert plan[native] is plan[name]
    with pytest.raises(KeyError, match=r"'fwd' is no pass; there are forward, .* \(fprop, "):
        plan["fwd"]


needs_cuda_build = pytest.mark.skipif(
    not convext._C.build_info()["cuda"], reason="needs CUDA kernels that were built"
)


@needs_cuda_build
def test_plans_of_gpus_say_what_they_copy_and_round(monkeypatch: pytest.MonkeyPatch) -> None:
    contiguous = convext.problem((2, 64, 19, 19), (32, 64, 3, 3))
    monkeypatch.setattr("convext._ops.tf32_allowed", lambda: True)
    plan = convext.explain(contiguous, gpu="9.0")
    for found in plan.passes.values():
        assert found.seconds is None
        assert "no time: the cost model is of CPUs" in str(found)
    copies, tf32 = plan["input_grad"].remarks
    assert copies.endswith("grad_input (180.5 KiB), weight (72.0 KiB), grad_output (72.2 KiB)")
    assert "rounded to TF32" in tf32
    monkeypatch.setattr("convext._ops.tf32_allowed", lambda: False)
    assert len(convext.explain(contiguous, gpu="9.0")["forward"].remarks) == 1
    tensors = [
        torch.empty(*size, device="meta").to(memory_format=torch.channels_last)
        for size in ((2, 64, 19, 19), (32, 64, 3, 3))
    ]
    assert convext.explain(convext.problem(*tensors), gpu="9.0")["forward"].remarks == ()
    parts = convext.explain(
        convext.ConvExt2d(16, 24, 3, dtype=torch.complex64), (1, 16, 9, 9), gpu="9.0"
    )
    assert "twice the channels, 32 to 48" in parts["forward"].remarks[0]
    assert parts.problem.C == 16


def test_all_of_it_is_printed() -> None:
    plan = convext.explain(convext.ConvExt2d(8, 8, 3, padding_mode="circular"), (1, 8, 9, 9))
    text, page = str(plan), plan._repr_html_()
    for name, found in plan.passes.items():
        for word in (name, found.kernel, *found.sources, *(kernel for kernel, _ in found.refused)):
            assert word in text
            assert word in page
        for _, line in found.facts():
            assert line in text
            assert html.escape(line) in page
        assert found.kernel in repr(plan)
    assert plan.formula["P"] in text
    assert "circular" in text
    assert "<script" not in page


def test_plans_are_saved_loaded_and_forced(tmp_path: Path) -> None:
    layer, input = convext.ConvExt2d(8, 8, 3), torch.randn(1, 8, 9, 9)
    with convext.force_plan("indirect,wgrad=outer,bgrad=reference"):
        plan = convext.explain(layer, input)
    assert plan["forward"].algorithm == "indirect"
    assert plan != convext.explain(layer, input)
    file = tmp_path / "plan.json"
    plan.save(file)
    loaded = convext.Plan.load(file)
    assert loaded == plan
    assert str(loaded) == str(plan)
    assert json.loads(file.read_text())["passes"]["forward"]["kernel"] == plan["forward"].kernel

    convext._C.reset_kernel_runs()
    with convext.force_plan(loaded):
        assert convext.forced_plan() == plan.spec
        layer(input.requires_grad_()).sum().backward()
    ran = {name: run.kernel for name, run in convext.last_plan().items()}
    assert ran == {name: found.kernel for name, found in plan.passes.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "no object of JSON"),
        ("{", "Expecting property name"),
        ("{}", "no entry 'schema'"),
        ('{"schema": 99}', "schema 99, where 1 is known"),
        ('{"schema": 1, "passes": {"forward": {}}}', "its passes are not forward, input_grad, "),
    ],
)
def test_files_that_hold_no_plan(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(text)
    start = f"{file} holds no plan, as Plan.save writes one: "
    with pytest.raises(ValueError, match=re.escape(start) + ".*" + re.escape(words)):
        convext.Plan.load(file)
    values = convext.explain(convext.problem((1, 4, 9, 9), (6, 4, 3, 3))).to_dict()
    for key, value in (("kernel", 7), ("refused", 7), ("tile", None)):
        spoiled = copy.deepcopy(values)
        spoiled["passes"]["forward"][key] = value
        with pytest.raises(ValueError, match="values is no plan of convext's"):
            convext.Plan.from_dict(spoiled)
    arch = values["passes"]["forward"]["arch"]
    for kernel in (f"fprop_swift_f32_any_6x16_{arch}", f"dgrad_direct_f32_any_6x16_{arch}"):
        spoiled = copy.deepcopy(values)
        spoiled["passes"]["forward"].update(kernel=kernel, algorithm=kernel.split("_")[1])
        file.write_text(json.dumps(spoiled))
        with pytest.raises(ValueError, match=rf"plan\.json .* the kernel of forward is '{kernel}'"):
            convext.Plan.load(file)
    elsewhere = copy.deepcopy(values)  # of an instruction set that this build may not have
    elsewhere["passes"]["forward"].update(
        kernel="fprop_direct_f32_any_6x8_sve2", algorithm="direct", arch="sve2"
    )
    assert convext.Plan.from_dict(elsewhere)["forward"].arch == "sve2"
    del values["passes"]["forward"]["kernel"]
    with pytest.raises(ValueError, match="'kernel'"):
        convext.Plan.from_dict(values)
    with pytest.raises(OSError, match="missing"):
        convext.Plan.load(tmp_path / "missing.json")


def test_wrong_arguments() -> None:
    layer = convext.ConvExt2d(4, 6, 3)
    with pytest.raises(TypeError, match=r"target must be an nn\.Conv2d, a ConvExt2d or a problem"):
        convext.explain(nn.Linear(2, 2), (1, 4, 9, 9))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="input must be the module's input or its shape"):
        convext.explain(layer)
    with pytest.raises(TypeError, match="input must be a Tensor or its shape, but got str"):
        convext.explain(layer, "1,4,9,9")
    with pytest.raises(TypeError, match=r"input must be .* but got tuple \(1, 4, 9\.0, 9\)"):
        convext.explain(layer, (1, 4, 9.0, 9))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"input must have no negative extent, but got \[1, 4, -9"):
        convext.explain(layer, (1, 4, -9, 9))
    with pytest.raises(ValueError, match="weight must be a tensor that can be addressed"):
        convext.problem((1, 4, 9, 9), (1 << 60, 4, 3, 3))
    with pytest.raises(ValueError, match=r"input must be a strided tensor, but is torch\.sparse"):
        convext.explain(layer, torch.randn(1, 4, 9, 9).to_sparse())
    with pytest.raises(RuntimeError, match="input and weight must have one dtype, but have"):
        convext.explain(layer, torch.randn(1, 4, 9, 9, dtype=torch.float64))
    with pytest.raises(TypeError, match="input must be left out"):
        convext.explain(convext.problem((1, 4, 9, 9), (6, 4, 3, 3)), (1, 4, 9, 9))
    with pytest.raises(ValueError, match="lazy module"):
        convext.explain(convext.LazyConvExt2d(4, 3), (1, 4, 9, 9))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        convext.explain(layer, (1, 4, 2, 2))
    for gpu in ("9", "sm_90", "9.", "ninety", "9.10"):
        with pytest.raises(ValueError, match="gpu must be a compute capability"):
            convext.explain(layer, (1, 4, 9, 9), gpu=gpu)
    with pytest.raises(TypeError, match=r"name must be a string or a convext\.Plan"):
        convext.force_plan(7).__enter__()  # type: ignore[arg-type]


# ---- the command


def test_the_command_prints_the_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    words = ["explain", "--in", "1,64,56,56", "--conv", "128,3,s2,p1", "--json", str(file)]
    assert main(words) == 0
    output = capsys.readouterr().out
    plan = convext.explain(convext.problem((1, 64, 56, 56), (128, 64, 3, 3), stride=2, padding=1))
    assert plan.formula["P"] in output
    for found in plan.passes.values():
        assert found.kernel in output
        assert found.sources[0] in output
    assert convext.Plan.load(file).spec == plan.spec

    assert "read       docs/book/polyphase.md" in output
    for name in ("weight_grad", "wgrad"):
        assert main([*words[:5], "--pass", name]) == 0
        output = capsys.readouterr().out
        assert plan["weight_grad"].kernel in output
        assert plan["forward"].kernel not in output

    assert main([*words[:5], "--json", "-", "--threads", "1", "--dtype", "float64"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["problem"]["dtype"] == "float64"
    assert values["passes"]["forward"]["threads"] == 1
    assert main([*words[:5], "--json", "-", "--pass", "input_grad"]) == 0
    assert list(json.loads(capsys.readouterr().out)["passes"]) == ["input_grad"]
    assert main([*words[:5], "--dtype", "complex64", "--pass", "forward"]) == 0
    assert "complex64, run as real convolutions" in capsys.readouterr().out


def test_columns_decide_how_wide_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["explain", "--in", "1,512,56,56", "--conv", "128,3", "--pass", "forward"]
    widest = {}
    for columns in ("70", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(words) == 0
        table = capsys.readouterr().out.split("why not")[1]
        widest[columns] = max(map(len, table.splitlines()))
    assert widest["70"] <= 70 < widest["120"]


def test_convolutions_as_the_command_takes_them() -> None:
    assert parse_conv("64,3") == Conv(64, (3, 3))
    assert parse_conv("8,3x5,s2x1,psame,d2,g4,reflect") == Conv(
        8, (3, 5), (2, 1), "same", (2, 2), 4, "reflect"
    )
    assert parse_conv("8,1,p1x0x2x1").padding == (1, 0, 2, 1)


@pytest.mark.parametrize(
    ("input", "conv", "words"),
    [
        ("1,64,56", "64,3", "'1,64,56' is not 4 integers separated by commas"),
        ("1,64,56,x", "64,3", "is not 4 integers"),
        ("1,64,56,\u00b2", "64,3", "is not 4 integers"),
        ("1,64,56,99999999999999999999", "64,3", "--in must be a tensor that can be addressed"),
        ("1,64,-9,9", "64,3", "'1,64,-9,9' has a negative number"),
        ("1,64,9,9", "64,3,p-1", "'-1' has a negative number"),
        ("1,64,9,9", "64", "does not begin with output channels and a kernel"),
        ("1,64,9,9", "64,3,3", "'3' is neither a padding mode"),
        ("1,64,9,9", "64,3,s2,s1", "gives the stride twice"),
        ("1,64,9,9", "64,3,p1x2x3", "is not 1 or 2 or 4 integers separated by 'x'"),
        ("1,64,9,9", "64,3,g5", "64 channels cannot be split into 5 groups"),
        ("1,64,9,9", "64,3,s0", "non-positive stride is not supported"),
        ("1,64,2,2", "64,3", "Kernel size can't be greater than actual input size"),
        ("1,64,9,9", "64,3,s2,psame", "padding='same' is not supported for strided convolutions"),
    ],
)
def test_convolutions_that_cannot_be(
    input: str, conv: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["explain", "--in", input, "--conv", conv])
    except SystemExit as error:  # argparse's
        code = int(str(error.code))
    assert code == 2
    assert words in capsys.readouterr().err


def test_wrong_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["explain", "--in", "1,4,9,9", "--conv", "4,3"]
    for more, message in (
        (["--threads", "0"], "--threads must be 1 or more"),
        (["--gpu", "9"], "gpu must be a compute capability"),
        (["--json", str(tmp_path / "no" / "plan.json")], "No such file"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err


@needs_cuda_build
def test_a_gpu_without_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--in", "1,4,9,9", "--conv", "4,3", "--gpu", "3.0"]) == 2
    assert capsys.readouterr().err.startswith("convext explain: no CUDA kernel can run this pass")
