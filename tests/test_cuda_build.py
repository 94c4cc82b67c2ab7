"""The compiled CUDA kernels, on machines without a GPU: what they take of a chip, of which
instructions they consist, and which of them plans choose."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import convext
from convext import _C, _library

pytestmark = pytest.mark.skipif(
    not _C.build_info()["cuda"], reason=f"CUDA kernels: {_C.build_info()['cuda_report']}"
)

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ["sm_75", "sm_80", "sm_90a"]

# Registers of a thread, by algorithm: what the heads of the kernels' files state.
MOST_REGISTERS = {
    "naive": 80,
    "simt": 128,
    "mma": 255,
    "wgmma": 168,  # of each at the start: 65536 for 384 threads
    "depthwise": 128,
    "grouped": 128,
    "other": 64,
}

# What multiplies on tensor cores, by the element in a kernel's mangled name, and from which
# architecture on.
TENSOR_CORES = {
    "6__half": ("HMMA", 75),
    "13__nv_bfloat16": ("HMMA", 80),
    "f": ("HMMA", 80),
    "d": ("DMMA", 80),
}


def library() -> Path:
    found = _library._library_in(
        _library.find_library(list(convext.__path__)).parent, "libconvext_cuda"
    )
    assert found is not None
    return found


def cuda_tool(name: str) -> str:
    packaged = sorted(Path(sys.prefix).glob(f"lib*/python*/site-packages/nvidia/*/bin/{name}"))
    tool = str(packaged[0]) if packaged else shutil.which(name)
    assert tool is not None, f"{name} is missing: pip install nvidia-cuda-{name}"
    return tool


def cuobjdump(*options: str) -> str:
    tool = cuda_tool("cuobjdump")
    path = f"{Path(tool).parent}{os.pathsep}{os.environ['PATH']}"  # where it finds nvdisasm
    done = subprocess.run(
        [tool, *options, str(library())],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def resources() -> dict[tuple[str, str], dict[str, int]]:
    """Of each kernel and architecture: registers, bytes of stack, shared and local memory."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    architecture = kernel = ""
    for line in cuobjdump("-res-usage").splitlines():
        if (arch := re.match(r"arch = (\S+)", line)) is not None:
            architecture = arch[1]
        elif (function := re.match(r"\s*Function (\S+):", line)) is not None:
            kernel = function[1]
        elif "REG:" in line:
            found[architecture, kernel] = {
                name: int(value) for name, value in re.findall(r"(\w+)(?:\[\d+\])?:(\d+)", line)
            }
    return found


@cache
def details(architecture: str) -> dict[str, Counter[str]]:
    """Of each kernel, how often it has which instruction, with its suffixes."""
    found: dict[str, Counter[str]] = {}
    kernel = ""
    for line in cuobjdump("-sass", "-arch", architecture).splitlines():
        if (function := re.match(r"\s*Function : (\S+)", line)) is not None:
            kernel = function[1]
            found[kernel] = Counter()
        elif (
            code := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\d+ )?([A-Z][A-Z0-9.]+)", line)
        ) is not None:
            found[kernel][code[1]] += 1
    return found


@cache
def instructions(architecture: str) -> dict[str, Counter[str]]:
    """The same without suffixes."""
    found: dict[str, Counter[str]] = {}
    for kernel, counts in details(architecture).items():
        found[kernel] = Counter()
        for name, count in counts.items():
            found[kernel][name.split(".")[0]] += count
    return found


