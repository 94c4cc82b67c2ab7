"""The report of a run: its figures, tables and pages."""

from __future__ import annotations

import base64
import io
import math
import re
import struct
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import pytest
from benching import PEAKS, RESULTS, TINY, bench, cell, measured

from convext.bench import compare, report, shapes
from convext.bench.pages import contents, html, listings, markdown, plots, roofline


class Page(HTMLParser):
    """What an HTML page holds: its tables as (head, rows), the sources of its images, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[tuple[list[str], list[list[str]]]] = []
        self.images: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self._rows: list[list[str]] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = dict(attributes)
        self.references += [str(named[key]) for key in ("src", "href") if key in named]
        if tag == "img":
            self.images.append(str(named["src"]))
        elif tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        if tag in ("td", "th", "p", "style", "script"):
            self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self.tables.append((self._rows[0], self._rows[1:]))
            self._inside = ""
        elif tag == "p":
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("td", "th"):
            self._rows[-1][-1] += data.strip("\n")
        elif self._inside == "p":
            self.words.append(data)


def markdown_tables(text: str) -> list[tuple[list[str], list[list[str]]]]:
    """The tables of a Markdown page as (head, rows)."""
    found = []
    for block in re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE):
        lines = [
            [part.strip() for part in line.strip().strip("|").split(" | ")]
            for line in block.splitlines()
        ]
        found.append((lines[0], lines[2:]))
    return found


def gpu_cell(ratio: float, **key: Any) -> report.Cell:
    return {**cell("forward", ratio, **key), "kernels": ["fprop_mma"], "table": "tiny"}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A stored run of 404 cells, and its report."""
    out = tmp_path_factory.mktemp("stored")
    path = RESULTS / "cpu_zen3_avx2_batch_invariant_quick.json"
    assert bench("report", str(path), "--out", str(out)) == 0
    return report.read_json(path), out


