"""How the documentation looks: formulas and sources in headless Chromium, under its own style."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STYLE = (DOCS / "_static" / "convext.css").read_text(encoding="utf-8")
FORMULA = re.compile(r"^\$\$\n(.+?)\n\$\$$", re.MULTILINE | re.DOTALL)
# What the theme says of these places, in short.
THEME = """
* { box-sizing: content-box; margin: 0; }
html { overflow-y: scroll; }
.page { display: flex; }
.sidebar-drawer { box-sizing: border-box; flex: none; min-width: 15em; width: calc(50% - 26em); }
.content { width: 46em; padding: 0 3em; }
.toc-drawer { box-sizing: border-box; flex: none; width: 15em; }
.highlight pre { overflow: auto; font: 81.25% monospace; padding: .625rem .875rem; }
.linenos { padding-right: 10px; margin-right: 10px; }
"""


@pytest.fixture
def page(browser: Any) -> Any:
    page = browser.new_page()
    yield page
    page.close()


def body(inner: str) -> str:
    return f"""<!doctype html><style>{THEME}{STYLE}</style>
        <div class="page"><div class="sidebar-drawer"></div><div class="content">{inner}</div>
        <div class="toc-drawer"></div></div>"""


def test_no_formula_has_a_scroll_bar(page: Any) -> None:
    """On a wide screen; on a narrow one only a horizontal one."""
    to_mathml = pytest.importorskip("docutils.utils.math.latex2mathml").tex2mathml
    texts = [file.read_text(encoding="utf-8") for file in sorted(DOCS.rglob("*.md"))]
    formulas = [formula for text in texts for formula in FORMULA.findall(text)]
    assert len(formulas) > 10
    written = (f'<div class="formula">{to_mathml(f, as_block=True)}</div>' for f in formulas)
    page.set_content(body("".join(written)))
    for width in (1400, 420):
        page.set_viewport_size({"width": width, "height": 900})
        over = page.eval_on_selector_all(
            ".formula",
            "all => all.map(f => [f.scrollWidth - f.clientWidth, f.scrollHeight - f.clientHeight])",
        )
        assert len(over) == len(formulas)
        assert all(down <= 0 for _, down in over), width
        assert width < 1400 or all(right <= 0 for right, _ in over)


def test_lines_of_sources_fit(page: Any) -> None:
    """100 columns behind a number of three digits."""
    line = '<span class="linenos">123</span>' + "x" * 100
    source = (
        f'<div class="literal-block-wrapper"><div class="highlight"><pre>{line}</pre></div></div>'
    )
    page.set_content(body(source))
    for width in (1366, 1400, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        over = "pre => [pre.scrollWidth - pre.clientWidth, document.body.scrollWidth - innerWidth]"
        assert max(page.eval_on_selector("pre", over)) <= 0, width
