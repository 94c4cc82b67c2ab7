"""Choices: batch invariance, forced plans, ``explain``."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest
import torch
from planned import planned

import convext


def test_batch_invariant_is_a_context_a_function_and_a_decorator() -> None:
    assert not convext.is_batch_invariant()
    with convext.batch_invariant():
        assert convext.is_batch_invariant()
        with convext.batch_invariant(False):
            assert not convext.is_batch_invariant()
        assert convext.is_batch_invariant()
    assert not convext.is_batch_invariant()
    with pytest.raises(ZeroDivisionError), convext.batch_invariant():
        raise ZeroDivisionError
    assert not convext.is_batch_invariant()

    convext.batch_invariant()
    assert convext.is_batch_invariant()
    convext.batch_invariant(False)
    assert not convext.is_batch_invariant()

    @convext.batch_invariant()
    def inside() -> bool:
        return convext.is_batch_invariant()

    assert not convext.is_batch_invariant()
    assert inside()
    assert inside()
    assert not convext.is_batch_invariant()


def test_batch_invariance_holds_for_the_whole_process() -> None:
    seen: list[bool] = []
    with convext.batch_invariant():
        thread = threading.Thread(target=lambda: seen.append(convext.is_batch_invariant()))
        thread.start()
        thread.join()
    assert seen == [True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_samples_bits_do_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 8, 3, 3).to(dtype)
    batch = torch.randn(5, 8, 12, 12).to(dtype)
    grad_output = torch.randn(5, 16, 12, 12).to(dtype)

    def run(samples: slice) -> tuple[torch.Tensor, torch.Tensor]:
        input = batch[samples].clone().requires_grad_()
        output = convext.conv2d(input, weight, padding=1)
        return output, torch.autograd.grad(output, input, grad_output[samples])[0]

    with convext.batch_invariant():
        whole = run(slice(None))
        for samples in (slice(0, 1), slice(2, 3), slice(1, 4)):
            for part, all_of_it in zip(run(samples), whole, strict=True):
                assert torch.equal(part, all_of_it[samples])


def test_force_plan() -> None:
    input, weight = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3)
    expected = convext.conv2d(input, weight)
    assert convext.forced_plan() == ""
    with convext.force_plan("reference"):
        assert convext.forced_plan() == "reference"
        convext._C.reset_kernel_runs()
        torch.testing.assert_close(convext.conv2d(input, weight), expected)
        (kernel,) = [name for name, runs in convext._C.kernel_runs().items() if runs]
        assert "reference" in kernel
        with convext.force_plan(""):
            assert convext.forced_plan() == ""
        assert convext.forced_plan() == "reference"
    assert convext.forced_plan() == ""


def test_forced_plans_that_cannot_run() -> None:
    input, weight = torch.randn(2, 4, 6, 6), torch.randn(4, 4, 3, 3)
    with (
        convext.force_plan("fprop=depthwise"),
        pytest.raises(RuntimeError, match="forced to 'depthwise'") as caught,
    ):
        convext.conv2d(input, weight)
    assert "fprop_depthwise" in str(caught.value)
    assert "fprop_indirect" not in str(caught.value)  # why it does not run is no question
    with (
        pytest.raises(RuntimeError, match="'forward' is no pass; there are fprop"),
        convext.force_plan("forward=indirect"),
    ):
        convext.conv2d(input, weight)
    with pytest.raises(RuntimeError, match="swift"), convext.force_plan("swift"):
        convext.conv2d(input, weight)
    assert convext.forced_plan() == ""


def test_forced_plans_that_contradict_themselves() -> None:
    for spec, words in (
        ("fprop=indirect,fprop=direct", "'fprop=indirect' and 'fprop=direct' .* for fprop"),
        ("reference,wgrad=outer", "'reference' and 'wgrad=outer' .* for wgrad"),
        ("dot,direct", "'dot' and 'direct' name different kernels for fprop"),
    ):
        with pytest.raises(RuntimeError, match=words), convext.force_plan(spec):
            pass
    # Each of these speaks about other passes, or says one thing twice.
    for spec in ("indirect,wgrad=outer,bgrad=reference", "dot,axpy", "fprop=dot,fprop=dot"):
        with convext.force_plan(spec):
            assert convext.forced_plan() == spec
    run = subprocess.run(
        [sys.executable, "-m", "convext", "info"],
        env=os.environ | {"CONVEXT_PLAN": "fprop=indirect,fprop=direct"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "'fprop=indirect' and 'fprop=direct'" in run.stderr


def test_refusals_say_what_does_not_fit() -> None:
    def why(algorithm: str, size: int, stride: int, groups: int = 1) -> str:
        found = convext.problem((1, 8, 9, 9), (8, 8 // groups, size, size), stride, groups=groups)
        refused = convext.explain(found)["forward"].refused
        return next(words for kernel, words in refused if kernel.startswith(f"fprop_{algorithm}_"))

    three = "needs a 3 x 3 kernel and stride "
    assert why("winograd4", 3, 2) == three + "1, the stride is 2 x 2"
    assert why("polyphase4", 5, 2) == three + "2, the kernel is 5 x 5"
    assert why("winograd2", 5, 3) == three + "1, the kernel is 5 x 5, the stride is 3 x 3"
    assert why("pointwise", 3, 1) == "needs a 1 x 1 kernel, it is 3 x 3"
    assert why("pointwise", 1, 1, groups=2) == "needs one group, has 2"


@pytest.mark.parametrize(
    ("direction", "name"),
    [("forward", "fprop"), ("input_grad", "dgrad"), ("weight_grad", "wgrad")],
)
def test_explain(direction: str, name: str) -> None:
    input, weight = torch.empty(2, 4, 6, 7, device="meta"), torch.empty(6, 2, 3, 2, device="meta")
    plan = planned(input, weight, stride=(2, 1), padding="valid", groups=2, direction=direction)
    assert plan.pass_ == name
    assert plan.kernel.startswith(name)
    problem = plan.problem
    assert (problem.N, problem.C, problem.H, problem.W) == (2, 4, 6, 7)
    assert (problem.K, problem.R, problem.S, problem.P, problem.Q) == (6, 3, 2, 2, 6)
    assert (problem.groups, problem.stride_h, problem.stride_w) == (2, 2, 1)
    assert plan.reason
    assert plan.kernel in str(plan)


def test_explain_says_what_runs() -> None:
    input, weight = torch.randn(2, 4, 6, 7), torch.randn(6, 4, 3, 2)
    convext._C.reset_kernel_runs()
    convext.conv2d(input, weight, padding=(1, 0, 2, 1), padding_mode="circular")
    (kernel,) = [name for name, runs in convext._C.kernel_runs().items() if runs]
    plan = planned(input, weight, padding=(1, 0, 2, 1), padding_mode="circular")
    assert plan.kernel == kernel


def test_little_work_stays_on_one_thread() -> None:
    small = torch.empty(1, 16, 8, 8), torch.empty(16, 16, 3, 3)
    large = torch.empty(1, 256, 28, 28), torch.empty(256, 256, 3, 3)
    assert planned(*small).one_thread
    assert "one thread: too little to share" in str(planned(*small))
    assert not planned(*large).one_thread
    with convext.force_plan("indirect"):  # as tests of single kernels want it
        assert not planned(*small).one_thread


def test_options_reach_plans_that_are_kept() -> None:
    """Each thread keeps its plans; a changed option makes new ones."""
    input, weight = torch.randn(1, 4, 6, 6), torch.randn(4, 4, 3, 3)

    def ran() -> str:
        convext._C.reset_kernel_runs()
        convext.conv2d(input, weight)
        (kernel,) = [name for name, runs in convext._C.kernel_runs().items() if runs]
        return kernel.split("_")[1]

    usual = ran()
    assert usual != "reference"
    for _ in range(2):
        with convext.force_plan("reference"):
            assert ran() == "reference"
        assert ran() == usual
        convext.set_workspace_limit(0)
        assert ran() == "reference"
        convext.set_workspace_limit(None)
        assert ran() == usual


def test_more_problems_than_plans_are_kept() -> None:
    weight = torch.ones(2, 3, 3, 3)
    for _ in range(2):
        for size in range(3, 303):
            output = convext.conv2d(torch.ones(1, 3, 3, size), weight, padding=(0, 1))
            assert output.shape == (1, 2, 1, size)
            assert output[0, 0, 0, 0] == 18


def test_explain_of_other_layouts() -> None:
    input, weight = torch.empty(1, 4, 6, 6), torch.empty(6, 4, 3, 3)
    for other in (
        input.to(memory_format=torch.channels_last),
        input.transpose(2, 3),
        input[:, :, ::2, ::2].expand(3, 4, 3, 3),
    ):
        problem = planned(other, weight).problem
        assert other.shape == (problem.N, problem.C, problem.H, problem.W)


def test_explain_of_other_inputs_and_errors() -> None:
    weight = torch.empty(6, 4, 3, 3)
    assert planned(torch.empty(4, 6, 6), weight).problem.N == 1
    complex_input = torch.empty(1, 4, 6, 6, dtype=torch.complex64)
    assert planned(complex_input, weight.to(torch.complex64)).problem.dtype == "float32"
    with pytest.raises(ValueError, match="dtype must be one of"):
        planned(torch.empty(1, 4, 6, 6, dtype=torch.bool), weight.to(torch.bool))
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        planned(torch.empty(1, 4, 6, 6), weight, padding_mode="mirror")
    with pytest.raises(RuntimeError, match="must have one dtype"):
        planned(torch.empty(1, 4, 6, 6, dtype=torch.float64), weight)
    with pytest.raises(TypeError, match="input must be a Tensor or its shape, but got list"):
        planned([1.0], weight)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        planned(torch.empty(1, 4, 2, 2), weight)


def test_versions() -> None:
    assert convext.__version__ == convext._C.build_info()["version"]


def test_batch_invariant_takes_a_bool() -> None:
    with pytest.raises(TypeError, match="enabled must be True or False, but got 'off'"):
        convext.batch_invariant("off")  # type: ignore[arg-type]
    assert not convext.is_batch_invariant()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [1, 3])
def test_batch_invariance_does_not_look_at_how_samples_lie(
    memory_format: torch.memory_format, size: int
) -> None:
    """Expanded batches and every second image of one: the same kernel, the same bits as alone."""
    alone = torch.randn(1, 12, 6, 7).to(memory_format=memory_format)
    weight = torch.randn(9, 12, size, size)
    padding = size // 2
    others = torch.cat([alone, torch.randn(5, 12, 6, 7)]).to(memory_format=memory_format)

    def input_grads(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.detach().requires_grad_()
        convext.conv2d(batch, weight, padding=padding).square().sum().backward()
        assert batch.grad is not None
        return batch.grad

    with convext.batch_invariant():
        expected = convext.conv2d(alone, weight, padding=padding)
        kernel = planned(alone, weight, padding=padding).kernel
        gradient = input_grads(alone)[0]
        for batch in (alone.expand(3, -1, -1, -1), others[::2], others):
            assert planned(batch, weight, padding=padding).kernel == kernel
            assert torch.equal(convext.conv2d(batch, weight, padding=padding)[:1], expected)
            assert torch.equal(input_grads(batch)[0], gradient)
