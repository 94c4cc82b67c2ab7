"""``convext.compare``: a model's convolutions on convext and on torch, on the model's own data.

The model runs once, with hooks that keep what each convolution layer convolved and the gradient
that came back to its output. Afterwards the layers are taken one at a time: both libraries run the
convolution on these operands, both results are held to float64, and both are timed.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.overrides import _pop_mode_temporarily

from . import _C, _library
from ._capture import Call, Capture, as_before, convolutions, run
from ._comparison import Comparison, Layer, PassComparison, Timing
from .bench.environment import LoadWatch
from .bench.timing import Effort, Spread, time_pairs
from .explaining import cpu_pass, layout_of
from .functional import conv2d
from .testing import NATIVE_PASSES, Reference, Tensors
from .testing import compare as hold_to_reference
from .testing._compare import Accuracy, accuracy_of

__all__ = ["Comparison", "compare"]

# Shorter, what other processes did meanwhile cannot be told from the system's ticks.
SHORTEST_WATCH_S = 0.3


def compare(
    model: nn.Module,
    example_input: Tensor | tuple[Any, ...] | Mapping[str, Any],
    *,
    loss: Callable[[Any], Tensor] | None = None,
    seconds: float = 0.1,
) -> Comparison:
    """Compares convext with torch, layer by layer, on what a model's convolutions really convolve.

    The model runs once on ``example_input``, forward and backward, as it is: in its training or
    evaluation mode, with its ``nn.Conv2d`` or ``ConvExt2d``. Then, for every call of a convolution
    layer, :func:`convext.conv2d` and what ``nn.Conv2d`` does run on the same operands:

    - Their results of every pass are compared with float64, and convext's are held to the bound
      per element that :func:`convext.testing.error_bound` gives, ``c eps conv(|input|, |weight|)``.
    - Both are timed with the current number of threads, in turn, without the rest of the model,
      on operands that the last call may have left in the cache: forward, without recording a
      graph; and backward, those gradients that the model needs, through autograd. Medians and
      quartiles; the report says where these overlap, and whether the machine was busy otherwise.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    >>> comparison = convext.compare(model, torch.randn(1, 3, 32, 32))
    >>> comparison                      # printed, a row for each layer, and totals
    <convext.Comparison: 1 layer, all within the bounds>
    >>> print(comparison.layers[0])     # a row for each pass, with its kernel
    0: input 1x3x32x32 (contiguous), weight 8x3x3x3 (contiguous), float32 ...
    >>> comparison.ok
    True

    Afterwards the model is as it was: gradients, buffers (BatchNorm's running statistics, say),
    hooks and modes, and so are the states of the random number generators of torch and Python;
    also when something raises. ``example_input`` is not written to either.

    Under :func:`torch.no_grad` or :func:`torch.inference_mode` only forward passes are compared;
    so they are in layers that no gradient reaches, each of which says so. Under
    :func:`torch.autocast` (around this call or in the model) a convolution is compared in the
    context's dtype, on operands that have been cast; the casts are not timed.

    A layer is left out, with the reason in :attr:`Comparison.not_compared`, if the model does not
    call it, if its class is a subclass with a ``forward`` of its own, if its tensors are not plain
    ones on the CPU or of a dtype without kernels, or if they hold NaN or infinity. Where convext
    raises on what torch took, the layer counts as wrong.

    Where a result is beyond its dtype's range with torch as well, infinite or NaN, it is not held
    to the bound; the report says so.

    The bound counts relative roundings. Gradients so small that their products underflow, below
    about 1e-38 in float32, exceed it, with torch as with convext: scale the ``loss`` then.

    Memory: the inputs of the convolutions, as in a training step, and the gradients of their
    outputs are held until their layer's turn; and the float64 references of one layer.

    Args:
        model: any module with at least one ``nn.Conv2d`` (``ConvExt2d`` is one).
        example_input: a tensor, or a tuple of positional arguments, or a mapping of named ones, on
            the model's device. float32, float64, bfloat16, float16 and complex are compared.
        loss: makes a scalar tensor of the model's output, to start the backward pass from. By
            default it is the sum of all its tensors times numbers drawn from the normal
            distribution, always the same, so that no gradient vanishes by chance.
        seconds: how long each layer's forward and backward pass are timed, about; at least two
            repetitions.

    Returns:
        A :class:`convext.Comparison`: ``ok``, ``layers``, ``totals``, ``str()``, ``to_dict()``,
        ``save_html()``.

    Raises:
        TypeError: an argument is of the wrong type, or ``loss`` returns no tensor.
        ValueError: ``model`` has no convolution layer, or lazy ones that never ran; ``seconds`` is
            not positive; ``loss`` returns more than one number.

        What the model, or its backward pass, raises is not caught.
    """
    _check_arguments(model, example_input, loss, seconds)
    capture = Capture(convolutions(model))
    with as_before(model):
        run(model, example_input, loss, capture)
    layers = []
    watch = LoadWatch.start()
    autocast_off = torch.autocast("cpu", enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), autocast_off, _no_modes():
        while capture.calls:  # a call's tensors are freed when its layer is done
            call = capture.calls.pop(0)
            reason = _not_finite(call)
            if reason:
                capture.not_compared[call.label] = reason
            else:
                layers.append(_compare_call(call, seconds))
    return Comparison(
        layers=tuple(layers),
        not_compared=capture.not_compared,
        threads=torch.get_num_threads(),
        isa=_C.active_isa(),
        versions={"convext": _library.package_version(), "torch": str(torch.__version__)},
        cores_of_others=watch.cores_of_others() if watch.seconds() >= SHORTEST_WATCH_S else None,
    )


def _check_arguments(model: Any, example_input: Any, loss: Any, seconds: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but got {type(model).__name__}")
    if not isinstance(example_input, (Tensor, tuple, Mapping)):
        raise TypeError(
            "example_input must be a Tensor, a tuple of positional arguments or a dict of named "
            f"ones, but got {type(example_input).__name__}"
        )
    if isinstance(example_input, Mapping) and not all(isinstance(k, str) for k in example_input):
        raise TypeError("example_input must have strings as keys: the names of the arguments")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function or None, but got {type(loss).__name__}")
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"seconds must be a number, but got {type(seconds).__name__}")
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"seconds must be positive and finite, but got {seconds}")


@contextlib.contextmanager
def _no_modes() -> Iterator[None]:
    """Without torch-function modes: under :class:`convext.patch` torch's side, and the reference,
    would be convext."""
    with contextlib.ExitStack() as stack:
        for _ in range(_len_torch_function_stack()):
            stack.enter_context(_pop_mode_temporarily())
        yield


def _not_finite(call: Call) -> str:
    """Why there is no bound to hold a call's errors to; empty if there is. Of a gradient, the call
    notes it, and does without."""
    for name, tensor in (("input", call.input), ("weight", call.weight), ("bias", call.bias)):
        if tensor is not None and not bool(tensor.isfinite().all()):
            return f"its {name} holds NaN or infinity"
    if call.grad_output is not None and not bool(call.grad_output.isfinite().all()):
        call.grad_output = None
        call.note = "forward only: the gradient of its output holds NaN or infinity"
    return ""


def _torch_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, ...],
    dilation: tuple[int, int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """What ``nn.Conv2d`` calls: it pads in a copy what ``F.conv2d`` cannot."""
    if padding_mode != "zeros" or len(padding) == 4:
        if len(padding) == 2:
            padding = (padding[1], padding[1], padding[0], padding[0])
        mode = "constant" if padding_mode == "zeros" else padding_mode
        input, padding = F.pad(input, padding, mode=mode), (0, 0)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _compare_call(call: Call, seconds: float) -> Layer:
    problem, passes = call.problem, call.problem.passes
    if call.grad_output is None:
        passes = passes[:1]
    unused = torch.empty(0)
    tensors = Tensors(
        call.input,
        call.weight,
        call.bias,
        unused if call.grad_output is None else call.grad_output,
    )
    facts: dict[str, Any] = {
        "name": call.name,
        "call": call.number,
        "problem": problem,
        "input_layout": layout_of(call.input),
        "weight_layout": layout_of(call.weight),
        "note": call.note,
    }
    runs_before = _C.kernel_runs()
    try:
        ours = problem.run(passes, conv2d, tensors)
    except Exception as error:  # torch ran it, so whatever convext raises is a failure of convext
        return Layer(**facts, failure=f"convext raises {type(error).__name__}: {error}")
    accuracies, native = accuracy_of(runs_before), problem.native(tensors)
    theirs = problem.run(passes, _torch_conv2d, tensors)
    references = problem.reference(passes, tensors)
    found = {}
    for name in passes:
        growth = accuracies.get(NATIVE_PASSES[name], Accuracy()).error_growth
        reference = references[name]
        results = [each[name] for each in (ours, theirs)]
        beyond = _beyond_range(results[0], results[1], reference)
        if bool(beyond.any()):  # what there is no bound for counts as right
            results = [torch.where(beyond, 0, each) for each in results]
            reference = Reference(*(torch.where(beyond, 0, each) for each in reference))
        mine, other = (
            hold_to_reference(each, reference, problem.dtype, False, growth) for each in results
        )
        found[name] = PassComparison(
            ok=mine.ok,
            message=mine.message,
            error=_largest_error(results[0], reference),
            error_over_bound=mine.ratio,
            torch_error=_largest_error(results[1], reference),
            torch_error_over_bound=other.ratio,
            plan=cpu_pass(native, name, problem.dtype.is_complex),
            beyond_range=int(beyond.sum()),
            elements=beyond.numel(),
        )
    del ours, theirs, references
    return Layer(
        **facts,
        passes=found,
        forward=_time(_forward, call, seconds),
        backward=None if call.grad_output is None else _time(_backward, call, seconds),
    )


def _beyond_range(ours: Tensor, theirs: Tensor, reference: Reference) -> Tensor:
    """The elements that are not finite with torch either, as their terms are too large."""
    if ours.shape != reference.value.shape:
        return torch.zeros(ours.shape, dtype=torch.bool)
    too_large = reference.magnitude > torch.finfo(ours.dtype).max
    return ~ours.isfinite() & ~theirs.isfinite() & too_large


def _largest_error(result: Tensor, reference: Reference) -> float:
    """NaN if there is one, infinity for a wrong shape."""
    if result.shape != reference.value.shape:
        return math.inf
    if result.numel() == 0:
        return 0.0
    return float((result.to(reference.value.dtype) - reference.value).abs().max())


_Function = Callable[[int], object]
_Peer = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def _forward(call: Call, peer: _Peer) -> _Function:
    return lambda index: peer(call.input, call.weight, call.bias)


def _backward(call: Call, peer: _Peer) -> _Function:
    operands = (call.input, call.weight, call.bias)
    leaves = [
        None if tensor is None else tensor.detach().requires_grad_(needed)
        for tensor, needed in zip(operands, call.need, strict=True)
    ]
    with torch.enable_grad():
        output = peer(*leaves)  # type: ignore[arg-type]
    wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
    return lambda index: torch.autograd.grad(output, wanted, call.grad_output, retain_graph=True)


def _time(make: Callable[[Call, _Peer], _Function], call: Call, seconds: float) -> Timing:
    problem = call.problem
    geometry: dict[str, Any] = {
        "stride": problem.stride,
        "padding": problem.padding,
        "dilation": problem.dilation,
        "groups": problem.groups,
        "padding_mode": problem.padding_mode,
    }
    peers = (functools.partial(each, **geometry) for each in (_torch_conv2d, conv2d))
    with torch.no_grad():
        theirs, ours = (make(call, peer) for peer in peers)
        pairs = time_pairs(theirs, ours, Effort(budget_s=seconds, min_pairs=2, max_pairs=40))
    torch_times, convext_times = (Spread.of(samples) for samples in (pairs.first, pairs.second))
    return Timing(
        torch_seconds=torch_times.median,
        convext_seconds=convext_times.median,
        torch_quartiles=(torch_times.q1, torch_times.q3),
        convext_quartiles=(convext_times.q1, convext_times.q3),
        repetitions=len(pairs.first),
    )
