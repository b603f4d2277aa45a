"""A connection, as use cases and queries know it, and what its errors mean."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from exotrio.errors import DatabaseError
from exotrio.manager.store.postgres.adaptation import Row
from exotrio.manager.store.postgres.pipeline import Pipeline, Result
from exotrio.manager.store.postgres.translation import translate

STATEMENT_LIMIT = 30.0
"""Seconds that the server lets a statement take, where nothing else is said."""
ANSWER_MARGIN = 5.0
"""Seconds beyond that, or another limit, after which a server that has not answered counts as lost."""
_SAVEPOINTS = ("SAVEPOINT", "ROLLBACK TO", "RELEASE")
_LOST = ("08", "57P", "25P03", "25006")
"""SQLSTATEs, or their beginnings, after which a connection is of no use: it is broken, the server stops, it
waited for this process in vain, or it is not the primary server any more."""


def is_operational(error: psycopg.Error) -> bool:
    """Return whether an error may pass: it is of the connection or the server, not of a statement."""
    # What the library says without the server comes as DatabaseError, too.
    return (
        isinstance(error, psycopg.OperationalError)
        or type(error) is psycopg.DatabaseError
        or _is_outdated(error)
    )


def _is_outdated(error: psycopg.Error) -> bool:
    """Return whether a prepared statement would have other columns now: a newer manager changed a table.

    What the server says is in its own language; the function of its that says so is not.
    """
    return (
        isinstance(error, errors.FeatureNotSupported)
        and error.diag.source_function == "RevalidateCachedQuery"
    )


class CommitUnknown(Exception):
    """The connection was lost before the answer to a COMMIT."""


class Connection:
    """A connection whose transactions are begun and ended by statements.

    ``setup`` is run with each BEGIN: behind a pooler no setting outlasts a transaction.
    """

    def __init__(self, driver: psycopg.Connection[Row], *, is_pooled: bool, setup: str) -> None:
        self.driver = driver
        self.is_pooled = is_pooled
        self._setup = setup
        self._pipeline = Pipeline(driver, prepares=not is_pooled, patience=STATEMENT_LIMIT + ANSWER_MARGIN)
        self._in_transaction = False
        # Its own descriptor: the library's may be closed, and its number used again, at any time.
        self._socket = socket.socket(fileno=os.dup(driver.pgconn.socket))

    @property
    def total_changes(self) -> int:
        """Rows that were changed so far."""
        return self._pipeline.changes

    def execute(self, sql: str, parameters: tuple[Any, ...] = (), /) -> Result:
        """Run one statement; in a transaction only once somebody asks what it found, or one after it."""
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
        """Run one statement for many rows."""
        result = Result(self._pipeline)
        for row in parameters:
            result = self.execute(sql, row)
        return result

    def serialize(self) -> bytes:
        """Refuse: there is no file."""
        raise DatabaseError(
            "a database on PostgreSQL has no file that could be copied", fix="use pg_dump for backups"
        )

    def begin(self, how: str = "BEGIN ISOLATION LEVEL READ COMMITTED") -> None:
        self._pipeline.patience = STATEMENT_LIMIT + ANSWER_MARGIN
        if self._setup:
            self.control(f"{how}; {self._setup}")
        self._in_transaction = True
        if not self._setup:
            self.execute(how)

    def limit_statements(self, seconds: float) -> None:
        """Let each statement of this transaction take so long, in place of ``STATEMENT_LIMIT``."""
        self.execute(f"SET LOCAL statement_timeout = {round(seconds * 1000)}")
        self._pipeline.patience = seconds + ANSWER_MARGIN

    def commit(self) -> None:
        """Commit.

        Raises:
            CommitUnknown: the connection was lost before the answer.
            psycopg.Error: it was not committed.
        """
        self._pipeline.settle()
        self._in_transaction = False
        try:
            status = self.control("COMMIT")
        except psycopg.Error as error:
            if self.is_lost(error):
                raise CommitUnknown from error
            raise
        if status != b"COMMIT":
            # A statement failed, and the use case went on.
            raise errors.InFailedSqlTransaction("a statement before it failed")

    def rollback(self) -> None:
        """Undo what was done since BEGIN."""
        self._in_transaction = False
        self._flush()
        if self.driver.pgconn.transaction_status != TransactionStatus.IDLE:
            self.control("ROLLBACK")

    def settle(self) -> None:
        """Run what waits in line. Raises the error of the first statement that failed."""
        self._pipeline.settle()

    def control(self, sql: str) -> bytes:
        """Run statements without parameters or rows, after what waits in line; return the tag of the last."""
        return self._pipeline.run(sql.encode()).command_status or b""

    def is_lost(self, error: psycopg.Error) -> bool:
        """Return whether the connection is of no use after this error."""
        if error.sqlstate is not None:
            return error.sqlstate.startswith(_LOST) or _is_outdated(error)
        # The server did not say this, but the library that speaks with it.
        return self.driver.closed or is_operational(error)

    def close(self) -> None:
        self._socket.close()
        self.driver.close()

    def abort(self) -> None:
        """Have a statement that another thread waits for fail, as if the server were gone."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _flush(self) -> None:
        """Run what waits in line, whatever comes of it: it is undone next."""
        with suppress(psycopg.Error):
            self._pipeline.settle()
