"""Pictures of every page, to be looked at: ``python -m tests.browser.pictures FOLDER [NAME...]``.

At 360 and at 2,000 pixels, light and dark; names choose among the pages.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

from tests.browser.chromium import INSTALL, chromium, missing
from tests.browser.world import World, world
from tests.processes import KEY

WIDTHS = {360: 740, 2_000: 1_200}
"""In pixels, with the height of the window."""
THEMES = ("light", "dark")


def take(served: World, folder: Path, names: Collection[str]) -> None:
    """Take the pictures."""
    with chromium() as browser:
        for theme in THEMES:
            for width, height in WIDTHS.items():
                context = browser.new_context(
                    viewport={"width": width, "height": height},
                    color_scheme=theme,  # type: ignore[arg-type]
                    reduced_motion="reduce",
                )
                page = context.new_page()
                page.goto(f"{served.url}/sign-in")
                if not names or "sign-in" in names:
                    page.screenshot(path=folder / f"sign-in-{width}-{theme}.png", full_page=True)
                page.fill("#key", KEY)
                page.keyboard.press("Enter")
                page.wait_for_url("**/ns/**")
                for name, path in served.links.items():
                    if names and name not in names:
                        continue
                    page.goto(served.url + path)
                    page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
                context.close()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.browser.pictures", description=__doc__)
    parser.add_argument("folder", type=Path, help="where they go; made if it is missing")
    parser.add_argument("names", nargs="*", help="pages, such as overview; all of them without")
    arguments = parser.parse_args()
    if lacking := missing():
        print(f"missing: {', '.join(lacking)}\n{INSTALL}", file=sys.stderr)
        return 2
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with world(arguments.folder) as served:
        take(served, arguments.folder, arguments.names)
    print(f"{len(list(arguments.folder.glob('*.png')))} pictures are in {arguments.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