def algorithm_of(kernel: str) -> str:
    signs = (("naive", "_naive"), ("simt", "SimtTile"), ("mma", "MmaTile"), ("wgmma", "wgmma_"))
    for name, sign in signs:
        if sign in kernel:
            return name
    for name in ("depthwise", "grouped"):
        if name in kernel:
            return name
    return "other"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_no_kernel_spills(architecture: str) -> None:
    found = {kernel: use for (arch, kernel), use in resources().items() if arch == architecture}
    assert len(found) > 100
    for kernel, use in found.items():
        assert use["STACK"] == 0, kernel
        assert use["LOCAL"] == 0, kernel
        assert use["REG"] <= MOST_REGISTERS[algorithm_of(kernel)], (kernel, use)
        assert use["SHARED"] <= 48 << 10, kernel


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_instructions(architecture: str) -> None:
    """Tensor core kernels multiply by tensor cores and copy asynchronously; nothing spills."""
    seen: Counter[str] = Counter()
    for kernel, count in instructions(architecture).items():
        algorithm = algorithm_of(kernel)
        seen[algorithm] += 1
        assert count["LDL"] == count["STL"] == 0, kernel
        if algorithm == "mma":
            element = re.search(r"_gemmI(\d+__\w+?|f|d)NS", kernel)
            assert element is not None, kernel
            instruction, least = TENSOR_CORES[element[1]]
            if int(architecture[3:5]) >= least:
                assert count[instruction] > 0, kernel
                assert count["LDSM"] > 0 or element[1] in "fd", kernel
        if algorithm == "simt":
            assert count["FFMA"] + count["DFMA"] > 100, kernel
    assert set(seen) >= set(MOST_REGISTERS) - ({"wgmma"} if architecture != "sm_90a" else set())
    if architecture != "sm_75":
        asynchronous = [k for k, c in instructions(architecture).items() if c["LDGSTS"] > 0]
        assert len(asynchronous) >= 12


def test_instructions_of_hopper() -> None:
    """Products of warpgroups, copies of boxes and of pixels, some for two CTAs, stores, registers
    that change hands: in each of the kernels that is to have them."""
    kernels = {k: c for k, c in details("sm_90a").items() if algorithm_of(k) == "wgmma"}
    assert len(kernels) == 32
    for kernel, count in kernels.items():
        bare = instructions("sm_90a")[kernel]
        assert bare["HGMMA"] >= 4, kernel
        assert count["UTMALDG.4D.IM2COL"] >= 1, kernel
        assert count["UTMALDG.2D"] >= 1, kernel
        assert count["USETMAXREG.DEALLOC.CTAPOOL"] == 1, kernel
        assert count["SYNCS.PHASECHK.TRANS64.TRYWAIT"] >= 2, kernel
        if "wgmma_data" in kernel:
            assert count["UTMALDG.3D"] >= 1, kernel
            assert count["UTMALDG.3D.MULTICAST"] >= 1, kernel
            assert count["UTMASTG.2D"] >= 1, kernel
            assert bare["STSM"] >= 1 or "wgmma_dataIf" in kernel, kernel  # of 16 bits


