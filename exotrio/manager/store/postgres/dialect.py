"""SQL of PostgreSQL where the engines differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from psycopg.errors import UniqueViolation

from exotrio.manager.store.driver import Connection, Insert, Items, Rows, Update, new_values
from exotrio.manager.store.postgres.adaptation import Array, array
from exotrio.manager.store.postgres.translation import tables

MANY = 8
"""Rows of which it does not happen that a column has one value: if it has, it has in the next ones, too."""


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[tuple[bool, ...], tuple[Any, ...]]:
    """Return which columns have one value in all of these rows, and the parameter for each column: that
    value, or an array.

    PostgreSQL takes a value faster than an array of it, and most columns of new states have the same value.
    Of a few rows only one is taken so: with each column that happens to have one value, or not, there would
    be another statement to prepare.
    """
    columns = list(zip(*rows, strict=True))
    if len(rows) == 1:
        return (True,) * len(columns), rows[0]
    # The first one is an array, so that there are as many rows.
    same = [
        number > 0
        and len(rows) >= MANY
        and column[0] == column[-1]  # of most columns that differ, this tells it at once
        and column.count(column[0]) == len(rows)
        for number, column in enumerate(columns)
    ]
    values = (column[0] if one else array(column) for one, column in zip(same, columns, strict=True))
    return tuple(same), tuple(values)


def _selected(types: Sequence[str], same: Sequence[bool], names: Sequence[str]) -> str:
    """Return the SELECT of rows whose columns have these types and names."""
    return "SELECT " + ", ".join(
        f"?::{type} AS {name}" if one else f"unnest(?::{type}[]) AS {name}"
        for type, one, name in zip(types, same, names, strict=True)
    )


@cache
def _for_each(
    selects: tuple[str, ...], names: tuple[str, ...], types: tuple[str, ...], same: tuple[bool, ...]
) -> str:
    # Not a UNION of as many SELECTs as rows: to begin each takes 13 us, whether it finds anything or not.
    values = {name: f"given.{name}" for name in names}
    found = " UNION ALL ".join(f"SELECT * FROM ({select.format_map(values)}) AS found" for select in selects)
    given = _selected(types, same, names)
    return f"SELECT found.* FROM ({given}) AS given CROSS JOIN LATERAL ({found}) AS found"


@cache
def _insert(into: Insert, same: tuple[bool, ...]) -> str:
    types = [*(tables()[into.table][column].type for column in into.columns), *["bigint"] * len(into.more)]
    names = (*into.columns, *into.more)
    rows = _selected(types, same, names)
    if into.computed:
        values = dict(new_values({name: f"new.{name}" for name in names}, into.computed))
        rows = f"SELECT {', '.join(values[column] for column in into.columns)} FROM ({rows}) AS new"
    text = f"INSERT INTO {into.table} ({', '.join(into.columns)}) {rows}"
    return f"{text} ON CONFLICT {into.conflict}" if into.conflict else text


@cache
def _update(of: Update, same: tuple[bool, ...]) -> str:
    # A key may be among the columns, too: the status that is expected and the new one.
    groups = (("k", of.keys), ("v", of.columns), ("a", of.add))
    names = [f"{role}_{column}" for role, group in groups for column in group]
    values = {column: f"new.v_{column}" for column in of.columns}
    values |= {column: f"({of.table}.{column} + new.a_{column})" for column in of.add}
    changes = [f"{column} = {value}" for column, value in new_values(values, of.computed)]
    known = tables()[of.table]
    found = [
        f"{of.table}.{key} {'IS NOT DISTINCT FROM' if known[key].may_be_null else '='} new.k_{key}"
        for key in of.keys
    ]
    rows = _selected([known[column].type for column in (*of.keys, *of.columns, *of.add)], same, names)
    return f"UPDATE {of.table} SET {', '.join(changes)} FROM ({rows}) AS new WHERE {' AND '.join(found)}"


class PostgresDialect:
    """The dialect of PostgreSQL. The rows of a statement are sent by column, most columns as arrays."""

    locks_rows = True

    def any_of(self, column: str) -> str:
        return f"{column} = ANY(?)"

    def items(self, values: Items) -> Array:
        return array(values)

    def for_each(
        self, selects: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[int | str, ...]]
    ) -> Iterable[tuple[str, tuple[Any, ...]]]:
        types = tuple("text" if isinstance(value, str) else "bigint" for value in rows[0])
        if len(rows) == 1:
            yield _for_each(selects, names, types, (True,) * len(names)), rows[0]
        else:
            columns = tuple(map(array, zip(*rows, strict=True)))
            yield _for_each(selects, names, types, (False,) * len(names)), columns

    def insert(self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]) -> Rows:
        same, parameters = _columns(rows)
        return connection.execute(_insert(into, same), parameters)

    def insert_numbered(
        self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[int]:
        same, parameters = _columns(rows)
        try:
            # Not DO NOTHING, which searches each index twice.
            inserted = connection.execute(f"{_insert(into, same)} RETURNING id", parameters).fetchall()
        except UniqueViolation:
            return ()
        # Sorted: they are assigned in the order of the rows.
        return sorted([number for (number,) in inserted])

    def update(self, connection: Connection, of: Update, rows: Sequence[tuple[Any, ...]]) -> Rows:
        same, parameters = _columns(rows)
        return connection.execute(_update(of, same), parameters)

    def secure_delete(self, connection: Connection) -> AbstractContextManager[None]:
        # Clients cannot decide when a server overwrites deleted rows in its files.
        return nullcontext()
