"""Queries on PostgreSQL. Each statement has a deadline (``connection.STATEMENT_LIMIT``), also of ``read``."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import psycopg
import trio
from psycopg import errors

from exotrio._util.backoff import Backoff
from exotrio.errors import DatabaseError
from exotrio.manager.store.errors import NotRead, UnknownCommit
from exotrio.manager.store.postgres.connection import Connection, is_operational
from exotrio.manager.store.postgres.writes import RETRY_FOR, Context
from exotrio.manager.store.readers import SEARCHES, Readers, too_slow
from exotrio.manager.store.view import OutOfTime, View

T = TypeVar("T")

READS = 4
CANCEL_WITHIN = 1.0
"""Seconds that a cancelled query waits for the server to cancel it, too."""
_PAUSES = Backoff(0.01, 0.5)
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class _Query:
    """A query on its way: the connection that it is on, so that it can be cancelled there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self.cancelled = False

    @contextmanager
    def on(self, connection: Connection) -> Iterator[None]:
        """Let it be cancelled on this connection meanwhile, and only meanwhile."""
        with self._lock:
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def cancel(self) -> None:
        """End it on the server, if it is there."""
        self.cancelled = True
        with self._lock, suppress(psycopg.Error):
            if self._connection is not None:
                self._connection.driver.cancel_safe(timeout=CANCEL_WITHIN)


class PostgresReaders(Readers[Connection]):
    """The reading connections of a store."""

    def __init__(self, context: Context) -> None:
        super().__init__(READS)
        self._context = context
        self._cancelling = trio.CapacityLimiter(READS + SEARCHES)
        self._lost_at: float | None = None

    async def _run(self, query: Callable[[View], T], limit: float, limiter: trio.CapacityLimiter) -> T:
        running = _Query()
        try:
            return await trio.to_thread.run_sync(
                self._run_in_thread, query, limit, running, limiter=limiter, abandon_on_cancel=True
            )
        except trio.Cancelled:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_WITHIN):
                await trio.to_thread.run_sync(
                    running.cancel, limiter=self._cancelling, abandon_on_cancel=True
                )
            raise

    def _run_in_thread(self, query: Callable[[View], T], limit: float, running: _Query) -> T:
        start = time.monotonic()
        failures = 0
        end = math.inf
        while True:
            try:
                result = self._attempt(query, start, limit, running)
            except OutOfTime as error:
                raise too_slow(limit) from error
            except psycopg.Error as error:
                if isinstance(error, errors.QueryCanceled) and limit < math.inf:
                    raise too_slow(limit) from error
                if not is_operational(error) or running.cancelled:
                    raise self._not_read(error) from error
                failures += 1
                pause = _PAUSES.pause(failures)
                self._lost_at = self._lost_at or time.monotonic()
                # Queries that succeed meanwhile do not extend this time: one table may be locked.
                end = min(end, self._lost_at + RETRY_FOR)
                if time.monotonic() + pause >= end:
                    raise self._not_read(error) from error
                time.sleep(pause)
            else:
                self._lost_at = None
                return result

    def _attempt(self, query: Callable[[View], T], start: float, limit: float, running: _Query) -> T:
        def check() -> None:
            if running.cancelled or time.monotonic() - start >= limit:
                raise OutOfTime

        with self._connection(limit, running) as connection, running.on(connection):
            view = self._context.view(connection)
            view.check = check
            return query(view)

    @contextmanager
    def _connection(self, limit: float, running: _Query) -> Iterator[Connection]:
        """Lend a connection, with one snapshot for all statements."""
        connection = self._usable_connection()
        is_usable = False
        try:
            connection.begin(_BEGIN)
            if limit < math.inf:
                connection.limit_statements(limit)
            yield connection
            with suppress(UnknownCommit):  # nothing was written
                connection.commit()
                is_usable = True
        except psycopg.Error:
            raise  # its transaction, if it still has one, ends with it
        except Exception:
            connection.rollback()
            is_usable = True
            raise
        finally:
            # A server may be slow to cancel a query: it must not cancel the next one on this connection.
            self._give_back(connection, is_usable=is_usable and not running.cancelled)

    def _usable_connection(self) -> Connection:
        while (connection := self._idle_connection()) is not None:
            if self._context.epochs.has(connection):
                return connection
            connection.close()
        return self._context.epochs.connect(writes=False)

    def _not_read(self, error: psycopg.Error) -> DatabaseError:
        # An error of a statement concerns only that query, so each one is logged.
        kind = NotRead if is_operational(error) else DatabaseError
        return kind(
            f"the database could not be read: {self._context.epochs.server.reason(error)}",
            fix="check PostgreSQL and its log",
        )
