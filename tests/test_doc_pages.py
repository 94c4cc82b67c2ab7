"""The documentation is complete, every public name has its place, every algorithm its chapter; and
the commands that it shows exist."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import convext
import convext.testing
from convext.cli import main

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"

# What documents a name: a directive with it, or a further line of one that takes several.
DOCUMENTED = re.compile(r"^(?:\.\. (?:auto|py:)\w+:: | {10,})(?:[\w.]+\.)?(\w+)$", re.MULTILINE)


def test_public_names() -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))
    documented = set(DOCUMENTED.findall(pages))
    public = {*convext.__all__, *convext.testing.__all__} - {"__version__"}
    assert public <= documented, public - documented


def test_algorithms() -> None:
    book = (DOCS / "book" / "index.md").read_text(encoding="utf-8")
    table = book[book.index("## Which chapter for which kernel") :]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    chapters = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    algorithms = {str(kernel["algorithm"]) for kernel in convext._C.kernels()}
    # A compiler that does not know its instruction leaves this one out.
    assert chapters == algorithms | {"indirect_pairs"}


CONSOLE = re.compile(r"^```console[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The words of each command in the blocks of all pages, of those too that are not run."""
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md")]
    blocks = [
        block for page in pages for block in CONSOLE.findall(page.read_text(encoding="utf-8"))
    ]
    lines = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]
    return [shlex.split(line, comments=True) for line in lines]


def test_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of convext have arguments that it takes, those of make a target."""
    parse_known_args = argparse.ArgumentParser.parse_known_args

    class Parsed(Exception):
        pass

    def parse(self: Any, *args: Any, **kwargs: Any) -> Any:
        found, unknown = parse_known_args(self, *args, **kwargs)
        if self.prog != "convext":  # that of a command, which this one calls
            return found, unknown
        assert unknown == []
        raise Parsed(found)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = commands()
    for words in found:
        if words[0] == "convext":
            with pytest.raises(Parsed):
                main(words[1:])
        elif words[0] == "make":
            assert words[1:2] == [] or words[1] in targets, words
    assert sum(words[0] == "convext" for words in found) > 20
