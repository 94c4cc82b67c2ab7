"""What the README shows as output is what its commands and its code print, but for times.

On AVX2 and two threads, with which it was made: kernels and blocks depend on these.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convext import _C

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif("avx2" not in _C.isas(), reason="needs AVX2")


def shown(word: str) -> tuple[str, str]:
    """The first block that has the word, a command or code, and the output in the next one."""
    blocks = [(match[1], match[2]) for match in FENCE.finditer(README)]
    at = next(at for at, (_, block) in enumerate(blocks) if word in block)
    assert blocks[at + 1][0] == "text"
    return blocks[at][1], blocks[at + 1][1]


def printed(*command: str) -> str:
    environment = {**os.environ, "CONVEXT_CPU_ISA": "avx2", "OMP_NUM_THREADS": "2"}
    environment.pop("CONVEXT_PLAN", None)
    run = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def words(text: str, numbers: re.Pattern[str]) -> list[str]:
    """The lines, without these numbers and without how wide they make the columns."""
    lines = [numbers.sub("#", line) for line in text.splitlines()]
    return [re.sub(r"([ -])\1+", r"\1", line).strip() for line in lines]


def test_explain() -> None:
    command, expected = shown("convext explain --in")
    times_and_lines = re.compile(r"(?<=expected   )\S+ \w+|\S+(?= GHz)|(?<=:)\d+(?= \w)")
    found = words(printed("-m", *command.removeprefix("$ ").split()), times_and_lines)
    *wanted, cut = words(expected, times_and_lines)
    assert cut == "..."
    assert found[: len(wanted)] == wanted


def test_compare() -> None:
    code, expected = shown("convext.compare(")
    # Which pass comes nearest to its bound is no promise.
    numbers = re.compile(
        r"(?<=convext )\S+(?= \()|(?<=torch )\d\S+(?=,)|(?<=bound: )\w+ of \d|"
        r"(?<=medians of )[\w ]+(?=;)|<?\d+\.\d+(e-?\d+)?\??"
    )
    found = re.sub(r"\A.* were busy with other processes: .*\n\n", "", printed("-c", code))
    assert words(found, numbers) == words(expected, numbers)
