"""Connections and rows of a database's driver, and what differs between SQLite and PostgreSQL.

Only an engine's own package knows more of its driver. All other SQL is written once, with ``?`` for
parameters, in words that both engines understand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Row(Protocol):
    """One row, by name or position of its columns; ``dict`` makes a dictionary of it."""

    def keys(self) -> list[str]: ...

    def __getitem__(self, column: str | int, /) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...


class Rows(Protocol):
    """The rows that a statement returned, or how many it changed."""

    @property
    def rowcount(self) -> int: ...

    def __iter__(self) -> Iterator[Any]: ...

    def fetchone(self) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    def close(self) -> None: ...


class Executor(Protocol):
    """What runs statements: a connection, or a view of it."""

    def execute(self, sql: str, parameters: tuple[Any, ...] = ..., /) -> Rows: ...


class Connection(Executor, Protocol):
    """A connection whose transactions are begun and ended by statements."""

    @property
    def total_changes(self) -> int: ...

    def executemany(self, sql: str, parameters: Iterable[tuple[Any, ...]], /) -> Rows: ...


Items = Sequence[int] | Sequence[str]


Computed = tuple[tuple[str, str], ...]
"""Columns, each with the expression of its new value, in which ``{name}`` is a value of the row."""


class Insert(NamedTuple):
    """A statement that inserts rows, each of which is (*columns, *more).

    ``conflict`` is what follows ON CONFLICT, if anything. ``more`` are whole numbers for expressions.
    """

    table: str
    columns: tuple[str, ...]
    conflict: str = ""
    computed: Computed = ()
    more: tuple[str, ...] = ()


class Update(NamedTuple):
    """A statement that updates rows, each of which is (*keys, *columns, *add).

    In the expressions of ``computed`` a column is its new value, or the sum for one of ``add``.
    """

    table: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    add: tuple[str, ...] = ()
    computed: Computed = ()


class Dialect(Protocol):
    """One engine's SQL for conditions on lists, locks, and statements on many rows."""

    locks_rows: bool
    """Whether transactions run at the same time, so that rows have to be locked."""

    def any_of(self, column: str) -> str:
        """Return the condition that a column has one of the values of one parameter, made by ``items``."""

    def items(self, values: Items) -> Any:
        """Return the value of such a parameter."""

    def for_each(
        self, selects: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[int | str, ...]]
    ) -> Iterable[tuple[str, tuple[Any, ...]]]:
        """Return statements, each with its parameters, for ``View.for_each``."""

    def insert(self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]) -> Rows:
        """Insert rows with one statement."""

    def insert_numbered(
        self, connection: Connection, into: Insert, rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[int]:
        """Insert rows; return the ids that they get, in their order, but fewer if one is there already."""

    def update(self, connection: Connection, of: Update, rows: Sequence[tuple[Any, ...]]) -> Rows:
        """Update rows with one statement."""

    def secure_delete(self, connection: Connection) -> AbstractContextManager[None]:
        """Overwrite in files what the body deletes or replaces, where supported."""


def new_values(values: Mapping[str, str], computed: Computed) -> Iterable[tuple[str, str]]:
    """Return the expression for the new value of each column: its value, or one computed from values."""
    return {**values, **{column: text.format_map(values) for column, text in computed}}.items()


def put_meta(executor: Executor, key: str, value: str) -> None:
    """Keep a value in the table ``meta``."""
    executor.execute(
        "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
    )


def count_change(executor: Executor, key: str) -> None:
    """Add 1 to a number in the table ``meta``, by which state managers see that their copies are out of date.

    It lets one transaction after the other do so.
    """
    executor.execute(
        "INSERT INTO meta VALUES (?, '1') ON CONFLICT (key)"
        " DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT)",
        (key,),
    )
