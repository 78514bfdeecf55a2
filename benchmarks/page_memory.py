"""Memory of a page over many photos from the camera, which is a drawing here.

    python benchmarks/page_memory.py RUN/bundle [--photos 1000]
    python benchmarks/page_memory.py RUN        [--photos 1000]

Of a bundle its own page; of a run, alone in its workspace, the tab Try of ``clipstill ui``. The JavaScript heap after
its rubbish is collected, the resident memory of all of Chromium's processes, and for the tab that of the page's server.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

PLAYING = "[...document.querySelectorAll('video')].some(each => each.currentTime > 0.2)"
SHOWN = "document.getElementById('photo').src"
ANSWERED = "document.getElementById('answer').getAttribute('aria-busy') == 'false'"


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a line for each."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def resident_mb(parent: int) -> float:
    """Memory of all processes below one."""
    parents, pages = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)], pages[int(entry.name)] = int(fields[1]), int(fields[21])
        except (OSError, ValueError):
            continue
    family = {parent}
    for _ in range(5):
        family |= {child for child, above in parents.items() if above in family}
    return sum(pages.get(each, 0) for each in family - {parent}) * os.sysconf("SC_PAGE_SIZE") / 1e6


def own_mb(process: int) -> float:
    """Memory of one process."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def browser_with_camera() -> Iterator[Browser]:
    """The system's Chromium, whose camera shows a drawing."""
    program = next(filter(None, map(shutil.which, NAMES)))
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=ARGUMENTS) as browser,
    ):
        yield browser


@contextmanager
def bundle_page(bundle: Path) -> Iterator[tuple[str, int]]:
    """The address of a bundle's page."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(bundle)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html", 0
    server.shutdown()


def shoot_in_bundle(page: Page) -> None:
    """Take a photo in a bundle's page, and wait for its answer."""
    page.click("#take")
    page.wait_for_selector("#camera:not([hidden])")
    before = page.evaluate(SHOWN)
    page.click("#shoot")
    page.wait_for_function(f"{SHOWN} != {before!r} && {ANSWERED}")


@contextmanager
def ui_page(run: Path) -> Iterator[tuple[str, int]]:
    """The address of ``clipstill ui`` for a run's workspace, and the server's process."""
    command = [sys.executable, "-m", "clipstill", "ui", "--workspace", str(run.parent), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.send_signal(signal.SIGINT)


def shoot_in_ui(page: Page) -> None:
    """Take a photo in the tab Try, and wait for its answer."""
    if page.get_by_role("button", name="Remove Image").count():
        page.get_by_role("button", name="Remove Image").click()
        page.wait_for_selector("#answer:not(:has(.cs-bars))", state="attached")
    camera = page.get_by_role("button", name="Click to Access Webcam")
    shutter = page.get_by_role("button", name="capture photo")
    camera.or_(shutter).first.wait_for()
    if camera.count():
        camera.click()
    page.wait_for_function(PLAYING)
    shutter.click()
    page.wait_for_selector("#answer .cs-bars")


def open_try(page: Page) -> None:
    """Open the tab Try, with the newest run, and the camera as the source of photos."""
    page.wait_for_selector("#classes textarea")
    page.get_by_role("tab", name="Try").click()
    page.get_by_role("button", name="Capture from camera").click()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN or BUNDLE")
    parser.add_argument("--photos", type=int, default=1000)
    given = parser.parse_args()
    is_run = (given.folder / "run.json").is_file()
    shoot: Callable[[Page], None] = shoot_in_ui if is_run else shoot_in_bundle
    with (
        (ui_page if is_run else bundle_page)(given.folder) as (address, server),
        browser_with_camera() as browser,
    ):
        page = browser.new_page(bypass_csp=True)
        page.goto(address)
        if is_run:
            open_try(page)
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")
        print("| photos | JavaScript heap, MB | Chromium, MB | server, MB |\n|---:|---:|---:|---:|", flush=True)
        for number in range(1, given.photos + 1):
            shoot(page)
            if number in (1, 10) or not number % 250:
                page.wait_for_timeout(1000)
                tools.send("HeapProfiler.collectGarbage")
                metrics = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
                heap, others = metrics["JSHeapUsedSize"] / 1e6, resident_mb(os.getpid())
                served = own_mb(server) if server else 0.0
                print(f"| {number} | {heap:.1f} | {others - served:.0f} | {served:.0f} |", flush=True)


if __name__ == "__main__":
    main()
