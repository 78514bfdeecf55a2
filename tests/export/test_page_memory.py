"""A thousand frames of the camera in a bundle's page: the memory of the page stays as it is."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from browser_fixtures import browser, browser_page  # noqa: F401 - fixtures

FRAMES, WARM_UP = 1_000, 100
# Kept by each frame it would be 4 MB; one that is not let go is 640 x 480 pixels, so 1.2 MB.
MOST_BYTES = 4_000_000
SHOOT = """async (frames) => {
  const at = (id) => document.getElementById(id);
  const until = async (condition) => { while (!condition()) await new Promise((go) => setTimeout(go, 4)); };
  for (let frame = 0; frame < frames; frame += 1) {
    at("take").click();
    await until(() => !at("camera").hidden && at("video").videoWidth > 0);
    const before = at("photo").getAttribute("src");
    at("shoot").click();
    await until(() => at("photo").getAttribute("src") !== before && at("answer").getAttribute("aria-busy") === "false");
  }
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def origin(tiny_bundle: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tiny_bundle))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_frames_of_the_camera_leave_no_memory_behind(browser_page: Any, origin: str) -> None:  # noqa: F811
    page = browser_page
    page.set_default_timeout(900_000)
    page.goto(f"{origin}/index.html")
    page.wait_for_selector("body[data-ready]")
    inside = page.context.new_cdp_session(page)
    inside.send("Performance.enable")

    def counts() -> dict[str, float]:
        inside.send("HeapProfiler.collectGarbage")
        found = {each["name"]: each["value"] for each in inside.send("Performance.getMetrics")["metrics"]}
        return {name: found[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")}

    page.evaluate(SHOOT, WARM_UP)
    before = counts()
    page.evaluate(SHOOT, FRAMES)
    after = counts()
    print(f"after {WARM_UP} frames {before}, after {FRAMES} more {after}")
    assert after["JSHeapUsedSize"] - before["JSHeapUsedSize"] < MOST_BYTES
    assert after["Nodes"] - before["Nodes"] < 100
    assert after["JSEventListeners"] - before["JSEventListeners"] < 20
