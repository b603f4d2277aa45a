"""Outcome -> link. The reporter delivers outcomes and releases, and repeats what may be repeated."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from exotrio._execution.error_text import bounded
from exotrio._link.port import Fate, Link, Settlement
from exotrio._nodes.outcome import Errored
from exotrio._runtime.ledger import HeldClaim, Ledger
from exotrio._runtime.outage import Outage
from exotrio._runtime.stop import Stop
from exotrio._util.backoff import OUTAGE, REFUSED

if TYPE_CHECKING:
    from exotrio._runtime.outbox import Outbox

log = logging.getLogger("exotrio.reporter")

LARGEST_BATCH = 100
"""Items of one request where the link can batch."""
OVERTAKING = 0.2
"""Seconds after which the next batch no longer waits for the one on its way, which may hang. Before, it
does: what finishes meanwhile goes along. Two at once, each half as large, cost a fifth of the throughput."""
PATIENCE = 8
"""Answers 500 in a row to one item, while others get through, after which it is the item's fault."""
FLUSH_DELAY = 0.5
"""Longest wait between tries, in seconds, while flushing."""


async def report(
    done: trio.MemoryReceiveChannel[HeldClaim],
    again: trio.MemorySendChannel[HeldClaim],
    *,
    link: Link,
    ledger: Ledger,
    stop: Stop,
    workers: int,
    outbox: Outbox | None = None,
) -> None:
    """Deliver what comes through ``done``. Closes both channel ends. Never returns unless cancelled.

    Args:
        done: States with their outcomes, or to be released.
        again: The other end of ``done``, for what has to be tried again.
        workers: Up to twice as many deliveries are in flight at once.
        outbox: Told before something is sent that must not be repeated.

    Cancellation:
        What is not delivered stays in the ledger; ``HeldClaim.in_flight`` tells whether its last try
        was cut off.
    """
    async with done, again, trio.open_nursery() as nursery:
        reporter = _Reporter(link, ledger, stop, again, nursery, outbox)
        for _ in range(2 * workers):
            nursery.start_soon(reporter.deliver, done.clone())