class TestRoofline:
    def test_place_of_a_cell(self, tmp_path: Path) -> None:
        path = measured(tmp_path / "run.json", [{**cell("backward", 4.0, batch=2), "table": "x"}])
        run = report.read_json(path)
        point = roofline.locate(run, run["cells"][0])
        n, k, p, q = TINY.output_size(2)
        assert point.flops == 2 * (2 * n * k * p * q * (4 // 2) * 3 * 2)
        elements = [2 * 4 * 9 * 7, 6 * 2 * 3 * 2, n * k * p * q]
        assert point.bytes == 4 * (2 * elements[0] + 2 * elements[1] + elements[2])
        # torch takes 4 ms, convext 1.
        assert point.gflops["convext"] == pytest.approx(point.flops / 1e6)
        assert point.gflops["torch"] == pytest.approx(point.flops / 4e6)
        assert point.roof == roofline.Roof(PEAKS["float32_gflops"], PEAKS["copy_gbytes"])
        assert point.roof.at(1.0) == 16.0
        assert point.roof.at(100.0) == 64.0
        roof = min(64.0, 16.0 * point.flops / point.bytes)
        assert point.share("convext") == pytest.approx(point.flops / 1e6 / roof)

    def test_float64_has_a_peak_of_its_own(self, tmp_path: Path) -> None:
        cells = [cell("forward", 1.0, dtype=dtype) for dtype in ("float64", "bfloat16")]
        run = report.read_json(measured(tmp_path / "run.json", cells))
        double, half = (roofline.locate(run, each) for each in run["cells"])
        assert (double.roof.gflops, half.roof.gflops) == (32.0, 64.0)
        assert double.bytes == 4 * half.bytes

    @pytest.mark.parametrize(
        "name",
        ["cpu_zen3_avx2_isa_avx2_quick", "cpu_zen3_avx2_float64", "cpu_zen3_avx2_float16_batch1"],
    )
    def test_stored_runs_have_every_cell_under_their_roofs(self, name: str) -> None:
        """Their files do not hold the layers; operations and bytes must be those of the run."""
        run = report.read_json(RESULTS / f"{name}.json")
        assert "layers" not in run
        points, reasons = roofline.locate_all(run, run["cells"])
        assert reasons == {}
        for one, point in zip(run["cells"], points, strict=True):
            assert point is not None
            assert point.bytes == one["bytes"]
            for peer in ("torch", "convext"):
                assert point.gflops[peer] == pytest.approx(
                    one[f"{peer}_gflops"], abs=0.02, rel=1e-3
                )

    def test_what_has_no_place_is_said(self, tmp_path: Path) -> None:
        cells = [
            cell("forward", 1.0),
            {**cell("forward", 1.0, layer="lost"), "table": "mine"},
            {**cell("forward", 1.0, layer="res2_3x3"), "table": "resnet50", "bytes": 7},
            cell("forward", 1.0, threads=8),
            cell("forward", 1.0, dtype="int4"),
            {**cell("inference", 1.0, layer="resnet50"), "table": "models"},
        ]
        run = report.read_json(measured(tmp_path / "run.json", cells))
        points, reasons = roofline.locate_all(run, run["cells"])
        assert [point is not None for point in points] == [True] + [False] * 5
        assert list(reasons.values()) == [1] * 5
        expected = (
            "lost",
            "moved 7 bytes",
            "no measured peaks of 8 threads",
            "int4",
            "whole model",
        )
        for reason, words in zip(reasons, expected, strict=True):
            assert words in reason
        text = markdown.page(contents.sections(run, None))
        assert text.count("Cells without a place under the roofline: 1, for ") == 5

    def test_layers_are_written_and_read(self, tmp_path: Path) -> None:
        run = report.read_json(measured(tmp_path / "run.json", []))
        assert shapes.ConvShape.from_dict("tiny", run["layers"]["tiny"]) == TINY
        for damaged in ({}, {**TINY.as_dict(), "C": 0}, {**TINY.as_dict(), "depth": 1}):
            with pytest.raises(shapes.ShapeError, match="tiny"):
                shapes.ConvShape.from_dict("tiny", damaged)


class TestPages:
    def test_files(self, stored: tuple[dict[str, Any], Path]) -> None:
        run, out = stored
        figures = ["roofline_float32_2_threads.png"]
        figures += [f"speedup_float32_{name}.png" for name in ("backward", "forward")]
        names = sorted(path.name for path in out.iterdir())
        assert names == sorted(["report.html", "report.md", "run.json", *figures])
        assert report.read_json(out / "run.json") == run

    def test_both_pages_have_every_cell_with_its_numbers(
        self, stored: tuple[dict[str, Any], Path]
    ) -> None:
        run, out = stored
        page = Page((out / "report.html").read_text(encoding="utf-8"))
        text = (out / "report.md").read_text(encoding="utf-8")
        in_markdown = markdown_tables(text)
        assert in_markdown == page.tables
        (head, rows), *_ = [table for table in page.tables if len(table[1]) == len(run["cells"])]
        for row, one in zip(rows, run["cells"], strict=True):
            found = dict(zip(head, row, strict=True))
            keys = {"N": "batch", **{k: k for k in ("table", "layer", "layout", "threads", "pass")}}
            assert {name: found[name] for name in keys} == {
                name: str(one[key]) for name, key in keys.items()
            }
            for peer in ("torch", "convext"):
                assert float(found[f"{peer} ms"]) == one[f"{peer}_ms"]["median"]
                assert float(found[f"{peer} GF/s"]) == pytest.approx(
                    one[f"{peer}_gflops"], abs=0.02, rel=1e-3
                )
            assert found["ratio"] == f"{one['ratio']['median']:.3f}"
            assert (found["q1"], found["q3"]) == tuple(
                f"{one['ratio'][name]:.3f}" for name in ("q1", "q3")
            )
            assert found["kernel"] == ", ".join(plan["kernel"] for plan in one["plans"])
            assert found["cost %"] == f"{100 * (one['cost']['median'] - 1):+.1f}"

    def test_means_and_worst_cells(self, stored: tuple[dict[str, Any], Path]) -> None:
        run, out = stored
        tables = markdown_tables((out / "report.md").read_text(encoding="utf-8"))
        (means_head, means), (crossed_head, crossed), _, (worst_head, worst) = tables[:4]
        for row, summary in zip(means, run["summary"], strict=True):
            found = dict(zip(means_head, row, strict=True))
            assert found["pass"] == summary["pass"]
            assert (found["cells"], found["below 1"]) == ("202", str(summary["behind"]))
            assert found["all"] == f"{summary['geomean']:.3f}"
            assert found["resnet50"] == f"{summary['table']['resnet50']['geomean']:.3f}"
            assert found["N=1"] == f"{summary['batch']['1']['geomean']:.3f}"
        assert len(crossed) == sum(len(row["crossed"]) for row in run["summary"])
        assert {"layout", "N", "threads", "geometric mean"} <= set(crossed_head)
        ratios = sorted(one["ratio"]["median"] for one in run["cells"])
        assert [row[worst_head.index("ratio")] for row in worst] == [
            f"{ratio:.3f}" for ratio in ratios[:10]
        ]

    def test_html_needs_nothing_else(self, stored: tuple[dict[str, Any], Path]) -> None:
        _, out = stored
        text = (out / "report.html").read_text(encoding="utf-8")
        page = Page(text)
        assert all(name.startswith(("data:image/png;base64,", "#s")) for name in page.references)
        assert "http" not in re.sub(r"http-equiv|data:[^\"]*", "", text)
        embedded = {base64.b64decode(source.partition(",")[2]) for source in page.images}
        assert embedded == {path.read_bytes() for path in out.glob("*.png")}
        assert text.count('type="search"') == 1  # the table of cells

    def test_figures_are_drawn(self, stored: tuple[dict[str, Any], Path]) -> None:
        _, out = stored
        for path in out.glob("*.png"):
            width, height = struct.unpack(">II", path.read_bytes()[16:24])
            pixels = matplotlib.image.imread(path)
            assert pixels.shape[:2] == (height, width)
            assert pixels.std() > 0.02
            # 101 layers under the names of four tables need a line each.
            if path.name.startswith("speedup"):
                assert height > 105 * 0.17 * plots.DPI
            for red, green, blue in ((0, 0x72, 0xB2), (0xD5, 0x5E, 0)):
                colour = [red / 255, green / 255, blue / 255]
                assert (abs(pixels[..., :3] - colour).max(axis=2) < 0.2).sum() > 500

    def test_names_are_escaped(self, tmp_path: Path) -> None:
        name = "a|b<i>&$x$*"
        cells = [{**cell("forward", 2.0, layer=name), "table": "<t>"}]
        run = report.read_json(measured(tmp_path / "run.json", cells))
        found = contents.sections(run, None)
        (rows,) = [rows for head, rows in Page(html.page(found)).tables if "ratio" in head][:1]
        assert rows[0][:2] == ["<t>", name]
        assert r"| &lt;t> | a\|b&lt;i>&$x$\* |" in markdown.page(found)

    def test_what_a_reader_must_know_is_said(self, tmp_path: Path) -> None:
        path = tmp_path / "run.json"
        described = {"load": {"cores_busy_with_others": 0.5}}
        report.write_json(path, described, {"clock": "wall"}, [], ["tiny: wrong"], False)
        found = contents.sections(report.read_json(path), None)
        text, page = markdown.page(found), html.page(found)
        assert "No cell was timed" in text
        noise = "0.50 cores were busy with other processes: these figures are noise."
        for words in ("The run was interrupted", noise, "Wrong result, not timed: tiny: wrong"):
            assert f"**{words}" in text
            assert f'<p class="warning">{words}' in page
        assert page.index(noise) < page.index("No cell was timed")

    def test_many_rows_and_panels_go_to_further_figures(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(plots, "ROWS", 2)
        monkeypatch.setattr(plots, "PANELS", 1)
        cells = [
            cell("forward", 1.0, layer=layer, batch=batch) for layer in "abc" for batch in (1, 2)
        ]
        run = report.read_json(measured(tmp_path / "run.json", cells))
        drawn = plots.draw(run, [None] * len(cells), None)
        assert [plot.name for plot in drawn] == [
            f"speedup_float32_forward_{i}" for i in (1, 2, 3, 4)
        ]
        assert drawn[0].title == "Speed-up: forward, float32 (1 of 4)"

    def test_matplotlib_is_left_as_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def settings() -> dict[str, Any]:
            # To ask for the backend would choose one.
            return {
                key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"
            }

        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # cannot be imported
        run = report.read_json(measured(tmp_path / "run.json", [cell("forward", 2.0)]))
        with matplotlib.rc_context({"axes.facecolor": "red", "savefig.dpi": 20}):
            before = settings()
            (plot,) = plots.draw(run, [None], None)
            assert settings() == before
        pixels = matplotlib.image.imread(io.BytesIO(plot.png))
        assert (abs(pixels[..., :3] - [1.0, 0.0, 0.0]).max(axis=2) < 0.01).sum() == 0

    def test_models_have_no_roofline(self, tmp_path: Path) -> None:
        path = RESULTS / "cpu_zen3_avx2_models.json"
        assert bench("report", str(path), "--out", str(tmp_path)) == 0
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert (
            "Cells without a place under the roofline: 24, for a whole model has no one geometry."
            in text
        )
        assert sorted(path.stem for path in tmp_path.glob("*.png")) == [
            *("speedup_float32_inference", "speedup_float32_training_step")
        ]

    def test_a_run_on_a_gpu(self, tmp_path: Path) -> None:
        path = tmp_path / "gpu.json"
        described = {
            "gpu": {"name": "G1", "cuda": "13.0", "cudnn": 91000},
            "peaks": {"tf32": {"matmul_tflops": 0.5, "copy_gbytes": 1000.0}},
        }
        cells = [gpu_cell(2.0, dtype="tf32"), gpu_cell(0.5, dtype="bfloat16")]
        report.write_json(path, described, {}, cells, [], True, [TINY])
        assert bench("report", str(path), "--out", str(tmp_path / "out")) == 0
        text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
        assert "(cuDNN 91000) on G1, CUDA 13.0" in text
        assert "Ratios are cuDNN time / convext time" in text
        assert "no measured peaks of bfloat16" in text
        ((head, rows),) = [one for one in markdown_tables(text) if "kernel" in one[0]][1:]
        first, second = (dict(zip(head, row, strict=True)) for row in rows)
        assert (first["cuDNN ms"], first["convext ms"], first["ratio"]) == ("2", "1", "2.000")
        gflops = TINY.flops(1) / 1e6
        roof = min(500.0, 1000.0 * TINY.flops(1) / TINY.pass_bytes("forward", 1, 4))
        assert float(first["convext GF/s"]) == pytest.approx(gflops, rel=1e-3)
        assert first["convext % roof"] == f"{100 * gflops / roof:.0f}"
        assert (second["convext GF/s"], second["kernel"]) == ("", "fprop_mma")
        assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {
            *("roofline_tf32", "speedup_tf32_forward", "speedup_bfloat16_forward")
        }


class TestBeforeAndAfter:
    def runs(self, tmp_path: Path) -> tuple[Path, Path]:
        """tiny: convext from 2 ms to 1, torch from 3 ms to 4; another layer in each run alone."""
        before = cell("forward", 1.5)
        before["torch_ms"]["median"], before["convext_ms"]["median"] = 3.0, 2.0
        first = [before, cell("forward", 1.0, layer="gone")]
        second = [cell("forward", 4.0), cell("forward", 1.0, layer="new")]
        return (
            measured(tmp_path / "after.json", second, commit="b"),
            measured(tmp_path / "before.json", first, commit="a"),
        )

    def test_arithmetic(self, tmp_path: Path) -> None:
        after, before = map(report.read_json, self.runs(tmp_path))
        changes = compare.Changes.of(before, after)
        (change,) = changes.shared
        assert change.sooner("convext") == 2.0
        assert change.sooner("torch") == 0.75
        assert change.speedups == (1.5, 4.0)
        assert change.gain == pytest.approx(4.0 / 1.5)
        assert [key[0] for key in changes.only_first] == ["gone"]
        assert [key[0] for key in changes.only_second] == ["new"]
        (row,) = listings.changes_summary(changes).rows
        assert row == pytest.approx(["float32", "forward", 1, 2.0, 0.75, 1.5, 4.0, 4.0 / 1.5])

    def test_report(self, tmp_path: Path) -> None:
        after, before = self.runs(tmp_path)
        out = tmp_path / "out"
        assert bench("report", str(after), str(before), "--out", str(out)) == 0
        text = (out / "report.md").read_text(encoding="utf-8")
        assert "both runs: 1; only in the one before: 1; only in the one after: 1." in text
        tables = {tuple(head): rows for head, rows in markdown_tables(text)}
        (row,) = next(rows for head, rows in tables.items() if "convext ms before" in head)
        assert row[-7:] == ["2", "1", "2.000", "0.750", "1.500", "4.000", "2.667"]
        alone = next(rows for head, rows in tables.items() if head[0] == "run")
        assert [line[:2] for line in alone] == [["before", "gone"], ["after", "new"]]
        assert ["environment.commit", "a", "b"] in tables["entry", "before", "after"]
        assert (out / "change_float32_forward.png").stat().st_size > 2000
        assert (out / "before.json").read_bytes() == before.read_bytes()

    def test_runs_that_share_no_cell(self, tmp_path: Path) -> None:
        first = report.read_json(measured(tmp_path / "a.json", [cell("forward", 1.0)]))
        second = report.read_json(measured(tmp_path / "b.json", [cell("backward", 1.0)]))
        text = markdown.page(contents.sections(second, first))
        assert "both runs: 0; only in the one before: 1; only in the one after: 1." in text

    def test_a_stored_run_against_itself(self, tmp_path: Path) -> None:
        run = report.read_json(RESULTS / "cpu_zen3_avx2_models.json")
        for row in listings.changes_summary(compare.Changes.of(run, run)).rows:
            assert row[3:5] == pytest.approx([1.0, 1.0])
            assert math.isclose(row[7], 1.0)
