"""Every kernel of the table on problems around its own tile, and what holds for all of them.

The instruction set is chosen once a process, but a kernel's full name forces it whatever the set,
so one run of these tests reaches every kernel that this machine can run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import convext
from convext import _C
from convext.testing import (
    COMPLEX_DTYPES,
    LAYOUTS,
    NATIVE_PASSES,
    PASSES,
    Problem,
    assert_correct,
    edge_problems,
    force_for,
    problems_around,
    thinned,
)

KERNELS = [kernel for kernel in _C.kernels() if kernel["runnable"]]
PYTHON_PASSES = {native: name for name, native in NATIVE_PASSES.items()}
PROBLEMS_A_KERNEL = 60
ONE_BY_ONE: dict[str, Any] = {"R": 1, "S": 1, "padding": (0, 0)}


@pytest.fixture
def _one_thread() -> Iterator[None]:
    """Small problems lose more to waking threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------- kernel by kernel


def runs_checked(kernel: _C.Kernel, problem: Problem) -> int:
    """How often the kernel ran while its pass of the problem was checked; 0 where it refuses."""
    name = PYTHON_PASSES[kernel["pass"]]
    if name == "bias_grad" and not problem.bias:
        problem = problem.replace(bias=True)
    before = _C.kernel_runs()[kernel["name"]]
    try:
        assert_correct(problem, [name], force=force_for(name, kernel["name"]))
    except RuntimeError as error:
        if "no kernel can run" not in str(error):
            raise
        return 0
    return _C.kernel_runs()[kernel["name"]] - before


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel["name"] for kernel in KERNELS])
def test_problems_around_the_tile(kernel: _C.Kernel) -> None:
    reached = 0
    for problem in thinned(problems_around(kernel), PROBLEMS_A_KERNEL):
        runs = runs_checked(kernel, problem)
        # An empty batch leaves a kernel nothing to do.
        assert runs <= 1
        reached += runs
    assert reached >= PROBLEMS_A_KERNEL // 10, "the problems do not reach this kernel"


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel["name"] for kernel in KERNELS])
def test_layouts(kernel: _C.Kernel, layout: str) -> None:
    """Each layout, with channels and pixels one past the tile, in both shapes of groups."""
    rows, columns = kernel["mr"], kernel["nr"]
    dtype = getattr(torch, kernel["dtype"])
    geometry: dict[str, Any] = {
        "N": 2,
        "H": 4,
        "W": rows + 3,
        "padding": (0, 2, 1, 1),
        "padding_mode": "reflect",
        "bias": True,
        "layout": layout,
        "values": "integer",
        "dtype": dtype,
    }
    if kernel["algorithm"].startswith("polyphase"):
        geometry["stride"] = (2, 2)
    groups = columns + 1
    runs = runs_checked(kernel, Problem(C=groups, K=groups, groups=groups, **geometry))
    if kernel["algorithm"] == "grouped":
        for group in (2, 4, 8, 24):
            runs += runs_checked(kernel, Problem(C=5 * group, K=5 * group, groups=5, **geometry))
    elif kernel["algorithm"] != "depthwise":
        runs += runs_checked(kernel, Problem(C=9, K=columns + 1, **geometry))
        runs += runs_checked(kernel, Problem(C=9, K=columns + 1, **{**geometry, **ONE_BY_ONE}))
    strided = {"channels_last", "mixed", "sliced", "channels_last_sliced", "transposed", "expanded"}
    in_place = kernel["algorithm"] in ("dot", "axpy")  # weights, which must be dense for it
    assert runs > 0 or ((in_place or kernel["layout"] == "nchw") and layout in strided)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("dtype", COMPLEX_DTYPES, ids=str)
def test_edges_in_complex_numbers(dtype: torch.dtype) -> None:
    for problem in thinned(edge_problems(dtype), 60):
        assert_correct(problem)


