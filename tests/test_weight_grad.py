"""Weight gradients large enough for what small problems do not reach: blocks of the result, pieces
of long rows, operands read in place and packed, several blocks of Winograd's tiles."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import convext
from convext import _C
from convext.testing import Problem, assert_correct

# Shapes, and the algorithms that are held to them.
PROBLEMS: dict[str, tuple[Problem, list[str]]] = {
    "blocks_of_rows_and_lanes": (Problem(N=2, C=300, H=7, W=7, K=523, R=1, S=1), ["outer"]),
    "few_channels_in_place": (Problem(N=2, C=24, H=30, W=31, K=72, R=1, S=1), ["outer"]),
    "more_channels_in_than_out": (Problem(N=2, C=72, H=30, W=31, K=21, R=1, S=1), ["outer"]),
    "one_pixel": (Problem(N=9, C=72, H=1, W=1, K=40, R=1, S=1), ["outer"]),
    "one_pixel_of_one_image": (Problem(N=1, C=120, H=1, W=1, K=33, R=1, S=1), ["outer"]),
    "long_rows": (Problem(N=1, C=8, H=4, W=901, K=13, padding=(1, 1)), ["outer"]),
    "long_rows_with_stride": (
        Problem(N=1, C=5, H=5, W=1203, K=7, padding=(1, 2), stride=(2, 2)),
        ["outer"],
    ),
    "strided_pointwise": (Problem(N=2, C=40, H=31, W=30, K=50, R=1, S=1, stride=(2, 2)), ["outer"]),
    "padded_pointwise": (Problem(N=2, C=16, H=9, W=8, K=12, R=1, S=1, padding=(1, 2)), ["outer"]),
    "wide_padding": (
        Problem(N=1, C=16, H=6, W=6, K=10, padding=(7, 7), dilation=(3, 3), stride=(2, 2)),
        ["outer"],
    ),
    "blocks_of_outputs": (Problem(N=3, C=500, H=7, W=6, K=130, padding=(1, 1)), ["winograd2"]),
    "blocks_of_tiles": (Problem(N=2, C=19, H=40, W=37, K=30, padding=(0, 1)), ["winograd2"]),
    "classes_of_dilation": (
        Problem(N=1, C=24, H=41, W=23, K=20, padding=(3, 2, 1, 4), dilation=(3, 2)),
        ["winograd2", "winograd4"],
    ),
    "blocks_of_larger_tiles": (
        Problem(N=5, C=40, H=33, W=30, K=33, padding=(1, 1), values="normal"),
        ["winograd4"],
    ),
    "more_classes_than_rows": (
        Problem(N=1, C=8, H=2, W=9, K=8, padding=(5, 5), dilation=(5, 5)),
        ["winograd2", "winograd4"],
    ),
    "blocks_of_outputs_with_stride": (
        Problem(N=3, C=500, H=13, W=11, K=130, padding=(1, 1), stride=(2, 2)),
        ["polyphase2"],
    ),
    "blocks_of_tiles_with_stride": (
        Problem(N=2, C=19, H=80, W=75, K=30, padding=(0, 1), stride=(2, 2)),
        ["polyphase2"],
    ),
    "blocks_of_larger_tiles_with_stride": (
        Problem(N=5, C=40, H=67, W=60, K=33, padding=(1, 1), stride=(2, 2), values="normal"),
        ["polyphase4"],
    ),
    "classes_of_dilation_with_stride": (
        Problem(N=1, C=24, H=61, W=43, K=20, padding=(3, 2, 1, 4), dilation=(3, 2), stride=(2, 2)),
        ["polyphase2", "polyphase4"],
    ),
}


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_both_ways_of_sharing_out_winograd() -> None:
    """Chunks of the tiles where sums are small, parts of the channels where they are not."""
    splits = {}
    for name, (problem, algorithms) in PROBLEMS.items():
        for algorithm in algorithms:
            if algorithm != "outer":
                plan = _C.plan(problem.native(), "wgrad", algorithm)
                splits[name, algorithm] = plan.splits
    assert splits["blocks_of_tiles", "winograd2"] > 1
    assert splits["blocks_of_tiles_with_stride", "polyphase2"] > 1
    assert splits["blocks_of_outputs", "winograd2"] == 1
    assert splits["blocks_of_outputs_with_stride", "polyphase2"] == 1


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "channels_last_sliced"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", PROBLEMS)
def test_weight_grad(name: str, dtype: torch.dtype, layout: str) -> None:
    problem, algorithms = PROBLEMS[name]
    if not {"winograd4", "polyphase4"} & set(algorithms):
        problem = problem.replace(values="integer")
    for algorithm in algorithms:
        assert_correct(
            problem.replace(dtype=dtype, layout=layout), ["weight_grad"], force=f"wgrad={algorithm}"
        )


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("name", PROBLEMS)
def test_bits_of_weight_grad_do_not_depend_on_threads(name: str) -> None:
    problem, algorithms = PROBLEMS[name]
    for algorithm in algorithms:
        results = []
        with convext.force_plan(f"wgrad={algorithm}"):
            for threads in (1, 2, 3, 7):
                torch.set_num_threads(threads)
                results.append(problem.replace(values="normal").run(["weight_grad"])["weight_grad"])
        assert all(torch.equal(results[0], result) for result in results)
