"""The command line: what it prints, what it exits with, and that its checks can fail."""

import builtins
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

import convext
from convext import _C
from convext.cli import _show, demo, digits, main, verify
from convext.testing import FLOATING_DTYPES, PASSES, Problem, check


def run_convext(*arguments, **environment):
    """``python -m convext`` in a process of its own, its output piped."""
    return subprocess.run(
        [sys.executable, "-m", "convext", *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """What decides about colours, widths and kernels is left out; convext has read it by then."""
    _C.active_isa()
    for name in ("FORCE_COLOR", "COLUMNS", "TTY_COMPATIBLE", "CONVEXT_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)


# ----------------------------------------------------------------------------------- arguments


def test_version(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"convext {convext.__version__}\n"


COMMANDS = ("info", "explain", "trace", "compare", "verify", "demo", "bench")


def test_python_m_convext_is_the_command():
    result = run_convext("--version")
    assert (result.returncode, result.stdout) == (0, f"convext {convext.__version__}\n")


def test_no_command_prints_the_help(capsys):
    assert main([]) == 2
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"^ +{command} +\w+", out, re.MULTILINE)
    for variable in ("CONVEXT_CPU_ISA", "CONVEXT_PLAN", "CONVEXT_WORKSPACE_LIMIT"):
        assert variable in out


@pytest.mark.parametrize(
    "command", ["info", "explain", "trace", "compare", "verify", "demo", "bench"]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main([command, "--help"])
    assert exit.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: convext {command}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "invalid choice: 'train'"),
        (["info", "--yaml"], "unrecognized arguments: --yaml"),
        (["verify", "--dtype", "float8"], "argument --dtype: invalid choice: 'float8'"),
        (["verify", "--device", "tpu"], "argument --device: invalid choice: 'tpu'"),
        (["demo", "--epochs", "0"], "usage: convext demo [-h]"),
        (["demo", "--epochs", "0"], "convext demo: error: unrecognized arguments: --epochs 0"),
        (["demo", "--seed", "x"], "argument --seed: invalid int value: 'x'"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("module", "package"), [("rich", "rich"), ("sklearn", "scikit-learn")])
def test_a_missing_extra_is_one_plain_sentence(module, package, monkeypatch, capsys):
    real_import = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        return real_import(name, *args, **kwargs)

    for name in list(sys.modules):
        if name.split(".")[0] == module or name.startswith(("convext.cli.", "convext.bench")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("_show", "demo", "digits", "info", "trace", "verify"):
        monkeypatch.delattr(f"convext.cli.{name}", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        f"convext: this needs {package}, which the extra 'cli' brings: pip install convext[cli]\n"
    )


def test_an_unknown_instruction_set_is_one_plain_sentence():
    result = run_convext("verify", CONVEXT_CPU_ISA="sse9")
    assert result.returncode == 2
    assert result.stderr.startswith("convext: ")
    assert "CONVEXT_CPU_ISA" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_closed_pipe_is_no_error():
    process = subprocess.run(
        [f"{sys.executable} -m convext info --kernels | head -1; exit ${{PIPESTATUS[0]}}"],
        executable="/bin/bash",
        shell=True,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr
    assert process.stdout.startswith("convext")


# ---------------------------------------------------------------------------------------- info


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert re.search(rf"^convext +{re.escape(convext.__version__)}$", out, re.MULTILINE)
    assert re.search(rf"^torch +{re.escape(torch.__version__)} ", out, re.MULTILINE)
    assert re.search(rf"^runs now +{_C.active_isa()}: ", out, re.MULTILINE)
    assert re.search(rf"^threads +{torch.get_num_threads()} ", out, re.MULTILINE)
    runnable = [kernel for kernel in _C.kernels() if kernel["runnable"]]
    assert f"{len(runnable)} of {len(_C.kernels())} kernels can run on this CPU" in out
    for kernel in runnable:
        assert re.search(rf"{kernel['pass']} +{kernel['algorithm']} +\w+", out)


@pytest.mark.parametrize("cuda", [True, False])
def test_info_says_loudly_whether_there_are_cuda_kernels(cuda, monkeypatch, capsys):
    report = "built with nvcc 13.0" if cuda else "not built (nvcc was not found)"
    build = _C.build_info() | {"cuda": cuda, "cuda_report": report}
    monkeypatch.setattr(_C, "build_info", lambda: build)
    assert main(["info"]) == 0
    line = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("CUDA kernels")
    )
    assert ("NOT BUILT" in line) is not cuda


def test_info_lists_every_kernel(capsys):
    assert main(["info", "--kernels"]) == 0
    out = capsys.readouterr().out
    for kernel in _C.kernels():
        verdict = "yes" if kernel["runnable"] else f"no: {kernel['reason']}"
        assert re.search(rf"{kernel['name']} +{verdict}", out)


def test_info_as_json(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["convext"] == convext.__version__
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["build"]["isas"] == _C.build_info()["isas"]
    assert facts["machine"]["features"] == _C.cpu_features()
    assert facts["machine"]["threads"] == torch.get_num_threads()
    assert facts["isa"]["active"] == _C.active_isa()
    assert facts["kernels"] == _C.kernels()


@pytest.mark.parametrize("isa", _C.isas())
def test_info_in_a_forced_instruction_set(isa):
    result = run_convext("info", CONVEXT_CPU_ISA=isa)
    assert result.returncode == 0
    assert re.search(rf"^runs now +{isa}: forced by CONVEXT_CPU_ISA$", result.stdout, re.MULTILINE)


# -------------------------------------------------------------------------------------- verify

TINY = verify.Effort(edges=4, random=2, around=3)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(verify, "QUICK", TINY)


def kernels_of(*dtypes):
    return [k for k in _C.kernels() if k["runnable"] and k["dtype"] in dtypes]


def test_verify(tiny, capsys):
    assert main(["verify", "--quick", "--dtype", "float32", "--dtype", "int8"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    kernels = len(kernels_of("float32", "int8"))
    assert f"{kernels} of {kernels} kernels that can run here were run" in out
    rows = re.findall(r"(forward|\w+_grad) +(\d+) +(exact|[\d.]+) +(\d+): [\w, ]+ +ok", out)
    assert "grouped_planes" in out
    assert [row[0] for row in rows] == [*PASSES, *PASSES]
    assert {row[2] == "exact" for row in rows[4:]} == {True}
    assert max(float(row[2]) for row in rows[:4]) <= 1
    assert "float32" in out
    assert "int8" in out
    assert "float64 " not in out


@pytest.mark.parametrize("isa", _C.isas())
def test_verify_in_a_forced_instruction_set(isa):
    result = run_convext("verify", "--quick", "--dtype", "float32", CONVEXT_CPU_ISA=isa)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f", {isa} kernels, " in result.stdout
    kernels = sum(k["name"].endswith((f"_{isa}", "_scalar")) for k in kernels_of("float32"))
    assert f"{kernels} of {kernels} kernels that can run here were run" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_verify_fails_and_says_how_to_see_it_again(tiny, monkeypatch, capsys):
    right = convext.conv2d

    def wrong(*args, **kwargs):
        return right(*args, **kwargs) * (1 + 2e-4)

    monkeypatch.setattr(convext, "conv2d", wrong)
    assert main(["verify", "--quick", "--dtype", "float32"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "WRONG" in out
    snippet = out[out.index("import torch\n") :].split("\n\n")[0].split("\nwrong ")[0]
    snippet = "\n".join(snippet.splitlines()[:3])
    with pytest.raises(AssertionError, match="elements are wrong"):
        exec(snippet, {})
    monkeypatch.setattr(convext, "conv2d", right)
    exec(snippet, {})


def test_verify_takes_an_exception_for_a_failure(tiny, monkeypatch, capsys):
    def broken(*args, **kwargs):
        raise RuntimeError("no such [kernel]")

    monkeypatch.setattr(convext, "conv2d", broken)
    assert main(["verify", "--quick", "--dtype", "float32"]) == 1
    assert "RuntimeError: no such [kernel]" in capsys.readouterr().out


def test_verify_fails_if_a_kernel_is_not_reached(tiny, monkeypatch, capsys):
    forgotten = next(k["name"] for k in kernels_of("float32") if k["algorithm"] == "reference")
    takes = verify._takes
    monkeypatch.setattr(
        verify, "_takes", lambda kernel, p: kernel["name"] != forgotten and takes(kernel, p)
    )
    monkeypatch.setattr(verify, "QUICK", verify.Effort(edges=0, random=0, around=3))
    assert main(["verify", "--quick", "--dtype", "float32"]) == 1
    out = capsys.readouterr().out
    assert f"No problem ran {forgotten}" in " ".join(out.split())
    assert "FAILED: 0 results are wrong" in out


def test_verify_on_cuda_without_cuda_kernels(monkeypatch, capsys):
    build = _C.build_info() | {"cuda": False}
    monkeypatch.setattr(_C, "build_info", lambda: build)
    assert main(["verify", "--device", "cuda"]) == 2
    assert "this build has no CUDA kernels" in " ".join(capsys.readouterr().out.split())
    monkeypatch.setattr(_C, "build_info", lambda: build | {"cuda": True})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["verify", "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().out


def test_the_seed_decides_the_problems():
    def problems(seed):
        return [task.problem for task in verify.make_tasks([torch.float32], TINY, seed)]

    assert problems(1) == problems(1)
    assert problems(1) != problems(2)


def test_full_effort_is_a_few_hundred_problems_of_each_floating_dtype():
    for dtype in FLOATING_DTYPES:
        tasks = verify.make_tasks([dtype], verify.FULL, 0)
        assert sum(task.force == "" for task in tasks) > 300
        assert {task.threads for task in tasks} == {1, torch.get_num_threads()}


def test_tasks_force_every_kernel():
    tasks = verify.make_tasks([torch.float32, torch.int16], TINY, 0)
    forced = {task.force.split("=")[1] for task in tasks if task.force}
    assert forced == {kernel["name"] for kernel in kernels_of("float32", "int16")}


# ---------------------------------------------------------------------------------------- demo


def test_demo():
    result = run_convext("demo")
    assert result.returncode == 0, result.stdout + result.stderr
    out = result.stdout
    assert "\x1b" not in out
    assert result.stderr == ""
    epochs = re.findall(r"^ +(\d) +([\d.]+) \S* +([\d.]+)% \S* +([\d.]+) \S* +([\d.]+)%", out, re.M)
    assert [int(epoch[0]) for epoch in epochs] == [1, 2, 3, 4, 5]
    for _, torch_loss, torch_accuracy, loss, accuracy in epochs:
        assert float(loss) == pytest.approx(float(torch_loss), abs=2e-4)
        assert float(accuracy) == pytest.approx(float(torch_accuracy), abs=0.6)
    assert float(epochs[-1][4]) > 95
    assert float(epochs[-1][3]) < float(epochs[0][3]) / 5
    assert re.search(r"Time: nn.Conv2d [\d.]+ s, ConvExt2d [\d.]+ s", out)
    assert re.search(r"first +1x8x8 +10x10 +3x3 stride 1 +16x8x8 +fprop_\w+", out)
    assert re.search(r"strided +16x8x8 +10x10 +3x3 stride 2 +32x4x4 +fprop_\w+", out)
    assert re.search(r"depthwise +32x4x4 +6x6 reflect +3x3 stride 1 groups 32 +32x4x4 ", out)
    assert re.search(r"pointwise +32x4x4 +- +1x1 stride 1 +64x4x4 ", out)
    assert "Largest deviation" in out
    assert "The two runs agree" in out


class Wrong(nn.Conv2d):
    """A convolution whose ``operand`` is off by a factor, in some dtypes."""

    operand = "weight_grad"
    factor = 1.001
    dtypes = (torch.float32, torch.float64)

    def forward(self, input):
        if input.dtype not in self.dtypes:
            return super().forward(input)
        weight = self.weight
        if self.operand == "weight_grad" and torch.is_grad_enabled():
            weight = weight * 1.0
            weight.register_hook(lambda grad: grad * self.factor)
        output = self._conv_forward(input, weight, self.bias)
        return output * self.factor if self.operand == "forward" else output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "in float32 the loss with ConvExt2d strays"),
        ({"operand": "forward"}, "in float32 the loss with ConvExt2d strays"),
        ({"factor": 1 + 1e-4, "dtypes": [torch.float32]}, "in float32 the loss with ConvExt2d"),
        ({"factor": 1 + 1e-9, "dtypes": [torch.float64]}, "in float64 the losses with nn.Conv2d"),
        ({"operand": "forward", "factor": float("nan")}, "in float32 the loss with ConvExt2d"),
    ],
    ids=["weight_grad", "forward", "float32 slightly", "float64 slightly", "nan"],
)
def test_demo_fails_when_the_runs_part_ways(changes, message, monkeypatch, capsys):
    kind = type("Wrong", (Wrong,), changes)
    monkeypatch.setattr(demo, "EPOCHS", 1)

    def convert(model):
        for module in model.modules():
            if type(module) is nn.Conv2d:
                module.__class__ = kind
        return model

    monkeypatch.setattr(convext, "convert", convert)
    assert main(["demo"]) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "The two runs part ways: " + message in out
    assert "The two runs agree" not in out


def training(*steps):
    return digits.Training(nn.Sequential(), steps=list(steps))


def test_the_verdict_measures_rounding():
    control = training(1.0, 0.5)
    reference = training(1.0, 0.5 + 1e-6)
    right = demo.judge(
        reference, training(1.0 - 3e-6, 0.5), control=control, ours64=training(1.0, 0.5 + 1e-15)
    )
    assert right.problem == ""
    assert right.torch32 == pytest.approx(1e-6)
    assert right.convext32 == pytest.approx(3e-6)
    assert right.limit32 == pytest.approx(demo.SLACK * 1e-6)
    assert right.limit64 == pytest.approx(right.limit32 * 2.0**-29)
    far = training(1.0 - 1.1 * right.limit32, 0.5)
    assert "in float32" in demo.judge(reference, far, control=control, ours64=control).problem
    far64 = training(1.0, 0.5 + 2 * right.limit64)
    assert "in float64" in demo.judge(reference, control, control=control, ours64=far64).problem
    lost = training(1.0, float("nan"))
    assert demo.judge(reference, lost, control=control, ours64=control).problem
    assert demo.judge(reference, control, control=control, ours64=lost).problem


def test_bars():
    assert _show.bar(0.0, 4) == "    "
    assert _show.bar(0.5, 4) == "\u2588\u2588  "
    assert _show.bar(1.0, 4) == _show.bar(2.0, 4) == "\u2588" * 4
    assert _show.bar(float("nan"), 4) == "    "
    assert len(_show.bar(0.3, 4)) == 4


def test_digits_depend_on_the_seed_alone():
    first, again, other = digits.load(1), digits.load(1), digits.load(2)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (1437, 1, 8, 8)
    assert first.test_images.shape == (360, 1, 8, 8)
    assert first.images.std().item() == pytest.approx(1)


def test_demo_models_start_alike_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    models = [digits.make_model(1, dtype) for dtype in (torch.float32, torch.float64)]
    assert torch.equal(torch.rand(3), expected)
    for narrow, wide in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(narrow.double(), wide)


def test_a_forced_kernel_is_the_one_that_runs():
    problem = Problem(N=1, C=4, H=6, W=6, K=4)
    for kernel in kernels_of("float32"):
        if kernel["pass"] != "fprop" or kernel["algorithm"] not in ("indirect", "direct", "dot"):
            continue  # others do not run this problem
        _C.reset_kernel_runs()
        assert check(problem, ("forward",), force=f"fprop={kernel['name']}")["forward"]
        assert _C.kernel_runs()[kernel["name"]] == 1
