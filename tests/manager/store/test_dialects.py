"""Statements on many rows, as SQLite executes them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from exotrio.manager.store.sqlite.dialect import SQLiteDialect


class Recorder(sqlite3.Connection):
    """A connection that keeps the statements for many rows."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.statements: list[str] = []

    def executemany(self, sql: str, parameters: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        return super().executemany(sql, parameters)


def test_an_update_of_rows_numbers_no_parameters() -> None:
    """As every other statement: see ``test_architecture``."""
    with closing(sqlite3.connect(":memory:", factory=Recorder)) as connection:
        connection.executescript(
            "CREATE TABLE t (a INTEGER, b INTEGER, n INTEGER, x INTEGER, text TEXT);"
            "INSERT INTO t VALUES (1, NULL, 10, 0, ''), (2, 5, 20, 0, '');"
        )
        dialect = SQLiteDialect()
        sql = dialect.update("t", ("a", "b"), ("text",), ("n",), (("x", "{n} + length({text}) + {n}"),))
        dialect.run(connection, sql, [(1, None, "one", 100), (2, 5, "four", 200), (3, 3, "", 0)])
        rows = connection.execute("SELECT a, n, x, text FROM t ORDER BY a").fetchall()
    assert rows == [(1, 110, 223, "one"), (2, 220, 444, "four")]
    assert [text.count("?") for text in connection.statements] == [7]
    assert not any(number in connection.statements[0] for number in "1234567")
