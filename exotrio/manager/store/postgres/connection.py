"""A connection, as use cases and queries use it, and what its errors mean."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from exotrio.manager.store.errors import UnknownCommit
from exotrio.manager.store.postgres.adaptation import Row
from exotrio.manager.store.postgres.pipeline import Pipeline, Result
from exotrio.manager.store.postgres.translation import translate

STATEMENT_LIMIT = 30.0
"""Seconds that the server lets a statement take, unless the caller sets another limit."""
ANSWER_MARGIN = 5.0
"""Seconds beyond ``STATEMENT_LIMIT``, or another limit, after which a server that does not answer counts as
lost."""
PLANS_KEPT = 10.0
"""Seconds after which plans are made again, for the present sizes of the tables. PostgreSQL would keep a plan
until the table is analyzed, and one that was made while the table was empty reads all of it."""
_SAVEPOINTS = ("SAVEPOINT", "ROLLBACK TO", "RELEASE")
_LOST = ("08", "57P", "25P03", "25006", "55000")
"""SQLSTATEs, or their beginnings, after which a connection is of no use: it is broken, the server stops, it
waited for this process in vain, or it is not the primary server any more (55000: it has no timeline)."""
READ_TIMELINE = "substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"
"""In hexadecimal. The control file would show a new one only after the first checkpoint."""
NO_TIMELINE = "'0'"
"""In place of it, where the server cannot show it."""


class Mark(NamedTuple):
    """What identifies the epoch of a database (``epochs``)."""

    timeline: int
    """Of the server: each promotion of a standby increases it, and so does recovery to a point in time. 0 if
    the server cannot show it."""
    table: int
    """The object id of the table meta, which differs after a dump was restored."""
    epoch: str
    """What meta holds; empty if it holds none."""

    @property
    def is_begun(self) -> bool:
        """Whether the epoch in meta began on this timeline, in this table."""
        timeline, _, rest = self.epoch.partition(".")
        return self.timeline in (0, int(timeline or -1)) and rest.startswith(f"{self.table}.")


def is_operational(error: psycopg.Error) -> bool:
    """Return whether an error may pass: its cause is the connection or the server, not the statement."""
    # Errors of the library itself are a plain DatabaseError, too.
    return (
        isinstance(error, psycopg.OperationalError)
        or type(error) is psycopg.DatabaseError
        or _is_outdated(error)
    )


def _is_outdated(error: psycopg.Error) -> bool:
    """Return whether a prepared statement would have other columns now: a newer manager changed a table.

    The text of the error is in the server's language; the name of the function that raised it is not.
    """
    return (
        isinstance(error, errors.FeatureNotSupported)
        and error.diag.source_function == "RevalidateCachedQuery"
    )


class Connection:
    """A connection whose transactions are begun and ended by statements.

    ``settings`` are made once, or, behind a pooler, with each BEGIN: there no setting outlasts a transaction,
    and each transaction may run on another server. If ``reads_mark``, ``mark`` is read in the same round
    trip, with the expression ``timeline`` (``READ_TIMELINE``).
    """

    def __init__(
        self,
        driver: psycopg.Connection[Row],
        *,
        is_pooled: bool,
        settings: str,
        reads_mark: bool,
        timeline: str,
    ) -> None:
        self.driver = driver
        self.is_pooled = is_pooled
        self.mark: Mark | None = None
        """Of the server that runs, or ran, the transaction."""
        self._settings = settings
        self._reads_mark = reads_mark
        self._timeline = timeline
        self._pipeline = Pipeline(
            driver, prepares=not is_pooled, answer_timeout=STATEMENT_LIMIT + ANSWER_MARGIN
        )
        self._in_transaction = False
        self._planned_at = time.monotonic()
        # Its own descriptor: the library's may be closed, and its number used again, at any time.
        self._socket = socket.socket(fileno=os.dup(driver.pgconn.socket))

    @property
    def host(self) -> str:
        """The name or address of its server, and the port."""
        return f"{self.driver.info.host}:{self.driver.info.port}"

    @property
    def total_changes(self) -> int:
        """Rows that were changed so far."""
        return self._pipeline.changes

    def execute(self, sql: str, parameters: tuple[Any, ...] = (), /) -> Result:
        """Run one statement; in a transaction only once its result, or a later one, is read."""
        if sql.startswith(_SAVEPOINTS):
            if sql.startswith("ROLLBACK"):
                self._flush()
            self.control(sql)
            return Result(self._pipeline)
        result = self._pipeline.add(translate(sql), parameters)
        if not self._in_transaction:
            self._pipeline.settle()
        return result

    def executemany(self, sql: str, parameters: Iterable[tuple[Any, ...]], /) -> Result:
        result = Result(self._pipeline)
        for row in parameters:
            result = self.execute(sql, row)
        return result

    def begin(self, how: str = "BEGIN ISOLATION LEVEL READ COMMITTED") -> None:
        self._pipeline.answer_timeout = STATEMENT_LIMIT + ANSWER_MARGIN
        if self.is_pooled:
            self.set_up(f"{how}; ")
        elif time.monotonic() - self._planned_at >= PLANS_KEPT:
            self.control("DISCARD PLANS")
            self._planned_at = time.monotonic()
        self._in_transaction = True
        if not self.is_pooled:
            self.execute(how)

    def set_up(self, first: str = "") -> None:
        """Make the settings after a ``first`` statement, all in one round trip."""
        if self._reads_mark:
            self.read_mark(f"{first}{self._settings}; ")
        else:
            self.control(first + self._settings)

    def read_mark(self, first: str = "") -> Mark:
        """Read ``mark``, after ``first`` statements."""
        query = (
            f"{first}SELECT {self._timeline}, 'meta'::regclass::oid,"
            " (SELECT value FROM meta WHERE key = 'epoch')"
        )
        result = self._pipeline.run(query.encode())
        timeline, table, epoch = (result.get_value(0, column) or b"" for column in range(3))
        self.mark = Mark(int(timeline, 16), int(table), epoch.decode())
        return self.mark

    def limit_statements(self, seconds: float) -> None:
        """Let each statement of this transaction take so long, in place of ``STATEMENT_LIMIT``."""
        self.execute(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
        self._pipeline.answer_timeout = seconds + ANSWER_MARGIN

    def commit(self) -> None:
        """Commit.

        Raises:
            UnknownCommit: the connection was lost before the answer.
            psycopg.Error: it was not committed.
        """
        self._pipeline.settle()
        self._in_transaction = False
        try:
            status = self.control("COMMIT")
        except psycopg.Error as error:
            if self.is_lost(error):
                raise UnknownCommit(
                    "the connection to the database was lost during a commit; whether it happened is not"
                    " known",
                    fix="read what is stored, or repeat the request with the same id",
                ) from error
            raise
        if status != b"COMMIT":
            # A statement failed, and the use case went on.
            raise errors.InFailedSqlTransaction("a statement before it failed")

    def rollback(self) -> None:
        self._in_transaction = False
        self._flush()
        if self.driver.pgconn.transaction_status != TransactionStatus.IDLE:
            self.control("ROLLBACK")

    def settle(self) -> None:
        """Run what is queued. Raises the error of the first statement that failed."""
        self._pipeline.settle()

    def control(self, sql: str) -> bytes:
        """Run statements without parameters, after those that are queued; return the tag of the last."""
        return self._pipeline.run(sql.encode()).command_status or b""

    def is_lost(self, error: psycopg.Error) -> bool:
        """Return whether the connection is of no use after this error."""
        if error.sqlstate is not None:
            return error.sqlstate.startswith(_LOST) or _is_outdated(error)
        # Not an error of the server, but of the library.
        return self.driver.closed or is_operational(error)

    def close(self) -> None:
        self._socket.close()
        self.driver.close()

    def abort(self) -> None:
        """Make a statement fail that another thread waits for, as if the server were gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _flush(self) -> None:
        """Run what is queued and ignore errors: it is undone next."""
        with suppress(psycopg.Error):
            self._pipeline.settle()
