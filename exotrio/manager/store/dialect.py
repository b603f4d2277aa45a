"""What SQLite and PostgreSQL say differently: conditions on lists, locks, and statements on many rows.

Everything else of SQL is written once, with ``?`` for parameters, in what both understand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from exotrio.manager.store.driver import Connection, Rows

Items = Sequence[int] | Sequence[str]


class Dialect(Protocol):
    """One engine's words. The texts are put into statements, the others are run on a connection."""

    locks_rows: bool
    """Whether transactions run side by side, so that rows have to be locked."""

    def any_of(self, column: str) -> str:
        """Return the condition that a column has one of the values of one parameter, made by ``items``."""

    def items(self, values: Items) -> Any:
        """Return what such a parameter is given."""

    def insert(self, table: str, columns: tuple[str, ...], conflict: str) -> str:
        """Return the statement that inserts rows; ``conflict`` is what follows ON CONFLICT, if anything."""

    def update(
        self, table: str, keys: tuple[str, ...], columns: tuple[str, ...], add: tuple[str, ...]
    ) -> str:
        """Return the statement that updates rows, each given as (*keys, *columns, *add)."""

    def run(self, connection: Connection, sql: str, rows: Sequence[tuple[Any, ...]]) -> Rows:
        """Run one of these for rows; the row count is that of those inserted, changed or found."""

    def secure_delete(self, connection: Connection) -> AbstractContextManager[None]:
        """Leave nothing in a file, as far as that can be had, of what the body deletes or replaces."""
