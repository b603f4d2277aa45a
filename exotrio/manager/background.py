"""What a state manager does without a request: end leases, trigger schedules, delete finished runs.

Each is a loop around use cases of ``engine`` that never returns. While the database fails, a loop logs that
and tries again.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio

from exotrio._util.words import plural
from exotrio._wire.vocabulary import from_ms
from exotrio.errors import ConfigurationError, DatabaseError, DatabaseTooNew
from exotrio.manager.engine import managers
from exotrio.manager.engine.alerts import start_alerts
from exotrio.manager.engine.child_cancellation import cancel_children
from exotrio.manager.engine.children import deliver_ends, start_children
from exotrio.manager.engine.due_work import MAX_PER_STEP, Step, about, due_work
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.portions import go_on
from exotrio.manager.engine.retention import clear, discard, drop_templates, trim_records
from exotrio.manager.engine.schedules import due_in_ms, fire_schedules
from exotrio.manager.engine.sending import handle_waits
from exotrio.manager.store.base import Store
from exotrio.manager.store.cipher import Cipher
from exotrio.manager.store.clock import Clock
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.errors import NotCommitted, log_level
from exotrio.manager.store.opening import write_at_start
from exotrio.manager.store.shared_keys import SILENT_AFTER_MS
from exotrio.manager.store.transaction import Transaction

logger = logging.getLogger("exotrio.manager")

MAX_SLEEP = 60.0
"""Seconds. A sleep does not end earlier if the wall clock is set meanwhile."""
MIN_SLEEP = 0.5
"""Seconds until a state manager checks again that another one triggered what was due."""
RETRY_AFTER = 5.0
"""Seconds after which schedules are read again when the database failed."""
RETRY_FAILED_AFTER = 60.0
"""Seconds after which something due that failed is tried again."""
MAX_FAILED = 1_000
"""What failed and is left out, of one step. The step does nothing more until some of it is tried again."""
MAX_DELETED = 500
"""Runs that one transaction deletes."""
DELETE_PAUSE = 0.02
"""Seconds between two transactions that delete, so that others can write."""
MAX_DELETE_INTERVAL = 600.0
MIN_DELETE_INTERVAL = 1.0
JOIN_TIMEOUT = from_ms(SILENT_AFTER_MS) + 5
JOIN_INTERVAL = 1.0

Handles = (
    Callable[[Transaction, Sequence[int]], WithEffects[int]] | Callable[[Transaction, Sequence[int]], int]
)
"""A use case that handles something due, and returns how much of it it did."""


async def sweep(store: Store, manager: str, clock: Clock, terms: Terms) -> None:
    """End overdue leases again and again; say if other work is due (``Deliveries``). Never returns."""
    # When the last committed sweep began: while the database fails or is slow, no heartbeat renews a lease.
    last = clock()
    while True:
        await trio.sleep(terms.sweep_interval)
        try:
            now, swept = await _sweep_once(store, manager, clock, terms, last)
            last, ended = now, swept.ended
            # On a shared database others may have written in the old time meanwhile; the next sweep handles
            # it.
            if swept.late_ms and not store.is_shared:
                ended = await store.write(expire, clock(), terms)
        except DatabaseError as error:
            logger.log(log_level(error), "leases could not be checked: %s", error.what)
            continue
        _log_sweep(swept.late_ms, ended, logging.WARNING, is_shared=store.is_shared)
        # Not in the transaction of the sweep: that locks states, and this locks runs before states.
        if swept.has_work:
            store.on_deliveries()


async def sweep_at_start(store: Store, manager: str, clock: Clock, terms: Terms) -> None:
    """Extend what runtimes hold on a shared database by the time in which perhaps no state manager ran,
    before the first claim."""
    _, swept = await write_at_start(store, lambda: _sweep_once(store, manager, clock, terms, clock()))
    _log_sweep(swept.late_ms, swept.ended, logging.INFO, is_shared=True)


async def _sweep_once(
    store: Store, manager: str, clock: Clock, terms: Terms, last: int
) -> tuple[int, managers.Swept]:
    seen = await store.read(managers.last_sweep) if store.is_shared else None
    # If two state managers used different times, each would see the sweep of the other as a clock that was
    # set.
    await store.measure_clock()
    now = clock()
    last_here = None if store.is_shared else last
    return now, await store.write(managers.sweep, manager, now, terms, last_here, seen)


def _log_sweep(late_ms: int, ended: int, level: int, *, is_shared: bool) -> None:
    if late_ms < 0:
        logger.warning(
            "the clock of the database was set back by %.1f s; no lease ends early by it",
            -late_ms / 1000,
        )
    elif late_ms:
        why = "this process or its event loop did not run, or the database failed or was slow"
        if is_shared:
            why = "no state manager ran, its database was away, or that one's clock was set"
        text = "leases were not checked for %.1f s: %s; they are extended by it"
        logger.log(level, text, late_ms / 1000, why)
    if ended:
        logger.warning("%s ended without an outcome", plural(ended, "lease"))


async def join(store: Store, manager: str, clock: Clock, cipher: Cipher) -> None:
    """Enter among the state managers on a shared database.

    A state manager that was killed a moment ago counts as alive for half a minute; this waits until that
    ends.

    Raises:
        ConfigurationError: the keys for secrets do not fit those of another one (``store.shared_keys``).
    """
    deadline = trio.current_time() + JOIN_TIMEOUT
    is_logged = False
    while (
        conflict := await write_at_start(
            store, lambda: store.write(managers.enter_if_fit, manager, clock(), cipher)
        )
    ) is not None:
        if trio.current_time() >= deadline:
            raise ConfigurationError(
                f"the keys for secrets of this state manager do not fit: {conflict.what}",
                where=f"it has {', '.join(cipher.key_ids)}, by {cipher.source}",
                fix=conflict.fix,
            )
        if not is_logged:
            logger.warning("waiting for %.0f s, perhaps that one ends: %s", JOIN_TIMEOUT, conflict.what)
            is_logged = True
        await trio.sleep(JOIN_INTERVAL)


async def stay(store: Store, manager: str, clock: Clock, keys: Sequence[str]) -> None:
    """Tell other state managers on the same database that this one is there. Never returns.

    Raises:
        DatabaseTooNew: this one was silent for so long that a newer exotrio changed the database.
    """
    epoch: str | None = None
    ends = threading.Event()
    try:
        while True:
            try:
                epoch = await store.write(managers.stay, manager, clock(), keys, epoch, ends=ends)
            except DatabaseTooNew:
                raise
            except DatabaseError as error:
                logger.log(
                    log_level(error), "other state managers could not be told of this one: %s", error.what
                )
            await trio.sleep(managers.SEEN_INTERVAL)
    finally:
        ends.set()


class DueWork:
    """Handles what is due (``engine.due_work``), by some steps. If one run cannot be handled, others are."""

    def __init__(
        self, store: Store, steps: Mapping[Step, Handles], *, limit: int = MAX_PER_STEP, keep_ms: int = 0
    ) -> None:
        self._store = store
        self._steps = steps
        self._limit = limit
        self._keep_ms = keep_ms
        self._failed: dict[Step, dict[int, float]] = {step: {} for step in steps}
        """When each that failed is tried again."""

    async def handle(self) -> int:
        """Do some of what is due, by turns, and return how much."""
        now = trio.current_time()
        for step, failed in self._failed.items():
            self._failed[step] = {number: until for number, until in failed.items() if until > now}
        limit = self._limit + max(map(len, self._failed.values()))
        due = await self._store.read(due_work, tuple(self._steps), limit, self._keep_ms)
        done, refusal = 0, None
        for step, numbers in due.items():
            failed = self._failed[step]
            left = [number for number in numbers if number not in failed]
            left = left[: min(self._limit, MAX_FAILED - len(failed))]
            try:
                done += await self._handle(step, left) if left else 0
            except DatabaseError as error:
                # Another transaction may lock a run for long: the other steps do not wait for that.
                refusal = error
        if refusal is not None and not done:
            raise refusal
        return done

    async def _handle(self, step: Step, numbers: Sequence[int]) -> int:
        try:
            return await self._store.write(self._steps[step], numbers)
        except NotCommitted:
            raise  # others could not be written either
        except Exception as error:
            if (half := len(numbers) // 2) > 0:
                return sum([await self._handle(step, each) for each in (numbers[:half], numbers[half:])])
            failed = self._failed[step]
            failed[numbers[0]] = trio.current_time() + RETRY_FAILED_AFTER
            what = await self._store.read(about, step, numbers[0])
            others = "others go on" if len(failed) < MAX_FAILED else "others wait, since too many failed"
            logger.error(
                "%s: the step %r failed, %s; it is tried again after %.0f s, report this: %r",
                *(what, step.value, others, RETRY_FAILED_AFTER, error),
                exc_info=error,
            )
            return 0


class Task:
    """Something that is done again and again."""

    def __init__(self) -> None:
        self._notified = trio.Event()

    def notify(self) -> None:
        """Do at once what is due, since something changed."""
        self._notified.set()

    async def run(self) -> None:
        """Do what is due again and again. Never returns."""
        while True:
            self._notified = trio.Event()
            with trio.move_on_after(await self._do()):
                await self._notified.wait()

    async def _do(self) -> float:
        """Do what is due, and return after how many seconds to do it again."""
        raise NotImplementedError


class Deliveries(Task):
    """The task that starts, delivers and cancels the runs for which states wait (``engine.children``), starts
    those that follow failed ones (``engine.alerts``), goes on with changes of large runs
    (``engine.portions``), and ends overdue waits for events (``engine.sending``)."""

    def __init__(self, store: Store, cipher: Cipher) -> None:
        super().__init__()
        steps: dict[Step, Handles] = {
            Step.ALERT: start_alerts,
            Step.CANCEL: cancel_children,
            Step.DELIVER: deliver_ends,
            Step.GO_ON: go_on,
            Step.START: partial(start_children, cipher=cipher),
            Step.WAIT: handle_waits,
        }
        self._due = DueWork(store, steps)
        store.on_deliveries = self.notify

    async def _do(self) -> float:
        try:
            while await self._due.handle():
                pass
        except DatabaseError as error:
            what = "runs could not be started, states moved, or waits for events ended"
            logger.log(log_level(error), "%s: %s", what, error.what)
        # After an error, the next sweep says so again.
        return math.inf


class Scheduler(Task):
    """The task that triggers graphs by their schedules. Notify it when these change."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    async def _do(self) -> float:
        try:
            await self._store.measure_clock()
            for line in await self._store.write(fire_schedules):
                logger.info("%s", line)
            due_in = await self._store.read(due_in_ms)
        except DatabaseError as error:
            logger.log(log_level(error), "schedules could not be read: %s", error.what)
            return RETRY_AFTER
        sleep = math.inf if due_in is None else min(MAX_SLEEP, from_ms(due_in))
        # Another state manager may be triggering the due graphs at this moment.
        return max(MIN_SLEEP, min(MAX_SLEEP, sleep)) if self._store.is_shared else sleep


