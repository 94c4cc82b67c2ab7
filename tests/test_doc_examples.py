"""Every example with ``>>>`` in the documentation's pages and in convext's docstrings runs."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convext

ROOT = Path(__file__).resolve().parents[1]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def names() -> dict[str, Any]:
    """What an example may use without making it first."""
    return {
        "torch": torch,
        "nn": nn,
        "F": F,
        "convext": convext,
        "model": nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1)),
        "layer": convext.ConvExt2d(3, 4, 3, padding=1),
        "image": torch.randn(1, 3, 8, 8),
        "input": torch.randn(2, 3, 8, 8),
        "weight": torch.randn(4, 3, 3, 3),
        "batch": torch.randn(2, 3, 8, 8),
    }


def fences(text: str) -> str:
    """A page's Python blocks alone, each line where it was, so that a failure names it."""
    lines = [""] * (text.count("\n") + 1)
    for match in FENCE.finditer(text):
        first = text.count("\n", 0, match.start(1))
        body = match[1].splitlines()
        lines[first : first + len(body)] = body
    return "\n".join(lines)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples may write files."""
    monkeypatch.chdir(tmp_path)


def run(examples: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    runner.run(examples, out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)


PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "docs").rglob("*.md")
    if ">>>" in fences(path.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("name", PAGES)
def test_page(name: str) -> None:
    text = fences((ROOT / name).read_text(encoding="utf-8"))
    examples = doctest.DocTestParser().get_doctest(text, names(), name, str(ROOT / name), 0)
    run(examples)


def docstrings(module: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=names())
    return [examples for examples in found if examples.examples]


PACKAGE = ROOT / "python"
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", MODULES)
def test_docstrings(module: str) -> None:
    found = docstrings(module)
    assert found
    for examples in found:
        run(examples)


def test_examples_are_found() -> None:
    assert "docs/swap.md" in PAGES
    assert "convext.functional" in MODULES
    assert fences("text\n```python\n>>> 1\n```\n") == "\n\n>>> 1\n\n"
