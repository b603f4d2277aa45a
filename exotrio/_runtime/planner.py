"""How many states a runtime claims, and which of its requests claims them; then, how they get to the workers.

Two requests claim: the poller's, and on a native link each report of outcomes, whose answer brings states.

1. A state fits if a worker is idle or the buffer has room. The room for which a request in flight claims is
   reserved until it ends, so that no more is held than fits. Of a node with a ``concurrency``, the states
   that are held or reserved count; nodes that the executor does not accept are not claimed.
   After states were released for other runtimes (``Ledger.release_overdue``), the buffer has no room; each
   outcome adds room for one state. So a runtime of long nodes claims little ahead.
2. Nothing is claimed while deliveries do not get through.
3. What each of them claims::

       link     state of the runtime          a report claims               the poller claims
       ------   ---------------------------   ---------------------------   --------------------------------
       v0       the last claim brought all    -                             all that fits
                that it could
       v0       it brought fewer              -                             one state for each worker: the
                                                                            server runs a query for each
       native   nothing is held               -                             all that fits
       native   something is held             all that fits; if the         half of the buffer, less what is
                                              poller is not claiming, an    buffered: the rest is for reports
                                              eighth of the buffer less
       native   a delivery failed             nothing                       as above

4. If the poller claimed besides each report, its claims would take a fifth of the processor time of a state
   in process, and a third over TCP. So the poller waits while a report is about to claim, and at most
   ``BATCH_WAIT`` for one that was sent, since it may hang. It does not wait if reports take longer than
   ``FAST_DELIVERY``, if the buffer is small, or if its own last claim waited at the server, as it does next
   to a chain of nodes: such a claim costs nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import trio

from exotrio._execution.executor import Executor
from exotrio._link.port import Claim, Link, Room
from exotrio._runtime.held_claim import HeldClaim, Stage
from exotrio._runtime.ledger import Ledger
from exotrio._runtime.options import Options
from exotrio._runtime.stop import Stop
from exotrio._shared.events import Polled

log = logging.getLogger("exotrio.poller")

POLLER_SHARE = 8
"""A report leaves an eighth of the buffer to the poller, which goes on if the report hangs."""
BATCH_WAIT = 0.2
"""Seconds for which the next batch of outcomes, and a claim by the poller, wait for the last report."""
FAST_DELIVERY = 0.02
"""Maximum seconds of a report for the poller to leave claims to reports. With answers after 0.15 s, a runtime
whose poller claims meanwhile does a fifth more."""
NO_ROOM = Room(limits={}, limit=0, at_once=0)


class Deliveries(Protocol):
    """What the planner knows of the reporter."""

    @property
    def queued(self) -> int:
        """Outcomes and releases that wait to be sent."""

    @property
    def in_flight(self) -> int:
        """Requests that deliver."""

    @property
    def sent_at(self) -> float:
        """When the last one of them was begun, on Trio's clock."""

    @property
    def took(self) -> float:
        """Seconds of the last one that ended."""

    @property
    def failing(self) -> bool:
        """Whether one failed, and is to be repeated."""

    @property
    def stuck(self) -> str:
        """Why nothing may be claimed; empty if something may be."""


