"""Queries of a SQLite database: of a file in threads, of one in memory in the calling task."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import trio

from exotrio.manager.store.errors import NotRead
from exotrio.manager.store.readers import Readers, too_slow
from exotrio.manager.store.sqlite.database import open_reader
from exotrio.manager.store.view import OutOfTime, View

T = TypeVar("T")

READS = 2
_INSTRUCTIONS = 500
"""Steps of SQLite between two checks of the time: microseconds, but each may read megabytes of text."""


class FileReaders(Readers[sqlite3.Connection]):
    """The reading connections of a database file. ``view`` returns what a query sees on one of them."""

    def __init__(self, path: Path, view: Callable[[sqlite3.Connection], View]) -> None:
        super().__init__(READS)
        self._path = path
        self._view = view

    async def _run(self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter) -> T:
        return await trio.to_thread.run_sync(self._run_in_thread, query, limit, limiter=limiter)

    def _run_in_thread(self, query: Callable[[View], T], limit: float) -> T:
        end = time.monotonic() + limit

        def check() -> None:
            # A cancelled query must end: a stop would wait for its thread.
            trio.from_thread.check_cancelled()
            if time.monotonic() >= end:
                raise OutOfTime

        try:
            return self._query(query, check)
        except OutOfTime as error:
            raise too_slow(limit) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                # ``check`` ended a statement: the query was cancelled, or is out of time.
                trio.from_thread.check_cancelled()
                raise too_slow(limit) from error
            raise _not_read(error) from error

    def _query(self, query: Callable[[View], T], check: Callable[[], None]) -> T:
        connection = self._idle_connection() or open_reader(self._path)
        is_usable = False
        try:
            connection.execute("BEGIN")
            view = self._view(connection)
            view.check = check
            # SQLite ends the statement when this raises, with a different error.
            connection.set_progress_handler(check, _INSTRUCTIONS)
            try:
                return query(view)
            finally:
                connection.set_progress_handler(None, 0)
                connection.execute("ROLLBACK")
                is_usable = True
        finally:
            self._give_back(connection, is_usable=is_usable)


class MemoryReaders(Readers[sqlite3.Connection]):
    """Queries of a database in memory: at once, on its only connection, of which ``view`` is a view. A
    deadline cannot end them."""

    def __init__(self, view: Callable[[], View]) -> None:
        super().__init__(READS)
        self._view = view

    async def _run(self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter) -> T:
        await trio.lowlevel.checkpoint()
        try:
            return query(self._view())
        except sqlite3.Error as error:
            raise _not_read(error) from error


def _not_read(error: sqlite3.Error) -> NotRead:
    return NotRead(f"the database could not be read: {error}", fix="check its file and its disk")
