"""The benchmark's own correctness: shape tables, pairs, verification, summary, files, arguments."""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.utils.flop_counter import FlopCounterMode

from convext.bench import add_parser, compare, operands, report, runner, shapes, timing, verify
from convext.bench.shapes import ConvShape, ShapeError

TINY = ConvShape("tiny", 4, 9, 7, 6, 3, 2, (2, 1), (1, 0), (1, 2), 2)
TINY_CSV = """\
# comment
name,C,H,W,K,R,S,stride,padding,dilation,groups
tiny,4,9,7,6,3,2,2x1,1x0,1x2,2
plain,4,6,6,4,3,3,1,1,1,1
"""
EFFORT = timing.Effort(budget_s=0.0, min_pairs=4, max_pairs=4)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.csv"
    path.write_text(TINY_CSV, encoding="utf-8")
    return path


def bench(*arguments: str) -> int:
    """`convext bench` with the given arguments."""
    parser = argparse.ArgumentParser(prog="convext")
    add_parser(parser.add_subparsers())
    args = parser.parse_args(["bench", *arguments])
    return int(args.run(args))


class TestShapes:
    def test_resnet50_table_is_what_the_model_runs(self) -> None:
        transformers = pytest.importorskip("transformers")
        with torch.device("meta"):
            model = transformers.ResNetModel(transformers.ResNetConfig()).eval()
            found = shapes.collect(model, torch.empty(1, 3, 224, 224))
        listed = shapes.read_table(shapes.find_table("resnet50"))
        assert len(listed) == 23
        assert [shape.geometry for shape in listed] == [shape.geometry for shape in found]

    def test_reads_pairs_and_comments(self, table: Path) -> None:
        tiny, plain = shapes.read_table(table)
        assert tiny == TINY
        assert plain == ConvShape("plain", 4, 6, 6, 4, 3, 3, (1, 1), (1, 1))

    @pytest.mark.parametrize(
        ("old", "new", "words"),
        [
            ("dilation", "dilatation", "no column dilation"),
            ("2x1", "2x1x1", "HxW"),
            ("6,6", "6,six", "six"),
            ("plain", "tiny", "stands twice"),
            ("1x2,2", "1x2,3", "multiples of groups"),
            ("1,1,1,1", "0,1,1,1", "not positive"),
            ("plain,4,6,6,4,3,3,1,1,1,1", "plain,4,6", "plain"),
        ],
    )
    def test_bad_tables_are_refused(self, table: Path, old: str, new: str, words: str) -> None:
        assert old in TINY_CSV
        table.write_text(TINY_CSV.replace(old, new), encoding="utf-8")
        with pytest.raises(ShapeError, match=words):
            shapes.read_table(table)

    def test_unknown_table_names_the_known_ones(self) -> None:
        with pytest.raises(ShapeError, match="resnet50"):
            shapes.find_table("resnet51")

    def test_flops_are_those_of_torch(self) -> None:
        made = operands.make_operands(TINY, 3, torch.float32)
        with FlopCounterMode(display=False) as counter:
            operands.make_call("torch", "forward", TINY)(made)
        assert TINY.flops(3) == counter.get_total_flops() > 0

    def test_select(self, table: Path) -> None:
        both = shapes.read_table(table)
        assert shapes.select(both, []) == both
        assert shapes.select(both, ["t*"]) == [TINY]
        with pytest.raises(ShapeError, match="there are tiny, plain"):
            shapes.select(both, ["tiny", "res*"])


class TestTiming:
    def test_pairs_alternate_and_ratio_is_first_over_second(self) -> None:
        now = 0.0
        order: list[str] = []
        indices: list[int] = []

        def takes(name: str, seconds: float) -> Any:
            def function(index: int) -> None:
                nonlocal now
                now += seconds
                order.append(name)
                indices.append(index)

            return function

        pairs = timing.time_pairs(takes("A", 3.0), takes("B", 2.0), EFFORT, lambda: now)
        assert "".join(order[-8:]) == "ABBAABBA"
        assert indices == list(range(len(order)))
        assert (pairs.first, pairs.second, pairs.calls_per_sample) == ([3.0] * 4, [2.0] * 4, 1)
        assert pairs.ratio == timing.Spread(1.5, 1.5, 1.5, 1.5, 1.5)

    def test_short_calls_are_sampled_together(self) -> None:
        now = 0.0

        def step(index: int) -> None:
            nonlocal now
            now += 2.0**-20

        pairs = timing.time_pairs(step, step, EFFORT, lambda: now)
        assert pairs.calls_per_sample == math.ceil(timing.MIN_SAMPLE_S * 2**20)
        assert pairs.first == [2.0**-20] * 4

    def test_number_of_pairs_is_even_and_bounded(self) -> None:
        effort = timing.Effort(budget_s=1.0, min_pairs=4, max_pairs=20)
        assert [effort.pairs(seconds) for seconds in (10.0, 0.11, 1e-6)] == [4, 8, 20]

    def test_spread(self) -> None:
        assert timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(3.0, 2.0, 4.0, 1.0, 5.0)


