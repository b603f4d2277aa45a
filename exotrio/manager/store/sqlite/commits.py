"""Commits: groups of use cases in one SQLite transaction, and use cases that wait for a commit.

Everything here happens on the writing connection, in one thread: the store's writer, or, in memory,
the caller's.
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

from exotrio._util.words import plural
from exotrio.errors import DatabaseError
from exotrio.manager.store import tallies
from exotrio.manager.store.catalog import Catalog
from exotrio.manager.store.clock import Clock, WatchedClock
from exotrio.manager.store.port import NotCommitted, Topic, Transaction, View
from exotrio.manager.store.sqlite.writes import Waiting, Write

logger = logging.getLogger("exotrio.manager.store")

MAX_GROUP = 256
"""Use cases of one commit; bounds how long the first of a group waits for the last."""
TALLY_INTERVAL_MS = 1_000
"""Between two writes of what ended how; what is counted meanwhile is lost if the process is killed."""
RETRY_AFTER = 1.0
"""Seconds after a commit that failed, until what is owed, or has come due, is tried again."""
WRITABLE_FOR = 10.0
"""Seconds for which a commit that wrote something proves that something can be written."""
TELL_AGAIN = 60.0
"""Seconds between two lines in the log about commits that fail for the same reason."""


_FIX = "check its file and the free space of its disk"


@dataclass(slots=True, kw_only=True)
class Commit:
    """What one commit did: the ``Committed`` of SQLite.

    Attributes:
        writes: Those that have their results now.
        waits: Those that found nothing, and go on waiting.
        failed: Nothing of it happened.
        ready: What somebody may have waited for.
        ended: How many states got a status in which they stay, by (namespace, node, status).
        tally: How many had their node's say: (node_id, status, bucket of time).
    """

    writes: list[Write] = field(default_factory=list)
    waits: list[Write] = field(default_factory=list)
    failed: bool = False
    ready: set[Topic] = field(default_factory=set)
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tally: Counter[tallies.Key] = field(default_factory=Counter)


class Committer:
    """Commits use cases: the part that memory and file share.

    Args:
        now: The clock, in seconds, by which those who wait are looked after.
        check: Called before each commit; raises if what is written would be lost.

    Attributes:
        written: Rows written since the start.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        catalog: Catalog,
        clock: Clock,
        now: Callable[[], float],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.connection = connection
        self.catalog = catalog
        self.clock = clock
        self.now = now
        self._check = check
        self._damage: Exception | None = None
        self._trouble: Exception | None = None
        self._written_at = -math.inf
        self._watched = WatchedClock(connection, clock)
        self.written = 0
        self._waiting = Waiting()
        self._repeated: list[Write] = []
        self._retry_at = math.inf
        self._tally: Counter[tallies.Key] = Counter()
        self._tallied_at = 0
        self._told, self._told_at = "", 0.0
        self.stamp: str = connection.execute("SELECT value FROM meta WHERE key = 'stamp'").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'states'").fetchone()
        self._next_seq = (last[0] if last else 0) + 1

    def commit(self, writes: Sequence[Write], *, last: bool = False) -> Commit:
        """Run use cases in one SQLite transaction, and with them those that waited for what they announce,
        for what has come due, or long enough.

        Args:
            writes: In the order in which they came. What waits may be handed in again, to run now.
            last: Nothing is committed afterwards.
        """
        now = self.now()
        over, due = self._waiting.over(now, MAX_GROUP), self._waiting.due(now)
        if writes or last or now >= self._retry_at:
            writes, self._repeated, self._retry_at = [*self._repeated, *writes], [], math.inf
        if not (writes or over or due or last):
            return Commit()
        patient = dict.fromkeys([*over, *(write for write in writes if write.deadline is not None)])
        committed = Commit()
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._watched.look()
            changes, self._damage = self.connection.total_changes, None
            for write in writes:
                if write not in patient:
                    self._run(write, committed)
            for write in self._run_waiting(committed, due):
                patient.pop(write, None)
            # Behind those that were there before them, and all that could have something for them.
            for write in patient:
                self._run(write, committed)
            is_proof = self.connection.total_changes != changes
            tallied_at = self._watched()
            # Now and then only: for a group of one a row more is a cost.
            if write_tally := last or abs(tallied_at - self._tallied_at) >= TALLY_INTERVAL_MS:
                tallies.write(self.connection, self._tally + committed.tally, tallied_at)
            self._watched.store()
            self._check()
            self.connection.execute("COMMIT")
        except Exception as error:
            self._waiting.put_off(due, self.now() + RETRY_AFTER)
            return self._failed(list(dict.fromkeys([*writes, *over])), error)
        self._watched.committed()
        if self._damage is not None:
            self._trouble = self._damage
        elif is_proof:
            self._trouble, self._written_at = None, self.now()
        if write_tally:
            self._tally, self._tallied_at = Counter(), tallied_at
        else:
            self._tally.update(committed.tally)
        self.written = self.connection.total_changes
        self._waiting.looked(due)
        for write in committed.writes:
            self._waiting.drop(write)
            if write.repeat and isinstance(write.result, outcome.Error):
                self._repeat(write, write.result.error)
        for write in committed.waits:
            self._waiting.keep(write)
        return committed

    @property
    def next_look(self) -> float:
        """When to commit though nothing is handed in: by then something that waits has to be run."""
        return min(self._retry_at, self._waiting.next_look())

    def give_up(self, error: Callable[[], Exception]) -> list[Write]:
        """Return all that wait, each with an error for its result."""
        given_up = self._waiting.drop_all()
        for write in given_up:
            write.result = outcome.Error(error())
        return given_up

    def view(self, connection: sqlite3.Connection) -> View:
        """Return what a query sees on a connection."""
        return View(connection=connection, catalog=self.catalog, stamp=self.stamp, now_ms=self.clock())

    def check_writable(self, tx: Transaction) -> None:
        """Write something, unless that was possible just now. A use case.

        Raises:
            sqlite3.Error: pages are damaged that this would not touch, and nothing else was written since.
        """
        if self._trouble is not None and _is_damage(self._trouble):
            raise self._trouble
        if self._trouble is not None or self.now() - self._written_at >= WRITABLE_FOR:
            tx.execute("INSERT OR REPLACE INTO meta VALUES ('proof', ?)", (tx.now_ms,))

    def _run_waiting(self, committed: Commit, due: Collection[Topic]) -> set[Write]:
        """Run what waits for what this commit announces, or what has come due; return what was run."""
        topics = committed.ready.union(due)
        ran: set[Write] = set()
        for write in self._waiting.on(topics):
            if write in ran or topics.isdisjoint(write.topics):
                continue
            if write.abandoned:
                write.missed = True
                continue
            self._run(write, committed)
            ran.add(write)
            if not write.found:
                # Nothing is left of it for those behind, either.
                topics -= write.topics
                if not topics:
                    break
        return ran

    def _run(self, write: Write, committed: Commit) -> None:
        """Run one use case in a savepoint of its own, so that it is undone alone if it raises."""
        tx = Transaction(
            connection=self.connection,
            catalog=self.catalog,
            stamp=self.stamp,
            now_ms=self._watched(),
            next_seq=self._next_seq,
        )
        tx.waited = write in self._waiting
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
                if _is_damage(result.error):
                    self._damage = result.error
                result = outcome.Error(_not_written(DatabaseError, result.error))
            self.connection.execute("ROLLBACK TO use_case")
            self.connection.execute("RELEASE use_case")
        write.result = result
        (committed.waits if write.is_open else committed.writes).append(write)

    def _failed(self, writes: Sequence[Write], error: Exception) -> Commit:
        """Undo all of a commit. What was not handed in goes on waiting: nothing was announced to it."""
        # A full disk, say: SQLite may have rolled back the whole group, and then nobody's work
        # happened, also of those whose use case had already returned. Not only SQLite's errors:
        # whatever ended the writer thread here would leave every caller waiting for ever.
        with suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")
        self.catalog.clear()
        self._trouble = error
        self._tell(f"{plural(len(writes), 'write')} could not be committed", str(error))
        for write in writes:
            # One error each: tasks that raise the same one would write their tracebacks over each other.
            write.result = outcome.Error(_not_written(NotCommitted, error))
            # It has its answer. Answered once more, it would bring down the loop of whoever waited.
            self._waiting.drop(write)
            if write.repeat:
                self._repeat(write, write.result.error)
        return Commit(writes=list(writes), failed=True)

    def _repeat(self, write: Write, error: BaseException) -> None:
        """Try something that failed again, unless it never will succeed."""
        if isinstance(error, DatabaseError):
            self._repeated.append(write)
            self._retry_at = self.now() + RETRY_AFTER
        else:
            logger.error("a use case that nobody waited for failed", exc_info=error)

    def _tell(self, what: str, why: str) -> None:
        """Log a failure, and its like only now and then: smaller writes may succeed in between."""
        now = self.now()
        known = why == self._told and now - self._told_at < TELL_AGAIN
        logger.log(logging.DEBUG if known else logging.ERROR, "%s: %s; %s", what, why, _FIX)
        if not known:
            self._told, self._told_at = why, now


def _is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged, which nothing but another file ends."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _not_written(kind: type[DatabaseError], error: Exception) -> DatabaseError:
    failure = kind(f"the database could not be written: {error}", fix=_FIX)
    failure.__cause__ = error
    return failure
