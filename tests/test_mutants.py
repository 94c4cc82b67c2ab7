"""Planted bugs in the CUDA kernels: with each of them, one at a time, the emulation must fail.

A mutant is a kernel's source with one expression or statement replaced. All are planted into one
copy of the sources, each behind a switch that the environment variable CONVEXT_PLANTED turns, so
that one build serves them. A run of the rungs that a mutant concerns must end in a wrong result, an
access that CUDA leaves undefined, or a crash; with no bug switched on, it must pass.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from planted_bugs import MUTANTS, Mutant
from test_native import ROOT, run, tool

KERNELS = ROOT / "csrc" / "cuda"

# A rung of each kind, for the build is to be quick.
RUNGS = """\
#include "cuda/group_launchers.cuh"
#include "cuda/wgmma_launch.cuh"

namespace convext::cuda {

const std::vector<Rung>& ladder() {
  static const std::vector<Rung> some = [] {
    std::vector<Rung> rungs;
    add_gemm<__half, MmaF16Small>("mma", 75, false, &rungs);
    add_wgmma_data<__half, Pass::kFprop, 128, 128, 2, 1>(&rungs);
    add_wgmma_data<__half, Pass::kDgrad, 128, 128, 2, 1>(&rungs);
    add_wgmma_weight<__half, 64, 384, 1, 2>(&rungs);
#ifndef __SANITIZE_THREAD__  // of the checked build, bugs are found in the former only
    add_naive<float>(&rungs);
    add_gemm<float, SimtF32Small>("simt", 75, false, &rungs);
    add_gemm<float, MmaTf32>("mma_tf32", 80, true, &rungs);
    add_gemm<double, MmaF64>("mma", 80, false, &rungs);
    add_first_layer<float, SimtF32Small>("simt_first", 75, false, &rungs);
    add_grouped<float>(&rungs);
    add_depthwise<float>(&rungs);
    add_wgmma_data<__half, Pass::kFprop, 256, 64, 2, 1, true>(&rungs);
    add_wgmma_data<float, Pass::kDgrad, 64, 128, 1, 2>(&rungs);
    add_wgmma_weight<__half, 256, 64, 2, 1>(&rungs);
#endif
    return rungs;
  }();
  return some;
}

}  // namespace convext::cuda
"""

SWITCH = """\
#pragma once
#include <cstdlib>

namespace planted {

inline const int number = [] {
  const char* text = std::getenv("CONVEXT_PLANTED");
  return text == nullptr ? -1 : std::atoi(text);
}();

// Whether this bug is the one that runs. No constant is wrong: those are computed in the build.
constexpr bool is(int bug) { return !__builtin_is_constant_evaluated() && bug == number; }

}  // namespace planted
"""


def plant(text: str, bugs: dict[int, Mutant]) -> str:
    """The file's text with all of these in it, each behind its switch."""
    places: dict[tuple[int, int], list[int]] = {}
    for number, mutant in bugs.items():
        places.setdefault(mutant.span(text), []).append(number)
    end = len(text)
    for start, stop in sorted(places, reverse=True):
        assert stop <= end, f"two bugs overlap: {text[start:stop]!r}"
        end = start
        code = text[start:stop]
        for number in places[start, stop]:
            new, switch = bugs[number].new, f"planted::is({number})"
            if code.endswith((";", "}")):
                code = f"if ({switch}) {{ {new} }} else {{ {code} }}"
            else:
                code = f"({switch} ? ({new}) : ({code}))"
        text = text[:start] + code + text[stop:]
    return text


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("planted")
    source, build = place / "source", place / "build"
    shutil.copytree(ROOT / "csrc", source / "csrc")
    shutil.copytree(ROOT / "tests" / "emulation", source / "tests" / "emulation")
    for name in ("CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, source)
    for name in {mutant.file for mutant in MUTANTS}:
        file = source / "csrc" / "cuda" / name
        bugs = {number: mutant for number, mutant in enumerate(MUTANTS) if mutant.file == name}
        file.write_text(plant(file.read_text(), bugs))
    (source / "tests" / "emulation" / "rungs.cpp").write_text(RUNGS)
    (source / "tests" / "emulation" / "hopper_rungs.cpp").write_text("// among the others\n")
    switch = place / "planted.h"
    switch.write_text(SWITCH)
    run(
        [
            tool("cmake"),
            *("-S", str(source), "-B", str(build), "-G", "Ninja", "--log-level=WARNING"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
            f"-DCMAKE_CXX_FLAGS=-include {switch}",
            "-DCONVEXT_BUILD_PYTHON=OFF",
            "-DCONVEXT_BUILD_EMULATION=ON",
            "-DCONVEXT_CUDA=OFF",
        ]
    )
    run([tool("ninja"), "-C", str(build), "convext_emulation", "convext_emulation_checked"])
    return build


def caught_by(programs: Path, concerns: str, checked: bool, number: int = -1) -> str:
    """What went wrong in a run with this bug; empty if nothing did."""
    program = programs / ("convext_emulation_checked" if checked else "convext_emulation")
    problems, orders = ("20", "1") if checked else ("40", "4")
    try:
        done = subprocess.run(
            [str(program), problems, "1", concerns, orders, "stop"],
            env={**os.environ, "CONVEXT_PLANTED": str(number)},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
    except subprocess.TimeoutExpired:
        return "it does not end"
    if done.returncode == 0:
        return ""
    if done.returncode < 0:
        return signal.Signals(-done.returncode).name
    # The first example of a kernel that failed: its problem, and what was found.
    examples = re.findall(r"^ {4}.*?: (.*)$|^\w+: (.*)$", done.stdout, re.M)
    assert examples, done.stdout + done.stderr
    return str(examples[0][0] or examples[0][1])


@pytest.mark.timeout(2400)
def test_planted_bugs_are_found(
    programs: Path, record_property: Callable[[str, object], None]
) -> None:
    """One test, for one build serves all of them."""
    without = sorted({(mutant.concerns, mutant.checked) for mutant in MUTANTS})
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clean = [pool.submit(caught_by, programs, *which) for which in without]
        runs = [
            pool.submit(caught_by, programs, mutant.concerns, mutant.checked, number)
            for number, mutant in enumerate(MUTANTS)
        ]
    assert [run.result() for run in clean] == [""] * len(without)
    found = {mutant: run.result() for mutant, run in zip(MUTANTS, runs, strict=True)}
    for mutant, what in found.items():
        told = f"planted: {mutant.file}: {mutant.place} -> {mutant.new!r}: {what or 'SURVIVES'}"
        record_property("told", told)
    assert [mutant for mutant, what in found.items() if not what] == []


def test_bugs_are_planted_in_every_kernel() -> None:
    assert len(set(MUTANTS)) == len(MUTANTS) >= 40
    kernels = {file.name for file in KERNELS.glob("*.cuh")}
    # Tables, declarations, and what stands for the machine.
    kernels -= {"ladder.cuh", "hopper.cuh", "launching.cuh", "platform.cuh", "ptx.cuh"}
    assert kernels <= {mutant.file for mutant in MUTANTS}
