"""Where the commands print."""

from __future__ import annotations

import os

import rich.box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 120


def make_console(piped_width: int = PIPED_WIDTH) -> Console:
    """A console for standard output: coloured in a terminal, plain and wide in a pipe or file,
    unless COLUMNS says how wide."""
    console = Console(highlight=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdecimal():
        return console
    return Console(highlight=False, width=piped_width)


def make_table(title: str = "") -> Table:
    """A table in the commands' common style."""
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
