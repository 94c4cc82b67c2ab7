"""Where the commands print."""

from __future__ import annotations

import rich.box
from rich.console import Console
from rich.table import Table

PIPED_WIDTH = 120


def make_console() -> Console:
    """A console for standard output: coloured in a terminal, plain and wide in a pipe or file."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPED_WIDTH)


def make_table(title: str = "") -> Table:
    """A table in the commands' common style."""
    return Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
