"""A headless Chromium for tests of pages; they are skipped where there is none."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

CHROMIUM_VARIABLE = "CLIPSTILL_CHROMIUM"
# Chromium's own talk with its maker is off, so that every request is the page's.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def chromium_path() -> str | None:
    """The browser: $CLIPSTILL_CHROMIUM, or the first one that is installed; None without."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get(CHROMIUM_VARIABLE) or next((path for name in names if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, once for a test file."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = chromium_path()
    if path is None:
        pytest.skip(f"there is no Chromium; name one with {CHROMIUM_VARIABLE}")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: Any) -> Iterator[Any]:
    """A fresh page without cookies."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()
