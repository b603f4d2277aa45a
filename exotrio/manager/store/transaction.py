"""``Transaction``: the database as a use case sees and changes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from exotrio.manager.rules.access import Caller
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.catalog import Catalog, RunFacts
from exotrio.manager.store.driver import Computed, Connection, Dialect, Insert, Row, Rows, Update
from exotrio.manager.store.view import View

MAX_TRIMMED = 1_000
"""Maximum of rows that one statement of ``Transaction.trim`` deletes."""
_AUDIT = ("at", "key_id", "who", "address", "request_id", "action", "namespace", "target", "result")


class RowChanged(Exception):
    """Another transaction changed a row between reading and writing it. The store runs the use case again."""


class Transaction(View):
    """What a use case works with: a view that can also write.

    ``waited`` tells whether the use case ran before, found nothing, and has waited since; ``is_repeated``,
    whether its transaction was rolled back, because of others, and it runs again. ``caller`` is who
    asked for it, if its changes are recorded. What is to be done after the commit is not written here but
    returned: ``store.effects``.
    """

    caller: Caller | None = None

    def __init__(
        self,
        *,
        connection: Connection,
        dialect: Dialect,
        catalog: Catalog,
        stamp: str,
        now_ms: int,
        allocate: Callable[[], int],
        reserve: Callable[[int], None] = lambda count: None,
        waited: bool = False,
        is_repeated: bool = False,
    ) -> None:
        super().__init__(connection=connection, dialect=dialect, catalog=catalog, stamp=stamp, now_ms=now_ms)
        self.allocate: Callable[[], int] = allocate
        """Returns the number of a new state. It is not used again, even if this use case is undone."""
        self.reserve: Callable[[int], None] = reserve
        """Asks for the numbers of so many new states, with the statement that is read next."""
        self.heads = catalog.heads
        self.limited_nodes = catalog.limited_nodes
        self.virtual_times = catalog.virtual_times
        self.waited = waited
        self.is_repeated = is_repeated
        self._began = time.monotonic()
        self._updates: list[tuple[str, Rows, int]] = []

    def has_run_for(self, seconds: float) -> bool:
        """Whether the use case has run for so long: others wait for it to end."""
        return time.monotonic() - self._began >= seconds

    def registered(self, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None."""
        return self.catalog.registered(self._connection, namespace, name)

    def node_id(self, namespace: str, name: str) -> int | None:
        """Return the id of what is registered under this name, or None."""
        return self.catalog.node_id(self._connection, namespace, name)

    def run_facts(self, runs: Collection[int]) -> dict[int, RunFacts]:
        """Return what never changes in these runs, by id; usually read only once."""
        return self.ask_run_facts(runs)()

    def ask_run_facts(self, runs: Collection[int]) -> Callable[[], dict[int, RunFacts]]:
        """Ask for the same, with the statement that is read next; return what reads it."""
        facts_by_run = {run: facts for run in runs if (facts := self.catalog.known_run(run)) is not None}
        missing = [run for run in runs if run not in facts_by_run]
        rows: Iterable[Row] = ()
        if missing:
            rows = self.execute(
                "SELECT runs.id, run_id, runs.template, share, fair_key, graphs.name FROM runs"
                f" CROSS JOIN graphs ON graphs.id = runs.graph WHERE {self.any_of('runs.id')}",
                (self.items(missing),),
            )

        def read() -> dict[int, RunFacts]:
            for run, *facts in rows:
                facts_by_run[run] = RunFacts(*facts)
                self.catalog.keep_run(run, facts_by_run[run])
            return facts_by_run

        return read

    def template_of(self, run: int, facts: RunFacts) -> Template:
        """Return the template of a run, or the one before if it has moved to another version."""
        try:
            return self.template(facts.template)
        except LookupError:
            self.catalog.forget_run(run)
            return self.template(self.run_facts([run])[run].template)

    def executemany(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        self._connection.executemany(sql, rows)

    def insert(
        self,
        table: str,
        columns: tuple[str, ...],
        rows: Sequence[tuple[Any, ...]],
        conflict: str = "",
        *,
        computed: Computed = (),
        more: tuple[str, ...] = (),
    ) -> None:
        """Insert rows with one statement.

        ``conflict`` is what follows ON CONFLICT. Several transactions that meet in the same rows must give
        them in the same order: sort them by their key. ``computed`` and ``more``: see ``Insert``.
        """
        if rows:
            into = Insert(table, columns, conflict, computed, more)
            self._dialect.insert(self._connection, into, rows)

    def insert_new(self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> int:
        """Insert those rows that are not there yet, in an order as in ``insert``; return how many."""
        if not rows:
            return 0
        return self._dialect.insert(self._connection, Insert(table, columns, "DO NOTHING"), rows).rowcount

    def insert_numbered(
        self, table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]
    ) -> Sequence[int]:
        """Insert rows, in an order as in ``insert``, and return the ids that they get, in that order.

        If one is there already, the use case is run again: RowChanged. A concurrent transaction inserted it
        since it was looked for.
        """
        ids = self._dialect.insert_numbered(self._connection, Insert(table, columns), rows)
        if len(ids) < len(rows):
            raise RowChanged(table)
        return ids

    def update(
        self,
        table: str,
        keys: tuple[str, ...],
        columns: tuple[str, ...],
        rows: Sequence[tuple[Any, ...]],
        *,
        add: tuple[str, ...] = (),
        computed: Computed = (),
    ) -> None:
        """Update rows with one statement: each is (*keys, *columns, *add).

        A row is found by all its keys, which may be NULL but for the first; its ``columns`` get new values,
        those of ``add`` grow by the given ones; ``computed``: see ``Update``.

        If one is not found, the use case is run again, when it has ended: the keys say what was read of the
        row, and it has changed since.
        """
        if rows:
            of = Update(table, keys, columns, add, computed)
            updated = self._dialect.update(self._connection, of, rows)
            self._updates.append((table, updated, len(rows)))

    def check_updates(self) -> None:
        """Raise RowChanged if a row that was to be updated was not found. The store calls this last."""
        for table, updated, expected in self._updates:
            if updated.rowcount != expected:
                raise RowChanged(table)

    def begin_again(self, table: str) -> None:
        """Let the store run the use case again, with ``is_repeated``, without the locks that it has by now.

        Without locks of rows, nothing: there is nothing that others could wait for.
        """
        if self._dialect.locks_rows:
            raise RowChanged(table)

    def for_update(self, table: str) -> str:
        """Return the end of a SELECT that locks the rows of a table that it returns."""
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

    def record(
        self, action: str, namespace: str, target: str, result: str = "", *, who: str | None = None
    ) -> None:
        """Record a change in its commit, with its caller, or else ``who``. Without either nothing is
        recorded: runtimes, and most of what the state manager does by itself.

        ``action`` is a noun and a verb, such as ``run.cancel``; ``target`` is the name or id of its object.
        """
        if (caller := self.caller) is not None:
            key = None if caller.key is None else caller.key.id
            by: tuple[str | None, ...] = (key, caller.who, caller.address, caller.request_id)
        elif who is not None:
            by = (None, who, "", "")
        else:
            return
        self.insert("audit", _AUDIT, [(self.now_ms, *by, action, namespace, target, result)])

    def trim(
        self, table: str, which: str, parameters: tuple[int | str, ...] = (), *, beyond: int = 0
    ) -> None:
        """Delete some of the rows that a SELECT with this end returns, but not the first ``beyond``.

        ``id`` is the table's key.
        """
        # Without locked ones: another transaction deletes or changes them.
        rows = f"SELECT id FROM {table} {which} LIMIT ? OFFSET ?{self.skip_locked(table)}"
        self.execute(f"DELETE FROM {table} WHERE id IN ({rows})", (*parameters, MAX_TRIMMED, beyond))

    def secure_delete(self) -> AbstractContextManager[None]:
        """Overwrite in the file what the body deletes or replaces, where supported."""
        return self._dialect.secure_delete(self._connection)
