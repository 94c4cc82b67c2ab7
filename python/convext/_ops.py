"""``torch.ops.convext.conv2d`` and ``conv2d_backward``: what the dispatcher has to know about them.

The schemas and the CPU kernels are C++. Here stand the fake kernels (shapes and strides for
tracing), autograd, autocast, vmap and FLOP counts, and :func:`conv2d` and :func:`conv2d_backward`,
which every call from Python goes through: they choose between the short ways to the kernel and the
dispatcher.

Contract of the operators
    ``conv2d(input, weight, bias, stride, padding, dilation, groups, padding_mode)`` convolves
    ``input`` (N, C, H, W) with ``weight`` (K, C / groups, R, S) and adds ``bias`` (K) or None.
    Stride and dilation have 2 values, padding has 2 (h, w) or 4 (left, right, top, bottom: the
    order of ``F.pad``).

    ``conv2d_backward(grad_output, input, weight, ..., output_mask)`` returns ``grad_input``,
    ``grad_weight`` and ``grad_bias``; those that ``output_mask`` leaves out are None. For complex
    tensors it returns what autograd wants, the adjoint: ``grad_input`` uses ``weight.conj()``,
    ``grad_weight`` uses ``input.conj()``, and the caller conjugates nothing.

    The output's memory format is channels_last if ``input`` or ``weight`` suggests channels_last,
    and contiguous otherwise; ``grad_input`` and ``grad_weight`` follow the same rule.

Where ATen steps in
    Inside a function transform (``torch.func``) and in forward-mode AD both operators run ATen's
    convolution, on a padded copy if need be. A custom operator can register neither a forward
    derivative nor a rule for nested transforms; with ``torch.library.register_autograd`` alone,
    ``torch.func.jvp`` returns zeros without a word. ``torch.vmap`` alone stays native.
    Devices other than the CPU that have no kernel of convext's run ATen's too, which is logged
    once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _AutoDispatchBelowAutograd,
    _ExcludeDispatchKeyGuard,
    _get_tracing_state,
    _is_any_autocast_enabled,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._autograd import _profiler_enabled
from torch._C._functorch import peek_interpreter_stack
from torch._prims_common import suggest_memory_format
from torch.autograd import forward_ad
from torch.nn import Parameter
from torch.utils.flop_counter import register_flop_formula

from . import _C, _aten, _vmap
from ._aten import Grads

logger = logging.getLogger("convext")

_conv2d_op: Callable[..., Tensor] = torch.ops.convext.conv2d.default
_conv2d_backward_op: Callable[..., Grads] = torch.ops.convext.conv2d_backward.default

# The same kernels behind signatures that cost less to call (csrc/torch/schema.cpp); `_op` is what
# an overload's own call calls.
_short_op: Callable[..., Tensor | None] = torch.ops.convext._conv2d.default._op
_short_backward_op: Callable[..., Grads] = torch.ops.convext._conv2d_backward.default._op

# --------------------------------------------------------------------------------------------------
# How a call reaches the kernel

# True answers of these bar a call from the short ways: dispatch modes, torch-function modes,
# `torch.func`, autocast, `torch.jit.trace`, and the profiler, which shall see the public names.
_WATCHERS = (
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
    peek_interpreter_stack,
    _is_any_autocast_enabled,
    _get_tracing_state,
    _profiler_enabled,
)


def _is_eager() -> bool:
    """Whether nothing but plain autograd watches this thread's operators.

    False while compiling or exporting, tracing (``torch.jit.trace``, dispatch modes), transforming
    (``torch.func``), in forward-mode AD, under autocast, under torch-function modes and in a
    profile. The first test comes first because Dynamo folds it and then reads no further.
    """
    return not torch.compiler.is_compiling() and _C.is_eager()


def _is_plain(tensor: Tensor | None) -> bool:
    """Whether this is no subclass: those see every operator through the dispatcher."""
    kind = type(tensor)
    return kind is Tensor or kind is Parameter or tensor is None


def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    """Calls ``torch.ops.convext.conv2d`` with these arguments, by the shortest way that is right.

    Four ways, the same kernel and the same bits. Plain tensors of floats on the CPU go to
    :func:`short_conv2d`. Other plain tensors go straight below autograd, or with gradients through
    a plain ``autograd.Function``. Everything else goes through the dispatcher, whose Python kernels
    cost two to four times as much as a small convolution.
    """
    if _is_eager() and _is_plain(input) and _is_plain(weight) and _is_plain(bias):
        output = short_conv2d(input, weight, bias, *args)
        return _conv2d_below(input, weight, bias, *args) if output is None else output
    return _conv2d_op(input, weight, bias, *args)


def conv2d_backward(grad_output: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Grads:
    """Calls ``torch.ops.convext.conv2d_backward`` by the shortest way that is right."""
    if _is_eager() and _is_plain(grad_output) and _is_plain(input) and _is_plain(weight):
        return _conv2d_backward_below(grad_output, input, weight, *args)
    return _conv2d_backward_op(grad_output, input, weight, *args)


# The shortest way: one call into C, which looks at the arguments and at what watches them, and runs
# the kernel, or answers None for a call that is for :func:`conv2d`. Its geometry may come as users
# write it, in integers and tuples. Not to be called while compiling.
short_conv2d = _C.short_conv2d


def _conv2d_below(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    """Autograd and below: records the call if a gradient is needed, and runs the kernel."""
    if torch.is_grad_enabled() and _any_requires_grad(input, weight, bias):
        return _apply_conv2d(input, weight, bias, args)
    with _AutoDispatchBelowAutograd():
        return _conv2d_op(input, weight, bias, *args)


def _conv2d_backward_below(grad_output: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Grads:
    if torch.is_grad_enabled() and _any_requires_grad(grad_output, input, weight):
        return _apply_conv2d_backward(grad_output, input, weight, args)
    with _AutoDispatchBelowAutograd():
        return _conv2d_backward_op(grad_output, input, weight, *args)


def _any_requires_grad(first: Tensor, second: Tensor, third: Tensor | None) -> bool:
    return (
        first.requires_grad or second.requires_grad or (third is not None and third.requires_grad)
    )


# --------------------------------------------------------------------------------------------------
# Autograd


class _Conv2d(torch.autograd.Function):
    """A convolution that saves its operands; its derivative is ``conv2d_backward``."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, args: tuple[Any, ...]
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.args = args
        with _AutoDispatchBelowAutograd():
            return _conv2d_op(input, weight, bias, *args)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        grads = conv2d_backward(grad_output, input, weight, *ctx.args, ctx.needs_input_grad[:3])
        return (*grads, None)


