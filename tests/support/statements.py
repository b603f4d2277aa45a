"""Which statements use cases run in the database, however many rows each of them is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from exotrio.manager.store.driver import Connection, Rows
from exotrio.manager.store.port import Transaction


class _Noting:
    """A connection that notes what is run on it."""

    def __init__(self, connection: Connection, statements: list[str]) -> None:
        self._connection = connection
        self._statements = statements

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        self._statements.append(sql)
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[tuple[Any, ...]]) -> Rows:
        self._statements.append(sql)
        return self._connection.executemany(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@contextmanager
def noted() -> Iterator[list[str]]:
    """Note the statements of all use cases that run meanwhile, in any store of this process.

    One that inserts or updates many rows is noted once.
    """
    statements: list[str] = []
    init = Transaction.__init__

    def noting(tx: Transaction, *, connection: Connection, **others: Any) -> None:
        init(tx, connection=_Noting(connection, statements), **others)

    with mock.patch.object(Transaction, "__init__", noting):
        yield statements
