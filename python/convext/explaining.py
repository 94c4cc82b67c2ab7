"""What will run: :func:`explain`; and what ran: :func:`last_plan`."""

from __future__ import annotations

import math
import operator
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from . import _C, _library, _ops
from ._sources import sources_of
from .functional import Size2, check_padding_mode, normalised_geometry
from .options import is_batch_invariant
from .plan import BOUNDS, PASSES, PassPlan, Plan, size_text

_ELEMENT_BYTES = {
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float16": 2,
    "int8": 1,
    "uint8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
}


class _PartsOfComplex(_C.ConvProblem):
    """The geometry of the real convolutions that a complex one consists of."""

    complex_dtype = ""


def layout_of(tensor: Tensor) -> str:
    """``"contiguous"``, ``"channels_last"`` or ``"strided"``, as a plan sees a 4-d tensor."""
    if tensor.is_complex():  # its parts are what is convolved
        return "strided"
    if tensor.is_contiguous():
        return "contiguous"
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return "channels_last"
    return "strided"


def problem(
    input: Tensor | Sequence[int],
    weight: Tensor | Sequence[int],
    stride: Size2 = 1,
    padding: Size2 | str = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    *,
    padding_mode: str = "zeros",
) -> _C.ConvProblem:
    """The geometry of a convolution, for :func:`explain`.

    Only shapes, layouts and dtype count; meta tensors will do. Under :func:`torch.autocast` the
    dtype is the context's. A complex convolution is several real ones, of whose geometry this is;
    :func:`explain` says how many.

    >>> convext.problem((1, 64, 56, 56), (128, 64, 3, 3), stride=2, padding=1)
    ConvProblem(N=1, C=64, H=56, W=56, K=128, R=3, S=3, P=28, Q=28, ...)

    Args:
        input: (N, C, H, W), or (C, H, W) for one image: a tensor, or its shape, which stands for a
            contiguous one of the other's dtype, or of float32.
        weight: (K, C / groups, R, S), alike.
        stride, padding, dilation, groups, padding_mode: as in :func:`convext.conv2d`.

    Dtypes:
        Those of :func:`convext.conv2d`.

    Raises:
        TypeError: input or weight is neither a tensor nor a shape.
        ValueError: unknown padding mode, a dtype without kernels, a sparse tensor, or a shape that
            no tensor has.
        RuntimeError: what :func:`convext.conv2d` would raise.
    """
    given = [each for each in (input, weight) if isinstance(each, Tensor)]
    dtype = given[0].dtype if given else torch.float32
    device = "cuda" if any(each.is_cuda for each in given) else "cpu"
    input = _autocast(stand_in("input", input, dtype), device)
    weight = _autocast(stand_in("weight", weight, dtype), device)
    if input.dtype != weight.dtype:
        raise RuntimeError(
            f"input and weight must have one dtype, but have {input.dtype} and {weight.dtype}"
        )
    check_padding_mode(padding_mode)
    strides, pads, dilations, groups = normalised_geometry(
        weight, stride, padding, dilation, groups
    )
    dtype = input.real.dtype if input.is_complex() else input.dtype
    samples = input if input.dim() != 3 else input.unsqueeze(0)
    alone = samples[:1] if is_batch_invariant() and samples.dim() == 4 else samples
    found = (_PartsOfComplex if input.is_complex() else _C.ConvProblem)(
        list(samples.shape),
        list(weight.shape),
        list(strides),
        list(pads),
        list(dilations),
        groups,
        padding_mode,
        str(dtype).removeprefix("torch."),
        layout_of(alone),
        layout_of(weight),
    )
    if isinstance(found, _PartsOfComplex):
        found.complex_dtype = str(input.dtype).removeprefix("torch.")
    return found


