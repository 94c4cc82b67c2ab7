"""torch's own description of ``nn.Conv2d`` and ``nn.LazyConv2d`` (ModuleInfo), with convext's
modules in their place."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.common_modules import ModuleInfo, ModuleInput, module_db

import convext

OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: convext.ConvExt2d,
    nn.LazyConv2d: convext.LazyConvExt2d,
}
INFOS = [info for info in module_db if info.module_cls in OURS]

CASES = [
    pytest.param(info, dtype, training, id=f"{info.name}-{dtype}-{'train' if training else 'eval'}")
    for info in INFOS
    for dtype in sorted(info.dtypes, key=str)
    for training in (True, False)
]
cases = pytest.mark.parametrize(("info", "dtype", "training"), CASES)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The inputs are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def inputs(
    info: ModuleInfo, dtype: torch.dtype, training: bool, requires_grad: bool = False
) -> list[ModuleInput]:
    found = info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training
    )
    assert len(found) >= 4
    return list(found)


def build(cls: type[nn.Module], case: ModuleInput, dtype: torch.dtype, training: bool) -> nn.Module:
    torch.manual_seed(0)
    arguments = case.constructor_input
    module = cls(*arguments.args, **arguments.kwargs, device="cpu", dtype=dtype)
    return module.train(training)


def pair(
    info: ModuleInfo, case: ModuleInput, dtype: torch.dtype, training: bool
) -> tuple[nn.Module, nn.Module]:
    """torch's module and ours, built from one seed and, if lazy, run once."""
    pair = []
    for cls in (info.module_cls, OURS[info.module_cls]):
        module = build(cls, case, dtype, training)
        torch.manual_seed(1)  # a lazy module draws its weights now
        with torch.no_grad():
            module(*case.forward_input.args, **case.forward_input.kwargs)
        pair.append(module)
    return pair[0], pair[1]


def step(module: nn.Module, case: ModuleInput) -> list[Tensor]:
    """The output, the gradients of the inputs and those of the parameters."""
    args = [a.detach().clone().requires_grad_() for a in case.forward_input.args]
    output = module(*args, **case.forward_input.kwargs)
    wanted = [*args, *module.parameters()]
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), wanted)]


def test_both_modules_are_described() -> None:
    assert {info.module_cls for info in INFOS} == set(OURS)


@cases
def test_forward_and_gradients(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    for case in inputs(info, dtype, training):
        theirs, ours = pair(info, case, dtype, training)
        for expected, actual in zip(step(theirs, case), step(ours, case), strict=True):
            torch.testing.assert_close(actual, expected)
        if case.reference_fn is not None:  # unbatched against batched
            expected = case.reference_fn(ours, *case.forward_input.args)
            actual = ours(*case.forward_input.args)
            assert torch.equal(actual, expected)


@cases
def test_factory_arguments_and_repr(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    for case in inputs(info, dtype, training):
        theirs, ours = pair(info, case, dtype, training)
        assert type(ours) is convext.ConvExt2d
        assert isinstance(ours, nn.Conv2d)
        assert repr(ours) == repr(theirs).replace("Conv2d", "ConvExt2d")
        assert ours.training is training
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert one.dtype == dtype
            assert torch.equal(one, other)


@cases
def test_state_dict(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    for case in inputs(info, dtype, training):
        theirs, ours = pair(info, case, dtype, training)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for source, target in ((theirs, ours), (ours, theirs)):
            with torch.no_grad():
                for parameter in target.parameters():
                    parameter.zero_()
            target.load_state_dict(source.state_dict())
            for one, other in zip(source.parameters(), target.parameters(), strict=True):
                assert torch.equal(one, other)


@cases
def test_pickle_and_deepcopy(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    for case in inputs(info, dtype, training):
        _, ours = pair(info, case, dtype, training)
        expected = step(ours, case)
        for copied in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
            assert type(copied) is type(ours)
            assert all(map(torch.equal, step(copied, case), expected))
        unrun = build(OURS[info.module_cls], case, dtype, training)
        assert repr(pickle.loads(pickle.dumps(unrun))) == repr(unrun)


@cases
def test_memory_formats(info: ModuleInfo, dtype: torch.dtype, training: bool) -> None:
    """Every format of input and module: the output's is torch's, the values do not change."""
    assert info.module_memformat_affects_out
    formats = [torch.contiguous_format, torch.channels_last]
    for case in inputs(info, dtype, training):
        (input,) = case.forward_input.args
        if input.dim() != 4:
            continue
        theirs, ours = pair(info, case, dtype, training)
        expected = ours(input)
        for input_format in formats:
            for module_format in formats:
                x = input.clone().contiguous(memory_format=input_format)
                actual = ours.to(memory_format=module_format)(x)
                assert actual.stride() == theirs.to(memory_format=module_format)(x).stride()
                torch.testing.assert_close(actual, expected)


@cases
def test_noncontiguous_inputs_and_gradients(
    info: ModuleInfo, dtype: torch.dtype, training: bool
) -> None:
    for case in inputs(info, dtype, training):
        _, ours = pair(info, case, dtype, training)
        (input,) = case.forward_input.args
        sliced = torch.stack([input, torch.full_like(input, float("nan"))], dim=-1)[..., 0]
        assert not sliced.is_contiguous()
        for x in (input, sliced):
            leaf = x.detach().requires_grad_()
            output = ours(leaf)
            gradient = torch.ones(output.numel() * 2, dtype=dtype)[::2].view(output.shape)
            results = [output, *torch.autograd.grad(output, [leaf, *ours.parameters()], gradient)]
            if x is input:
                expected = results
            else:
                for actual, wanted in zip(results, expected, strict=True):
                    torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("info", INFOS, ids=[info.name for info in INFOS])
def test_gradcheck_and_gradgradcheck(info: ModuleInfo, training: bool) -> None:
    assert info.supports_gradgrad
    for case in inputs(info, torch.float64, training):
        _, ours = pair(info, case, torch.float64, training)
        parameters = dict(ours.named_parameters())
        (input,) = case.forward_input.args

        def function(
            input: Tensor, *values: Tensor, module: Any = ours, names: Any = tuple(parameters)
        ) -> Tensor:
            state = dict(zip(names, values, strict=True))
            return torch.func.functional_call(module, state, (input,))

        leaves = [input.detach().clone().requires_grad_(), *parameters.values()]
        options = {"nondet_tol": 0.0, "fast_mode": True}
        assert torch.autograd.gradcheck(function, leaves, check_forward_ad=True, **options)
        assert torch.autograd.gradgradcheck(function, leaves, check_fwd_over_rev=True, **options)
