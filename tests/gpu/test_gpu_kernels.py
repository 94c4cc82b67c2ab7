"""Every rung of the CUDA ladder on the device, against the reference: small integers to the bit,
random numbers to the error bound."""

from __future__ import annotations

import pytest
import torch

import convext
from convext import _C
from convext.testing import Problem, assert_correct

PASSES = {
    "fprop": "forward",
    "dgrad": "input_grad",
    "wgrad": "weight_grad",
    "bgrad": "bias_grad",
}

PROBLEMS = [
    Problem(N=2, C=3, H=5, W=7, K=4),
    Problem(N=1, C=1, H=1, W=1, K=1, R=1, S=1),
    Problem(N=2, C=64, H=14, W=15, K=72, padding=(1, 1), bias=True),
    Problem(N=3, C=33, H=9, W=10, K=65, stride=(2, 2), padding=(1, 1), bias=True),
    Problem(N=2, C=32, H=20, W=18, K=128, R=1, S=1),
    Problem(N=2, C=32, H=20, W=18, K=40, R=1, S=1, stride=(2, 3)),
    Problem(N=1, C=20, H=17, W=16, K=12, dilation=(2, 3), padding=(2, 4)),
    Problem(N=1, C=20, H=17, W=16, K=12, dilation=(2, 2), stride=(2, 2), padding=(3, 1)),
    Problem(N=2, C=24, H=12, W=11, K=36, groups=4, padding=(1, 0)),
    Problem(N=2, C=40, H=19, W=13, K=40, groups=40, padding=(1, 1), bias=True),
    Problem(N=2, C=20, H=12, W=13, K=60, groups=20, R=5, S=5, padding=(2, 2), stride=(2, 2)),
    Problem(N=1, C=8, H=9, W=9, K=8, padding=(2, 1, 3, 0), padding_mode="reflect", bias=True),
    Problem(N=2, C=8, H=9, W=8, K=16, padding=(4, 5), padding_mode="replicate", stride=(2, 1)),
    Problem(N=2, C=16, H=8, W=8, K=8, padding=(3, 3), padding_mode="circular", dilation=(2, 1)),
    Problem(N=40, C=16, H=28, W=28, K=24, padding=(1, 1)),
]

# Of channels in eights, as the rungs of Hopper want them: every width of slices, tiles that end
# within channels and pixels, clusters, folded columns, plain matrices, classes without taps.
EIGHTS = [
    Problem(N=3, C=96, H=13, W=11, K=136, padding=(1, 1), bias=True),
    Problem(N=5, C=16, H=30, W=30, K=64, padding=(2, 1), dilation=(2, 1), bias=True),
    Problem(N=9, C=64, H=56, W=56, K=256, R=1, S=1, bias=True),
    Problem(N=33, C=64, H=28, W=28, K=64, padding=(1, 1), bias=True),
    Problem(N=17, C=128, H=28, W=28, K=264, stride=(2, 2), padding=(1, 1)),
    Problem(N=4, C=64, H=15, W=17, K=72, R=1, S=1, stride=(2, 2)),
    Problem(N=6, C=40, H=16, W=18, K=80, R=2, S=2, stride=(2, 2)),
    Problem(N=6, C=8, H=20, W=22, K=96, R=4, S=4, stride=(4, 4)),
    Problem(N=2, C=24, H=23, W=29, K=32, R=5, S=3, stride=(3, 4), padding=(2, 0), dilation=(1, 3)),
    Problem(N=3, C=128, H=14, W=14, K=256, groups=2, padding=(1, 1), bias=True),
    Problem(N=64, C=512, H=7, W=7, K=512, padding=(1, 1)),
    Problem(N=64, C=256, H=28, W=28, K=64, padding=(1, 1)),
]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
LAYOUTS = ["contiguous", "channels_last", "channels_last_sliced", "offset"]


def rungs() -> list[dict[str, str | int]]:
    if not _C.cuda_loaded():
        return [{"name": "none", "pass": "fprop", "dtype": "float32", "least_capability": 999}]
    return _C.cuda_kernels()


