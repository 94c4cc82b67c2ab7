"""The machinery that judges the kernels is itself judged here, mostly without the kernels."""

import doctest
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

import convext.testing
from convext.plan import layout_of
from convext.testing import (
    FLOATING_DTYPES,
    INTEGER_DTYPES,
    LAYOUTS,
    PADDING_MODES,
    PASSES,
    Problem,
    Reference,
    around,
    assert_correct,
    check,
    compare,
    edge_problems,
    error_bound,
    expected_memory_format,
    force_for,
    problems_around,
    random_problems,
    thinned,
)

TYPICAL = Problem(N=2, C=3, H=6, W=7, K=4, R=3, S=2, stride=(2, 1), padding=(1, 1), bias=True)


def sequential(input, weight, bias=None, *, stride, padding, dilation, groups, padding_mode):
    """A convolution that adds tap after tap in float32: right, but in an order of its own."""
    left, right, top, bottom = (
        padding if len(padding) == 4 else (padding[1],) * 2 + (padding[0],) * 2
    )
    mode = "constant" if padding_mode == "zeros" else padding_mode
    padded = F.pad(input.float(), (left, right, top, bottom), mode=mode)
    patches = F.unfold(padded, weight.shape[2:], dilation=dilation, stride=stride)
    n, k = input.shape[0], weight.shape[0]
    terms = weight[0].numel()
    patches = patches.reshape(n, groups, 1, terms, -1)
    products = patches * weight.float().reshape(1, groups, k // groups, terms, 1)
    total = products[..., 0, :]
    for term in range(1, terms):
        total = total + products[..., term, :]
    total = total.reshape(n, k, -1)
    if bias is not None:
        total = total + bias.float()[:, None]
    size = [
        (extent - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis, extent in enumerate(padded.shape[2:])
    ]
    return total.reshape(n, k, *size).to(input.dtype)


def spoiled(change):
    """``sequential``, its output changed in place by ``change``."""

    def conv2d(*args, **kwargs):
        output = sequential(*args, **kwargs)
        spoil = output.detach().clone()
        changed = change(spoil)
        return output + (spoil if changed is None else changed) - output.detach()

    return conv2d


@pytest.fixture(autouse=True)
def one_thread():
    """The machinery is on trial here, not threads, and its problems are too small for them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ------------------------------------------------------------------------------------ problems


def test_repr_makes_the_problem_again():
    for problem in (Problem(), TYPICAL, *random_problems(20, torch.bfloat16)):
        assert eval(repr(problem), {"Problem": Problem, "torch": torch}) == problem


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="padding_mode must be one of zeros"):
        Problem(padding_mode="mirror")
    with pytest.raises(ValueError, match="layout must be one of contiguous"):
        Problem(layout="nchw")
    with pytest.raises(ValueError, match="values must be one of normal"):
        Problem(values="ones")
    with pytest.raises(ValueError, match="padding must have 2 or 4 values, not 3"):
        Problem(padding=(1, 1, 1))


@pytest.mark.parametrize(
    "problem",
    [
        Problem(H=2, W=2),
        Problem(C=3, groups=2),
        Problem(padding=(5, 0), padding_mode="reflect"),
        Problem(padding=(6, 0), padding_mode="circular"),
    ],
    ids=repr,
)
def test_what_torch_refuses_is_not_valid(problem):
    assert not problem.valid
    with pytest.raises(ValueError, match="torch has no such convolution"):
        problem.tensors()


def test_output_size():
    assert Problem(H=5, W=5, padding=(1, 1), stride=(2, 2)).output_size == (1, 1, 3, 3)
    assert TYPICAL.output_size == (2, 4, 3, 8)
    assert TYPICAL.replace(padding=(0, 1, 2, 3)).output_size == (2, 4, 5, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64, torch.int8])
def test_layouts_hold_the_same_values(layout, dtype):
    problem = TYPICAL.replace(dtype=dtype, layout=layout)
    plain = problem.replace(layout="contiguous").tensors()
    laid_out = problem.tensors()
    assert all(a.dtype == dtype for a in laid_out)
    if layout == "expanded":
        assert laid_out.input.stride(0) == 0
        assert laid_out.weight.stride(0) == 0
        plain = [t[:1].expand_as(t) if t.dim() == 4 else t for t in plain]
    assert all(torch.equal(a, b) for a, b in zip(plain, laid_out, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(laid_out, problem.tensors(), strict=True))


def test_layouts_are_what_they_are_called():
    def input_of(layout):
        return TYPICAL.replace(layout=layout).tensors().input

    assert input_of("contiguous").is_contiguous()
    assert input_of("channels_last").is_contiguous(memory_format=torch.channels_last)
    assert input_of("channels_last").stride(1) == 1
    assert input_of("offset").storage_offset() == 1
    assert input_of("sliced").stride(3) == 2
    assert input_of("channels_last_sliced").stride(1) == 1
    assert input_of("channels_last_sliced").stride(3) == TYPICAL.C + 3
    assert input_of("transposed").stride(2) == 1
    mixed = TYPICAL.replace(layout="mixed").tensors()
    assert mixed.input.stride(1) == 1
    assert mixed.weight.is_contiguous()


@pytest.mark.parametrize("layout", ["offset", "sliced", "channels_last_sliced"])
def test_what_surrounds_a_view_is_poison(layout):
    input = TYPICAL.replace(layout=layout).tensors().input
    storage = torch.empty(0).set_(input.untyped_storage())
    assert storage.numel() > input.numel()
    assert int(storage.isnan().sum()) == storage.numel() - input.numel()
    integral = TYPICAL.replace(layout=layout, dtype=torch.int8).tensors().input
    assert 127 in torch.empty(0, dtype=torch.int8).set_(integral.untyped_storage())


def test_integer_values_are_small_integers():
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        for tensor in TYPICAL.replace(dtype=dtype, values="integer").tensors():
            parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            assert torch.equal(parts, parts.round())
            assert parts.abs().max() <= 3


def test_passes():
    assert TYPICAL.passes == PASSES
    assert TYPICAL.replace(bias=False).passes == ("forward", "input_grad", "weight_grad")
    with pytest.raises(ValueError, match="this problem has no pass bias_grad"):
        TYPICAL.replace(bias=False).run(("bias_grad",), sequential)


def test_reference_of_a_case_worked_by_hand():
    # 2x2 input, 2x2 kernel of ones over one pixel of padding: sums of corners, edges, everything.
    problem = Problem(H=2, W=2, R=2, S=2, padding=(1, 1), stride=(1, 1))
    input = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]]])

    def prepared(self):
        ones = torch.ones(1, 1, 2, 2)
        return convext.testing.Tensors(input, ones, None, torch.ones(1, 1, 3, 3))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "tensors", prepared)
        reference = problem.reference()
    forward = reference["forward"]
    assert forward.value.tolist() == [[[[1, -1, -2], [4, 6, 2], [3, 7, 4]]]]
    assert forward.magnitude.tolist() == [[[[1, 3, 2], [4, 10, 6], [3, 7, 4]]]]
    assert forward.length.tolist() == [[[[1, 2, 1], [2, 4, 2], [1, 2, 1]]]]
    assert forward.value.dtype == torch.float64
    # Every pixel meets every tap once; every tap meets every pixel once.
    assert reference["input_grad"].value.tolist() == [[[[4, 4], [4, 4]]]]
    assert reference["weight_grad"].value.tolist() == [[[[6, 6], [6, 6]]]]
    assert reference["weight_grad"].magnitude.tolist() == [[[[10, 10], [10, 10]]]]
    assert reference["weight_grad"].length.tolist() == [[[[4, 4], [4, 4]]]]


def test_reference_wraps_integers_only_at_the_end():
    problem = Problem(C=64, H=8, W=8, dtype=torch.int8, values="integer")
    value = problem.reference()["forward"].value
    assert value.dtype == torch.int64
    assert value.abs().max() > 127
    assert compare(value.to(torch.int8), problem.reference()["forward"], torch.int8, exact=True)


def test_new_memory_is_poisoned_only_while_a_problem_runs():
    seen = []

    def conv2d(input, weight, bias=None, **kwargs):
        seen.append(torch.empty(5))
        return sequential(input, weight, bias, **kwargs)

    TYPICAL.run(("forward",), conv2d)
    assert seen[0].isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()


# ---------------------------------------------------------------------------------- comparator


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
    assert grows == {"winograd2", "winograd4"}
    assert inexact == {"winograd4"}


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
    "wrong",
    [math.nan, math.inf, 0.0, "neighbour", "negated", "off by one in a thousand"],
    ids=str,
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


# ---------------------------------------------------------------------------------- generators

DENSE = {"name": "dense", "algorithm": "indirect", "dtype": "float32", "layout": "nhwc"}
DENSE |= {"mr": 6, "nr": 16, "tile": "6x16", "pass": "fprop"}
DEPTHWISE = DENSE | {"name": "depthwise", "algorithm": "depthwise", "mr": 4, "nr": 8, "tile": "4x8"}

GENERATORS = {
    "dense": lambda seed: problems_around(DENSE, seed=seed),
    "depthwise": lambda seed: problems_around(DEPTHWISE, seed=seed),
    "edges": lambda seed: edge_problems(torch.float32, seed=seed),
    "random": lambda seed: random_problems(200, torch.float32, seed=seed),
}


def test_around():
    assert around(6) == [1, 5, 6, 7, 11, 13]
    assert around(1) == [1, 2, 3]
    assert around(16) == [1, 15, 16, 17, 19, 33]


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_repeat_themselves_and_not_their_problems(name):
    problems = GENERATORS[name](3)
    assert problems == GENERATORS[name](3)
    assert problems != GENERATORS[name](4)
    assert len({p.replace(seed=0, values="normal") for p in problems}) == len(problems)
    assert len({p.seed for p in problems}) == len(problems)
    assert all(p.valid for p in problems)
    assert max(p.N * p.C * p.H * p.W for p in problems) < 200_000


@pytest.mark.parametrize("name", GENERATORS)
def test_generators_reach_every_feature(name):
    problems = GENERATORS[name](0)
    assert {p.padding_mode for p in problems if any(p.pad)} == set(PADDING_MODES)
    assert {p.layout for p in problems} == set(LAYOUTS)
    assert {p.values for p in problems} == {"normal", "integer"}
    assert {p.bias for p in problems} == {True, False}
    assert {len(p.padding) for p in problems} == {2, 4}
    assert any(p.stride[0] > p.R for p in problems)
    assert any(p.stride[0] != p.stride[1] for p in problems)
    assert any(p.dilation[0] > 1 for p in problems)
    assert any(p.pad[2] >= p.R for p in problems), "padding larger than the kernel"
    assert any(1 < p.groups < p.C for p in problems) or name == "depthwise"
    assert any(p.groups == p.C > 1 for p in problems)
    assert any(p.groups == p.C > 1 and p.K > p.C for p in problems), "channel multiplier"
    assert any(p.N == 0 for p in problems) or name == "random"


def test_edges_touch_torchs_limits_on_padding():
    problems = edge_problems(torch.float32)
    assert any(p.padding_mode == "reflect" and p.pad[2] == p.H - 1 for p in problems)
    assert any(p.padding_mode == "circular" and p.pad[2] == p.H for p in problems)


def test_residue_in_one_dimension_only():
    plain = [p for p in problems_around(DENSE) if p.groups == 1 and p.stride == (1, 1) and p.N == 1]
    extents = {(p.output_size[3], p.K, p.C) for p in plain}
    mr, nr = DENSE["mr"], DENSE["nr"]
    for pixels in around(mr):
        assert (pixels, nr, nr) in extents
    for channels in around(nr):
        assert (mr, channels, nr) in extents
        assert (mr, nr, channels) in extents


def test_depthwise_problems_are_depthwise():
    problems = problems_around(DEPTHWISE)
    assert all(p.groups == p.C for p in problems)
    assert set(around(8)) <= {p.C for p in problems}


def test_generators_follow_the_rows_layout_and_dtype():
    nchw = problems_around(DENSE | {"layout": "nchw", "dtype": "float16"})
    assert {p.dtype for p in nchw} == {torch.float16}
    most = [p.layout for p in nchw]
    assert most.count("contiguous") > len(most) // 2
    assert {p.dtype for p in problems_around(DENSE, dtype=torch.float64)} == {torch.float64}


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integer_dtypes_get_integer_values(dtype):
    assert {p.values for p in random_problems(10, dtype)} == {"integer"}


def test_thinned():
    assert thinned(range(10), 3) == [0, 3, 6]
    assert thinned(range(3), 10) == [0, 1, 2]
    assert thinned(iter(range(100)), 100) == list(range(100))


# ------------------------------------------------------------------------------------- convext


def test_documentation_example():
    result = doctest.testmod(convext.testing)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_native_problems_are_the_same_problems(dtype):
    for problem in (*edge_problems(dtype), *random_problems(50, dtype)):
        native = problem.native()
        assert problem.output_size == (native.N, native.K, native.P, native.Q)
        assert problem.input_size[1:] == (native.C, native.H, native.W)
        assert problem.weight_size[2:] == (native.R, native.S)
        pad = (native.pad_left, native.pad_right, native.pad_top, native.pad_bottom)
        assert pad == problem.pad
        assert (native.stride_h, native.stride_w) == problem.stride
        assert (native.dilation_h, native.dilation_w) == problem.dilation
        assert (native.groups, native.padding_mode) == (problem.groups, problem.padding_mode)
        assert native.dtype == "float32"
        tensors = problem.tensors()
        assert native.input_layout == layout_of(tensors.input)
        assert native.weight_layout == layout_of(tensors.weight)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_integers_of_convext_are_right(dtype):
    problem = TYPICAL.replace(dtype=dtype, C=40, K=9)  # sums that leave int8
    report = assert_correct(problem)
    assert tuple(report) == PASSES
    assert {comparison.ratio for comparison in report.values()} == {0.0}


@pytest.mark.parametrize(("mode", "layout"), [*itertools.product(PADDING_MODES, LAYOUTS)])
def test_convext_is_right(mode, layout):
    assert_correct(TYPICAL.replace(padding_mode=mode, layout=layout))
