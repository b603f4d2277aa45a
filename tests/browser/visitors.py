"""People at a browser each; what no page of the dashboard may do fails the test, wherever it happens."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from tests.support.processes import KEY, TEST_TIMEOUT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page


class Visitors:
    """People with a browser each, and what went wrong in any of them.

    Attributes:
        problems: What no page may do: break the policy, ask another host, open a dialog, raise.
        requests: All addresses that were asked for.
    """

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []
        self._host = ""
        self.problems: list[str] = []
        self.requests: list[str] = []

    def anonymous(self, url: str, **options: Any) -> Page:
        """Return a page of a browser that is not signed in.

        Args:
            url: The state manager.
            options: Of Playwright's ``new_context``.
        """
        self._host = urlsplit(url).netloc
        context = self._browser.new_context(base_url=url, **options)
        self._contexts.append(context)
        context.set_default_timeout(TEST_TIMEOUT * 1000)
        context.expose_binding("tellOfViolation", lambda source, text: self._note("against the policy", text))
        context.add_init_script(
            "document.addEventListener('securitypolicyviolation', (event) =>"
            " tellOfViolation(`${event.effectiveDirective} ${event.blockedURI} ${event.sample}`))"
        )
        context.on("request", lambda request: self._on_request(request.url))
        context.on("response", lambda response: self._on_response(response.status, response.url))
        context.on("console", self._on_console)
        context.on("dialog", self._on_dialog)
        context.on("weberror", lambda error: self._note("uncaught", str(error.error)))
        return context.new_page()

    def signed_in(self, url: str, path: str = "/", **options: Any) -> Page:
        """Return the page at ``path`` of a browser that signed in with the key."""
        page = self.anonymous(url, **options)
        answer = page.request.post(f"{url}/sign-in", form={"key": KEY}, headers={"origin": url})
        assert answer.ok, answer.status
        page.goto(path)
        return page

    def leave(self) -> None:
        """Close all pages, and check that nothing went wrong in them."""
        for context in self._contexts:
            for page in context.pages:
                # What happened just now is told before the answer to this is.
                page.evaluate("0")
            context.close()
        assert self.problems == []

    def _note(self, kind: str, text: str) -> None:
        self.problems.append(f"{kind}: {text}")

    def _on_request(self, url: str) -> None:
        self.requests.append(url)
        parts = urlsplit(url)
        if parts.scheme not in ("data", "about") and parts.netloc != self._host:
            self._note("another host was asked", url)

    def _on_response(self, status: int, url: str) -> None:
        if status >= 500:
            self._note("the server failed", f"{status} {url}")

    def _on_console(self, message: ConsoleMessage) -> None:
        if re.search(r"Content.Security.Policy|Refused to", message.text):
            self._note("against the policy", message.text)

    def _on_dialog(self, dialog: Dialog) -> None:
        self._note("a dialog was opened", dialog.message)
        dialog.dismiss()
