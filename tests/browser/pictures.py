"""Pictures of every page, to be looked at: ``python -m tests.browser.pictures FOLDER [NAME...]``.

At 360 and at 2,000 pixels, light and dark; names choose among the pages. With ``--readme`` it is the one
picture of the README instead: ``python -m tests.browser.pictures --readme examples``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser.chromium import INSTALL, chromium, missing
from tests.browser.world import World, world
from tests.support.processes import KEY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = {360: 740, 2_000: 1_200}
"""In pixels, with the height of the window."""
THEMES = ("light", "dark")


def take_all(browser: Browser, served: World, folder: Path, names: Collection[str]) -> None:
    """Take the pictures of these pages, or of all."""
    for theme in THEMES:
        for width, height in WIDTHS.items():
            page = _sign_in_page(browser, served, width, height, theme)
            ending = f"{width}-{theme}.png"
            if not names or "sign-in" in names:
                page.screenshot(path=folder / f"sign-in-{ending}", full_page=True)
            _sign_in(page)
            for name in served.links:
                if not names or name in names:
                    served.show(page, name)
                    page.screenshot(path=folder / f"{name}-{ending}", full_page=True)
            page.context.close()


def take_one(browser: Browser, served: World, folder: Path) -> None:
    """Take the picture of the README: a run that is under way."""
    page = _sign_in_page(browser, served, 1_240, 1_330, "light")
    _sign_in(page)
    page.goto(served.url + served.links["run-orders"])
    page.locator(".live").filter(has_text="Live").wait_for()
    page.screenshot(path=folder / "dashboard.png")


def _sign_in_page(browser: Browser, served: World, width: int, height: int, theme: str) -> Page:
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=theme,  # type: ignore[arg-type]
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(f"{served.url}/sign-in")
    return page


def _sign_in(page: Page) -> None:
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_url("**/ns/**")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, help="where they go; made if it is missing")
    parser.add_argument("names", nargs="*", help="pages, such as overview; all of them without")
    parser.add_argument("--readme", action="store_true", help="only the picture of the README")
    arguments = parser.parse_args()
    if lacking := missing():
        print(f"missing: {', '.join(lacking)}\n{INSTALL}", file=sys.stderr)
        return 2
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    with world(folder) as served, chromium() as browser:
        if arguments.readme:
            take_one(browser, served, folder)
        else:
            take_all(browser, served, folder, arguments.names)
    print(f"look at the pictures in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
