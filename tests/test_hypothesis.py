"""Random problems, drawn and, when one fails, made smaller by Hypothesis."""

from __future__ import annotations

import os
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

import convext
from convext.testing import (
    COMPLEX_DTYPES,
    FLOATING_DTYPES,
    INTEGER_DTYPES,
    LAYOUTS,
    PADDING_MODES,
    Problem,
    assert_correct,
)

# In CI the same problems every time; elsewhere other ones every time.
EXAMPLES = settings(
    deadline=None,
    derandomize="CI" in os.environ,
    database=None,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Small problems lose more to waking threads than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@st.composite
def problems(draw: st.DrawFn, dtypes: tuple[torch.dtype, ...]) -> Problem:
    def pair(low: int, high: int) -> tuple[int, int]:
        return draw(st.integers(low, high)), draw(st.integers(low, high))

    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 17]))
    kernel, dilation = pair(1, 5), pair(1, 3)
    padding = (*pair(0, 4), *pair(0, 4)) if draw(st.booleans()) else pair(0, 4)
    problem = Problem(
        N=draw(st.integers(0, 3)),
        C=groups * draw(st.integers(1, max(1, 40 // groups))),
        H=draw(st.integers(1, 16)),
        W=draw(st.integers(1, 16)),
        K=groups * draw(st.integers(1, max(1, 40 // groups))),
        R=kernel[0],
        S=kernel[1],
        stride=pair(1, 4),
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=draw(st.sampled_from(PADDING_MODES)),
        dtype=draw(st.sampled_from(dtypes)),
        bias=draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
        values=draw(st.sampled_from(["normal", "integer"])),
        seed=draw(st.integers(0, 1000)),
    )
    assume(problem.valid)
    return problem


@EXAMPLES
@given(problems(FLOATING_DTYPES))
def test_floating_point(problem: Problem) -> None:
    assert_correct(problem)


@EXAMPLES
@given(problems(COMPLEX_DTYPES))
def test_complex_numbers(problem: Problem) -> None:
    assert_correct(problem)


@EXAMPLES
@given(problems(INTEGER_DTYPES))
def test_integers(problem: Problem) -> None:
    assert_correct(problem)


@EXAMPLES
@given(problems(FLOATING_DTYPES), st.integers(2, 5))
def test_bits_do_not_depend_on_threads(problem: Problem, threads: int) -> None:
    expected = problem.run()
    torch.set_num_threads(threads)
    try:
        actual = problem.run()
    finally:
        torch.set_num_threads(1)
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


@EXAMPLES
@given(problems(FLOATING_DTYPES), st.integers(0, 2))
def test_batch_invariance(problem: Problem, sample: int) -> None:
    problem = problem.replace(N=3)
    with convext.batch_invariant():
        together = problem.run(["forward", "input_grad"])
        tensors = problem.tensors()
        leaf = tensors.input[sample : sample + 1].detach().requires_grad_()
        output = convext.conv2d(
            leaf,
            tensors.weight,
            tensors.bias,
            problem.stride,
            problem.padding,
            problem.dilation,
            problem.groups,
            padding_mode=problem.padding_mode,
        )
        (grad,) = torch.autograd.grad(output, leaf, tensors.grad_output[sample : sample + 1])
    assert torch.equal(output[0], together["forward"][sample])
    assert torch.equal(grad[0], together["input_grad"][sample])


@EXAMPLES
@given(st.data())
def test_whatever_torch_refuses_is_refused(data: st.DataObject) -> None:
    """And the other way round: sizes that torch takes give torch's shape."""
    integers = st.integers(-1, 4)
    size, kernel = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    input = torch.ones(1, data.draw(st.integers(1, 4)), size, size + 1)
    weight = torch.ones(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), kernel, 2)
    arguments = [data.draw(integers) for _ in range(4)]  # stride, padding, dilation, groups
    try:
        expected = torch.nn.functional.conv2d(input, weight, None, *arguments).shape
    except RuntimeError:
        with pytest.raises(RuntimeError):
            convext.conv2d(input, weight, None, *arguments)
    else:
        assert convext.conv2d(input, weight, None, *arguments).shape == expected
