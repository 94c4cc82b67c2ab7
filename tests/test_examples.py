"""The examples of the documentation, each run as its reader would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# What a line of the output says when the example did what it is there for.
TOLD = {
    "export_model": "compiled ahead of time: a library that calls convext's kernels",
    "own_kernel": "a planted bug is found",
    "per_sample_gradients": "gradients of 5 samples agree",
    "swap_model": "ConvNeXt: 9 convolutions swapped",
    "train_distributed": "2 processes: 6 gradients equal",
}


def test_every_example_is_here() -> None:
    assert sorted(TOLD) == sorted(path.stem for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", TOLD)
def test_example(name: str, tmp_path: Path) -> None:
    # A cache of its own: that of the user has locks, which other compilers may hold.
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert TOLD[name] in result.stdout, result.stdout
