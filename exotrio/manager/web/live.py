"""Server-sent events that name the changed fragments of a page; the script then requests these."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio
from starlette.types import Receive, Scope, Send

from exotrio._httpd import while_connected
from exotrio.errors import DatabaseError
from exotrio.manager.rules.errors import NotFound, Refused
from exotrio.manager.web.guard import HEADERS
from exotrio.manager.web.page import Page, PageRequest

INTERVAL = 0.25
"""Seconds between two checks, so that no page is refreshed more than four times a second."""
RECHECK = 5.0
"""Seconds after which a page is checked although nothing was written, since it shows ages."""
KEEP_ALIVE = 15.0
"""Seconds without an event after which a comment is sent, so that a disconnect is noticed."""
MAX_STREAMS = 64
"""Each takes a connection. Further pages poll every two seconds instead."""


class LiveResponse:
    """A response that lasts until the client disconnects, the server stops, or the session ends.

    While it is open it is one of ``streams``. ``is_signed_in`` is called at every check.
    """

    def __init__(
        self,
        page: Page,
        request: PageRequest,
        *,
        streams: set[LiveResponse],
        is_signed_in: Callable[[], Awaitable[bool]],
    ) -> None:
        self._page = page
        self._request = request
        self._streams = streams
        self._is_signed_in = is_signed_in
        self._sent: dict[str, object] = {}
        self._sent_at: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {**HEADERS, "content-type": "text/event-stream", "x-accel-buffering": "no"}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": 200, "headers": raw})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams.add(self)
        try:
            # After a disconnect, send raises an OSError. If queries fail or take too long, the stream ends:
            # the browser connects again, and polls meanwhile.
            with while_connected(scope), suppress(OSError, DatabaseError, Refused):
                await self._send_changes(send)
        finally:
            self._streams.discard(self)
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_changes(self, send: Send) -> None:
        service = self._request.service
        checked: int | None = None
        checked_at = sent_at = trio.current_time()
        waiting = False
        await _send(send, b"retry: 2000\n\n")
        while await self._is_signed_in():
            now = trio.current_time()
            latest = service.store.written
            if waiting or latest != checked or now - checked_at >= RECHECK:
                checked, checked_at = latest, now
                try:
                    changed, waiting = await self._changes(now)
                except NotFound:
                    # What the page shows was deleted; the script learns that when it requests the fragments.
                    changed, waiting = list(self._page.fragments), False
                if changed:
                    sent_at = now
                    await _send(send, f"event: changed\ndata: {' '.join(changed)}\n\n".encode())
            if now - sent_at >= KEEP_ALIVE:
                sent_at = now
                await _send(send, b": still here\n\n")
            await trio.sleep(INTERVAL)

    async def _changes(self, now: float) -> tuple[list[str], bool]:
        """Return the changed fragments that may be loaded now, and whether the pace of others delays them."""
        versions = await self._request.service.store.read_with_deadline(self._page.versions, self._request)
        changed, waiting = [], False
        for name, fragment in self._page.fragments.items():
            if name in self._sent and self._sent[name] == versions[name]:
                continue
            if now - self._sent_at.get(name, -1e9) < fragment.pace:
                waiting = True
                continue
            self._sent[name], self._sent_at[name] = versions[name], now
            changed.append(name)
        return changed, waiting


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
