"""The stores of SQLite: use cases in, committed results out.

With a file, one thread runs use cases and commits them in groups: while one group is synced to disk the
next one gathers, so a hundred callers share one sync. In memory, use cases run at once in the calling task,
without a thread, so that virtual time works.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import outcome
import trio

from exotrio._shared.database_files import real_path
from exotrio.errors import DatabaseError
from exotrio.manager.store.catalog import MAX_INPUTS, Catalog
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.port import CLOSING_GRACE, Store
from exotrio.manager.store.sqlite.commits import MAX_GROUP, Commit, Committer
from exotrio.manager.store.sqlite.condition import describe
from exotrio.manager.store.sqlite.copy import remove_leftovers
from exotrio.manager.store.sqlite.database import MEMORY, Ownership, open_writer, same_files
from exotrio.manager.store.sqlite.readers import FileReaders, MemoryReaders
from exotrio.manager.store.sqlite.writes import Write
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("exotrio.manager.store")


def _closed() -> DatabaseError:
    return DatabaseError(
        "the state manager was closed",
        fix="end what uses it before the block of embedded(), or around serve(), ends",
    )


def _answer(write: Write) -> None:
    """Give a write's result to its task, if that still waits."""
    if not write.abandoned and write.task is not None:
        trio.lowlevel.reschedule(write.task, write.result)


class _CommittingStore:
    """What the stores share: use cases become writes, which ``_settle`` hands to the committer."""

    is_shared = False
    lease_clock: Callable[[], int] | None = None

    def __init__(self, committer: Committer, path: Path | None) -> None:
        self._committer = committer
        self._closed = False
        self.path = path
        self.on_commit: Callable[[int, Counter[tuple[str, str, str]]], None] = lambda writes, ended: None

    @property
    def written(self) -> int:
        return self._committer.written

    def describe(self, view: View) -> dict[str, Any]:
        return describe(view, self.path) | {"commit_ms": self._committer.commit_times.median_ms}

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._settle(Write(lambda tx: use_case(tx, *args, **kwargs)))

    async def write_once_ready(
        self, longest: float, use_case: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        deadline = self._committer.now() + longest
        return await self._settle(Write(lambda tx: use_case(tx, *args, **kwargs), deadline=deadline))

    async def check_writable(self) -> None:
        await self.write(self._committer.check_writable)

    async def measure_clock(self) -> None:
        """Do nothing: a file has no clock."""

    def _report(self, committed: Commit) -> None:
        if committed.writes:
            self.on_commit(0 if committed.failed else len(committed.writes), committed.final)

    async def _settle(self, write: Write) -> Any:
        """Return the result of a write once it is committed."""
        raise NotImplementedError


class MemoryStore(_CommittingStore):
    """A database in memory: everything happens in the calling task, at once."""

    def __init__(self, committer: Committer) -> None:
        super().__init__(committer, None)
        self._readers = MemoryReaders(lambda: committer.view(committer.connection))
        self._scopes: dict[Write, trio.CancelScope] = {}

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        if not self._closed:
            self._commit([Write(use_case, repeat=True)])

    async def _settle(self, write: Write) -> Any:
        await trio.lowlevel.checkpoint()
        handed_in = [write]
        while write not in self._commit(handed_in):
            with trio.CancelScope() as scope:
                return await self._answered(write, scope)
            # Its scope was cancelled so that it looks, for all that wait, whether something is due; and for
            # itself if its time is over, or its topic was announced just before it could wait.
            assert write.deadline is not None, "only what may wait is left open by a commit"
            handed_in = [write] if write.missed or trio.current_time() >= write.deadline else []
            write.abandoned = write.missed = False
        return write.result.unwrap()

    async def _answered(self, write: Write, scope: trio.CancelScope) -> Any:
        """Wait for the commit of another task that has a result for it, or until ``scope`` is cancelled."""

        def leave(_: Any) -> trio.lowlevel.Abort:
            write.abandoned, write.task = True, None
            return trio.lowlevel.Abort.SUCCEEDED

        write.task = trio.lowlevel.current_task()
        self._scopes[write] = scope
        self._appoint()
        try:
            return await trio.lowlevel.wait_task_rescheduled(leave)
        finally:
            del self._scopes[write]
            self._appoint()

    def _appoint(self) -> None:
        """Have one of those that wait look in time whether something expired or came due, for all of them."""
        for scope in self._scopes.values():
            scope.deadline = self._committer.next_look
            break

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._readers.read(lambda view: query(view, *args, **kwargs))

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await self._readers.read_with_deadline(lambda view: query(view, *args, **kwargs))

    def close(self) -> None:
        """Answer all that wait with an error."""
        self._closed = True
        for write in self._committer.give_up(_closed):
            _answer(write)

    def _commit(self, writes: Sequence[Write]) -> Sequence[Write]:
        """Commit; return all that have their results now, of other tasks too."""
        if self._closed:
            raise _closed()
        committed = self._committer.commit(writes)
        for each in committed.writes:
            _answer(each)
        self._appoint()
        self._report(committed)
        return committed.writes


class FileStore(_CommittingStore):
    """A database in a file: a writer thread that commits in groups, and readers."""

    def __init__(self, committer: Committer, path: Path, grace: float) -> None:
        super().__init__(committer, path)
        self._grace = grace
        self._writes: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._abandoned = False
        self._readers = FileReaders(path, committer.view)
        self._thread = threading.Thread(target=self._run_writer, name="exotrio-store", daemon=True)
        self._thread.start()

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        self._writes.put(Write(use_case, repeat=True))

    async def _settle(self, write: Write) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._closed:
            # No thread is left that would answer.
            raise _closed()

        def abandon(_: Any) -> trio.lowlevel.Abort:
            write.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        write.task = trio.lowlevel.current_task()
        self._writes.put(write)
        return await trio.lowlevel.wait_task_rescheduled(abandon)

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if self._closed:
            raise _closed()
        return await self._readers.read(lambda view: query(view, *args, **kwargs))

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        if self._closed:
            raise _closed()
        return await self._readers.read_with_deadline(lambda view: query(view, *args, **kwargs))

    async def close(self) -> bool:
        """Commit what was handed in, then end the thread; abandon it after the seconds of grace.

        Return whether the thread ended. If it did not, it may still write.
        """
        self._closed = True
        self._writes.put(None)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._grace):
            await trio.to_thread.run_sync(self._thread.join, self._grace, limiter=trio.CapacityLimiter(1))
        self._readers.close()
        if self._thread.is_alive():
            logger.error(
                "the last write did not end within %g s; its thread is abandoned and keeps the lock",
                self._grace,
            )
            self._abandoned = True
            return False
        # First those that wait: what is undone below must not be claimed by one of them.
        for given_up in self._committer.give_up(_closed):
            _answer(given_up)
        undos = [self._writes.get() for _ in range(self._writes.qsize())]
        self._committer.commit([write for write in undos if write is not None], last=True)
        self._committer.connection.close()
        return True

    def _run_writer(self) -> None:
        ending = False
        while not ending:
            group: list[Write | None] = []
            with suppress(queue.Empty):
                group.append(self._writes.get(timeout=self._until_next_look()))
                while len(group) < MAX_GROUP:
                    group.append(self._writes.get_nowait())
            ending = None in group
            writes = [write for write in group if write is not None and not write.abandoned]
            committed = self._committer.commit(writes)
            if not committed.writes:
                continue
            try:
                self._token.run_sync_soon(self._deliver, committed)
            except trio.RunFinishedError:
                # The Trio loop ended before this thread. What is committed stays committed.
                self._committer.connection.close()
                return
        if self._abandoned:
            self._committer.connection.close()

    def _until_next_look(self) -> float | None:
        """Return the seconds until something that waits has to be run; None if nothing has to."""
        look_at = self._committer.next_look
        return None if look_at == math.inf else max(0.0, look_at - time.monotonic())

    def _deliver(self, committed: Commit) -> None:
        for write in committed.writes:
            undo = write.effects.undo
            if write.abandoned and undo is not None and isinstance(write.result, outcome.Value):
                self.write_later(undo)
            else:
                _answer(write)
        self._report(committed)


