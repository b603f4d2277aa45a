"""Queries of a database file, in threads, on connections of their own.

What runtimes wait for is short (``read``). Pages, searches and exports may take seconds, and there may be
many of them (``look``): they have other threads, so that they do not delay the former, and a deadline.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import trio

from exotrio.manager.rules.errors import Refused
from exotrio.manager.store.port import View
from exotrio.manager.store.reads import NotRead, OutOfTime, new_outage, reading, too_slow
from exotrio.manager.store.sqlite.database import open_reader

T = TypeVar("T")

LOOK_LIMIT = 10.0
"""Seconds that a look may wait for its turn, and then take."""
LOOKS = 2
"""Looks at the same time: they take processor time from everything else."""
READS = 2
_INSTRUCTIONS = 500
"""Steps of SQLite between two checks of the time: microseconds, but each may read megabytes of text."""


class Readers:
    """The reading connections of a database file. ``view`` returns what a query sees on one of them."""

    def __init__(self, path: Path, view: Callable[[sqlite3.Connection], View]) -> None:
        self._path = path
        self._view = view
        self._idle: list[sqlite3.Connection] = []
        self._reads = trio.CapacityLimiter(READS)
        self._looks = trio.CapacityLimiter(LOOKS)
        self._turns = trio.Semaphore(LOOKS)
        self._outage = new_outage()

    async def read(self, query: Callable[[View], T]) -> T:
        """Run a query without a deadline; a cancellation ends it."""
        return await self._in_thread(query, math.inf, self._reads)

    async def look(self, query: Callable[[View], T]) -> T:
        """Run a query; raise Refused after ``LOOK_LIMIT`` seconds, or if its turn did not come by then."""
        with trio.move_on_after(LOOK_LIMIT) as waiting:
            async with self._turns:
                waiting.deadline = math.inf
                return await self._in_thread(query, LOOK_LIMIT, self._looks)
        raise Refused(503, f"other pages and searches took all of {LOOK_LIMIT:g} s; try again later")

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    async def _in_thread(self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter) -> T:
        with reading(self._outage):
            return await trio.to_thread.run_sync(self._run, query, limit, limiter=limiter)

    def _run(self, query: Callable[[View], T], limit: float) -> T:
        end = time.monotonic() + limit

        def check() -> None:
            # A cancelled query must end: a stop would wait for its thread.
            trio.from_thread.check_cancelled()
            if time.monotonic() >= end:
                raise OutOfTime

        try:
            with self._connection() as connection:
                view = self._view(connection)
                view.check = check
                # SQLite ends the statement when this raises, with an error of its own.
                connection.set_progress_handler(check, _INSTRUCTIONS)
                try:
                    return query(view)
                finally:
                    connection.set_progress_handler(None, 0)
        except OutOfTime as error:
            raise too_slow(limit) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
                trio.from_thread.check_cancelled()
                raise too_slow(limit) from error
            raise not_read(error) from error

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lend a connection, with one snapshot for all statements."""
        try:
            # Without a check before: another thread may take the last one in between.
            connection = self._idle.pop()
        except IndexError:
            connection = open_reader(self._path)
        usable = False
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")
                usable = True
        finally:
            if usable:
                self._idle.append(connection)
            else:
                connection.close()


def not_read(error: sqlite3.Error) -> NotRead:
    """Return the error of a query that failed."""
    return NotRead(f"the database could not be read: {error}", fix="check its file and its disk")
