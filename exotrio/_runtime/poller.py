"""The poller claims states, as many as the planner says, and decides when to claim again."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field

import trio

from exotrio._http.response import ResponseTooSlow
from exotrio._link.port import Claim, ClaimLost, Link, Room
from exotrio._runtime.held_claim import HeldClaim
from exotrio._runtime.ledger import Ledger, let_others_finish
from exotrio._runtime.options import Options
from exotrio._runtime.planner import BATCH_WAIT, ClaimPlanner
from exotrio._runtime.stop import Stop
from exotrio._shared.events import Polled
from exotrio._util.backoff import OUTAGE, REFUSED, Outage
from exotrio._wire.vocabulary import MAX_WAIT_MS, from_ms
from exotrio.errors import ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.poller")

MAX_WAIT = from_ms(MAX_WAIT_MS)
MAX_REPLAY_FAILURES = 8
"""How often the outcome of an earlier process may fail to be delivered until claims no longer wait for it."""
AFTER_OUTCOME = (0.02, 0.06, 0.15, 0.4)
"""Seconds after a delivered outcome at which a server without long polls is polled again. The stock server
creates next states in the background: they are not there yet when it responds to the outcome."""


async def poll(poller: Poller, *, replayed: Sequence[HeldClaim] = ()) -> None:
    """Claim states until a stop is requested. Closes the channel to the workers.

    ``replayed``, the outcomes of an earlier process, are delivered first: their states may be claimable
    again, and would be run a second time.

    Cancellation:
        The link settles the claim in flight.
    """
    planner, stop, ledger = poller.planner, poller.stop, poller.ledger

    def is_over(held: HeldClaim) -> bool:
        # Bounded: nothing else is delivered yet that would show whether the server fails with this alone.
        return held not in ledger or poller.failures(held) >= MAX_REPLAY_FAILURES

    async with planner.claimed:
        # A stop interrupts each wait, and a native claim, which the link settles. This scope ends with the
        # grace: only that cancels a v0 claim in flight.
        with stop.polling:
            with stop.interrupted():
                await ledger.until(lambda: all(map(is_over, replayed)))
            while not stop.requested:
                with stop.interrupted():
                    await ledger.until(planner.may_poll)
                    await let_others_finish()
                    await poller.wait_for_piggybacked_claim()
                if stop.requested:
                    break
                result = await poller.claim()
                with stop.interrupted():
                    await poller.pause(result)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """The result of one claim of the poller.

    Attributes:
        new: How many states it brought that were not held here before.
        waited: Seconds for which it was at a server where claims may wait.
        error: Why it failed.
    """

    room: Room
    new: int = 0
    waited: float = 0.0
    error: ManagerError | ClaimLost | None = None


@dataclass(slots=True, kw_only=True)
class Poller:
    """Claims, and pauses between claims.

    Attributes:
        failures: Returns how often the delivery of an outcome has failed.
    """

    planner: ClaimPlanner
    options: Options
    link: Link
    ledger: Ledger
    stop: Stop
    failures: Callable[[HeldClaim], int]
    _reported: int = 0
    """``Ledger.reported`` at the last claim."""
    _next_states_at: list[float] = field(default_factory=list)
    """When the states that follow the last outcome may be there, on a server without long polls."""
    _full_nodes: Set[str] = frozenset()
    """Nodes without room at the last claim."""
    _outage: Outage = field(default_factory=lambda: Outage(log, "claiming states"))

    async def wait_for_piggybacked_claim(self) -> None:
        """Wait while a report claims what fits, but not for long: it may hang."""
        with trio.move_on_after(BATCH_WAIT):
            while self.planner.poll_has_to_wait:
                await self.ledger.until(lambda: not self.planner.poll_has_to_wait)
                await let_others_finish()

    async def claim(self) -> ClaimResult:
        """Claim what fits and pass it to the workers."""
        planner, ledger = self.planner, self.ledger
        room = planner.for_poll()
        if not room.limits:
            # A report has reserved the room since ``may_poll``.
            return ClaimResult(room=room)
        self._full_nodes = self.options.nodes.keys() - room.limits.keys()
        sent_at, began = ledger.now(), trio.current_time()
        if ledger.reported != self._reported:
            self._reported = ledger.reported
            self._next_states_at = [began + delay for delay in AFTER_OUTCOME]
        ledger.claiming = True
        try:
            with planner.reserve(room):
                claims = await self._request(room)
        except (ManagerError, ClaimLost) as error:
            if isinstance(error, ResponseTooSlow) or (isinstance(error, ClaimLost) and error.too_slow):
                planner.shrink_limit(room.limit)
            return ClaimResult(room=room, error=error)
        finally:
            ledger.claiming = False
            ledger.notify()
        waited = trio.current_time() - began if self.link.is_native else 0.0
        # A state that is held here already does not show that more states wait.
        new = sum(not ledger.holds(claim) for claim in claims)
        planner.poll_waited, planner.poll_was_short = waited, new < room.limit
        planner.grow_limit(len(claims))
        planner.take(claims, sent_at, room.limit)
        return ClaimResult(room=room, new=new, waited=waited)

    async def pause(self, result: ClaimResult) -> None:
        """Wait until it makes sense to claim again."""
        if result.error is not None:
            pause = trio.CancelScope(deadline=trio.current_time() + self._backoff(result.error))
            in_outage = isinstance(result.error, ManagerUnavailable) and result.error.retry_after is None
            with self.ledger.pausing(pause) if in_outage else pause:
                await trio.sleep_forever()
            return
        if result.room.limits:
            self._outage.worked()
        seconds = self._max_pause(result)
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(seconds):
            await self.ledger.until(self._may_have_more)

    def _max_pause(self, result: ClaimResult) -> float:
        if result.new >= result.room.limit or (self.link.is_native and result.new):
            # There may be more. A long poll waits at the server, which responds once a state is created.
            return 0.0
        # A long poll has waited already; after one that came back empty at once there is a pause, too.
        seconds = max(0.0, self.options.poll_interval - result.waited)
        return seconds if self.link.is_native else min(seconds, self._until_next_states())

    def _may_have_more(self) -> bool:
        # A report may have made other states claimable.
        if self.ledger.reported != self._reported:
            return True
        return not self._full_nodes.isdisjoint(self.planner.for_poll().limits)

    def _backoff(self, error: ManagerError | ClaimLost) -> float:
        """Log a failed claim, and return the seconds until the next one."""
        level, backoff, result = logging.WARNING, OUTAGE, "failed"
        if isinstance(error, ManagerError) and not isinstance(error, ManagerUnavailable):
            # The server understood and refused; that will not change soon.
            level, backoff, result = logging.ERROR, REFUSED, "refused"
        at_least = error.retry_after if isinstance(error, ManagerUnavailable) else None
        seconds = backoff.pause(self._outage.failures, at_least)
        if self.ledger.events:
            self.ledger.events.emit(Polled(result))
        self._outage.failed(error, seconds, level=level)
        return seconds

    async def _request(self, room: Room) -> Sequence[Claim]:
        if self.link.is_native or self._outage.failures:
            # A stop interrupts it, since it may take long; the link settles the states that it brings.
            with self.stop.interrupted():
                return await self.link.claim(room.limits, room.limit, wait=self._max_wait())
            return ()
        # The server was there a moment ago, so a stop waits for its response: its states are then
        # released by the reporter, which tries longer than a cancelled link does.
        return await self.link.claim(room.limits, room.limit)

    def _until_next_states(self) -> float:
        """Return the seconds until the next of ``_next_states_at``; inf after the last one."""
        now = trio.current_time()
        while self._next_states_at:
            moment = self._next_states_at.pop(0)  # each once, also where the clock stands still
            if moment > now:
                return moment - now
        return math.inf

    def _max_wait(self) -> float:
        # Leases are counted from when the claim was sent: one that waited for long would bring states
        # whose leases are half over.
        if self._full_nodes:
            return 0.0  # a long poll for the others would not notice that there is room for these again
        ttl = self.ledger.ttl
        return MAX_WAIT if ttl is None else min(MAX_WAIT, ttl / 3)
