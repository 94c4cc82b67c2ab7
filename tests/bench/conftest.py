"""A small shape table, and peaks that are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from benching import PEAKS, TINY_CSV

from convext.bench import peaks


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.csv"
    path.write_text(TINY_CSV, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def known_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's peaks are not looked for in every test."""
    monkeypatch.setattr(peaks, "measure", lambda threads, cache: dict.fromkeys(threads, PEAKS))
