"""The stores of SQLite: use cases in, committed results out.

With a file, one thread runs use cases and commits them in groups: while one group is synced to disk the
next one gathers, so a hundred callers share one sync. In memory, use cases run at once in the calling task,
without a thread, so that virtual time works.
"""

from __future__ import annotations

import io
import logging
import math
import queue
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import trio

from exotrio._shared.database_files import real_path
from exotrio.manager.store.base import CLOSING_GRACE, Copy, Store
from exotrio.manager.store.catalog import MAX_INPUTS, Catalog
from exotrio.manager.store.clock import Clock, monotonic_clock, wall_clock
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.errors import closed
from exotrio.manager.store.readers import Readers
from exotrio.manager.store.sqlite.commits import MAX_GROUP, Committer
from exotrio.manager.store.sqlite.copy import copied, remove_leftovers
from exotrio.manager.store.sqlite.database import (
    MEMORY,
    Ownership,
    cannot_open,
    open_writer,
    same_files,
    truncate_log,
)
from exotrio.manager.store.sqlite.readers import FileReaders, MemoryReaders
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.writes import Write

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("exotrio.manager.store")

WRITABLE_FOR = 10.0
"""Seconds for which a commit that changed something proves that something can be written."""


class _SQLiteStore(Store):
    """What databases in memory and in a file share: the committer."""

    def __init__(self, committer: Committer, readers: Readers[sqlite3.Connection]) -> None:
        super().__init__(
            readers,
            commit_times=committer.commit_times,
            now_ms=committer.clock,
            now=committer.now,
        )
        self._committer = committer

    async def check_writable(self) -> None:
        # A commit even if there is nothing to write, since it checks whether the file is still the same.
        await self.write(self._check_writable)

    def _check_writable(self, tx: Transaction) -> None:
        if self._committer.damage is not None:
            # Even if this row could be written: only another file helps.
            raise self._committer.damage
        if self._now() - self._written_at >= WRITABLE_FOR:
            put_meta(tx, "writable", str(tx.now_ms))

    async def _settle(self, write: Write) -> Any:
        # Repeated writes first: they may undo something that this write would otherwise read.
        self._put_repeated()
        return await super()._settle(write)

    def describe(self, view: View) -> dict[str, Any]:
        pages, page_size, schema_version = (
            view.one(f"PRAGMA {name}")[0] for name in ("page_count", "page_size", "user_version")
        )
        path = self.path
        return super().describe(view) | {
            "in_memory": path is None,
            "sqlite": view.one("SELECT sqlite_version()")[0],
            "size": pages * page_size,
            "log_size": 0 if path is None else _size(path.with_name(path.name + "-wal")),
            "schema_version": schema_version,
            "free_disk": None if path is None else shutil.disk_usage(path.parent).free,
        }


class MemoryStore(_SQLiteStore):
    """A database in memory: everything happens in the calling task, at once."""

    def __init__(self, committer: Committer) -> None:
        super().__init__(committer, MemoryReaders(lambda: committer.view(committer.connection)))

    @asynccontextmanager
    async def copied(self) -> AsyncIterator[Copy]:
        self._check_open()
        content = io.BytesIO(self._committer.connection.serialize())

        async def read(size: int) -> bytes:
            return content.read(size)

        yield Copy(len(content.getbuffer()), read)

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await trio.lowlevel.checkpoint()
        return function(*args, **kwargs)

    async def close(self) -> None:
        """Answer all that wait with an error."""
        self._closed = self._ended = True
        self._give_up(self._committer.give_up(), closed)

    def _put(self, write: Write) -> None:
        self._deliver(self._committer.commit([write]))
        self._arm_wakeup(self._committer.next_at())

    async def _settle(self, write: Write) -> Any:
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._repeated:
            self._put_repeated()
        self._put(write)
        if write.waits:
            return await self._result_of(write)
        assert write.result is not None
        return write.result.unwrap()

    def _next_at(self) -> float:
        return min(super()._next_at(), self._committer.next_at())

    def _put_due(self) -> None:
        super()._put_due()
        self._deliver(self._committer.commit([]))


