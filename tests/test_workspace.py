"""Working memory: limits, what is held, giving it back, large pages."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from planned import planned
from torch import Tensor

import convext

KEPT = 64 << 20  # csrc/cpu/scratch.h
DIRECTIONS = {"forward": "fprop", "input_grad": "dgrad", "weight_grad": "wgrad"}

PROBLEMS: dict[str, dict[str, Any]] = {
    "3x3": {"input": (2, 40, 17, 13), "weight": (24, 40, 3, 3), "padding": 1},
    "1x1": {"input": (2, 64, 9, 9), "weight": (48, 64, 1, 1)},
    "1x1 with a stride": {"input": (2, 70, 15, 12), "weight": (31, 70, 1, 1), "stride": 2},
    "deep 1x1": {"input": (1, 600, 20, 20), "weight": (100, 600, 1, 1)},
    "one pixel": {"input": (3, 300, 1, 1), "weight": (77, 300, 1, 1)},
    "few channels": {"input": (2, 3, 33, 30), "weight": (20, 3, 7, 7), "stride": 2, "padding": 3},
    "strided": {"input": (1, 16, 20, 21), "weight": (32, 16, 3, 3), "stride": 2, "padding": 1},
    "grouped": {"input": (2, 24, 12, 12), "weight": (36, 8, 3, 3), "groups": 3, "padding": 1},
    "groups of two": {"input": (3, 12, 9, 11), "weight": (12, 2, 3, 3), "groups": 6, "padding": 1},
    "groups of four": {
        "input": (1, 20, 10, 70),
        "weight": (20, 4, 1, 7),
        "groups": 5,
        "padding": 3,
    },
    "groups of eight": {
        "input": (1, 24, 40, 13),
        "weight": (24, 8, 5, 3),
        "groups": 3,
        "padding": (1, 2),
        "stride": 2,
        "padding_mode": "reflect",
    },
    "groups of many": {
        "input": (2, 72, 8, 9),
        "weight": (51, 24, 3, 3),
        "groups": 3,
        "padding": (0, 2, 1, 3),
        "dilation": 2,
    },
    "two outputs a channel": {
        "input": (2, 20, 15, 9),
        "weight": (40, 1, 3, 4),
        "groups": 20,
        "stride": (1, 2),
    },
    "copied columns": {
        "input": (1, 10, 9, 12),
        "weight": (10, 1, 3, 5),
        "groups": 10,
        "padding": (1, 4),
        "padding_mode": "circular",
    },
    "depthwise": {"input": (2, 33, 14, 14), "weight": (33, 1, 5, 5), "groups": 33, "padding": 2},
    "dilated": {"input": (1, 8, 25, 25), "weight": (16, 8, 3, 3), "dilation": 4},
    "replicate": {
        "input": (1, 12, 11, 10),
        "weight": (10, 12, 3, 3),
        "padding": (5, 4, 3, 6),
        "padding_mode": "replicate",
        "stride": (2, 1),
    },
    "strided tiles": {
        "input": (1, 24, 41, 90),
        "weight": (16, 24, 3, 3),
        "padding": 2,
        "stride": 2,
    },
    "few strided tiles": {
        "input": (1, 160, 14, 15),
        "weight": (144, 160, 3, 3),
        "padding": 1,
        "stride": 2,
    },
    "strided and dilated": {
        "input": (2, 20, 19, 23),
        "weight": (24, 10, 3, 3),
        "groups": 2,
        "padding": (0, 2, 3, 1),
        "stride": 2,
        "dilation": 3,
    },
    "classes of unlike lengths": {
        "input": (1, 40, 7, 511),
        "weight": (96, 40, 3, 3),
        "stride": 2,
        "dilation": 3,
    },
    "wide": {"input": (1, 4, 3, 700), "weight": (8, 4, 3, 3), "padding": 1},
    "large weight": {"input": (1, 512, 4, 4), "weight": (512, 512, 3, 3), "padding": 1},
}


@pytest.fixture(autouse=True)
def _no_limit() -> Iterator[None]:
    before = convext.workspace_limit()
    convext.set_workspace_limit(None)
    yield
    convext.set_workspace_limit(before)


@pytest.fixture
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operands(
    problem: dict[str, Any], layout: torch.memory_format = torch.contiguous_format
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Small integers, whose convolutions are integers whatever the kernel; see all_passes."""
    arguments = dict(problem)
    tensors = [
        torch.randint(-2, 3, arguments.pop(name)).float().to(memory_format=layout)
        for name in ("input", "weight")
    ]
    return tensors[0].requires_grad_(), tensors[1].requires_grad_(), arguments


