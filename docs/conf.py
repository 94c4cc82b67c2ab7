"""How Sphinx builds these pages: `make docs`. Nothing is fetched, now or by who reads them."""

from __future__ import annotations

import pathlib
import re
import sys

from sphinx.application import Sphinx

import convext

DOCS = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS / "figures")]

import draw  # noqa: E402 - docs/figures/draw.py

project = "convext"
author = "convext contributors"
copyright = author  # BSD-3-Clause; a year would only grow old
version = release = "" if convext.__version__.startswith("0+") else convext.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "mathml",
]
exclude_patterns = ["_ext", "_static", "figures"]

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures without them; the docstrings say what is what
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shape", "params_style"), ("Dtypes", "notes_style")]
napoleon_use_ivar = True

html_theme = "furo"
html_title = "convext"
html_static_path = ["_static"]
html_css_files = ["convext.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

# Links of Markdown files that lead out of docs/ are right where they are read in the repository.
# Here they lead to the page that shows the same file or, if none does, become the file's name.
PAGES = {"README.md": "speed", "CONTRIBUTING.md": "contributing", "CHANGELOG.md": "changelog"}
PAGES |= {"benchmarks/NOTES.md": "notes"}
LINK = re.compile(r"\[([^\]\n]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def _link(match: re.Match[str], folder: pathlib.Path) -> str:
    text, target, anchor = match[1], match[2], match[3] or ""
    if "://" in target or target.startswith("/"):
        return match[0]
    file = (folder / target).resolve()
    if file.is_relative_to(DOCS) or not file.exists():
        # Seen from the page, which for an included file lies in another folder.
        return f"[{text}](/{file.relative_to(DOCS)}{anchor})" if file.exists() else match[0]
    name = file.relative_to(DOCS.parent).as_posix()
    return f"[{text}](/{PAGES[name]}.md{anchor})" if name in PAGES else f"`{name}`"


def _links_of_page(app: Sphinx, page: str, source: list[str]) -> None:
    folder = (DOCS / page).parent
    source[0] = LINK.sub(lambda match: _link(match, folder), source[0])


def _links_of_included(app: Sphinx, path: pathlib.Path, page: str, source: list[str]) -> None:
    folder = (DOCS / path).resolve().parent
    source[0] = LINK.sub(lambda match: _link(match, folder), source[0])


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda _: draw.all_figures(DOCS / "_figures"))
    app.connect("source-read", _links_of_page)
    app.connect("include-read", _links_of_included)