def _unpack_geometry(
    packed: int,
) -> tuple[tuple[int, int], tuple[int, ...], tuple[int, int], int, str]:
    """The operators' arguments from one integer (``pack_geometry`` in csrc/conv_problem.cpp).

    In Python, for compiled autograd reads it.
    """
    mode = ("zeros", "reflect", "replicate", "circular")[packed & 3]
    groups = packed >> 2 & 0xFFF
    packed >>= 14
    stride_h, stride_w, dilation_h, dilation_w = (packed >> shift & 31 for shift in (15, 10, 5, 0))
    packed >>= 20
    top, bottom, left, right = (packed >> shift & 127 for shift in (21, 14, 7, 0))
    even = top == bottom and left == right
    padding = (top, left) if even else (left, right, top, bottom)
    return (stride_h, stride_w), padding, (dilation_h, dilation_w), groups, mode


class _ShortConv2d(torch.autograd.Function):
    """:class:`_Conv2d` with its geometry in one integer."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: int
    ) -> Tensor | None:
        output = _short_op(input, weight, bias, geometry)
        if output is not None:
            ctx.save_for_backward(input, weight)
            ctx.geometry = geometry
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        grads = None
        if not torch.compiler.is_compiling():
            grads = _C.short_conv2d_backward(grad_output, input, weight, ctx.geometry, needed)
        if grads is None:
            geometry = _unpack_geometry(ctx.geometry)
            grads = conv2d_backward(grad_output, input, weight, *geometry, needed[:3])
        return (*grads, None)


class _Conv2dBackward(torch.autograd.Function):
    """The backward pass, itself differentiable.

    ``grad_input`` is linear in grad_output and in weight, ``grad_weight`` in grad_output and in
    input, so convolutions and their gradients suffice again. The adjoint of an adjoint conjugates
    twice, so no conjugation shows here either.
    """

    @staticmethod
    def forward(
        ctx: Any, grad_output: Tensor, input: Tensor, weight: Tensor, args: tuple[Any, ...]
    ) -> Grads:
        ctx.set_materialize_grads(False)  # a gradient nobody asked for costs nothing
        ctx.save_for_backward(grad_output, input, weight)
        ctx.args = args
        with _AutoDispatchBelowAutograd():
            return _conv2d_backward_op(grad_output, input, weight, *args)

    @staticmethod
    def backward(
        ctx: Any,
        grad_grad_input: Tensor | None,
        grad_grad_weight: Tensor | None,
        grad_grad_bias: Tensor | None,
    ) -> Any:
        grad_output, input, weight = ctx.saved_tensors
        *args, _ = ctx.args
        grads: list[Tensor | None] = [None, None, None]
        needs_grad_output, needs_input, needs_weight = ctx.needs_input_grad[:3]
        if needs_grad_output:
            terms = []
            if grad_grad_input is not None:
                terms.append(conv2d(grad_grad_input, weight, grad_grad_bias, *args))
            elif grad_grad_bias is not None:
                terms.append(grad_grad_bias.view(1, -1, 1, 1).expand_as(grad_output))
            if grad_grad_weight is not None:
                terms.append(conv2d(input, grad_grad_weight, None, *args))
            grads[0] = sum(terms[1:], terms[0]) if terms else None
        if needs_input and grad_grad_weight is not None:
            mask = [True, False, False]
            grads[1] = conv2d_backward(grad_output, input, grad_grad_weight, *args, mask)[0]
        if needs_weight and grad_grad_input is not None:
            mask = [False, True, False]
            grads[2] = conv2d_backward(grad_output, grad_grad_input, weight, *args, mask)[1]
        return (*grads, None)


# The C++ half of ``Function.apply``: the Python half serves function transforms, under which
# neither of these is called.
_apply_conv2d: Callable[..., Tensor] = super(torch.autograd.Function, _Conv2d).apply
_apply_conv2d_backward: Callable[..., Grads] = super(torch.autograd.Function, _Conv2dBackward).apply
_apply_short_conv2d: Callable[..., Tensor | None] = super(
    torch.autograd.Function, _ShortConv2d
).apply

_C.connect_short_ways(
    tensor=Tensor,
    parameter=Parameter,
    watchers=_WATCHERS,
    compiler=torch.compiler,
    forward_ad=forward_ad,
    grad_enabled=torch.is_grad_enabled,
    forward=_short_op,
    apply=_apply_short_conv2d,
    backward=_short_backward_op,
)


# Whether a float32 convolution on CUDA may round its products to TF32.
_cudnn: Any = torch.backends.cudnn


def tf32_allowed() -> bool:
    """What torch says about float32 convolutions on CUDA: whether they may be rounded to TF32."""
    return bool(_cudnn.conv.fp32_precision == "tf32")


_C.connect_tf32(tf32_allowed)


def _is_transformed() -> bool:
    """Whether a ``torch.func`` transform or forward-mode AD is at work: then ATen steps in."""
    return peek_interpreter_stack() is not None or forward_ad._current_level >= 0


def _conv2d_autograd(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    if _is_transformed():
        return _aten.conv2d(input, weight, bias, *args)
    return _conv2d_below(input, weight, bias, *args)


def _conv2d_backward_autograd(
    grad_output: Tensor, input: Tensor, weight: Tensor, *args: Any
) -> Grads:
    if _is_transformed():
        return _aten.conv2d_backward(grad_output, input, weight, *args)
    return _conv2d_backward_below(grad_output, input, weight, *args)


# --------------------------------------------------------------------------------------------------
# Fake kernels


def _memory_format(input: Tensor, weight: Tensor) -> torch.memory_format:
    """ATen's rule for the layout of a convolution's output and gradients."""
    formats = (suggest_memory_format(input), suggest_memory_format(weight))
    return torch.channels_last if torch.channels_last in formats else torch.contiguous_format


def _check_same(first: Tensor, second: Tensor | None, name: str) -> None:
    """Refuses mixed devices and dtypes, which meta kernels of ATen's let pass."""
    if second is None:
        return
    if first.device != second.device:
        raise RuntimeError(
            f"Input type ({first.device}) and {name} type ({second.device}) should be the same: "
            f"convolution expects all tensors on one device"
        )
    if first.dtype != second.dtype:
        raise RuntimeError(
            f"Input type ({first.dtype}) and {name} type ({second.dtype}) should be the same"
        )


