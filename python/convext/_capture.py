"""What the convolution layers of a model convolve in one run of it, kept by hooks."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_map

from ._ops import autocast_dtype
from .convert import own_methods
from .functional import normalised_geometry
from .testing import COMPLEX_DTYPES, FLOATING_DTYPES, Problem


def convolutions(model: nn.Module) -> dict[nn.Conv2d, str]:
    """Every convolution layer and its name, or names."""
    names: dict[nn.Conv2d, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(map(is_lazy, own)):
            raise ValueError(
                f"model must not have lazy layers that never ran, which {name or 'it'} is: "
                "call the model once before"
            )
        if isinstance(module, nn.Conv2d):
            names.setdefault(module, []).append(name or "the model itself")
    if not names:
        raise ValueError("model must have at least one torch.nn.Conv2d, but has none")
    return {module: " = ".join(places) for module, places in names.items()}


@dataclass
class Call:
    """One call of a layer: its operands with a batch dimension, and which of input, weight and
    bias ``need`` a gradient in the model. ``grad_output`` is that of its output, if one came;
    ``note`` says why not."""

    name: str
    number: int
    problem: Problem
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    need: tuple[bool, bool, bool]
    grad_output: Tensor | None = None
    note: str = ""

    @property
    def label(self) -> str:
        return label_of(self.name, self.number)


def label_of(name: str, number: int) -> str:
    """How the call of this number, counted from 1, of a layer is named."""
    return name if number == 1 else f"{name} (call {number})"


class Capture:
    """What hooks keep of one run of a model.

    Args:
        names: its convolution layers and their names.

    Attributes:
        calls: in the order of the model.
        not_compared: name of a layer or call -> why there is none of it among ``calls``.
    """

    def __init__(self, names: Mapping[nn.Conv2d, str]) -> None:
        self.names = names
        self.calls: list[Call] = []
        self.not_compared: dict[str, str] = {}
        self._counts = dict.fromkeys(names, 0)
        self._running = False

    @contextlib.contextmanager
    def hooks(self) -> Iterator[None]:
        """Hooks on the layers whose convolution is known."""
        with contextlib.ExitStack() as stack:
            for module, name in self.names.items():
                kind = parametrize.type_before_parametrizations(module)
                own = own_methods(kind) & {"forward", "_conv_forward", "__call__"}
                if own:
                    self.not_compared[name] = (
                        f"{kind.__name__} is a subclass with its own {' and '.join(sorted(own))}"
                    )
                else:
                    # The first of the forward hooks sees the output as the convolution left it.
                    handle = module.register_forward_hook(
                        self._on_call, prepend=True, with_kwargs=True
                    )
                    stack.enter_context(handle)
            self._running = True
            yield

    def finish(self) -> None:
        """Ends the forward pass: later calls, by checkpoints that compute again, do not count."""
        self._running = False
        for module, name in self.names.items():
            if self._counts[module] == 0:
                self.not_compared.setdefault(name, "the model does not call it")

    def _on_call(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        if not self._running:
            return
        self._counts[module] += 1
        name, number = self.names[module], self._counts[module]
        given = (args[0] if args else kwargs["input"], module.weight, module.bias)
        input, weight, bias = (_autocast(tensor) for tensor in given)
        reason = _unsupported(input, weight, bias)
        if reason:
            self.not_compared[label_of(name, number)] = reason
            return
        # Autograd sees to it that what it saved stays as it is; nobody does without a graph.
        kept = input.detach() if output.requires_grad else input.detach().clone()
        call = Call(
            name,
            number,
            _problem_of(module, _batched(kept), weight, bias is not None),
            _batched(kept),
            weight.detach(),
            None if bias is None else bias.detach(),
            (input.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad),
        )
        self.calls.append(call)
        if output.requires_grad:
            # Unlike the tensor's gradient, a hook's is that of the values of now, whatever is
            # written into the tensor later.
            output.register_hook(lambda grad: setattr(call, "grad_output", _batched(grad.detach())))


def _batched(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 4 else tensor.unsqueeze(0)


def _autocast(tensor: Any) -> Any:
    """An operand as a convolution on the CPU takes it in the context of now."""
    if tensor is None or tensor.device.type != "cpu":
        return tensor
    return tensor.to(autocast_dtype(tensor.dtype, "cpu"))


def _unsupported(input: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    """Why a convolution of these is not compared; empty if it is."""
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, nn.Parameter):
            return f"its {name} is a {type(tensor).__name__}, not a plain tensor"
        if tensor.device.type != "cpu":
            return f"its {name} is on {tensor.device}, and layers are compared on the CPU"
        if tensor.layout is not torch.strided:
            return f"its {name} has the layout {tensor.layout}"
        if tensor.dtype not in FLOATING_DTYPES + COMPLEX_DTYPES:
            return f"its {name} is {tensor.dtype}, which has no kernels that could be compared"
        if tensor.dtype != input.dtype:
            return f"its {name} is {tensor.dtype}, its input {input.dtype}"
    return ""


def _problem_of(module: nn.Conv2d, input: Tensor, weight: Tensor, bias: bool) -> Problem:
    stride, padding, dilation, groups = normalised_geometry(
        weight, module.stride, module.padding, module.dilation, module.groups
    )
    N, C, H, W = input.shape
    K, _, R, S = weight.shape
    return Problem(
        *(N, C, H, W, K, R, S),
        stride=stride,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,  # type: ignore[arg-type]
        groups=groups,
        padding_mode=module.padding_mode,
        dtype=input.dtype,
        bias=bias,
    )


def run(
    model: nn.Module,
    example_input: Any,
    loss: Callable[[Any], Tensor] | None,
    capture: Capture,
) -> None:
    """Runs the model, forward and, where gradients are enabled, backward."""
    inputs = tree_map(
        lambda value: value.clone() if isinstance(value, Tensor) else value,
        dict(example_input) if isinstance(example_input, Mapping) else example_input,
    )
    # What torch.compile made would pass by the hooks.
    compiled = "torch._dynamo" in sys.modules
    eager: Any = torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
    with eager, capture.hooks():
        if isinstance(inputs, Tensor):
            output = model(inputs)
        elif isinstance(inputs, tuple):
            output = model(*inputs)
        else:
            output = model(**inputs)
        capture.finish()
        if torch.is_grad_enabled():
            scalar = _weighted_sum(output) if loss is None else _checked(loss(output))
            leaves = [
                tensor
                for tensor in (*model.parameters(), *_tensors(inputs))
                if tensor.requires_grad
            ]
            if scalar.requires_grad and leaves:  # not backward(): that adds to the gradients
                torch.autograd.grad(scalar, leaves, allow_unused=True)
    for call in capture.calls:
        if call.grad_output is None:
            call.note = "forward only: no gradient reaches its output"


def _checked(scalar: Any) -> Tensor:
    if not isinstance(scalar, Tensor):
        raise TypeError(f"loss must return a Tensor, but returned {type(scalar).__name__}")
    if scalar.numel() != 1:
        raise ValueError(
            f"loss must return one number, but returned a tensor of shape {tuple(scalar.shape)}"
        )
    return scalar


def _weighted_sum(output: Any) -> Tensor:
    """The sum of all tensors that have a gradient, times normally distributed numbers."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(())
    for tensor in _tensors(output):
        if tensor.requires_grad and not tensor.is_meta:
            real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
            factors = torch.empty_like(real, requires_grad=False)  # laid out as the output is
            factors.copy_(torch.randn(real.shape, generator=generator))
            total = total + (real * factors).sum(dtype=torch.float32).cpu()
    return total


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested containers and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from _tensors(vars(value))


@contextlib.contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Puts back the model's buffers and the states of random number generators."""
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    values = [
        (buffer, buffer.detach().clone())
        for _, found in buffers
        for buffer in found.values()
        if buffer is not None and not buffer.is_meta
    ]
    cuda = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=cuda):
            yield
    finally:
        random.setstate(state)
        for module, found in buffers:
            module._buffers.clear()
            module._buffers.update(found)
        with torch.inference_mode():  # which alone may write to what was made in it
            for buffer, value in values:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
