"""Planted bugs in the CUDA kernels: with each of them, one at a time, the emulation must fail.

A mutant is a kernel's source with one text replaced. It is built with the few rungs that it
concerns, and must end in a wrong result, an access that CUDA leaves undefined, or a crash. The same
build without the bug must pass.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from test_native import ROOT, run, tool

KERNELS = ROOT / "csrc" / "cuda"
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "c++")
FLAGS = ["-std=c++20", "-O1"]

# Units that most mutants leave as they are, and the files that concern them.
SHARED_UNITS = {
    EMULATION / "copies.cpp": {"complex.cuh", "copies.cuh", "divisor.h", "layout.cuh"},
    KERNELS / "params.cpp": {"divisor.h", "params.cpp"},
}

# Standard headers, of which most of a build's time would consist: compiled once.
STANDARD_HEADERS = """\
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>
"""

# What a build consists of.
RUNGS = {
    "copies": "",
    "naive": "add_naive<float>(&rungs);",
    "simt": 'add_gemm<float, SimtF32Small>("simt", 75, false, &rungs);',
    "mma": 'add_gemm<__half, MmaF16Small>("mma", 75, false, &rungs);',
    "tf32": 'add_gemm<float, MmaTf32>("mma_tf32", 80, true, &rungs);',
    "f64": 'add_gemm<double, MmaF64>("mma", 80, false, &rungs);',
    "first": 'add_first_layer<float, SimtF32Small>("simt_first", 75, false, &rungs);',
    "grouped": "add_grouped<float>(&rungs);",
    "depthwise": "add_depthwise<float>(&rungs);",
}


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    rungs: str
    occurrence: int = 0  # of `old`
    checked: bool = False  # found where every access is checked

    def apply(self, text: str) -> str:
        parts = text.split(self.old)
        assert len(parts) > self.occurrence + 1, f"{self.file} holds no {self.old!r}"
        at = self.occurrence + 1
        return self.old.join(parts[:at]) + self.new + self.old.join(parts[at:])


MUTANTS = [
    # ---- index arithmetic
    Mutant("index_math.cuh", "2 * (extent - 1) - v;", "2 * extent - 1 - v;", "naive"),
    Mutant("index_math.cuh", "v < 0 ? v + extent : v - extent", "v + extent", "naive"),
    Mutant("index_math.cuh", "v < 0 ? 0 : extent - 1", "0", "naive"),
    Mutant("index_math.cuh", "(h <= extent - 2 &&", "(h <= extent - 1 &&", "naive"),
    Mutant("index_math.cuh", "(h == 0 ? before : 0) + (h", "(h == 0 ? 1 : 0) + (h", "naive"),
    Mutant("index_math.cuh", "return -i;", "return -i - 1;", "naive"),
    Mutant("index_math.cuh", "if (at < 0 || at % stride != 0)", "if (at < 0)", "naive"),
    Mutant("index_math.cuh", "axis.first_output = at / stride", "axis.first_output = 0", "simt"),
    Mutant(
        "index_math.cuh", "(taps - t + tap_step - 1) / tap_step", "(taps - t) / tap_step", "simt"
    ),
    Mutant("index_math.cuh", "(extent - residue + stride - 1) / stride", "extent / stride", "simt"),
    Mutant("index_math.cuh", "if (++pixel->p == P)", "if (++pixel->p > P)", "simt"),
    Mutant("index_math.cuh", "(extent - 1) / size + 1;", "extent / size + 1;", "simt"),
    Mutant("divisor.h", "static_cast<std::uint64_t>(divisor) + 1", "divisor", "naive"),
    Mutant("params.cpp", "v.output_step_h = v.dilation_h", "v.output_step_h = v.stride_h", "simt"),
    Mutant("element.cuh", "if (e < left) to[e]", "to[e]", "simt"),
    # ---- naive
    Mutant(
        "naive.cuh",
        "if (index >= static_cast<std::int64_t>(v.N) * v.P * v.Q * v.K) return;",
        "",
        "naive",
    ),
    Mutant("naive.cuh", "if (bias != nullptr) sum += to_compute(bias[k]);", "", "naive"),
    Mutant("naive.cuh", "const int channel = c % v.channels;", "const int channel = c;", "naive"),
    Mutant("naive.cuh", "k / v.outputs * v.channels + c;", "c;", "naive"),
    Mutant("naive.cuh", "if (k >= v.K) return;", "", "naive"),
    # ---- operands of the implicit GEMM
    Mutant(
        "index_math.cuh",
        "if (++s < taps_across) return;",
        "if (++s <= taps_across) return;",
        "simt",
    ),
    Mutant("operands.cuh", "left > 0 ? a_from[i] : nullptr", "a_from[i]", "mma"),
    Mutant("operands.cuh", "k < v.outputs && c < v.channels", "c < v.channels", "mma"),
    Mutant("operands.cuh", "at.n, 0, 0, 0) + group * v.channels", "at.n, 0, 0, 0)", "simt"),
    Mutant("operands.cuh", "p >= 0 && p < v.P", "p >= 0 && p <= v.P", "simt"),
    Mutant("operands.cuh", "row.w - walk.s *", "row.w + walk.s *", "simt"),
    Mutant("operands.cuh", "walk.r * v.tap_step_h * v.weight.h", "walk.r * v.weight.h", "simt"),
    Mutant("operands.cuh", "k < v.outputs && c < v.channels", "k < v.outputs", "mma"),
    Mutant("operands.cuh", "A::depth(i) < left && k < v.outputs", "k < v.outputs", "simt"),
    Mutant("operands.cuh", "left -= Tile::kK;", "", "simt"),
    Mutant("operands.cuh", "B::depth(i) < left && c < v.channels", "B::depth(i) < left", "mma"),
    # ---- implicit GEMM
    Mutant("implicit_gemm.cuh", "bias[group * v.outputs + lane + e]", "bias[lane + e]", "simt"),
    Mutant("implicit_gemm.cuh", "if (lane + e >= v.outputs) break;", "", "mma"),
    Mutant("implicit_gemm.cuh", "at.p, at.q) : -1;", "at.p, at.q) : 0;", "simt"),
    Mutant("implicit_gemm.cuh", "__syncthreads();  // the rows are there", "", "mma", 0, True),
    Mutant("implicit_gemm.cuh", "__syncthreads();  // the rows are there", "", "mma", 1, True),
    Mutant("implicit_gemm.cuh", "pixels < share ? pixels : share", "share", "simt"),
    Mutant("implicit_gemm.cuh", "split * v.K + group * v.outputs + k", "split * v.K + k", "simt"),
    Mutant("implicit_gemm.cuh", "split = 1; split < splits", "split = 2; split < splits", "simt"),
    # ---- SIMT
    Mutant("simt_tile.cuh", "__syncthreads();  // the first copy is filled", "", "simt"),
    Mutant(
        "simt_tile.cuh", "__syncthreads();  // one copy is free, the other is filled", "", "simt"
    ),
    Mutant("simt_tile.cuh", "const int copy = step % 2;", "const int copy = 0;", "simt"),
    Mutant("simt_tile.cuh", "depth(i) + (DepthAdjacent ? e : 0)", "depth(i)", "simt"),
    Mutant("simt_tile.cuh", "from != nullptr && e < count ?", "from != nullptr ?", "simt"),
    # ---- tensor cores
    Mutant("mma_tile.cuh", "cp_async_wait<Stages - 2>", "cp_async_wait<Stages - 1>", "mma"),
    Mutant("mma_tile.cuh", "__syncthreads();  // this stage is there", ";  //", "mma"),
    Mutant("mma_tile.cuh", "if (next < steps) {", "if (next <= steps) {", "mma"),
    Mutant("mma_tile.cuh", "cp_async_commit();", "", "mma", 1),
    Mutant("mma_tile.cuh", "half * 2 + thread / 16));", "half * 2));", "mma"),
    Mutant("mma_tile.cuh", "half * 2 + thread / 8 % 2));", "half * 2));", "mma"),
    Mutant("mma_tile.cuh", "row / 8 + thread / 8 % 2, kM", "row / 8, kM", "mma"),
    Mutant("mma_tile.cuh", "lane / 8 + thread / 16, kN", "lane / 8, kN", "mma"),
    Mutant("mma_tile.cuh", "half * 8 + thread / 4);", "thread / 4);", "mma"),
    Mutant("mma_tile.cuh", "{b[2], b[3]}", "{b[2], b[2]}", "mma"),
    Mutant("mma_tile.cuh", "from != nullptr ? 16 : 0", "16", "mma"),
    Mutant("index_math.cuh", "((chunk ^ key) << 4)", "(chunk << 5)", "mma"),
    Mutant("mma_tile.cuh", "row + thread / 4 + i % 2 * 8, kM", "row + thread / 4, kM", "tf32"),
    Mutant("mma_tile.cuh", "thread % 4 + i % 2 * 4, lane", "thread % 4, lane", "tf32"),
    Mutant("mma_tile.cuh", "+ depth % 2 * 8", "", "f64"),
    Mutant("mma_tile.cuh", "+ at % 2 * 8;", ";", "f64"),
    Mutant("mma_tile.cuh", "as_double(a[2 * i], a[2 * i + 1])", "as_double(a[0], a[1])", "f64"),
    Mutant("mma_tile.cuh", "d[2 * i + 1] = rows[1];", "d[2 * i + 1] = rows[0];", "f64"),
    # ---- first layers
    Mutant("index_math.cuh", "j * 21846 >> 16", "j * 21844 >> 16", "first"),
    Mutant("first_layer.cuh", "h < 0 || s >= v.S", "h < 0", "first"),
    Mutant("first_layer.cuh", "k < v.K && s < v.S", "k < v.K", "first"),
    Mutant("first_layer.cuh", "w0 + s * v.dilation_w", "w0 + s", "first"),
    Mutant(
        "first_layer.cuh", "if (j0 < v.S * v.channels) return;", "if (j0 < v.S) return;", "first"
    ),
    Mutant("first_layer.cuh", "k < v.K && s < v.S", "s < v.S", "first"),
    Mutant("first_layer.cuh", "B::depth(i) < this->left", "true", "first"),
    Mutant("first_layer.cuh", "this->r = row;", "", "first"),
    Mutant("first_layer.cuh", "v.input.w == v.channels &&", "", "first"),
    Mutant("first_layer.cuh", "at + e >= 0 && at + e < end", "at + e < end", "first"),
    # ---- grouped
    Mutant("grouped.cuh", "__syncthreads();  // the weights are there", "", "grouped"),
    Mutant("grouped.cuh", "__syncthreads();  // the weights are there", "", "grouped", 1),
    Mutant("grouped.cuh", "__syncthreads();  // all warps' sums are there", "", "grouped"),
    Mutant("grouped.cuh", "channel / v.channels * v.outputs + d", "d", "grouped"),
    Mutant("grouped.cuh", "k / v.outputs * v.channels;", "0;", "grouped"),
    Mutant("grouped.cuh", "if (q0 + i >= v.Q) break;", "", "grouped"),
    Mutant("grouped.cuh", "s0 + t >= v.S || k0 + from", "k0 + from", "grouped"),
    Mutant("grouped.cuh", "block_count(v.S, Tile::kTaps)", "1", "grouped"),
    Mutant("grouped.cuh", "+ c0 + e] = total", "+ c0] = total", "grouped"),
    # ---- depthwise
    Mutant("depthwise.cuh", "taps[i] = k < v.K ?", "taps[i] = true ?", "depthwise"),
    Mutant("depthwise.cuh", "__syncthreads();  // the taps are there", "", "depthwise"),
    Mutant("depthwise.cuh", "__syncthreads();  // the taps are there", "", "depthwise", 1),
    Mutant("depthwise.cuh", "lane * multiplier + m;", "lane + m;", "depthwise"),
    Mutant("depthwise.cuh", "row += Tile::kStrips", "row += 1", "depthwise"),
    Mutant("depthwise.cuh", "s0 + t >= v.S || k0 + channel", "k0 + channel", "depthwise"),
    Mutant("depthwise.cuh", "__syncthreads();  // all warps' sums are there", "", "depthwise"),
    Mutant("depthwise.cuh", "if (q0 + i >= v.Q) break;", "", "depthwise"),
    Mutant("depthwise.cuh", "(outputs - 1) * Step + S", "(outputs - 2) * Step + S", "depthwise"),
    Mutant("depthwise.cuh", "const int s = j - i * Step;", "const int s = j - i;", "depthwise"),
    Mutant("depthwise.cuh", "v.pad_left - (S - 1)", "v.pad_left - S", "depthwise"),
    Mutant("depthwise.cuh", "Flip ? -kChannels : kChannels", "kChannels", "depthwise"),
    Mutant("depthwise.cuh", "rest) * turns + turn", "rest) + turn", "depthwise"),
    Mutant("depthwise.cuh", "if (i >= outputs) break;", "", "depthwise"),
    # ---- complex numbers, bias gradient, copies, launches
    Mutant("complex.cuh", "part == 1 && k % 2 == 0", "part == 1", "copies"),
    Mutant("complex.cuh", "const int part = (c ^ k) & 1;", "const int part = c & 1;", "copies"),
    Mutant(
        "complex.cuh", "to_compute(odd[0]) - to_compute(even[1])", "to_compute(odd[0])", "naive"
    ),
    Mutant("complex.cuh", "if (rest >=", "if (rest >", "copies"),
    Mutant("bgrad.cuh", "__syncthreads();  // all threads' sums are there", "", "naive"),
    Mutant("bgrad.cuh", "__syncthreads();  // the sums of the step before are there", "", "naive"),
    Mutant("bgrad.cuh", "if (phase > 0 || k >= v.K) return;", "if (phase > 0) return;", "naive"),
    Mutant("layout.cuh", "__syncthreads();  // the tile is there", "", "copies"),
    Mutant("layout.cuh", "c0 + c >= channels ||", "", "copies"),
    Mutant("layout.cuh", "c0 + c >= channels ||", "", "copies", 1),
    Mutant("layout.cuh", "i % kAcross * Vec", "i % kAcross", "copies"),
    Mutant("copies.cuh", "(by_channels ? s.w : s.c) % kVec == 0 &&", "", "copies"),
    Mutant("copies.cuh", "f.h == width * f.w &&", "", "copies"),
    Mutant("launchers.cuh", "most + 1 < extent ? most + 1 : extent", "most", "simt"),
    Mutant("launchers.cuh", "channels % vector == 0 && s.n", "s.n", "simt"),
    Mutant("launchers.cuh", "s.n % vector == 0 && s.h % vector == 0 && s.w % vector", "0", "simt"),
    Mutant("launchers.cuh", "s.n % vector == 0 && s.h % vector == 0 && s.w % vector", "0", "mma"),
    Mutant("launchers.cuh", "reinterpret_cast<std::uintptr_t>(data)", "0", "simt"),
    Mutant("params.cpp", "n > 1 ? s[0] : 0", "0", "simt"),
    Mutant(
        "launchers.cuh",
        "v.groups * ceil_div(pixels, Any::kM)",
        "v.groups * (pixels / Any::kM)",
        "simt",
    ),
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The objects that mutants share: problems, the reference."""
    build = tmp_path_factory.mktemp("parts")
    run(
        [
            tool("cmake"),
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja", "--log-level=WARNING"),
            f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DCMAKE_CXX_FLAGS_RELEASE=-O1",
            "-DCONVEXT_BUILD_PYTHON=OFF",
            "-DCONVEXT_BUILD_EMULATION=ON",
            "-DCONVEXT_CUDA=OFF",
        ]
    )
    run([tool("ninja"), "-C", str(build), "emulation_parts", "emulation_hooks"])
    header = build / "standard.h"
    header.write_text(STANDARD_HEADERS)
    run([COMPILER, *FLAGS, "-x", "c++-header", str(header), "-o", f"{header}.gch"])
    for unit in SHARED_UNITS:
        compile_unit(unit, ROOT / "csrc", build, build / f"{unit.stem}.o")
    return build


