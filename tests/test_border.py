"""Input grad of copied padding by kernels that know zeros only, and the step that follows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from planned import planned

import convext
from convext import _C
from convext.testing import Problem, assert_correct

ALGORITHMS = ["winograd2", "winograd4", "direct", "direct_planes"]
MODES = ["reflect", "replicate", "circular"]
GEOMETRIES: dict[str, dict[str, Any]] = {
    "usual": {"H": 9, "W": 14, "padding": (1, 1)},
    "asymmetric": {"H": 6, "W": 7, "padding": (0, 3, 2, 1)},
    "one side": {"H": 5, "W": 6, "padding": (0, 2, 0, 0)},
    "more than the kernel": {"H": 6, "W": 7, "padding": (5, 4)},
    "dilated": {"H": 8, "W": 9, "padding": (3, 2), "dilation": (3, 2)},
    "stride": {"H": 9, "W": 10, "padding": (1, 1), "stride": (2, 2)},
    "stride and more": {"H": 7, "W": 8, "padding": (4, 3), "stride": (2, 3), "dilation": (1, 2)},
    "5 x 4": {"H": 7, "W": 8, "R": 5, "S": 4, "padding": (2, 1, 3, 2)},
    "7 x 7": {"H": 8, "W": 8, "R": 7, "S": 7, "padding": (3, 3), "stride": (2, 2)},
    "groups": {"H": 6, "W": 8, "C": 20, "K": 30, "groups": 5, "padding": (1, 2)},
    "nothing else": {"H": 2, "W": 2, "padding": (1, 1)},
    "one row": {"H": 1, "W": 7, "padding": (1, 1)},
    "one column": {"H": 6, "W": 1, "padding": (2, 3)},
    "the whole extent": {"H": 4, "W": 5, "padding": (4, 5)},
    "all but one": {"H": 4, "W": 5, "padding": (3, 4)},
}


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_geometries(algorithm: str, mode: str, dtype: torch.dtype) -> None:
    seen = 0
    for name, geometry in GEOMETRIES.items():
        for layout in ("contiguous", "channels_last"):
            changes: dict[str, Any] = {"N": 2, "C": 9, "K": 17, "layout": layout, **geometry}
            problem = Problem(**changes, padding_mode=mode, dtype=dtype, values="integer")
            if not problem.valid:
                continue
            force = f"dgrad={algorithm}"
            try:
                plan = _C.plan(problem.native(), "dgrad", force)
            except RuntimeError:
                assert algorithm.startswith("winograd"), name
                continue
            assert plan.algorithm == algorithm
            assert "copied pixels" in str(plan)
            assert_correct(problem, ["input_grad"], force=force)
            assert_correct(problem.replace(values="normal"), ["input_grad"], force=force)
            seen += 1
    assert seen >= 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bits_depend_on_neither_threads_nor_batch(algorithm: str, dtype: torch.dtype) -> None:
    problem = Problem(
        N=3, C=70, H=11, W=13, K=40, padding=(2, 1), padding_mode="replicate", dtype=dtype
    )
    with convext.force_plan(f"dgrad={algorithm}"):
        expected = problem.run(["input_grad"])["input_grad"]
        for threads in (2, 3, 5):
            torch.set_num_threads(threads)
            assert torch.equal(problem.run(["input_grad"])["input_grad"], expected)
        input, weight = (tensor.to(dtype) for tensor in problem.tensors()[:2])
        output = convext.conv2d(input, weight, padding=(2, 1), padding_mode="replicate")
        grad_output = torch.randn_like(output)

        def input_grad(samples: slice) -> torch.Tensor:
            arguments = ([1, 1], [2, 1], [1, 1], 1, "replicate", [True, False, False])
            result = torch.ops.convext.conv2d_backward(
                grad_output[samples], input[samples], weight, *arguments
            )[0]
            assert isinstance(result, torch.Tensor)
            return result

        whole = input_grad(slice(None))
        for n in range(3):
            assert torch.equal(input_grad(slice(n, n + 1))[0], whole[n])


def test_plans_tell_of_the_second_step() -> None:
    input, weight = torch.empty(1, 64, 56, 56), torch.empty(64, 64, 3, 3)

    def plan(mode: str, padding: int = 1) -> _C.Plan:
        with convext.force_plan("dgrad=winograd4"):
            return planned(
                input, weight, padding=padding, padding_mode=mode, direction="input_grad"
            )

    zeros, reflect = plan("zeros"), plan("reflect")
    assert "copied pixels" not in str(zeros)
    assert "copied pixels" not in str(plan("reflect", 0))
    assert "copied pixels receive: dgrad_indirect_f32" in str(reflect)
    assert sum(reflect.cycles.values()) > sum(zeros.cycles.values())
    assert reflect.workspace_bytes > zeros.workspace_bytes
