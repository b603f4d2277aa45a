"""Routes of probes, metrics and sign-in links, and the reply that is a backup.

A backup is a copy of the database, sent piece by piece. It is as private as the database and holds secrets
only encrypted; the key for them is in no backup.
"""

from __future__ import annotations

import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import trio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from exotrio._httpd import stopping_event
from exotrio._util.words import bytes_text
from exotrio._wire.operations import BACKUP_TYPE, SIGN_IN_PATH, SignInLink
from exotrio.errors import DatabaseError
from exotrio.manager.api.json import reply
from exotrio.manager.api.metrics import CONTENT_TYPE, ManagerMetrics
from exotrio.manager.api.routing import ApiRoute, routes_of
from exotrio.manager.engine.managers import keep_backup
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Replaced, Store
from exotrio.manager.store.sqlite.copy import copied

MAX_WRITE = 2.0
CACHED = 1.0
"""Seconds for which a check of the writer counts, so that unauthenticated clients cannot keep it busy."""
PIECE = 256 * 1024
"""Bytes of a backup that are read and sent at once."""
MIN_RATE = 1024 * 1024
"""Bytes a second that the client of a backup has to read, after ``SLOW_AFTER`` seconds, if another client
requests a backup."""
SLOW_AFTER = 10.0

logger = logging.getLogger("exotrio.manager.http")


def operation_routes(
    store: Store, metrics: ManagerMetrics | None, *, open_metrics: bool = False
) -> list[ApiRoute]:
    routes = routes_of(_Probes(store))
    if metrics is not None:
        routes += [replace(route, is_open=open_metrics) for route in routes_of(_Scraping(metrics))]
    return routes


class SignInLinks:
    """The route by which a client with the key signs in a browser that does not have it."""

    def __init__(self, make_sign_in_link: Callable[[str], Awaitable[str]]) -> None:
        self._make_sign_in_link = make_sign_in_link

    @ApiRoute("POST", SIGN_IN_PATH, "Let a browser sign in, once", SignInLink)
    async def make_link(self, request: Request) -> Response:
        return reply(SignInLink(path=await self._make_sign_in_link("")))


class _Scraping:
    def __init__(self, metrics: ManagerMetrics) -> None:
        self._metrics = metrics

    @ApiRoute("GET", "/metrics", "Metrics for Prometheus", "text/plain")
    async def metrics(self, request: Request) -> Response:
        headers = {"content-type": CONTENT_TYPE, "cache-control": "no-store"}
        return Response(await self._metrics.render(), headers=headers)


class _Probes:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._checking = trio.Lock()
        self._checked_at = -CACHED
        self._problem = ""

    @ApiRoute("GET", "/livez", "Say that the process serves", "text/plain", is_open=True)
    async def livez(self, request: Request) -> Response:
        # This loop serves every request: a response shows that it runs. The database is not checked: if it
        # cannot be reached, restarting all state managers would not help.
        return PlainTextResponse("ok\n")

    @ApiRoute("GET", "/readyz", "Say whether the database can be written", "text/plain", is_open=True)
    async def readyz(self, request: Request) -> Response:
        stopping = stopping_event(request.scope)
        problem = "stopping" if stopping is not None and stopping.is_set() else await self._check()
        return PlainTextResponse(f"{problem or 'ok'}\n", 503 if problem else 200)

    async def _check(self) -> str:
        """Return why nothing can be written; an empty text if something can."""
        async with self._checking:
            if trio.current_time() - self._checked_at >= CACHED:
                self._problem = f"a write did not end within {MAX_WRITE:g} s"
                with trio.move_on_after(MAX_WRITE):
                    try:
                        await self._store.check_writable()
                        self._problem = ""
                    except DatabaseError as error:
                        cause = error.__cause__
                        why = str(cause) if isinstance(cause, Replaced) else type(cause).__name__
                        self._problem = f"the database cannot be written ({why})"
                self._checked_at = trio.current_time()
            return self._problem


class BackupSlot:
    """Allows one backup at a time: each takes as much disk space as the database.

    A client may read slowly until another one requests a backup. Then it is disconnected if it reads more
    slowly than ``MIN_RATE``.
    """

    def __init__(self) -> None:
        self._lock = trio.Lock()
        # The write to the client that is under way, if one is.
        self._write: trio.CancelScope | None = None
        self._began = 0.0
        self._sent = 0

    async def acquire(self) -> None:
        """Take the slot; refuse with 409 if a backup is being made, or read fast enough."""
        if self._lock.locked():
            seconds = trio.current_time() - self._began
            if self._write is None or seconds <= SLOW_AFTER + self._sent / MIN_RATE:
                raise Refused(409, "a backup is being made already; try again when that is done")
            logger.warning(
                "ended a backup, since another one was requested and its client had read only %s in %.0f s",
                *(bytes_text(self._sent), seconds),
            )
            self._write.cancel()
            self._write = None
        await self._lock.acquire()

    def release(self) -> None:
        self._lock.release()

    def begin(self) -> None:
        """Measure from now on how fast the client reads."""
        self._began, self._sent = trio.current_time(), 0

    async def send(self, send: Send, piece: bytes) -> bool:
        """Send a piece of the backup; return False if the client was disconnected for another backup."""
        with trio.CancelScope() as write:
            self._write = write
            try:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            finally:
                self._write = None
        self._sent += len(piece)
        return not write.cancelled_caught


class BackupReply(Response):
    """A copy of the database, made when the reply is sent, and removed however that ends.

    ``slot`` is held meanwhile.
    """

    def __init__(self, store: Store, slot: BackupSlot) -> None:
        super().__init__(media_type=BACKUP_TYPE)
        self._store = store
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._slot.acquire()
        try:
            async with _opened(self._store) as (size, read):
                self.headers["content-length"] = str(size)
                self.headers["cache-control"] = "no-store"
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._slot.begin()
                while piece := await read():
                    if not await self._slot.send(send, piece):
                        return
                await send({"type": "http.response.body", "body": b""})
            self._store.write_later(keep_backup)
        finally:
            self._slot.release()


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[tuple[int, Callable[[], Awaitable[bytes]]]]:
    """Make a copy; yield its size, and a function that reads its next piece."""
    if store.path is None:
        content = io.BytesIO(await store.read(lambda view: view.serialize()))

        async def from_memory() -> bytes:
            return content.read(PIECE)

        yield len(content.getbuffer()), from_memory
        return
    async with copied(store.path) as path, await trio.open_file(path, "rb") as file:
        yield path.stat().st_size, partial(file.read, PIECE)