class TestOperands:
    def test_rotation_exceeds_the_cache_with_memory_of_its_own(self) -> None:
        made = operands.make_operands(TINY, 2, torch.float32)
        made = made.to(memory_format=torch.channels_last)
        sets = operands.rotation(made, cache_bytes=4 * made.nbytes())
        assert len(sets) == 8
        assert len({one.input.data_ptr() for one in sets}) == 8
        for one in sets:
            assert torch.equal(one.weight, made.weight)
            assert one.input.is_contiguous(memory_format=torch.channels_last)
        assert len(operands.rotation(made, cache_bytes=0)) == 1
        assert len(operands.rotation(made, cache_bytes=1 << 40)) == operands.MAX_SETS

    @pytest.mark.parametrize("peer", operands.PEERS)
    @pytest.mark.parametrize("pass_", operands.PASSES)
    def test_calls_compute_what_autograd_does(self, peer: str, pass_: str) -> None:
        made = operands.make_operands(TINY, 2, torch.float64)
        made.input.requires_grad_()
        made.weight.requires_grad_()
        output = torch.nn.functional.conv2d(
            made.input, made.weight, None, TINY.stride, TINY.padding, TINY.dilation, TINY.groups
        )
        output.backward(made.grad_output)
        right = {
            "forward": (output,),
            "input_grad": (made.input.grad, None, None),
            "weight_grad": (None, made.weight.grad, None),
            "backward": (made.input.grad, made.weight.grad, None),
        }[pass_]
        with torch.no_grad():
            results = operands.make_call(peer, pass_, TINY)(made)
        assert [found is None for found in results] == [value is None for value in right]
        for found, value in zip(results, right, strict=True):
            if value is not None:
                torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


