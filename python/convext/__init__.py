"""convext: native-accelerated 2D convolution for PyTorch, a drop-in for nn.Conv2d and F.conv2d.

>>> import convext
>>> model = convext.convert(model)  # every nn.Conv2d becomes a convext.ConvExt2d, in place

- :func:`conv2d`, :class:`ConvExt2d`, :class:`LazyConvExt2d`: a function and two modules that take
  the places of :func:`torch.nn.functional.conv2d`, :class:`torch.nn.Conv2d`,
  :class:`torch.nn.LazyConv2d`.
- :func:`convert`, :func:`revert`, :class:`patch`: existing models.
- :func:`compare`: a model's layers on convext and on torch, errors and times.
- :func:`explain`, :class:`Plan`, :func:`problem`, :func:`last_plan`: what will run, and what ran.
- :class:`batch_invariant`, :func:`force_plan`: a say in it.
- :func:`trace`: what a convolution does, step by step.
- :func:`set_workspace_limit`, :func:`held_workspace`, :func:`free_workspace`: working memory.
- :func:`decompositions`: exported programs that need no convext.
"""

from . import _library

__version__ = _library.package_version()
_C = _library.load(list(__path__))
_library.cuda_problem = _library.load_cuda(list(__path__))

from ._ops import decompositions  # noqa: E402 - the operators have to be loaded first
from .compare import Comparison, compare  # noqa: E402
from .convert import convert, patch, revert  # noqa: E402
from .explaining import explain, last_plan, problem  # noqa: E402
from .functional import conv2d  # noqa: E402
from .modules import ConvExt2d, LazyConvExt2d  # noqa: E402
from .options import (  # noqa: E402
    batch_invariant,
    force_plan,
    forced_plan,
    free_workspace,
    held_workspace,
    is_batch_invariant,
    set_workspace_limit,
    workspace_limit,
)
from .plan import Plan  # noqa: E402
from .tracing import trace  # noqa: E402

__all__ = [
    "Comparison",
    "ConvExt2d",
    "LazyConvExt2d",
    "Plan",
    "__version__",
    "batch_invariant",
    "compare",
    "conv2d",
    "convert",
    "decompositions",
    "explain",
    "force_plan",
    "forced_plan",
    "free_workspace",
    "held_workspace",
    "is_batch_invariant",
    "last_plan",
    "patch",
    "problem",
    "revert",
    "set_workspace_limit",
    "trace",
    "workspace_limit",
]