@asynccontextmanager
async def open_store(
    db: str | Path,
    *,
    clock: Clock = wall_clock,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
) -> AsyncIterator[Store]:
    """Open a database and own it until the block ends.

    ``db`` is a file, made with its folder if it is missing, or ``":memory:"``. Errors are as of ``Ownership``
    and ``open_writer``.
    """
    catalog = Catalog(max_inputs)
    if str(db) == MEMORY:
        with closing(open_writer(None)) as connection:
            memory = MemoryStore(Committer(connection, catalog=catalog, clock=clock, now=trio.current_time))
            try:
                yield memory
            finally:
                memory.close()
        return
    path = _resolve(db)
    ownership = Ownership(path)
    released = True
    try:
        remove_leftovers(path)
        is_new = not path.exists()
        connection = open_writer(path)
        committer = Committer(
            connection,
            catalog=catalog,
            clock=clock,
            now=time.monotonic,
            check=same_files(path),
            name=path.name,
            is_new=is_new,
        )
        store = FileStore(committer, path, grace)
        try:
            yield store
        finally:
            # A thread that still writes keeps the database: the lock then ends with the process.
            released = await store.close()
    finally:
        if released:
            ownership.release()


def _resolve(db: str | Path) -> Path:
    """Return the real path, so that two names of one file lead to one lock."""
    try:
        return real_path(Path(db))
    except OSError as error:
        raise DatabaseError(
            f"the database {db} cannot be opened: {error.strerror}", fix="choose another place with --db FILE"
        ) from error
