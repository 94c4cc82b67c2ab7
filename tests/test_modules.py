"""``ConvExt2d`` and ``LazyConvExt2d`` in the places of ``nn.Conv2d`` and ``nn.LazyConv2d``."""

from __future__ import annotations

import copy
import io
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import convext

ARGUMENTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no_bias": {"bias": False},
    "strided": {"stride": (2, 1), "padding": (1, 0)},
    "dilated_groups": {"dilation": 2, "groups": 2, "padding": 2},
    "same": {"padding": "same"},
    "valid": {"padding": "valid"},
    "reflect": {"padding": 2, "padding_mode": "reflect"},
    "replicate": {"padding": (1, 2), "padding_mode": "replicate"},
    "circular_same": {"padding": "same", "padding_mode": "circular"},
    "double": {"dtype": torch.float64},
}
arguments = pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)


def pair(
    kernel_size: Any = (3, 2), channels: tuple[int, int] = (4, 6), **arguments: Any
) -> tuple[convext.ConvExt2d, nn.Conv2d]:
    torch.manual_seed(1)
    ours = convext.ConvExt2d(*channels, kernel_size, **arguments)
    torch.manual_seed(1)
    return ours, nn.Conv2d(*channels, kernel_size, **arguments)


@arguments
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_weights_same_results(arguments: dict[str, Any]) -> None:
    ours, theirs = pair(**arguments)
    after = torch.rand(1)
    torch.manual_seed(1)
    nn.Conv2d(4, 6, (3, 2), **arguments)
    assert torch.equal(after, torch.rand(1)), "the same random numbers were drawn"

    assert isinstance(ours, nn.Conv2d)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert repr(ours) == repr(theirs).replace("Conv2d", "ConvExt2d")

    for size in ((2, 4, 8, 9), (4, 8, 9)):
        input = torch.randn(size, dtype=arguments.get("dtype"), requires_grad=True)
        output, reference = ours(input), theirs(input)
        torch.testing.assert_close(output, reference)
        grad_output = torch.randn_like(output)
        grads = torch.autograd.grad(output, [input, *ours.parameters()], grad_output)
        references = torch.autograd.grad(reference, [input, *theirs.parameters()], grad_output)
        torch.testing.assert_close(grads, references)


def test_padding_modes_make_no_padded_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pair(padding=1, padding_mode="circular")
    input = torch.randn(2, 4, 8, 9)
    reference = theirs(input)

    def refuse(*args: Any, **kwargs: Any) -> Tensor:
        raise AssertionError("the input was padded")

    monkeypatch.setattr(F, "pad", refuse)
    torch.testing.assert_close(ours(input), reference)


def test_state_dict_goes_both_ways() -> None:
    ours, theirs = pair()
    with torch.no_grad():
        ours.weight.add_(1)
    assert theirs.load_state_dict(ours.state_dict()) == ([], [])
    assert torch.equal(theirs.weight, ours.weight)
    assert ours.load_state_dict(nn.Conv2d(4, 6, (3, 2)).state_dict()) == ([], [])
    metadata = ours.state_dict()._metadata  # type: ignore[attr-defined]
    assert metadata == theirs.state_dict()._metadata  # type: ignore[attr-defined]


def test_four_sided_padding() -> None:
    ours = convext.ConvExt2d(3, 4, 3, padding=(1, 2, 0, 3), padding_mode="replicate")
    input = torch.randn(2, 3, 6, 5)
    padded = F.pad(input, (1, 2, 0, 3), mode="replicate")
    torch.testing.assert_close(ours(input), F.conv2d(padded, ours.weight, ours.bias))
    assert "padding=(1, 2, 0, 3)" in repr(ours)
    assert list(ours._reversed_padding_repeated_twice) == [1, 2, 0, 3]
    assert torch.equal(copy.deepcopy(ours)(input), ours(input))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kernel_size": 0}, "kernel_size must be at least 1, but got 0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be an integer or 2 integers"),
        ({"kernel_size": (3,)}, "kernel_size must be an integer or 2 integers, but got (3,)"),
        ({"stride": 0}, "stride must be at least 1, but got 0"),
        ({"stride": (1, -1)}, "stride must be at least 1, but got (1, -1)"),
        ({"stride": (1, 1, 1)}, "stride must be an integer or 2 integers"),
        ({"padding": -1}, "padding must be at least 0, but got -1"),
        ({"padding": (1, 1, 1)}, "padding must be an integer, or 2, or 4 as"),
        ({"dilation": 0}, "dilation must be at least 1, but got 0"),
    ],
)
def test_constructor_refuses_what_cannot_work(arguments: dict[str, Any], words: str) -> None:
    settings = {"kernel_size": 3, **arguments}
    nn.Conv2d(3, 4, **settings)  # torch finds out at the first call
    with pytest.raises(ValueError, match=re.escape(words)):
        convext.ConvExt2d(3, 4, **settings)
    with pytest.raises(ValueError, match=re.escape(words)):
        convext.LazyConvExt2d(4, **settings)


