"""Use cases on a connection: each is one transaction, run again if another one got in its way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import outcome
import psycopg
import trio
from psycopg import errors

from exotrio._util.backoff import Backoff
from exotrio.errors import DatabaseError
from exotrio.manager.store.commits import CommitTimes
from exotrio.manager.store.effects import NO_EFFECTS, Effects, WithEffects
from exotrio.manager.store.port import NotCommitted, UnknownCommit
from exotrio.manager.store.postgres.connection import CommitUnknown, Connection
from exotrio.manager.store.postgres.dialect import PostgresDialect
from exotrio.manager.store.postgres.epochs import Epochs
from exotrio.manager.store.transaction import RowChanged, Transaction
from exotrio.manager.store.view import View

RETRY_FOR = 5.0
"""Seconds from its start after which a use case is not run again: whoever asked is better told so."""
MIN_BLOCK = 8
MAX_BLOCK = 256
"""Numbers of states that are taken at once."""
DIALECT = PostgresDialect()
_PAUSES = Backoff(0.01, 0.5)
_REPEATED = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    RowChanged,
)
_FIX = "check PostgreSQL and its log"


@dataclass(slots=True, eq=False)
class Write:
    """A use case on its way to its commit. Only ``abandoned`` is set by the Trio thread."""

    use_case: Callable[[Transaction], Any]
    _: KW_ONLY
    repeat: bool = False
    """Whether it is handed in again until it is committed."""
    waited: bool = False
    """See ``Transaction.waited``."""
    may_wait: bool = False
    """Whether None means that it has to wait for something."""
    task: trio.lowlevel.Task | None = None
    """The task that waits for its result."""
    abandoned: bool = False
    """Whether no task waits for it any more."""
    end: float | None = None
    """When to give up, once it had a connection."""
    result: outcome.Outcome[Any] | None = None
    """Once it is committed, or has failed; None if it was not run."""
    changes: int = 0
    """Rows that it changed."""
    effects: Effects = NO_EFFECTS
    """What it left behind when it ran last. They happen if it is committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What every transaction of a store is given."""

    epochs: Epochs
    stamp: str
    now_ms: Callable[[], int]
    commit_times: CommitTimes = field(default_factory=CommitTimes)
    connected: set[Writer] = field(default_factory=set)
    """Those that have a connection."""

    def view(self, connection: Connection) -> View:
        return View(
            connection=connection,
            dialect=DIALECT,
            catalog=self.epochs.of(connection).catalog,
            stamp=self.stamp,
            now_ms=self.now_ms(),
        )

    def transaction(self, connection: Connection, numbers: Iterator[int], *, waited: bool) -> Transaction:
        """Return what a use case works with on a connection."""
        return Transaction(
            connection=connection,
            dialect=DIALECT,
            catalog=self.epochs.of(connection).catalog.for_transaction(),
            stamp=self.stamp,
            now_ms=self.now_ms(),
            allocate=numbers.__next__,
            waited=waited,
        )


class Writer:
    """Runs use cases on a connection of its own. For one thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._numbers = _Numbers()
        self._connection: Connection | None = None
        self._lost_at: float | None = None
        self._refusals = 0
        self._aborted = False

    def run(self, write: Write) -> bool:
        """Run a use case and commit it; give it its result.

        Return False, without a result, if it has to queue again: somebody holds a row that it needs, and
        others that do not need that row must not wait for a thread meanwhile; or this writer gets no
        connection, and others have one.
        """
        began = time.monotonic()
        failures = 0
        while True:
            try:
                write.result = outcome.Value(self._attempt(write))
                self._lost_at = None
                return True
            except CommitUnknown as error:
                write.result = outcome.Error(_unknown(error))
                return True
            except (psycopg.Error, RowChanged) as error:
                failures += 1
                pause = _PAUSES.pause(failures)
                end = write.end or began + RETRY_FOR
                again = isinstance(error, _REPEATED)
                queues_again = isinstance(error, errors.LockNotAvailable)
                if self._refusals and self._context.connected:
                    # As long as it did not run, the others may take what time they need to come to it.
                    self._lost_at, again, queues_again = None, True, True
                    end = write.end or math.inf
                elif self._connection is None:
                    # While the server is away, only the first waits for it: the others would queue up.
                    self._lost_at = self._lost_at or time.monotonic()
                    again, end = True, min(end, self._lost_at + RETRY_FOR)
                given_up = write.abandoned or self._aborted
                if not again or given_up or time.monotonic() + pause >= end:
                    write.result = outcome.Error(self._not_written(error))
                    return True
                if queues_again:
                    return False
                time.sleep(pause)
            except BaseException as error:
                # Any error: if it ended this thread, the caller would wait for ever.
                write.result = outcome.Error(error)
                return True

    def rest(self) -> None:
        """Wait before the next attempt to connect, if the last one failed, and leave use cases to others."""
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

    def _attempt(self, write: Write) -> Any:
        if self._connection is not None and not self._context.epochs.has(self._connection):
            self.close()
        if self._connection is None:
            self._refusals += 1
            self._connection = self._context.epochs.connect()
            self._context.connected.add(self)
            self._refusals = 0
        write.end = write.end or time.monotonic() + RETRY_FOR
        connection = self._connection
        if self._aborted:
            connection.abort()
        before = connection.total_changes
        write.effects = NO_EFFECTS
        try:
            connection.begin()
            numbers = self._numbers.of(connection)
            tx = self._context.transaction(connection, numbers, waited=write.waited)
            value, write.effects = WithEffects.of(write.use_case(tx))
            tx.check_updates()
            connection.settle()  # so that only the commit is measured as such
            try:
                if connection.total_changes == before:
                    connection.commit()
                else:
                    with self._context.commit_times.measured():
                        connection.commit()
            except CommitUnknown as error:
                if connection.total_changes == before and isinstance(error.__cause__, psycopg.Error):
                    # There was nothing to commit.
                    raise error.__cause__ from None
                raise
        except BaseException as error:
            self._undo(connection, error)
            raise
        write.changes = connection.total_changes - before
        if tx.heads is not None:
            for node_id in write.effects.reopened:
                tx.heads.forget(node_id)
        return value

    def _undo(self, connection: Connection, error: BaseException) -> None:
        lost = isinstance(error, CommitUnknown) or (
            isinstance(error, psycopg.Error) and connection.is_lost(error)
        )
        if not lost:
            with suppress(psycopg.Error):
                connection.rollback()
                return
        self.close()

    def _not_written(self, error: Exception) -> DatabaseError:
        what = (
            "another transaction changed the same rows each time"
            if isinstance(error, RowChanged)
            else self._context.epochs.server.reason(error)
        )
        failure = NotCommitted(f"the database could not be written: {what}", fix=_FIX)
        failure.__cause__ = error
        return failure


def _unknown(error: Exception) -> DatabaseError:
    failure = UnknownCommit(
        "the connection to the database was lost during a commit; whether it happened is not known",
        fix="look what is there, or ask again with the same id",
    )
    failure.__cause__ = error
    return failure


class _Numbers:
    """Gives numbers to new states. For one thread.

    A transaction takes some at once, as many as the last one that needed any; the rest is left out, as it
    would be older than the states of others.
    """

    def __init__(self) -> None:
        self._taken = 0

    def of(self, connection: Connection) -> Iterator[int]:
        """Yield the numbers of one transaction."""
        block = min(max(MIN_BLOCK, self._taken), MAX_BLOCK)
        self._taken = 0
        while True:
            for row in connection.execute(
                "SELECT nextval('states_seq_seq') FROM generate_series(1, ?)", (block,)
            ).fetchall():
                self._taken += 1
                yield row[0]
            block = min(2 * block, MAX_BLOCK)
