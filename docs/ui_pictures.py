"""Pictures of ``clipstill ui`` in the middle of a run, made by using it in a headless Chromium.

    python docs/ui_pictures.py --out docs --chromium /usr/bin/chromium

``ui-start.png`` is the filled form; ``ui-watch.png`` and ``ui-watch-dark.png`` the page Watch when a third of the
images are there. The run is stopped then; its folder lies in ``--workspace`` and can go on.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

CLASSES = "dog\nelephant\ngiraffe\nguitar\nhorse\nhouse\nperson"
# The default recipe, in shorter: what is seen looks the same.
SETTINGS = "prompts.images_per_class=8\nsynthesis.steps=40\nseed=0"
WAIT_MS = 900_000


def main() -> None:
    """Start the page, fill it in, wait, and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--chromium", required=True, help="the browser's program")
    parser.add_argument("--workspace", type=Path, default=Path("runs/pictures"), help="folder of the run")
    parser.add_argument("--width", type=int, default=1280)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "clipstill", "ui", "--workspace", str(given.workspace), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(
                    executable_path=given.chromium, args=["--no-sandbox", "--disable-gpu"]
                )
                take(browser.new_page(viewport={"width": given.width, "height": 860}), address, given.out)
                browser.close()
        finally:
            server.send_signal(signal.SIGINT)


def take(page: Any, address: str, out: Path) -> None:
    """The pictures, of a page that is not opened yet."""
    page.set_default_timeout(WAIT_MS)
    page.goto(address)
    page.fill("#classes textarea", CLASSES)
    page.fill("#name input, #name textarea", "zoo")
    page.screenshot(path=out / "ui-start.png")
    page.get_by_text("Teacher, student and other settings").click()
    page.fill("#settings textarea", SETTINGS)
    page.click("#start")
    page.wait_for_selector("#preview img")
    # "28 of 112": the first third is there.
    page.wait_for_function(
        """() => {
            const told = document.querySelector("#progress li.at-work em")?.textContent.match(/(\\d+) of (\\d+)/);
            return told && 3 * Number(told[1]) >= Number(told[2]);
        }"""
    )
    page.wait_for_timeout(3000)
    page.screenshot(path=out / "ui-watch.png")
    page.emulate_media(color_scheme="dark")
    page.reload()
    page.get_by_role("tab", name="Watch").click()
    page.wait_for_selector("#preview img")
    page.wait_for_timeout(3000)
    page.screenshot(path=out / "ui-watch-dark.png")
    page.click("#stop")
    page.wait_for_selector("#progress >> text=Nothing is lost")


if __name__ == "__main__":
    main()
