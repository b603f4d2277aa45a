"""The poller claims states, as many as the planner says, and passes them to the workers."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import trio

from exotrio._http.response import ResponseTooSlow
from exotrio._link.port import Claim, ClaimLost, Link, Wanted
from exotrio._runtime.intake import Intake
from exotrio._runtime.ledger import HeldClaim, Ledger, let_others_finish
from exotrio._runtime.options import Options
from exotrio._runtime.planner import BATCH_WAIT, ClaimPlanner
from exotrio._runtime.reporter import Reporter
from exotrio._runtime.stop import Stop
from exotrio._shared.events import Polled
from exotrio._util.backoff import OUTAGE, REFUSED, Outage
from exotrio._wire.vocabulary import MAX_WAIT_MS, from_ms
from exotrio.errors import ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.poller")

MAX_WAIT = from_ms(MAX_WAIT_MS)
MAX_REPLAY_FAILURES = 8
"""Failed deliveries of an outcome of an earlier process, after which claims no longer wait for it."""
AFTER_OUTCOME = (0.02, 0.06, 0.15, 0.4)
"""Seconds after a delivered outcome at which a server without long polls is polled again. The stock server
creates next states in the background: they are not there yet when it responds to the outcome."""


async def poll(poller: Poller, *, replayed: Sequence[HeldClaim] = ()) -> None:
    """Claim states until a stop is requested. Closes the channel to the workers.

    ``replayed``, the outcomes of an earlier process, are delivered first: their states may be claimable
    again, and would be run a second time.

    Cancellation:
        Settles the claim in flight, as the link does it.
    """
    stop, ledger = poller.stop, poller.ledger

    def is_over(held: HeldClaim) -> bool:
        # Bounded: that the server fails with this outcome only shows once others get through.
        return held not in ledger or poller.reporter.failures(held) >= MAX_REPLAY_FAILURES

    async with poller.intake.claimed:
        # The outer scope ends with the grace: only that cancels a v0 claim in flight.
        with stop.polling:
            with stop.interrupted():
                await ledger.until(lambda: all(map(is_over, replayed)))
            while not stop.requested:
                with stop.interrupted():
                    await ledger.until(poller.planner.may_poll)
                    await let_others_finish()
                    await poller.wait_for_piggybacked_claim()
                if stop.requested:
                    break
                pause = await poller.claim()
                with stop.interrupted():
                    await poller.pause(pause)


@dataclass(frozen=True, slots=True)
class Pause:
    """How long to wait after a claim.

    Attributes:
        seconds: At most.
        ends_early: A report, or room for nodes that were left out, ends it: more may be claimable.
    """

    seconds: float
    ends_early: bool


@dataclass(slots=True, kw_only=True)
class Poller:
    """Claims, and decides when to claim again.

    Attributes:
        reporter: Releases what came too late to be run, and what was not requested.
    """

    planner: ClaimPlanner
    intake: Intake
    options: Options
    link: Link
    ledger: Ledger
    stop: Stop
    reporter: Reporter
    _reported: int = 0
    """``Ledger.reported`` at the last claim."""
    _next_states_at: list[float] = field(default_factory=list)
    """When what follows the last outcome may be there, on a server without long polls."""
    _left_out: Set[str] = frozenset()
    """Nodes without room at the last claim."""
    _outage: Outage = field(default_factory=lambda: Outage(log, "claiming states"))

    async def wait_for_piggybacked_claim(self) -> None:
        """Wait while a report claims what fits, but not for long: it may hang."""
        with trio.move_on_after(BATCH_WAIT):
            while self.planner.poll_has_to_wait:
                await self.ledger.until(lambda: not self.planner.poll_has_to_wait)
                await let_others_finish()

    async def claim(self) -> Pause:
        """Claim what fits and pass it to the workers. Return how long to wait then."""
        wanted = self.planner.for_poll()
        if not wanted.limits:
            # A report has reserved the rest since ``may_poll``.
            return Pause(0.0, ends_early=True)
        self._left_out = self.options.nodes.keys() - wanted.limits.keys()
        sent_at, began = self.ledger.now(), trio.current_time()
        if self.ledger.reported != self._reported:
            self._reported = self.ledger.reported
            self._next_states_at = [began + delay for delay in AFTER_OUTCOME]
        self.ledger.claiming = True
        try:
            with self.planner.reserve(wanted):
                claims = await self._request(wanted)
        except (ManagerError, ClaimLost) as error:
            return self._failed(error, wanted.limit)
        finally:
            self.ledger.claiming = False
            self.ledger.notify()
        self._outage.worked()
        waited = trio.current_time() - began if self.link.is_native else 0.0
        # A claim that repeats a state which is held here does not show that there are more.
        new = sum(not self.ledger.holds(claim) for claim in claims)
        self.planner.poll_waited, self.planner.poll_was_short = waited, new < wanted.limit
        self.planner.grow_limit(len(claims))
        for held in self.intake.take(claims, sent_at, wanted.limit):
            self.reporter.release(held)
        if new >= wanted.limit or (self.link.is_native and new):
            # A long poll waits at the server, which responds once a state is created.
            return Pause(0.0, ends_early=True)
        # A long poll has waited already; after one that came back empty at once there is a pause, too.
        seconds = max(0.0, self.options.poll_interval - waited)
        if not self.link.is_native:
            seconds = min(seconds, self._until_next_states())
        return Pause(seconds, ends_early=True)

    async def _request(self, wanted: Wanted) -> Sequence[Claim]:
        if self.link.is_native or self._outage.failures:
            # A stop interrupts it: it may take long, and the link settles what it brings all the same.
            with self.stop.interrupted():
                return await self.link.claim(wanted.limits, wanted.limit, wait=self._max_wait())
            return ()
        # The server was there a moment ago, so a stop waits for its response: what that brings is then
        # released by the reporter, which tries longer than a cancelled link does.
        return await self.link.claim(wanted.limits, wanted.limit)

    def _until_next_states(self) -> float:
        """Return the seconds until what follows the last outcome may be there; inf after the last time."""
        now = trio.current_time()
        while self._next_states_at:
            moment = self._next_states_at.pop(0)  # each once, also where the clock stands still
            if moment > now:
                return moment - now
        return math.inf

    async def pause(self, pause: Pause) -> None:
        """Wait until it makes sense to claim again."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(pause.seconds):
            if pause.ends_early:
                await self.ledger.until(self._may_have_more)
            else:
                await trio.sleep_forever()

    def _may_have_more(self) -> bool:
        # A report may have made other states claimable.
        if self.ledger.reported != self._reported:
            return True
        return not self._left_out.isdisjoint(self.planner.for_poll().limits)

    def _failed(self, error: ManagerError | ClaimLost, limit: int) -> Pause:
        level, backoff, result = logging.WARNING, OUTAGE, "failed"
        if isinstance(error, ManagerError) and not isinstance(error, ManagerUnavailable):
            # The server understood and refused; that will not change soon.
            level, backoff, result = logging.ERROR, REFUSED, "refused"
        at_least = error.retry_after if isinstance(error, ManagerUnavailable) else None
        seconds = backoff.pause(self._outage.failures, at_least)
        if isinstance(error, ResponseTooSlow) or (isinstance(error, ClaimLost) and error.too_slow):
            self.planner.shrink_limit(limit)
        if self.ledger.events:
            self.ledger.events.emit(Polled(result))
        self._outage.failed(error, seconds, level=level)
        return Pause(seconds, ends_early=False)

    def _max_wait(self) -> float:
        # Leases are counted from when the claim was sent: one that waited for long would bring states
        # whose leases are half over.
        if self._left_out:
            return 0.0  # a long poll for the others would not notice that there is room for these again
        ttl = self.ledger.ttl
        return MAX_WAIT if ttl is None else min(MAX_WAIT, ttl / 3)
