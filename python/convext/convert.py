"""Existing models: ``convert`` and ``revert`` change modules, ``patch`` redirects calls.

``convert`` changes the class of a module in place, as torch's own lazy modules and parametrizations
do: ``nn.Conv2d`` and ``ConvExt2d`` hold the same state, so that nothing has to be copied. Whatever
refers to the module or to its parameters (hooks, optimizers, shared modules, attributes of one's
own) stays valid.
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from .functional import conv2d
from .modules import ConvExt2d, LazyConvExt2d

logger = logging.getLogger("convext")

M = TypeVar("M", bound=nn.Module)

# A pattern for names, a type, or a predicate of name and module.
Exclude = str | type | Callable[[str, nn.Module], bool]

_CONVERTED: dict[type, type] = {nn.Conv2d: ConvExt2d, nn.LazyConv2d: LazyConvExt2d}
_REVERTED: dict[type, type] = {after: before for before, after in _CONVERTED.items()}


def convert(model: M, exclude: Exclude | Iterable[Exclude] = ()) -> M:
    """Makes every ``nn.Conv2d`` of a model a :class:`convext.ConvExt2d`, in place.

    Parameters, buffers, hooks, training mode, device, dtype and all other attributes stay the very
    same objects, for only the class of a module changes; so an optimizer made before stays valid,
    and a module used in several places stays shared. ``nn.LazyConv2d`` becomes ``LazyConvExt2d``,
    and parametrized modules keep their parametrizations. Convert before ``torch.compile``.

    Subclasses of ``nn.Conv2d`` are left alone, since their own ``forward`` or their name may
    matter: each is logged with the reason (logger ``convext``, level WARNING; excluded modules at
    INFO). Use :class:`patch` to run those on convext as well.

    Args:
        model: any module; it may itself be an ``nn.Conv2d``.
        exclude: modules to leave alone: a pattern for names as in :mod:`fnmatch` (``"head.*"``), a
            type, a function ``(name, module) -> bool``, or several of these. A shared module is
            excluded if any of its names is.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is no module, or ``exclude`` holds something else.

    Example:
        >>> convext.convert(model, exclude="2")
        Sequential(
          (0): ConvExt2d(3, 4, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
          (1): ReLU()
          (2): Conv2d(4, 2, kernel_size=(1, 1), stride=(1, 1))
        )
    """
    rules = _exclusions(exclude)

    def refusal(names: list[str], module: nn.Module) -> str | None:
        if any(rule(name, module) for rule in rules for name in names):
            return "it is excluded"
        return None

    _swap_classes(model, _CONVERTED, nn.Conv2d, (ConvExt2d,), refusal, logging.INFO)
    return model


def revert(model: M) -> M:
    """Undoes :func:`convert`: every ``ConvExt2d`` of a model becomes an ``nn.Conv2d``, in place.

    A module whose padding differs between left and right or top and bottom has no counterpart in
    torch; it is left alone, with a warning in the log.

    Args:
        model: any module.

    Returns:
        ``model``.

    Raises:
        TypeError: ``model`` is no module.
    """

    def refusal(names: list[str], module: nn.Module) -> str | None:
        if not isinstance(module.padding, str) and len(module.padding) == 4:  # type: ignore
            return "nn.Conv2d cannot pad four sides differently"
        return None

    _swap_classes(model, _REVERTED, ConvExt2d, (), refusal, logging.WARNING)
    return model


def _swap_classes(
    model: nn.Module,
    swaps: dict[type, type],
    family: type,
    already: tuple[type, ...],
    refusal: Callable[[list[str], nn.Module], str | None],
    refusal_level: int,
) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, but got {type(model).__name__}")
    names: dict[nn.Module, list[str]] = {}
    module: nn.Module
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, family) and not isinstance(module, already):
            names.setdefault(module, []).append(name)
    changed = 0
    for module, places in names.items():
        label = " = ".join(place or "the model itself" for place in places)
        kind = parametrize.type_before_parametrizations(module)
        if kind not in swaps:
            logger.warning("%s (%s) is left alone: %s", label, kind.__name__, _why_not(kind))
            continue
        reason = refusal(places, module)
        if reason is not None:
            logger.log(refusal_level, "%s (%s) is left alone: %s", label, kind.__name__, reason)
            continue
        _set_class(module, swaps[kind])
        changed += 1
    logger.info("%d of %d modules changed", changed, len(names))


def _why_not(kind: type) -> str:
    """Why a subclass of a convolution is not touched."""
    own = [name for name in ("forward", "_conv_forward", "__call__") if name in own_methods(kind)]
    if own:
        return f"it is a subclass with its own {' and '.join(own)}; convext.patch() reaches it"
    return "it is a subclass, which changing its class would lose; convext.patch() reaches it"


def own_methods(kind: type) -> set[str]:
    """What the classes between ``kind`` and ``nn.Conv2d`` define."""
    return {
        name
        for base in kind.__mro__
        if issubclass(base, nn.Conv2d) and base not in (nn.Conv2d, ConvExt2d)
        for name in vars(base)
    }


def _set_class(module: nn.Module, kind: type) -> None:
    """Changes the class of a module, below the one that its parametrizations may have made."""
    if parametrize.is_parametrized(module):
        parametrized = type(module)
        namespace = {
            name: value
            for name, value in vars(parametrized).items()
            if name not in ("__dict__", "__weakref__", "__doc__")
        }
        kind = type(f"Parametrized{kind.__name__}", (kind,), namespace)
    module.__class__ = kind


def _exclusions(exclude: Any) -> list[Callable[[str, nn.Module], bool]]:
    if isinstance(exclude, (str, type)) or not isinstance(exclude, Iterable):
        exclude = (exclude,)
    return [_exclusion(item) for item in exclude]


def _exclusion(item: Any) -> Callable[[str, nn.Module], bool]:
    if isinstance(item, str):
        return lambda name, module: fnmatch.fnmatchcase(name, item)
    if isinstance(item, type):
        return lambda name, module: isinstance(module, item)
    if callable(item):
        return item  # type: ignore[no-any-return]
    raise TypeError(
        f"exclude takes patterns, types and functions (name, module) -> bool, "
        f"but got {type(item).__name__}"
    )


class patch(TorchFunctionMode):
    """Sends every call of ``F.conv2d`` and ``torch.conv2d`` in a block to :func:`convext.conv2d`.

    >>> with convext.patch():
    ...     output = F.conv2d(input, weight)

    It reaches what :func:`convert` cannot: functions, and modules with a ``forward`` of their own.
    It holds for the thread that entered it, nests, ends with an exception as it ends without, and
    works around and inside of ``torch.compile``. Every function of torch called in the block costs
    about a microsecond more. Convolutions called from C++ (TorchScript, composite operators) are
    not seen, and the backward pass is convext's wherever the forward pass was.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:  # the same object as torch.nn.functional.conv2d
            func = conv2d
        return func(*args, **(kwargs or {}))
