"""What use cases and queries work with: the database as a ``Transaction``, or as a ``View`` of it."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic_core import from_json

from exotrio._wire.graphs import GraphBody
from exotrio.manager.rules.registered import Registered
from exotrio.manager.rules.template import Template
from exotrio.manager.store.clock import not_yet_trusted

Topic = int | str | tuple[int, int]
"""What somebody may wait for: something to claim of a node (its id), or of that in one run (the numbers
of both); the begin or the end of a run (its id)."""


MAX_INPUTS = 16 * 1024 * 1024
"""Bytes, as of the body of a request: a state that is larger could not be handed out, or only to few."""


class Catalog:
    """What is read over and over, kept parsed; and what holds for all that use it.

    Templates never change, so every thread may share them. Registered nodes do change: only the
    writer looks them up here, and registering forgets them.

    Args:
        max_inputs: Most bytes of the inputs of a new state.
    """

    def __init__(self, max_inputs: int = MAX_INPUTS) -> None:
        self.max_inputs = max_inputs
        self._templates: dict[int, Template] = {}
        self.nodes: dict[tuple[str, str], Registered] = {}

    def template(self, connection: sqlite3.Connection, template_id: int) -> Template:
        """Return the compiled template, reading it at most once."""
        found = self._templates.get(template_id)
        if found is None:
            row = connection.execute("SELECT body FROM templates WHERE id = ?", (template_id,)).fetchone()
            found = Template(GraphBody.model_validate_json(row["body"]))
            if len(self._templates) >= 1_000:
                self._templates.clear()
            self._templates[template_id] = found
        return found

    def clear(self) -> None:
        """Forget everything: an id that was rolled back will name another template."""
        self._templates.clear()
        self.nodes.clear()


class OutOfTime(Exception):
    """A query has had the time that it may take."""


class View:
    """What a query sees.

    Attributes:
        now_ms: The time it runs at.
        check: Called before each statement; raises if the query is to end, since a search of many short
            statements has to be ended, too. Defaults to None.
    """

    def __init__(self, connection: sqlite3.Connection, catalog: Catalog, stamp: str, now_ms: int) -> None:
        self._connection = connection
        self._catalog = catalog
        self._stamp = stamp
        self.now_ms = now_ms
        self.check: Callable[[], None] | None = None

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        """Run one statement.

        Raises:
            OutOfTime: the time is over.
        """
        if self.check is not None:
            self.check()
        return self._connection.execute(sql, parameters)

    def row(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Row | None:
        """Return the first row, or None.

        Raises:
            OutOfTime: the time is over.
        """
        found: sqlite3.Row | None = self.execute(sql, parameters).fetchone()
        return found

    def not_yet_trusted(self, at_most_ms: int) -> int:
        """Return by how many ms the clock was set ahead within the last day, or ``at_most_ms``."""
        return not_yet_trusted(self._connection, self.now_ms, at_most_ms)

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
    """What a use case works with: a view that can write, and what to announce once committed.

    Attributes:
        ready: What a state of became claimable or will, and runs that began or ended.
        ended: How many states got a status in which they stay, by (namespace, node, status).
        tally: States that ended: (node_id, status, bucket of time) to how many.
        undo: Set by a use case whose result must not get lost: run, as a use case of its own, if
            the caller was gone by the time it was committed.
        waited: Whether the use case found nothing before, and waited since.
        waits_for: Set by a use case that found nothing: what announces that there may be something,
            and the seconds after which there will be some of it without any announcement, or infinity.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        catalog: Catalog,
        stamp: str,
        now_ms: int,
        next_seq: int,
    ) -> None:
        super().__init__(connection, catalog, stamp, now_ms)
        self.next_seq = next_seq
        self.ready: set[Topic] = set()
        self.ended: Counter[tuple[str, str, str]] = Counter()
        self.tally: Counter[tuple[int, str, int]] = Counter()
        self.undo: Callable[[Transaction], object] | None = None
        self.waited = False
        self.waits_for: dict[Topic, float] = {}

    def registered(self, namespace: str, name: str) -> Registered | None:
        """Return what is registered under this name, or None."""
        found = self._catalog.nodes.get((namespace, name))
        if found is None:
            row = self.row("SELECT * FROM nodes WHERE namespace = ? AND name = ?", (namespace, name))
            if row is None:
                return None
            found = self._catalog.nodes[namespace, name] = Registered(
                id=row["id"],
                namespace=namespace,
                name=name,
                inputs=_properties(row["inputs_schema"]),
                required=_required(row["inputs_schema"]),
                outputs=_properties(row["outputs_schema"]),
                secrets=tuple(from_json(row["secrets"])),
            )
        return found

    def announce(self, run: int, node_id: int) -> None:
        """Say that a state of this run and node became claimable, or will."""
        self.ready.add(node_id)
        self.ready.add((run, node_id))

    def forget_registered(self) -> None:
        """Read registered nodes anew from now on."""
        self._catalog.nodes.clear()

    def executemany(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Run one statement for many rows."""
        self._connection.executemany(sql, rows)

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Undo what the body did if it raises, and let the error out; the use case may then go on."""
        self._connection.execute("SAVEPOINT attempt")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK TO attempt")
            raise
        finally:
            self._connection.execute("RELEASE attempt")

    @contextmanager
    def wiping(self) -> Iterator[None]:
        """Overwrite in the file what the body deletes or replaces: usually that stays where it was."""
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


def _required(schema: str) -> tuple[str, ...]:
    # Registration does not check schemas, so anything may stand here.
    required = from_json(schema).get("required")
    return tuple(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()


def _properties(schema: str) -> dict[str, Any]:
    properties = from_json(schema).get("properties")
    return properties if isinstance(properties, dict) else {}
