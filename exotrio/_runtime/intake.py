"""What fits into a runtime, and the way of claimed states to its workers.

The poller claims; so does the reporter, on a native link, in the requests that deliver outcomes.
Each asks for what fits beside that which the other has asked for and was not given yet.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import trio

from exotrio._execution.executor import Executor
from exotrio._link.port import Claim, Wanted
from exotrio._runtime.ledger import HeldClaim, Ledger, Stage
from exotrio._runtime.options import Options
from exotrio._runtime.stop import Stop
from exotrio._util.events import Polled

log = logging.getLogger("exotrio.poller")

NOTHING = Wanted(limits={}, limit=0, at_once=0)


@dataclass(slots=True, kw_only=True)
class Intake:
    """How many states fit, and where they go.

    Attributes:
        claimed: Takes the states; it has room for ``batch_size`` of them.
        executor: Nodes that it does not accept are not claimed.
        max_limit: Most states to ask for; less than a batch after a response that came too slowly.
    """

    claimed: trio.MemorySendChannel[HeldClaim]
    options: Options
    ledger: Ledger
    stop: Stop
    executor: Executor
    max_limit: int = field(init=False)
    _concurrency: dict[str, int | None] = field(init=False)
    _asked: int = 0
    """States that claims in flight may bring."""
    _asked_of: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        # As it was checked: node code can change its class at any time.
        self._concurrency = {name: node.concurrency for name, node in self.options.nodes.items()}
        self.max_limit = self.options.batch_size

    def wanted(self, most: int) -> Wanted:
        """Return how many states fit now, and no more than ``most``. Nodes without room are not in it."""
        most = min(most, self.room, self.max_limit)
        if most <= 0:
            return NOTHING
        limits: dict[str, int] = {}
        for name, node in self.options.nodes.items():
            limit = most
            if (concurrency := self._concurrency[name]) is not None:
                limit = min(most, concurrency - self.ledger.active(name) - self._asked_of[name])
            if limit > 0 and self.executor.accepts(node):
                limits[name] = limit
        idle = self.options.workers - self.ledger.count(Stage.BUFFERED, Stage.RUNNING)
        limit = min(most, sum(limits.values()))
        return Wanted(limits=limits, limit=limit, at_once=max(0, min(idle, limit)))

    @contextmanager
    def asking(self, wanted: Wanted) -> Iterator[None]:
        """Keep that room free until the block ends: a claim of so many states is in flight."""
        self._asked += wanted.limit
        self._asked_of.update(wanted.limits)
        try:
            yield
        finally:
            self._asked -= wanted.limit
            self._asked_of.subtract(wanted.limits)
            self.ledger.notify()

    def take(self, claims: Sequence[Claim], asked: float, limit: int) -> list[HeldClaim]:
        """Pass what was claimed to the workers.

        Return what has to be released: it came after a stop was requested, or nobody asked for it.

        Args:
            asked: When the claim was sent, on the clock of ``Ledger.now``.
            limit: How many states it asked for.
        """
        # All of them into the ledger first, so that whatever comes now finds them there.
        taken: list[HeldClaim] = []
        for claim in claims:
            held = self.ledger.add(claim, asked)
            if held is not None:
                taken.append(held)
            else:
                log.warning(
                    "state %s was claimed while it is still held here: it goes on under the new claim",
                    claim.state_id,
                )
        if self.stop.requested:
            return taken
        if len(taken) > limit:
            log.warning(
                "releasing %d states: the state manager gave more than were asked for", len(taken) - limit
            )
        for held in taken[:limit]:
            self.claimed.send_nowait(held)
        return taken[limit:]

    def shrink_limit(self, limit: int) -> None:
        """Ask for fewer states from now on."""
        self.max_limit = max(1, limit // 2)
        log.warning(
            "a claim of up to %d states arrived too slowly; the next claim is of up to %d",
            limit,
            self.max_limit,
        )

    def came_in_time(self, count: int) -> None:
        """Tell observers of a claim that brought so many states.

        If those were as many as may be asked for, ask for one more again, up to a batch.
        """
        log.debug("claimed %d states", count)
        if self.ledger.events:
            self.ledger.events.emit(Polled("states" if count else "empty"))
        self.max_limit = min(self.options.batch_size, self.max_limit + (count == self.max_limit))

    @property
    def room(self) -> int:
        """How many states fit beside what was asked for: into the buffer, and with idle workers."""
        # Only those that wait at the channel by now: what was asked for has to find a place when it comes.
        idle = self.claimed.statistics().tasks_waiting_receive
        return self.options.batch_size + idle - self.buffered - self._asked

    @property
    def buffered(self) -> int:
        """How many states wait for a worker."""
        # Some of what waits to run alone does not count: it may do so for hours.
        alone = sum(held.stage is Stage.BUFFERED for held in self.ledger.alone)
        waiting = self.ledger.count(Stage.BUFFERED) - min(alone, self.options.workers)
        # A state whose lease was lost stays in the channel until a worker takes it, and drops it.
        return max(waiting, self.claimed.statistics().current_buffer_used)
