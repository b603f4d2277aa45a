"""The poller claims states, as many as there is room for, and passes them to the workers."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence, Set
from dataclasses import dataclass, field

import trio

from exotrio._http.response import ResponseTooSlow
from exotrio._link.port import Claim, ClaimLost, Link, Wanted
from exotrio._runtime.intake import Intake
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage, let_others_finish
from exotrio._runtime.options import Options
from exotrio._runtime.reporter import OVERTAKING, QUICK, Reporter
from exotrio._runtime.stop import Stop
from exotrio._util.backoff import OUTAGE, REFUSED
from exotrio._util.events import Polled
from exotrio._util.outage import Outage
from exotrio._wire.vocabulary import MAX_WAIT_MS, from_ms
from exotrio.errors import ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.poller")

MAX_WAIT = from_ms(MAX_WAIT_MS)
PATIENCE = 8
"""Failed deliveries of an outcome of an earlier process for which claims wait."""
AFTER_OUTCOME = (0.02, 0.06, 0.15, 0.4)
"""Seconds after a delivered outcome at which a server without long polls is asked again. The stock server
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
        # Not for ever: an outcome that the server fails at is only found out while others get through.
        return held not in ledger or poller.reporter.failures(held) >= PATIENCE

    async with poller.intake.claimed:
        # The outer scope ends with the grace: only that cancels a v0 claim in flight.
        with stop.polling:
            with stop.interrupted():
                await ledger.until(lambda: all(map(is_over, replayed)))
            while not stop.requested:
                with stop.interrupted():
                    await ledger.until(poller.may_claim)
                    await let_others_finish()
                    await poller.leave_to_reports()
                if stop.requested:
                    break
                await poller.claim()
                with stop.interrupted():
                    await poller.pause()


@dataclass(slots=True, kw_only=True)
class Poller:
    """How much to claim, and when to claim again.

    Attributes:
        reporter: Releases what came too late to be run, and what nobody asked for.
    """

    intake: Intake
    options: Options
    link: Link
    ledger: Ledger
    stop: Stop
    reporter: Reporter
    _short: bool = False
    """The last claim brought fewer new states than it asked for."""
    _waited: float = 0.0
    """Seconds for which it was at the server, if that lets claims wait."""
    _pause: float = 0.0
    _wakeable: bool = False
    """A report, or room for nodes that were left out, ends the pause."""
    _reported: int = 0
    _soon: list[float] = field(default_factory=list)
    _left_out: Set[str] = frozenset()
    """Nodes there was no room for when states were claimed last."""
    _outage: Outage = field(default_factory=lambda: Outage(log, "claiming states"))

    def may_claim(self) -> bool:
        """Whether there is room, and what was claimed before is being delivered."""
        return self.reporter.may_claim() and bool(self.wanted().limits)

    def wanted(self) -> Wanted:
        """Return what to ask for."""
        most = self.options.batch_size
        if not self.link.is_native and self._short:
            # The stock server runs one query for each state asked for, whether or not there is one. If
            # there are more than these few, the next claim follows at once.
            most = min(most, self.options.workers)
        elif self.link.is_native and self.ledger.count(*Stage):
            # The other half is for the requests that report what is held.
            most -= most // 2 + self.intake.buffered
        return self.intake.wanted(most)

    async def leave_to_reports(self) -> None:
        """Wait while what is being reported claims what fits, but not for long: a report may hang.

        A claim beside each report took a fifth of the processor time of a state in process, and a third over
        TCP, at the default batch size. One that waits at the server takes nothing: after one that did, as
        beside a chain, the next may wait there, too.
        """
        if self._waited > QUICK:
            return
        with trio.move_on_after(OVERTAKING):
            while self.reporter.claims_along:
                await self.ledger.until(lambda: not self.reporter.claims_along)
                await let_others_finish()

    async def claim(self) -> None:
        """Claim what fits and pass it to the workers. Sets how long to pause afterwards."""
        wanted = self.wanted()
        limits, limit = wanted.limits, wanted.limit
        if not limits:  # the reporter has asked for the rest meanwhile
            self._pause = 0.0
            return
        self._left_out = self.options.nodes.keys() - limits.keys()
        long = self.link.is_native
        asked = self.ledger.now()
        began = trio.current_time()
        if self.ledger.reported != self._reported:
            self._reported = self.ledger.reported
            self._soon = [began + delay for delay in AFTER_OUTCOME]
        claims: Sequence[Claim] = ()
        self.ledger.claiming = True
        try:
            with self.intake.asking(wanted):
                if long or self._outage.failures:
                    with self.stop.interrupted():
                        claims = await self.link.claim(limits, limit, wait=self._max_wait())
                else:
                    # If the server was there a moment ago, a stop waits for its response: what that brings is
                    # then released by the reporter, which tries longer than a cancelled link does.
                    claims = await self.link.claim(limits, limit)
        except (ManagerError, ClaimLost) as error:
            self._failed(error, limit)
            return
        finally:
            self.ledger.claiming = False
            self.ledger.notify()
        self._outage.worked()
        self._waited = trio.current_time() - began if long else 0.0
        self.intake.came_in_time(len(claims))
        # A claim that repeats a state held here does not show that there are more.
        new = sum(not self.ledger.holds(claim) for claim in claims)
        self._short = new < limit
        self._wakeable = True
        if new >= limit or (long and new):
            # The next long poll waits at the server, which responds once a state is created.
            self._pause = 0.0
        else:
            # A long poll has waited already; after one that came back empty at once there is a pause, too.
            self._pause = max(0.0, self.options.poll_interval - self._waited)
            if not long:
                self._pause = min(self._pause, self._until_next_states())
        for held in self.intake.take(claims, asked, limit):
            self.reporter.release(held)

    def _until_next_states(self) -> float:
        """Return the seconds until what follows the last outcome may be there; inf after the last time."""
        now = trio.current_time()
        while self._soon:
            moment = self._soon.pop(0)  # each once, also where the clock stands still
            if moment > now:
                return moment - now
        return math.inf

    async def pause(self) -> None:
        """Wait until it makes sense to claim again."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(self._pause):
            if self._wakeable:
                await self.ledger.until(self._may_have_more)
            else:
                await trio.sleep_forever()

    def _may_have_more(self) -> bool:
        # A report may have made other states claimable.
        return self.ledger.reported != self._reported or not self._left_out.isdisjoint(self.wanted().limits)

    def _failed(self, error: ManagerError | ClaimLost, limit: int) -> None:
        level, backoff, result = logging.WARNING, OUTAGE, "failed"
        if isinstance(error, ManagerError) and not isinstance(error, ManagerUnavailable):
            # The server understood and refused; that will not change soon.
            level, backoff, result = logging.ERROR, REFUSED, "refused"
        at_least = error.retry_after if isinstance(error, ManagerUnavailable) else None
        self._pause = backoff.pause(self._outage.failures, at_least)
        self._wakeable = False
        if isinstance(error, ResponseTooSlow) or (isinstance(error, ClaimLost) and error.too_slow):
            self.intake.shrink_limit(limit)
        if self.ledger.events:
            self.ledger.events.emit(Polled(result))
        self._outage.failed(error, self._pause, level=level)

    def _max_wait(self) -> float:
        # Leases are counted from when the claim was sent: one that waited for long would bring states
        # whose leases are half over.
        if self._left_out:
            return 0.0  # a long poll for the others would not notice that there is room for these again
        ttl = self.ledger.ttl
        return MAX_WAIT if ttl is None else min(MAX_WAIT, ttl / 3)
