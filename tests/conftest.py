"""What all tests share: a seed, and nothing left switched on behind a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import convext


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: the other processes have the rest meanwhile."""
    longest = ["test_native.py", "test_emulation.py"]
    items.sort(key=lambda item: item.path.name not in longest)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Prints what tests have to tell besides that they passed: their property ``told``."""
    reports = terminalreporter.getreports("passed")
    lines = [
        value for report in reports for name, value in report.user_properties if name == "told"
    ]
    if lines:
        terminalreporter.section("told by tests")
    for line in lines:
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """Fails the test that leaves a process-wide choice of kernels changed, and puts it back."""

    def state() -> tuple[bool, str, int | None]:
        return convext.is_batch_invariant(), convext.forced_plan(), convext.workspace_limit()

    before = state()
    yield
    after = state()
    convext.batch_invariant(before[0])
    convext._C.set_forced_plan(before[1])
    convext.set_workspace_limit(before[2])
    assert after == before
