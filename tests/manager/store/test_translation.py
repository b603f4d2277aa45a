"""SQL in PostgreSQL's words."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from exotrio.manager.store.postgres.translation import tables, translate
from exotrio.manager.store.schema import SCHEMA


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
def test_only_what_the_engines_say_differently_is_translated(here: str, there: str) -> None:
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
