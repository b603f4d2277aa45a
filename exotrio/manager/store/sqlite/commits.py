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
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import outcome

from exotrio._util.words import plural
from exotrio.errors import DatabaseError
from exotrio.manager.store import tallies
from exotrio.manager.store.catalog import Catalog
from exotrio.manager.store.clock import Clock, WatchedClock
from exotrio.manager.store.commits import WRITTEN_AGAIN, CommitTimes
from exotrio.manager.store.effects import Effects, Topic
from exotrio.manager.store.epoch import GAP, number_at
from exotrio.manager.store.port import NotCommitted
from exotrio.manager.store.sqlite.dialect import SQLiteDialect
from exotrio.manager.store.sqlite.writes import Waiting, Write
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

logger = logging.getLogger("exotrio.manager.store")

MAX_GROUP = 256
"""Maximum of use cases in one commit: it bounds how long the first of a group waits for the last."""
TALLY_INTERVAL_MS = 1_000
"""Between two writes of tallies; what is counted meanwhile is lost if the process is killed."""
RETRY_AFTER = 1.0
"""Seconds after a failed commit until repeated writes, and what came due, are tried again."""
WRITABLE_FOR = 10.0
"""Seconds for which a commit that wrote something proves that something can be written."""
LOG_AGAIN = 60.0
"""Seconds between two lines in the log about commits that fail for the same reason."""
DIALECT = SQLiteDialect()
_FIX = "check its file and the free space of its disk"


@dataclass(slots=True, kw_only=True)
class Commit:
    """What one commit did: ``writes`` have their results now, ``waits`` found nothing and go on waiting.
    ``topics`` were announced; the others are as in ``Effects``."""

    writes: list[Write] = field(default_factory=list)
    waits: list[Write] = field(default_factory=list)
    failed: bool = False
    topics: set[Topic] = field(default_factory=set)
    final: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tally: Counter[tallies.Key] = field(default_factory=Counter)

    def add(self, effects: Effects) -> None:
        """Add what one of its use cases left behind."""
        self.topics |= effects.topics()
        # Most use cases end no state, and to update a Counter takes as long as a statement.
        if effects.final:
            self.final.update(effects.final)
        if effects.tally:
            self.tally.update(effects.tally)


