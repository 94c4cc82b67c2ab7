"""The benchmark's own correctness: shape tables, pairs, verification, summary, files, arguments."""

from __future__ import annotations

import argparse
import dataclasses
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

import convext
from convext import _C
from convext.bench import (
    accuracy,
    add_parser,
    arguments,
    cli,
    compare,
    environment,
    fit,
    models,
    operands,
    peaks,
    report,
    runner,
    shapes,
    timing,
    verify,
)
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


PEAKS = {"float32_gflops": 64.0, "float64_gflops": 32.0, "copy_gbytes": 16.0}


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peaks are not looked for in every test."""
    monkeypatch.setattr(peaks, "measure", lambda threads, cache: dict.fromkeys(threads, PEAKS))


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="convext")
    add_parser(parser.add_subparsers())
    return parser.parse_args(["bench", *words])


def bench(*words: str) -> int:
    """`convext bench` with the given arguments."""
    args = parse(*words)
    return int(args.run(args))


# MobileNetV3-Large as the paper's first table has it: kernel, expansion, output channels,
# squeeze-and-excitation, stride.
BNECKS = [
    *((3, 16, 16, 0, 1), (3, 64, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2)),
    *((5, 120, 40, 1, 1), (5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1)),
    *((3, 184, 80, 0, 1), (3, 184, 80, 0, 1), (3, 480, 112, 1, 1), (3, 672, 112, 1, 1)),
    *((5, 672, 160, 1, 2), (5, 960, 160, 1, 1), (5, 960, 160, 1, 1)),
]


class Bneck(torch.nn.Module):
    def __init__(self, inputs: int, kernel: int, wide: int, outputs: int, se: int, stride: int):
        super().__init__()
        conv = torch.nn.Conv2d
        layers = [] if wide == inputs else [conv(inputs, wide, 1)]
        layers.append(conv(wide, wide, kernel, stride, kernel // 2, groups=wide))
        self.before = torch.nn.Sequential(*layers)
        narrow = max(8, (wide // 4 + 4) // 8 * 8)  # a quarter, in eights, by no more than a tenth
        narrow += 8 if narrow < 0.9 * wide / 4 else 0
        squeeze = [torch.nn.AdaptiveAvgPool2d(1), conv(wide, narrow, 1), conv(narrow, wide, 1)]
        self.squeeze = torch.nn.Sequential(*squeeze) if se else None
        self.after = conv(wide, outputs, 1)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        wide = self.before(input)
        return self.after(wide if self.squeeze is None else wide * self.squeeze(wide))


def mobilenet_v3_large() -> torch.nn.Module:
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(3, 16, 3, 2, 1)]
    inputs = 16
    for bneck in BNECKS:
        layers.append(Bneck(inputs, *bneck))
        inputs = bneck[2]
    return torch.nn.Sequential(*layers, torch.nn.Conv2d(inputs, 960, 1))


def transformer(name: str) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers")
    model: torch.nn.Module = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")()
    )
    return model


NETWORKS = {
    "resnet50": (lambda: transformer("ResNet"), 23),
    "convnext_tiny": (lambda: transformer("ConvNext"), 8),
    "mobilenet_v3_large": (mobilenet_v3_large, 44),
}


class TestShapes:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_table_is_what_the_model_runs(self, name: str) -> None:
        make, layers = NETWORKS[name]
        with torch.device("meta"):
            found = shapes.collect(make().eval(), torch.empty(1, 3, 224, 224))
        listed = shapes.read_table(shapes.find_table(name))
        assert len(listed) == layers
        assert [shape.geometry for shape in listed] == [shape.geometry for shape in found]

    def test_all_tables(self, table: Path, tmp_path: Path) -> None:
        everything = shapes.read_tables([shapes.ALL])
        assert {shape.table for shape in everything} >= {*NETWORKS, "telling"}
        names = [shape.name for shape in everything]
        assert len(set(names)) == len(names)
        both = shapes.read_tables([shapes.ALL, "resnet50", str(table)])
        assert len(both) == len(everything) + 2
        (tmp_path / "other.csv").write_text(TINY_CSV, encoding="utf-8")
        with pytest.raises(ShapeError, match="'tiny' stands in tiny and in other"):
            shapes.read_tables([str(table), str(tmp_path / "other.csv")])

    def test_a_batch_size_of_its_own(self, table: Path) -> None:
        lines = TINY_CSV.splitlines()
        text = "\n".join([f"{lines[1]},N", f"{lines[2]},3", f"{lines[3]},"])
        table.write_text(text + "\n", encoding="utf-8")
        tiny, plain = shapes.read_table(table)
        assert (tiny.N, plain.N) == (3, None)
        assert (tiny.batches([1, 16]), plain.batches([1, 16])) == ([3], [1, 16])
        table.write_text(text.replace(",3", ",0"), encoding="utf-8")
        with pytest.raises(ShapeError, match="not positive"):
            shapes.read_table(table)

    def test_which_padding_modes_fit(self) -> None:
        def fitting(size: int, padding: int) -> list[str]:
            shape = ConvShape("a", 1, size, 9, 1, 3, 3, padding=(padding, padding))
            return [mode for mode in operands.PADDING_MODES if shape.pads_with(mode)]

        assert fitting(5, 0) == ["zeros"]
        assert fitting(5, 2) == list(operands.PADDING_MODES)
        assert fitting(2, 2) == ["zeros", "replicate", "circular"]
        assert fitting(1, 2) == ["zeros", "replicate"]

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
        assert len(order) == 8  # calls this long are not repeated to warm up
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

    def test_other_dtypes_take_less(self) -> None:
        assert timing.effort_for("float32") is timing.FULL
        assert timing.effort_for("float16") is timing.REDUCED
        assert timing.effort_for("float16", quick=True) is timing.QUICK
        assert timing.REDUCED.min_pairs == 2

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

    def test_rotation_is_bounded_in_bytes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made = operands.make_operands(TINY, 2, torch.float32)
        monkeypatch.setattr(operands, "MAX_SET_BYTES", 3 * made.nbytes())
        assert len(operands.rotation(made, cache_bytes=1 << 40)) == 3

    @pytest.mark.parametrize("autograd", [False, True], ids=["op", "autograd"])
    @pytest.mark.parametrize("mode", operands.PADDING_MODES)
    @pytest.mark.parametrize("peer", operands.PEERS)
    @pytest.mark.parametrize("pass_", operands.PASSES)
    def test_calls_compute_what_autograd_does(
        self, peer: str, pass_: str, mode: str, autograd: bool
    ) -> None:
        shape = dataclasses.replace(TINY, padding=(2, 1))
        made = operands.make_operands(shape, 2, torch.float64)
        leaves = made.clone()
        leaves.input.requires_grad_()
        leaves.weight.requires_grad_()
        layer = torch.nn.Conv2d(
            *(4, 6, (3, 2), (2, 1), (2, 1), (1, 2), 2), bias=False, padding_mode=mode
        )
        output = torch.func.functional_call(layer, {"weight": leaves.weight}, (leaves.input,))
        output.backward(made.grad_output)
        right = {
            "forward": (output,),
            "input_grad": (leaves.input.grad, None, None),
            "weight_grad": (None, leaves.weight.grad, None),
            "backward": (leaves.input.grad, leaves.weight.grad, None),
        }[pass_]
        call = operands.make_call(peer, pass_, shape, mode, through_autograd=autograd)
        with torch.no_grad():
            call(made)
            results = call(made)  # a graph serves again and again
        assert [found is None for found in results] == [value is None for value in right]
        for found, value in zip(results, right, strict=True):
            if value is not None:
                torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


class TestVerify:
    def damaged(self, monkeypatch: pytest.MonkeyPatch, damage: Any) -> None:
        """Have convext's backward results pass through ``damage``."""
        sound = operands.make_call

        def make_call(peer: str, pass_: str, shape: ConvShape, mode: str) -> operands.Call:
            call = sound(peer, pass_, shape, mode)
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
        "plans": [],
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
        one = {"cells": 1, "behind": 0, "geomean": 3.0, "worst": 3.0, "best": 3.0}
        assert backward["threads"] == {"2": one}
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

    def test_losses_are_counted(self) -> None:
        ratios = (0.5, 0.99, 1.0, 2.0)
        (row,) = report.summarise([cell("forward", ratio) for ratio in ratios])
        assert row["behind"] == 2

    def test_padding_modes_are_rows_of_their_own(self) -> None:
        cells = [cell("forward", 2.0), cell("forward", 3.0, padding_mode="reflect")]
        rows = report.summarise(cells)
        assert [(row["padding_mode"], row["geomean"]) for row in rows] == [
            *(("zeros", 2.0), ("reflect", 3.0))
        ]

    def test_costs_are_percentages(self) -> None:
        cost = {"over": "zeros", "median": 1.25}
        table = report.cost_table([cell("forward", 2.0, padding_mode="reflect", cost=cost)])
        console = Console(record=True, width=200, file=io.StringIO())
        console.print(table)
        row = next(line for line in console.export_text().splitlines() if "reflect" in line)
        assert [part.strip() for part in row.split("│")[1:-1]] == [
            *("float32", "forward", "reflect", "zeros", "1", *["+25.0"] * 4)
        ]
        assert report.cost_table([cell("forward", 2.0)]) is None

    @pytest.mark.parametrize(("width", "shown"), [(report.WIDE, "fprop_x"), (120, "x")])
    def test_narrow_tables_name_algorithms(self, width: int, shown: str) -> None:
        cycles = {"multiply": 1e3, "move": 2e3, "memory": 3e3}
        plan = {"kernel": "fprop_x", "algorithm": "x", "workspace_bytes": 2048, "cycles": cycles}
        share = {"fma": 0.5, "bandwidth": 0.25}
        figures = {f"{peer}_share": share for peer in operands.PEERS}
        figures |= {f"{peer}_gflops": 7.0 for peer in operands.PEERS}
        table = report.cell_table([cell("forward", 2.0, plans=[plan], **figures)], "", width)
        console = Console(record=True, width=240, file=io.StringIO())
        console.print(table)
        row = next(line for line in console.export_text().splitlines() if "tiny" in line)
        details = [part.strip() for part in row.split("│")[11:-1]]
        whole = ["7.0 7.0", "50 50", "25 25", "1 + 2 + 3", "2", "fprop_x"]
        assert details == (whole if shown == "fprop_x" else ["50 50", "x"])

    def test_model_fit(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def planned(algorithm: str, cycles: float, **key: Any) -> report.Cell:
            terms = {"multiply": cycles, "move": 0.0, "memory": 0.0}
            return cell("forward", 1.0, plans=[{"algorithm": algorithm, "cycles": terms}], **key)

        # 64 GF/s in 8 lanes are 2 FMAs a cycle at 2 GHz: a cell's millisecond is 2 million cycles.
        described = {"convext": {"isa": "avx2"}, "peaks": {"1": PEAKS, "2": PEAKS}}
        cells = [
            planned("indirect", 1e6),
            planned("im2col", 4e6, layer="other"),
            planned("indirect", 2e6, threads=2),
        ]
        both = {**cell("backward", 1.0), "plans": cells[0]["plans"] * 2}
        path = tmp_path / "run.json"
        report.write_json(path, described, {}, [*cells, both], [], True)
        run = report.read_json(path)
        assert [fit.over_prediction(run, one) for one in cells] == [2.0, 0.5, 1.0]
        assert bench("model-fit", str(path)) == 0
        assert "im2col" in capsys.readouterr().out
        report.write_json(path, {}, {}, [both], [], True)
        assert bench("model-fit", str(path)) == 2
        assert "no cell" in capsys.readouterr().err


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
            for plan in one["plans"]:
                assert plan["cycles"].keys() == {"multiply", "move", "memory"}
            assert set(one["convext_share"]) == {"fma", "bandwidth"}
            assert one["bytes"] > 0
            assert one["table"] == "tiny"
        assert run["environment"]["peaks"] == {"1": PEAKS}

    def test_plans_are_those_of_the_layout(self) -> None:
        shape = ConvShape("pointwise", 64, 56, 56, 64, 1, 1)
        weight = torch.empty(shape.weight_size, device="meta")
        for layout, memory_format in operands.LAYOUTS.items():
            input = torch.empty(2, 64, 56, 56, device="meta", memory_format=memory_format)
            expected = convext.explain(input, weight.to(memory_format=memory_format))
            (plan,) = runner.plans(shape, 2, "float32", layout, "forward")
            assert plan["kernel"] == expected.kernel
            assert plan["cycles"]["move"] == pytest.approx(expected.cycles["move"], rel=1e-3)

    def test_padding_modes_are_timed_against_zeros(self, table: Path, tmp_path: Path) -> None:
        out = tmp_path / "run.json"
        words = ("--shapes", str(table), "--batch", "1", "--threads", "1", "--malloc", "default")
        words += ("--quick", "--out", str(out))
        assert bench(*words, "--padding-mode", "zeros,reflect,circular") == 0
        cells = report.read_json(out)["cells"]
        assert len(cells) == 2 * 2 * 2 * 3
        for one in cells:
            assert ("cost" in one) == (one["padding_mode"] != "zeros")
            assert one.get("cost", {"over": "zeros"})["over"] == "zeros"

    def test_batch_invariance_is_timed_against_none(
        self, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        calls = timing.time_pairs

        def time_pairs(first: Any, second: Any, *rest: Any) -> timing.Pairs:
            for function in (first, second):
                function(0)
                seen.append(_C.batch_invariant())
            return calls(first, second, *rest)

        monkeypatch.setattr(runner, "time_pairs", time_pairs)
        out = tmp_path / "run.json"
        words = ("--shapes", str(table), "--layers", "plain", "--batch", "2", "--threads", "1")
        words += ("--malloc", "default", "--layout", "contiguous", "--quick", "--out", str(out))
        assert bench(*words, "--batch-invariant", "--pass", "forward") == 0
        # torch and convext, then convext with and without.
        assert seen == [True, True, True, False]
        assert not _C.batch_invariant()
        run = report.read_json(out)
        assert run["options"]["batch_invariant"] is True
        assert run["cells"][0]["cost"]["over"] == "any batch"

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
        "words",
        [
            *(("--dtype", "int8"), ("--batch", "0"), ("--threads", "two"), ("--pass", "forwards")),
            *(("--padding-mode", "mirror"), ("--isa", "sse9"), ("--layout", "nhwc")),
        ],
    )
    def test_bad_arguments_are_refused(
        self, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            bench(*words)
        assert caught.value.code == 2
        said = capsys.readouterr().err
        assert words[0] in said
        assert words[1] in said

    def test_compare_refuses_other_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other.json"
        other.write_text('{"schema": 0}', encoding="utf-8")
        assert bench("compare", str(other), str(other)) == 2
        assert "not a benchmark run" in capsys.readouterr().err
        assert bench("compare", str(tmp_path / "none.json"), str(other)) == 2
        assert "No such file" in capsys.readouterr().err

    def test_defaults(self) -> None:
        full = cli._grid(parse())
        assert {shape.table for shape in full.shapes} >= {*NETWORKS, "telling"}
        assert (full.batches, full.passes) == ([1, 16], list(operands.PASSES))
        quick = cli._grid(parse("--quick"))
        assert (quick.batches, quick.passes) == ([1], ["forward", "backward"])
        assert len(quick.threads) == 1
        asked = cli._grid(parse("--quick", "--batch", "3", "--pass", "weight_grad"))
        assert (asked.batches, asked.passes) == ([3], ["weight_grad"])

    def test_a_command_takes_options_before_and_after_it(self) -> None:
        args = parse("--threads", "3", "models", "--layout", "contiguous")
        grid = cli._model_grid(args)
        assert (grid.threads, grid.layouts, grid.dtypes) == ([3], ["contiguous"], ["float32"])
        assert len(grid) == len(models.MODELS) * 2
        assert parse("--quick", "models").quick

    def test_isa_starts_over_with_both_peers_held_to_it(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Replaced(Exception):
            pass

        started = []

        def execve(path: str, command: list[str], variables: dict[str, str]) -> None:
            started.append((command, variables))
            raise Replaced

        monkeypatch.setattr(environment.os, "execve", execve)
        for name in environment.ISA_VARIABLES["generic"]:
            monkeypatch.delenv(name, raising=False)
        args = parse("--isa", "generic", "--quick")
        args.arguments = ["bench", "--isa", "generic", "--quick"]
        with pytest.raises(Replaced):
            args.run(args)
        ((command, variables),) = started
        assert command[1:] == ["-m", "convext", "bench", "--isa", "generic", "--quick"]
        assert variables["CONVEXT_CPU_ISA"] == "generic"
        assert variables["ONEDNN_MAX_CPU_ISA"] == "SSE41"
        for name, value in environment.ISA_VARIABLES["generic"].items():
            monkeypatch.setenv(name, value)
        environment.enter_isa("generic", args.arguments)  # is there already
        monkeypatch.setattr(_C, "isas", lambda: ["generic"])
        assert bench("--isa", "avx2") == 2
        assert "--isa avx2: can run here: generic" in capsys.readouterr().err


class Small(torch.nn.Module):
    """A model with the interface of those of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 7, 7)
        self.head = torch.nn.Linear(4, models.LABELS)

    def forward(self, images: torch.Tensor) -> Any:
        return argparse.Namespace(logits=self.head(self.conv(images).relu().mean((2, 3))))


class TestModels:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(models.MODELS, "resnet50", Small)
        monkeypatch.setattr(models, "IMAGE", 28)
        monkeypatch.setattr(models, "QUICK", EFFORT)

    def run(self, tmp_path: Path) -> tuple[int, dict[str, Any]]:
        out = tmp_path / "run.json"
        words = ("--models", "resnet50", "--threads", "1", "--malloc", "default", "--quick")
        code = bench("models", *words, "--out", str(out))
        return code, report.read_json(out)

    def test_run_writes_every_cell(self, tmp_path: Path) -> None:
        code, run = self.run(tmp_path)
        assert code == 0
        keys = [(one["pass"], one["layout"], one["batch"]) for one in run["cells"]]
        assert keys == [
            *(("training_step", "channels_last", 2), ("training_step", "contiguous", 2)),
            *(("inference", "channels_last", 1), ("inference", "contiguous", 1)),
        ]
        assert all(one["error"]["convext"] < 1e-4 for one in run["cells"])
        assert [row["pass"] for row in run["summary"]] == ["training_step", "inference"]
        path = str(tmp_path / "run.json")
        assert bench("compare", path, path) == 0
        assert bench("model-fit", path) == 2

    @pytest.mark.parametrize("pass_", models.PASSES)
    def test_peers_start_alike_and_one_is_converted(self, pass_: str) -> None:
        theirs, ours = models.make_peers(Small(), 2, "float32", "channels_last", pass_)
        assert type(theirs.model.conv) is torch.nn.Conv2d
        assert type(ours.model.conv) is convext.ConvExt2d
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        for mine, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
            assert torch.equal(mine, other)
        if pass_ == "training_step":
            before = ours.model.conv.weight.detach().clone()
            ours.training_step(0)
            assert not torch.equal(before, ours.model.conv.weight)

    def test_other_results_are_reported_and_not_timed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sound = convext.ConvExt2d.forward

        def wrong(self: Any, input: torch.Tensor) -> torch.Tensor:
            return sound(self, input) * 1.01

        monkeypatch.setattr(convext.ConvExt2d, "forward", wrong)
        code, run = self.run(tmp_path)
        assert code == 1
        assert run["cells"] == []
        assert len(run["failures"]) == 4
        assert "inference: error" in run["failures"][-1]

    def test_built_models_are_the_ones_named(self) -> None:
        pytest.importorskip("transformers")
        with torch.device("meta"):
            for name, parameters in (
                *(("mobilenet_v2", 3_504_872), ("convnext_tiny", 28_589_128)),
            ):
                model = models.MODELS[name]()
                assert sum(one.numel() for one in model.parameters()) == parameters

    def test_without_transformers(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(sys.modules, "transformers", None)
        assert bench("models", "--models", "convnext_tiny", "--malloc", "default") == 2
        assert "pip install transformers" in capsys.readouterr().err


class TestAccuracy:
    @pytest.mark.parametrize(
        ("torch_error", "convext_error", "kept"),
        [
            (1e-7, 1.9e-6, True),
            (1e-7, 2.1e-6, False),
            (2e-6, 3.9e-6, True),
            (1e-5, 1.1e-5, False),
            (1e-7, math.nan, False),
        ],
    )
    def test_rule(self, torch_error: float, convext_error: float, kept: bool) -> None:
        assert accuracy.keeps_rule(torch_error, convext_error) is kept

    def test_long_batches_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(accuracy, "MAX_FLOPS", TINY.flops(2))
        assert accuracy.feasible(TINY, [1, 2, 3]) == [1, 2]
        monkeypatch.setattr(accuracy, "MAX_FLOPS", 0)
        assert accuracy.feasible(TINY, [4, 3]) == [3]

    def test_page_and_file(self, table: Path, tmp_path: Path) -> None:
        page, out = tmp_path / "page.md", tmp_path / "errors.json"
        page.write_text(f"before\n{accuracy.BEGIN}\nold\n{accuracy.END}\nafter\n", encoding="utf-8")
        words = ("accuracy", "--shapes", str(table), "--batch", "1,2", "--out", str(out))
        for _ in range(2):
            assert bench("--malloc", "default", *words, "--markdown", str(page)) == 0
        text = page.read_text(encoding="utf-8")
        assert text.startswith("before\n")
        assert text.endswith("\nafter\n")
        assert "old" not in text
        assert text.count("| plain | 1, 2 | ") == 1
        run = json.loads(out.read_text(encoding="utf-8"))
        assert len(run["cells"]) == 2 * 2 * 2 * 3
        assert {one["tensor"] for one in run["cells"]} == set(verify.TENSORS)
        assert bench("compare", str(out), str(out)) == 2

    def test_a_broken_rule_is_an_exit_code(
        self, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(accuracy, "keeps_rule", lambda torch_error, convext_error: False)
        words = ("accuracy", "--shapes", str(table), "--layers", "plain", "--batch", "1")
        assert bench("--malloc", "default", *words, "--layout", "contiguous") == 1
        assert "breaks the rule: plain, N=1, contiguous, forward" in capsys.readouterr().out

    def test_a_page_without_markers_is_refused(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        page = tmp_path / "page.md"
        page.write_text("nothing\n", encoding="utf-8")
        for path in (page, tmp_path / "none.md"):
            assert bench("accuracy", "--shapes", str(table), "--markdown", str(path)) == 2
            assert f"--markdown {path}" in capsys.readouterr().err


class TestEnvironment:
    def test_commit_is_that_of_the_source(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def git(*words: str) -> str:
            asked.append(words)
            return {"ls-files": "environment.py", "rev-parse": "abc"}.get(words[2], "M file")

        monkeypatch.setattr(environment, "_git", git)
        assert environment._commit() == "abc-dirty"
        source = str(Path(environment.__file__).resolve().parent)
        assert {words[:2] for words in asked} == {("-C", source)}
        monkeypatch.setattr(environment, "_git", lambda *words: "")
        assert environment._commit() == ""

    def test_peaks_are_measured(self) -> None:
        found = _C.measure_peaks(1, 1 << 16)
        assert found.keys() == PEAKS.keys()
        assert all(value > 0 for value in found.values())
        for threads, size in ((0, 1 << 16), (2, 1)):
            with pytest.raises(ValueError, match=r"threads|buffer_bytes"):
                _C.measure_peaks(threads, size)

    def test_shares(self) -> None:
        found = peaks.shares(PEAKS, "bfloat16", gigaflops=16.0, nbytes=10**9, seconds=0.5)
        assert found == {"fma": 0.5, "bandwidth": 0.125}
        assert peaks.shares(PEAKS, "float64", 16.0, 10**9, 0.5)["fma"] == 1.0


def test_an_option_is_described_once() -> None:
    parser = argparse.ArgumentParser()
    arguments.add(parser, "--quick", quick="other words")
    assert "other words" in parser.format_help()


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
