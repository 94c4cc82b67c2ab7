"""``convert`` and ``revert``: in place, with nothing lost, and a log of what was left alone."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import convext


class OwnForward(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight - self.weight.mean(), self.bias)


class OwnConvForward(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight, None)


class OnlyAName(nn.Conv2d):
    pass


class UserExt2d(convext.ConvExt2d):
    pass


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
        self.again = self.body[0]  # shared
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.head(self.again(self.body(self.stem(input))))


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules() if isinstance(module, nn.Conv2d)]


def test_example_of_the_readme() -> None:
    model = convext.convert(nn.Sequential(nn.Conv2d(3, 8, 3)))
    assert "(0): ConvExt2d(3, 8, kernel_size=(3, 3), stride=(1, 1))" in repr(model)


def test_convert_and_revert_change_nothing_but_the_class() -> None:
    model = Net().double().eval()
    model.stem.weight.requires_grad_(False)
    model.stem.remark = "kept"
    model.stem.register_buffer("counter", torch.zeros(1))
    modules = list(model.modules())
    parameters = dict(model.named_parameters())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    input = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    reference = model(input)

    assert convext.convert(model) is model
    assert kinds(model) == ["ConvExt2d"] * 3
    assert type(model.body[1]) is nn.ReLU
    torch.testing.assert_close(model(input), reference)
    for _ in range(2):
        assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
        for name, parameter in model.named_parameters():
            assert parameter is parameters[name]
        assert model.again is model.body[0]
        assert not model.stem.weight.requires_grad
        assert not model.stem.training
        assert model.stem.remark == "kept"
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(tensor, state[k]) for k, tensor in model.state_dict().items())
        assert convext.revert(model) is model
        assert kinds(model) == ["Conv2d"] * 3
    assert torch.equal(model(input), reference)


def test_an_optimizer_made_before_goes_on() -> None:
    models = [Net().double() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    optimizers = [torch.optim.Adam(model.parameters()) for model in models]
    input = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for step in range(5):
        if step == 2:
            convext.convert(models[0])
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(input).pow(2).mean().backward()
            optimizer.step()
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-8)


def test_hooks_stay() -> None:
    model = Net()
    seen: list[str] = []
    model.stem.register_forward_pre_hook(lambda *_: seen.append("before"))
    model.stem.register_forward_hook(lambda *_: seen.append("after"))
    model.stem.register_full_backward_hook(lambda *_: seen.append("backward"))
    model.stem.weight.register_hook(lambda grad: seen.append("weight"))
    convext.convert(model)(torch.randn(1, 3, 6, 6, requires_grad=True)).sum().backward()
    assert sorted(seen) == ["after", "backward", "before", "weight"]


def test_the_model_itself() -> None:
    model = nn.Conv2d(3, 4, 3)
    assert convext.convert(model) is model
    assert type(model) is convext.ConvExt2d
    assert type(convext.revert(model)) is nn.Conv2d
    assert type(convext.convert(nn.ReLU())) is nn.ReLU
    assert convext.convert(nn.Sequential()) is not None


def test_twice_is_once(caplog: pytest.LogCaptureFixture) -> None:
    model = convext.convert(Net())
    with caplog.at_level(logging.INFO, "convext"):
        convext.convert(model)
    assert [record.message for record in caplog.records] == ["0 of 0 modules changed"]
    assert kinds(model) == ["ConvExt2d"] * 3


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        ("stem", ["Conv2d", "ConvExt2d", "ConvExt2d"]),
        ("body.*", ["ConvExt2d", "Conv2d", "ConvExt2d"]),
        ("again", ["ConvExt2d", "Conv2d", "ConvExt2d"]),
        (["stem", "head"], ["Conv2d", "ConvExt2d", "Conv2d"]),
        (nn.Conv2d, ["Conv2d"] * 3),
        (nn.ReLU, ["ConvExt2d"] * 3),
        (lambda name, module: module.kernel_size == (1, 1), ["ConvExt2d", "ConvExt2d", "Conv2d"]),
        (("stem", lambda name, _: name == "head"), ["Conv2d", "ConvExt2d", "Conv2d"]),
        ((), ["ConvExt2d"] * 3),
    ],
)
def test_exclude(exclude: Any, expected: list[str]) -> None:
    assert kinds(convext.convert(Net(), exclude=exclude)) == expected


@pytest.mark.parametrize("exclude", [1, [1], [None]])
def test_exclude_of_a_wrong_type(exclude: Any) -> None:
    with pytest.raises(TypeError):
        convext.convert(Net(), exclude=exclude)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, but got list"):
        convext.convert([nn.Conv2d(1, 1, 1)])  # type: ignore[type-var]


def test_what_is_left_alone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.ModuleDict(
        {
            "plain": nn.Conv2d(1, 1, 1),
            "own_forward": OwnForward(1, 1, 1),
            "own_conv_forward": OwnConvForward(1, 1, 1),
            "name": OnlyAName(1, 1, 1),
            "user": UserExt2d(1, 1, 1),
            "excluded": nn.Conv2d(1, 1, 1),
            "one_dimension": nn.Conv1d(1, 1, 1),
            "transposed": nn.ConvTranspose2d(1, 1, 1),
        }
    )
    before = {name: type(module) for name, module in model.items()}
    with caplog.at_level(logging.INFO, "convext"):
        convext.convert(model, exclude="excluded")
    changed = [name for name, module in model.items() if type(module) is not before[name]]
    assert changed == ["plain"]
    messages = {record.message.split(" ")[0]: record for record in caplog.records}
    assert set(messages) == {"own_forward", "own_conv_forward", "name", "excluded", "1"}
    assert "its own forward; convext.patch() reaches it" in messages["own_forward"].message
    assert "its own _conv_forward" in messages["own_conv_forward"].message
    assert "it is a subclass" in messages["name"].message
    assert "it is excluded" in messages["excluded"].message
    assert messages["excluded"].levelno == logging.INFO
    assert messages["own_forward"].levelno == logging.WARNING
    assert messages["1"].message == "1 of 5 modules changed"


def test_what_revert_leaves_alone_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(convext.ConvExt2d(1, 1, 3, padding=(1, 0, 0, 1)), UserExt2d(1, 1, 1))
    with caplog.at_level(logging.INFO, "convext"):
        convext.revert(model)
    assert kinds(model) == ["ConvExt2d", "UserExt2d"]
    assert "nn.Conv2d cannot pad four sides differently" in caplog.messages[0]
    assert caplog.records[0].levelno == logging.WARNING
    assert "it is a subclass" in caplog.messages[1]


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_lazy_modules() -> None:
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyConv2d(2, 1))
    convext.convert(model)
    assert kinds(model) == ["LazyConvExt2d"] * 2
    convext.revert(model)
    assert kinds(model) == ["LazyConv2d"] * 2
    assert convext.convert(model)(torch.randn(1, 3, 6, 6)).shape == (1, 2, 4, 4)
    assert kinds(model) == ["ConvExt2d"] * 2


def test_parametrized_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    untouched = copy.deepcopy(model)
    for net in (model, untouched):
        torch.manual_seed(3)
        parametrizations.spectral_norm(net[0])
        parametrizations.weight_norm(net[1])
        parametrizations.weight_norm(net[1], "bias", dim=None)
    names = [name for name, _ in model.named_parameters()]
    input = torch.randn(2, 3, 8, 8)
    model.eval()
    untouched.eval()
    reference = model(input)
    convext.convert(model)
    assert kinds(model) == ["ParametrizedConvExt2d"] * 2
    assert isinstance(model[0], convext.ConvExt2d)
    assert [name for name, _ in model.named_parameters()] == names
    assert kinds(untouched) == ["ParametrizedConv2d"] * 2
    convext._C.reset_kernel_runs()
    torch.testing.assert_close(model(input), reference)
    assert sum(convext._C.kernel_runs().values()) == 2
    torch.testing.assert_close(copy.deepcopy(model)(input), reference)
    model(input).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    convext.revert(model)
    assert kinds(model) == ["ParametrizedConv2d"] * 2
    convext.convert(model)
    for name in ("weight", "bias"):
        parametrize.remove_parametrizations(model[1], name)
    parametrize.remove_parametrizations(model[0], "weight")
    assert kinds(model) == ["ConvExt2d"] * 2
    torch.testing.assert_close(model(input), reference)


def test_pruned_modules() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    prune.random_unstructured(model[0], "weight", amount=0.5)
    input = torch.randn(2, 3, 8, 8)
    reference = model(input)
    torch.testing.assert_close(convext.convert(model)(input), reference)
    prune.remove(model[0], "weight")
    torch.testing.assert_close(model(input), reference)


def test_converted_models_pickle_and_copy() -> None:
    model = convext.convert(Net().eval())
    input = torch.randn(2, 3, 6, 6)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kinds(other) == ["ConvExt2d"] * 3
        assert other.again is other.body[0]
        assert torch.equal(other(input), model(input))


def test_padding_modes_survive() -> None:
    for mode in ("zeros", "reflect", "replicate", "circular"):
        model = nn.Conv2d(3, 4, 3, padding=(2, 1), padding_mode=mode)
        input = torch.randn(2, 3, 6, 6)
        reference = model(input)
        torch.testing.assert_close(convext.convert(model)(input), reference)
        assert torch.equal(convext.revert(model)(input), reference)
