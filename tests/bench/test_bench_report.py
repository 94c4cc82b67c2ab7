"""Summaries, tables, files and the comparison of two runs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from benching import PEAKS, bench, cell
from rich.console import Console

from convext.bench import compare, fit, operands, report


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
        plan = {"kernel": "fprop_x", "algorithm": "x", "cycles": cycles}
        plan |= {"workspace_bytes": 2048, "thread_workspace_bytes": 1024, "threads": 3}
        assert report.workspace_of({"workspace_bytes": 7}) == 7  # of an older run
        share = {"fma": 0.5, "bandwidth": 0.25}
        figures = {f"{peer}_share": share for peer in operands.PEERS}
        figures |= {f"{peer}_gflops": 7.0 for peer in operands.PEERS}
        table = report.cell_table([cell("forward", 2.0, plans=[plan], **figures)], "", width)
        console = Console(record=True, width=240, file=io.StringIO())
        console.print(table)
        row = next(line for line in console.export_text().splitlines() if "tiny" in line)
        details = [part.strip() for part in row.split("│")[11:-1]]
        whole = ["7.0 7.0", "50 50", "25 25", "1 + 2 + 3", "5", "fprop_x"]
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