def stand_in(name: str, value: Tensor | Sequence[int], dtype: torch.dtype) -> Tensor:
    """The tensor, or for a shape a contiguous one on the meta device.

    Raises:
        TypeError: the value is neither.
        ValueError: the shape has a negative extent, or more elements than can be addressed; the
            tensor is sparse.
    """
    if isinstance(value, Tensor):
        if value.layout is not torch.strided:
            raise ValueError(f"{name} must be a strided tensor, but is {value.layout}")
        return value
    try:
        shape = [operator.index(extent) for extent in value]
    except TypeError:
        raise TypeError(
            f"{name} must be a Tensor or its shape, but got {type(value).__name__} {value!r}"
        ) from None
    if any(extent < 0 for extent in shape):
        raise ValueError(f"{name} must have no negative extent, but got {shape}")
    if math.prod(shape) * dtype.itemsize >= 1 << 63:
        raise ValueError(f"{name} must be a tensor that can be addressed, but got {shape}")
    return torch.empty(shape, dtype=dtype, device="meta")


def _autocast(tensor: Tensor, device: str) -> Tensor:
    """What stands for the tensor that autocast makes of this one, if it does."""
    dtype = _ops.autocast_dtype(tensor.dtype, device)
    if dtype == tensor.dtype:
        return tensor
    like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return like.to(dtype)


def explain(
    target: nn.Conv2d | _C.ConvProblem,
    input: Tensor | Sequence[int] | None = None,
    *,
    gpu: str | None = None,
) -> Plan:
    """The plan of a convolution: the kernel of each pass, and why not the others.

    The kernel that it names is the one that runs, under the options that hold now
    (:func:`force_plan`, :class:`batch_invariant`, :func:`set_workspace_limit`, autocast).

    >>> layer = convext.ConvExt2d(64, 64, 3, padding=1)
    >>> plan = convext.explain(layer, (1, 64, 56, 56))
    >>> plan.output_size
    (1, 64, 56, 56)
    >>> plan.formula["P"]
    'floor((56 + 1 + 1 - 1 * (3 - 1) - 1) / 1) + 1 = 56'

    Args:
        target: a :class:`ConvExt2d` or ``nn.Conv2d``, or what :func:`problem` returns.
        input: of a module, the tensor it gets, (N, C, H, W) or (C, H, W), or its shape, which
            stands for a tensor of the weight's dtype, layout and device; of a problem, nothing.
        gpu: a compute capability, as ``"9.0"``: the plan of such a GPU, where the CUDA kernels
            were built. By default, that of the device where ``input`` is.

    Raises:
        TypeError: ``target`` or ``input`` is of another type.
        ValueError: ``gpu`` is no compute capability, an uninitialised lazy module, a dtype without
            kernels, a sparse tensor, or a shape that no tensor has.
        RuntimeError: what :func:`convext.conv2d` would raise; the kernel that is forced cannot run;
            or the CUDA kernels are not there, or have none for the dtype.
    """
    device = torch.device("cpu")
    if isinstance(target, nn.Conv2d):
        if isinstance(target.weight, nn.parameter.UninitializedParameter):
            raise ValueError("target is a lazy module that has not seen an input yet")
        if input is None:
            raise TypeError("input must be the module's input or its shape")
        weight = target.weight.detach()
        device = weight.device
        if not isinstance(input, Tensor):
            image = stand_in("input", input, weight.dtype)
            if suggest_memory_format(weight) == torch.channels_last and image.dim() == 4:
                image = image.contiguous(memory_format=torch.channels_last)
            input = image
        else:
            device = input.device
        found = problem(
            input,
            weight,
            target.stride,
            target.padding,
            target.dilation,
            target.groups,
            padding_mode=target.padding_mode,
        )
    elif isinstance(target, _C.ConvProblem):
        if input is not None:
            raise TypeError("input must be left out where target is a problem, which has its own")
        found = target
    else:
        raise TypeError(
            "target must be an nn.Conv2d, a ConvExt2d or a problem (convext.problem), but got "
            f"{type(target).__name__}"
        )
    if gpu is None and device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        gpu = f"{major}.{minor}"
    complex_dtype = found.complex_dtype if isinstance(found, _PartsOfComplex) else ""
    if gpu is None:
        passes = {name: cpu_pass(found, name, bool(complex_dtype)) for name in PASSES}
        return Plan(found, "cpu", passes, complex_dtype)
    capability = _capability(gpu)
    real = _of_twice_the_channels(found) if complex_dtype else found
    passes = {
        name: _gpu_pass(real, name, capability, device, bool(complex_dtype)) for name in PASSES
    }
    return Plan(found, f"sm_{capability}", passes, complex_dtype)