def all_passes(input: Tensor, weight: Tensor, arguments: dict[str, Any]) -> list[Tensor]:
    """Of integers: Winograd's transforms leave them by rounding errors, which are taken away."""
    whole = torch.equal(input, input.round()) and torch.equal(weight, weight.round())
    output = convext.conv2d(input, weight, **arguments)
    grad_output = (torch.arange(output.numel()) % 5 - 2.0).view_as(output)
    results = [output.detach(), *torch.autograd.grad(output, (input, weight), grad_output)]
    return [result.round() if whole else result for result in results]


@pytest.mark.parametrize("limit", [0, 50_000, 1 << 20])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_limit_is_respected_and_results_are_right(name: str, limit: int) -> None:
    input, weight, arguments = operands(PROBLEMS[name])
    expected = all_passes(input, weight, arguments)
    convext.set_workspace_limit(limit)
    assert convext.workspace_limit() == limit
    for result, wanted in zip(all_passes(input, weight, arguments), expected, strict=True):
        assert torch.equal(result, wanted)
    for direction in DIRECTIONS:
        plan = planned(input, weight, direction=direction, **arguments)
        assert plan.workspace_bytes + plan.thread_workspace_bytes <= limit
        refusals = dict(plan.refused).values()
        unbounded = [why for why in refusals if why.endswith(f"the limit is {limit}")]
        if limit == 0:
            assert plan.algorithm == "reference"
            assert unbounded
        assert all(why.startswith("needs ") and " of workspace" in why for why in unbounded)


ROWS = sorted({(k["pass"], k["algorithm"]) for k in convext._C.kernels() if k["runnable"]})


def held_by_each_kernel(
    name: str, algorithm: str, direction: str, dtype: torch.dtype, layout: torch.memory_format
) -> Iterator[tuple[str, int, int]]:
    """Of the kernels that can run the problem: which, what it is said to hold, what it holds."""
    input, weight, arguments = operands(PROBLEMS[name], layout)
    input, weight = input.detach().to(dtype), weight.detach().to(dtype)
    input.requires_grad_(direction == "dgrad")
    weight.requires_grad_(direction == "wgrad")
    bias = torch.ones(len(weight), dtype=dtype, requires_grad=direction == "bgrad")
    output = convext.conv2d(input, weight, bias, **arguments)
    grad_output = torch.ones_like(output)
    leaf = [tensor for tensor in (input, weight, bias) if tensor.requires_grad]
    problem = planned(input, weight, **arguments).problem
    for kernel in convext._C.kernels():
        if (kernel["pass"], kernel["algorithm"]) != (direction, algorithm):
            continue
        if not kernel["runnable"] or kernel["dtype"] != str(dtype).removeprefix("torch."):
            continue
        with convext.force_plan(f"{direction}={kernel['name']}"):
            try:
                plan = convext._C.plan(problem, direction)
            except RuntimeError:  # a kernel that refuses the problem
                continue
            convext.free_workspace()
            assert convext.held_workspace() == 0
            if leaf:
                torch.autograd.grad(output, leaf, grad_output, retain_graph=True)
            else:
                convext.conv2d(input, weight, bias, **arguments)
        counted = plan.workspace_bytes + plan.thread_workspace_bytes
        yield kernel["name"], counted, convext.held_workspace()
        convext.free_workspace()


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(("direction", "algorithm"), ROWS)
def test_plans_tell_what_kernels_hold(direction: str, algorithm: str) -> None:
    """Each kernel uses no more working memory than its plan says, whatever it can run."""
    seen: set[str] = set()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for layout in (torch.contiguous_format, torch.channels_last):
            for name in PROBLEMS:
                ran: set[str] = set()
                for kernel, counted, held in held_by_each_kernel(
                    name, algorithm, direction, dtype, layout
                ):
                    ran.add(kernel)
                    slack = 64 * 11  # each slot's buffer is rounded up to whole cache lines
                    assert held <= counted + slack, f"{kernel}: {name}, {layout}"
                    assert counted > 0 or held == 0, f"{kernel}: {name}, {layout}"
                if ran:
                    seen.add(name)
    assert len(seen) >= 3, f"{direction}_{algorithm} ran {sorted(seen)}"


