"""Checks of a convolution against float64, shared by the tests and by ``convext verify``.

A :class:`Problem` is one convolution; :func:`check` runs it through convext and compares each pass
with ``F.pad`` and ``F.conv2d`` in float64. :func:`problems_around`, :func:`edge_problems` and
:func:`random_problems` make problems worth running.

    >>> import torch
    >>> from convext.testing import Problem, assert_correct
    >>> problem = Problem(N=2, C=3, H=5, W=5, K=4, R=3, S=3, padding=(1, 1), stride=(2, 2))
    >>> report = assert_correct(problem)
    >>> sorted(report)
    ['forward', 'input_grad', 'weight_grad']
"""

from convext.plan import PASSES as NATIVE_PASSES

from ._compare import (
    Comparison,
    assert_correct,
    check,
    compare,
    error_bound,
    expected_memory_format,
    force_for,
)
from ._generate import around, edge_problems, problems_around, random_problems, thinned
from ._problem import (
    COMPLEX_DTYPES,
    FLOATING_DTYPES,
    INTEGER_DTYPES,
    LAYOUTS,
    PADDING_MODES,
    PASSES,
    Problem,
    Reference,
    Tensors,
    one_thread,
)

__all__ = [
    "COMPLEX_DTYPES",
    "FLOATING_DTYPES",
    "INTEGER_DTYPES",
    "LAYOUTS",
    "NATIVE_PASSES",
    "PADDING_MODES",
    "PASSES",
    "Comparison",
    "Problem",
    "Reference",
    "Tensors",
    "around",
    "assert_correct",
    "check",
    "compare",
    "edge_problems",
    "error_bound",
    "expected_memory_format",
    "force_for",
    "one_thread",
    "problems_around",
    "random_problems",
    "thinned",
]
