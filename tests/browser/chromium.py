"""Debian's Chromium, driven by Playwright: how it is found and started."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import TEST_TIMEOUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

try:
    from playwright.sync_api import expect

    expect.set_options(timeout=TEST_TIMEOUT * 1000)
except ImportError:
    expect = None  # type: ignore[assignment]  # whatever would call it is skipped

INSTALL = (
    "apt-get update && apt-get install -y chromium   # as root\n"
    ".venv/bin/pip install -e '.[test,browser]'      # never `playwright install`: it fetches a browser"
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Whatever it would ask elsewhere does not get that far.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)


def missing() -> list[str]:
    """Return what is needed and not there."""
    available = {
        "Chromium (Debian's package chromium)": executable() is not None,
        "the Python package playwright": importlib.util.find_spec("playwright") is not None,
        "the Python package axe-playwright-python": importlib.util.find_spec("axe_playwright_python")
        is not None,
    }
    return [what for what, is_there in available.items() if not is_there]


def executable() -> Path | None:
    """Return Debian's Chromium, if it is installed."""
    path = shutil.which("chromium", path="/usr/bin")
    return None if path is None else Path(path)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a Chromium with a fresh user data folder, for as long as the block lasts.

    Playwright's loop occupies the thread meanwhile: nothing in it may use Trio or asyncio.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()
