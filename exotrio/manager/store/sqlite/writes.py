"""Use cases on their way to a commit, and those that wait for a topic.

What waits is kept by topic, in the order in which it came. When something of a topic comes due by itself is
kept for the topic, not for each that waits: whoever waits first then looks.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import KW_ONLY, dataclass, field
from itertools import count
from typing import Any

import outcome
import trio

from exotrio.manager.store.effects import NO_EFFECTS, Effects, Topic, WithEffects
from exotrio.manager.store.transaction import Transaction


@dataclass(slots=True, eq=False)
class Write:
    """A use case on its way to its commit. Only ``abandoned`` is set from other threads."""

    use_case: Callable[[Transaction], Any]
    _: KW_ONLY
    deadline: float | None = None
    """Until when, on the committer's clock, it waits as long as it returns None: for a commit that announces
    one of its topics, or for what comes due. None: it does not wait."""
    repeat: bool = False
    """Whether it is handed in again until it is committed."""
    task: trio.lowlevel.Task | None = None
    """The task that waits for its result, if any."""
    result: outcome.Outcome[Any] = field(init=False)
    """Once it is committed."""
    effects: Effects = NO_EFFECTS
    """What it left behind when it ran last."""
    found: bool = False
    """Whether it returned something when it ran last, or does not wait."""
    is_open: bool = False
    """Whether it found nothing then and goes on waiting."""
    awaited: dict[Topic, float] = field(default_factory=dict)
    """Topics it waits for since then, and when something of each comes due."""
    topics: frozenset[Topic] = frozenset()
    """The topics under which ``Waiting`` keeps it."""
    turn: int = -1
    """Its place among all that wait."""
    abandoned: bool = False
    """Whether no task waits for it any more; in memory: at this moment."""
    missed: bool = False
    """Whether one of its topics was announced meanwhile."""

    def run(self, tx: Transaction, now: float) -> Any:
        """Run the use case."""
        self.found, self.is_open = True, False
        value, self.effects = WithEffects.of(self.use_case(tx))
        tx.check_updates()
        if value is None and self.deadline is not None:
            self.found, self.is_open = False, now < self.deadline
            self.awaited = {topic: now + seconds for topic, seconds in self.effects.waits_for.items()}
        return value


class Waiting:
    """Writes that wait for a commit which announces one of their topics."""

    def __init__(self) -> None:
        self._writes: dict[int, Write] = {}
        self._by_topic: dict[Topic, dict[int, Write]] = {}
        # Also of writes that were removed meanwhile, until they come to the top.
        self._ends: list[tuple[float, int]] = []
        self._due: dict[Topic, float] = {}
        self._turns = count()

    def __contains__(self, write: Write) -> bool:
        return write.turn in self._writes

    def add(self, write: Write) -> None:
        """Let a write wait that found nothing. One that waits already keeps its place."""
        assert write.deadline is not None
        if write not in self:
            write.turn = next(self._turns)
            self._writes[write.turn] = write
            heapq.heappush(self._ends, (write.deadline, write.turn))
        topics = frozenset(write.awaited)
        if topics != write.topics:
            self._unlist(write)
            write.topics = topics
            for topic in topics:
                self._by_topic.setdefault(topic, {})[write.turn] = write
        for topic, at in write.awaited.items():
            if at < self._due.get(topic, math.inf):
                self._due[topic] = at

    def remove(self, write: Write) -> None:
        if self._writes.pop(write.turn, None) is not None:
            self._unlist(write)

    def remove_all(self) -> list[Write]:
        """Remove all writes; return those whose task still waits."""
        dropped = [write for write in self._writes.values() if not write.abandoned]
        for kept in (self._writes, self._by_topic, self._ends, self._due):
            kept.clear()
        return dropped

    def waiting_for(self, topics: Collection[Topic]) -> Iterator[Write]:
        """Yield the writes that wait for one of these topics, longest waiting first, some several times."""
        lists = [found.values() for topic in topics if (found := self._by_topic.get(topic))]
        return heapq.merge(*lists, key=lambda write: write.turn)

    def expired(self, now: float, most: int) -> list[Write]:
        """Return at most ``most`` writes whose time is over; they have to be run a last time."""
        expired: list[Write] = []
        while self._ends and self._ends[0][0] <= now and len(expired) < most:
            write = self._writes.get(heapq.heappop(self._ends)[1])
            if write is not None and write.abandoned:
                self.remove(write)
            elif write is not None:
                expired.append(write)
        return expired

    def due(self, now: float) -> set[Topic]:
        """Return the topics of which something came due, if a write waits for them."""
        due = {topic for topic, at in self._due.items() if at <= now}
        awaited = {topic for topic in due if topic in self._by_topic}
        self.done(due - awaited)
        return awaited

    def done(self, topics: Collection[Topic]) -> None:
        """Forget when something of these topics comes due: that was looked for, or no write waits for it."""
        for topic in topics:
            del self._due[topic]

    def postpone(self, topics: Collection[Topic], until: float) -> None:
        """Look for what came due of these topics later: the commit failed."""
        for topic in topics:
            self._due[topic] = until

    def next_look(self) -> float:
        """Return when something expires or comes due, infinity for never."""
        while self._ends and self._ends[0][1] not in self._writes:
            heapq.heappop(self._ends)
        end = self._ends[0][0] if self._ends else math.inf
        return min(end, min(self._due.values(), default=math.inf))

    def _unlist(self, write: Write) -> None:
        for topic in write.topics:
            listed = self._by_topic[topic]
            del listed[write.turn]
            if not listed:
                del self._by_topic[topic]
        write.topics = frozenset()