class Retention(Task):
    """The task that deletes runs once they have been finished for longer than ``keep_ms``; None keeps them.

    It also deletes what belonged to deleted runs, also to those that an earlier process deleted. Notify it
    when runs were deleted.
    """

    def __init__(self, store: Store, keep_ms: int | None) -> None:
        super().__init__()
        self._store = store
        self.keep_ms = keep_ms
        self._clear = DueWork(store, {Step.CLEAR: clear}, limit=MAX_DELETED)
        keep_ms = keep_ms or 0
        of_old: dict[Step, Handles] = {Step.DISCARD: partial(discard, keep_ms=keep_ms)}
        self._discard = DueWork(store, of_old, limit=MAX_DELETED, keep_ms=keep_ms)

    async def _do(self) -> float:
        store, keep_ms = self._store, self.keep_ms
        try:
            deleted = 0 if keep_ms is None else await _run_to_end(self._discard.handle)
            await _run_to_end(self._clear.handle)
            trimmed = await _run_to_end(partial(store.write, trim_records, keep_ms))
            if trimmed:
                logger.info("%s of the record of changes deleted", plural(trimmed, "row"))
            if keep_ms is not None:
                await _run_to_end(partial(store.write, drop_templates))
        except DatabaseError as error:
            logger.log(log_level(error), "finished runs could not be deleted: %s", error.what)
        else:
            if deleted:
                logger.info("%s deleted", plural(deleted, "finished run"))
        if keep_ms is None:
            return MAX_DELETE_INTERVAL
        return max(MIN_DELETE_INTERVAL, min(MAX_DELETE_INTERVAL, from_ms(keep_ms) / 10))


async def _run_to_end(step: Callable[[], Awaitable[int]]) -> int:
    """Run a step until it does nothing more; return the sum of what it returned."""
    total = 0
    while done := await step():
        total += done
        await trio.sleep(DELETE_PAUSE)
    return total


@asynccontextmanager
async def in_background(*tasks: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run tasks until the body ends. An error of the body is raised as it is, not in a group."""
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
        try:
            yield
        except BaseException as raised:
            error = raised
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error
