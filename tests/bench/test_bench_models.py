"""`convext bench models` and `convext bench accuracy`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benching import EFFORT, TINY, bench

import convext
from convext.bench import accuracy, models, report, verify


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
