"""Problems and their generators: the machinery that judges the kernels, judged itself."""

import doctest
import itertools

import pytest
import torch
from judging import TYPICAL, sequential

import convext.testing
from convext.explaining import layout_of
from convext.testing import (
    INTEGER_DTYPES,
    LAYOUTS,
    PADDING_MODES,
    PASSES,
    Problem,
    around,
    assert_correct,
    compare,
    edge_problems,
    problems_around,
    random_problems,
    thinned,
)

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
