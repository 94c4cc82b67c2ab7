"""compute-sanitizer over every rung: accesses out of bounds, reads of what nobody wrote, races in
shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "small_problems.py"


def sanitizer() -> str | None:
    return shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path="/usr/local/cuda/bin"
    )


@pytest.mark.skipif(sanitizer() is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
@pytest.mark.timeout(1800)
def test_sanitizer(tool: str) -> None:
    command = [str(sanitizer()), "--tool", tool, "--error-exitcode", "9", "--print-limit", "5"]
    done = subprocess.run(
        [*command, sys.executable, str(PROGRAM)],
        # Each tensor an allocation of its own, so that its end is an end.
        env={**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "not supported" in done.stdout:  # virtual machines may hide what it needs
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert "every rung ran" in done.stdout
