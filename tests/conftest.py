"""What all tests share: a seed, and nothing left switched on behind a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from browsers import find_browser

import convext

# pytest-xdist sets it in its processes; what commands print is as wide as in a pipe without it.
os.environ.pop("COLUMNS", None)


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, one for each module of tests."""
    from playwright.sync_api import sync_playwright  # tests on a GPU go without

    path = find_browser()
    # Chromium refuses to run as root inside its sandbox.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=arguments)
        yield chromium
        chromium.close()


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
