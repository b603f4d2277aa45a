"""Link -> channel. The poller claims what fits, when it makes sense to ask."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import trio

from exotrio._execution.executor import Executor
from exotrio._http.response import ResponseTooSlow
from exotrio._link.port import Claim, ClaimLost, Fate, Link
from exotrio._nodes.base import BaseNode
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage
from exotrio._runtime.outage import Outage
from exotrio._runtime.stop import Stop
from exotrio._runtime.worker import pass_on
from exotrio._util.backoff import OUTAGE, REFUSED
from exotrio._util.events import Polled
from exotrio._wire.vocabulary import MAX_WAIT_MS, from_ms
from exotrio.errors import ManagerError, ManagerUnavailable

log = logging.getLogger("exotrio.poller")

LONGEST_WAIT = from_ms(MAX_WAIT_MS)
PATIENCE = 8
"""Tries of an outcome of an earlier process for which claims wait."""
AFTER_OUTCOME = (0.02, 0.06, 0.15, 0.4)
"""Seconds after a delivered outcome at which a server without long polls is asked again. The stock server
creates next states in the background: they are not there yet when the outcome is answered."""


async def poll(
    claimed: trio.MemorySendChannel[HeldClaim],
    done: trio.MemorySendChannel[HeldClaim],
    *,
    link: Link,
    ledger: Ledger,
    stop: Stop,
    nodes: Mapping[str, type[BaseNode]],
    executor: Executor,
    batch_size: int,
    workers: int,
    poll_interval: float,
    replayed: Sequence[HeldClaim] = (),
) -> None:
    """Claim states until a stop is asked for. Closes both channel ends.

    Args:
        claimed: Takes the states; it has room for ``batch_size`` of them.
        done: Takes those that came too late to be run, for release.
        nodes: Registered name to node class: what to claim for.
        executor: Nodes that it does not accept are not claimed.
        batch_size: Most states that wait for a worker.
        workers: Tasks that run states.
        poll_interval: Seconds to wait after a claim that brought less than asked for.
        replayed: Outcomes of an earlier process. They come first: their states may be claimable
            again, and would be run a second time.

    Cancellation:
        Settles the claim in flight, as the link does it.
    """
    poller = _Poller(link, ledger, stop, claimed, nodes, executor, batch_size, workers, poll_interval)
    # The outer scope ends with the grace: only that cancels a v0 claim in flight.
    async with claimed, done:
        with stop.polling:
            with stop.interrupted():
                await ledger.until(lambda: all(_is_over(held, ledger) for held in replayed))
            while not stop.requested:
                with stop.interrupted():
                    await ledger.until(poller.may_claim)
                    await ledger.moment()
                if stop.requested:
                    break
                # All of them into the books first, so that whatever comes now finds them there.
                taken = _take(await poller.claim(), poller.asked, ledger)
                for held in taken[: poller.limit_asked]:
                    if stop.requested:
                        pass_on(held, None, done, ledger)
                    else:
                        claimed.send_nowait(held)
                await _return(taken[poller.limit_asked :], link, ledger)
                with stop.interrupted():
                    await poller.pause()


def _take(claims: Sequence[Claim], asked: float, ledger: Ledger) -> list[HeldClaim]:
    """Take claims into the books; return what is new there."""
    taken: list[HeldClaim] = []
    for claim in claims:
        held = ledger.add(claim, asked)
        if held is not None:
            taken.append(held)
        else:
            log.warning(
                "state %s was claimed while it is still held here: it goes on under the new claim",
                claim.state_id,
            )
    return taken


async def _return(surplus: list[HeldClaim], link: Link, ledger: Ledger) -> None:
    """Hand back states that were not asked for. Not through the reporter, which has no room for them."""
    if not surplus:
        return
    log.warning("the state manager gave %d states more than were asked for; they go back", len(surplus))
    for held in surplus:
        ledger.done(held, None)
        held.in_flight = True
    settlements = await link.release([held.claim for held in surplus])
    for held, settlement in zip(surplus, settlements, strict=True):
        if settlement.fate in (Fate.SETTLED, Fate.DROPPED):
            ledger.settle(held)
        else:
            log.error("%s is not handed back: %s", held, settlement.detail)
            ledger.lose(held)


def _is_over(held: HeldClaim, ledger: Ledger) -> bool:
    # Not for ever: an outcome that the server fails at is only found out while others get through.
    return held not in ledger or held.tries >= PATIENCE


class _Poller:
    """How much to claim, and what to do when that fails."""

    def __init__(
        self,
        link: Link,
        ledger: Ledger,
        stop: Stop,
        claimed: trio.MemorySendChannel[HeldClaim],
        nodes: Mapping[str, type[BaseNode]],
        executor: Executor,
        batch_size: int,
        workers: int,
        poll_interval: float,
    ) -> None:
        self._link = link
        self._ledger = ledger
        self._stop = stop
        self._claimed = claimed
        self._nodes = nodes
        # As it was checked: node code can change its class at any time.
        self._concurrency = {name: node.concurrency for name, node in nodes.items()}
        self._executor = executor
        self._batch_size = batch_size
        self._workers = workers
        self._poll_interval = poll_interval
        self.asked = 0.0
        self.limit_asked = 0
        self._most = batch_size
        self._short = False
        self._pause = 0.0
        self._wakeable = False
        self._reported = 0
        self._soon: list[float] = []
        self._left_out: set[str] = set()
        self._outage = Outage(log, "claiming states")

    def may_claim(self) -> bool:
        """Whether there is room, and what was claimed before is getting through.

        Deliveries in their first try do not count against claiming, up to a full load of them:
        claims overlap reports. Deliveries that fail do: what they hold must not pile up.
        """
        ledger = self._ledger
        return (
            bool(self.limits())
            and not ledger.key_refused
            and ledger.failing <= self._workers
            and ledger.count(Stage.DONE) <= self._batch_size + self._workers
        )

    def limit(self) -> int:
        """Return how many states to ask for."""
        room = min(self._room(), self._most)
        if self._short and not self._link.capabilities.long_poll:
            # The stock server runs one query per state asked for, whether or not there is one. If there are
            # more than these few, the next claim follows at once.
            return min(room, self._workers)
        return room

    def limits(self) -> dict[str, int]:
        """Return how many states of each node to ask for at most; nodes without room are left out."""
        limit, limits = self.limit(), {}
        for name, node in self._nodes.items():
            most = limit
            if (concurrency := self._concurrency[name]) is not None:
                most = min(limit, concurrency - self._ledger.active(name))
            if most > 0 and self._executor.accepts(node):
                limits[name] = most
        return limits

    async def claim(self) -> list[Claim]:
        """Claim what fits; nothing if that fails. Sets how long to pause afterwards."""
        limits = self.limits()
        limit = min(self.limit(), sum(limits.values()))
        self.limit_asked = limit
        self._left_out = self._nodes.keys() - limits.keys()
        long = self._link.capabilities.long_poll
        self.asked = self._ledger.now()
        began = trio.current_time()
        if self._ledger.reported != self._reported:
            self._reported = self._ledger.reported
            self._soon = [began + delay for delay in AFTER_OUTCOME]
        claims: list[Claim] = []
        self._ledger.claiming = True
        try:
            if long or self._outage.failures:
                with self._stop.interrupted():
                    claims = await self._link.claim(limits, limit, wait=self._longest_wait())
            else:
                # Where the server was there a moment ago, a stop waits for the answer: what it brings
                # then goes back through the reporter, who tries longer than a cancelled link does.
                claims = await self._link.claim(limits, limit)
        except (ManagerError, ClaimLost) as error:
            self._failed(error)
            return []
        finally:
            self._ledger.claiming = False
            self._ledger.notify()
        log.debug("claimed %d of up to %d states", len(claims), limit)
        if self._ledger.events:
            self._ledger.events.tell(Polled("states" if claims else "empty"))
        self._outage.worked()
        self._most = min(self._batch_size, self._most + (len(claims) == self._most))
        # What repeats a state that is held here is no sign that there are more.
        new = sum(not self._ledger.holds(claim) for claim in claims)
        self._short = new < limit
        self._wakeable = True
        if new >= limit or (long and new):
            # The next long poll waits at the server, which answers it in the commit that creates a state.
            self._pause = 0.0
        else:
            # A long poll has waited already; a hasty empty answer to one is paced all the same.
            waited = trio.current_time() - began if long else 0.0
            self._pause = max(0.0, self._poll_interval - waited)
            if not long:
                self._pause = min(self._pause, self._until_next_states())
        return claims

    def _until_next_states(self) -> float:
        """Return the seconds until what follows the last outcome may be there; inf after the last try."""
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
                await self._ledger.until(self._may_have_more)
            else:
                await trio.sleep_forever()

    def _may_have_more(self) -> bool:
        # What was just reported may have made other states claimable.
        return self._ledger.reported != self._reported or not self._left_out.isdisjoint(self.limits())

    def _failed(self, error: ManagerError | ClaimLost) -> None:
        level, backoff, result = logging.WARNING, OUTAGE, "failed"
        if isinstance(error, ManagerError) and not isinstance(error, ManagerUnavailable):
            # The server understood and said no; it will not be of another mind soon.
            level, backoff, result = logging.ERROR, REFUSED, "refused"
        at_least = error.retry_after if isinstance(error, ManagerUnavailable) else None
        self._pause = backoff.pause(self._outage.failures, at_least)
        self._wakeable = False
        if isinstance(error, ResponseTooSlow) or (isinstance(error, ClaimLost) and error.too_slow):
            self._most = max(1, self.limit_asked // 2)
            log.warning(
                "the answer to a claim of up to %d states arrived too slowly; the next one is of up to %d",
                self.limit_asked,
                self._most,
            )
        if self._ledger.events:
            self._ledger.events.tell(Polled(result))
        self._outage.failed(error, self._pause, level=level)

    def _longest_wait(self) -> float:
        # Leases are counted from when the claim was sent: one that waited for long would bring states
        # whose leases are half over.
        if self._left_out:
            return 0.0  # a long poll for the others would not notice that there is room for these again
        ttl = self._ledger.ttl
        return LONGEST_WAIT if ttl is None else min(LONGEST_WAIT, ttl / 3)

    def _room(self) -> int:
        # A state that was taken from us stays in the channel until a worker passes it over.
        waiting = max(self._waiting(), self._claimed.statistics().current_buffer_used)
        return self._batch_size - waiting

    def _waiting(self) -> int:
        # Some of what waits to run alone does not count: it may do so for hours.
        alone = sum(held.stage is Stage.BUFFERED for held in self._ledger.alone)
        return self._ledger.count(Stage.BUFFERED) - min(alone, self._workers)
