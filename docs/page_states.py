"""Show every state of the pages, light and dark, on a phone and on a desk: pictures to look at, and what does not fit.

    python docs/page_states.py --workspace runs --photo photo.jpg --out DIR

The first finished run of the workspace is shown, as `clipstill ui`, as its report and as its bundle's page. A page that
is wider than its window is named, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from make_pictures import browser_page, served

WIDTHS = {"phone": 390, "desk": 1280}
MANY = "\n".join(f"class number {number} of many with a long name" for number in range(60))
TABS = ("Start", "Watch", "Images", "Try", "Improve", "Compare", "Get")


def main() -> int:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, required=True, help="a folder with finished runs")
    parser.add_argument("--photo", type=Path, required=True, help="a real photo")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of states, such as try or report")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    too_wide = []
    run = next(path.parent for path in sorted(arguments.workspace.glob("*/report.html")))
    with browser_page() as first, ui(arguments.workspace) as address, served(run) as files:
        for look in ("light", "dark"):
            for device, width in WIDTHS.items():
                context = first.context.browser.new_context(
                    viewport={"width": width, "height": 860}, color_scheme=look, device_scale_factor=1
                )
                page = context.new_page()
                page.set_default_timeout(120_000)
                for name, show in states(address, run, files, arguments.photo):
                    if arguments.only and name not in arguments.only:
                        continue
                    show(page)
                    page.wait_for_timeout(1500)
                    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
                    if wide > 0:
                        too_wide.append(f"{name} on a {device}: {wide} pixels too wide")
                    page.screenshot(path=arguments.out / f"{name}-{device}-{look}.png", full_page=True)
                context.close()
    print("\n".join(too_wide) or "every page fits its window")
    return 1 if too_wide else 0


def states(address: str, run: Path, files: str, photo: Path) -> Iterator[tuple[str, Callable[[Any], None]]]:
    """Each state of the pages, and how to bring a browser's page there."""

    def tab(name: str) -> Callable[[Any], None]:
        def show(page: Any) -> None:
            page.goto(address)
            page.wait_for_selector("#classes textarea")
            page.wait_for_timeout(2500)  # The latest run is chosen.
            page.click("#picker input")
            page.get_by_role("option", name=run.name, exact=True).click()
            if name != "Start":
                choose(page, name)
            for element in {"Try": ["#try-photo"], "Compare": ["#compare-photo"]}.get(name, ()):
                page.set_input_files(f"{element} input[type=file]", photo)
                page.wait_for_selector(".cs-verdict:visible")

        return show

    def checked(names: str, shown: str) -> Callable[[Any], None]:
        def show(page: Any) -> None:
            tab("Start")(page)
            page.fill("#classes textarea", names)
            page.click("#check")
            page.wait_for_selector(f"#said {shown}")

        return show

    def bundle(page: Any) -> None:
        [place, *_] = run.glob("*/index.html")
        page.goto(f"{files}/{place.parent.name}/index.html")
        page.locator("#work").wait_for()
        page.locator("#file").set_input_files(str(photo))
        page.wait_for_selector("#seen-row:not([hidden])")

    for name in TABS:
        yield name.lower(), tab(name)
    yield "names", checked("crane\nheron\nstork\nelefant", ".cs-table")
    yield "many", checked(MANY, ".cs-tiles")
    yield "report", lambda page: page.goto(f"{files}/report.html")
    yield "bundle", bundle


def choose(page: Any, tab: str) -> None:
    """Turn to a tab, which a narrow window hides behind a menu."""
    button = page.get_by_role("tab", name=tab, exact=True)
    if not button.is_visible():
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=tab)
    button.first.click()


@contextmanager
def ui(workspace: Path) -> Iterator[str]:
    """The address of `clipstill ui` for a workspace."""
    program = [sys.executable, "-m", "clipstill", "ui", "--workspace", str(workspace), "--no-browser"]
    server = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