def _conv2d_fake(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
    _check_same(input, weight, "weight")
    _check_same(input, bias, "bias")
    shape = _aten.conv2d(input, weight, bias, *args).shape
    return torch.empty(
        shape,
        dtype=input.dtype,
        device=input.device,
        memory_format=_memory_format(input, weight),
    )


def _conv2d_backward_fake(grad_output: Tensor, input: Tensor, weight: Tensor, *args: Any) -> Grads:
    output_mask = args[-1]
    _check_same(input, weight, "weight")
    _check_same(input, grad_output, "grad_output")
    memory_format = _memory_format(input, weight)

    def like(tensor: Tensor) -> Tensor:
        return torch.empty(
            tensor.shape, dtype=tensor.dtype, device=tensor.device, memory_format=memory_format
        )

    return (
        like(input) if output_mask[0] else None,
        like(weight) if output_mask[1] else None,
        grad_output.new_empty([weight.shape[0]]) if output_mask[2] else None,
    )


# --------------------------------------------------------------------------------------------------
# Devices without a kernel of convext's

_fallback_kinds: set[str] = set()


def _log_fallback(tensor: Tensor) -> None:
    kind = tensor.device.type if tensor.layout is torch.strided else f"layout {tensor.layout}"
    if kind not in _fallback_kinds:
        _fallback_kinds.add(kind)
        logger.warning("no convext kernel for %s tensors: PyTorch's own convolution runs", kind)


def _conv2d_fallback(input: Tensor, *args: Any) -> Tensor:
    _log_fallback(input)
    return _aten.conv2d(input, *args)


def _conv2d_backward_fallback(grad_output: Tensor, *args: Any) -> Grads:
    _log_fallback(grad_output)
    return _aten.conv2d_backward(grad_output, *args)


# --------------------------------------------------------------------------------------------------
# Autocast

_AUTOCAST_KEYS = torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutocastCPU
) | torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastCUDA)


