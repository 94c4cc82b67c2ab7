"""The documentation is complete: every public name has its place, every algorithm its chapter."""

from __future__ import annotations

import re
from pathlib import Path

import convext
import convext.testing

DOCS = Path(__file__).resolve().parents[1] / "docs"

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
