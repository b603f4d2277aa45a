"""The store: use cases in, committed results out.

A *use case* is a plain function of a ``Transaction`` and its arguments. What it does happens
wholly or not at all. With a file, one thread runs use cases and commits them in groups: while
one group is being synced to disk the next one gathers, so a hundred callers share one sync.
A use case that raises is undone alone, by its savepoint. In memory, use cases run at once in
the calling task, without a thread, so that virtual time works.

A *query* is a plain function of a ``View``. It reads what was last committed, on a connection of
its own.
"""

from __future__ import annotations

import logging
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import outcome
import trio

from exotrio._errors import DatabaseError
from exotrio.manager import _tally
from exotrio.manager._copy import remove_leftovers
from exotrio.manager._database import MEMORY, Ownership, open_reader, open_writer
from exotrio.manager._transaction import Catalog, Topic, Transaction, View

P = ParamSpec("P")
T = TypeVar("T")
Clock = Callable[[], int]
"""Returns Unix milliseconds."""

logger = logging.getLogger("exotrio.manager.store")

LARGEST_GROUP = 256
"""Use cases of one commit; bounds how long the first of a group waits for the last."""
TALLY_INTERVAL_MS = 1_000
"""Between two writes of what ended how; what is counted meanwhile is lost if the process is killed."""
CLOSING_GRACE = 10.0
"""Seconds the writer may take for its last commit before the process gives it up."""


