"""What use cases and queries work with: the database as a ``Transaction``, or as a ``View`` of it.

And what runs them: a ``Store``. What every use case reads over and over is kept parsed in a ``Catalog``.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from pydantic_core import from_json

from exotrio._wire.graphs import GraphBody
from exotrio.errors import DatabaseError
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.driver import Connection, Row, Rows

P = ParamSpec("P")
T = TypeVar("T")

Topic = int | str | tuple[int, int]
"""What a use case may wait for: a claimable state of a node (its id), or of a node in one run
(run, node); the begin or the end of a run (its public id)."""
MAX_INPUTS = 16 * 1024 * 1024
"""Bytes, the same limit as of a request body: a larger state could not be handed out."""


class OutOfTime(Exception):
    """A query took as long as it may."""


class Catalog:
    """Parsed templates and registered nodes, shared by all use cases of one store.

    Templates never change, so every thread may share them. Registered nodes do change: only the
    writer looks them up here, and registering forgets them. ``max_inputs`` is the maximum of bytes of the
    inputs of a new state.
    """

    def __init__(self, max_inputs: int = MAX_INPUTS) -> None:
        self.max_inputs = max_inputs
        self._templates: dict[int, Template] = {}
        self._nodes: dict[tuple[str, str], Registered] = {}

    def template(self, connection: Connection, template_id: int) -> Template:
        """Return the compiled template, reading it at most once."""
        found = self._templates.get(template_id)
        if found is None:
            row = connection.execute("SELECT body FROM templates WHERE id = ?", (template_id,)).fetchone()
            found = Template(GraphBody.model_validate_json(row["body"]))
            if len(self._templates) >= 1_000:
                self._templates.clear()
            self._templates[template_id] = found
        return found

    def registered(self, connection: Connection, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None. For the writer."""
        found = self._nodes.get((namespace, name))
        if found is None:
            row = connection.execute(
                "SELECT * FROM nodes WHERE namespace = ? AND name = ?", (namespace, name)
            ).fetchone()
            if row is None:
                return None
            found = self._nodes[namespace, name] = Registered(
                id=row["id"],
                namespace=namespace,
                name=name,
                inputs=_properties(row["inputs_schema"]),
                required=_required(row["inputs_schema"]),
                outputs=_properties(row["outputs_schema"]),
                secrets=tuple(from_json(row["secrets"])),
            )
        return found

    def forget_registered(self) -> None:
        """Read registered nodes anew from now on."""
        self._nodes.clear()

    def clear(self) -> None:
        """Forget everything. After a rollback: the id of a new template will be given again."""
        self._templates.clear()
        self._nodes.clear()