def test_every_instruction_set_is_forced() -> None:
    """Which sets there are says the machine; that all of them are in the list above, this test."""
    assert {kernel["arch"] for kernel in KERNELS} == set(_C.isas())
    assert {kernel["pass"] for kernel in KERNELS} == set(NATIVE_PASSES.values())


def test_forced_kernel_that_cannot_run_says_why() -> None:
    depthwise = next(k["name"] for k in KERNELS if k["name"].startswith("fprop_depthwise_f32"))
    with (
        convext.force_plan(depthwise),
        pytest.raises(RuntimeError, match="one input channel a group"),
    ):
        convext.conv2d(torch.randn(1, 2, 5, 5), torch.randn(2, 2, 3, 3))


# ------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("groups", [1, 3, 18])
def test_nothing_is_read_beside_the_operands(dtype: torch.dtype, groups: int) -> None:
    """Operands between NaNs, at every alignment, the bias a slice too."""

    def between_nans(tensor: Tensor, shift: int) -> Tensor:
        buffer = torch.full((tensor.numel() + 64,), float("nan"), dtype=dtype)
        view = buffer[shift : shift + tensor.numel()].view(tensor.shape)
        return view.copy_(tensor)

    input = torch.randint(-3, 4, (2, 18, 7, 9)).to(dtype)
    weight = torch.randint(-3, 4, (36, 18 // groups, 3, 3)).to(dtype)
    bias = torch.full((72,), float("nan"), dtype=dtype)[1::2].copy_(torch.arange(36.0))
    expected = torch.nn.functional.conv2d(
        input.double(), weight.double(), bias.double(), padding=1, groups=groups
    ).to(dtype)
    for shift in range(0, 17):
        actual = convext.conv2d(
            between_nans(input, shift),
            between_nans(weight, 2 * shift + 1),
            bias,
            padding=1,
            groups=groups,
        )
        assert torch.equal(actual, expected)


# ------------------------------------------------------------------ bits of threads and runs

LARGE: dict[str, Problem] = {
    "dense": Problem(N=3, C=40, H=20, W=21, K=70, padding=(1, 1), bias=True),
    "channels_last": Problem(
        N=3, C=40, H=20, W=21, K=70, padding=(1, 1), bias=True, layout="channels_last"
    ),
    "one_by_one": Problem(N=2, C=130, H=14, W=14, K=65, R=1, S=1, bias=True),
    "strided": Problem(N=2, C=16, H=31, W=30, K=33, padding=(1, 1), stride=(2, 2), bias=True),
    "few_channels": Problem(N=2, C=3, H=40, W=41, K=20, R=7, S=7, padding=(3, 3), bias=True),
    "grouped": Problem(N=4, C=24, H=17, W=16, K=36, groups=4, padding=(1, 1), bias=True),
    "depthwise": Problem(N=3, C=50, H=25, W=24, K=50, groups=50, padding=(1, 1), bias=True),
    "multiplier": Problem(N=4, C=20, H=16, W=17, K=40, groups=20, padding=(1, 1), bias=True),
    "circular": Problem(
        N=4, C=12, H=18, W=15, K=20, padding=(2, 3), padding_mode="circular", bias=True
    ),
    "small_and_many": Problem(N=70, C=12, H=4, W=4, K=20, padding=(1, 1), bias=True),
}


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("values", ["normal", "integer"])
def test_problems_of_many_work_items(name: str, dtype: torch.dtype, values: str) -> None:
    """Large enough to be cut into items, and the sums over pixels into chunks, of every kernel."""
    problem = LARGE[name].replace(dtype=dtype, values=values)
    weight_grad = _C.plan(problem.native(), "wgrad")
    assert problem.output_size is not None
    n, _, p, q = problem.output_size
    # A chunk has at least 512 pixels. Of large sums Winograd has one copy and shares out channels.
    assert weight_grad.splits > 1 or n * p * q < 1024 or "winograd" in weight_grad.kernel
    assert_correct(problem)
    for isa in _C.isas()[1:]:  # the best one has just run
        for kernel in KERNELS:
            if kernel["arch"] == isa and getattr(torch, kernel["dtype"]) == dtype:
                runs_checked(kernel, problem)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_bits_depend_on_neither_threads_nor_run(name: str, dtype: torch.dtype) -> None:
    problem = LARGE[name].replace(dtype=dtype)
    torch.set_num_threads(1)
    expected = problem.run()
    assert set(expected) == set(PASSES)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        actual = problem.run()
        for pass_name, tensor in expected.items():
            assert torch.equal(actual[pass_name], tensor), (pass_name, threads)


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("kernel", KERNELS, ids=[kernel["name"] for kernel in KERNELS])
def test_bits_of_every_kernel(kernel: _C.Kernel) -> None:
    channels = 16 if kernel["algorithm"] == "grouped" else 9
    groups = {"depthwise": 9, "grouped": 4}.get(kernel["algorithm"], 1)
    problem = Problem(
        N=3,
        C=channels,
        H=13,
        W=12,
        K=channels,
        groups=groups,
        padding=(1, 1),
        bias=True,
        dtype=getattr(torch, kernel["dtype"]),
        values="integer" if kernel["dtype"].lstrip("u").startswith("int") else "normal",
    )
    if kernel["algorithm"] == "pointwise":
        problem = problem.replace(**ONE_BY_ONE)
    if kernel["algorithm"].startswith("polyphase"):
        problem = problem.replace(stride=(2, 2))
    pass_name = PYTHON_PASSES[kernel["pass"]]
    before = _C.kernel_runs()[kernel["name"]]
    results = []
    with convext.force_plan(force_for(pass_name, kernel["name"])):
        for threads in (1, 2, 3, 5, 1):
            torch.set_num_threads(threads)
            results.append(problem.run([pass_name])[pass_name])
    assert _C.kernel_runs()[kernel["name"]] == before + 5
    assert all(torch.equal(results[0], result) for result in results)


# ---------------------------------------------------------------------- batch invariance

MOST = 17


@pytest.mark.usefixtures("_threads_restored")
@pytest.mark.parametrize("name", sorted(LARGE.keys() - {"channels_last"}))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_batch_invariance(name: str, dtype: torch.dtype, layout: str) -> None:
    """A sample's output and input gradient have the same bits in any batch, at any position."""
    problem = LARGE[name].replace(N=MOST, dtype=dtype, layout=layout)
    tensors = problem.tensors()
    kwargs: dict[str, Any] = {
        "stride": problem.stride,
        "padding": problem.padding,
        "groups": problem.groups,
        "padding_mode": problem.padding_mode,
    }

    def evaluate(input: Tensor, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        leaf = input.detach().requires_grad_()
        output = convext.conv2d(leaf, tensors.weight, tensors.bias, **kwargs)
        (grad,) = torch.autograd.grad(output, leaf, grad_output)
        return output.detach(), grad

    with convext.batch_invariant():
        torch.set_num_threads(1)
        alone = [
            evaluate(tensors.input[i : i + 1], tensors.grad_output[i : i + 1]) for i in range(MOST)
        ]
        torch.set_num_threads(2)
        for batch in range(1, MOST + 1):
            # Another window of the samples for each size, so that every sample changes its place.
            order = [(5 * batch + i) % MOST for i in range(batch)]
            output, grad = evaluate(tensors.input[order], tensors.grad_output[order])
            for position, sample in enumerate(order):
                assert torch.equal(output[position], alone[sample][0][0]), (batch, position)
                assert torch.equal(grad[position], alone[sample][1][0]), (batch, position)
        # Whatever the others are.
        for position in (0, 3, MOST - 1):
            input = torch.full_like(tensors.input, float("nan"))
            grad_output = torch.full_like(tensors.grad_output, float("inf"))
            input[position], grad_output[position] = tensors.input[1], tensors.grad_output[1]
            output, grad = evaluate(input, grad_output)
            assert torch.equal(output[position], alone[1][0][0])
            assert torch.equal(grad[position], alone[1][1][0])