@pytest.mark.parametrize("rung", rungs(), ids=lambda rung: rung["name"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last_sliced"])
def test_every_rung(rung: dict[str, str | int], layout: str) -> None:
    major, minor = torch.cuda.get_device_capability()
    least, most = int(rung["least_capability"]), int(rung.get("most_capability", 0))
    if 10 * major + minor < least or 0 < most < 10 * major + minor:
        pytest.skip(f"needs compute capability {least}, {most or 'any newer one'} at most")
    direction = PASSES[str(rung["pass"])]
    ran = 0
    for problem in PROBLEMS + EIGHTS if rung["algorithm"] == "wgmma" else PROBLEMS:
        problem = problem.replace(
            device="cuda", dtype=getattr(torch, str(rung["dtype"])), layout=layout, values="integer"
        )
        if direction == "bias_grad":
            problem = problem.replace(bias=True)
        before = _C.kernel_runs().get(str(rung["name"]), 0)
        try:
            assert_correct(problem, [direction], force=f"cuda:{rung['pass']}={rung['name']}")
        except RuntimeError as error:
            if f"{rung['name']}: needs " not in str(error):
                raise
            continue
        assert _C.kernel_runs()[str(rung["name"])] > before
        ran += 1
    assert ran >= (8 if rung["algorithm"] == "wgmma" else 2)


@pytest.mark.parametrize("number", range(len(EIGHTS)))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_hopper_adds_in_one_order(number: int, dtype: torch.dtype) -> None:
    """All tiles of wgmma give the same bits, so that the choice among them, by the number of
    pixels, keeps a sample's result apart from its batch."""
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs compute capability 9.0")
    problem = EIGHTS[number].replace(device="cuda", dtype=dtype, layout="channels_last")
    for direction, name in (("fprop", "output"), ("dgrad", "input_grad")):
        results = []
        for rung in rungs():
            if (rung["algorithm"], rung["pass"], rung["dtype"]) == (
                "wgmma",
                direction,
                str(dtype).removeprefix("torch."),
            ):
                with convext.force_plan(f"cuda:{direction}={rung['name']}"):
                    results.append(problem.run()[name])
        assert len(results) >= 5
        assert all(torch.equal(each, results[0]) for each in results)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_the_plans_choice(number: int, layout: str, dtype: torch.dtype) -> None:
    assert_correct(PROBLEMS[number].replace(device="cuda", dtype=dtype, layout=layout))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_complex(number: int, dtype: torch.dtype) -> None:
    assert_correct(PROBLEMS[number].replace(device="cuda", dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("number", range(len(PROBLEMS)))
def test_twice_the_same_bits(number: int, dtype: torch.dtype) -> None:
    problem = PROBLEMS[number].replace(device="cuda", dtype=dtype, layout="channels_last")
    first, second = problem.run(), problem.run()
    for name in first:
        assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("limit", [None, 100_000])
def test_a_sample_does_not_depend_on_its_batch(
    dtype: torch.dtype, layout: str, limit: int | None
) -> None:
    convext.set_workspace_limit(limit)
    for problem in PROBLEMS:
        problem = problem.replace(device="cuda", dtype=dtype, layout=layout, N=9)
        operands = problem.tensors()
        arguments = (problem.stride, problem.padding, problem.dilation, problem.groups)
        mode = problem.padding_mode
        with convext.batch_invariant():
            whole = convext.conv2d(
                operands.input, operands.weight, None, *arguments, padding_mode=mode
            )
            for n in (0, 4, 8):
                alone = convext.conv2d(
                    operands.input[n : n + 1], operands.weight, None, *arguments, padding_mode=mode
                )
                assert torch.equal(alone[0], whole[n])
    convext.set_workspace_limit(None)


def test_tf32_is_used_only_where_it_is_allowed() -> None:
    input = torch.randn(2, 64, 20, 20, device="cuda")
    weight = torch.randn(64, 64, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(input.double(), weight.double())
    error = {}
    for precision in ("ieee", "tf32"):
        torch.backends.cudnn.conv.fp32_precision = precision
        error[precision] = (convext.conv2d(input, weight) - exact).abs().max() / exact.abs().max()
    assert error["ieee"] < 2e-6
    if torch.cuda.get_device_capability() >= (8, 0):
        assert 1e-5 < error["tf32"] < 2e-3


@pytest.mark.parametrize("limit", [0, 10_000, 10_000_000])
def test_workspace_limit(limit: int) -> None:
    convext.set_workspace_limit(limit)
    for problem in PROBLEMS[:9]:
        assert_correct(problem.replace(device="cuda"))
    convext.set_workspace_limit(None)
