"""`convext bench --report` and `convext bench report`: runs, arguments and failures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from benching import RESULTS, bench, cell, measured

from convext.bench import report
from convext.bench.environment import without_directories
from convext.bench.pages import files, roofline
from convext.cli import main


class TestCommand:
    WORDS = ("--batch", "2", "--threads", "1", "--malloc", "default", "--quick")

    def test_run_and_report(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "deep" / "out"
        words = ("bench", "--shapes", str(table), "--layers", "tiny", *self.WORDS)
        assert main([*words, "--report", str(out)]) == 0
        assert f"written: {out} (report.html, report.md, run.json, 3 figures)" in (
            capsys.readouterr().out
        )
        run = report.read_json(out / "run.json")
        assert run["environment"]["command"] == (
            "convext bench --shapes tiny.csv --layers tiny --batch 2 --threads 1 "
            "--malloc default --quick --report out"
        )
        assert run["options"]["shapes"] == ["tiny.csv"]
        points, reasons = roofline.locate_all(run, run["cells"])
        assert len(points) == 4
        assert reasons == {}
        # The report's own run is the one before the next.
        before = (out / "run.json").read_bytes()
        assert main([*words, "--report", str(out), "--before", str(out / "run.json")]) == 0
        assert (out / "before.json").read_bytes() == before
        assert "Cells in both runs: 4;" in (out / "report.md").read_text(encoding="utf-8")

    def test_paths_are_cut_down_in_every_spelling(self) -> None:
        for argument, kept in (
            ("/a/b/run.json", "run.json"),
            ("--out=/a/run.json", "--out=run.json"),
            ("--shapes=resnet50,/a/mine.csv", "--shapes=resnet50,mine.csv"),
            ("telling,../mine.csv", "telling,mine.csv"),
            ("a/dir/", "dir"),
            ("--quick", "--quick"),
            ("res2_*,odd", "res2_*,odd"),
        ):
            assert without_directories(argument) == kept

    def test_stored_files_name_no_directory_of_a_machine(self) -> None:
        for path in RESULTS.glob("*.json"):
            words = report.read_json(path)["environment"]["command"].split()
            assert not [word for word in words if word.startswith(("/", "~", ".."))]

    def test_a_missing_matplotlib_is_one_sentence_before_the_run(
        self,
        table: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib", None)
        stored = str(RESULTS / "cpu_zen3_avx2_models.json")
        for words in (
            ("bench", "--shapes", str(table), *self.WORDS, "--report", str(tmp_path / "out")),
            ("bench", "report", stored, "--out", str(tmp_path / "out")),
        ):
            assert main(words) == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err == (
                "convext: this needs matplotlib, which the extra 'bench' brings: "
                "pip install convext[bench]\n"
            )

    def test_bad_arguments_are_one_sentence(
        self, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored = str(RESULTS / "cpu_zen3_avx2_models.json")
        a_file, none, text = table, tmp_path / "none.json", tmp_path / "text.json"
        text.write_text("{", encoding="utf-8")
        run = ("--shapes", str(table), *self.WORDS)
        out = ("--out", str(tmp_path / "out"))
        for words, message in (
            ((*run, "--report", str(a_file)), f"--report {a_file}: File exists"),
            ((*run, "--report", str(a_file / "in")), f"--report {a_file / 'in'}: Not a directory"),
            ((*run, "--before", stored), "--before: needs --report DIR"),
            ((*run, "--report", str(tmp_path), "--before", str(none)), f"{none}: No such file"),
            (("--report", str(tmp_path), "compare", stored, stored), "--report: compare runs no"),
            (("report", stored, "--out", str(a_file)), f"--out {a_file}: File exists"),
            (("report", str(none), *out), f"{none}: No such file"),
            (("report", str(text), *out), f"{text}: not JSON"),
            (("report", stored, str(text), *out), f"{text}: not JSON"),
            (("report", str(tmp_path), *out), f"{tmp_path}: Is a directory"),
        ):
            assert bench(*words) == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err.startswith(f"convext bench: {message}")
            assert captured.err.count("\n") == 1
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda run: run.pop("cells"), "no cells"),
            (lambda run: run.update(environment=[]), "no environment"),
            (lambda run: run["cells"].append(3), "cell 1 is not an object"),
            (lambda run: run["cells"][0].pop("layout"), "cell 0 has no layout"),
            (lambda run: run["cells"][0]["ratio"].pop("q1"), "cell 0 has no positive ratio.q1"),
            (lambda run: run["cells"][0].update(torch_ms=1), "no positive torch_ms.median"),
            (lambda run: run["cells"][0]["torch_ms"].update(median=0), "torch_ms.median"),
            (lambda run: run.update(kind="accuracy"), "holds accuracy, not times"),
        ],
    )
    def test_what_is_not_a_run_is_refused(
        self, damage: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = measured(tmp_path / "run.json", [cell("forward", 2.0)])
        run = json.loads(path.read_text(encoding="utf-8"))
        damage(run)
        path.write_text(json.dumps(run), encoding="utf-8")
        assert bench("report", str(path), "--out", str(tmp_path / "out")) == 2
        assert message in capsys.readouterr().err

    def test_help_names_the_files(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            bench("report", "--help")
        text = capsys.readouterr().out
        for name in ("RUN.json", "BEFORE.json", "--out DIR", "report.html", "matplotlib"):
            assert name in text
        assert files.RUN in text
