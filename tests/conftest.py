"""What several test files stand on."""

from collections.abc import Iterator

import pytest
import torch

from browser_fixtures import browser, browser_page  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def own_torch_settings() -> Iterator[None]:
    """A run sets threads and determinism of the whole process; the test files behind it get their own back."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
