"""Opening a page in the browser of whoever sits at this machine."""

from __future__ import annotations

import os
import webbrowser

import trio

_OF_TERMINALS = frozenset({"www-browser", "links", "elinks", "lynx", "w3m", "links2"})


async def open_in_browser(url: str) -> bool:
    """Open a page and return whether some browser took it. Never fails.

    A browser that runs in the terminal is not opened unless ``BROWSER`` names it: it would take the
    screen that this program writes on.

    Cancellation:
        Safe; the page may still appear.
    """
    return await trio.to_thread.run_sync(_open, url, abandon_on_cancel=True)


def _open(url: str) -> bool:
    try:
        # Not webbrowser.open, which falls back on whatever else there is.
        browser = webbrowser.get()
        if not os.environ.get("BROWSER") and os.path.basename(str(browser.name)) in _OF_TERMINALS:
            return False
        return browser.open(url)
    except (webbrowser.Error, OSError, ValueError):  # ValueError: a BROWSER that is no command line
        return False
