"""Statements that are sent to the server, and answered, together.

A round trip costs this process and the server more than most statements do. So within a transaction a
statement is only queued. All queued statements are sent once the result of one is read. The driver's cursors
can do so, too, at three times the processor time.

No wait is without a limit: a server that is suspended, or whose disk hangs, keeps its connections open and
never answers.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from exotrio.manager.store.postgres.adaptation import Row, row_class

MAX_QUEUED = 64
"""Maximum of statements that are sent together: their parameters are in memory until then."""
MAX_QUEUED_BYTES = 1024 * 1024
MAX_PREPARED = 500
"""Prepared statements of a connection that the server keeps; then all are forgotten."""
_AUTO = [PyFormat.AUTO]
_DONE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK)
_CHANGES = (b"INSERT", b"UPDATE", b"DELETE")


class Result:
    """The rows of a statement, or how many it changed. Reading them waits for the server.

    Each method that reads raises psycopg.Error, also that of a statement before this one.
    """

    __slots__ = ("_pgresult", "_pipeline", "_rows")

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._pgresult: PGresult | None = None
        self._rows: Iterator[Row] | None = None

    @property
    def rowcount(self) -> int:
        return self._answer().command_tuples or 0

    def __iter__(self) -> Iterator[Row]:
        if self._rows is None:
            self._rows = iter(self._pipeline.load(self._answer()))
        return self._rows

    def fetchone(self) -> Row | None:
        return next(iter(self), None)

    def fetchall(self) -> list[Row]:
        return list(self)

    def close(self) -> None:
        """Do nothing; the rows are here already."""

    def _answer(self) -> PGresult:
        if self._pgresult is None:
            self._pipeline.settle()
        if self._pgresult is None:
            raise errors.InFailedSqlTransaction("a statement before it failed")
        return self._pgresult


class Pipeline:
    """The statements of one connection. For one thread.

    If the server sends nothing for ``answer_timeout`` seconds while its answer is waited for, the connection
    is closed: the wait, and all later use, raises psycopg.OperationalError.
    """

    def __init__(self, driver: psycopg.Connection[Any], *, prepares: bool, answer_timeout: float) -> None:
        self.answer_timeout = answer_timeout
        self._pgconn = driver.pgconn
        self._transformer = Transformer(driver)
        self._prepares = prepares
        # By statement and the types of its parameters; None once it was run, a name once it is prepared.
        self._names: dict[tuple[bytes, Sequence[int]], bytes | None] = {}
        self._prepared = 0
        self._queue: deque[Result | tuple[bytes, Sequence[int]]] = deque()
        self._queued_bytes = 0
        self.changes = 0
        """Rows that were changed so far."""

    def add(self, sql: bytes, parameters: Sequence[Any]) -> Result:
        pgconn, transformer = self._pgconn, self._transformer
        values = transformer.dump_sequence(parameters, _AUTO * len(parameters))
        types, formats = transformer.types or (), transformer.formats
        if not self._queue:
            if len(self._names) >= MAX_PREPARED:
                self._forget_prepared()
            pgconn.enter_pipeline_mode()
        name = self._name(sql, types) if self._prepares else None
        if name is None:
            pgconn.send_query_params(sql, values, types, formats, Format.BINARY)
        else:
            pgconn.send_query_prepared(name, values, formats, Format.BINARY)
        result = Result(self)
        self._queue.append(result)
        self._queued_bytes += sum(map(len, filter(None, values)))
        if len(self._queue) >= MAX_QUEUED or self._queued_bytes >= MAX_QUEUED_BYTES:
            self.settle()
        return result

    def settle(self) -> None:
        """Send what is queued, and read the answers. Raises the error of the first that failed."""
        if not self._queue:
            return
        queue, self._queue, self._queued_bytes = self._queue, deque(), 0
        error: psycopg.Error | None = None
        try:
            self._pgconn.pipeline_sync()
            while (answer := self._receive()) is None or answer.status != ExecStatus.PIPELINE_SYNC:
                if answer is None:  # the end of the answer to one statement
                    if self._pgconn.status != ConnStatus.OK:
                        raise self._lost()
                    continue
                # A pooler that loses its server adds one more error to the last one of the server.
                item = queue.popleft() if queue else None
                if answer.status in _DONE:
                    if isinstance(item, Result):
                        item._pgresult = answer
                        if (answer.command_status or b"")[:6] in _CHANGES:
                            self.changes += answer.command_tuples or 0
                    continue
                if isinstance(item, tuple):
                    del self._names[item]
                error = error or errors.error_from_result(answer)
            self._pgconn.exit_pipeline_mode()
        except psycopg.Error as lost:
            # An answer that came before the connection was lost is more specific.
            raise error or lost from None
        if error is not None:
            raise error

    def run(self, sql: bytes) -> PGresult:
        """Run statements without parameters, after those that are queued; return the answer to the last one.

        Raises the error of the first that failed.
        """
        self.settle()
        self._pgconn.send_query(sql)
        last: PGresult | None = None
        while (answer := self._receive()) is not None:
            last = answer
        if last is None:
            raise self._lost()
        if last.status not in _DONE:
            raise errors.error_from_result(last)
        return last

    def load(self, answer: PGresult) -> list[Row]:
        if not answer.ntuples:
            return []
        names = tuple([answer.fname(number) for number in range(answer.nfields)])
        self._transformer.set_pgresult(answer)
        return self._transformer.load_rows(0, answer.ntuples, row_class(names))

    def _receive(self) -> PGresult | None:
        """Return the next answer; None at the end of those to one statement."""
        pgconn = self._pgconn
        while pgconn.is_busy():
            unsent = pgconn.flush()
            # The library would block other threads while it waits, and wait without a limit.
            poll = select.poll()
            poll.register(pgconn.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
            if not poll.poll(self.answer_timeout * 1000):
                with socket.socket(fileno=os.dup(pgconn.socket)) as own:
                    own.shutdown(socket.SHUT_RDWR)
                raise psycopg.OperationalError(f"the server did not answer within {self.answer_timeout:g} s")
            pgconn.consume_input()
        return pgconn.get_result()

    def _lost(self) -> psycopg.OperationalError:
        return psycopg.OperationalError(self._pgconn.get_error_message() or "the connection was lost")

    def _name(self, sql: bytes, types: Sequence[int]) -> bytes | None:
        """Return the name of a prepared statement. A statement is prepared when it is run a second time."""
        key = sql, types
        if key not in self._names:
            self._names[key] = None
            return None
        name = self._names[key]
        if name is None:
            name = self._names[key] = b"s%d" % self._prepared
            self._prepared += 1
            self._pgconn.send_prepare(name, sql, types)
            self._queue.append(key)
        return name

    def _forget_prepared(self) -> None:
        self._names.clear()
        self.run(b"DEALLOCATE ALL")