@pytest.mark.timeout(600)
def test_compiler_has_nothing_to_say_of_hopper(tmp_path: Path) -> None:
    """That products are serialised (C7510, C7514) or registers stay where they are (C7508), ptxas
    tells in notes that are no warnings."""
    done = subprocess.run(
        [
            cuda_tool("nvcc"),
            *("-std=c++17", "-gencode", "arch=compute_90a,code=sm_90a", "-Xptxas", "-v"),
            *("-I", str(ROOT / "csrc"), "-c", str(ROOT / "csrc" / "cuda" / "hopper.cu")),
            *("-o", str(tmp_path / "hopper.o")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert re.findall(r".*\bC75\d\d\b.*", done.stderr) == []
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores", done.stderr)
    assert len(spills) == 32
    assert set(spills) == {("0", "0")}


def plans(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a process of its own, whose torch may be without CUDA."""
    code = """
import json, sys
import convext
from convext import _C, _library
problem = _library.load_cuda(list(convext.__path__), without_torch_cuda=True)
assert problem == "", problem
answers = []
for request in json.load(sys.stdin):
    made = _C.ConvProblem(**request.pop("problem"))
    try:
        answers.append(_C.cuda_plan(made, **request))
    except RuntimeError as error:
        answers.append({"error": str(error)})
print(json.dumps(answers))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def test_plans() -> None:
    square = {"input_size": [32, 64, 56, 56], "weight_size": [64, 64, 3, 3], "padding": [1, 1]}
    own = {"input_size": [32, 64, 56, 56], "weight_size": [64, 1, 3, 3], "groups": 64}
    first = {"input_size": [32, 3, 224, 224], "weight_size": [64, 3, 7, 7], "stride": [2, 2]}
    groups = {"input_size": [32, 64, 28, 28], "weight_size": [64, 8, 3, 3], "groups": 8}
    hopper = {"compute_capability": 90, "multiprocessors": 132}
    turing = {"compute_capability": 75, "multiprocessors": 40}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"problem": {**square, "dtype": "float16"}, "pass_": "fprop", **hopper}, "mma"),
        ({"problem": {**square, "dtype": "bfloat16"}, "pass_": "dgrad", **hopper}, "mma"),
        ({"problem": {**square, "dtype": "float16"}, "pass_": "wgrad", **turing}, "mma"),
        ({"problem": {**square, "dtype": "bfloat16"}, "pass_": "fprop", **turing}, "simt"),
        ({"problem": square, "pass_": "fprop", **hopper}, "simt"),
        ({"problem": square, "pass_": "fprop", "tf32": True, **hopper}, "mma_tf32"),
        ({"problem": {**square, "dtype": "float64"}, "pass_": "fprop", **hopper}, "mma"),
        ({"problem": {**square, "dtype": "float64"}, "pass_": "fprop", **turing}, "simt"),
        ({"problem": {**first, "dtype": "float16"}, "pass_": "fprop", **hopper}, "mma_first"),
        ({"problem": {**first, "dtype": "float32"}, "pass_": "wgrad", **hopper}, "simt_first"),
        ({"problem": {**groups, "dtype": "bfloat16"}, "pass_": "dgrad", **hopper}, "grouped"),
        ({"problem": {**own, "dtype": "bfloat16"}, "pass_": "wgrad", **hopper}, "depthwise"),
        ({"problem": square, "pass_": "bgrad", **hopper}, "rowsum"),
        ({"problem": square, "pass_": "fprop", "force": "naive", **hopper}, "naive"),
    ]
    answers = plans([dict(request) for request, _ in cases])
    assert [answer.get("algorithm", answer) for answer in answers] == [
        wanted for _, wanted in cases
    ]
    reasons = dict(answers[4]["refused"])
    assert any("fp32_precision" in why for why in reasons.values())


def test_a_plan_that_cannot_be_says_why() -> None:
    problem = {"input_size": [1, 4, 8, 8], "weight_size": [4, 4, 3, 3], "dtype": "bfloat16"}
    (answer,) = plans(
        [
            {
                "problem": problem,
                "pass_": "fprop",
                "compute_capability": 75,
                "multiprocessors": 40,
                "force": "mma",
            }
        ]
    )
    assert "needs compute capability 8.0" in answer["error"]


def test_explain_of_a_gpu() -> None:
    """Where there is none: a plan is a pure function of the problem and the capability."""
    code = """
import convext
from convext import _C, _sources
problem = convext.problem((8, 64, 28, 28), (64, 64, 3, 3), padding=1)
plan = convext.explain(problem, gpu="9.0")
print(plan)
assert plan.device == "sm_90"
for name, found in plan.passes.items():
    assert found.sources and found.arch == "sm_90" and found.seconds is None, name
with convext.force_plan(plan):
    assert convext.explain(problem, gpu="9.0").spec == plan.spec
with convext.force_plan("cuda:fprop=naive"):
    assert convext.explain(problem, gpu="8.0")["forward"].algorithm == "naive"
for kernel in _C.cuda_kernels():
    places = _sources.sources_of(kernel["algorithm"], kernel["pass"], cuda=True)
    assert places and all(":" in place for place in places), kernel
assert {kernel["algorithm"] for kernel in _C.cuda_kernels()} == set(_sources.CUDA)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fprop_simt_f32_nhwc" in done.stdout
    assert "csrc/cuda/implicit_gemm.cuh:" in done.stdout
