"""Commits: groups of use cases in one SQLite transaction, and use cases that wait for a commit.

Everything here happens on the writing connection, in one thread: the store's writer, or, in memory,
the caller's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from itertools import count
from time import perf_counter
from typing import TypeVar

import outcome

from exotrio.errors import DatabaseError
from exotrio.manager.store.catalog import Catalog
from exotrio.manager.store.clock import Clock, WatchedClock
from exotrio.manager.store.effects import Topic
from exotrio.manager.store.errors import NotCommitted
from exotrio.manager.store.numbers import GAP, number_at
from exotrio.manager.store.sqlite.dialect import SQLiteDialect
from exotrio.manager.store.topics import Topics
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.writes import Commit, CommitTimes, Write

MAX_GROUP = 256
"""Maximum of use cases in one commit: it bounds how long the first of a group waits for the last."""
RETRY_AFTER = 1.0
"""Seconds after a failed commit until what is due is tried again."""
DIALECT = SQLiteDialect()
D = TypeVar("D", bound=DatabaseError)
_FIX = "check its file and the free space of its disk"


class Committer:
    """Commits use cases, and keeps those that wait: the part that memory and file share.

    ``now`` is the clock, in seconds, of the deadlines of writes that wait. ``check`` is called before each
    commit and raises if what is written would be lost. ``name`` is that of the file, for errors. ``is_new``
    says that no state was ever in the database.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        *,
        catalog: Catalog,
        clock: Clock,
        now: Callable[[], float],
        check: Callable[[], None] = lambda: None,
        name: str = "",
        is_new: bool = True,
    ) -> None:
        self.connection = connection
        self.clock = clock
        self.now = now
        self.damage: sqlite3.Error | None = None
        """Why the file has to be replaced, if the last commit that wrote or failed met damage in it."""
        self.commit_times = CommitTimes()
        self._met_damage: sqlite3.Error | None = None
        self._catalog = catalog
        self._check = check
        self._database = f"the database {name}".rstrip()
        self._watched = WatchedClock(connection, clock)
        self._topics = Topics()
        self.stamp: str = connection.execute("SELECT value FROM meta WHERE key = 'stamp'").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'states'").fetchone()
        highest = last[0] if last else 0
        self._numbers = count(1 if is_new and not highest else max(highest, number_at(clock())) + GAP)

    def commit(self, writes: Sequence[Write]) -> Commit:
        """Run writes in one SQLite transaction, in the order in which they came, and with them those that
        wait: for a topic that is announced or due, or whose deadline has passed.
        """
        now = self.now()
        expired, due = self._topics.take_expired(now, MAX_GROUP), self._topics.due(now)
        if not (writes or expired or due):
            return Commit()
        commit = Commit()
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._watched.compare()
            changes, self._met_damage = self.connection.total_changes, None
            waiting = self._run_all(writes, expired, due, commit, now)
            has_written = self.connection.total_changes != changes
            self._watched.store()
            self._check()
            began = perf_counter()
            self.connection.execute("COMMIT")
            if has_written:
                self.commit_times.add(perf_counter() - began)
        except Exception as error:
            # Any error, not only SQLite's: if it ended the writer thread, no caller would get an answer.
            return self._failed([*writes, *expired], due, error)
        self._watched.committed()
        if has_written or self._met_damage is not None:
            self.damage = self._met_damage
        commit.changes = self.connection.total_changes - changes
        self._topics.forget_due(due)
        for write in commit.writes:
            self._topics.remove(write)
        for write in waiting:
            due_at = {topic: now + seconds for topic, seconds in write.effects.waits_for.items()}
            self._topics.add(write, due_at)
        return commit

    def next_at(self) -> float:
        """Return when to commit even if the queue is empty: then something that waits has to be run."""
        return self._topics.next_at()

    def give_up(self) -> list[Write]:
        """Remove all writes that wait, and return them."""
        return self._topics.remove_all()

    def view(self, connection: sqlite3.Connection) -> View:
        return View(
            connection=connection,
            dialect=DIALECT,
            catalog=self._catalog,
            stamp=self.stamp,
            now_ms=self.clock(),
        )

    def _run_all(
        self,
        writes: Sequence[Write],
        expired: Sequence[Write],
        due: Collection[Topic],
        commit: Commit,
        now: float,
    ) -> list[Write]:
        """Run the new ``writes``, what has ``expired``, and what waits for topics that are announced or due.

        Writes with a result are added to ``commit``; those that wait on are returned.
        """
        waiting: list[Write] = []
        topics = set(due)

        def run(write: Write) -> None:
            write.is_last = write.deadline is None or now >= write.deadline
            self._run(write)
            if isinstance(write.result, outcome.Value):
                topics.update(write.effects.topics())
            (waiting if write.waits else commit.writes).append(write)

        for write in writes:
            if write.deadline is None:
                run(write)
        ran = self._run_waiting(topics, run) if topics else set()
        # After those that waited before them, and after all that could announce something to them.
        for write in dict.fromkeys([*expired, *writes]):
            if write.deadline is not None and write not in ran:
                run(write)
        return waiting

    def _run_waiting(self, topics: set[Topic], run: Callable[[Write], None]) -> set[Write]:
        """Run the writes that wait for these topics; return those that ran."""
        ran: set[Write] = set()
        left = set(topics)
        for write in self._topics.waiting_for(left):
            # It waits for several of these topics; or its task was cancelled; or a write before it found that
            # nothing is left for it.
            if write in ran or write.abandoned or left.isdisjoint(write.topics):
                continue
            run(write)
            ran.add(write)
            if isinstance(write.result, outcome.Value) and write.result.value is None:
                # Nothing is left for those that wait for the same topics after it.
                left -= write.topics
                if not left:
                    break
        return ran

    def _run(self, write: Write) -> None:
        """Run one use case in a savepoint, so that it is undone alone if it raises."""
        tx = Transaction(
            connection=self.connection,
            dialect=DIALECT,
            catalog=self._catalog,
            stamp=self.stamp,
            now_ms=self._watched(),
            allocate=self._numbers.__next__,
            waited=write.waited,
        )
        write.waits = False
        self.connection.execute("SAVEPOINT use_case")
        try:
            write.result = outcome.Value(write.run(tx))
        except BaseException as error:
            if not self.connection.in_transaction:
                # SQLite rolled everything back already, so the whole group fails, and for this reason.
                raise
            write.result = outcome.Error(error)
            if isinstance(error, sqlite3.Error):
                self._met_damage = _damage(error) or self._met_damage
                write.result = outcome.Error(self._not_written(DatabaseError, error))
            self.connection.execute("ROLLBACK TO use_case")
        self.connection.execute("RELEASE use_case")

    def _failed(self, writes: Sequence[Write], due: Collection[Topic], error: Exception) -> Commit:
        """Undo all of a commit. Writes that only wait continue to wait: nothing was announced to them."""
        # On a full disk SQLite may have rolled back already, also use cases that had returned.
        with suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")
        self._catalog.clear()
        self.damage = _damage(error)
        self._topics.postpone(due, self.now() + RETRY_AFTER)
        writes = list(dict.fromkeys(writes))
        for write in writes:
            # One error each: tasks that raise the same object would overwrite its traceback.
            write.result, write.waits = outcome.Error(self._not_written(NotCommitted, error)), False
            # It has its result: a second one would reschedule a task that no longer waits.
            self._topics.remove(write)
        return Commit(writes=writes, error=self._not_written(NotCommitted, error))

    def _not_written(self, kind: type[D], error: Exception) -> D:
        failure = kind(f"{self._database} could not be written: {error}", fix=_FIX)
        failure.__cause__ = error
        return failure


def _damage(error: Exception) -> sqlite3.Error | None:
    """Return an error that says that the file is damaged; None for any other."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    is_damage = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return error if is_damage and isinstance(error, sqlite3.Error) else None