def compile_unit(source: Path, sources: Path, parts: Path, to: Path, *flags: str) -> str:
    includes = ["-include", str(parts / "standard.h"), f"-I{sources}", f"-I{EMULATION}"]
    run([COMPILER, *FLAGS, *includes, *flags, "-c", str(source), "-o", str(to)])
    return str(to)


def build(place: Path, parts: Path, rungs: str, checked: bool, mutant: Mutant | None) -> Path:
    sources = place / "csrc"
    shutil.copytree(ROOT / "csrc", sources, ignore=shutil.ignore_patterns("cpu", "python", "torch"))
    (sources / "cpu").mkdir()
    if mutant is not None:
        file = sources / "cuda" / mutant.file
        file.write_text(mutant.apply(file.read_text()))
    flags = [f"-DCONVEXT_SOME_RUNGS={RUNGS[rungs]}", *(["-fsanitize=thread"] if checked else [])]
    unit = EMULATION / "rungs.cpp"
    objects = [compile_unit(unit, sources, parts, place / "rungs.o", *flags)]
    for unit, files in SHARED_UNITS.items():
        found = parts / f"{unit.stem}.o"
        if mutant is not None and mutant.file in files:
            changed = sources / "cuda" / unit.name
            source = changed if changed.exists() else unit
            found = Path(compile_unit(source, sources, parts, place / f"{unit.stem}.o"))
        objects.append(str(found))
    objects += [str(file) for file in parts.rglob("*.cpp.o") if "emulation_parts" in str(file)]
    objects = [file for file in objects if "params.cpp" not in file]
    hooks = "check_hooks.cpp.o" if checked else "no_hooks.cpp.o"
    objects += [str(file) for file in parts.rglob(hooks) if "emulation_hooks" in str(file)]
    program = place / "program"
    run([COMPILER, *objects, "-lpthread", "-o", str(program)])
    return program


