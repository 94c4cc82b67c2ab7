"""References, bounds and comparisons: the machinery that judges the kernels, judged itself."""

import math

import pytest
import torch
import torch.nn.functional as F
from judging import TYPICAL, sequential, spoiled

import convext.testing
from convext.testing import (
    FLOATING_DTYPES,
    LAYOUTS,
    PASSES,
    Problem,
    Reference,
    assert_correct,
    check,
    compare,
    error_bound,
    expected_memory_format,
    force_for,
)


@pytest.mark.parametrize("values", ["normal", "integer"])
@pytest.mark.parametrize("dtype", FLOATING_DTYPES)
def test_a_right_convolution_passes(dtype, values):
    if dtype == torch.float64:

        def conv2d(input, weight, bias=None, *, padding, padding_mode, **kwargs):
            return F.conv2d(F.pad(input, padding), weight, bias, **kwargs)
    else:
        conv2d = sequential
    for problem in (
        TYPICAL.replace(padding=(1, 2, 0, 1), dilation=(1, 2)),
        Problem(N=3, C=32, H=9, W=9, K=8, padding=(0, 0, 0, 0), bias=True),
        Problem(N=2, C=8, H=4, W=4, K=8, padding=(0, 0, 0, 0), groups=4),
    ):
        # The float32 copies inside `sequential` make autograd accumulate in float32 too.
        report = check(problem.replace(dtype=dtype, values=values), conv2d=conv2d)
        assert {name: c.message for name, c in report.items()} == dict.fromkeys(report, "")


def spoil_one(value):
    def change(output):
        output[-1, -1, -1, -1] = value

    return change


@pytest.mark.parametrize("values", ["normal", "integer"])
@pytest.mark.parametrize(
    "change",
    [
        spoil_one(math.nan),
        spoil_one(math.inf),
        torch.neg,
        lambda output: output.index_put_([torch.tensor([0])] * 4, torch.tensor(1.0), True),
        torch.zeros_like,
        lambda output: output.flip(3),
        lambda output: output.roll(1, 1),
        lambda output: output * (1 + 1e-3),
    ],
    ids=["nan", "inf", "sign", "one element", "zeros", "flipped", "channels", "scaled"],
)
def test_a_wrong_output_fails(change, values):
    problem = TYPICAL.replace(values=values)
    report = check(problem, ("forward",), conv2d=spoiled(change))
    assert not report["forward"].ok
    assert report["forward"].ratio > 1
    assert "elements are wrong" in report["forward"].message


@pytest.mark.parametrize("pass_name", PASSES[1:])
@pytest.mark.parametrize("factor", [-1.0, 0.0, 1.001, math.nan])
def test_a_wrong_gradient_fails(pass_name, factor):
    def conv2d(*operands, **kwargs):
        scaled = list(operands)
        scaled[PASSES.index(pass_name) - 1].register_hook(lambda grad: factor * grad)
        return sequential(*scaled, **kwargs)

    report = check(TYPICAL, conv2d=conv2d)
    assert {name for name, comparison in report.items() if not comparison.ok} == {pass_name}


def test_an_element_nobody_wrote_fails():
    def conv2d(input, weight, bias=None, **kwargs):
        right = sequential(input, weight, bias, **kwargs)
        output = torch.empty_like(right)
        output[..., :-1] = right[..., :-1]
        return output

    assert "nan instead of" in check(TYPICAL, ("forward",), conv2d=conv2d)["forward"].message


def test_a_read_beside_a_sliced_input_fails():
    def conv2d(input, weight, bias=None, **kwargs):
        beside = input.as_strided(input.shape, input.stride(), input.storage_offset() - 1)
        return sequential(beside, weight, bias, **kwargs)

    assert not check(TYPICAL.replace(layout="sliced"), ("forward",), conv2d=conv2d)["forward"]


def test_float32_held_to_float32():
    """bfloat16 inside a float32 convolution is caught, and so is float16."""
    for narrow in (torch.bfloat16, torch.float16):

        def conv2d(input, weight, bias=None, *, narrow=narrow, **kwargs):
            return sequential(input.to(narrow).float(), weight.to(narrow).float(), bias, **kwargs)

        report = check(Problem(C=64, H=9, W=9, K=4), ("forward",), conv2d=conv2d)
        assert report["forward"].ratio > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_must_accumulate_in_float32(dtype):
    def conv2d(input, weight, bias=None, **kwargs):
        half = input.shape[1] // 2
        first = sequential(input[:, :half], weight[:, :half], **kwargs)
        return first + sequential(input[:, half:], weight[:, half:], **kwargs)

    report = check(Problem(C=16, H=9, W=9, K=4, dtype=dtype), ("forward",), conv2d=conv2d)
    assert not report["forward"].ok