@dataclass(slots=True, kw_only=True)
class ClaimPlanner:
    """Decides how much is claimed, and by which request; passes claimed states to the workers.

    Attributes:
        claimed: The channel to the workers; it has room for ``batch_size`` states.
        max_limit: Maximum number of states of one claim: fewer than a batch after an answer that came too
            slowly.
        poll_was_short: The last claim of the poller brought fewer new states than there was room for.
        poll_waited: Seconds for which it was at the server, if claims may wait there.
    """

    options: Options
    ledger: Ledger
    stop: Stop
    link: Link
    executor: Executor
    deliveries: Deliveries
    claimed: trio.MemorySendChannel[HeldClaim]
    max_limit: int = field(init=False)
    poll_was_short: bool = False
    poll_waited: float = 0.0
    _concurrency: dict[str, int] = field(init=False)
    _reserved: int = 0
    _reserved_by_node: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # As it was checked: node code can change its class at any time.
        self._concurrency = {
            name: node.concurrency
            for name, node in self.options.nodes.items()
            if node.concurrency is not None
        }
        self.max_limit = self.options.batch_size

    def may_poll(self) -> bool:
        """Whether the poller may claim something now."""
        return self._may_claim() and bool(self.for_poll().limits)

    def for_poll(self) -> Room:
        """Return the room for which the poller is to claim. Nodes without room are not in it."""
        limit = self.options.batch_size
        if not self.link.is_native:
            limit = min(limit, self.options.workers) if self.poll_was_short else limit
        elif self.ledger.count(*Stage):
            limit -= limit // 2 + self._buffered(self.claimed.statistics())
        return self._fitting(limit)

    def for_report(self) -> Room | None:
        if not self.link.is_native or self.deliveries.failing or self.stop.requested or not self._may_claim():
            return None
        share = 0 if self.ledger.claiming else max(1, self.options.batch_size // POLLER_SHARE)
        room = self._fitting(self.max_limit, share)
        return room if room.limits else None

    @property
    def poll_has_to_wait(self) -> bool:
        """Whether the poller leaves the room to a report that is to be sent at once, or was just sent."""
        deliveries, ledger = self.deliveries, self.ledger
        if not self.link.is_native or deliveries.failing or self.options.batch_size < POLLER_SHARE:
            return False
        if self.poll_waited > FAST_DELIVERY or deliveries.took > FAST_DELIVERY:
            return False
        if deliveries.in_flight:
            return deliveries.queued > 0 or trio.current_time() < deliveries.sent_at + BATCH_WAIT
        # A state that is done but not queued is on its way to the reporter.
        return deliveries.queued > 0 or ledger.count(Stage.DONE) > 0

    @contextmanager
    def reserve(self, room: Room) -> Iterator[None]:
        """Keep the room for which a request claims until the block ends."""
        self._reserved += room.limit
        limited = {name: room.limits[name] for name in self._concurrency if name in room.limits}
        self._reserved_by_node.update(limited)
        try:
            yield
        finally:
            self._reserved -= room.limit
            self._reserved_by_node.subtract(limited)
            self.ledger.notify()

    def take(self, claims: Sequence[Claim], sent_at: float, limit: int) -> None:
        """Enter claimed states into the ledger, and pass them to the workers.

        What came after a stop was requested, beyond ``limit``, or after a release for other runtimes that
        left no room for it, is released.

        Args:
            sent_at: When the claim was sent, on the clock of ``Ledger.now``.
            limit: For how many states there was room.
        """
        log.debug("claimed %d states", len(claims))
        if self.ledger.events:
            self.ledger.events.emit(Polled("states" if claims else "empty"))
        # All of them into the ledger first, so that each is there before any of them is run.
        new: list[HeldClaim] = []
        for claim in claims:
            held = self.ledger.add(claim, sent_at)
            if held is not None:
                new.append(held)
            else:
                log.warning(
                    "state %s was claimed while it is still held here: it goes on under the new claim",
                    claim.state_id,
                )
        if self.stop.requested:
            limit = 0
        elif len(new) > limit:
            log.warning(
                "releasing %d states: the state manager sent more than were requested", len(new) - limit
            )
        if sent_at <= self.ledger.overdue_at:
            # Race: it waited at the server when states were released for other runtimes, and may bring those.
            busy = self.ledger.count(Stage.BUFFERED, Stage.RUNNING) - len(new)
            limit = min(limit, max(0, self.options.workers - busy))
        for held in new[:limit]:
            self.claimed.send_nowait(held)
        for held in new[limit:]:
            self.ledger.release(held)

    def shrink_limit(self, limit: int) -> None:
        """Claim fewer states from now on: an answer with up to ``limit`` states came too slowly."""
        self.max_limit = max(1, limit // 2)
        log.warning(
            "a claim of up to %d states arrived too slowly; the next claim is of up to %d",
            limit,
            self.max_limit,
        )

    def grow_limit(self, count: int) -> None:
        """Claim one state more, up to a batch, if as many as the limit allows came in time."""
        self.max_limit = min(self.options.batch_size, self.max_limit + (count == self.max_limit))

    def _may_claim(self) -> bool:
        # Claims overlap reports, so that deliveries in their first attempt do not prevent a claim, up to as
        # many as are held at most. Deliveries that fail do: their states must not pile up.
        limit = self.options.batch_size + self.options.workers
        return self.ledger.count(Stage.DONE) <= limit and not self.deliveries.stuck

    def _fitting(self, limit: int, share: int = 0) -> Room:
        """Return the room that there is now less ``share``, for up to ``limit`` states."""
        limit = min(limit, self._room() - share, self.max_limit)
        if limit <= 0:
            return NO_ROOM
        limits: dict[str, int] = {}
        for name, node in self.options.nodes.items():
            of_node = limit
            if (concurrency := self._concurrency.get(name)) is not None:
                of_node = min(limit, concurrency - self.ledger.active(name) - self._reserved_by_node[name])
            if of_node > 0 and self.executor.accepts(node):
                limits[name] = of_node
        idle = self.options.workers - self.ledger.count(Stage.BUFFERED, Stage.RUNNING)
        limit = min(limit, sum(limits.values()))
        return Room(limits=limits, limit=limit, at_once=max(0, min(idle, limit)))

    def _room(self) -> int:
        # A worker counts as idle once it waits at the channel: claimed states have to fit when they come.
        claimed = self.claimed.statistics()
        idle = claimed.tasks_waiting_receive
        ahead, since = self.options.batch_size, self.ledger.reported_by_then
        if since is not None:
            ahead = min(ahead, self.ledger.reported - since)
        return ahead + idle - self._buffered(claimed) - self._reserved

    def _buffered(self, claimed: trio.MemoryChannelStatistics) -> int:
        """Return how many states wait for a worker."""
        # Up to one state for each worker that waits to run alone does not count: it may wait for hours.
        alone = sum(held.stage is Stage.BUFFERED for held in self.ledger.alone)
        waiting = self.ledger.count(Stage.BUFFERED) - min(alone, self.options.workers)
        # A state whose lease was lost stays in the channel until a worker takes it, and drops it.
        return max(waiting, claimed.current_buffer_used)
