"""Memory of the page of a bundle over many photos from the camera, which is a drawing here.

    python benchmarks/page_memory.py BUNDLE [--photos 1000]

The JavaScript heap after its rubbish is collected, and the resident memory of all of Chromium's processes.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    given = parser.parse_args()
    serve = functools.partial(Quiet, directory=str(given.bundle))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = next(filter(None, map(shutil.which, NAMES)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        page = browser.new_page(bypass_csp=True)
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        tools = page.context.new_cdp_session(page)
        tools.send("Performance.enable")
        print("| photos | JavaScript heap, MB | Chromium, MB |\n|---:|---:|---:|", flush=True)
        for number in range(1, given.photos + 1):
            page.click("#take")
            page.wait_for_selector("#camera:not([hidden])")
            before = page.evaluate(SHOWN)
            page.click("#shoot")
            page.wait_for_function(f"{SHOWN} != {before!r} && {ANSWERED}")
            if number in (1, 10) or not number % 250:
                page.wait_for_timeout(1000)
                tools.send("HeapProfiler.collectGarbage")
                metrics = {one["name"]: one["value"] for one in tools.send("Performance.getMetrics")["metrics"]}
                print(
                    f"| {number} | {metrics['JSHeapUsedSize'] / 1e6:.1f} | {resident_mb(os.getpid()):.0f} |", flush=True
                )
        browser.close()


if __name__ == "__main__":
    main()
