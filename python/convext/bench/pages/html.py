"""A report as one HTML file that needs nothing else: figures, style and script are in it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from convext.bench.pages.contents import Section
from convext.bench.pages.listings import Listing
from convext.bench.pages.plots import Plot

_HERE = Path(__file__).parent

# A browser that would load anything from elsewhere is told not to.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def page(sections: Sequence[Section]) -> str:
    """The whole report."""
    style, script = (
        (_HERE / name).read_text(encoding="utf-8").strip() for name in ("page.css", "page.js")
    )
    body = "\n".join(
        line for index, section in enumerate(sections) for line in _section(index, section)
    )
    links = "\n".join(
        f'<a href="#s{index}">{escape(section.title)}</a>'
        for index, section in enumerate(sections)
        if index
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>convext: {escape(sections[0].title)}</title>
<style>
{style}
</style>
</head>
<body>
<nav>
{links}
</nav>
<main>
{body}
</main>
<script>
{script}
</script>
</body>
</html>
"""


def _section(index: int, section: Section) -> Iterator[str]:
    level = "h2" if index else "h1"
    yield f'<section id="s{index}">\n<{level}>{escape(section.title)}</{level}>'
    for warning in section.warnings:
        yield f'<p class="warning">{escape(warning)}</p>'
    for paragraph in section.paragraphs:
        yield f"<p>{escape(paragraph)}</p>"
    for number, plot in enumerate(section.plots):
        yield _figure(plot, opened=number == 0)
    for listing in section.listings:
        if listing is not None:
            yield from _table(listing)
    yield "</section>"


def _figure(plot: Plot, opened: bool) -> str:
    data = base64.b64encode(plot.png).decode("ascii")
    title = escape(plot.title)
    return (
        f"<details{' open' if opened else ''}><summary>{title}</summary>\n"
        f'<img alt="{title}" src="data:image/png;base64,{data}">\n</details>'
    )


def _table(listing: Listing) -> Iterator[str]:
    if listing.title:
        yield f"<h3>{escape(listing.title)}</h3>"
    if listing.long:
        yield (
            '<p class="filter"><input type="search" placeholder="words, threads=1, ratio&lt;1" '
            'aria-label="Filter the rows"> <output></output></p>'
        )
    heads = "".join(
        f"<th{' class=n' if column.number else ''}{' data-ratio' if column.ratio else ''}>"
        f"<button>{escape(column.name)}</button></th>"
        for column in listing.columns
    )
    yield f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>'
    for row in listing.rows:
        cells = []
        for column, value in zip(listing.columns, row, strict=True):
            classes = ["n"] if column.number else []
            classes += ["low"] if column.ratio and value is not None and value < 1 else []
            names = f' class="{" ".join(classes)}"' if classes else ""
            cells.append(f"<td{names}>{escape(column.text(value))}")
        yield f"<tr>{''.join(cells)}"
    yield "</tbody>\n</table></div>"
