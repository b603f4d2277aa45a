"""The route of backups: each is a copy of the database, sent piece by piece.

It is as private as the database. Secrets are in it only encrypted, without their key.
"""

from __future__ import annotations

import logging
from functools import partial

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from exotrio._util.words import bytes_text
from exotrio._wire.operations import BACKUP_PATH, BACKUP_TYPE
from exotrio.manager.api.routing import ADMIN, Endpoints, get
from exotrio.manager.engine.managers import keep_backup
from exotrio.manager.rules.access import Caller
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.security.access import EndsWithKey
from exotrio.manager.service import Service
from exotrio.manager.store.base import Store

PIECE = 256 * 1024
"""Bytes that are read and sent at once."""
MIN_RATE = 1024 * 1024
"""Bytes a second that a client must read after ``SLOW_AFTER`` seconds, if another one requests a backup."""
SLOW_AFTER = 10.0

logger = logging.getLogger("exotrio.manager.http")


class Backups(Endpoints):
    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self._slot = _Slot()

    @get(BACKUP_PATH, "Send a copy of the database", ADMIN, BACKUP_TYPE)
    async def backup(self, caller: Caller) -> Response:
        return EndsWithKey(_BackupReply(self._store, self._slot, caller))


class _Slot:
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
                raise Conflict("a backup is being made already; try again when that is done")
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


class _BackupReply(Response):
    """A copy of the database, made when the reply is sent, and removed afterwards in any case.

    ``slot`` is held meanwhile.
    """

    def __init__(self, store: Store, slot: _Slot, caller: Caller) -> None:
        super().__init__(media_type=BACKUP_TYPE)
        self._store = store
        self._caller = caller
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._slot.acquire()
        try:
            async with self._store.copied() as (size, read):
                self.headers["content-length"] = str(size)
                self.headers["cache-control"] = "no-store"
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                self._slot.begin()
                while piece := await read(PIECE):
                    if not await self._slot.send(send, piece):
                        return
                await send({"type": "http.response.body", "body": b""})
            self._store.write_later(partial(keep_backup, caller=self._caller))
        finally:
            self._slot.release()
