"""The directory of a report: what is checked before a run, and written after it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convext.bench import report
from convext.bench.pages import html, markdown, plots
from convext.bench.pages.contents import sections

RUN, BEFORE = "run.json", "before.json"


@dataclass(frozen=True)
class Stored:
    """A run's file: what is in it, and its bytes."""

    run: dict[str, Any]
    data: bytes

    @staticmethod
    def read(path: Path) -> Stored:
        """Read a run's file.

        Raises:
            ValueError: it cannot be read, or is not a run of times.
        """
        return Stored(report.read_json(path), path.read_bytes())


def check(option: str, directory: Path) -> None:
    """Find out before a run, not after it, whether its report can be made.

    Makes the directory.

    Args:
        option: the option that names it.
        directory: where the report is to be written.

    Raises:
        ValueError: the directory cannot be made or written to.
        ModuleNotFoundError: matplotlib is not installed.
    """
    plots.check_available()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"{option} {directory}: {error.strerror}") from error


def write(option: str, directory: Path, stored: Stored, before: Stored | None) -> list[str]:
    """Write a run's report: its JSON, Markdown, HTML and figures.

    Args:
        option: the option that names the directory.
        directory: where to, as ``check`` left it.
        stored: the run.
        before: another run to hold it against, if any.

    Returns:
        The names of the files. Others that were there stay.

    Raises:
        ValueError: a file cannot be written.
        ModuleNotFoundError: matplotlib is not installed.
    """
    found = sections(stored.run, before.run if before else None)
    contents = {
        "report.html": html.page(found).encode("utf-8"),
        "report.md": markdown.page(found).encode("utf-8"),
        RUN: stored.data,
        **({BEFORE: before.data} if before else {}),
        **{f"{plot.name}.png": plot.png for section in found for plot in section.plots},
    }
    try:
        for name, data in contents.items():
            (directory / name).write_bytes(data)
    except OSError as error:
        raise ValueError(f"{option} {error.filename}: {error.strerror}") from error
    return list(contents)
