"""One convolution to be checked: its sizes, its data, its layout, and its float64 reference."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

import convext

FLOATING_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX_DTYPES = (torch.complex64, torch.complex128, torch.complex32)
INTEGER_DTYPES = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")

PASSES = ("forward", "input_grad", "weight_grad", "bias_grad")
"""The four passes of a convolution, as Python names them."""

LAYOUTS = (
    "contiguous",
    "channels_last",
    "mixed",
    "offset",
    "sliced",
    "channels_last_sliced",
    "transposed",
    "expanded",
)
"""How a problem's tensors lie in memory; :meth:`Problem.tensors` says what each means."""

VALUES = ("normal", "integer")

Convolution = Callable[..., Tensor]


class Tensors(NamedTuple):
    """What a problem convolves: ``input`` (N, C, H, W), ``weight`` (K, C/groups, R, S), ``bias``
    (K,) or None, ``grad_output`` (N, K, P, Q)."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None
    grad_output: Tensor


class Reference(NamedTuple):
    """What a pass should give, and how far a right kernel may be from it.

    ``value`` is the result in float64 (int64, complex128). ``magnitude`` is the same pass over the
    absolute values of its operands, ``length`` the same pass over ones: the number of terms that
    were added to each element. Both have the shape of ``value``.
    """

    value: Tensor
    magnitude: Tensor
    length: Tensor


@dataclasses.dataclass(frozen=True, repr=False)
class Problem:
    """One convolution, complete: whoever has its ``repr`` can run it again, bit for bit.

    Args:
        N, C, H, W: extents of the input.
        K, R, S: output channels, kernel height, kernel width.
        stride, dilation: (vertical, horizontal).
        padding: (vertical, horizontal), or four values in ``F.pad``'s order (left, right, top,
            bottom).
        groups: divides C and K.
        padding_mode: one of :data:`PADDING_MODES`.
        dtype: of every tensor.
        bias: whether there is one.
        layout: one of :data:`LAYOUTS`.
        values: ``"normal"`` draws from the normal distribution, ``"integer"`` draws small integers,
            on which floating-point sums are exact.
        seed: of the data.
        device: where convext runs; the reference always runs on the CPU.

    Raises:
        ValueError: for a name outside its list, or a padding of neither 2 nor 4 values.
    """

    N: int = 1
    C: int = 1
    H: int = 5
    W: int = 5
    K: int = 1
    R: int = 3
    S: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] | tuple[int, int, int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"
    dtype: torch.dtype = torch.float32
    bias: bool = False
    layout: str = "contiguous"
    values: str = "normal"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, value, known in (
            ("padding_mode", self.padding_mode, PADDING_MODES),
            ("layout", self.layout, LAYOUTS),
            ("values", self.values, VALUES),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
        if len(self.padding) not in (2, 4):
            raise ValueError(f"padding must have 2 or 4 values, not {len(self.padding)}")

    def __repr__(self) -> str:
        """An expression that makes this problem again; fields at their defaults are left out."""
        changed = (
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.name in "NCHWKRS" or getattr(self, field.name) != field.default
        )
        return f"Problem({', '.join(changed)})"

    def replace(self, **changes: Any) -> Problem:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def input_size(self) -> tuple[int, int, int, int]:
        return self.N, self.C, self.H, self.W

    @property
    def weight_size(self) -> tuple[int, int, int, int]:
        return self.K, self.C // self.groups, self.R, self.S

    @property
    def pad(self) -> tuple[int, int, int, int]:
        """Padding of all four sides in ``F.pad``'s order, left, right, top, bottom."""
        if len(self.padding) == 4:
            return self.padding
        vertical, horizontal = self.padding
        return horizontal, horizontal, vertical, vertical

    @property
    def output_size(self) -> tuple[int, ...] | None:
        """(N, K, P, Q) as torch has it, or None where torch refuses the problem."""
        return _output_size(
            self.replace(dtype=torch.float32, bias=False, layout="contiguous", seed=0, device="cpu")
        )

    @property
    def valid(self) -> bool:
        """Whether torch takes the problem. Its channels must divide, its padding mode allow the
        padding, and its kernel fit."""
        return self.C % self.groups == 0 and self.output_size is not None

    @property
    def passes(self) -> tuple[str, ...]:
        """The passes this problem has. Without a bias there is no ``bias_grad``."""
        return PASSES if self.bias else PASSES[:3]

    def tensors(self) -> Tensors:
        """Draws the data and lays it out; the same problem always gives the same tensors.

        Layouts: ``contiguous``; ``channels_last`` (all three four-dimensional tensors); ``mixed``
        (only the input is channels_last); ``offset`` (contiguous, one element off the start of its
        storage); ``sliced`` (every second column of a larger tensor); ``channels_last_sliced``
        (some channels of a larger channels_last tensor); ``transposed`` (rows and columns
        exchanged in memory); ``expanded`` (stride 0 over the first dimension). What lies between
        and around the elements of a view is NaN (the largest value for integers), so that a
        kernel which reads it shows.

        Raises:
            ValueError: if torch refuses the problem.
        """
        if self.output_size is None or not self.valid:
            raise ValueError(f"torch has no such convolution: {self}")
        generator = torch.Generator().manual_seed(self.seed)
        values = [
            self._draw(size, generator)
            for size in (self.input_size, self.weight_size, self.output_size, (self.K,))
        ]
        input, weight, grad_output = (
            _lay_out(value.to(self.device), layout)
            for value, layout in zip(values[:3], self._layouts, strict=True)
        )
        bias = values[3].to(self.device) if self.bias else None
        return Tensors(input, weight, bias, grad_output)

    def run(
        self,
        passes: Sequence[str] | None = None,
        conv2d: Convolution | None = None,
        tensors: Tensors | None = None,
    ) -> dict[str, Tensor]:
        """Runs ``conv2d`` (by default :func:`convext.conv2d`) and its gradients.

        Gradients come through autograd; those of integers, which autograd does not have, from
        ``torch.ops.convext.conv2d_backward``. Memory that torch allocates meanwhile starts as NaN,
        so that an element nobody wrote shows.

        Args:
            passes: which of :attr:`passes`; all by default.
            conv2d: takes what :func:`convext.conv2d` takes.
            tensors: of this problem's sizes and dtype, instead of those that it draws.

        Returns:
            The result of each pass, by name.
        """
        tensors = tensors or self.tensors()
        passes = self.passes if passes is None else tuple(passes)
        convolve = self._convolve(conv2d or convext.conv2d)
        if self.dtype not in INTEGER_DTYPES:
            with _poisoned_memory():
                return _evaluate(convolve, tensors, passes)
        mask = [name in passes for name in PASSES[1:]]
        with _poisoned_memory():
            output = convolve(tensors.input, tensors.weight, tensors.bias)
            grads = torch.ops.convext.conv2d_backward(
                tensors.grad_output,
                tensors.input,
                tensors.weight,
                self.stride,
                self.padding,
                self.dilation,
                self.groups,
                self.padding_mode,
                mask,
            )
        results = dict(zip(PASSES, (output, *grads), strict=True))
        return {name: results[name] for name in passes}

    def reference(
        self, passes: Sequence[str] | None = None, tensors: Tensors | None = None
    ) -> dict[str, Reference]:
        """The same through ``F.pad`` and ``F.conv2d`` on the CPU, in float64 (complex128).

        Integers go through float64 as well, which holds their small sums exactly; their ``value``
        is int64. ``passes`` and ``tensors`` as in :meth:`run`.
        """
        passes = self.passes if passes is None else tuple(passes)
        tensors = tensors or self.tensors()
        wide = torch.complex128 if self.dtype.is_complex else torch.float64

        def evaluate(prepare: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
            prepared = Tensors(
                input=prepare(tensors.input.cpu()),
                weight=prepare(tensors.weight.cpu()),
                bias=None if tensors.bias is None else prepare(tensors.bias.cpu()),
                grad_output=prepare(tensors.grad_output.cpu()),
            )
            return _evaluate(self._pad_and_convolve, prepared, passes)

        with one_thread() if self._is_small else contextlib.nullcontext():
            values = evaluate(lambda tensor: tensor.to(wide).contiguous())
            magnitudes = evaluate(_magnitude)
            lengths = evaluate(lambda tensor: torch.ones(tensor.shape, dtype=torch.float64))
        if self.dtype in INTEGER_DTYPES:
            values = {name: value.long() for name, value in values.items()}
        return {name: Reference(values[name], magnitudes[name], lengths[name]) for name in passes}

    def snippet(self, passes: Sequence[str] | None = None, force: str = "") -> str:
        """Python that runs this problem alone and fails as it failed here."""
        arguments = [repr(self)]
        if passes is not None:
            arguments.append(f"passes={tuple(passes)!r}")
        if force:
            arguments.append(f"force={force!r}")
        return (
            "import torch\n"
            "from convext.testing import Problem, assert_correct\n"
            f"assert_correct({', '.join(arguments)})"
        )

    def native(self, tensors: Tensors | None = None) -> Any:
        """The ``convext._C.ConvProblem`` of the same geometry, for plans; of a complex
        convolution, that of the real ones it is made of. Its layouts are those of ``tensors``, by
        default of what the problem draws."""
        from convext import _C
        from convext.explaining import layout_of

        real = self.dtype.to_real() if self.dtype.is_complex else self.dtype
        if tensors is None:
            operands = [
                _lay_out(torch.empty(size, dtype=self.dtype, device="meta"), layout)
                for size, layout in zip(
                    (self.input_size, self.weight_size), self._layouts, strict=False
                )
            ]
        else:
            operands = [tensors.input, tensors.weight]
        if convext.is_batch_invariant():
            operands[0] = operands[0][:1]
        input, weight = map(layout_of, operands)
        return _C.ConvProblem(
            self.input_size,
            self.weight_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
            dtype=str(real).removeprefix("torch."),
            input_layout=input,
            weight_layout=weight,
        )

    @property
    def _layouts(self) -> tuple[str, str, str]:
        """Of input, weight and grad_output."""
        if self.layout == "mixed":
            return "channels_last", "contiguous", "contiguous"
        return (self.layout,) * 3

    @property
    def _is_small(self) -> bool:
        """Whether torch in float64, which takes a group after the other, is better off alone."""
        _, _, P, Q = self.output_size or (0, 0, 0, 0)
        return self.groups > 1 or self.N * P * Q * math.prod(self.weight_size) < 1e8

    def _convolve(self, conv2d: Convolution) -> Convolution:
        return functools.partial(
            conv2d,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            padding_mode=self.padding_mode,
        )

    def _pad_and_convolve(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if any(self.pad):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, self.pad, mode=mode)
        return F.conv2d(
            input, weight, bias, stride=self.stride, dilation=self.dilation, groups=self.groups
        )

    def _draw(self, size: Sequence[int], generator: torch.Generator) -> Tensor:
        if self.values == "integer" or self.dtype in INTEGER_DTYPES:
            low = 0 if self.dtype == torch.uint8 else -3
            shape = (*size, 2) if self.dtype.is_complex else size
            drawn = torch.randint(low, 4, shape, generator=generator)
            if self.dtype.is_complex:
                return _narrow(torch.view_as_complex(drawn.double()), self.dtype)
            return drawn.to(self.dtype)
        wide = torch.complex64 if self.dtype.is_complex else torch.float32
        if self.dtype in (torch.float64, torch.complex128):
            wide = self.dtype
        return _narrow(torch.randn(size, generator=generator, dtype=wide), self.dtype)


def _narrow(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)`` without torch's remark that complex32 is experimental."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="ComplexHalf support")
        return tensor.to(dtype)


def _magnitude(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        parts = torch.view_as_real(tensor.to(torch.complex128))
        return parts.abs().sum(-1)
    return tensor.double().abs().contiguous()


@functools.lru_cache(maxsize=1 << 14)
def _output_size(problem: Problem) -> tuple[int, ...] | None:
    """What torch says; cached, as generators ask for the same geometry in every dtype."""
    input = torch.empty(problem.input_size, device="meta")
    weight = torch.empty(problem.weight_size, device="meta")
    try:
        return tuple(problem._pad_and_convolve(input, weight, None).shape)
    except (RuntimeError, ValueError):
        return None


def _evaluate(convolve: Convolution, tensors: Tensors, passes: Sequence[str]) -> dict[str, Tensor]:
    """Every pass of one convolution, through autograd."""
    operands = {"input_grad": tensors.input, "weight_grad": tensors.weight}
    if tensors.bias is not None:
        operands["bias_grad"] = tensors.bias
    unknown = [name for name in passes if name != "forward" and name not in operands]
    if unknown:
        raise ValueError(f"this problem has no pass {', '.join(unknown)}")
    # Leaves that share memory with the operands, strides included.
    leaves = {
        name: tensor.detach().requires_grad_(name in passes) for name, tensor in operands.items()
    }
    output = convolve(leaves["input_grad"], leaves["weight_grad"], leaves.get("bias_grad"))
    results = {"forward": output.detach()}
    wanted = [name for name in passes if name != "forward"]
    if wanted:
        grads = torch.autograd.grad(output, [leaves[name] for name in wanted], tensors.grad_output)
        results.update(zip(wanted, grads, strict=True))
    return {name: results[name] for name in passes}


def _lay_out(values: Tensor, layout: str) -> Tensor:
    """A tensor of these values in this layout; what surrounds them is poisoned."""
    if layout == "contiguous":
        return values.contiguous()
    if layout == "channels_last":
        return values.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return values.transpose(2, 3).contiguous().transpose(2, 3)
    if layout == "expanded":
        return values[:1].expand_as(values) if values.shape[0] else values
    n, c, h, w = values.shape
    if layout == "offset":
        view = _poison((values.numel() + 2,), values)[1:-1].view(values.shape)
    elif layout == "sliced":
        view = _poison((n, c, h + 2, 2 * w + 2), values)[:, :, 1 : h + 1, 1 : 2 * w : 2]
    else:
        buffer = _poison((n, h, w, c + 3), values)
        view = buffer[..., 1 : c + 1].permute(0, 3, 1, 2)
    return view.copy_(values)


def _poison(size: tuple[int, ...], like: Tensor) -> Tensor:
    integral = not (like.is_floating_point() or like.is_complex())
    fill = torch.iinfo(like.dtype).max if integral else float("nan")
    return torch.full(size, fill, dtype=like.dtype, device=like.device)


@contextlib.contextmanager
def _poisoned_memory() -> Iterator[None]:
    """``torch.empty`` gives NaN (the largest value for integers) within.

    torch fills new memory while deterministic algorithms are on and
    ``torch.utils.deterministic.fill_uninitialized_memory`` is True, its default.
    """
    settings: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fill


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small problems lose more to waking threads than they gain, and far more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
