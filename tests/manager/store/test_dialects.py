"""SQL that differs between the engines, and what is translated for PostgreSQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from exotrio.manager.store.driver import Update
from exotrio.manager.store.postgres.translation import tables, translate
from exotrio.manager.store.schema import SCHEMA
from exotrio.manager.store.sqlite.dialect import SQLiteDialect


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("a = ? AND b = ?", "a = $1 AND b = $2"),
        ("a = '?' AND b = 'it''s ?' AND \"c?\" = ?", "a = '?' AND b = 'it''s ?' AND \"c?\" = $1"),
        ("a CROSS JOIN b ON b.x = a.x", "a JOIN b ON b.x = a.x"),
        ("a CROSS JOIN b AS c ON c.x = a.x", "a JOIN b AS c ON c.x = a.x"),
        ("a CROSS JOIN b c ON c.x = a.x", "a JOIN b c ON c.x = a.x"),
        ("a CROSS JOIN b WHERE a.x = 1", "a CROSS JOIN b WHERE a.x = 1"),
        ("states INDEXED BY states_held WHERE", "states WHERE"),
        ("name LIKE ? ESCAPE '\\'", "name ILIKE $1 ESCAPE '\\'"),
        ("a = 'x LIKE y CROSS JOIN b ON c'", "a = 'x LIKE y CROSS JOIN b ON c'"),
    ],
)
def test_only_what_differs_between_the_engines_is_translated(here: str, there: str) -> None:
    assert translate(f"SELECT 1 FROM {here}").decode() == f"SELECT 1 FROM {there}"


def test_the_columns_of_all_tables_are_known_as_sqlite_knows_them() -> None:
    types = {"INTEGER": "bigint", "TEXT": "text", "BLOB": "bytea"}
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(SCHEMA)
        names = connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        ).fetchall()
        there = {
            name: {
                column: (types[kind], not (required or key))
                for _, column, kind, required, _, key in connection.execute(f"PRAGMA table_info({name})")
            }
            for (name,) in names
        }
    here = {
        name: {column: (each.type, each.may_be_null) for column, each in columns.items()}
        for name, columns in tables().items()
    }
    assert here == there


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
        SQLiteDialect().update(
            connection,
            Update("t", ("a", "b"), ("text",), ("n",), (("x", "{n} + length({text}) + {n}"),)),
            [(1, None, "one", 100), (2, 5, "four", 200), (3, 3, "", 0)],
        )
        rows = connection.execute("SELECT a, n, x, text FROM t ORDER BY a").fetchall()
    assert rows == [(1, 110, 223, "one"), (2, 220, 444, "four")]
    assert [text.count("?") for text in connection.statements] == [7]
    assert not any(number in connection.statements[0] for number in "1234567")