def _required(schema: str) -> tuple[str, ...]:
    # Registration does not check schemas, so anything may stand here.
    required = from_json(schema).get("required")
    return tuple(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()


def _properties(schema: str) -> dict[str, Any]:
    properties = from_json(schema).get("properties")
    return properties if isinstance(properties, dict) else {}


class View:
    """What a query sees at ``now_ms``, in Unix milliseconds.

    ``check``, if set, is called before each statement and raises to end the query, even between two short
    statements: ``execute`` and ``row`` then raise OutOfTime.
    """

    def __init__(self, *, connection: Connection, catalog: Catalog, stamp: str, now_ms: int) -> None:
        self._connection = connection
        self._catalog = catalog
        self._stamp = stamp
        self.now_ms = now_ms
        self.check: Callable[[], None] | None = None

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        """Run one statement."""
        if self.check is not None:
            self.check()
        return self._connection.execute(sql, parameters)

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> Row | None:
        """Return the first row, or None."""
        found: Row | None = self.execute(sql, parameters).fetchone()
        return found

    def serialize(self) -> bytes:
        """Return the whole database as a file would hold it. For one in memory."""
        return self._connection.serialize()

    @property
    def max_inputs(self) -> int:
        """Most bytes of the inputs of a new state."""
        return self._catalog.max_inputs

    def template(self, template_id: int) -> Template:
        """Return the compiled template with this id."""
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
    """What a use case works with: a view that can also write, and what to announce once it is committed.

    Attributes:
        ready: The topics to announce.
        ended: How many states got a status in which they stay, by (namespace, node, status).
        tally: How many states ended, by (node_id, status, bucket of time).
        undo: Set by a use case whose result must not get lost. It is run, as a use case of its own, if the
            caller is gone when the commit is done.
        waited: Whether the use case ran before, found nothing, and has waited since.
        waits_for: Set by a use case that found nothing: the topics to wait for, and for each the seconds
            after which something comes due without an announcement, or infinity.
    """

    def __init__(
        self, *, connection: Connection, catalog: Catalog, stamp: str, now_ms: int, next_seq: int
    ) -> None:
        super().__init__(connection=connection, catalog=catalog, stamp=stamp, now_ms=now_ms)
        self.next_seq: int = next_seq
        self.ready: set[Topic] = set()
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.tally: Counter[tuple[int, str, int]] = Counter()
        self.undo: Callable[[Transaction], object] | None = None
        self.waited = False
        self.waits_for: dict[Topic, float] = {}

    def registered(self, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None."""
        return self._catalog.registered(self._connection, namespace, name)

    def announce(self, run: int, node_id: int) -> None:
        """Announce that a state of this run and node became claimable, or will."""
        self.ready.add(node_id)
        self.ready.add((run, node_id))

    def forget_registered(self) -> None:
        """Read registered nodes anew from now on."""
        self._catalog.forget_registered()

    def executemany(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement for many rows."""
        self._connection.executemany(sql, rows)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the body did if it raises, and let the error out. The use case can then go on."""
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO attempt")
            raise
        finally:
            self._connection.execute("RELEASE attempt")

    @contextmanager
    def secure_delete(self) -> Iterator[None]:
        """Overwrite in the file what the body deletes or replaces. SQLite usually leaves it there."""
        before = self._connection.execute("PRAGMA secure_delete").fetchone()[0]
        self._connection.execute("PRAGMA secure_delete = ON")
        try:
            yield
        finally:
            self._connection.execute(f"PRAGMA secure_delete = {before}")

    def allocate(self) -> int:
        """Return the number of a new state."""
        seq = self.next_seq
        self.next_seq += 1
        return seq


class Store(Protocol):
    """Where use cases run."""

    on_commit: Callable[[int, Counter[tuple[str, str, str]]], None]
    """Called in the Trio thread after every commit, with the number of use cases that have their results now
    (0 if it failed) and how many states got a status in which they stay, by (namespace, node, status)."""

    path: Path | None
    """The file, or None in memory."""

    @property
    def written(self) -> int:
        """Rows written since the start: it grows whenever a page may look different."""

    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a use case and return its result once it is durable.

        Raises:
            DatabaseError: it could not be committed; nothing of it happened.
            Whatever the use case raises; nothing of it happened.

        Cancellation:
            The use case may still be committed. If it is, what it left as ``tx.undo`` is run.
        """

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        """Run a use case that nobody waits for; try again each second while the database fails."""

    async def write_once_ready(
        self,
        longest: float,
        use_case: Callable[Concatenate[Transaction, P], T | None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Run a use case that may have to wait for something, and return its result once it is durable.

        While it returns None it is run again: in each commit that announces one of the topics in
        ``tx.waits_for``, and when something of them comes due. Those that wait for the same topic run in
        the order in which they came, until one of them returns None: then nothing is left for the others.

        After ``longest`` seconds it is run a last time, and its result is returned even if it is None.
        Errors and cancellation are as of ``write``.
        """

    async def check_writable(self) -> None:
        """Check that something can be written; raise DatabaseError if not. Cancellation is as of ``write``.

        Writes something only if nothing was written just now.
        """

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that runtimes or the state manager itself wait for, and return its result.

        The query must be short: it has no deadline. To cancel is safe: a query changes nothing.
        """

    async def look(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that people wait for, a page or a search, and return its result.

        They do not delay ``read``, however many there are. In memory there is no difference.

        Raises:
            Refused: it took longer than 10 s, or waited that long for its turn.
        """


class NotCommitted(DatabaseError):
    """A commit failed; its reason is in the log already."""


def log_level(error: DatabaseError) -> int:
    """Return the level at which to log an error: a failed commit was logged already, by the store."""
    return logging.DEBUG if isinstance(error, NotCommitted) else logging.ERROR
