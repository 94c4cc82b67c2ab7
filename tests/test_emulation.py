"""The CUDA kernels, compiled as C++ and run on the CPU (tests/emulation): on machines without a GPU
they are the same sources that nvcc compiles, with every result compared to the bit."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from test_native import ROOT, run, tool

PROGRAMS = (
    "convext_emulation",
    "convext_emulation_checked",
    "convext_emulation_instructions",
    "convext_emulation_instructions_checked",
)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("emulation")
    run(
        [
            tool("cmake"),
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--log-level=WARNING"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
            "-DCONVEXT_BUILD_PYTHON=OFF",
            "-DCONVEXT_BUILD_EMULATION=ON",
            "-DCONVEXT_CUDA=OFF",
            "-DCONVEXT_WERROR=ON",
        ]
    )
    run([tool("ninja"), "-C", str(build), *PROGRAMS])
    return build


def pairs(output: str) -> int:
    """How many (kernel, problem) pairs ran."""
    found = re.search(r"^(\d+) \(kernel, problem\) pairs.* 0 kernels failed$", output, re.M)
    assert found, output
    return int(found[1])


def hopper_pairs(output: str) -> dict[str, int]:
    """Of them, those of Hopper's rungs, by pass; all were right."""
    found = {"fprop": 0, "dgrad": 0, "wgrad": 0}
    for pass_, problems in re.findall(r"^(\w+?)_wgmma\w* +(\d+) problems .* right$", output, re.M):
        found[pass_] += int(problems)
    return found


@pytest.mark.timeout(1800)
def test_results_in_four_orders(
    programs: Path, record_property: Callable[[str, object], None]
) -> None:
    output = run([str(programs / "convext_emulation"), "30"])
    assert "4 orders" in output
    assert pairs(output) >= 3000
    assert sum(hopper_pairs(output).values()) >= 1000
    assert min(hopper_pairs(output).values()) >= 200
    record_property("told", f"CUDA kernels, emulated: {output.splitlines()[-1]}")


@pytest.mark.timeout(1800)
def test_every_access(programs: Path, record_property: Callable[[str, object], None]) -> None:
    output = run([str(programs / "convext_emulation_checked"), "4", "2", "", "1"])
    assert "every access checked" in output
    assert pairs(output) >= 400
    assert sum(hopper_pairs(output).values()) >= 140
    assert min(hopper_pairs(output).values()) >= 30
    record_property("told", f"CUDA kernels, emulated: {output.splitlines()[-1]}")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("program", PROGRAMS[2:])
def test_the_instructions_themselves(programs: Path, program: str) -> None:
    output = run([str(programs / program)])
    found = re.search(r"^(\d+) instruction tests passed, 0 failed$", output, re.M)
    assert found, output
    assert int(found[1]) >= 15


def test_a_wrong_argument_is_an_error(programs: Path) -> None:
    done = subprocess.run(
        [str(programs / "convext_emulation"), "0"],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "usage" in done.stderr