class Committer:
    """Commits use cases: the part that memory and file share.

    ``now`` is the clock, in seconds, of the deadlines of writes that wait. ``check`` is called before each
    commit and raises if what is written would be lost. ``name`` is that of the file, for errors. ``is_new``
    says that no state was ever in the database. ``written`` counts the rows written since the start.
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
        self.catalog = catalog
        self.clock = clock
        self.now = now
        self._check = check
        self._database = f"the database {name}".rstrip()
        self._damage: Exception | None = None
        self._trouble: Exception | None = None
        self._written_at = -math.inf
        self._watched = WatchedClock(connection, clock)
        self.written: int = 0
        self.commit_times = CommitTimes()
        self._waiting = Waiting()
        self._repeated: list[Write] = []
        self._retry_at = math.inf
        self._tally: Counter[tallies.Key] = Counter()
        self._tallied_at = 0
        self._logged, self._logged_at, self._is_outage = "", 0.0, False
        self.stamp: str = connection.execute("SELECT value FROM meta WHERE key = 'stamp'").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'states'").fetchone()
        highest = last[0] if last else 0
        self._numbers = count(1 if is_new and not highest else max(highest, number_at(clock())) + GAP)

    def commit(self, writes: Sequence[Write], *, last: bool = False) -> Commit:
        """Run use cases in one SQLite transaction, in the order in which they came, and with them those that
        wait: for a topic that is announced, for what came due, or until their time is over.

        One that waits may be handed in again, to run now. The ``last`` commit writes all that was put off.
        """
        now = self.now()
        expired, due = self._waiting.expired(now, MAX_GROUP), self._waiting.due(now)
        if writes or last or now >= self._retry_at:
            writes, self._repeated, self._retry_at = [*self._repeated, *writes], [], math.inf
        if not (writes or expired or due or last):
            return Commit()
        may_wait = dict.fromkeys([*expired, *(write for write in writes if write.deadline is not None)])
        committed = Commit()
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            self._watched.look()
            changes, self._damage = self.connection.total_changes, None
            for write in writes:
                if write not in may_wait:
                    self._run(write, committed)
            for write in self._run_waiting(committed, due):
                may_wait.pop(write, None)
            # After those that waited before them, and after all that could announce something to them.
            for write in may_wait:
                self._run(write, committed)
            has_written = self.connection.total_changes != changes
            tallied_at = self._watched()
            # Not in each commit: for a group of one, one row more is a cost.
            if write_tally := last or abs(tallied_at - self._tallied_at) >= TALLY_INTERVAL_MS:
                tallies.write(self.connection, self._tally + committed.tally, tallied_at)
            self._watched.store()
            self._check()
            with self.commit_times.measured() if has_written else nullcontext():
                self.connection.execute("COMMIT")
        except Exception as error:
            self._waiting.postpone(due, self.now() + RETRY_AFTER)
            return self._failed(list(dict.fromkeys([*writes, *expired])), error)
        self._watched.committed()
        if self._damage is not None:
            self._trouble = self._damage
        elif has_written:
            self._trouble, self._written_at = None, self.now()
            if self._is_outage:
                logger.info(WRITTEN_AGAIN)
                self._is_outage = False
        if write_tally:
            self._tally, self._tallied_at = Counter(), tallied_at
        elif committed.tally:
            self._tally.update(committed.tally)
        self.written = self.connection.total_changes
        self._waiting.done(due)
        for write in committed.writes:
            self._waiting.remove(write)
            if write.repeat and isinstance(write.result, outcome.Error):
                self._repeat(write, write.result.error)
        for write in committed.waits:
            self._waiting.add(write)
        return committed

    @property
    def next_look(self) -> float:
        """When to commit even if nothing is handed in: something that waits has to be run then."""
        return min(self._retry_at, self._waiting.next_look())

    def give_up(self, error: Callable[[], Exception]) -> list[Write]:
        """Remove all that wait and return them, each with an error for its result."""
        given_up = self._waiting.remove_all()
        for write in given_up:
            write.result = outcome.Error(error())
        return given_up

    def view(self, connection: sqlite3.Connection) -> View:
        return View(
            connection=connection,
            dialect=DIALECT,
            catalog=self.catalog,
            stamp=self.stamp,
            now_ms=self.clock(),
        )

    def check_writable(self, tx: Transaction) -> None:
        """Write something, unless that was possible just now. A use case.

        It raises sqlite3.Error for a damaged file, even if this row could be written.
        """
        if self._trouble is not None and _is_damage(self._trouble):
            raise self._trouble
        if self._trouble is not None or self.now() - self._written_at >= WRITABLE_FOR:
            tx.execute("INSERT OR REPLACE INTO meta VALUES ('writable', ?)", (tx.now_ms,))

    def _run_waiting(self, committed: Commit, due: Collection[Topic]) -> set[Write]:
        """Run what waits for a topic that this commit announces, or that came due; return what was run."""
        topics = committed.topics.union(due)
        ran: set[Write] = set()
        for write in self._waiting.waiting_for(topics):
            if write in ran or topics.isdisjoint(write.topics):
                continue
            if write.abandoned:
                write.missed = True
                continue
            self._run(write, committed)
            ran.add(write)
            if not write.found:
                # Then nothing is left for those that wait behind it.
                topics -= write.topics
                if not topics:
                    break
        return ran

    def _run(self, write: Write, committed: Commit) -> None:
        """Run one use case in a savepoint of its own, so that it is undone alone if it raises."""
        tx = Transaction(
            connection=self.connection,
            dialect=DIALECT,
            catalog=self.catalog,
            stamp=self.stamp,
            now_ms=self._watched(),
            allocate=self._numbers.__next__,
            waited=write in self._waiting,
        )
        self.connection.execute("SAVEPOINT use_case")
        result: outcome.Outcome[Any] = outcome.capture(write.run, tx, self.now())
        if isinstance(result, outcome.Value):
            self.connection.execute("RELEASE use_case")
            committed.add(write.effects)
        elif isinstance(result, outcome.Error):
            if not self.connection.in_transaction:
                # SQLite rolled everything back already, so the whole group fails, and for this reason.
                raise result.error
            if isinstance(result.error, sqlite3.Error):
                if _is_damage(result.error):
                    self._damage = result.error
                result = outcome.Error(self._not_written(DatabaseError, result.error))
            self.connection.execute("ROLLBACK TO use_case")
            self.connection.execute("RELEASE use_case")
        write.result = result
        (committed.waits if write.is_open else committed.writes).append(write)

    def _failed(self, writes: Sequence[Write], error: Exception) -> Commit:
        """Undo all of a commit. What only waits goes on waiting: nothing was announced to it."""
        # On a full disk SQLite may have rolled back the whole group, also use cases that had returned. Any
        # error counts, not only SQLite's: if it ended the writer thread, every caller would wait for ever.
        with suppress(sqlite3.Error):
            self.connection.execute("ROLLBACK")
        self.catalog.clear()
        self._trouble = error
        self._log(f"{plural(len(writes), 'write')} could not be committed to {self._database}", str(error))
        for write in writes:
            # One error each: tasks that raise the same object would overwrite its traceback.
            write.result = outcome.Error(self._not_written(NotCommitted, error))
            # It has its result: a second one would reschedule a task that no longer waits.
            self._waiting.remove(write)
            if write.repeat:
                self._repeat(write, write.result.error)
        return Commit(writes=list(writes), failed=True)

    def _repeat(self, write: Write, error: BaseException) -> None:
        """Try a write again later, unless it can never succeed."""
        if isinstance(error, DatabaseError):
            self._repeated.append(write)
            self._retry_at = self.now() + RETRY_AFTER
        else:
            logger.error("a use case that nobody waits for failed and is not tried again", exc_info=error)

    def _log(self, what: str, why: str) -> None:
        """Log a failure; one for the same reason again only after ``LOG_AGAIN``."""
        now = self.now()
        known = why == self._logged and now - self._logged_at < LOG_AGAIN
        logger.log(logging.DEBUG if known else logging.ERROR, "%s: %s; %s", what, why, _FIX)
        if not known:
            self._logged, self._logged_at, self._is_outage = why, now, True

    def _not_written(self, kind: type[DatabaseError], error: Exception) -> DatabaseError:
        failure = kind(f"{self._database} could not be written: {error}", fix=_FIX)
        failure.__cause__ = error
        return failure


def _is_damage(error: Exception) -> bool:
    """Whether an error says that the file is damaged. Only another file helps."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
