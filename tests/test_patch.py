"""``patch``: every ``F.conv2d`` of a block, and no other."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import convext


class Standardised(nn.Conv2d):
    """A convolution with a forward of its own, as weight standardisation has it."""

    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(input, weight, self.bias, self.stride, padding=1)


def native_calls() -> int:
    runs = sum(convext._C.kernel_runs().values())
    convext._C.reset_kernel_runs()
    return runs


@pytest.fixture(autouse=True)
def _count_from_zero() -> None:
    convext._C.reset_kernel_runs()


X, W, B = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3), torch.randn(4)


def test_every_way_of_calling() -> None:
    from torch.nn.functional import conv2d as by_name

    calls = [
        lambda: F.conv2d(X, W, B, 2, 1),
        lambda: F.conv2d(input=X, weight=W, bias=B, stride=(2, 2), padding=[1], groups=1),
        lambda: torch.conv2d(X, W, B, padding="same"),
        lambda: by_name(X, W),
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")(X),
        lambda: Standardised(3, 4, 3)(X),
        lambda: convext.conv2d(X, W),
        lambda: convext.ConvExt2d(3, 4, 3)(X),
    ]
    for call in calls:
        torch.manual_seed(0)
        reference = call()
        native_calls()
        torch.manual_seed(0)
        with convext.patch():
            output = call()
        assert native_calls() == 1
        torch.testing.assert_close(output, reference)
    F.conv2d(X, W)
    assert native_calls() == 0


def test_gradients_after_the_block() -> None:
    module, input = Standardised(3, 4, 3), X.clone().requires_grad_()
    references = torch.autograd.grad(module(input).sin().sum(), [input, *module.parameters()])
    with convext.patch():
        output = module(input)
    native_calls()
    grads = torch.autograd.grad(output.sin().sum(), [input, *module.parameters()])
    assert native_calls() == 3, "input, weight and bias"
    torch.testing.assert_close(grads, references)


def test_nesting_and_exceptions() -> None:
    with convext.patch():
        with convext.patch():
            F.conv2d(X, W)
            assert native_calls() == 1
        F.conv2d(X, W)
        assert native_calls() == 1
    with pytest.raises(ZeroDivisionError), convext.patch():
        raise ZeroDivisionError
    F.conv2d(X, W)
    assert native_calls() == 0


def test_errors_are_those_of_a_convolution() -> None:
    with convext.patch(), pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        F.conv2d(X, torch.randn(4, 3, 9, 9))


def test_other_threads_are_not_touched() -> None:
    with convext.patch():
        thread = threading.Thread(target=lambda: F.conv2d(X, W))
        thread.start()
        thread.join()
    assert native_calls() == 0


def test_with_no_grad_autocast_and_transforms() -> None:
    with convext.patch():
        with torch.no_grad():
            assert not F.conv2d(X, W.clone().requires_grad_()).requires_grad
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.conv2d(X, W).dtype is torch.bfloat16
        assert native_calls() == 2
        mapped = torch.vmap(F.conv2d, (0, None))(X, W)
        assert native_calls() == 1
        tangent = torch.func.jvp(lambda w: F.conv2d(X, w), (W,), (W.cos(),))[1]
    torch.testing.assert_close(mapped, F.conv2d(X, W))
    torch.testing.assert_close(tangent, F.conv2d(X, W.cos()))


def test_compiled_inside_and_around() -> None:
    module = Standardised(3, 4, 3)
    reference = module(X)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def inside(input: Tensor) -> Tensor:
        with convext.patch():
            return module(input)

    native_calls()
    torch.testing.assert_close(inside(X), reference)
    assert native_calls() == 1
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    with convext.patch():
        torch.testing.assert_close(compiled(X), reference)
        assert native_calls() == 1
    torch.testing.assert_close(compiled(X), reference)
    assert native_calls() == 0


# --------------------------------------------------------------------------------------------------
# convext.conv2d is itself a function that others may override, as torch's are


class Recorder(torch.overrides.TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[object] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Overriding(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is convext.conv2d:
            return "overridden", kwargs
        return super().__torch_function__(func, types, args, kwargs)


def test_modes_and_subclasses_see_the_function() -> None:
    with Recorder() as recorder:
        convext.conv2d(X, W, padding=1)
    assert recorder.seen[0] is convext.conv2d
    for args in ((X.as_subclass(Overriding), W), (X, W.as_subclass(Overriding))):
        word, kwargs = convext.conv2d(*args, padding=1, padding_mode="reflect")
        assert word == "overridden"
        assert kwargs["padding_mode"] == "reflect"
    with convext.patch():
        assert F.conv2d(X.as_subclass(Overriding), W)[0] == "overridden"
