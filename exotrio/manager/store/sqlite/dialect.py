"""SQL of SQLite where the engines differ. One process writes, so nothing has to be locked."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain
from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from exotrio.manager.store.driver import Connection, Insert, Items, Rows, Update, new_values

ROWS_PER_STATEMENT = 100
"""SQLite accepts at most 500 parts of one statement."""
MANY, TOGETHER = 100, 20
"""From so many rows on, so many of them are inserted together: each takes half as long as alone."""
_NUMBERED = re.compile(r"\?(\d+)")


_InOrder = Callable[[tuple[Any, ...]], tuple[Any, ...]]


def _in_order(sql: str) -> tuple[str, _InOrder]:
    """Return a statement with numbered parameters without the numbers, and a function that returns the
    parameters of a row in their order.

    Python up to 3.12.3 warns of numbered parameters, which is an error if warnings are errors.
    """
    numbers = [int(number) - 1 for number in _NUMBERED.findall(sql)]
    return _NUMBERED.sub("?", sql), itemgetter(*numbers)


@cache
def _for_each(selects: tuple[str, ...], names: tuple[str, ...], rows: int) -> tuple[str, _InOrder]:
    """Return the statement for so many rows of values, and a function that returns its parameters, given the
    values of all rows."""
    parts = []
    for row in range(rows):
        values = {name: f"?{number}" for number, name in enumerate(names, row * len(names) + 1)}
        parts += [f"SELECT * FROM ({select.format_map(values)}) AS found" for select in selects]
    return _in_order(" UNION ALL ".join(parts))


@cache
def _insert(into: Insert, rows: int = 1) -> tuple[str, _InOrder | None]:
    given = {name: f"?{number}" for number, name in enumerate((*into.columns, *into.more), 1)}
    values = dict(new_values(given, into.computed))
    row = f"({', '.join(values[column] for column in into.columns)})"
    row += f", {row}" * (rows - 1)
    text = f"INSERT INTO {into.table} ({', '.join(into.columns)}) VALUES {row}"
    sql, in_order = _in_order(f"{text} ON CONFLICT {into.conflict}" if into.conflict else text)
    return sql, in_order if into.computed else None


def _insert_plain(connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]) -> Rows:
    """Insert rows without computed columns: of many, ``TOGETHER`` with one statement, and the rest alone."""
    count = len(rows) - len(rows) % TOGETHER if len(rows) >= MANY else 0
    if not count:
        return connection.executemany(_insert(into)[0], rows)
    parts = (rows[start : start + TOGETHER] for start in range(0, count, TOGETHER))
    flat = (tuple(chain.from_iterable(part)) for part in parts)
    together = connection.executemany(_insert(into, TOGETHER)[0], flat)
    return connection.executemany(_insert(into)[0], rows[count:]) if rows[count:] else together


@cache
def _update(of: Update) -> tuple[str, _InOrder]:
    """Return the statement, and a function that returns the parameters of a row in their order."""
    # Numbered, as the keys come first in a row and last in the statement, and one may be needed twice.
    number = {column: index for index, column in enumerate((*of.keys, *of.columns, *of.add), 1)}
    values = {column: f"?{number[column]}" for column in of.columns}
    values |= {column: f"({column} + ?{number[column]})" for column in of.add}
    changes = [f"{column} = {value}" for column, value in new_values(values, of.computed)]
    first, *others = of.keys
    same = [f"{first} = ?1", *(f"{key} IS ?{index}" for index, key in enumerate(others, 2))]
    return _in_order(f"UPDATE {of.table} SET {', '.join(changes)} WHERE {' AND '.join(same)}")


class SQLiteDialect:
    locks_rows = False

    def any_of(self, column: str) -> str:
        return f"{column} IN (SELECT value FROM json_each(?))"

    def items(self, values: Items) -> str:
        return to_json(values).decode()

    def for_each(
        self, selects: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[int | str, ...]]
    ) -> Iterable[tuple[str, tuple[Any, ...]]]:
        for start in range(0, len(rows), ROWS_PER_STATEMENT):
            part = rows[start : start + ROWS_PER_STATEMENT]
            sql, in_order = _for_each(selects, names, len(part))
            yield sql, in_order(tuple(chain.from_iterable(part)))

    def insert(self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]) -> Rows:
        if not (into.computed or into.conflict):
            return _insert_plain(connection, into, rows)
        text, in_order = _insert(into)
        return connection.executemany(text, rows if in_order is None else map(in_order, rows))

    def insert_numbered(
        self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[int]:
        into, before = into._replace(conflict="DO NOTHING"), connection.total_changes
        _insert_plain(connection, into, rows)
        count = connection.total_changes - before
        # Only this connection writes, so they follow each other.
        last = connection.execute("SELECT last_insert_rowid()").fetchone()[0]
        return range(last - count + 1, last + 1)

    def update(self, connection: Connection, of: Update, rows: Sequence[tuple[Any, ...]]) -> Rows:
        text, in_order = _update(of)
        return connection.executemany(text, map(in_order, rows))

    @contextmanager
    def secure_delete(self, connection: Connection) -> Iterator[None]:
        # Otherwise SQLite leaves the old values in the file.
        before = connection.execute("PRAGMA secure_delete").fetchone()[0]
        connection.execute("PRAGMA secure_delete = ON")
        try:
            yield
        finally:
            connection.execute(f"PRAGMA secure_delete = {before}")
