"""A report in Markdown, with its figures beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from convext.bench.pages.contents import Section
from convext.bench.pages.listings import Listing

_SPECIAL = str.maketrans(
    {"|": r"\|", "*": r"\*", "`": r"\`", "<": "&lt;", "\\": r"\\", "\n": " ", "\r": " "}
)


def escape(text: str) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    return text.translate(_SPECIAL)


def page(sections: Sequence[Section]) -> str:
    """The whole report; figures are named as files in its own directory."""
    return "\n".join(line for index, one in enumerate(sections) for line in _section(index, one))


def _section(index: int, section: Section) -> Iterator[str]:
    yield from (f"{'#' if index == 0 else '##'} {escape(section.title)}", "")
    for warning in section.warnings:
        yield from (f"**{escape(warning)}**", "")
    for paragraph in section.paragraphs:
        yield from (escape(paragraph), "")
    for plot in section.plots:
        yield from (f"![{escape(plot.title)}]({plot.name}.png)", "")
    for listing in section.listings:
        if listing is not None:
            yield from (f"### {escape(listing.title)}", "") if listing.title else ()
            yield from (*_table(listing), "")


def _table(listing: Listing) -> Iterator[str]:
    yield _line(column.name for column in listing.columns)
    yield _line("---:" if column.number else "---" for column in listing.columns)
    for row in listing.rows:
        pairs = zip(listing.columns, row, strict=True)
        yield _line(escape(column.text(value)) for column, value in pairs)


def _line(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"