def _of_twice_the_channels(p: _C.ConvProblem) -> _C.ConvProblem:
    """What a complex convolution is on a GPU: one of real and imaginary channels side by side."""
    return _C.ConvProblem(
        [p.N, 2 * p.C, p.H, p.W],
        [2 * p.K, 2 * p.C // p.groups, p.R, p.S],
        [p.stride_h, p.stride_w],
        [p.pad_left, p.pad_right, p.pad_top, p.pad_bottom],
        [p.dilation_h, p.dilation_w],
        p.groups,
        p.padding_mode,
        p.dtype,
        "channels_last",
        "channels_last",
    )


def _flops(p: _C.ConvProblem, name: str) -> int:
    outputs = p.N * p.K * p.P * p.Q
    return outputs if name == "bias_grad" else 2 * outputs * (p.C // p.groups) * p.R * p.S


def _traffic(p: _C.ConvProblem, name: str) -> int:
    outputs = p.N * p.K * p.P * p.Q
    elements = p.N * p.C * p.H * p.W + p.K * (p.C // p.groups) * p.R * p.S + outputs
    return _ELEMENT_BYTES[p.dtype] * (outputs + p.K if name == "bias_grad" else elements)


@cache
def _clock() -> float:
    """Cycles per second, found once; in units of 10 MHz, below which it is not certain."""
    return round(_C.nominal_clock(), -7)


def usable_cores() -> int:
    """The cores this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_pass(p: _C.ConvProblem, name: str, is_complex: bool = False) -> PassPlan:
    """The plan of one pass on this CPU.

    Args:
        p: the geometry; of a complex convolution that of its real ones.
        name: of the pass.
        is_complex: the pass is several real ones, whose work is added up.

    Raises:
        RuntimeError: the kernel that is forced cannot run.
    """
    plan = _C.plan(p, PASSES[name])
    threads = 1 if plan.one_thread else torch.get_num_threads()
    # Products of real and imaginary parts; the bias's gradient is a sum of each.
    times = 1 if not is_complex else 2 if name == "bias_grad" else 4
    cycles = {term: times * count for term, count in plan.cycles.items()}
    remarks = []
    if is_complex:
        remarks.append(
            f"runs {times} times, once for each {'part' if times == 2 else 'pair of parts'}; work "
            "and expected time are those of all"
        )
    if threads > usable_cores():
        remarks.append(
            f"{threads} threads, but this process may use {usable_cores()} cores: expected as if "
            "each thread had its own"
        )
    return PassPlan(
        name=name,
        kernel=plan.kernel,
        algorithm=plan.algorithm,
        arch=plan.isa,
        tile=(plan.mr, plan.nr),
        threads=threads,
        workspace_bytes=plan.workspace_bytes,
        thread_workspace_bytes=plan.thread_workspace_bytes,
        flops=times * _flops(p, name),
        bytes=(2 if is_complex else 1) * _traffic(p, name),
        cycles=cycles,
        seconds=sum(cycles.values()) / _clock() / threads,
        bound=BOUNDS[max(cycles, key=cycles.__getitem__)],
        reason=plan.reason,
        refused=tuple(plan.refused),
        blocking=tuple(plan.blocking),
        sources=cpu_sources(plan),
        remarks=tuple(remarks),
    )


def cpu_sources(plan: _C.Plan) -> tuple[str, ...]:
    """Where what runs by the plan is written, as :func:`convext._sources.sources_of` says it."""
    strips = plan.algorithm in ("depthwise", "grouped") and plan.pass_ != "wgrad"
    return sources_of(
        plan.algorithm,
        plan.pass_,
        planes=strips and plan.channel_block > 0,
        border=any("border pixels" in line for line in plan.blocking),
    )


def _gpu_pass(
    p: _C.ConvProblem, name: str, capability: int, device: torch.device, is_complex: bool
) -> PassPlan:
    if not _C.cuda_loaded():
        problem = _library.load_cuda([str(Path(__file__).parent)], without_torch_cuda=True)
        if problem:
            raise RuntimeError(f"convext's CUDA kernels are not there: {problem}")
    multiprocessors = 132
    if device.type == "cuda":
        multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    tf32 = _ops.tf32_allowed()
    plan = _C.cuda_plan(p, PASSES[name], capability, multiprocessors, tf32)
    remarks = []
    if is_complex:
        remarks.append(
            f"one real convolution of twice the channels, {p.C} to {p.K}; where complex channels "
            "are not adjacent, they are copied"
        )
    elif plan["layout"] == "nhwc":
        remarks += _copies(p, name, plan["algorithm"])
    if plan["rounds_to_tf32"]:
        remarks.append(
            "float32 is rounded to TF32, to 10 bits behind the point, as "
            "torch.backends.cudnn.conv.fp32_precision allows"
        )
    return PassPlan(
        name=name,
        kernel=plan["name"],
        algorithm=plan["algorithm"],
        arch=f"sm_{capability}",
        tile=tuple(int(extent) for extent in plan["tile"].split("x")),
        threads=0,
        workspace_bytes=plan["workspace_bytes"],
        thread_workspace_bytes=0,
        flops=_flops(p, name),
        bytes=_traffic(p, name),
        cycles={},
        seconds=None,
        bound="",
        reason=plan["reason"],
        refused=tuple((kernel, why) for kernel, why in plan["refused"]),
        blocking=(f"thread block's tile: {plan['tile']}",) if plan["mr"] else (),
        sources=sources_of(plan["algorithm"], PASSES[name], cuda=True),
        remarks=tuple(remarks),
    )


def _copies(p: _C.ConvProblem, name: str, algorithm: str) -> list[str]:
    """What is copied for a kernel that wants adjacent channels, of contiguous tensors."""
    channels_last = "channels_last" in (p.input_layout, p.weight_layout)
    output = ("channels_last" if channels_last else "contiguous", (p.N, p.K, p.P, p.Q))
    tensors = {
        "input": (p.input_layout, (p.N, p.C, p.H, p.W)),
        "weight": (p.weight_layout, (p.K, p.C // p.groups, p.R, p.S)),
        "output": output,
    }
    if algorithm.endswith("_first"):
        del tensors["input"]  # which they take as it lies
    gradients = {"output"} if name != "forward" else set()
    gradients.add(name.removesuffix("_grad"))
    copied = [
        f"{'grad_' if tensor in gradients else ''}{tensor} "
        f"({size_text(_ELEMENT_BYTES[p.dtype] * math.prod(size))})"
        for tensor, (layout, size) in tensors.items()
        if layout == "contiguous" and size[1] > 1 and size[2] * size[3] > 1
    ]
    if not copied:
        return []
    return [f"copied to or from channels_last, which this kernel wants: {', '.join(copied)}"]


class LastRun(NamedTuple):
    """What ran: the kernel's name, and the geometry."""

    kernel: str
    problem: _C.ConvProblem


def last_plan() -> dict[str, LastRun]:
    """The kernel that ran last in each pass, on whichever thread and device of this process.

    torch's profiler shows the same names, below ``convext::conv2d``. Where a call went to
    PyTorch's own convolution, nothing is noted.

    >>> output = convext.conv2d(torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3))
    >>> kernel, problem = convext.last_plan()["forward"]

    Returns:
        pass -> (kernel, problem), of those passes of ``"forward"``, ``"input_grad"``,
        ``"weight_grad"`` and ``"bias_grad"`` that have run. Of a complex convolution, the last of
        its real ones.
    """
    found = {}
    for name, pass_ in PASSES.items():
        run = _C.last_run(pass_)
        if run is not None:
            found[name] = LastRun(*run)
    return found


def _capability(gpu: str) -> int:
    """``"9.0"`` -> 90."""
    major, point, minor = gpu.partition(".") if isinstance(gpu, str) else ("", "", "")
    if not (major.isdigit() and point and len(minor) == 1 and minor.isdigit()):
        raise ValueError(f"gpu must be a compute capability like '9.0', but got {gpu!r}")
    return int(major) * 10 + int(minor)
