"""SQL of PostgreSQL where the engines differ."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

from exotrio.manager.store.driver import Connection, Items, Rows, new_values
from exotrio.manager.store.postgres.adaptation import Array, array
from exotrio.manager.store.postgres.translation import tables


def _arrays(table: str, columns: tuple[str, ...]) -> str:
    types = tables()[table]
    return ", ".join(f"?::{types[column].type}[]" for column in columns)


@cache
def _insert(table: str, columns: tuple[str, ...], conflict: str) -> str:
    text = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({_arrays(table, columns)})"
    return f"{text} ON CONFLICT {conflict}" if conflict else text


@cache
def _update(
    table: str,
    keys: tuple[str, ...],
    columns: tuple[str, ...],
    add: tuple[str, ...],
    computed: tuple[tuple[str, str], ...],
) -> str:
    # A key may be among the columns, too: the status that is expected and the new one.
    names = [
        f"{role}_{column}" for role, group in (("k", keys), ("v", columns), ("a", add)) for column in group
    ]
    values = {column: f"new.v_{column}" for column in columns}
    values |= {column: f"({table}.{column} + new.a_{column})" for column in add}
    changes = [f"{column} = {value}" for column, value in new_values(values, computed)]
    types = tables()[table]
    same = [
        f"{table}.{key} {'IS NOT DISTINCT FROM' if types[key].may_be_null else '='} new.k_{key}"
        for key in keys
    ]
    arrays = _arrays(table, (*keys, *columns, *add))
    return (
        f"UPDATE {table} SET {', '.join(changes)} FROM unnest({arrays}) AS new ({', '.join(names)})"
        f" WHERE {' AND '.join(same)}"
    )


class PostgresDialect:
    """The dialect of PostgreSQL. The rows of a statement are sent as arrays, one for each column."""

    locks_rows = True

    def any_of(self, column: str) -> str:
        return f"{column} = ANY(?)"

    def items(self, values: Items) -> Array:
        return array(values)

    insert = staticmethod(_insert)
    update = staticmethod(_update)

    def run(self, connection: Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> Rows:
        return connection.execute(sql, tuple(array(values) for values in zip(*rows, strict=True)))

    def secure_delete(self, connection: Connection) -> AbstractContextManager[None]:
        # Clients cannot decide when a server overwrites deleted rows in its files.
        return nullcontext()
