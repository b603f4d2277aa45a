"""The store on PostgreSQL: it runs use cases in several threads at once, and returns committed results."""

from __future__ import annotations

import logging
import math
import queue
import shlex
import threading
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import outcome
import trio

from exotrio.manager.rules.errors import Conflict
from exotrio.manager.store.base import CLOSING_GRACE, Copy, Store
from exotrio.manager.store.catalog import MAX_INPUTS
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import Topic
from exotrio.manager.store.errors import NotCommitted, UnknownCommit, closed
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.condition import describe
from exotrio.manager.store.postgres.epochs import Epochs
from exotrio.manager.store.postgres.notices import Notices
from exotrio.manager.store.postgres.readers import PostgresReaders
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.postgres.start import prepare_when_reachable
from exotrio.manager.store.postgres.waiting import Waiting
from exotrio.manager.store.postgres.writes import Context, Writer
from exotrio.manager.store.view import View
from exotrio.manager.store.writes import Commit, Write

logger = logging.getLogger("exotrio.manager.store")

WRITERS = 4
"""Use cases that run at once, each on a separate connection."""
WRITABLE_FOR = 2.0
"""Seconds for which a commit that changed something proves that something can be written."""


class _Queue:
    """Writes for any writer. If several wait, the one that began last takes the next write.

    So a state manager with little to do has few sessions, whose caches are warm. For all threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._writes: deque[Write | None] = deque()
        self._waiting: list[queue.SimpleQueue[Write | None]] = []

    def put(self, write: Write | None) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.pop().put(write)
            else:
                self._writes.append(write)

    def get(self) -> Write | None:
        with self._lock:
            if self._writes:
                return self._writes.popleft()
            mine = queue.SimpleQueue[Write | None]()
            self._waiting.append(mine)
        return mine.get()


class PostgresStore(Store):
    """A database on PostgreSQL that any number of state managers use."""

    is_shared = True

    def __init__(self, context: Context, notices: Notices, grace: float) -> None:
        super().__init__(
            PostgresReaders(context),
            commit_times=context.commit_times,
            now_ms=context.now_ms,
        )
        self.lease_clock = context.now_ms
        self._server = context.epochs.server
        self._grace = grace
        self._token = trio.lowlevel.current_trio_token()
        self._notices = notices
        self._waiting = Waiting(self._put)
        self._in_flight: set[Write] = set()
        self._progress = trio.Event()
        self._queue = _Queue()
        self._writers = [Writer(context) for _ in range(WRITERS)]
        self._threads = [
            threading.Thread(
                target=self._run_writer, args=(writer,), name=f"exotrio-store-{number}", daemon=True
            )
            for number, writer in enumerate(self._writers)
        ]
        for thread in self._threads:
            thread.start()

    async def check_writable(self) -> None:
        if self._now() - self._written_at >= WRITABLE_FOR:
            await self.write(lambda tx: put_meta(tx, "writable", str(tx.now_ms)))

    @asynccontextmanager
    async def copied(self) -> AsyncIterator[Copy]:
        command = f"pg_dump --format=custom --file=exotrio.dump {shlex.quote(self._server.shown)}"
        raise Conflict(
            "the database is on PostgreSQL, which makes its own backups, with the password from PGPASSWORD or"
            f" PGPASSFILE: {command}"
        )
        yield

    async def measure_clock(self) -> None:
        await self.write(self._notices.clock.measure)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            nursery.start_soon(self._notices.run, self._on_notification)

    async def close(self) -> None:
        """Commit the writes in the queue, then end the threads; abandon them after the seconds of grace."""
        self._closed = True
        self._give_up(self._waiting.remove_all(), closed)
        self._put_repeated()
        deadline = trio.current_time() + self._grace
        with trio.CancelScope(shield=True, deadline=deadline):
            await self._until_idle()
            self._put_tally()
            await self._until_idle()
        self._ended = True
        for _ in self._threads:
            self._queue.put(None)
        with trio.CancelScope(shield=True, deadline=deadline):
            for thread in self._threads:
                await trio.to_thread.run_sync(
                    thread.join, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True
                )
        self._readers.close()
        if any(thread.is_alive() for thread in self._threads):
            logger.error("the last writes did not end within %g s; they are abandoned", self._grace)
        for writer in self._writers:
            writer.abort()
        self._give_up(
            self._in_flight,
            lambda: UnknownCommit("the state manager was closed before the database answered"),
        )
        for write in self._in_flight:
            write.abandoned = True

    def describe(self, view: View) -> dict[str, Any]:
        return super().describe(view) | describe(view, self._server.refused())

    def _put(self, write: Write) -> None:
        write.is_last = write.deadline is None or trio.current_time() >= write.deadline
        write.result, write.waits, write.give_up_at = None, False, None
        if write.deadline is not None and not write.waited:
            self._waiting.begin(write)
        self._in_flight.add(write)
        self._queue.put(write)

    def _forget(self, write: Write) -> None:
        if write.deadline is not None:
            self._waiting.remove(write)

    def _next_at(self) -> float:
        return min(super()._next_at(), self._waiting.next_at())

    def _put_due(self) -> None:
        super()._put_due()
        self._waiting.run_due()

    async def _until_idle(self) -> None:
        while self._in_flight:
            self._progress = trio.Event()
            await self._progress.wait()

    def _run_writer(self, writer: Writer) -> None:
        while (write := self._queue.get()) is not None:
            if not write.abandoned and not writer.run(write):
                self._queue.put(write)
                writer.rest()
                continue
            try:
                self._token.run_sync_soon(self._finish, write)
            except trio.RunFinishedError:
                # The Trio loop ended before this thread. What is committed stays committed.
                break
        writer.close()

    def _finish(self, write: Write) -> None:
        """Take a write back from a writer: deliver its result, or let it wait."""
        self._in_flight.discard(write)
        self._progress.set()
        if write.result is None:
            return  # its task was cancelled before a writer took it
        commit = Commit(writes=[write])
        error = write.result.error if isinstance(write.result, outcome.Error) else None
        waits_for = write.effects.waits_for
        if error is None:
            commit.changes = write.changes
            topics = write.effects.topics()
            if topics:
                self._waiting.announce(topics)
            if write.changes:
                self._notices.publish(topics)
        elif isinstance(error, NotCommitted):
            commit.error = error
            if write.topics and not write.is_last and not isinstance(error, UnknownCommit):
                # The server was away when a write that waits was run again. It waits on, as if it had not
                # run.
                write.waits, waits_for = True, dict.fromkeys(write.topics, math.inf)
        if write.waits and self._closed:
            # The store was closed while it ran: nothing runs it again.
            write.result = outcome.Error(closed())
        elif write.waits and not write.abandoned:
            commit.writes.clear()
            self._arm_wakeup(self._waiting.wait(write, waits_for))
        elif write.deadline is not None and not write.abandoned:
            self._waiting.remove(write)
        # If it was cancelled while it ran, ``_forget`` has removed it already; its result is undone.
        self._deliver(commit)

    def _on_notification(self, topics: set[Topic] | None) -> None:
        """Take what another manager announced; None if it is not known what that was."""
        self.written += 1
        if topics is None:
            self._waiting.announce_all()
        else:
            self._waiting.announce(topics)


@asynccontextmanager
async def open_store(
    url: str,
    *,
    clock: Clock = wall_clock,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
) -> AsyncIterator[PostgresStore]:
    """Open a database on PostgreSQL until the block ends: arguments and errors as in ``opening.open_store``;
    also DatabaseTooNew, as in ``prepare``."""
    server = Server(url)
    server_clock = ServerClock()
    prepared = await prepare_when_reachable(server, server_clock)
    now_ms = server_clock if clock is wall_clock else clock
    epochs = Epochs(server, max_inputs=max_inputs)
    context = Context(epochs=epochs, stamp=prepared.stamp, now_ms=now_ms)
    notices = Notices(
        epochs, server_clock, channel=f"exotrio_{prepared.stamp}", listens=not prepared.is_pooled
    )
    async with PostgresStore(context, notices, grace).running() as store:
        yield store
