"""Screenshots of every tab of ``clipstill ui`` for a finished run, on a desktop and a phone, light and dark.

    python benchmarks/page_states.py RUN --out runs/page-states

RUN lies alone in its workspace. Prints how many pixels each page is wider than its window: 0, if nothing scrolls
sideways.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from page_memory import browser_with_camera, ui_page

TABS = ("Start", "Watch", "Images", "Try", "Improve", "Compare", "Get")
WINDOWS = {"desktop": (1280, 900), "phone": (390, 844)}
SETTLED_MS = 2500
TOO_WIDE = "document.documentElement.scrollWidth - window.innerWidth"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photo", type=Path, help="tried in the tabs Try and Compare")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print("| window | scheme | tab | pixels too wide |\n|---|---|---|---:|", flush=True)
    with (
        ui_page(given.run) as (address, _),
        browser_with_camera() as browser,
    ):
        for window, (width, height) in WINDOWS.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
                page.goto(address)
                page.wait_for_selector("#classes textarea")
                for tab in TABS:
                    if not page.get_by_role("tab", name=tab).count():  # In the menu of tabs that found no room.
                        page.locator(".overflow-menu > button").click()
                        page.locator(".overflow-dropdown button", has_text=tab).click()
                    else:
                        page.get_by_role("tab", name=tab).click()
                    place = f"#{tab.lower()}-photo input[type=file]"
                    if given.photo is not None and page.locator(place).count():
                        page.set_input_files(place, given.photo)
                    page.wait_for_timeout(SETTLED_MS)
                    page.screenshot(path=given.out / f"{window}-{scheme}-{tab.lower()}.png", full_page=True)
                    print(f"| {window} | {scheme} | {tab} | {max(0, page.evaluate(TOO_WIDE))} |", flush=True)
                page.close()


if __name__ == "__main__":
    main()
