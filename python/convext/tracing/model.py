"""A model's inference, layer by layer: shapes, statistics, time, planned kernels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .convolution import problem_of
from .plans import planned
from .setting import Setting

REPEATS = 3


@dataclasses.dataclass
class LayerTrace:
    """One call of one layer.

    Attributes:
        name, type: in the model, and of its class.
        input_size, output_size: with the batch.
        setting: the geometry, of a convolution; None of other layers.
        mean, std, minimum, maximum: of the output, in float64; None where it is not floating-point
            or empty.
        milliseconds: the shortest of three runs, without anything that ran inside other layers.
        plans: pass -> kernel and so on, as in :class:`ConvTrace`; of a convolution that is not a
            ``ConvExt2d`` what it would be as one.
    """

    name: str
    type: str
    input_size: list[int]
    output_size: list[int]
    setting: Setting | None
    mean: float | None
    std: float | None
    minimum: float | None
    maximum: float | None
    milliseconds: float
    plans: dict[str, dict[str, Any]] | None

    @property
    def padded(self) -> str:
        """Height x width of the padded input, and how it is padded; ``-`` without padding."""
        if self.setting is None or not any(self.setting.pad):
            return "-"
        size = "x".join(map(str, self.setting.padded_size))
        mode = self.setting.padding_mode
        return size if mode == "zeros" else f"{size} {mode}"

    @property
    def kernel(self) -> str:
        """The kernel's size, stride, and dilation and groups if there are; ``-`` without one."""
        s = self.setting
        if s is None:
            return "-"
        text = f"{s.R}x{s.S} stride {s.stride[0]}"
        if s.stride[0] != s.stride[1]:
            text += f"x{s.stride[1]}"
        if s.dilation != (1, 1):
            text += f" dilation {s.dilation[0]}x{s.dilation[1]}"
        return text if s.groups == 1 else f"{text} groups {s.groups}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, fit for JSON."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        setting = None if self.setting is None else self.setting.to_dict()
        return values | {"setting": setting, "padded": self.padded, "kernel": self.kernel}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a classifier made of one image.

    Attributes:
        image: its rows, from 0 (light) to 1.
        label: the right class.
        shares: the probability of each class.
        guess: the most probable class.
    """

    image: list[list[float]]
    label: int
    shares: list[float]
    guess: int

    @classmethod
    def run(cls, model: nn.Module, image: Tensor, label: int) -> Prediction:
        """Of an image (1, 1, H, W), from the model's logits (1, classes)."""
        with _evaluating(model), torch.no_grad():
            shares = model(image)[0].double().softmax(0)
        plane = image[0, 0].double()
        shades = (plane - plane.min()) / (plane.max() - plane.min())
        return cls(shades.tolist(), label, shares.tolist(), int(shares.argmax()))


@dataclasses.dataclass(frozen=True)
class LearningCurve:
    """How a model was trained: the loss of every step; of every epoch the mean loss and the share
    of right answers to what was not trained with."""

    steps: list[float]
    losses: list[float]
    accuracies: list[float]


@dataclasses.dataclass
class ModelTrace:
    """A model's inference on one batch: its layers in the order in which they ran.

    Attributes:
        name: the model's class.
        input_size: of the batch.
        layers: every call of every module that has no modules of its own.
        output: what the model returned.
        prediction, training: what ``convext trace --predict`` and ``--train`` put on the page too.
    """

    name: str
    input_size: list[int]
    layers: list[LayerTrace]
    output: Any
    prediction: Prediction | None = None
    training: LearningCurve | None = None

    @classmethod
    def run(cls, model: nn.Module, input: Tensor) -> ModelTrace:
        """Runs a model three times, without gradients and in evaluation mode (modules are put back
        into the mode they had), and keeps the shortest time of every layer.

        Args:
            model: any module whose ``forward`` takes one tensor.
            input: a batch for it.
        """
        runs = []
        with _evaluating(model), torch.no_grad():
            for _ in range(REPEATS):
                recorder = _Recorder(model)
                try:
                    output = model(input)
                finally:
                    recorder.remove()
                runs.append(recorder.layers)
        layers = runs[-1]
        for index, layer in enumerate(layers):
            layer.milliseconds = min(
                run[index].milliseconds for run in runs if len(run) == len(layers)
            )
        return cls(type(model).__name__, list(input.shape), layers, output)

    @property
    def convolutions(self) -> list[LayerTrace]:
        """The layers that are convolutions."""
        return [layer for layer in self.layers if layer.setting is not None]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the output, fit for JSON."""
        return {
            "kind": "model",
            "name": self.name,
            "input_size": self.input_size,
            "layers": [layer.to_dict() for layer in self.layers],
            "prediction": self.prediction and dataclasses.asdict(self.prediction),
            "training": self.training and dataclasses.asdict(self.training),
        }


def layer_input(model: nn.Module, input: Tensor, name: str) -> tuple[nn.Conv2d, Tensor]:
    """A convolution of a model, and what its first call in the model's inference convolved.

    Args:
        model: any module whose ``forward`` takes one tensor.
        input: a batch for it.
        name: of the convolution, as ``named_modules`` has it.

    Raises:
        ValueError: the model has no convolution of this name, or does not call it.
    """
    layers = {
        place: module
        for place, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Conv2d)
    }
    if name not in layers:
        names = ", ".join(map(repr, layers)) or "it has none"
        raise ValueError(f"layer must be a convolution of the model ({names}), but got {name!r}")
    inputs: list[Tensor] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not inputs:  # a copy, for the model may write to it later
            inputs.append((args[0] if args else kwargs["input"]).detach().clone())

    handle = layers[name].register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with _evaluating(model), torch.no_grad():
            model(input)
    finally:
        handle.remove()
    if not inputs:
        raise ValueError(f"layer must be one that the model calls, but got {name!r}")
    return layers[name], inputs[0]


class _Recorder:
    """Hooks on the leaves of a model, and what they saw."""

    def __init__(self, model: nn.Module) -> None:
        self.layers: list[LayerTrace] = []
        self.starts: list[float] = []
        self.handles: list[Any] = []
        for name, module in model.named_modules():
            if not any(True for _ in module.children()):
                self.handles.append(module.register_forward_pre_hook(self._before))
                self.handles.append(module.register_forward_hook(self._after(name)))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.starts.append(time.perf_counter())

    def _after(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            milliseconds = (time.perf_counter() - self.starts.pop()) * 1e3
            if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                self.layers.append(_layer(name, module, inputs[0], output, milliseconds))

        return hook


def _layer(
    name: str, module: nn.Module, input: Tensor, output: Tensor, milliseconds: float
) -> LayerTrace:
    setting = plans = None
    if isinstance(module, nn.Conv2d):
        setting = Setting.of_layer(module, *input.shape[-2:])
        if not input.is_complex():
            batch = input if input.dim() == 4 else input.unsqueeze(0)
            plans = planned(problem_of(setting, batch, module.weight))
    return LayerTrace(
        name or type(module).__name__,
        type(module).__name__,
        list(input.shape),
        list(output.shape),
        setting,
        *_statistics(output),
        milliseconds,
        plans,
    )


def _statistics(output: Tensor) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, population standard deviation, least and largest value."""
    if not output.dtype.is_floating_point or output.numel() == 0:
        return None, None, None, None
    values = output.detach().double()
    return (
        float(values.mean()),
        float(values.std(correction=0)),
        float(values.min()),
        float(values.max()),
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
