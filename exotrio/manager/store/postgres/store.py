"""The store on PostgreSQL: use cases in, committed results out, in several threads at once."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import outcome
import trio

from exotrio.errors import DatabaseError
from exotrio.manager.store import tallies
from exotrio.manager.store.catalog import MAX_INPUTS
from exotrio.manager.store.clock import Clock, wall_clock
from exotrio.manager.store.commits import WRITTEN_AGAIN
from exotrio.manager.store.driver import put_meta
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.port import CLOSING_GRACE, NotCommitted, UnknownCommit
from exotrio.manager.store.postgres.clock import ServerClock
from exotrio.manager.store.postgres.condition import describe
from exotrio.manager.store.postgres.epochs import Epochs
from exotrio.manager.store.postgres.notices import Notices
from exotrio.manager.store.postgres.readers import PostgresReaders
from exotrio.manager.store.postgres.server import Server
from exotrio.manager.store.postgres.start import prepare_patiently
from exotrio.manager.store.postgres.topics import Topics
from exotrio.manager.store.postgres.writes import Context, Write, Writer
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("exotrio.manager.store")

WRITERS = 4
"""Use cases that run at once; each has a connection of its own."""
TALLY_INTERVAL = 1.0
"""Seconds between two writes of tallies; what is counted meanwhile is lost if the process is killed."""
RETRY_AFTER = 1.0
"""Seconds after a failed commit until a write that nobody waits for is tried again."""
WRITABLE_FOR = 2.0
"""Seconds for which a commit that wrote something proves that something can be written."""
LOG_AGAIN = 60.0
"""Seconds between two lines in the log about commits that fail for the same reason."""


class PostgresStore:
    """A database on PostgreSQL that any number of state managers use."""

    is_shared = True
    path: Path | None = None

    def __init__(self, context: Context, notices: Notices, nursery: trio.Nursery, grace: float) -> None:
        self.lease_clock: Clock | None = context.now_ms
        self._nursery = nursery
        self._grace = grace
        self._token = trio.lowlevel.current_trio_token()
        self._readers = PostgresReaders(context)
        self._commit_times = context.commit_times
        self._topics = Topics()
        self._notices = notices
        self._closed = False
        self._ended = False
        self._written = 0
        self._written_at = -math.inf
        self._handed_in: set[Write] = set()
        self._later = 0
        self._progress = trio.Event()
        self._tally: Counter[tallies.Key] = Counter()
        self._logged, self._logged_at, self._is_outage = "", 0.0, False
        self.on_commit: Callable[[int, Counter[tuple[str, str, str]]], None] = lambda writes, ended: None
        self._queue: queue.SimpleQueue[Write | None] = queue.SimpleQueue()
        self._writers = [Writer(context) for _ in range(WRITERS)]
        self._threads = [
            threading.Thread(
                target=self._run_writer, args=(writer,), name=f"exotrio-store-{number}", daemon=True
            )
            for number, writer in enumerate(self._writers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def written(self) -> int:
        return self._written

    def describe(self, view: View) -> dict[str, Any]:
        return describe(view) | {"commit_ms": self._commit_times.median_ms}

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._settle(Write(lambda tx: use_case(tx, *args, **kwargs)))

    async def write_once_ready(
        self, longest: float, use_case: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        deadline = trio.current_time() + longest
        waited = False
        with self._topics.waiter() as waiter:
            while True:
                is_last = trio.current_time() >= deadline
                write = Write(lambda tx: use_case(tx, *args, **kwargs), waited=waited, may_wait=not is_last)
                try:
                    value = await self._settle(write)
                except NotCommitted as error:
                    # It goes on waiting, as if it had not looked: nothing was announced to it.
                    if isinstance(error, UnknownCommit) or is_last or not waited or self._closed:
                        raise
                    value = None
                    write.effects = Effects(waits_for=dict.fromkeys(waiter.topics, math.inf))
                if value is not None or is_last:
                    return value
                waited = True
                if self._topics.wait(waiter, write.effects.waits_for):
                    with trio.move_on_at(deadline):
                        await waiter.woken.wait()
                    self._topics.run_again(waiter)

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        if self._ended:
            # A use case that ended after the store did may want to be undone.
            logger.error("a use case that nobody waits for is abandoned: the state manager was closed")
            return
        # Not by a task: whoever cancels this state manager would take it back.
        self._put(Write(use_case, repeat=True))

    async def check_writable(self) -> None:
        if trio.current_time() - self._written_at >= WRITABLE_FOR:
            await self.write(lambda tx: put_meta(tx, "writable", str(tx.now_ms)))

    async def measure_clock(self) -> None:
        await self.write(self._notices.clock.measure)

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        return await self._readers.read(lambda view: query(view, *args, **kwargs))

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        self._check_open()
        return await self._readers.read_with_deadline(lambda view: query(view, *args, **kwargs))

    async def run(self) -> None:
        """Do what is done beside use cases: wake what waits, hear other managers, write tallies.

        Never returns.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._topics.run)
            nursery.start_soon(self._run_tallies)
            nursery.start_soon(self._notices.run, self._hear)

    async def close(self) -> None:
        """Commit what was handed in, then end the threads; abandon it all after the seconds of grace."""
        self._closed = True
        self._topics.announce_all()
        deadline = trio.current_time() + self._grace
        with trio.CancelScope(shield=True, deadline=deadline):
            await self._nothing_handed_in()
            if self._tally:
                await self._write_tallies()
                await self._nothing_handed_in()
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
        for write in self._handed_in:
            if not write.abandoned and write.task is not None:
                write.abandoned = True
                error = UnknownCommit("the state manager was closed before the database answered")
                trio.lowlevel.reschedule(write.task, outcome.Error(error))

    async def _nothing_handed_in(self) -> None:
        while self._handed_in or self._later:
            self._progress = trio.Event()
            await self._progress.wait()

    def _check_open(self) -> None:
        if self._closed:
            raise DatabaseError(
                "the state manager was closed",
                fix="end what uses it before the block of embedded(), or around serve(), ends",
            )

    async def _settle(self, write: Write) -> Any:
        """Return the result of a use case once it is committed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        return await self._hand_in(write)

    async def _hand_in(self, write: Write) -> Any:
        def abandon(_: Any) -> trio.lowlevel.Abort:
            write.abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        write.task = trio.lowlevel.current_task()
        self._put(write)
        return await trio.lowlevel.wait_task_rescheduled(abandon)

    def _put(self, write: Write) -> None:
        self._handed_in.add(write)
        self._queue.put(write)

    def _run_writer(self, writer: Writer) -> None:
        while (write := self._queue.get()) is not None:
            if not write.abandoned and not writer.run(write):
                self._queue.put(write)
                writer.rest()
                continue
            try:
                self._token.run_sync_soon(self._deliver, write)
            except trio.RunFinishedError:
                # The Trio loop ended before this thread. What is committed stays committed.
                break
        writer.close()

    def _deliver(self, write: Write) -> None:
        self._handed_in.discard(write)
        self._progress.set()
        result = write.result
        if result is None:
            return
        if isinstance(result, outcome.Value):
            self._committed(write)
            failed, goes_on = False, write.may_wait and result.value is None
            is_lost = write.abandoned
        else:
            assert isinstance(result, outcome.Error)
            failed, goes_on = isinstance(result.error, NotCommitted), False
            is_lost = isinstance(result.error, UnknownCommit) and (
                write.abandoned or write.effects.undo_if_unknown
            )
            if isinstance(result.error, NotCommitted):
                self._written_at = -math.inf
                self._log(result.error)
        if write.repeat and isinstance(result, outcome.Error):
            self._repeat(write, result.error)
        elif not write.abandoned and write.task is not None:
            trio.lowlevel.reschedule(write.task, result)
        if is_lost and write.effects.undo is not None:
            self.write_later(write.effects.undo)
        if not goes_on:
            final = write.effects.final if isinstance(result, outcome.Value) else Counter()
            self.on_commit(0 if failed else 1, final)

    def _committed(self, write: Write) -> None:
        if write.changes:
            self._written += write.changes
            self._written_at = trio.current_time()
            if self._is_outage:
                logger.info(WRITTEN_AGAIN)
                self._is_outage = False
        self._tally.update(write.effects.tally)
        topics = write.effects.topics()
        if topics:
            self._topics.announce(topics)
        if write.changes:
            self._notices.tell(topics)

    def _hear(self, topics: set[Any] | None) -> None:
        """Take what another manager announced; None if it is not known what that was."""
        self._written += 1
        if topics is None:
            self._topics.announce_all()
        else:
            self._topics.announce(topics)

    def _repeat(self, write: Write, error: BaseException) -> None:
        """Try a write again later that nobody waits for, unless it can never succeed."""
        if not isinstance(error, DatabaseError):
            logger.error("a use case that nobody waits for failed and is not tried again", exc_info=error)
        elif self._closed:
            logger.error("a use case that nobody waits for is abandoned: %s", error.what)
        else:
            self._later += 1
            self._nursery.start_soon(self._put_later, Write(write.use_case, repeat=True))

    async def _put_later(self, write: Write) -> None:
        try:
            await trio.sleep(RETRY_AFTER)
        finally:
            # Also if the state manager is cancelled meanwhile: then it is the last try.
            self._put(write)
            self._later -= 1

    async def _run_tallies(self) -> None:
        while True:
            await trio.sleep(TALLY_INTERVAL)
            if self._tally:
                await self._write_tallies()

    async def _write_tallies(self) -> None:
        counted, self._tally = self._tally, Counter()
        try:
            await self._hand_in(Write(lambda tx: tallies.write(tx, counted, tx.now_ms)))
        except UnknownCommit:
            pass  # rather too few than counted twice, as after a crash
        except DatabaseError:  # it is in the log
            self._tally.update(counted)

    def _log(self, error: NotCommitted) -> None:
        """Log a failure; one for the same reason again only after ``LOG_AGAIN``."""
        now = trio.current_time()
        known = error.what == self._logged and now - self._logged_at < LOG_AGAIN
        logger.log(logging.DEBUG if known else logging.ERROR, "%s; %s", error.what, error.fix)
        if not known:
            self._logged, self._logged_at, self._is_outage = error.what, now, True


@asynccontextmanager
async def open_store(
    url: str,
    *,
    clock: Clock = wall_clock,
    max_inputs: int = MAX_INPUTS,
    grace: float = CLOSING_GRACE,
) -> AsyncIterator[PostgresStore]:
    """Open a database on PostgreSQL until the block ends.

    Args:
        url: As ``_util.database_url`` reads it.
        clock: Gives the time in Unix milliseconds. Defaults to the database's.
        max_inputs: Most bytes of the inputs of a state that follows another.
        grace: Seconds that use cases which were handed in may take at the end, before they are abandoned.

    Raises:
        ConfigurationError: the URL cannot be read.
        DatabaseTooNew, DatabaseError: as of ``prepare``, or it could not be reached.
    """
    server = Server(url)
    server_clock = ServerClock()
    prepared = await prepare_patiently(server, server_clock)
    now_ms = server_clock if clock is wall_clock else clock
    epochs = Epochs(server, max_inputs=max_inputs)
    context = Context(epochs=epochs, stamp=prepared.stamp, now_ms=now_ms)
    notices = Notices(
        epochs, server_clock, channel=f"exotrio_{prepared.stamp}", listens=not prepared.is_pooled
    )
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        store = PostgresStore(context, notices, nursery, grace)
        nursery.start_soon(store.run)
        try:
            yield store
        except BaseException as raised:
            error = raised
        await store.close()
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