@dataclass(slots=True)
class _Reporter:
    link: Link
    ledger: Ledger
    stop: Stop
    again: trio.MemorySendChannel[HeldClaim]
    nursery: trio.Nursery
    outbox: Outbox | None
    first: trio.Lock = field(default_factory=trio.Lock)
    collecting: trio.Lock = field(default_factory=trio.Lock)
    outage: Outage = field(default_factory=lambda: Outage(log, "reporting"))

    async def deliver(self, done: trio.MemoryReceiveChannel[HeldClaim]) -> None:
        """Deliver one item or batch after the other."""
        async with done:
            while True:
                async with AsyncExitStack() as turn:
                    # One task waits for its turn with an item in its hands, and takes along what comes
                    # meanwhile. If all did, each batch would be what one of them held.
                    async with self.collecting:
                        try:
                            held = await done.receive()
                        except trio.EndOfChannel:
                            return
                        batch = [held]
                        if self.link.capabilities.batch and not held.alone:
                            await turn.enter_async_context(self._behind_the_first())
                            await self.ledger.moment()
                            if self.link.capabilities.batch:  # still: the server may have been replaced
                                batch += self._more(held, done)
                    await self._send(batch)

    @asynccontextmanager
    async def _behind_the_first(self) -> AsyncIterator[None]:
        """Be the one batch on its way, or one more if that one takes long."""
        with trio.move_on_after(OVERTAKING) as waiting:
            await self.first.acquire()
        try:
            yield
        finally:
            if not waiting.cancelled_caught:
                self.first.release()

    def _more(self, first: HeldClaim, done: trio.MemoryReceiveChannel[HeldClaim]) -> list[HeldClaim]:
        """Take what else is ready and goes to the same route."""
        more: list[HeldClaim] = []
        while len(more) < LARGEST_BATCH - 1:
            try:
                held = done.receive_nowait()
            except trio.WouldBlock:
                break
            if held.alone or (held.outcome is None) is not (first.outcome is None):
                self.again.send_nowait(held)
                break
            more.append(held)
        return more

    async def _send(self, batch: list[HeldClaim]) -> None:
        if risky := [held for held in batch if self._is_marked(held)]:
            assert self.outbox is not None, "what has an entry came through the outbox"
            if not await self.outbox.mark(risky):
                for held in risky:
                    self._later(held, Settlement(Fate.RETRY, "the outbox cannot be written"))
                batch = [held for held in batch if held not in risky]
        if batch:
            await self._send_marked(batch)

    async def _send_marked(self, batch: list[HeldClaim]) -> None:
        for held in batch:
            held.in_flight = True
        claims = [held.claim for held in batch]
        try:
            settlements = await self._ask(batch)
        except Exception as error:
            # A defect of the link, or content it cannot digest: neither may end the runtime.
            log.exception("sending %s failed", ", ".join(map(str, batch)))
            for held in batch:
                held.in_flight = False
                if len(batch) == 1:
                    self._refused(held, f"{type(error).__name__}: {error}")
                else:
                    held.alone = True
                    self.again.send_nowait(held)
            return
        for held, claim, settlement in zip(batch, claims, settlements, strict=True):
            held.in_flight = False
            if settlement.fate is Fate.DROPPED and held.claim is not claim:
                # It was no longer ours, and then claimed again: under that claim it may be taken.
                self.again.send_nowait(held)
            else:
                self._settled(held, settlement)

    async def _ask(self, batch: list[HeldClaim]) -> list[Settlement]:
        if batch[0].outcome is None:
            return await self.link.release([held.claim for held in batch])
        return await self.link.report([(held.claim, held.outcome) for held in batch if held.outcome])

    def _is_marked(self, held: HeldClaim) -> bool:
        """Whether the outbox has to know that it is about to be sent."""
        return held.unrepeatable and held.entry is not None

    def _settled(self, held: HeldClaim, settlement: Settlement) -> None:
        held.key_refused = settlement.fate is Fate.KEY_REFUSED
        match settlement.fate:
            case Fate.SETTLED:
                self.outage.worked()
                log.debug("%s: %s is delivered", held, held.what)
                self.ledger.settle(held)
            case Fate.DROPPED:
                log.warning("%s is no longer ours, its %s is dropped: %s", held, held.what, settlement.detail)
                self.ledger.drop(held)
            case Fate.UNKNOWN:
                log.error("%s: whether this arrived is unknown: %s", held, settlement.detail)
                self.ledger.lose(held)
            case Fate.REFUSED:
                self._refused(held, settlement.detail)
            case Fate.RETRY | Fate.KEY_REFUSED:
                if self._hopeless(held, settlement):
                    self._refused(held, f"{held.server_errors} times 500 in a row: {settlement.detail}")
                else:
                    self._later(held, settlement)

    def _hopeless(self, held: HeldClaim, settlement: Settlement) -> bool:
        """Whether the server fails at this item, and at nothing else."""
        if settlement.status != 500:
            held.server_errors = 0
            return False
        if held.server_errors == 0:
            held.answered_before = self.ledger.answered
        held.server_errors += 1
        return held.server_errors >= PATIENCE and self.ledger.answered > held.answered_before

    def _refused(self, held: HeldClaim, why: str) -> None:
        if held.outcome is None or isinstance(held.outcome, Errored):
            log.error("%s is abandoned, it stays claimed: it was refused: %s", held, why)
            self.ledger.abandon(held)
            return
        # The work was done, but nobody will ever take its result: say so, once, instead of nothing.
        log.error("%s: what it returned was refused, it is reported as an error: %s", held, why)
        held.outcome = Errored(bounded(f"the state manager refused what the node returned: {why}"))
        held.tries = held.server_errors = 0
        self.again.send_nowait(held)

    def _later(self, held: HeldClaim, settlement: Settlement) -> None:
        backoff, level = (REFUSED, logging.ERROR) if held.key_refused else (OUTAGE, logging.WARNING)
        delay = backoff.pause(held.tries, settlement.retry_after)
        held.tries += 1
        if self.outbox is not None and self._is_marked(held):
            self.outbox.unmark([held])
        self.outage.failed(settlement.detail or settlement.fate.value, delay, level=level)
        # Both how many fail and a refused key hold the poller back.
        self.ledger.notify()
        self.nursery.start_soon(self._try_again, held, delay)

    async def _try_again(self, held: HeldClaim, delay: float) -> None:
        if self.stop.flushing.is_set():
            await trio.sleep(min(delay, FLUSH_DELAY))
        else:
            with trio.move_on_after(delay):
                # The flush is the last chance: it does not wait for anybody's Retry-After.
                await self.stop.flushing.wait()
        self.again.send_nowait(held)