def reference_of(value):
    value = torch.as_tensor(value)
    return Reference(value, value.abs().double(), torch.ones(value.shape, dtype=torch.float64))


def test_comparison_of_shape_and_dtype():
    right = torch.ones(2, 3)
    assert compare(right, reference_of(right.double()), torch.float32, exact=False)
    assert compare(right[:1], reference_of(right.double()), torch.float32, exact=False) == (
        False,
        math.inf,
        "shape is (1, 3), not (2, 3)",
    )
    assert compare(right.double(), reference_of(right.double()), torch.float32, exact=False) == (
        False,
        math.inf,
        "dtype is torch.float64, not torch.float32",
    )
    assert compare(torch.ones(0, 3), reference_of(torch.ones(0, 3)), torch.float32, exact=True)


def test_comparison_at_the_bound():
    reference = reference_of(torch.full((1,), 1.0, dtype=torch.float64))
    bound = error_bound(torch.float64, reference)
    assert compare(reference.value + bound, reference, torch.float64, exact=False).ratio == 1.0
    beyond = compare(reference.value + 2 * bound, reference, torch.float64, exact=False)
    assert not beyond.ok
    assert beyond.ratio == 2.0


def test_exact_comparison():
    reference = reference_of(torch.tensor([3.0, 4.0], dtype=torch.float64))
    assert compare(torch.tensor([3.0, 4.0]), reference, torch.float32, exact=True).ratio == 0.0
    off = compare(torch.tensor([3.0, 4.00001]), reference, torch.float32, exact=True)
    assert not off.ok
    assert off.ratio == math.inf
    # Rounded once to the dtype: 257 lies between 256 and 258 in bfloat16.
    reference = reference_of(torch.tensor([257.0], dtype=torch.float64))
    assert compare(torch.tensor([256.0]).bfloat16(), reference, torch.bfloat16, exact=True)
    assert not compare(torch.tensor([258.0]).bfloat16(), reference, torch.bfloat16, exact=True)


def test_infinity_where_the_dtype_overflows():
    reference = reference_of(torch.tensor([1e6, -1e6], dtype=torch.float64))
    right = torch.tensor([math.inf, -math.inf], dtype=torch.float16)
    assert compare(right, reference, torch.float16, exact=False).ratio == 0.0
    assert not compare(-right, reference, torch.float16, exact=False)


def test_bounds_grow_with_the_reduction_and_the_magnitude():
    def bound(dtype, magnitude, length):
        one = torch.ones(1, dtype=torch.float64)
        return float(error_bound(dtype, Reference(one, one * magnitude, one * length)))

    assert bound(torch.float32, 1, 10) < bound(torch.float32, 1, 1000) < 1000 * 2**-24
    assert bound(torch.float32, 2, 10) == 2 * bound(torch.float32, 1, 10)
    # One rounding of a half type outweighs a thousand of float32.
    assert 2**-8 < bound(torch.bfloat16, 1, 1000) < 2**-8 * 1.01
    assert 2**-11 < bound(torch.float16, 1, 100) < 2**-11 * 1.01


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_format_rule_is_atens(layout):
    problem = TYPICAL.replace(layout=layout, stride=(1, 1), padding=(0, 0))
    input, weight, bias, _ = problem.tensors()
    output = F.conv2d(input, weight, bias)
    assert output.is_contiguous(memory_format=expected_memory_format(input, weight))


def test_wrong_strides_fail():
    def conv2d(*args, **kwargs):
        return sequential(*args, **kwargs).contiguous()

    problem = TYPICAL.replace(layout="channels_last")
    message = check(problem, ("forward",), conv2d=conv2d)["forward"].message
    assert "which is not torch.channels_last" in message


def test_assert_correct_gives_a_snippet_that_fails_alike(monkeypatch):
    monkeypatch.setattr(convext, "conv2d", spoiled(torch.neg))
    with pytest.raises(AssertionError, match=r"forward: .* elements are wrong") as raised:
        assert_correct(TYPICAL)
    snippet = str(raised.value).split("\n\n")[1]
    with pytest.raises(AssertionError) as again:
        exec(snippet, {})
    assert str(again.value) == str(raised.value)
    monkeypatch.setattr(convext, "conv2d", sequential)
    exec(snippet, {})


def test_snippet_names_pass_and_force():
    assert TYPICAL.snippet(["input_grad"], "dgrad=reference") == (
        "import torch\n"
        "from convext.testing import Problem, assert_correct\n"
        f"assert_correct({TYPICAL!r}, passes=('input_grad',), force='dgrad=reference')"
    )
    assert force_for("bias_grad", "rowsum") == "bgrad=rowsum"


