"""Opens the dashboard in the user's browser, signed in.

A link that signs in must not be in the arguments of a process, which every user of the machine can list, nor
in a log. It is written into a page that only its owner can read, and the browser opens that page.
"""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from exotrio._util.database_url import is_database_url
from exotrio._util.new_file import write_new
from exotrio.cli.folder import MEMORY
from exotrio.cli.terminal.output import print_message
from exotrio.errors import ConfigurationError

_PAGE = """<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={link}">
<title>exotrio</title>
<a href="{link}">Open the dashboard</a>
"""

_TERMINAL_BROWSERS = frozenset({"www-browser", "links", "elinks", "lynx", "w3m", "links2"})


async def show_sign_in(sign_in_link: Callable[[], Awaitable[str]], page: Path, *, opens: bool) -> None:
    """Print a link that signs in, as ``shown_link`` says; if ``opens``, open another one in a browser."""
    shown = shown_link(await sign_in_link(), page)
    print_message(f"dashboard, to be opened once within 10 minutes: {shown}")
    if opens:
        await open_signed_in(page, await sign_in_link())


async def open_signed_in(page: Path, link: str) -> bool:
    """Open a link that signs in, through ``page``; return whether a browser accepted it. Print why not.

    Cancellation:
        Safe; the page may still appear.
    """
    try:
        _write_redirect(page, link)
    except ConfigurationError as error:
        print_message(f"error: {error}")
    else:
        if await open_in_browser(page.as_uri()):
            return True
    print_message("no browser could be opened: open the link yourself")
    return False


async def open_in_browser(url: str) -> bool:
    """Open a page and return whether a browser accepted it. Never fails.

    Cancellation:
        Safe; the page may still appear.
    """
    return await trio.to_thread.run_sync(_open, url, abandon_on_cancel=True)


def _open(url: str) -> bool:
    try:
        # Not webbrowser.open: it would fall back to a browser in the terminal, which takes over the screen
        # that this program writes to. Such a browser is used only if BROWSER names it.
        browser = webbrowser.get()
        if not os.environ.get("BROWSER") and os.path.basename(str(browser.name)) in _TERMINAL_BROWSERS:
            return False
        return browser.open(url)
    except (webbrowser.Error, OSError, ValueError):  # ValueError: BROWSER is not a command line
        return False


@contextmanager
def sign_in_page(db: str | Path) -> Iterator[Path]:
    """Yield the path for a page: next to the file of the database, or in a temporary folder.

    It is removed at the end.
    """
    if str(db) == MEMORY or is_database_url(db):
        with TemporaryDirectory(prefix="exotrio-") as folder:
            yield Path(folder, "sign-in.html")
        return
    page = page_next_to(Path(db))
    try:
        yield page
    finally:
        page.unlink(missing_ok=True)


def page_next_to(file: Path) -> Path:
    file = file.resolve()
    return file.with_name(f"{file.name}.sign-in.html")


def shown_link(link: str, page: Path, *, private: bool | None = None) -> str:
    """Return how to print a link that signs in: on a terminal, the link itself.

    More people may read a log than may sign in. There the link is written into ``page``, whose path is shown.

    Args:
        private: Only the user reads the output. Defaults to whether standard error is a terminal.

    Raises:
        ConfigurationError: the page cannot be written.
    """
    if sys.stderr.isatty() if private is None else private:
        return link
    _write_redirect(page, link)
    return f"{page} (it leads to {link.partition('/sign-in')[0]})"


def _write_redirect(page: Path, link: str) -> None:
    """Write a page, readable by its owner only, that redirects to a link; ConfigurationError if it fails."""
    # Always a new file, so that it is not one, or a link, that another user put there.
    write_new(page, _PAGE.format(link=escape(link)).encode(), "the sign-in page", overwrite=True)
