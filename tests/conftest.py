"""What several test files stand on."""

from browser_fixtures import browser, browser_page  # noqa: F401 (fixtures)
from run_fixtures import measured_run, own_torch_settings, photos, quick_copy, quick_run  # noqa: F401 (fixtures)
