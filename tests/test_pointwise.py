"""1x1 forward and input gradient on several panels of weights, pieces of depth, blocks of pixels:
fewer pixels than weights, where each thread packs its own panels, and more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from planned import planned

import convext
from convext.testing import Problem, assert_correct

PROBLEMS: dict[str, Problem] = {
    "pieces_of_depth": Problem(N=2, C=700, H=5, W=7, K=203, R=1, S=1, bias=True),
    "groups_of_panels": Problem(N=2, C=203, H=5, W=7, K=700, R=1, S=1),
    "blocks_of_pixels": Problem(N=1, C=270, H=13, W=17, K=290, R=1, S=1, bias=True),
    "a_narrow_panel": Problem(N=1, C=33, H=2, W=3, K=25, R=1, S=1, bias=True),
    "less_than_a_vector": Problem(N=1, C=40, H=1, W=2, K=3, R=1, S=1),
    "stride": Problem(N=1, C=130, H=9, W=11, K=270, R=1, S=1, stride=(2, 3), bias=True),
}
LAYOUTS = ["contiguous", "channels_last", "channels_last_sliced"]


@pytest.fixture(autouse=True)
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("threads", [1, 3, 7])
@pytest.mark.parametrize("name", PROBLEMS)
def test_pointwise(name: str, threads: int, dtype: torch.dtype, layout: str) -> None:
    """With 7 threads some problems have fewer panels, and threads share out pixels too."""
    torch.set_num_threads(threads)
    problem = PROBLEMS[name].replace(dtype=dtype, layout=layout)
    with convext.force_plan("fprop=pointwise,dgrad=pointwise"):
        assert_correct(problem, ["forward", "input_grad"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_order_of_the_work_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    """More images than weights take the other order; the first images' results are the same."""
    problem = PROBLEMS[name].replace(dtype=dtype, values="normal", layout="channels_last")
    pixels = problem.output_size[2] * problem.output_size[3]
    images = max(problem.C, problem.K) // pixels + 1
    assert images > problem.N
    few = problem.replace(N=images).tensors()
    geometry = (list(problem.stride), [0, 0], [1, 1], 1, "zeros", [True, False, False])

    def results(n: int) -> list[torch.Tensor]:
        input, grad_output = (t[:n] for t in (few.input, few.grad_output))
        output = convext.conv2d(input, few.weight, few.bias, problem.stride)
        grads = torch.ops.convext.conv2d_backward(grad_output, input, few.weight, *geometry)
        return [output, grads[0]]

    with convext.force_plan("fprop=pointwise,dgrad=pointwise"):
        for direction in ("forward", "input_grad"):
            for n, by_panel in ((problem.N, True), (images, False)):
                plan = planned(few.input[:n], few.weight, problem.stride, direction=direction)
                assert ("each thread packs the weights" in str(plan)) == by_panel
        for some, all_of_them in zip(results(problem.N), results(images), strict=True):
            assert torch.equal(some, all_of_them[: problem.N])
