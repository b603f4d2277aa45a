"""Use cases on a connection: each is one transaction, run again if another one got in its way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import chain
from typing import Any

import outcome
import psycopg
from psycopg import errors

from exotrio._util.backoff import Backoff
from exotrio._util.words import plural
from exotrio.errors import DatabaseError
from exotrio.manager.store.errors import NotCommitted, UnknownCommit
from exotrio.manager.store.postgres.adaptation import Row
from exotrio.manager.store.postgres.connection import Connection, is_operational
from exotrio.manager.store.postgres.dialect import PostgresDialect
from exotrio.manager.store.postgres.epochs import Epochs
from exotrio.manager.store.transaction import RowChanged, Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.writes import CommitTimes, Write

RETRY_FOR = 5.0
"""Seconds from its start after which a use case is not run again: its caller needs an answer."""
MIN_BLOCK = 8
MAX_BLOCK = 1_024
"""Numbers of states that are taken at once, unless they were reserved."""
DIALECT = PostgresDialect()
_PAUSES = Backoff(0.01, 0.5)
_REPEATED = (errors.SerializationFailure, errors.DeadlockDetected, RowChanged)
_FIX = "check PostgreSQL and its log"


class Verdict(Enum):
    """What to do with a use case that failed."""

    FAIL = "give its caller the error"
    RETRY = "run it again here, after a pause"
    REQUEUE = "put it back into the queue, for any writer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the transactions of a store have in common."""

    epochs: Epochs
    stamp: str
    now_ms: Callable[[], int]
    commit_times: CommitTimes = field(default_factory=CommitTimes)
    connected: set[Writer] = field(default_factory=set)
    """The writers that have a connection."""

    def view(self, connection: Connection) -> View:
        return View(
            connection=connection,
            dialect=DIALECT,
            catalog=self.epochs.of(connection).catalog,
            stamp=self.stamp,
            now_ms=self.now_ms(),
        )

    def transaction(self, connection: Connection, *, waited: bool, is_repeated: bool) -> Transaction:
        """Return what a use case works with on a connection."""
        numbers = _Numbers(connection)
        return Transaction(
            connection=connection,
            dialect=DIALECT,
            catalog=self.epochs.of(connection).catalog.for_transaction(),
            stamp=self.stamp,
            now_ms=self.now_ms(),
            allocate=numbers.take,
            reserve=numbers.reserve,
            waited=waited,
            is_repeated=is_repeated,
        )