class TestVerify:
    def damaged(self, monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
        """Have convext's backward results pass through ``damage``."""
        sound = operands.make_call

        def make_call(peer: str, pass_: str, shape: ConvShape) -> operands.Call:
            call = sound(peer, pass_, shape)
            if peer == "torch" or pass_ == "forward":
                return call
            return lambda made: (call(made)[0], damage(call(made)[1]), None)  # type: ignore[return-value]

        monkeypatch.setattr(verify, "make_call", make_call)

    def check(self, dtype: torch.dtype) -> verify.Errors:
        made = operands.make_operands(TINY, 2, dtype)
        return verify.verify(TINY, made, verify.reference(TINY, made))

    @pytest.mark.parametrize("dtype", operands.DTYPES.values(), ids=operands.DTYPES)
    def test_right_results_pass(self, dtype: torch.dtype) -> None:
        errors = self.check(dtype)
        limit = verify.LIMIT_IN_EPS[dtype] * torch.finfo(dtype).eps
        assert set(errors.convext) == set(verify.TENSORS)
        assert all(error <= limit for error in errors.convext.values())

    def test_wrong_results_do_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def one_wrong(grad: torch.Tensor) -> torch.Tensor:
            grad = grad.clone()
            grad.view(-1)[5] += 1e-4 * grad.abs().max()
            return grad

        def with_nan(grad: torch.Tensor) -> torch.Tensor:
            grad = grad.clone()
            grad.view(-1)[5] = math.nan
            return grad

        def raises(grad: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no kernel")

        damages = {
            one_wrong: "grad_weight: error",
            with_nan: "grad_weight: error nan",
            torch.neg: "grad_weight: error 2 of",
            torch.Tensor.double: "grad_weight: dtype",
            lambda grad: grad[..., :-1]: "grad_weight: shape",
            lambda grad: grad.to(memory_format=torch.channels_last): "grad_weight: strides",
            raises: "raised: no kernel",
        }
        for damage, words in damages.items():
            with monkeypatch.context() as patch:
                self.damaged(patch, damage)
                with pytest.raises(verify.VerificationError, match=words):
                    self.check(torch.float32)


def cell(pass_: str, ratio: float, **key: Any) -> report.Cell:
    spread = {"median": ratio, "q1": ratio, "q3": ratio, "min": ratio, "max": ratio}
    named = {"layer": "tiny", "dtype": "float32", "batch": 1, "layout": "contiguous", "threads": 1}
    return {
        **{**named, **key},
        "pass": pass_,
        "ratio": spread,
        "torch_ms": {**spread},
        "convext_ms": {**spread, "median": 1.0},
    }


class TestReport:
    def test_summary_groups_by_key(self) -> None:
        cells = [
            cell("forward", 1.0),
            cell("forward", 4.0, batch=16),
            cell("forward", 2.0, batch=16, layout="channels_last"),
            cell("backward", 3.0, threads=2),
        ]
        forward, backward = report.summarise(cells)
        assert (forward["pass"], forward["cells"]) == ("forward", 3)
        assert (forward["geomean"], forward["worst"], forward["best"]) == (2.0, 1.0, 4.0)
        assert forward["batch"]["16"]["geomean"] == pytest.approx(8**0.5, abs=1e-4)
        assert forward["layout"]["channels_last"]["geomean"] == 2.0
        assert len(forward["crossed"]) == 3
        assert backward["threads"] == {"2": {"cells": 1, "geomean": 3.0, "worst": 3.0, "best": 3.0}}
        assert [report.ratio_of(one) for one in report.worst_cells(cells)] == [1.0, 2.0, 3.0, 4.0]

    def test_compare_tells_gain_from_drift(self, tmp_path: Path) -> None:
        for name, ratio in (("a", 1.0), ("b", 2.0)):
            environment = {"date": name, "cpu": {"model": "same"}, "commit": name}
            cells = [cell("forward", ratio), cell("forward", 1.0, layer=name)]
            report.write_json(tmp_path / f"{name}.json", environment, {}, cells, [], True)
        first, second = (report.read_json(tmp_path / f"{name}.json") for name in "ab")
        assert compare.differences(first["environment"], second["environment"]) == [
            ("commit", "a", "b")
        ]
        console = Console(record=True, width=200, file=io.StringIO())
        assert compare.compare(first, second, console) == 0
        text = console.export_text()
        assert "1 shared cells" in text
        assert "1 cells only in A" in text
        row = next(line for line in text.splitlines() if "forward" in line)
        assert [part.strip() for part in row.split("│")[3:9]] == [
            *("1", "1.00", "2.00", "2.00", "0.50", "1.00")
        ]
        assert bench("compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")) == 0


class TestCommand:
    def test_run_writes_every_cell(self, table: Path, tmp_path: Path) -> None:
        out = tmp_path / "deep" / "run.json"
        threads = torch.get_num_threads()
        code = bench(
            *("--shapes", str(table), "--batch", "1,2", "--threads", "1", "--malloc", "default"),
            *("--dtype", "float32,float64", "--quick", "--out", str(out)),
        )
        assert code == 0
        assert torch.get_num_threads() == threads
        run = report.read_json(out)
        assert run["complete"] is True
        assert run["failures"] == []
        assert run["environment"]["malloc"] == "default"
        assert run["environment"]["torch"]["version"] == torch.__version__
        assert {"cpu", "convext", "load", "commit", "date"} <= set(run["environment"])
        keys = {tuple(one[name] for name in runner.KEY) for one in run["cells"]}
        assert len(keys) == len(run["cells"]) == 2 * 2 * 2 * 2 * 2
        for one in run["cells"]:
            assert one["ratio"]["min"] <= one["ratio"]["median"] <= one["ratio"]["max"]
            assert one["convext_gflops"] > 0
            assert 0 <= one["error"]["convext"] < 1e-5
            natives = {"forward": ["fprop"], "backward": ["dgrad", "wgrad"]}[one["pass"]]
            assert [plan["kernel"].split("_")[0] for plan in one["plans"]] == natives

    def test_wrong_results_are_reported_and_not_timed(
        self,
        table: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def verify_plain(shape: ConvShape, *rest: Any) -> verify.Errors:
            if shape.name == "plain":
                raise verify.VerificationError("output: wrong")
            return verify.verify(shape, *rest)

        monkeypatch.setattr(runner, "verify", verify_plain)
        out = tmp_path / "run.json"
        code = bench(
            *("--shapes", str(table), "--batch", "1", "--threads", "1", "--malloc", "default"),
            *("--quick", "--layout", "contiguous", "--out", str(out)),
        )
        assert code == 1
        text = "plain, float32, N=1, contiguous, 1 threads: output: wrong"
        run = json.loads(out.read_text(encoding="utf-8"))
        assert run["failures"] == [text]
        assert {one["layer"] for one in run["cells"]} == {"tiny"}
        assert text in capsys.readouterr().out

    def test_unknown_layer_is_an_error(
        self, table: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bench("--shapes", str(table), "--layers", "res9") == 2
        assert "no layer matches 'res9'" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "arguments",
        [("--dtype", "int8"), ("--batch", "0"), ("--threads", "two"), ("--pass", "forwards")],
    )
    def test_bad_arguments_are_refused(
        self, arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            bench(*arguments)
        assert caught.value.code == 2
        assert arguments[1] in capsys.readouterr().err

    def test_compare_refuses_other_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other.json"
        other.write_text('{"schema": 0}', encoding="utf-8")
        assert bench("compare", str(other), str(other)) == 2
        assert "not a benchmark run" in capsys.readouterr().err
        assert bench("compare", str(tmp_path / "none.json"), str(other)) == 2
        assert "No such file" in capsys.readouterr().err


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_warm_malloc_keeps_pages() -> None:
    """Page faults of filling a fresh 64 MB block: thousands by default, next to none when warm."""
    program = """
import resource, sys, torch
from convext.bench.environment import set_malloc
print(set_malloc(sys.argv[1]))
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def fill(times):
    for _ in range(times):
        torch.empty(16 << 20).fill_(1)
fill(16)  # the heap grows until an aligned block fits between what malloc holds back
before = faults()
fill(4)
print(faults() - before)
"""
    found = {}
    for mode in ("warm", "default"):
        done = subprocess.run(
            [sys.executable, "-c", program, mode], capture_output=True, text=True, check=True
        )
        said, faults = done.stdout.splitlines()
        assert said.startswith(mode)
        found[mode] = int(faults)
    assert found["warm"] < 100
    if "[always]" not in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
        assert found["default"] > 4 * (64 << 20) // 65536
