"""The same database in SQLite and in PostgreSQL, to ask both the same."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import asdict, is_dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg

from exotrio.manager.store.base import Store
from exotrio.manager.store.opening import open_store
from exotrio.manager.web.start_form import StartForm
from tests.support.postgres import Database


@asynccontextmanager
async def copied(file: Path, database: Database, clock: Callable[[], int]) -> AsyncIterator[Store]:
    """Give a store on PostgreSQL that holds what a file of SQLite does."""
    async with open_store(database.url):
        pass  # it makes the tables
    with (
        closing(sqlite3.connect(file)) as source,
        psycopg.connect(database.url, cursor_factory=psycopg.RawCursor) as connection,
    ):
        source.row_factory = sqlite3.Row
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        for (table,) in source.execute(tables).fetchall():
            rows = source.execute(f"SELECT * FROM {table}").fetchall()
            if not rows:
                continue
            names = rows[0].keys()
            places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
            connection.cursor().executemany(
                f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})"
                + (" ON CONFLICT (key) DO UPDATE SET value = excluded.value" if table == "meta" else ""),
                map(tuple, rows),
            )
    async with open_store(database.url, clock=clock) as store:
        yield store


def plain(answer: Any) -> Any:
    """Return an answer in a form that can be compared, whatever gave its rows."""
    assert not isinstance(answer, Decimal), "a number that JSON cannot hold"
    if isinstance(answer, dict):
        # A form's request_id is new each time.
        return {key: plain(value) for key, value in answer.items() if key != "request_id"}
    if isinstance(answer, StartForm):
        return [repr(field) for field in (*answer.inputs, *answer.store, *answer.run)]
    if is_dataclass(answer) and not isinstance(answer, type):
        return plain(asdict(answer))
    if isinstance(answer, Iterable) and not isinstance(answer, str | bytes):
        return [plain(value) for value in answer]
    return answer
