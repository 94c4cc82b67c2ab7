"""`convext bench` as a command: its runs, arguments and failures."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import PEAKS, bench, parse
from planned import planned

from convext import _C
from convext.bench import cli, environment, models, operands, report, runner, timing, verify
from convext.bench.shapes import ConvShape


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

    def test_sigterm_keeps_what_was_measured(
        self, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run_grid = cli.run_grid

        def ended(*args: Any) -> Iterator[Any]:
            yield next(iter(run_grid(*args)))
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)

        monkeypatch.setattr(cli, "run_grid", ended)
        out = tmp_path / "run.json"
        words = ("--shapes", str(table), "--batch", "1", "--threads", "1", "--malloc", "default")
        assert bench(*words, "--quick", "--out", str(out)) == 1
        run = report.read_json(out)
        assert run["complete"] is False
        assert len(run["cells"]) == 1
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    def test_plans_are_those_of_the_layout(self) -> None:
        shape = ConvShape("pointwise", 64, 56, 56, 64, 1, 1)
        weight = torch.empty(shape.weight_size, device="meta")
        for layout, memory_format in operands.LAYOUTS.items():
            input = torch.empty(2, 64, 56, 56, device="meta", memory_format=memory_format)
            expected = planned(input, weight.to(memory_format=memory_format))
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

    def test_a_busy_machine_is_told_before_the_figures_and_after(
        self, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(environment.LoadWatch, "cores_of_others", lambda self: 1.5)
        words = ["--shapes", str(table), "--batch", "1", "--threads", "1", "--malloc", "default"]
        assert bench(*words, "--quick", "--layers", "tiny", "--pass", "forward") == 0
        out = capsys.readouterr().out
        warning = "1.50 cores were busy with other processes: these figures are noise"
        assert out.count(warning) == 2
        assert out.index(warning) < out.index("geometric mean") < out.rindex(warning)

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

    def test_a_file_that_cannot_be_written_is_an_error_before_the_run(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bench("--shapes", str(table), "--out", str(tmp_path)) == 2
        captured = capsys.readouterr()
        assert f"--out {tmp_path}: Is a directory" in captured.err
        assert captured.out == ""
        assert (
            bench("--shapes", str(table), "--out", str(tmp_path / "new.json"), "--layers", "res9")
            == 2
        )
        assert not (tmp_path / "new.json").exists()

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
        assert {shape.table for shape in full.shapes} >= {
            "resnet50",
            "mobilenet_v3_large",
            "telling",
        }
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