@pytest.mark.parametrize("name", ["kernel_size", "stride", "padding", "dilation"])
@pytest.mark.parametrize("value", [1.5, (1, 2.0), True, None])
def test_constructor_wants_integers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be an integer"):
        convext.ConvExt2d(3, 4, **{"kernel_size": 3, name: value})


@pytest.mark.parametrize(
    "arguments",
    [
        {"groups": 0},
        {"groups": 2},
        {"groups": 3},
        {"padding": "full"},
        {"padding": "same", "stride": 2},
        {"padding_mode": "mirror"},
    ],
)
def test_constructor_errors_are_torchs(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"groups|padding") as theirs:
        nn.Conv2d(3, 4, 3, **arguments)
    with pytest.raises(ValueError, match=r"groups|padding") as ours:
        convext.ConvExt2d(3, 4, 3, **arguments)
    assert str(ours.value) == str(theirs.value)


def test_numpy_and_length_one_arguments() -> None:
    ours, theirs = pair(
        kernel_size=np.int64(3), stride=(2,), padding=[1], dilation=(np.int64(1), 1)
    )
    input = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(ours(input), theirs(input))


def test_devices_dtypes_and_formats() -> None:
    ours, _ = pair()
    input = torch.randn(2, 4, 8, 8)
    assert ours.double()(input.double()).dtype is torch.float64
    assert ours.bfloat16()(input.bfloat16()).dtype is torch.bfloat16
    last = ours.float().to(memory_format=torch.channels_last)
    assert last(input).is_contiguous(memory_format=torch.channels_last)
    converted = nn.utils.convert_conv2d_weight_memory_format(
        nn.Sequential(convext.ConvExt2d(4, 6, 3)), torch.channels_last
    )
    assert converted[0].weight.is_contiguous(memory_format=torch.channels_last)
    with torch.device("meta"):
        meta = convext.ConvExt2d(4, 6, 3)
    assert meta(torch.empty(2, 4, 8, 8, device="meta")).shape == (2, 6, 6, 6)
    assert nn.utils.skip_init(convext.ConvExt2d, 4, 6, 3).weight.shape == (6, 4, 3, 3)


# --------------------------------------------------------------------------------------------------
# Copies


@arguments
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_pickle_deepcopy_and_save(arguments: dict[str, Any]) -> None:
    ours, _ = pair(**arguments)
    ours.remark = "kept"
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    input = torch.randn(2, 4, 8, 9, dtype=arguments.get("dtype"))
    copies = (
        copy.deepcopy(ours),
        pickle.loads(pickle.dumps(ours)),
        torch.load(file, weights_only=False),
    )
    for other in copies:
        assert type(other) is convext.ConvExt2d
        assert repr(other) == repr(ours)
        assert other.remark == "kept"
        assert torch.equal(other(input), ours(input))
        assert other.weight is not ours.weight


def test_state_from_before_padding_modes() -> None:
    ours, _ = pair()
    state = dict(ours.__dict__)
    del state["padding_mode"]
    revived = convext.ConvExt2d.__new__(convext.ConvExt2d)
    revived.__setstate__(state)
    assert revived.padding_mode == "zeros"
    assert revived(torch.randn(2, 4, 8, 8)).shape == (2, 6, 6, 7)


# --------------------------------------------------------------------------------------------------
# Other people's tools