def wall_clock() -> int:
    """Return the time in Unix milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Committed:
    """What one commit did.

    Attributes:
        size: Use cases that shared it.
        ready: What somebody may have waited for.
        ended: How many states got a status in which they stay, by (namespace, node, status).
        tally: How many had their node's say: (kind, status, bucket of time).
    """

    size: int = 0
    ready: set[Topic] = field(default_factory=set)
    ended: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    tally: Counter[_tally.Key] = field(default_factory=Counter)


class Store(Protocol):
    """Where use cases run."""

    on_ready: Callable[[set[Topic]], None]
    """Called in the Trio thread after a commit with what somebody may have waited for."""
    on_commit: Callable[[Committed], None]
    """Called in the Trio thread after every commit."""

    @property
    def path(self) -> Path | None:
        """The file, or None in memory."""
        ...

    @property
    def written(self) -> int:
        """Rows written since the start: a number that grows whenever something may look different."""
        ...

    async def write(
        self,
        use_case: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Run a use case and return its result once it is durable.

        Raises:
            DatabaseError: it could not be committed; nothing of it happened.
            Whatever the use case raises; nothing of it happened.

        Cancellation:
            The use case may or may not happen.
        """
        ...

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query and return its result.

        Cancellation:
            Safe: a query changes nothing.
        """
        ...


class _Engine:
    """Runs use cases on the writing connection: the part that memory and file share."""

    def __init__(self, connection: sqlite3.Connection, catalog: Catalog, clock: Clock) -> None:
        self.connection = connection
        self.catalog = catalog
        self.clock = clock
        self.written = 0
        self._tally: Counter[_tally.Key] = Counter()
        self._tallied_at = 0
        self.stamp: str = connection.execute("SELECT value FROM meta WHERE key = 'stamp'").fetchone()[0]
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'states'").fetchone()
        self.next_seq = (last[0] if last else 0) + 1

    def commit(
        self, use_cases: Iterable[Callable[[Transaction], Any]], *, last: bool = False
    ) -> tuple[list[outcome.Outcome[Any]], Committed]:
        """Run use cases in one SQLite transaction; return their outcomes and what was done.

        Args:
            last: Nothing is committed afterwards.
        """
        committed = Committed()
        results: list[outcome.Outcome[Any]] = []
        calls = list(use_cases)
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for call in calls:
                results.append(self._in_savepoint(call, committed))
            now = self.clock()
            # Now and then only: for a group of one a row more is a cost.
            if write_tally := last or abs(now - self._tallied_at) >= TALLY_INTERVAL_MS:
                _tally.write(self.connection, self._tally + committed.tally, now)
            self.connection.execute("COMMIT")
            if write_tally:
                self._tally, self._tallied_at = Counter(), now
            else:
                self._tally.update(committed.tally)
            self.written = self.connection.total_changes
        except Exception as error:
            # A full disk, say: SQLite may have rolled back the whole group, and then nobody's
            # work happened, also of those whose use case had already returned. Not only SQLite's
            # errors: whatever ended the writer thread here would leave every caller waiting for ever.
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            self.catalog.clear()
            logger.error("%d writes could not be committed: %s", len(calls), error)
            # One error each: tasks that raise the same one would write their tracebacks over each other.
            return [outcome.Error(_not_written(error)) for _ in calls], Committed()
        committed.size = len(calls)
        return results, committed

    def _in_savepoint(self, call: Callable[[Transaction], Any], committed: Committed) -> outcome.Outcome[Any]:
        transaction = Transaction(self.connection, self.catalog, self.stamp, self.clock(), self.next_seq)
        self.connection.execute("SAVEPOINT use_case")
        result: outcome.Outcome[Any] = outcome.capture(call, transaction)
        # Numbers are spent even if the use case is undone: reuse is not worth a thought.
        self.next_seq = transaction.next_seq
        if isinstance(result, outcome.Value):
            self.connection.execute("RELEASE use_case")
            committed.ready |= transaction.ready
            committed.ended.update(transaction.ended)
            if transaction.tally:
                committed.tally.update(transaction.tally)
        elif isinstance(result, outcome.Error):
            if not self.connection.in_transaction:
                # SQLite rolled everything back already, so the whole group fails, and for this reason.
                raise result.error
            if isinstance(result.error, sqlite3.Error):
                result = outcome.Error(_not_written(result.error))
            self.connection.execute("ROLLBACK TO use_case")
            self.connection.execute("RELEASE use_case")
        return result

    def view(self) -> View:
        return View(self.connection, self.catalog, self.stamp, self.clock())


def _not_written(error: Exception) -> DatabaseError:
    failure = DatabaseError(
        f"the database could not be written: {error}", fix="check its file and the free space of its disk"
    )
    failure.__cause__ = error
    return failure


def _not_read(error: sqlite3.Error) -> DatabaseError:
    return DatabaseError(f"the database could not be read: {error}", fix="check its file and its disk")


def _closed() -> DatabaseError:
    return DatabaseError(
        "the state manager was closed",
        fix="end what uses it before the block of embedded(), or around serve(), ends",
    )


class MemoryStore:
    """A database in memory: everything happens in the calling task, at once."""

    def __init__(self, engine: _Engine) -> None:
        self._engine = engine
        self.path = None
        self.on_ready: Callable[[set[Topic]], None] = lambda kinds: None
        self.on_commit: Callable[[Committed], None] = lambda committed: None

    @property
    def written(self) -> int:
        return self._engine.written

    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await trio.lowlevel.checkpoint()
        (result,), committed = self._engine.commit([lambda tx: use_case(tx, *args, **kwargs)])
        self.on_commit(committed)
        if committed.ready:
            self.on_ready(committed.ready)
        value: T = result.unwrap()
        return value

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        try:
            return query(self._engine.view(), *args, **kwargs)
        except sqlite3.Error as error:
            raise _not_read(error) from error


class _Write:
    """A use case on its way through the writer thread, and the task that waits for it, if any."""

    __slots__ = ("_use_case", "abandoned", "result", "task", "undo")

    def __init__(
        self, use_case: Callable[[Transaction], Any], task: trio.lowlevel.Task | None = None
    ) -> None:
        self._use_case = use_case
        self.task = task
        self.undo: Callable[[Transaction], object] | None = None
        self.result: outcome.Outcome[Any]
        self.abandoned = False

    def call(self, tx: Transaction) -> Any:
        """Run the use case; in the writer thread."""
        value = self._use_case(tx)
        self.undo = tx.undo
        return value

    @property
    def is_lost(self) -> bool:
        """Whether it was committed for a caller who had gone, and should not have been."""
        return self.abandoned and self.undo is not None and isinstance(self.result, outcome.Value)


class FileStore:
    """A database in a file: a writer thread that commits in groups, and readers."""

    def __init__(self, engine: _Engine, path: Path) -> None:
        self._engine = engine
        self.path = path
        self.on_ready: Callable[[set[Topic]], None] = lambda kinds: None
        self.on_commit: Callable[[Committed], None] = lambda committed: None
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False
        self._left_behind = False
        self._idle_readers: list[sqlite3.Connection] = []
        # Two readers: a long listing does not hold up the short reads.
        self._reading = trio.CapacityLimiter(2)
        self._thread = threading.Thread(target=self._run_writer, name="exotrio-store", daemon=True)
        self._thread.start()

    @property
    def written(self) -> int:
        return self._engine.written

    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            # No thread is left that would ever answer.
            raise _closed()
        write = _Write(lambda tx: use_case(tx, *args, **kwargs), trio.lowlevel.current_task())

        def abandon(_: Any) -> trio.lowlevel.Abort:
            write.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        self._writes.put(write)
        value: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return value

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        def in_thread() -> T:
            try:
                with self._reader() as connection:
                    view = View(connection, self._engine.catalog, self._engine.stamp, self._engine.clock())
                    return query(view, *args, **kwargs)
            except sqlite3.Error as error:
                raise _not_read(error) from error

        if self._closed:
            raise _closed()
        return await trio.to_thread.run_sync(in_thread, limiter=self._reading)

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """Lend a reading connection, with one snapshot for all statements."""
        try:
            # Tried, not looked up first: another thread may take the last one in between.
            connection = self._idle_readers.pop()
        except IndexError:
            connection = open_reader(self.path)
        usable = False
        try:
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")
                usable = True
        finally:
            if usable:
                self._idle_readers.append(connection)
            else:
                connection.close()

    async def close(self) -> bool:
        """Commit what was handed in, then end the thread; give up after ``CLOSING_GRACE`` seconds.

        Returns:
            Whether the thread ended. If it did not, it may still write.
        """
        self._closed = True
        self._writes.put(None)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSING_GRACE):
            await trio.to_thread.run_sync(self._thread.join, CLOSING_GRACE)
        for connection in self._idle_readers:
            connection.close()
        if self._thread.is_alive():
            logger.error("the last write did not end within %g s; leaving it behind", CLOSING_GRACE)
            self._left_behind = True
            return False
        undos = []
        while not self._writes.empty():
            if (write := self._writes.get()) is not None:
                undos.append(write.call)
        self._engine.commit(undos, last=True)
        self._engine.connection.close()
        return True

    def _run_writer(self) -> None:
        ending = False
        while not ending:
            group = [self._writes.get()]
            while len(group) < LARGEST_GROUP:
                try:
                    group.append(self._writes.get_nowait())
                except queue.Empty:
                    break
            ending = None in group
            writes = [write for write in group if write is not None and not write.abandoned]
            if not writes:
                continue
            results, committed = self._engine.commit([write.call for write in writes])
            for write, result in zip(writes, results, strict=True):
                write.result = result
            try:
                self._token.run_sync_soon(self._deliver, writes, committed)
            except trio.RunFinishedError:
                # The loop ended without this thread; what is committed stays committed.
                self._engine.connection.close()
                return
        if self._left_behind:
            self._engine.connection.close()

    def _deliver(self, writes: list[_Write], committed: Committed) -> None:
        for write in writes:
            if write.is_lost:
                self._writes.put(_Write(write.undo))  # type: ignore[arg-type]
            elif not write.abandoned and write.task is not None:
                trio.lowlevel.reschedule(write.task, write.result)
        self.on_commit(committed)
        if committed.ready:
            self.on_ready(committed.ready)


@asynccontextmanager
async def open_store(db: str | Path, *, clock: Clock = wall_clock) -> AsyncIterator[Store]:
    """Open a database and own it until the block ends.

    Args:
        db: A file, made with its folder if it is missing, or ``":memory:"``.
        clock: Gives the time in Unix milliseconds.

    Raises:
        DatabaseBusy: another process (or another store of this one) owns the file.
        DatabaseTooNew: a newer exotrio wrote it.
        DatabaseError: it cannot be used.
    """
    if str(db) == MEMORY:
        with closing(open_writer(None)) as connection:
            yield MemoryStore(_Engine(connection, Catalog(), clock))
        return
    path = _resolve(db)
    ownership = Ownership(path)
    released = True
    try:
        remove_leftovers(path)
        store = FileStore(_Engine(open_writer(path), Catalog(), clock), path)
        try:
            yield store
        finally:
            # A thread that still writes keeps the database: the lock then ends with the process.
            released = await store.close()
    finally:
        if released:
            ownership.release()


def _resolve(db: str | Path) -> Path:
    """Return the real path, so that two names of one file meet at one lock."""
    return Path(db).resolve()