# A kernel that transforms its operands is held to the largest magnitude, not to each element's own.
GROWTH = max(kernel["error_growth"] for kernel in convext._C.kernels())


def test_the_table_says_whose_errors_grow():
    grows = {k["algorithm"] for k in convext._C.kernels() if k["error_growth"] > 0}
    inexact = {k["algorithm"] for k in convext._C.kernels() if not k["exact_on_integers"]}
    assert grows == {"winograd2", "winograd4", "polyphase2", "polyphase4"}
    assert inexact == {"winograd4", "polyphase4"}


def test_bounds_of_growing_errors():
    magnitude = torch.tensor([1e-3, 1.0, 0.5], dtype=torch.float64)
    reference = Reference(
        torch.zeros(3).double(), magnitude, torch.tensor([4.0, 9.0, 6.0]).double()
    )
    bound = error_bound(torch.float32, reference, GROWTH)
    assert torch.equal(bound, bound.max().expand(3)), "every element is held to the largest"
    assert bound[1] > GROWTH * 2**-24
    assert bound[1] < GROWTH * 40 * 2**-24
    assert torch.equal(error_bound(torch.float32, reference, 2 * GROWTH), 2 * bound), (
        "in proportion to the growth"
    )
    # A half type's last rounding is each element's own.
    small, large = error_bound(
        torch.bfloat16,
        Reference(torch.tensor([1e-3, 100.0]).double(), magnitude[:2], torch.ones(2).double()),
        GROWTH,
    )
    assert small < 100 * 2**-9 < large
    empty = torch.ones(0, 3).double()
    assert error_bound(torch.float32, Reference(empty, empty, empty), GROWTH).shape == (0, 3)


@pytest.mark.parametrize("dtype", FLOATING_DTYPES)
@pytest.mark.parametrize("values", ["normal", "integer"])
@pytest.mark.parametrize(
    "wrong", [math.nan, math.inf, 0.0, "neighbour", "negated", "off by one in a thousand"], ids=str
)
def test_one_wrong_element_fails_where_errors_grow(dtype, values, wrong):
    problem = Problem(N=2, C=16, H=9, W=9, K=4, padding=(1, 1), dtype=dtype, values=values)
    reference = problem.reference(("forward",))["forward"]
    right = reference.value.to(dtype)
    assert compare(right, reference, dtype, exact=False, error_growth=GROWTH).ok
    # Any one element that is large enough for the change to show.
    place = tuple(int(i) for i in torch.unravel_index(reference.value.abs().argmax(), right.shape))
    spoiled = right.clone()
    if wrong == "neighbour":
        spoiled[place] = right[(*place[:3], (place[3] + 4) % 9)]
    elif wrong == "negated":
        spoiled[place] = -right[place]
    elif wrong == "off by one in a thousand":
        if dtype in (torch.bfloat16, torch.float16):
            pytest.skip("less than the type resolves")
        spoiled[place] = right[place] * 1.001
    else:
        spoiled[place] = wrong
    comparison = compare(spoiled, reference, dtype, exact=False, error_growth=GROWTH)
    assert not comparison.ok
    assert comparison.ratio > 1
    assert "1 of 648 elements are wrong" in comparison.message


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_narrow_operands_fail_where_errors_grow(narrow):
    problem = Problem(N=2, C=64, H=16, W=16, K=16, padding=(1, 1))
    reference = problem.reference(("forward",))["forward"]
    tensors = problem.tensors()
    operands = (tensors.input.to(narrow).float(), tensors.weight.to(narrow).float())
    wrong = F.conv2d(*operands, padding=1)
    assert not compare(wrong, reference, torch.float32, exact=False, error_growth=GROWTH).ok


def test_check_asks_the_kernel_that_ran():
    """The exact comparison of integers is given up for that kernel's pass alone."""
    problem = Problem(N=1, C=8, H=9, W=9, K=8, padding=(1, 1), values="integer")
    force = "fprop=winograd4,dgrad=winograd2"
    report = check(problem, ("forward", "input_grad"), force=force)
    assert report["forward"].ok
    assert report["input_grad"].ok
    assert report["input_grad"].ratio == 0.0

    def conv2d(*args, **kwargs):
        return convext.conv2d(*args, **kwargs) * (1 + 1e-6)

    report = check(problem, ("forward",), force=force, conv2d=conv2d)
    assert report["forward"].ok
    assert 0 < report["forward"].ratio < 1
    assert not check(problem, ("forward",), force="winograd2", conv2d=conv2d)["forward"].ok
    assert not check(problem, ("forward",), force="indirect", conv2d=conv2d)["forward"].ok