def autocast_dtype(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """That of a convolution whose operands have this one: where autocast is enabled the context's,
    for what ATen would cast."""
    casts = torch.is_autocast_enabled(device_type) and dtype.is_floating_point
    if casts and dtype is not torch.float64:
        return torch.get_autocast_dtype(device_type)
    return dtype


def _autocast_kernel(device_type: str) -> Any:
    """``conv2d`` under autocast: the context's dtype, for what ATen would cast.

    ``torch.library.register_autocast`` fixes one dtype for good; this reads the context's. ATen
    keeps the casts of parameters for the rest of a context, in a cache that Python cannot reach:
    a module used twice casts its weight twice here.
    """

    def cast(tensor: Tensor | None) -> Tensor | None:
        if (
            tensor is not None
            and tensor.is_floating_point()
            and tensor.dtype is not torch.float64
            and tensor.device.type == device_type
        ):
            return tensor.to(torch.get_autocast_dtype(device_type))
        return tensor

    def kernel(input: Tensor, weight: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        with _ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
            return _conv2d_op(cast(input), cast(weight), cast(bias), *args)

    return kernel


# --------------------------------------------------------------------------------------------------
# FLOP counts, two for a multiplication and an addition, as torch counts them


def _product(shape: Sequence[int]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def _conv2d_flops(
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    *args: Any,
    out_shape: Any = None,
    **kwargs: Any,
) -> int:
    return 2 * _product(out_shape) * _product(weight_shape[1:])


def _conv2d_backward_flops(
    grad_output_shape: Sequence[int],
    input_shape: Sequence[int],
    weight_shape: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
    output_mask: Sequence[bool],
    **kwargs: Any,
) -> int:
    """Each of the two products costs what the forward pass did; torch overcounts groups here."""
    forward = 2 * _product(grad_output_shape) * _product(weight_shape[1:])
    return forward * (bool(output_mask[0]) + bool(output_mask[1]))


# --------------------------------------------------------------------------------------------------


def _register() -> torch.library.Library:
    library = torch.library.Library("convext", "IMPL")
    kernels: list[tuple[str, str, Callable[..., Any]]] = [
        ("conv2d", "Autograd", _conv2d_autograd),
        ("conv2d_backward", "Autograd", _conv2d_backward_autograd),
        ("conv2d", "CompositeExplicitAutograd", _conv2d_fallback),
        ("conv2d_backward", "CompositeExplicitAutograd", _conv2d_backward_fallback),
        ("conv2d", "AutocastCPU", _autocast_kernel("cpu")),
        ("conv2d", "AutocastCUDA", _autocast_kernel("cuda")),
    ]
    for name, key, kernel in kernels:
        library.impl(name, kernel, key)
    for name in ("_conv2d", "_conv2d_backward"):  # called where autograd is done with
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
    torch.library.register_fake("convext::conv2d", _conv2d_fake, lib=library)
    torch.library.register_fake("convext::conv2d_backward", _conv2d_backward_fake, lib=library)
    torch.library.register_vmap("convext::conv2d", _vmap.conv2d, lib=library)
    torch.library.register_vmap("convext::conv2d_backward", _vmap.conv2d_backward, lib=library)
    register_flop_formula(torch.ops.convext.conv2d)(_conv2d_flops)
    register_flop_formula(torch.ops.convext.conv2d_backward)(_conv2d_backward_flops)
    return library


_library = _register()  # the registrations live as long as this object


def decompositions() -> dict[Any, Callable[..., Any]]:
    """A table that rewrites convext's operators as ATen's, for programs that run without convext.

    >>> model = convext.convert(model).eval()
    >>> program = torch.export.export(model, (batch,))
    >>> portable = program.run_decompositions(convext.decompositions())
    >>> "convext" in str(program.graph), "convext" in str(portable.graph)
    (True, False)

    Returns:
        ``{operator: function}``, as ``ExportedProgram.run_decompositions`` and ``make_fx`` take it.
        Merge it with ``torch.export.default_decompositions()`` to decompose the rest as well.
    """
    return {_conv2d_op: _aten.conv2d, _conv2d_backward_op: _aten.conv2d_backward}
