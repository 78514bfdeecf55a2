"""Make the pictures of the docs.

    python docs/make_pictures.py --run runs/zoo --photo photo.jpg

Pictures are screenshots of the system's own Chromium: ``$CLIPSTILL_CHROMIUM``, or the first of its usual names on the
path. Those that show synthetic images carry their mark.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from clipstill.core.synthetic_mark import PARTLY_SYNTHETIC, save_marked

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
# A doubtful name of each kind: two senses, two that are alike, one that no photo shows.
TRAPS = "crane,heron,stork,mouse,dog,freedom"
# A shorter default recipe; the page looks the same.
CLASSES = "dog\nelephant\ngiraffe\nguitar\nhorse\nhouse\nperson"
SETTINGS = "prompts.images_per_class=8\nsynthesis.steps=30\nseed=0"
_WIDTH, _WIDE, _TALLEST = 900, 1180, 1180
_RUN_MS = 900_000


def main() -> None:
    """Make all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a finished run with synthetic images")
    parser.add_argument("--photo", type=Path, required=True, help="a real photo for the page in the browser")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "pictures")
    parser.add_argument("--only", nargs="*", default=[], help=f"of {', '.join(PICTURES)}")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with browser_page() as page:
        for name, make in PICTURES.items():
            if arguments.only and name not in arguments.only:
                continue
            missing = make(page, arguments)
            print(f"{name}: {missing or 'made'}", file=sys.stderr)


@contextlib.contextmanager
def browser_page() -> Iterator[Page]:
    """A page of a Chromium that is installed on this machine."""
    program = os.environ.get("CLIPSTILL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        sys.exit(
            "error: there is no Chromium on the path. Install one, or name it: CLIPSTILL_CHROMIUM=/usr/bin/chromium"
        )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(QUIET))
        try:
            yield browser.new_page(viewport={"width": _WIDTH, "height": 800}, device_scale_factor=1.5)
        finally:
            browser.close()


def plan(page: Page, arguments: argparse.Namespace) -> str | None:
    """The output of ``clipstill plan`` for doubtful class names, as a terminal shows it."""
    words = ["plan", "--classes", TRAPS]
    done = subprocess.run([sys.executable, "-m", "clipstill", *words], capture_output=True, text=True)
    if done.returncode:
        return f"left out: {done.stderr.strip().splitlines()[-1]}"
    page.set_content(terminal(f'clipstill plan --classes "{TRAPS}"', done.stdout))
    shoot(page, arguments.out / "plan.png", "svg", synthetic=False)
    return None


def report(page: Page, arguments: argparse.Namespace) -> str | None:
    """The top of a run's report: the result, and size and speed of the bundle."""
    page.goto((arguments.run / "report.html").resolve().as_uri())
    page.wait_for_load_state()
    shoot(page, arguments.out / "report.png", synthetic=False)
    return None


def images(page: Page, arguments: argparse.Namespace) -> str | None:
    """The synthetic images of a run's report, a line a class."""
    page.goto((arguments.run / "report.html").resolve().as_uri())
    shown = page.locator("section", has=page.locator("td img"))
    if not shown.count():
        return "left out: the run has no synthetic images"
    save(shown.first.screenshot(), arguments.out / "images.png", synthetic=True)
    return None


def ladder(page: Page, arguments: argparse.Namespace) -> str | None:
    """The ladder of a run's report: other ways to the same classifier."""
    page.goto((arguments.run / "report.html").resolve().as_uri())
    section = page.locator("section", has=page.locator("h2", has_text="Was distillation worth it?"))
    if not section.count():
        return "left out: the report has no ladder; give the run photos to measure on (--images DIR)"
    page.set_viewport_size({"width": _WIDE, "height": 800})
    save(section.first.screenshot(), arguments.out / "ladder.png", synthetic=False)
    return None


def browser(page: Page, arguments: argparse.Namespace) -> str | None:
    """The bundle's own page, with a real photo."""
    bundle = arguments.run / "bundle"
    if not (bundle / "index.html").is_file():
        return "left out: the bundle has no index.html"
    with served(bundle) as address:
        page.goto(f"{address}/index.html")
        page.locator("#work").wait_for()
        page.locator("#file").set_input_files(str(arguments.photo))
        page.wait_for_selector("#seen-row:not([hidden])")
        page.wait_for_selector("#answer[aria-busy=false]")
        shoot(page, arguments.out / "browser.png", synthetic=False)
    return None


def ui(page: Page, arguments: argparse.Namespace) -> str | None:
    """The app during a run: class names are entered, the run is started, and half of its images are made."""
    with tempfile.TemporaryDirectory() as workspace:
        program = [sys.executable, "-m", "clipstill", "ui", "--workspace", workspace, "--no-browser"]
        server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            page.set_default_timeout(_RUN_MS)
            page.set_viewport_size({"width": _WIDE, "height": 860})
            page.goto(server.stdout.readline().strip())
            page.fill("#classes textarea", CLASSES)
            page.fill("#name input, #name textarea", "zoo")
            page.get_by_text("Teacher, student and other settings").click()
            page.fill("#settings textarea", SETTINGS)
            page.click("#start")
            page.wait_for_selector("#preview img")
            page.wait_for_function(
                """() => {
                    const amount = document.querySelector("#progress li.running em")?.textContent;
                    const told = amount?.match(/(\\d+) of (\\d+)/);
                    return told && 2 * Number(told[1]) >= Number(told[2]);
                }"""
            )
            page.wait_for_timeout(3_000)
            save(page.screenshot(), arguments.out / "ui.png", synthetic=True)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()
    return None


PICTURES = {"plan": plan, "report": report, "images": images, "ladder": ladder, "browser": browser, "ui": ui}


def terminal(command: str, text: str) -> str:
    """Command and output as a picture of a terminal (SVG in HTML), by rich."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, file=io.StringIO(), width=130, color_system="truecolor")
    console.print(Text("$ ", style="green"), Text(command, style="bold"), sep="")
    console.print(Text(text.rstrip()))
    drawn = console.export_svg(title="clipstill")
    # rich loads a font from the web; take the system's own.
    drawn = drawn.replace("Fira Code", "monospace")
    kept = [part for number, part in enumerate(drawn.split("@font-face {")) if number == 0]
    rest = [part.split("}", 1)[1] for part in drawn.split("@font-face {")[1:]]
    return f"<body style='margin:0;background:#fff'>{''.join([*kept, *rest])}</body>"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server for a folder that only this machine can reach."""

    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def shoot(page: Page, target: Path, element: str | None = None, synthetic: bool = True) -> None:
    """A picture of the page's top, or of one element."""
    if element is not None:
        save(page.locator(element).first.screenshot(), target, synthetic)
        return
    height = min(int(page.evaluate("document.documentElement.scrollHeight")), _TALLEST)
    page.set_viewport_size({"width": _WIDTH, "height": height})
    save(page.screenshot(), target, synthetic)


def save(png: bytes, target: Path, synthetic: bool) -> None:
    """Write a picture with few colours, small enough for a repository, and marked where it shows synthetic images."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(192, dither=Image.Dither.NONE)
    if synthetic:
        save_marked(image, target, "PNG", PARTLY_SYNTHETIC, optimize=True)
    else:
        image.save(target, "PNG", optimize=True)


if __name__ == "__main__":
    main()
