"""Finding a browser to show pages in."""

import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_browser() -> str:
    """The path of a Chromium; without one the tests fail."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.fail(
            f"no browser was found ({', '.join(NAMES)}): pages cannot be tested. On Debian: "
            "apt install chromium"
        )
    return path
