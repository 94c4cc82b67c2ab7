"""The C++ tests of the core (tests/native), built with sanitizers and without torch, and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import convext

ROOT = Path(__file__).parent.parent
SANITIZERS = "address,undefined"


def tool(name: str) -> str:
    """A build tool of this environment, or of the machine."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found, f"{name} is missing: pip install 'convext[test]' brings it"
    return found


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-8000:]}"
    return done.stdout


def has_sanitizers(directory: Path) -> bool:
    """Whether the compiler can link a program with the sanitizers: their libraries are optional."""
    compiler = os.environ.get("CXX", "c++").split()
    source = directory / "empty.cpp"
    source.write_text("int main() { return 0; }\n")
    command = [*compiler, f"-fsanitize={SANITIZERS}", str(source), "-o", str(directory / "empty")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def build_program(build: Path) -> Path:
    flags = []
    if has_sanitizers(build):
        # Null pointers and objects' sizes are the address sanitizer's as well.
        flags = [
            f"-DCMAKE_CXX_FLAGS=-fsanitize={SANITIZERS} -fno-sanitize=null,object-size,vptr "
            "-fno-sanitize-recover=all"
        ]
    run(
        [
            tool("cmake"),
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--log-level=WARNING"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            # Sanitized kernels take minutes to optimise, and their speed is of no interest.
            "-DCMAKE_BUILD_TYPE=Debug",
            "-DCMAKE_CXX_FLAGS_DEBUG=-O1",
            "-DCONVEXT_BUILD_PYTHON=OFF",
            "-DCONVEXT_BUILD_NATIVE_TESTS=ON",
            "-DCONVEXT_WERROR=ON",
            *flags,
        ]
    )
    run([tool("ninja"), "-C", str(build), "-j2", "convext_native_tests"])
    return build / "convext_native_tests"


@pytest.mark.timeout(1200)
def test_core(tmp_path: Path) -> None:
    """Every kernel of every instruction set; AVX-512's tiles also where the CPU has no AVX-512.

    One test, for the program takes a minute to build. Sanitized kernels are slow, so each gets
    every fourth of its problems.
    """
    program = str(build_program(tmp_path))
    # Leaks are not looked for: that needs ptrace, which containers forbid.
    environment = {"ASAN_OPTIONS": "detect_leaks=0", "CONVEXT_CPU_ISA": ""}
    output = run([program, "4"], **environment)
    for isa in convext._C.isas():
        assert f"{isa}: " in output
    assert " 0 failed" in output
    if "avx512" in convext._C.build_info()["isas"]:
        assert "avx512 on the baseline: " in output
    if "avx512_bf16" in convext._C.build_info()["isas"]:
        assert "avx512_bf16 on the baseline: " in output

    # The variable picks one instruction set, and an unknown one is an error.
    output = run([program, "20"], **{**environment, "CONVEXT_CPU_ISA": "generic"})
    assert "generic: " in output
    assert "avx" not in output
    done = subprocess.run(
        [program],
        env={**os.environ, **environment, "CONVEXT_CPU_ISA": "mmx"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "CONVEXT_CPU_ISA" in done.stderr
