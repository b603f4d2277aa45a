"""What use cases and queries work with: the database as a ``Transaction``, or as a ``View`` of it.

And what runs them: a ``Store``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

import trio

from exotrio.errors import DatabaseError
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.catalog import Catalog, RunFacts
from exotrio.manager.store.driver import Connection, Dialect, Items, Row, Rows
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.heads import Heads

P = ParamSpec("P")
T = TypeVar("T")

CLOSING_GRACE = 5.0
"""Seconds that the last writes may take when a store is closed, where nothing else is said."""
START_PATIENCE = 30.0
"""Seconds; what started this process may try again after that."""
START_PAUSE = 0.5


class Replaced(Exception):
    """The database is not the one that was opened: what is written there would be lost."""


class Conflict(Exception):
    """Another transaction changed a row between reading and writing it. The store runs the use case again."""


class OutOfTime(Exception):
    """A query took as long as it may."""


class NotRead(DatabaseError):
    """The database could not be read; that is in the log already."""


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
        self._catalog = catalog
        self._stamp = stamp
        self.now_ms = now_ms
        self.check: Callable[[], None] | None = None

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        if self.check is not None:
            self.check()
        return self._connection.execute(sql, parameters)

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> Row | None:
        found: Row | None = self.execute(sql, parameters).fetchone()
        return found

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Row:
        """Return the first row, of which there has to be one: a query sees one state of the database."""
        found = self.row(sql, parameters)
        assert found is not None, sql
        return found

    def any_of(self, column: str) -> str:
        """Return the condition that a column has one of the values of one parameter, made by ``items``."""
        return self._dialect.any_of(column)

    def items(self, values: Items) -> Any:
        return self._dialect.items(values)

    def serialize(self) -> bytes:
        """Return the whole database as a file would hold it. For one in memory."""
        return self._connection.serialize()

    @property
    def max_inputs(self) -> int:
        """Most bytes of the inputs of a new state."""
        return self._catalog.max_inputs

    def template(self, template_id: int) -> Template:
        return self._catalog.template(self._connection, template_id)

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


class Transaction(View):
    """What a use case works with: a view that can also write.

    ``waited`` tells whether the use case ran before, found nothing, and has waited since. What is to be done
    after the commit is not written here but returned: ``store.effects``.
    """

    def __init__(
        self,
        *,
        connection: Connection,
        dialect: Dialect,
        catalog: Catalog,
        stamp: str,
        now_ms: int,
        allocate: Callable[[], int],
        waited: bool = False,
    ) -> None:
        super().__init__(connection=connection, dialect=dialect, catalog=catalog, stamp=stamp, now_ms=now_ms)
        self.allocate: Callable[[], int] = allocate
        """Returns the number of a new state. It is not used again, even if this use case is undone."""
        self.heads: Heads | None = catalog.heads
        self.waited = waited
        self._updates: list[tuple[str, Rows, int]] = []

    def registered(self, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None."""
        return self._catalog.registered(self._connection, namespace, name)

    def node_id(self, namespace: str, name: str) -> int | None:
        """Return the id of what is registered under this name, or None."""
        return self._catalog.node_id(self._connection, namespace, name)

    def run_facts(self, runs: Collection[int]) -> dict[int, RunFacts]:
        """Return what never changes in these runs, by id; read at most once as a rule."""
        found = {run: facts for run in runs if (facts := self._catalog.known_run(run)) is not None}
        if missing := [run for run in runs if run not in found]:
            for run, *facts in self.execute(
                "SELECT runs.id, run_id, runs.template, graphs.name FROM runs"
                f" CROSS JOIN graphs ON graphs.id = runs.graph WHERE {self.any_of('runs.id')}",
                (self.items(missing),),
            ):
                found[run] = RunFacts(*facts)
                self._catalog.keep_run(run, found[run])
        return found

    def forget_registered(self) -> None:
        """Read registered nodes anew from now on."""
        self._catalog.forget_registered()

    def executemany(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement for many rows."""
        self._connection.executemany(sql, rows)

    def insert(
        self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], conflict: str = ""
    ) -> None:
        """Insert rows with one statement.

        ``conflict`` is what follows ON CONFLICT. Several transactions that meet in the same rows must give
        them in the same order: sort them by their key.
        """
        if rows:
            self._dialect.run(self._connection, self._dialect.insert(table, columns, conflict), rows)

    def insert_new(self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert those rows that are not there yet, in an order as of ``insert``; return how many."""
        sql = self._dialect.insert(table, columns, "DO NOTHING")
        return self._dialect.run(self._connection, sql, rows).rowcount if rows else 0

    def update(
        self,
        table: str,
        keys: tuple[str, ...],
        columns: tuple[str, ...],
        rows: Sequence[tuple[Any, ...]],
        *,
        add: tuple[str, ...] = (),
        computed: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Update rows with one statement: each is (*keys, *columns, *add).

        A row is found by all its keys, which may be NULL but for the first; its ``columns`` get new values,
        those of ``add`` grow by the given ones; ``computed``: see ``Dialect.update``.

        If one is not found, the use case is run again, when it has ended: the keys say what was read of the
        row, and it has changed since.
        """
        if rows:
            sql = self._dialect.update(table, keys, columns, add, computed)
            updated = self._dialect.run(self._connection, sql, rows)
            self._updates.append((table, updated, len(rows)))

    def check_updates(self) -> None:
        """Raise Conflict if a row that was to be updated was not found. The store calls this last."""
        for table, updated, expected in self._updates:
            if updated.rowcount != expected:
                raise Conflict(table)

    def lock_runs(self, ids: Sequence[int]) -> None:
        """Have the states of these runs to oneself until the end of the transaction.

        Whoever changes states of a run does this before reading them; claims and heartbeats need not, since
        no counter depends on them.
        """
        if self._dialect.locks_rows:
            locked = f"SELECT id FROM runs WHERE {self.any_of('id')} ORDER BY id FOR UPDATE"
            self.execute(locked, (self.items(ids),))

    def lock_runs_of(self, seqs: Sequence[int]) -> None:
        """Lock the runs of these states, as ``lock_runs`` does."""
        if self._dialect.locks_rows:
            which = f"SELECT run FROM states WHERE {self.any_of('seq')}"
            locked = f"SELECT id FROM runs WHERE id IN ({which}) ORDER BY id FOR UPDATE"
            self.execute(locked, (self.items(seqs),))

    def for_update(self, table: str) -> str:
        """Return the end of a SELECT that locks the rows of a table which it finds."""
        return f" FOR UPDATE OF {table}" if self._dialect.locks_rows else ""

    def skip_locked(self, table: str) -> str:
        """Return the end of a SELECT that locks rows as ``for_update`` does, leaving out locked ones."""
        return f" FOR UPDATE OF {table} SKIP LOCKED" if self._dialect.locks_rows else ""

    def for_share(self, table: str) -> str:
        """Return the end of a SELECT that keeps the rows which it finds from being changed."""
        return f" FOR SHARE OF {table}" if self._dialect.locks_rows else ""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the body did if it raises, and let the error out. The use case can then go on."""
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield
            self._connection.execute("RELEASE attempt")
        except BaseException:
            self._connection.execute("ROLLBACK TO attempt")
            self._connection.execute("RELEASE attempt")
            raise

    def secure_delete(self) -> AbstractContextManager[None]:
        """Overwrite in the file what the body deletes or replaces, where that can be had."""
        return self._dialect.secure_delete(self._connection)


class Store(Protocol):
    """Where use cases run."""

    on_commit: Callable[[int, Counter[tuple[str, str, str]]], None]
    """Called in the Trio thread after every commit, with the number of use cases that have their results now
    (0 if it failed) and how many states got a status in which they stay, by (namespace, node, status)."""

    path: Path | None
    """The file, or None without one."""

    is_shared: bool
    """Whether other state managers work on the database, too."""

    lease_clock: Callable[[], int] | None
    """The milliseconds that all of them count leases in; None: each process has a clock of its own."""

    @property
    def written(self) -> int:
        """Rows written since the start: it grows whenever a page may look different."""

    def describe(self, view: View) -> dict[str, Any]:
        """Return the condition of the database, as ``DatabaseState``. A query."""

    @overload
    async def write(
        self,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case and return its value once it is durable. Then its effects happen.

        Raises:
            UnknownCommit: whether it happened is not known.
            DatabaseError: it could not be committed; nothing of it happened.
            Whatever the use case raises; nothing of it happened.

        Cancellation:
            The use case may still be committed. If it is, ``Effects.undo`` is run.
        """

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        """Run a use case that nobody waits for; try again each second while the database fails."""

    async def write_once_ready(
        self,
        longest: float,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T | None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Run a use case that may have to wait for something, and return its value once it is durable.

        While it returns None it is run again: in each commit that announces one of the topics in
        ``Effects.waits_for``, and when something of them comes due. Those that wait for the same topic run in
        the order in which they came, until one of them returns None: then nothing is left for the others.

        After ``longest`` seconds it is run a last time, and its value is returned even if it is None.
        Errors and cancellation are as of ``write``.
        """

    async def check_writable(self) -> None:
        """Write something, unless something was written just now. Errors and cancellation as of ``write``."""

    async def measure_clock(self) -> None:
        """Compare the clock of leases with the database's, which may have been set. Errors as of ``read``."""

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that runtimes or the state manager itself wait for, and return its result.

        The query must be short: it has no deadline. To cancel is safe: a query changes nothing.
        """

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query that people wait for, a page or a search, and return its result.

        They do not delay ``read``, however many there are. In memory there is no difference.

        Raises:
            Refused: it took longer than 10 s, or waited that long for its turn.
        """


class NotCommitted(DatabaseError):
    """A commit failed; its reason is in the log already."""


class UnknownCommit(NotCommitted):
    """Whether a commit happened is not known."""


async def write_at_start(store: Store, write: Callable[[], Awaitable[T]]) -> T:
    """Commit a use case that may as well happen twice, and return its value.

    While a database that others use, too, is lost at each commit, ``write`` is repeated, for
    ``START_PATIENCE``.
    """
    deadline = trio.current_time() + START_PATIENCE
    while True:
        try:
            return await write()
        except NotCommitted:
            if not store.is_shared or trio.current_time() >= deadline:
                raise
        await trio.sleep(START_PAUSE)


def log_level(error: DatabaseError) -> int:
    """Return the level at which to log an error: the store has logged an outage of the database already."""
    return logging.DEBUG if isinstance(error, NotCommitted | NotRead) else logging.ERROR