def test_parametrizations() -> None:
    input = torch.randn(2, 4, 8, 9)
    for register in (parametrizations.weight_norm, parametrizations.spectral_norm):
        ours, theirs = pair()
        torch.manual_seed(2)
        register(ours)
        torch.manual_seed(2)
        register(theirs)
        torch.testing.assert_close(ours(input), theirs(input))
        ours(input).sum().backward()
        assert all(parameter.grad is not None for parameter in ours.parameters())
        parametrize.remove_parametrizations(ours, "weight")
        assert type(ours) is convext.ConvExt2d


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weight_norm_by_hook() -> None:
    ours, theirs = (nn.utils.weight_norm(module) for module in pair())
    input = torch.randn(2, 4, 8, 9)
    with torch.no_grad():
        ours.weight_g.mul_(3)
        theirs.weight_g.mul_(3)
    torch.testing.assert_close(ours(input), theirs(input))


def test_pruning() -> None:
    ours, theirs = pair()
    for module in (ours, theirs):
        prune.l1_unstructured(module, "weight", amount=0.5)
    input = torch.randn(2, 4, 8, 9)
    torch.testing.assert_close(ours(input), theirs(input))
    assert int((ours.weight == 0).sum()) == ours.weight.numel() // 2
    ours(input).sum().backward()
    assert bool((ours.weight_orig.grad[ours.weight_mask == 0] == 0).all())


def test_functional_call_and_swapped_weights() -> None:
    ours, _ = pair()
    input = torch.randn(2, 4, 8, 9)
    zeros = {name: torch.zeros_like(p) for name, p in ours.named_parameters()}
    assert not torch.func.functional_call(ours, zeros, (input,)).any()
    before = ours(input)
    with torch.no_grad():
        ours.weight.mul_(2)
        ours.bias.mul_(2)
    torch.testing.assert_close(ours(input), 2 * before)
    ours.weight = nn.Parameter(torch.zeros_like(ours.weight))
    ours.bias.data = torch.zeros(6)
    assert not ours(input).any()


def test_fusing_batch_norm() -> None:
    model = nn.Sequential(convext.ConvExt2d(4, 6, 3, padding=1), nn.BatchNorm2d(6))
    input = torch.randn(8, 4, 6, 6)
    model(input)
    model.eval()
    fused = nn.utils.fusion.fuse_conv_bn_eval(*model)
    assert type(fused) is convext.ConvExt2d
    torch.testing.assert_close(fused(input), model(input))


def test_hooks() -> None:
    ours, _ = pair()
    seen: list[str] = []
    ours.register_forward_pre_hook(lambda *_: seen.append("before"))
    ours.register_forward_hook(lambda *_: seen.append("after"))
    ours.register_full_backward_hook(lambda *_: seen.append("backward"))
    ours(torch.randn(2, 4, 8, 9, requires_grad=True)).sum().backward()
    assert seen == ["before", "after", "backward"]


# --------------------------------------------------------------------------------------------------
# Lazy modules


@arguments
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature", "ignore:Using padding='same'")
def test_lazy_module_becomes_what_it_stands_for(arguments: dict[str, Any]) -> None:
    settings = {"kernel_size": (3, 2), **arguments}
    lazy = convext.LazyConvExt2d(6, **settings)
    assert isinstance(lazy, nn.LazyConv2d)
    assert lazy.has_uninitialized_params()
    reference = nn.LazyConv2d(6, **settings)
    assert repr(lazy) == repr(reference).replace("Conv2d", "ConvExt2d")
    input = torch.randn(2, 4, 8, 9, dtype=arguments.get("dtype"))
    torch.manual_seed(1)
    output = lazy(input)
    torch.manual_seed(1)
    torch.testing.assert_close(output, reference(input))
    assert type(lazy) is convext.ConvExt2d
    assert repr(lazy) == repr(reference).replace("Conv2d", "ConvExt2d")
    assert copy.deepcopy(lazy)(input).equal(output)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_module_loads_state() -> None:
    lazy = convext.LazyConvExt2d(6, 3, padding=(1, 0, 2, 1))
    state = convext.ConvExt2d(4, 6, 3).state_dict()
    lazy.load_state_dict(state)
    assert torch.equal(lazy.weight, state["weight"])
    assert lazy(torch.randn(2, 4, 8, 9)).shape == (2, 6, 9, 8)