def test_held_and_free() -> None:
    input, weight, arguments = operands(PROBLEMS["3x3"])
    convext.free_workspace()
    assert convext.held_workspace() == 0
    first = all_passes(input, weight, arguments)
    assert convext.held_workspace() > 0
    convext.free_workspace()
    assert convext.held_workspace() == 0
    for result, wanted in zip(all_passes(input, weight, arguments), first, strict=True):
        assert torch.equal(result, wanted)


@pytest.mark.usefixtures("_one_thread")
def test_held_never_exceeds_the_limit() -> None:
    """Buffers of one pass make room for the next one's."""
    limit = 300_000
    convext.set_workspace_limit(limit)
    for name in ("3x3", "strided", "grouped", "depthwise", "wide"):
        all_passes(*operands(PROBLEMS[name]))
        assert convext.held_workspace() <= limit


def test_lowering_the_limit_frees() -> None:
    all_passes(*operands(PROBLEMS["3x3"]))
    assert convext.held_workspace() > 0
    convext.set_workspace_limit(0)
    assert convext.held_workspace() == 0
    all_passes(*operands(PROBLEMS["3x3"]))
    assert convext.held_workspace() == 0


@pytest.mark.usefixtures("_one_thread")
def test_large_buffers_are_not_kept() -> None:
    channels = 1536  # 85 MB of packed weights
    input = torch.ones(1, channels, 2, 2)
    weight = torch.ones(channels, channels, 3, 3)
    with convext.force_plan("fprop=indirect"):
        plan = planned(input, weight, padding=1)
        assert plan.workspace_bytes > KEPT
        output = convext.conv2d(input, weight, padding=1)
    assert torch.equal(output, torch.full_like(output, 4.0 * channels))
    assert convext.held_workspace() <= KEPT
    convext.free_workspace()


def test_other_threads_buffers_are_freed() -> None:
    problem = PROBLEMS["3x3"]
    ready, done = threading.Barrier(2), threading.Event()

    def run() -> None:
        all_passes(*operands(problem))
        ready.wait()
        done.wait()  # idle, and its buffers with it

    convext.free_workspace()
    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    assert convext.held_workspace() > 0
    convext.free_workspace()
    assert convext.held_workspace() == 0
    done.set()
    thread.join()
    assert convext.held_workspace() == 0


def test_freeing_while_others_run() -> None:
    input, weight, arguments = operands(PROBLEMS["strided"])
    expected = all_passes(input, weight, arguments)
    failures: list[str] = []

    def run() -> None:
        for _ in range(60):
            results = all_passes(input.detach().requires_grad_(), weight, arguments)
            for result, wanted in zip(results, expected, strict=True):
                if not torch.equal(result, wanted):
                    failures.append("a result changed")

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        convext.free_workspace()
        convext.set_workspace_limit(1 << 20)
        convext.set_workspace_limit(None)
    for thread in threads:
        thread.join()
    assert not failures
    convext.free_workspace()
    assert convext.held_workspace() == 0


def test_an_ended_threads_buffers_are_gone() -> None:
    convext.free_workspace()
    thread = threading.Thread(target=lambda: all_passes(*operands(PROBLEMS["1x1"])))
    torch.set_num_threads(torch.get_num_threads())
    thread.start()
    thread.join()
    convext.free_workspace()  # of the pool, if it helped
    assert convext.held_workspace() == 0


@pytest.mark.parametrize("bad", [1.5, "1 MB", True, [1]])
def test_limits_that_are_no_integers(bad: Any) -> None:
    with pytest.raises(TypeError, match="bytes must be an integer or None"):
        convext.set_workspace_limit(bad)
    assert convext.workspace_limit() is None


@pytest.mark.parametrize("bad", [-1, 2**63])
def test_limits_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match="bytes must be between 0 and"):
        convext.set_workspace_limit(bad)
    assert convext.workspace_limit() is None


@pytest.mark.parametrize(
    ("channels", "size", "stride", "limit"), [(128, 14, 1, 2 << 20), (256, 7, 2, 4 << 20)]
)
def test_batch_invariant_under_a_limit(channels: int, size: int, stride: int, limit: int) -> None:
    input, weight = torch.randn(32, channels, size, size), torch.randn(channels, channels, 3, 3)
    convext.set_workspace_limit(limit)
    with convext.batch_invariant():
        plans = [planned(input[:n], weight, stride, padding=1) for n in (1, 2, 4, 8, 32)]
        assert len({plan.algorithm for plan in plans}) == 1
        assert all(p.workspace_bytes + p.thread_workspace_bytes <= limit for p in plans)
        one, all_of_them = (
            convext.conv2d(images, weight, None, stride, 1) for images in (input[:1], input)
        )
    assert torch.equal(one[0], all_of_them[0])


