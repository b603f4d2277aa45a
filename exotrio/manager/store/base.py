"""``Store``: how a use case gets from its caller to its result, on every engine.

An engine commits writes that it gets by ``_put``, and calls ``_deliver`` in the Trio thread with what each
commit did. It also has readers, and says which of its writes wait.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar, overload

import outcome
import trio

from exotrio.errors import DatabaseError
from exotrio.manager.rules.access import Caller
from exotrio.manager.store import tallies
from exotrio.manager.store.effects import Effects, WithEffects
from exotrio.manager.store.errors import UnknownCommit, closed
from exotrio.manager.store.readers import Readers
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from exotrio.manager.store.writes import Commit, CommitTimes, Write

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger("exotrio.manager.store")

CLOSING_GRACE = 5.0
"""Seconds that the last writes may take when a store is closed, unless the caller says otherwise."""
TALLY_INTERVAL_MS = 1_000
"""Minimum between two writes of tallies. The first commit after that hands in the next one, which is later on
an idle store. Counts that are not written are lost if the process is killed."""
RETRY_AFTER = 1.0
"""Seconds after which a write that is repeated is tried again."""
LOG_AGAIN = 10.0
"""Seconds between two lines in the log about commits that fail for one reason: others may work between."""


class Copy(NamedTuple):
    """A copy of a database: its size in bytes, and a function that returns the next bytes of it, at most as
    many as its argument says."""

    size: int
    read: Callable[[int], Awaitable[bytes]]


OnCommit = Callable[[int, Sequence[Effects]], None]


class Store:
    """Where use cases and queries run, but for the engine. It has to ``run`` as long as it is open.

    Args:
        readers: Run queries.
        commit_times: Where the engine measures commits.
        now_ms: The clock of use cases, in Unix milliseconds.
        now: The clock of the deadlines of writes that wait, in seconds.
    """

    path: Path | None = None
    """The file, or None without one."""
    is_shared = False
    """Whether other state managers work on the database, too."""
    lease_clock: Callable[[], int] | None = None
    """The time in milliseconds by which all of them count leases; None: each process has its own clock."""

    def __init__(
        self,
        readers: Readers[Any],
        *,
        commit_times: CommitTimes,
        now_ms: Callable[[], int],
        now: Callable[[], float] = trio.current_time,
    ) -> None:
        self.on_commit: OnCommit = lambda writes, effects: None
        """Called in the Trio thread after every commit, with the number of use cases that have their results
        now (0 if it failed), and the effects of those that did not fail."""
        self.on_deliveries: Callable[[], None] = lambda: None
        """Called in the Trio thread after a commit with ``Effects.deliveries``."""
        self.written: int = 0
        """Rows written since the start: it grows whenever a page may show something new."""
        self._commit_times = commit_times
        self._readers = readers
        self._now_ms = now_ms
        self._now = now
        self._written_at = -math.inf
        """When a commit last changed something; never if one has failed since."""
        self.unwritable: str = ""
        """Why the last commit failed; empty if it did not."""
        self._logged, self._is_outage = dict[str, float](), False
        # ``_closed``: callers are refused. ``_ended``: all writes are.
        self._closed = self._ended = False
        self._repeated: list[Write] = []
        self._retry_at = math.inf
        self._sleep = trio.CancelScope()
        self._computing = trio.CapacityLimiter(1)
        self._tally: Counter[tallies.Key] = Counter()
        self._tallied_at = 0
        self._tally_write: tuple[Write, Counter[tallies.Key]] | None = None

    def describe(self, view: View) -> dict[str, Any]:
        """Return the condition of the database, as ``DatabaseState``. A query."""
        return {"commit_ms": self._commit_times.median_ms}

    @overload
    async def write(
        self,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write(
        self, use_case: Callable[Concatenate[Transaction, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def write(self, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case and return its value once it is durable. Then its effects happen.

        Raises:
            UnknownCommit: whether it happened is not known.
            DatabaseError: it could not be committed; nothing of it happened.
            Whatever the use case raises; nothing of it happened.

        Cancellation:
            The use case may still be committed. If it is, ``Effects.undo`` is run.
        """
        return await self._settle(Write(lambda tx: use_case(tx, *args, **kwargs)))

    @overload
    async def write_as(
        self,
        caller: Caller,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def write_as(
        self,
        caller: Caller,
        use_case: Callable[Concatenate[Transaction, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    async def write_as(self, caller: Caller, use_case: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a use case as ``write`` does; what it records (``Transaction.record``) names this caller."""

        def with_caller(tx: Transaction) -> Any:
            tx.caller = caller
            return use_case(tx, *args, **kwargs)

        return await self.write(with_caller)

    async def write_once_ready(
        self,
        max_wait: float,
        use_case: Callable[Concatenate[Transaction, P], WithEffects[T | None]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T | None:
        """Run a use case that may have to wait for something, and return its value once it is durable.

        While it returns None it is run again: in each commit that announces one of the topics in
        ``Effects.waits_for``, and when their seconds are over. Those that wait for the same topic run in
        the order in which they came, until one of them returns None: then nothing is left for the others.

        After ``max_wait`` seconds it is run a last time, and its value is returned even if it is None.
        Errors and cancellation are as in ``write``.
        """
        write = Write(lambda tx: use_case(tx, *args, **kwargs))
        write.deadline = self._now() + max_wait
        value: T | None = await self._settle(write)
        return value

    def write_later(self, use_case: Callable[[Transaction], object]) -> None:
        """Run a use case whose value is not needed; try again each second while the database fails."""
        if self._ended:
            # For example the undo of a use case whose caller was gone when the store had ended.
            logger.error("a use case without a caller is abandoned: the state manager was closed")
            return
        self._put(Write(use_case, repeat=True))

    async def check_writable(self) -> None:
        """Write something, unless something was written just now. Errors and cancellation as in ``write``."""
        raise NotImplementedError

    def copied(self) -> AbstractAsyncContextManager[Copy]:
        """Make one consistent copy of the database, and remove it after the block.

        Raises:
            Conflict: the database makes its own backups; it says how.
            Unavailable: no copy could be made.
        """
        raise NotImplementedError

    async def measure_clock(self) -> None:
        """Compare the clock of leases with the database's, which may have been set. Errors as in ``read``."""
        # Without a server, this process has the only clock.

    async def forget_replaced(self) -> None:
        """Overwrite values that were replaced earlier, such as old secrets, in the files, where supported."""

    async def compute(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a pure function that may take seconds returns, or raise what it raises.

        It runs in a thread, one at a time; with a database in memory at once, without one, so that virtual
        time works. Cancelled, the thread goes on, and the next call waits for it.
        """
        in_thread = partial(function, *args, **kwargs)
        return await trio.to_thread.run_sync(in_thread, limiter=self._computing, abandon_on_cancel=True)

    async def read(self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that runtimes or the state manager itself wait for, and return its result.

        The query must be short: it has no deadline. To cancel is safe: a query changes nothing.
        """
        self._check_open()
        return await self._readers.read(lambda view: query(view, *args, **kwargs))

    async def read_with_deadline(
        self, query: Callable[Concatenate[View, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a query that people wait for, a page or a search, and return its result.

        They do not delay ``read``, however many there are. In memory there is no difference.

        Raises:
            Refused: it took longer than 10 s, or waited that long for its turn.
        """
        self._check_open()
        return await self._readers.read_with_deadline(lambda view: query(view, *args, **kwargs))

    async def run(self) -> None:
        """Put the writes that are due without a caller. Never returns."""
        while True:
            with trio.CancelScope(deadline=self._next_at()) as self._sleep:
                await trio.sleep_forever()
            self._put_due()

    async def close(self) -> None:
        """Commit the writes in the queue, within the seconds of grace; then end."""
        raise NotImplementedError

    def _put(self, write: Write) -> None:
        """Have a write committed, and ``_deliver`` called. Returns at once."""
        raise NotImplementedError

    async def _settle(self, write: Write) -> Any:
        """Return the result of a write once it is committed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        self._check_open()
        self._put(write)
        return await self._result_of(write)

    async def _result_of(self, write: Write) -> Any:
        def abandon(_: Any) -> trio.lowlevel.Abort:
            write.abandoned = True
            self._forget(write)
            return trio.lowlevel.Abort.SUCCEEDED

        write.task = trio.lowlevel.current_task()
        return await trio.lowlevel.wait_task_rescheduled(abandon)

    def _forget(self, write: Write) -> None:
        """Let a write whose task was cancelled wait no longer, if it does."""

    def _next_at(self) -> float:
        """Return when ``_put_due`` has something to do next."""
        return self._retry_at

    def _arm_wakeup(self, at: float) -> None:
        """Let ``run`` sleep no longer than until ``at``."""
        if at < self._sleep.deadline:
            self._sleep.deadline = at

    def _put_due(self) -> None:
        if trio.current_time() >= self._retry_at:
            self._put_repeated()

    def _put_repeated(self) -> None:
        repeated, self._repeated, self._retry_at = self._repeated, [], math.inf
        for write in repeated:
            self._put(write)

    def _deliver(self, commit: Commit) -> None:
        """Give the writes of a commit their results, and let its effects happen."""
        if commit.error is not None:
            self._written_at = -math.inf
            self.unwritable = f"{commit.error.what}; {commit.error.fix}"
            self._log(commit.error)
        elif commit.changes:
            self.unwritable = ""
            self.written += commit.changes
            self._written_at = self._now()
            if self._is_outage:
                logger.info("the database can be written again")
                self._is_outage = False
        for each in (effects := commit.effects):
            if each.tally:
                self._tally.update(each.tally)
            if each.deliveries:
                self.on_deliveries()
            for level, line in each.lines:
                logger.log(level, "%s", line)
        for write in commit.writes:
            self._answer(write)
        if commit.writes:
            self.on_commit(0 if commit.error is not None else len(commit.writes), effects)
        # Not with each commit: for a commit of one use case, one row more is a cost.
        if self._tally and abs(self._now_ms() - self._tallied_at) >= TALLY_INTERVAL_MS:
            self._put_tally()

    def _log(self, error: DatabaseError) -> None:
        """Log why a commit failed; the same reason only after ``LOG_AGAIN``, whatever fails in between."""
        now = trio.current_time()
        self._logged = {what: at for what, at in self._logged.items() if now - at < LOG_AGAIN}
        if error.what not in self._logged:
            logger.error("%s; %s", error.what, error.fix)
            self._logged[error.what], self._is_outage = now, True

    def _answer(self, write: Write) -> None:
        assert write.result is not None
        error = write.result.error if isinstance(write.result, outcome.Error) else None
        is_unknown = isinstance(error, UnknownCommit)
        if self._tally_write is not None and write is self._tally_write[0]:
            counted, self._tally_write = self._tally_write[1], None
            # After an unknown commit, count too few rather than some twice.
            if error is not None and not is_unknown:
                self._tally.update(counted)
        elif write.repeat and error is not None:
            self._repeat(write, error)
        elif write.task is not None and not write.abandoned:
            trio.lowlevel.reschedule(write.task, write.result)
        # The task was cancelled while its use case ran, or cannot ask for the result again.
        is_lost = write.abandoned or (is_unknown and write.effects.undo_if_unknown)
        if is_lost and (error is None or is_unknown) and write.effects.undo is not None:
            self.write_later(write.effects.undo)

    def _repeat(self, write: Write, error: BaseException) -> None:
        """Try a write again later, unless it can never succeed."""
        if not isinstance(error, DatabaseError):
            logger.error("a use case without a caller failed and is not tried again", exc_info=error)
        elif self._closed:
            logger.error("a use case without a caller is abandoned: %s", error.what)
        else:
            self._repeated.append(Write(write.use_case, repeat=True))
            self._retry_at = min(self._retry_at, trio.current_time() + RETRY_AFTER)
            self._arm_wakeup(self._retry_at)

    def _put_tally(self) -> None:
        """Put a write of what was counted, unless one is under way."""
        if self._tally and self._tally_write is None:
            counted, self._tally, self._tallied_at = self._tally, Counter(), self._now_ms()

            def store(tx: Transaction) -> None:
                tallies.write(tx, counted)
                tx.virtual_times.write(tx, tx.skip_locked("turns"))

            write = Write(store)
            self._tally_write = write, counted
            self._put(write)

    def _give_up(self, writes: Iterable[Write], error: Callable[[], DatabaseError]) -> None:
        """Answer writes that are not committed any more, each with a separate error."""
        for write in writes:
            # One error each: tasks that raise the same object would overwrite its traceback.
            write.result = outcome.Error(error())
            if write.task is not None and not write.abandoned:
                trio.lowlevel.reschedule(write.task, write.result)

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Run as long as the block takes, then close. An error of the block is raised as it is."""
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.run)
            try:
                yield self
            except BaseException as raised:
                error = raised
            await self.close()
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error
