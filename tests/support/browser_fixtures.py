"""A headless Chromium for tests of pages.

``CLIPSTILL_CHROMIUM`` names the program; else the usual names are looked for. Where there is none, the tests skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

# The machine's own Chromium asks for things at its start; nothing of that belongs into a test. The camera is a drawing.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
_PATIENCE_MS = 60_000


def chromium_path() -> str | None:
    """The program, or None where this machine has none."""
    named = os.environ.get("CLIPSTILL_CHROMIUM")
    if named:
        return named
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for path in map(shutil.which, names) if path is not None), None)


# Not for the whole session: while Playwright is open it keeps an event loop, which tests of servers cannot share.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A running Chromium of Playwright, one a test file."""
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium: install chromium, or name one in CLIPSTILL_CHROMIUM")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: Any) -> Iterator[Any]:
    """An empty page of its own, without anything that an earlier test left."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(_PATIENCE_MS)
    yield page
    context.close()
