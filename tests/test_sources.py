"""Where ``convext explain`` says that kernels are written, and where to read about them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import convext
from convext import _sources
from convext.plan import PASSES

ROOT = Path(__file__).parent.parent


def places() -> set[tuple[str, str]]:
    """(file below csrc/, name), all there are."""
    tables = [found for table in (_sources.CPU, _sources.CUDA) for found in table.values()]
    found = {_sources.PLANES, _sources.BORDER}
    for each in tables:
        for of_pass in each.values() if isinstance(each, dict) else [each]:
            found.update(of_pass)
    return found


def test_every_kernel_has_its_source() -> None:
    kernels = convext._C.kernels()
    assert {kernel["algorithm"] for kernel in kernels} <= set(_sources.CPU)
    assert set(_sources.CPU) - {kernel["algorithm"] for kernel in kernels} <= {"indirect_pairs"}
    for kernel in kernels:
        found = _sources.sources_of(kernel["algorithm"], kernel["pass"])
        assert found
        for place in found:
            assert re.fullmatch(r"csrc/\S+:\d+ [\w<>]+", place), place


@pytest.mark.parametrize(("file", "name"), sorted(places()))
def test_a_source_is_where_it_is_defined(file: str, name: str) -> None:
    lines = (ROOT / "csrc" / file).read_text().splitlines()
    line = _sources.find_line(ROOT / "csrc" / file, name) - 1
    assert f"{name}(" in lines[line] or lines[line] == f"struct {name} {{"
    # A definition, not a declaration or a call: a body opens before a statement ends.
    assert re.match(r"[^;]*{", "\n".join(lines[line:]))


def snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def test_the_last_source_is_the_driver_that_an_algorithm_is_sent_to() -> None:
    """By the text of the dispatch, where forward and input grad have one driver."""
    text = (ROOT / "csrc" / "run.cpp").read_text()
    case = re.compile(
        r"((?:case Algorithm::k\w+:\s*)+)"
        r"(?:if \(plan\.pass == Pass::kWgrad\) return (\w+)\([^;]*;\s*)?"
        r"return (\w+)\("
    )
    drivers: dict[tuple[str, bool], str] = {}
    for names, of_wgrad, driver in case.findall(text):
        for name in re.findall(r"k(\w+):", names):
            drivers[snake(name), False] = driver
            drivers[snake(name), True] = of_wgrad or driver
    seen = 0
    for kernel in convext._C.kernels():
        algorithm, pass_ = kernel["algorithm"], kernel["pass"]
        if algorithm != "reference":
            _, driver = _sources.places_of(algorithm, pass_)[-1]
            assert driver == drivers[algorithm, pass_ == "wgrad"], (algorithm, pass_)
            seen += 1
    assert seen


def test_the_first_source_is_a_kernel_that_the_driver_calls() -> None:
    """By the text: which header a driver's function pointers come from."""
    cpu = ROOT / "csrc" / "cpu"
    headers = {path.name: path.read_text() for path in cpu.glob("*.h")}
    home = {}
    for member, function in re.findall(r"kernels\.(\w+) =\s+(\w+)<", headers["isa_unit.h"]):
        definition = re.compile(rf"^\w[\w<> ]* {function}\(", re.M)
        for name, text in headers.items():
            if definition.search(text):
                home[member] = name
    assert home["winograd_sums"] == "winograd_tiles.h"
    for kernel in convext._C.kernels():
        algorithm, pass_ = kernel["algorithm"], kernel["pass"]
        if algorithm in ("reference", "indirect_pairs"):
            continue
        first, *_, driver = _sources.places_of(algorithm, pass_)
        text = (ROOT / "csrc" / driver[0]).read_text()
        text += "".join(headers.get(name, "") for name in re.findall(r'include "(\w+\.h)"', text))
        called = {home[member] for member in home if re.search(rf"kernels_?\.{member}\b", text)}
        assert Path(first[0]).name in called, (algorithm, pass_)


def test_sources_follow_the_plan() -> None:
    depthwise = convext.ConvExt2d(16, 16, 3, groups=16)
    planes = convext.explain(depthwise, (2, 16, 12, 12))
    rows = convext.explain(depthwise.to(memory_format=torch.channels_last), (2, 16, 12, 12))
    for name in ("forward", "input_grad"):
        assert planes[name].algorithm == rows[name].algorithm == "depthwise"
        assert any(place.endswith(" run_plane_strips") for place in planes[name].sources)
        assert not any(place.endswith(" run_plane_strips") for place in rows[name].sources)
    reflect = convext.ConvExt2d(16, 16, 3, padding=1, padding_mode="reflect")
    with convext.force_plan("winograd4"):
        plan = convext.explain(reflect, (1, 16, 12, 12))
    assert plan["input_grad"].sources[-1].endswith(" run_border")
    assert plan["forward"].sources[-1].endswith(" run_winograd")
    assert any(place.endswith(" Winograd<4>") for place in plan["forward"].sources)


def test_an_installation_without_sources_knows_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are written when it is built."""
    expected = _sources.sources_of("dot", "fprop")
    table = tmp_path / "table.json"
    script = ROOT / "python" / "convext" / "_sources.py"
    subprocess.run([sys.executable, script, ROOT / "csrc", table], check=True)
    installed = tmp_path / "site-packages" / "convext"
    installed.mkdir(parents=True)
    shutil.copy(table, installed / _sources.LINES)
    monkeypatch.setattr(_sources, "HERE", installed)
    for cached in (_sources._line_of, _sources._lines_of_the_build):
        cached.cache_clear()
    try:
        assert _sources.sources_of("dot", "fprop") == expected
        assert _sources.sources_of("naive", "fprop", cuda=True)[0].startswith(
            "csrc/cuda/naive.cuh:"
        )
    finally:
        for cached in (_sources._line_of, _sources._lines_of_the_build):
            cached.cache_clear()


def test_contributing_names_these_sources() -> None:
    """Its table is for people who read; this is what ``explain`` prints."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    table = text[text.index("| algorithm |") : text.index("## Adding a kernel")]
    for algorithm in _sources.CPU:
        row = next(line for line in table.splitlines() if f"`{algorithm}`" in line)
        for pass_ in PASSES.values():
            try:
                places = _sources.places_of(algorithm, pass_)
            except KeyError:
                continue  # an algorithm without this pass
            for file, _ in places:
                assert f"`csrc/{file}`" in row or "the same" in row


def test_the_book_names_these_chapters() -> None:
    """The table of its index is for people who read; this is what ``explain`` prints."""
    text = (ROOT / "docs" / "book" / "index.md").read_text()
    table = text[text.index("| algorithm | passes | chapter |") :]
    named = set()
    for row in re.findall(r"^\| (`.*) \| (.*) \| (.*) \|$", table, re.M):
        algorithms, passes, chapters = (re.findall(r"[\w.]+", cell) for cell in row)
        for algorithm in algorithms:
            of_pass = list(PASSES.values()) if passes == ["all"] else passes
            found = [_sources.chapter_of(algorithm, pass_) for pass_ in of_pass]
            assert list(dict.fromkeys(found)) == [f"docs/book/{chapter}" for chapter in chapters]
            assert all((ROOT / chapter).is_file() for chapter in found)
            named.add(algorithm)
    assert named == set(_sources.CHAPTERS) == set(_sources.CPU)
    assert (ROOT / _sources.chapter_of("simt", "fprop", cuda=True)).is_file()
