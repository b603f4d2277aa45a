"""Commits: groups of use cases in one SQLite transaction, and use cases that wait for a commit.

Everything here happens on the writing connection, in one thread: the store's writer, or, in memory,
the caller's. Only ``Write.abandoned`` is set from elsewhere.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import outcome
import trio

from exotrio._errors import DatabaseError
from exotrio.manager import _tally
from exotrio.manager._transaction import Catalog, Topic, Transaction, View

Clock = Callable[[], int]
"""Returns Unix milliseconds."""

logger = logging.getLogger("exotrio.manager.store")

TALLY_INTERVAL_MS = 1_000
"""Between two writes of what ended how; what is counted meanwhile is lost if the process is killed."""


class Write:
    """A use case on its way to its commit.

    Args:
        use_case: What to run.
        task: Who waits for it, if anybody.
        waits: If it returns None it goes on waiting: for a commit that announces one of its topics, or
            to be handed in again.
        deadline: When it should have ended, on the committer's clock. Defaults to never.

    Attributes:
        topics: What it waits for, once it ran.
        look_at: When it is to be handed in again, on the committer's clock.
        result: What came of it, once it was committed.
        abandoned: Nobody waits for it any more.
    """

    __slots__ = (
        "_use_case",
        "abandoned",
        "deadline",
        "look_at",
        "result",
        "task",
        "topics",
        "undo",
        "waits",
    )

    def __init__(
        self,
        use_case: Callable[[Transaction], Any],
        task: trio.lowlevel.Task | None = None,
        *,
        waits: bool = False,
        deadline: float = math.inf,
    ) -> None:
        self._use_case = use_case
        self.task = task
        self.waits = waits
        self.deadline = self.look_at = deadline
        self.topics: frozenset[Topic] = frozenset()
        self.result: outcome.Outcome[Any]
        self.abandoned = False
        self.undo: Callable[[Transaction], object] | None = None

    def run(self, tx: Transaction, now: float) -> Any:
        """Run the use case."""
        value = self._use_case(tx)
        self.undo = tx.undo
        if value is None:
            self.topics = tx.waits_for
            self.look_at = min(self.deadline, now + tx.again_in)
        return value

    @property
    def is_open(self) -> bool:
        """Whether it ran, found nothing, and goes on waiting."""
        return self.waits and isinstance(self.result, outcome.Value) and self.result.value is None

    @property
    def is_lost(self) -> bool:
        """Whether it was committed for a caller who had gone, and should not have been."""
        return self.abandoned and self.undo is not None and isinstance(self.result, outcome.Value)


@dataclass(slots=True)
class Committed:
    """What one commit did.

    Attributes:
        writes: Those that have their results now.
        failed: Nothing of it happened.
        ready: What somebody may have waited for.
        ended: How many states got a status in which they stay, by (namespace, node, status).
        tally: How many had their node's say: (kind, status, bucket of time).
    """

    writes: list[Write] = field(default_factory=list)
    failed: bool = False
    ready: set[Topic] = field(default_factory=set)
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tally: Counter[_tally.Key] = field(default_factory=Counter)


class Committer:
    """Commits use cases: the part that memory and file share.

    Args:
        now: The clock, in seconds, by which those who wait are looked after.

    Attributes:
        written: Rows written since the start.
    """

    def __init__(
        self, connection: sqlite3.Connection, catalog: Catalog, clock: Clock, now: Callable[[], float]
    ) -> None:
        self.connection = connection
        self.catalog = catalog
        self.clock = clock
        self.now = now
        self.written = 0
        self._waiting: dict[Write, None] = {}
        self._tally: Counter[_tally.Key] = Counter()
        self._tallied_at = 0
        self.stamp: str = connection.execute("SELECT value FROM meta WHERE key = 'stamp'").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'states'").fetchone()
        self._next_seq = (last[0] if last else 0) + 1

    def commit(self, writes: Sequence[Write], *, last: bool = False) -> Committed:
        """Run use cases in one SQLite transaction, and those in it that waited for what they announce.

        Args:
            writes: In the order in which they came. What waits may be handed in again, to run now.
            last: Nothing is committed afterwards.
        """
        self._waiting = {write: None for write in self._waiting if not write.abandoned}
        if not (writes or last):
            return Committed()
        committed = Committed()
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for write in writes:
                if not write.waits:
                    self._run(write, committed)
            self._run_waiting(committed, writes)
            # Behind those that were there before them, and all that could have something for them.
            for write in writes:
                if write.waits:
                    self._run(write, committed)
            now = self.clock()
            # Now and then only: for a group of one a row more is a cost.
            if write_tally := last or abs(now - self._tallied_at) >= TALLY_INTERVAL_MS:
                _tally.write(self.connection, self._tally + committed.tally, now)
            self.connection.execute("COMMIT")
        except Exception as error:
            return self._failed(writes, error)
        if write_tally:
            self._tally, self._tallied_at = Counter(), now
        else:
            self._tally.update(committed.tally)
        self.written = self.connection.total_changes
        for write in committed.writes:
            self._waiting.pop(write, None)
        self._waiting.update({write: None for write in writes if write.is_open})
        return committed

    @property
    def waiting(self) -> Collection[Write]:
        """What waits, longest waiting first."""
        return self._waiting

    def forget(self, write: Write) -> None:
        """Let go of one that waits."""
        self._waiting.pop(write, None)

    def give_up(self, error: Callable[[], Exception]) -> list[Write]:
        """Return all that wait, each with an error for its result."""
        given_up = list(self._waiting)
        self._waiting.clear()
        for write in given_up:
            write.result = outcome.Error(error())
        return given_up

    def view(self, connection: sqlite3.Connection) -> View:
        """Return what a query sees on a connection."""
        return View(connection, self.catalog, self.stamp, self.clock())

    def _run_waiting(self, committed: Committed, handed_in: Sequence[Write]) -> None:
        """Run what waits for what this commit announces, longest waiting first."""
        topics = set(committed.ready)
        for write in self._waiting:
            if not (write.abandoned or topics.isdisjoint(write.topics) or write in handed_in):
                self._run(write, committed)
                if write.is_open:
                    # Nothing is left of it for those behind, either.
                    topics -= write.topics

    def _run(self, write: Write, committed: Committed) -> None:
        """Run one use case in a savepoint of its own, so that it is undone alone if it raises."""
        tx = Transaction(self.connection, self.catalog, self.stamp, self.clock(), self._next_seq)
        self.connection.execute("SAVEPOINT use_case")
        result: outcome.Outcome[Any] = outcome.capture(write.run, tx, self.now())
        # Numbers are spent even if the use case is undone: reuse is not worth a thought.
        self._next_seq = tx.next_seq
        if isinstance(result, outcome.Value):
            self.connection.execute("RELEASE use_case")
            committed.ready |= tx.ready
            committed.ended.update(tx.ended)
            if tx.tally:
                committed.tally.update(tx.tally)
        elif isinstance(result, outcome.Error):
            if not self.connection.in_transaction:
                # SQLite rolled everything back already, so the whole group fails, and for this reason.
                raise result.error
            if isinstance(result.error, sqlite3.Error):
                result = outcome.Error(_not_written(result.error))
            self.connection.execute("ROLLBACK TO use_case")
            self.connection.execute("RELEASE use_case")
        write.result = result
        if not write.is_open:
            committed.writes.append(write)

    def _failed(self, writes: Sequence[Write], error: Exception) -> Committed:
        """Undo all of a commit. What was not handed in goes on waiting: nothing was announced to it."""
        # A full disk, say: SQLite may have rolled back the whole group, and then nobody's work
        # happened, also of those whose use case had already returned. Not only SQLite's errors:
        # whatever ended the writer thread here would leave every caller waiting for ever.
        with suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")
        self.catalog.clear()
        logger.error("%d writes could not be committed: %s", len(writes), error)
        for write in writes:
            # One error each: tasks that raise the same one would write their tracebacks over each other.
            write.result = outcome.Error(_not_written(error))
            # It has its answer. Answered once more, it would bring down the loop of whoever waited.
            self.forget(write)
        return Committed(list(writes), failed=True)


def _not_written(error: Exception) -> DatabaseError:
    failure = DatabaseError(
        f"the database could not be written: {error}", fix="check its file and the free space of its disk"
    )
    failure.__cause__ = error
    return failure