class FileStore(_SQLiteStore):
    """A database in a file: a writer thread that commits in groups, and readers."""

    def __init__(self, committer: Committer, path: Path, grace: float) -> None:
        super().__init__(committer, FileReaders(path, committer.view))
        self.path = self._path = path
        self.is_released = False
        """Whether no thread writes any more. Otherwise the database stays locked until the process ends."""
        self._grace = grace
        self._writes: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._abandoned = False
        self._thread = threading.Thread(target=self._run_writer, name="exotrio-store", daemon=True)
        self._thread.start()

    @asynccontextmanager
    async def copied(self) -> AsyncIterator[Copy]:
        async with copied(self._path) as path, await trio.open_file(path, "rb") as file:
            yield Copy(path.stat().st_size, file.read)

    async def forget_replaced(self) -> None:
        # It is still in the write-ahead log.
        await trio.to_thread.run_sync(truncate_log, self._path)

    async def close(self) -> None:
        """Commit the writes in the queue, then end the thread; abandon it after the seconds of grace."""
        self._closed = True
        self._put_repeated()
        self._writes.put(None)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._grace):
            await trio.to_thread.run_sync(self._thread.join, self._grace, limiter=trio.CapacityLimiter(1))
        self._readers.close()
        if self._thread.is_alive():
            logger.error(
                "the last write did not end within %g s; its thread is abandoned and keeps the lock",
                self._grace,
            )
            self._abandoned = self._ended = True
            return
        # First those that wait: what is undone below must not be claimed by one of them.
        self._give_up(self._committer.give_up(), closed)
        self._commit_queued()
        # Only now: another write of tallies may have been in the queue, and later commits are not in that.
        self._put_tally()
        self._commit_queued()
        self._ended = self.is_released = True
        self._committer.connection.close()

    def _put(self, write: Write) -> None:
        self._writes.put(write)

    def _commit_queued(self) -> None:
        """Commit what is in the queue once the thread has ended."""
        while writes := [write for _ in range(self._writes.qsize()) if (write := self._writes.get())]:
            self._deliver(self._committer.commit(writes))

    def _run_writer(self) -> None:
        is_ending = False
        while not is_ending:
            group: list[Write | None] = []
            with suppress(queue.Empty):
                group.append(self._writes.get(timeout=self._until_next()))
                while len(group) < MAX_GROUP:
                    group.append(self._writes.get_nowait())
            is_ending = None in group
            commit = self._committer.commit(
                [write for write in group if write is not None and not write.abandoned]
            )
            if not (commit.writes or commit.changes):
                continue
            try:
                self._token.run_sync_soon(self._deliver, commit)
            except trio.RunFinishedError:
                # The Trio loop ended before this thread. What is committed stays committed.
                self._committer.connection.close()
                return
        if self._abandoned:
            self._committer.connection.close()

    def _until_next(self) -> float | None:
        """Return the seconds until something that waits has to be run; None if nothing has to."""
        at = self._committer.next_at()
        return None if at == math.inf else max(0.0, at - time.monotonic())


@asynccontextmanager
async def open_store(
    db: str | Path,
    *,
    clock: Clock = wall_clock,
    lease_clock: Clock | None = None,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
) -> AsyncIterator[Store]:
    """Open a database and own it until the block ends.

    ``db`` is a file, made with its folder if it is missing, or ``":memory:"``. Errors are as in ``Ownership``
    and ``open_writer``.
    """
    catalog = Catalog(max_inputs, lease_clock=lease_clock or monotonic_clock)
    if str(db) == MEMORY:
        with closing(open_writer(None)) as connection:
            committer = Committer(connection, catalog=catalog, clock=clock, now=trio.current_time)
            async with MemoryStore(committer).running() as memory:
                yield memory
        return
    path = _resolve(db)
    ownership = Ownership(path)
    store: FileStore | None = None
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
        async with store.running():
            yield store
    finally:
        if store is None or store.is_released:
            ownership.release()


def _resolve(db: str | Path) -> Path:
    """Return the real path, so that two names of one file lead to one lock."""
    try:
        return real_path(Path(db))
    except OSError as error:
        raise cannot_open(db, error) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # not made yet, or gone with the last checkpoint
