"""The reporter delivers outcomes and releases through the link, and repeats what may be repeated. See
``_runtime`` for the rules that hold."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from exotrio._link.port import Fate, Link, Settlement
from exotrio._nodes.outcome import Errored, Outcome, Released
from exotrio._runtime.failed_attempts import in_place_of, log_error, log_unreported_error
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.ledger import Ledger, let_others_finish
from exotrio._runtime.lifecycle import Ending
from exotrio._runtime.options import Options
from exotrio._runtime.planner import BATCH_WAIT, ClaimPlanner
from exotrio._runtime.server_errors import ItemFailures, ServerErrors
from exotrio._runtime.stop import Stop
from exotrio._util.backoff import OUTAGE, REFUSED, WITHIN_CALL, Outage

if TYPE_CHECKING:
    from exotrio._runtime.outbox import Outbox

log = logging.getLogger("exotrio.reporter")

MAX_BATCH = 100
"""Items of one request where the link can batch."""
RESPONSE_TIME = 0.2
"""What may be sent only once is not sent in the last seconds of a flush: no answer could come in time."""
STOP_DELAY = 0.25
"""Maximum seconds between two attempts of an item while flushing. If the server fails with this item, and not
with every one, as a probe shows, that applies from the request to stop on."""


@dataclass(slots=True, kw_only=True)
class Reporter:
    """Delivers outcomes and releases.

    Attributes:
        stop: Its flush is the last chance of a delivery.
        finished: The queue of states to be delivered: a channel with room for ``batch_size``.
        in_flight, sent_at, took: Number and times of requests, for the planner (``planner.Deliveries``).
    """

    link: Link
    ledger: Ledger
    stop: Stop
    options: Options
    finished: trio.MemorySendChannel[HeldClaim]
    outbox: Outbox | None = None
    _nursery: trio.Nursery = field(init=False)
    _planner: ClaimPlanner = field(init=False)
    _failed: dict[HeldClaim, ItemFailures] = field(default_factory=lambda: defaultdict(ItemFailures))
    _outage: Outage = field(default_factory=lambda: Outage(log, "reporting"))
    _server_errors: ServerErrors = field(default_factory=ServerErrors)
    in_flight: int = field(default=0, init=False)
    sent_at: float = field(default=-math.inf, init=False)
    took: float = field(default=0.0, init=False)
    _ended: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)
    _latest: trio.Event = field(default_factory=trio.Event)
    """Set when the last request that was begun is over."""
    _waits: bool = False
    """Whether the dispatcher waits for the queue, and nothing was put there."""

    def __post_init__(self) -> None:
        self.ledger.deliver = self.add

    # -- from the other tasks of the runtime

    async def put(self, held: HeldClaim) -> None:
        """Queue an outcome that was entered in the ledger; wait while the queue is full.

        Cancellation:
            The ledger still holds it.
        """
        if self._is_sent_at_once(held):
            self._begin([held])
        elif not self._queue(held):
            with suppress(trio.BrokenResourceError):  # as in ``_queue``
                await self.finished.send(held)

    def add(self, held: HeldClaim) -> None:
        """Queue an outcome or a release that was entered in the ledger, without waiting."""
        if not self._queue(held):
            self._nursery.start_soon(self.finished.send, held)

    def _queue(self, held: HeldClaim) -> bool:
        """Queue it; return whether there was room."""
        self._waits = False  # from now on, not only once its task runs
        try:
            self.finished.send_nowait(held)
        except trio.WouldBlock:
            return False
        except trio.BrokenResourceError:
            pass  # the dispatcher has failed: the shutdown writes off what the ledger holds
        return True

    def failures(self, held: HeldClaim) -> int:
        return self._failed[held].count if held in self._failed else 0

    @property
    def queued(self) -> int:
        """How many outcomes and releases wait to be sent."""
        statistics = self.finished.statistics()
        return statistics.current_buffer_used + statistics.tasks_waiting_send

    @property
    def failing(self) -> bool:
        """Whether a delivery failed, and is to be repeated."""
        return bool(self._failed)

    @property
    def stuck(self) -> str:
        """Why nothing is claimed while deliveries fail; empty if they do not. From any thread."""
        failures = list(self._failed.values())
        if any(each.key_refused for each in failures):
            return "the state manager refuses the key"
        failing = sum(each.count > 0 for each in failures)
        return f"{failing} deliveries fail and are being repeated" if failing > self.options.workers else ""

    def write_off(self) -> None:
        """Log and count all that is still held: the time for it is over."""
        for held in self.ledger.all(*Stage):
            self._end(held, self._log_undelivered(held))
        self.ledger.stuck.clear()

    def log_held(self) -> None:
        """Log all that is still held, as ``write_off``, but change nothing. From any thread."""
        for held in self.ledger.snapshot():
            self._log_undelivered(held)

    def _log_undelivered(self, held: HeldClaim) -> Ending:
        if held.forfeited and held.is_release:
            return held.forfeited_ending  # it has ended, and its slots are free when its lease ends
        if self.outbox is not None and self.outbox.keeps(held):
            log.warning("%s: its %s is in the outbox and is sent at the next start", held, held.report_name)
            return Ending.KEPT
        if held.in_flight:
            log.error("%s: whether its %s arrived is unknown: no answer came in time", held, held.report_name)
            return Ending.UNKNOWN
        log.error("%s is abandoned, it stays claimed: no time was left for its %s", held, held.report_name)
        return Ending.ABANDONED

    # -- the dispatcher

    async def dispatch(
        self,
        finished: trio.MemoryReceiveChannel[HeldClaim],
        planner: ClaimPlanner,
        replayed: Sequence[HeldClaim] = (),
    ) -> None:
        """Deliver the queue, and claim with it as the planner says. Never returns unless cancelled.

        Closes ``finished``. ``replayed``, the outcomes of an earlier process, are queued first.

        Cancellation:
            What is not delivered stays in the ledger; ``HeldClaim.in_flight``: an attempt was cancelled.
        """
        self._planner = planner
        self._latest.set()
        async with finished, trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._queue_all, replayed)
            self._waits = True
            try:
                async for first in finished:
                    self._waits = False
                    await self._gather(first)
                    self._begin(self._take_batch(first, finished))
                    self._waits = True
            finally:
                self._waits = False

    async def _gather(self, first: HeldClaim) -> None:
        """Wait until a request for this one may begin, and while more outcomes come that can share it."""
        while self.in_flight >= 2 * self.options.workers:
            await self._ended.park()
        if self._can_batch(first):
            # Race: more outcomes may be queued while the last request is under way. They share the next one.
            if not self._latest.is_set():
                with trio.move_on_after(BATCH_WAIT):
                    await self._latest.wait()
            if self.ledger.count(Stage.BUFFERED, Stage.RUNNING):
                await let_others_finish()

    def _is_sent_at_once(self, held: HeldClaim) -> bool:
        """Whether nothing could share its request, as in a chain: then it takes no step of the dispatcher."""
        alone = self._waits and not self.in_flight
        return alone and self._can_batch(held) and not self.ledger.count(Stage.BUFFERED, Stage.RUNNING)

    def _begin(self, batch: list[HeldClaim]) -> None:
        self._latest = trio.Event()
        self.in_flight, self.sent_at = self.in_flight + 1, trio.current_time()
        self._nursery.start_soon(self._deliver, batch, self._latest)

    async def _queue_all(self, replayed: Sequence[HeldClaim]) -> None:
        for held in replayed:
            await self.put(held)

    def _take_batch(
        self, first: HeldClaim, finished: trio.MemoryReceiveChannel[HeldClaim]
    ) -> list[HeldClaim]:
        """Take all from the queue that fits into one request with ``first``."""
        batch, others = [first], list[HeldClaim]()
        if self._can_batch(first):
            with suppress(trio.WouldBlock):
                while len(batch) < MAX_BATCH:
                    held = finished.receive_nowait()
                    # Outcomes and releases go to different routes: one request for each of them, in turn,
                    # could take longer than a flush.
                    fits = self._can_batch(held) and held.is_release is first.is_release
                    (batch if fits else others).append(held)
            for held in others:
                self.add(held)
        return batch

    def _can_batch(self, held: HeldClaim) -> bool:
        # Checked for each batch: the server may have been replaced by one of another kind.
        alone = held in self._failed and self._failed[held].alone
        return self.link.is_native and not alone

    # -- one delivery

    async def _deliver(self, batch: list[HeldClaim], over: trio.Event) -> None:
        began = trio.current_time()
        moment = self._server_errors.begin()
        try:
            if batch := await self._marked(batch):
                await self._send(batch, moment)
        finally:
            self.in_flight -= 1
            self.took = trio.current_time() - began
            over.set()
            self._ended.unpark()

    async def _marked(self, batch: list[HeldClaim]) -> list[HeldClaim]:
        """Mark in the outbox what must not be sent twice; return what may be sent now."""
        if self.outbox is None or not (risky := [held for held in batch if self.outbox.must_mark(held)]):
            return batch
        # Race: the flush may end before the mark is written, or before an answer comes. Then these are left
        # unmarked to the next process, which sends them.
        if self._leaves_time_for_response():
            if not await self.outbox.mark(risky):
                for held in risky:
                    self._repeat_later(held, Settlement(Fate.RETRY, "the outbox cannot be written"))
            elif self._leaves_time_for_response():
                return batch
            else:
                self.outbox.unmark(risky)
        return [held for held in batch if held not in risky]

    def _leaves_time_for_response(self) -> bool:
        # Without an answer before the end of the flush, what may be sent only once would be lost.
        return trio.current_time() < self.stop.flush_end - RESPONSE_TIME

    async def _send(self, batch: list[HeldClaim], moment: int) -> None:
        # Race: the state, or another one with its id, was claimed again while this one waited. Without a
        # token this would be taken for the report of that one.
        for held in filter(self.ledger.is_replaced, batch[:]):
            log.warning("dropping the %s of %s: a new claim has its id", held.report_name, held)
            self._end(held, Ending.DROPPED)
            batch.remove(held)
        if not batch:
            return
        for held in batch:
            held.in_flight = True
        claims = [held.claim for held in batch]
        try:
            settlements = await self._request(batch)
        except Exception as error:
            # A defect of the link, or content it cannot send: neither may end the runtime.
            log.exception("sending %s failed", ", ".join(map(str, batch)))
            for held in batch:
                held.in_flight = False
                if len(batch) == 1:
                    self._refused(held, f"{type(error).__name__}: {error}")
                else:
                    self._failed[held].alone = True
                    self.add(held)
            return
        for held, claim, settlement in zip(batch, claims, settlements, strict=True):
            held.in_flight = False
            if settlement.fate is Fate.DROPPED and held.claim is not claim:
                # Race: the lease was lost, and the state was claimed again while the request was under way:
                # under that claim it may be accepted.
                self.add(held)
            else:
                self._settled(held, settlement, moment)

    async def _request(self, batch: list[HeldClaim]) -> list[Settlement]:
        planner = self._planner
        room = None if batch[0].is_release else planner.for_report()
        if room is None:
            return await self.link.report([(held.claim, held.report) for held in batch if held.report])
        items = [(held.claim, held.report) for held in batch if isinstance(held.report, Outcome)]
        sent_at = self.ledger.now()
        with planner.reserve(room):
            exchanged = await self.link.exchange(items, room)
            if exchanged.claims:
                planner.take(exchanged.claims, sent_at, room.limit)
        if exchanged.too_slow:
            planner.shrink_limit(room.limit)
        elif exchanged.claims:
            planner.grow_limit(len(exchanged.claims))
        return exchanged.settlements

    def _settled(self, held: HeldClaim, settlement: Settlement, moment: int) -> None:
        # Also of one that is dropped: its run may have been cancelled before its outcome arrived.
        keeps_slots = settlement.after_error is not None and settlement.after_error.release
        match settlement.fate:
            case Fate.SETTLED:
                self._outage.worked()
                if isinstance(held.report, Errored):
                    log_error(held, held.report, settlement.after_error)
                elif log.isEnabledFor(logging.DEBUG):
                    log.debug("%s: %s is delivered", held, held.report_name)
                self._server_errors.passed(moment, self._failed.values())
                self._end(held, held.delivered_ending, keeps_slots=keeps_slots)
            case Fate.DROPPED:
                why = f"it is no longer claimed by this runtime: {settlement.detail}"
                log.warning("dropping the %s of %s: %s", held.report_name, held, why)
                self._server_errors.passed(moment, self._failed.values())
                self._end(held, Ending.DROPPED, keeps_slots=keeps_slots)
            case Fate.UNKNOWN:
                unknown = "%s: whether its %s arrived is unknown: %s"
                log.error(unknown, held, held.report_name, settlement.detail)
                self._end(held, Ending.UNKNOWN)
            case Fate.REFUSED:
                self._refused(held, settlement.detail)
            case Fate.FAILED:
                if self._server_errors.count_server_error(self._failed[held]):
                    times = self._failed[held].server_errors
                    self._refused(held, f"{times} times 500 while other requests worked: {settlement.detail}")
                else:
                    self._repeat_later(held, settlement)
            case Fate.RETRY | Fate.KEY_REFUSED:
                self._server_errors.failed(self._failed[held])
                self._repeat_later(held, settlement)

    def _end(self, held: HeldClaim, ending: Ending, *, keeps_slots: bool = False) -> None:
        self._failed.pop(held, None)
        if self.outbox is not None and ending is not Ending.KEPT:
            self.outbox.forget(held)
        self.ledger.end(held, ending, keeps_slots=keeps_slots)

    # -- failures

    def _refused(self, held: HeldClaim, why: str) -> None:
        report = held.report
        if isinstance(report, Released) or held.was_refused:
            refused = "%s is abandoned, it stays claimed: its %s was refused: %s"
            log.error(refused, held, held.report_name, why)
            self._end(held, Ending.ABANDONED)
            return
        # The work was done, but its result will never be accepted: report that, once.
        log.error("%s: its outcome was refused and is reported as an error instead: %s", held, why)
        held.report, held.was_refused = in_place_of(report, why), True
        self._failed.pop(held, None)
        self.add(held)

    def _repeat_later(self, held: HeldClaim, settlement: Settlement) -> None:
        failures = self._failed[held]
        failures.key_refused = settlement.fate is Fate.KEY_REFUSED
        # An item with which the server fails is settled soon, or it would take all the time of a stop.
        no_backoff = self.stop.arrived if settlement.fate is Fate.FAILED else self.stop.flushing
        # A stop has only seconds, and may have to use the few in which the state manager answers.
        outage = WITHIN_CALL if self.stop.arrived.is_set() else OUTAGE
        backoff, level = (REFUSED, logging.ERROR) if failures.key_refused else (outage, logging.WARNING)
        delay = backoff.pause(failures.count, settlement.retry_after)
        if failures.count == 0 and isinstance(held.report, Errored):
            log_unreported_error(held, held.report)
        failures.count += 1
        if self.outbox is not None and self.outbox.must_mark(held):
            self.outbox.unmark([held])
        self._outage.failed(settlement.detail or settlement.fate.value, delay, level=level)
        self.ledger.notify()  # the poller claims less, or nothing
        in_outage = settlement.fate is Fate.RETRY and settlement.retry_after is None
        pause = failures.new_pause(delay, may_end_early=in_outage)
        self._nursery.start_soon(self._repeat, held, pause, in_outage, no_backoff)

    async def _repeat(
        self, held: HeldClaim, pause: trio.CancelScope, in_outage: bool, no_backoff: trio.Event
    ) -> None:
        with self.ledger.pausing(pause) if in_outage else pause:
            if no_backoff.is_set():
                await trio.sleep(STOP_DELAY)
            else:
                # The flush is the last chance: it does not wait for a Retry-After.
                await no_backoff.wait()
        failure = await self._server_errors.failure_of_all(self._failed[held], self.link.probe)
        if failure is None:
            self.add(held)
        else:
            self._repeat_later(held, failure)
