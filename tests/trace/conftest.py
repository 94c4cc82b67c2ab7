"""Pages opened in a browser from a file, without a network."""

import os
from pathlib import Path

import pytest

import convext


@pytest.fixture(scope="module")
def lesson_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "trace.html"
    convext.trace().save_html(path)
    return path


@pytest.fixture
def open_page(browser, lesson_file):
    """Opens a page from its file, offline; at the end it must not have complained or asked for
    anything else."""
    heard, requests, contexts = [], [], []

    def open(path=lesson_file, **options):
        context = browser.new_context(**options)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: heard.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open
    for context in contexts:
        context.close()
    assert heard == []
    assert len(requests) == len(contexts)
    assert all(url.startswith("file://") for url in requests)


@pytest.fixture
def page(open_page):
    return open_page()


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory):
    folder = os.environ.get("CONVEXT_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path
