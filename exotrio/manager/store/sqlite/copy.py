"""One consistent copy of a database file that is in use, made next to it.

SQLite's ``VACUUM INTO`` reads one snapshot and writes it into a new file. Writers continue meanwhile: in WAL
mode a reader blocks no other connection; only the WAL grows until it is done.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path

import trio

from exotrio.manager.rules.errors import Unavailable
from exotrio.manager.store.sqlite.database import open_source

CLEANUP = 10.0
_INSTRUCTIONS = 10_000
"""Steps of SQLite between two checks whether the copy is still wanted: a millisecond or so."""


@asynccontextmanager
async def copied(db: Path) -> AsyncIterator[Path]:
    """Copy a database into a file that only its owner may read, and that is removed after the block.

    It raises Unavailable if no copy could be made. Cancelled, the copying ends within milliseconds.
    """
    copy = _copy_path(db, secrets.token_hex(8))
    is_cancelled = threading.Event()
    # Not the default limiter: nodes in this process may use all of its threads.
    in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True, limiter=trio.CapacityLimiter(2))
    try:
        try:
            await in_thread(_copy, db, copy, is_cancelled.is_set)
        except (sqlite3.Error, OSError) as error:
            # Without paths: the text is sent to clients.
            reason = error.strerror if isinstance(error, OSError) else error
            raise Unavailable(f"the database could not be copied: {reason}") from error
        yield copy
    finally:
        is_cancelled.set()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP):
            await in_thread(partial(copy.unlink, missing_ok=True))


def _copy(db: Path, copy: Path, is_cancelled: Callable[[], bool]) -> None:
    # Made here so that it is readable by its owner only; VACUUM INTO takes an empty file.
    os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with closing(open_source(db)) as connection:
            connection.set_progress_handler(is_cancelled, _INSTRUCTIONS)
            connection.execute("VACUUM INTO ?", (str(copy),))
    finally:
        if is_cancelled():  # the task that would remove it is gone
            copy.unlink(missing_ok=True)


def _copy_path(db: Path, token: str) -> Path:
    return db.with_name(f".{db.name}.copy-{token}")


def remove_leftovers(db: Path) -> None:
    """Remove copies that a killed process left. Call it while owning the database."""
    name = re.compile(re.escape(_copy_path(db, "").name) + r"[0-9a-f]{16}(-journal)?")
    with suppress(OSError):
        for file in db.parent.iterdir():
            if name.fullmatch(file.name):
                file.unlink(missing_ok=True)
