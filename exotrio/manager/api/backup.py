"""The reply that is a backup: a copy of the database, sent piece by piece.

The copy is as private as the database and holds secrets only encrypted; the key for them is in no
backup.
"""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from exotrio._wire.operations import BACKUP_TYPE
from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import Store
from exotrio.manager.store.sqlite.copy import copied

PIECE = 256 * 1024


class BackupReply(Response):
    """A copy of the database, made when the reply is sent, and removed however that ends.

    ``busy`` is held meanwhile.
    """

    def __init__(self, store: Store, busy: trio.Lock) -> None:
        super().__init__(media_type=BACKUP_TYPE)
        self._store = store
        self._busy = busy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._busy.acquire_nowait()
        except trio.WouldBlock:
            # Each takes as much space on the disk as the database.
            raise Refused(409, "a backup is being made already; try again when that is done") from None
        try:
            async with _opened(self._store) as (size, read):
                self.headers["content-length"] = str(size)
                self.headers["cache-control"] = "no-store"
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                while piece := await read():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        finally:
            self._busy.release()


@asynccontextmanager
async def _opened(store: Store) -> AsyncIterator[tuple[int, Callable[[], Awaitable[bytes]]]]:
    """Make a copy; give its size, and what reads the next piece of it."""
    if store.path is None:
        content = io.BytesIO(await store.read(lambda view: view.serialize()))

        async def from_memory() -> bytes:
            return content.read(PIECE)

        yield len(content.getbuffer()), from_memory
        return
    async with copied(store.path) as path, await trio.open_file(path, "rb") as file:
        yield path.stat().st_size, partial(file.read, PIECE)
