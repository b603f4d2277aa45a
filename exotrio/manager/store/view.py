"""``View``: the database as a query sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from exotrio.manager.rules.template import Template
from exotrio.manager.store.catalog import Catalog
from exotrio.manager.store.driver import Connection, Dialect, Items, Row, Rows


class OutOfTime(Exception):
    """A query reached its time limit."""


class View:
    """What a query sees at ``now_ms``, in Unix milliseconds.

    ``check``, if set, is called before each statement and raises to end the query, even between two short
    statements: ``execute`` and ``row`` then raise OutOfTime.
    """

    def __init__(
        self, *, connection: Connection, dialect: Dialect, catalog: Catalog, stamp: str, now_ms: int
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        # As ``Dialect`` says. No methods around them: one request calls these ten times.
        self.any_of: Callable[[str], str] = dialect.any_of
        self.items: Callable[[Items], Any] = dialect.items
        self.catalog = catalog
        self._stamp = stamp
        self.now_ms = now_ms
        self.check: Callable[[], None] | None = None

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        if self.check is not None:
            self.check()
        return self._connection.execute(sql, parameters)

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> Row | None:
        row: Row | None = self.execute(sql, parameters).fetchone()
        return row

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Row:
        """Return the first row, which has to exist: a query sees one state of the database."""
        row = self.row(sql, parameters)
        assert row is not None, sql
        return row

    def for_each(
        self, selects: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[int | str, ...]]
    ) -> Iterator[Row]:
        """Yield what these SELECTs return for each of the rows of values, in which ``{name}`` is a value.

        All have the same columns, and may have a LIMIT and lock rows. Rows of values come in any order.
        """
        for sql, parameters in self._dialect.for_each(selects, names, rows) if rows else ():
            yield from self.execute(sql, parameters)

    @property
    def lease_now(self) -> int:
        """The time on the clock of leases, in ms."""
        clock = self.catalog.lease_clock
        return self.now_ms if clock is None else clock()

    @property
    def max_inputs(self) -> int:
        """Maximum of bytes of the inputs of a new state."""
        return self.catalog.max_inputs

    def template(self, template_id: int) -> Template:
        return self.catalog.template(self._connection, template_id)

    def state_id(self, seq: int) -> str:
        """Return the public id of the state with this number: 24 hex digits, the database's stamp first."""
        return f"{self._stamp}{seq:016x}"

    def seq(self, state_id: str) -> int | None:
        """Return the number in a public id, or None if no state of this database can have that id."""
        if len(state_id) != 24 or not state_id.startswith(self._stamp):
            return None
        digits = state_id[8:]
        # int(..., 16) takes signs, blanks and underscores too; a seq has 63 bits.
        if digits.strip("0123456789abcdef") or digits[0] > "7":
            return None
        return int(digits, 16)