def caught_by(program: Path, checked: bool) -> str:
    """What went wrong in a run; empty if nothing did."""
    problems = ["20", "1", "", "1", "stop"] if checked else ["40", "1", "", "4", "stop"]
    try:
        done = subprocess.run(
            [str(program), *problems],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
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


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=[f"{mutant.file}-{i}" for i, mutant in enumerate(MUTANTS)]
)
def test_a_planted_bug_is_found(
    mutant: Mutant, parts: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    program = build(tmp_path, parts, mutant.rungs, mutant.checked, mutant)
    found = caught_by(program, mutant.checked)
    assert found, f"{mutant} survives"
    record_property("told", f"planted: {mutant.file}: {mutant.old!r} -> {mutant.new!r}: {found}")


def test_bugs_are_planted_in_every_kernel() -> None:
    assert len(set(MUTANTS)) == len(MUTANTS) >= 40
    kernels = {file.name for file in KERNELS.glob("*.cuh")}
    # Tables, declarations, and what stands for the machine.
    kernels -= {"ladder.cuh", "platform.cuh", "ptx.cuh"}
    assert kernels <= {mutant.file for mutant in MUTANTS}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("rungs", "checked"), sorted({(mutant.rungs, mutant.checked) for mutant in MUTANTS})
)
def test_without_a_bug_the_same_builds_pass(
    parts: Path, tmp_path: Path, rungs: str, checked: bool
) -> None:
    assert caught_by(build(tmp_path, parts, rungs, checked, None), checked) == ""
