"""Tests that need a GPU, and the kernels for it: `make test-gpu`. Elsewhere they say that they did
not run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from convext import _C, _library

HERE = Path(__file__).parent


def missing() -> str:
    if not torch.cuda.is_available():
        return "no GPU that torch can use"
    if not _C.cuda_loaded():
        return f"CUDA kernels: {_library.cuda_problem}"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = missing()
    for item in items:
        if reason and HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _exact_float32() -> Iterator[None]:
    """No TF32 but where a test asks for it."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    yield
    torch.backends.cudnn.conv.fp32_precision = before