class Writer:
    """Runs use cases on its own connection. For one thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._connection: Connection | None = None
        self._lost_at: float | None = None
        """Since when no writer has a connection, as far as this one knows."""
        self._refusals = 0
        """Attempts to connect that failed, in a row."""
        self._aborted = False

    def run(self, write: Write) -> bool:
        """Run a use case and commit it; give it its result. Return False, without a result, to requeue it."""
        began = time.monotonic()
        failures = 0
        while True:
            try:
                write.result = outcome.Value(self._attempt(write, is_repeated=failures > 0))
                self._lost_at = None
                return True
            except (psycopg.Error, RowChanged) as error:
                failures += 1
                pause = _PAUSES.pause(failures)
                verdict = self._judge(write, error, began, pause, failures)
                if verdict is Verdict.REQUEUE:
                    return False
                if verdict is Verdict.FAIL and write.abandoned and isinstance(error, _REPEATED):
                    # Nothing failed: it is not repeated because its caller was cancelled.
                    return True
                if verdict is Verdict.FAIL:
                    write.result = outcome.Error(self._not_written(write, error, failures))
                    return True
            except BaseException as error:
                # Any error: if it ended this thread, the caller would wait without end.
                write.result = outcome.Error(error)
                return True
            time.sleep(pause)

    def rest(self) -> None:
        """Pause before the next attempt to connect, if the last one failed, and leave writes to others."""
        if self._connection is None and self._refusals:
            time.sleep(_PAUSES.pause(self._refusals))

    def abort(self) -> None:
        """Have a use case that still runs fail, and not run again. For another thread."""
        self._aborted = True
        if (connection := self._connection) is not None:
            connection.abort()

    def close(self) -> None:
        if self._connection is not None:
            self._context.connected.discard(self)
            self._connection.close()
            self._connection = None

    def _judge(self, write: Write, error: Exception, began: float, pause: float, failures: int) -> Verdict:
        """Return what to do with a write that failed, if it would run again after ``pause`` seconds.

        ``failures`` is how often it failed in a row.
        """
        give_up_at = write.give_up_at or began + RETRY_FOR
        if self._refusals and self._context.connected:
            # The server refuses this writer a connection, and others have one. They run the write, however
            # long it takes until they come to it.
            self._lost_at = None
            verdict, give_up_at = Verdict.REQUEUE, write.give_up_at or math.inf
        elif self._connection is None:
            # No writer has a connection: the server is away. Only the first write waits for it; with a limit
            # for each of them, the others would wait one after the other.
            self._lost_at = self._lost_at or time.monotonic()
            verdict, give_up_at = Verdict.RETRY, min(give_up_at, self._lost_at + RETRY_FOR)
        elif isinstance(error, errors.LockNotAvailable):
            # Another transaction holds a row for long. Writes that do not need it must not wait for a thread.
            verdict = Verdict.REQUEUE
        elif isinstance(error, _REPEATED):
            # Another transaction changed the same rows first. Once more even if that took long, as where all
            # is slow: a claim that is repeated is always run a second time (``Transaction.begin_again``).
            verdict = Verdict.RETRY
            give_up_at = math.inf if failures == 1 else give_up_at
        else:
            return Verdict.FAIL
        # The caller was cancelled, the store is being closed, or the time is over.
        if write.abandoned or self._aborted or time.monotonic() + pause >= give_up_at:
            return Verdict.FAIL
        return verdict

    def _attempt(self, write: Write, *, is_repeated: bool) -> Any:
        connection = self._connect()
        write.give_up_at = write.give_up_at or time.monotonic() + RETRY_FOR
        if self._aborted:
            # It was aborted while it connected.
            connection.abort()
        before = connection.total_changes
        try:
            connection.begin()
            tx = self._context.transaction(connection, waited=write.waited, is_repeated=is_repeated)
            value = write.run(tx)
            connection.settle()  # so that only the commit is measured as such
            is_changed = connection.total_changes != before
            try:
                committing = time.perf_counter()
                connection.commit()
                if is_changed:
                    self._context.commit_times.add(time.perf_counter() - committing)
            except UnknownCommit as error:
                if not is_changed and isinstance(error.__cause__, psycopg.Error):
                    # There was nothing to commit.
                    raise error.__cause__ from None
                raise
        except BaseException as error:
            # It may have returned None, and failed only at its commit.
            write.waits = False
            self._undo(connection, error)
            raise
        write.changes = connection.total_changes - before
        for node_id in write.effects.reopened:
            tx.heads.forget(node_id)
        return value

    def _connect(self) -> Connection:
        """Return a connection in the present epoch."""
        if self._connection is not None and not self._context.epochs.has(self._connection):
            self.close()
        if self._connection is None:
            self._refusals += 1
            self._connection = self._context.epochs.connect()
            self._context.connected.add(self)
            self._refusals = 0
        return self._connection

    def _undo(self, connection: Connection, error: BaseException) -> None:
        is_lost = isinstance(error, UnknownCommit) or (
            isinstance(error, psycopg.Error) and connection.is_lost(error)
        )
        if not is_lost:
            with suppress(psycopg.Error):
                connection.rollback()
                return
        self.close()

    def _not_written(self, write: Write, error: psycopg.Error | RowChanged, failures: int) -> DatabaseError:
        what, fix = self._context.epochs.server.reason(error), _FIX
        if isinstance(error, RowChanged):
            times = plural(failures, "time")
            what = f"{write.name}: other transactions changed the same rows of {error} {times}"
            fix = "nothing of it was written, so repeat it; if this is frequent, PostgreSQL is overloaded"
        # An error of a statement concerns only that use case.
        is_of_all = isinstance(error, (RowChanged, errors.ReadOnlySqlTransaction)) or is_operational(error)
        kind = NotCommitted if is_of_all else DatabaseError
        failure = kind(f"the database could not be written: {what}", fix=fix)
        failure.__cause__ = error
        return failure


class _Numbers:
    """Gives numbers to the new states of one transaction.

    Those that it leaves are not used: they would be older than the states of others.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._numbers: Iterator[Row] = iter(())
        self._block = MIN_BLOCK

    def reserve(self, count: int) -> None:
        if count:
            taken = self._connection.execute(
                "SELECT nextval('states_seq_seq') FROM generate_series(1, ?)", (count,)
            )
            self._numbers = chain(self._numbers, taken)

    def take(self) -> int:
        while (row := next(self._numbers, None)) is None:
            self.reserve(self._block)
            self._block = min(2 * self._block, MAX_BLOCK)
        return int(row[0])