def test_a_forced_kernel_beyond_the_limit_is_an_error() -> None:
    input, weight, arguments = operands(PROBLEMS["3x3"])
    convext.set_workspace_limit(100)
    with (
        convext.force_plan("fprop=indirect"),
        pytest.raises(RuntimeError, match=r"needs \d+ bytes of workspace, the limit is 100"),
    ):
        convext.conv2d(input, weight, **arguments)


def in_new_process(code: str, limit: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CONVEXT_WORKSPACE_LIMIT": limit},
        capture_output=True,
        text=True,
        check=False,
    )


def test_environment_variable() -> None:
    code = """
import torch, convext
print(convext.workspace_limit())
problem = convext.problem((1, 8, 9, 9), (8, 8, 3, 3))
print(convext.explain(problem)["forward"].algorithm)
convext.conv2d(torch.ones(1, 8, 9, 9), torch.ones(8, 8, 3, 3))
print(convext.held_workspace())
"""
    done = in_new_process(code, "0")
    assert done.stdout.split() == ["0", "reference", "0"], done.stderr
    assert in_new_process(code, "").stdout.split()[0] == "None"


@pytest.mark.parametrize("text", ["-1", "lots", "99999999999999999999"])
def test_bad_environment_variable(text: str) -> None:
    done = in_new_process("import convext; print(convext.workspace_limit())", text)
    assert done.returncode != 0
    assert "CONVEXT_WORKSPACE_LIMIT must be a number of bytes" in done.stderr
    assert repr(text) in done.stderr


def test_limit_and_batch_invariance() -> None:
    """A limit leaves the choice independent of the batch."""
    weight = torch.randn(16, 24, 3, 3)
    batch = torch.randn(3, 24, 10, 10)
    convext.set_workspace_limit(60_000)
    with convext.batch_invariant():
        whole = convext.conv2d(batch, weight, padding=1)
        for n in range(3):
            assert torch.equal(convext.conv2d(batch[n : n + 1], weight, padding=1)[0], whole[n])


def test_limit_does_not_look_at_threads() -> None:
    input, weight, arguments = operands(PROBLEMS["3x3"])
    convext.set_workspace_limit(200_000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            input = torch.randn_like(input).requires_grad_() if threads == 1 else input
            results.append(all_passes(input, weight, arguments))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for result, wanted in zip(other, results[0], strict=True):
            assert torch.equal(result, wanted)


def test_large_results_are_right() -> None:
    """Results that ask for large pages, fresh and in memory that was used before."""
    input = torch.ones(4, 8, 200, 200)
    weight = torch.ones(16, 8, 1, 1)
    for _ in range(3):
        output = convext.conv2d(input, weight)
        assert output.nbytes > 4 << 20
        assert torch.equal(output, torch.full_like(output, 8.0))


def channels_last(n: int, c: int, h: int, w: int) -> torch.Tensor:
    return torch.randn(n, c, h, w).to(memory_format=torch.channels_last)


POINTWISE = {  # the input, output channels, and whether under batch invariance
    "dense": (lambda: channels_last(2, 256, 20, 20), 64, False),
    # Its layout is that of one image, but images are gathered before they are multiplied.
    "every_second_image": (lambda: channels_last(8, 256, 20, 20)[::2], 64, True),
    # Weights that each thread packs for itself are a few.
    "few_weights": (lambda: channels_last(1, 24, 4, 4), 32, False),
    "few_weights_of_many": (lambda: channels_last(1, 24, 4, 4), 700, False),
    # One channel, whose rows do not follow each other.
    "a_part_of_each_row": (lambda: torch.randn(1, 1, 20, 24)[..., :21], 3, False),
}


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", POINTWISE)
def test_pointwise_plans_tell_what_is_held(name: str) -> None:
    """All of it, and not much more than a result's tile, which is not needed where results are."""
    make, outputs, invariant = POINTWISE[name]
    images = make()
    weight = torch.randn(outputs, images.shape[1], 1, 1)
    with convext.batch_invariant(invariant), convext.force_plan("fprop=pointwise"):
        plan = planned(images, weight)
        convext.free_workspace()
        convext.conv2d(images, weight)
        held = convext.held_workspace()
    counted = plan.workspace_bytes + plan.thread_workspace_bytes
    slack = 64 * 11  # each slot's buffer is rounded up to whole cache lines
    assert 0 < held <= counted + slack
    assert counted <= 1.5 * held
