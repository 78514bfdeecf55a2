"""What several test files stand on."""

import gc
import os
from collections.abc import Iterator

import pytest

from browser_fixtures import browser, browser_page  # noqa: F401 (fixtures)
from export_fixtures import tiny_bundle  # noqa: F401 (fixture)
from hub_fixtures import hub  # noqa: F401 (fixture)
from run_fixtures import measured_run, own_torch_settings, photos, quick_copy, quick_run  # noqa: F401 (fixtures)

# Fixtures that take long: who stands on one of them is as slow.
_SLOW = {"browser", "measured_run", "expected_shards", "after_a_loss", "alone", "cluster", "budgeted", "desk", "story"}


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests."""
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Import the test files without looking for garbage: there is little, and looking takes a sixth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that stand on a slow fixture, give slow ones time on a busy machine, and begin with their files.

    Two processes share the files in this order, so that none is left alone with a slow file at the end.
    """
    for item in items:
        if isinstance(item, pytest.Function) and _SLOW & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))
    slow_files = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow_files)
