"""Which statements use cases run in the database, however many rows each of them is about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from unittest import mock

from exotrio.manager.store.base import Store
from exotrio.manager.store.driver import Connection, Rows
from exotrio.manager.store.transaction import Transaction


class _Noting:
    """A connection that notes what is run on it."""

    def __init__(self, connection: Connection, statements: list[str]) -> None:
        self._connection = connection
        self._statements = statements

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        # Of virtual times: on PostgreSQL they are read ten times a second, whatever else is done.
        if not sql.startswith("SELECT turn, turn FROM turns"):
            self._statements.append(sql)
        return self._connection.execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[tuple[Any, ...]]) -> Rows:
        self._statements.append(sql)
        return self._connection.executemany(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


_is_watched: ContextVar[bool] = ContextVar("_is_watched", default=False)


@contextmanager
def noted(store: Store) -> Iterator[list[str]]:
    """Note the statements of the use cases that this task has a store run. Other tasks write meanwhile, too.

    One that inserts or updates many rows is noted once.
    """
    statements: list[str] = []

    def noting(use_case: Callable[..., Any]) -> Callable[..., Any]:
        def watched(tx: Transaction, *args: Any, **kwargs: Any) -> Any:
            tx._connection = _Noting(tx._connection, statements)
            return use_case(tx, *args, **kwargs)

        return watched if _is_watched.get() else use_case

    write, write_once_ready = store.write, store.write_once_ready

    async def noting_write(use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await write(noting(use_case), *args, **kwargs)

    async def noting_once_ready(
        max_wait: float, use_case: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        return await write_once_ready(max_wait, noting(use_case), *args, **kwargs)

    token = _is_watched.set(True)
    try:
        with (
            mock.patch.object(store, "write", noting_write),
            mock.patch.object(store, "write_once_ready", noting_once_ready),
        ):
            yield statements
    finally:
        _is_watched.reset(token)
