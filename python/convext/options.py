"""Options that decide what runs.

The choices below hold for the whole process, not for one thread: a backward pass may run on another
thread than its forward pass and has to choose alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from . import _C

if TYPE_CHECKING:
    from .plan import Plan

F = TypeVar("F", bound=Callable[..., Any])


class batch_invariant(ContextDecorator):
    """Makes a sample's result independent of what else is in the batch, bit for bit.

    It holds for the output and for the gradient of the input; the gradients of weight and bias are
    sums over the batch. Samples are compared that lie in memory alike, each for
    itself: how a batch strings them together does not matter. It costs some speed, for kernels must
    be chosen without looking at the batch size. Function transforms and forward-mode AD run ATen's
    kernels, to which it does not apply.

    Like :class:`torch.set_grad_enabled` it is a function and a context manager, and it can
    decorate:

    >>> _ = convext.batch_invariant()         # from now on, in the whole process
    >>> _ = convext.batch_invariant(False)    # off again
    >>> with convext.batch_invariant():       # on inside, then as before
    ...     output = model(batch)

    A model compiled by ``torch.compile`` obeys too, as the choice is made when a kernel runs; call
    this outside of the compiled function.

    Args:
        enabled: on or off.

    Raises:
        TypeError: ``enabled`` is no bool.
    """

    def __init__(self, enabled: bool = True) -> None:
        if not isinstance(enabled, bool):
            raise TypeError(f"enabled must be True or False, but got {enabled!r}")
        self.enabled = enabled
        self.previous = _C.set_batch_invariant(self.enabled)

    def __call__(self, function: F) -> F:
        _C.set_batch_invariant(self.previous)  # a decorated function switches only when it runs
        return super().__call__(function)

    def _recreate_cm(self) -> batch_invariant:
        return type(self)(self.enabled)

    def __enter__(self) -> batch_invariant:
        _C.set_batch_invariant(self.enabled)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _C.set_batch_invariant(self.previous)


def is_batch_invariant() -> bool:
    """Whether :class:`batch_invariant` is on."""
    return _C.batch_invariant()


@contextmanager
def force_plan(name: str | Plan) -> Iterator[None]:
    """Runs the kernels of one's choice, whatever the plan would have been.

    >>> with convext.force_plan("reference"):
    ...     expected = convext.conv2d(input, weight)

    Args:
        name: an algorithm (``"indirect"``) or a kernel, as ``convext info --kernels`` names them;
            if need be for some passes only (``"fprop=indirect,wgrad=reference"``); ``""`` forces
            nothing. Or a :class:`convext.Plan`, whose kernels then run in every convolution. The
            environment variable ``CONVEXT_PLAN`` gives the initial value.

    Raises:
        TypeError: ``name`` is neither a string nor a plan.
        RuntimeError: the name is unknown, or two names speak about one pass; or, when a convolution
            is called, the kernel cannot run it: the message says why.
    """
    spec = name if isinstance(name, str) else getattr(name, "spec", None)
    if not isinstance(spec, str):
        raise TypeError(f"name must be a string or a convext.Plan, but got {name!r}")
    previous = _C.set_forced_plan(spec)
    try:
        yield
    finally:
        _C.set_forced_plan(previous)


def forced_plan() -> str:
    """What :func:`force_plan` or ``CONVEXT_PLAN`` asks for; ``""`` if nothing."""
    return _C.forced_plan()


def set_workspace_limit(bytes: int | None) -> None:
    """Bounds the working memory of a convolution, in the whole process.

    A kernel that would need more is refused, and the plan takes the best of the others, down to the
    plain reference, which needs none: so every limit works, 0 too, but a small one costs speed. A
    limit changes which kernel runs, and different kernels differ in rounding; every other promise
    holds under any limit.

    What counts is a call's working memory beyond its tensors: weights and bias packed for the
    kernel, partial sums, and the buffers of one thread, for packed rows and tiles of results. Every
    further thread that takes part has such buffers of its own
    (``explain(...).thread_workspace_bytes``): the number of threads must not decide which kernel
    runs. Complex convolutions consist of real ones, whose sums take two tensors of the result's
    size; these and tables of indices, some kilobytes, are not counted. On CUDA, what counts is
    partial sums and copies of tensors in another layout; :class:`batch_invariant` and a limit
    together bar copies of images.

    >>> convext.set_workspace_limit(1 << 20)   # a megabyte
    >>> convext.set_workspace_limit(None)      # no limit, as at first

    The environment variable ``CONVEXT_WORKSPACE_LIMIT``, in bytes, gives the initial value.

    Args:
        bytes: the most that a call may use, or None for no limit.

    Raises:
        TypeError: ``bytes`` is neither an integer nor None.
        ValueError: ``bytes`` is negative or does not fit 64 bits.
    """
    if bytes is None:
        _C.set_workspace_limit(None)
        return
    if isinstance(bytes, bool) or not hasattr(bytes, "__index__"):
        raise TypeError(f"bytes must be an integer or None, but got {bytes!r}")
    limit = operator.index(bytes)
    if not 0 <= limit < 2**63:
        raise ValueError(f"bytes must be between 0 and 2**63 - 1, or None, but got {limit}")
    _C.set_workspace_limit(limit)


def workspace_limit() -> int | None:
    """What :func:`set_workspace_limit` or ``CONVEXT_WORKSPACE_LIMIT`` allows; None if all."""
    return _C.workspace_limit()


def held_workspace() -> int:
    """The bytes of working memory that convext's kernels hold now, over all threads.

    Buffers are kept for the next call: up to 64 MiB a thread, or up to the limit if that is less.
    What is larger is freed when the call ends.
    """
    return _C.held_workspace()


def free_workspace() -> None:
    """Gives all working memory back: at once, or on threads that are busy when they are done."""
    _C.free_workspace()
