"""Writes that wait for a topic, in the order in which they came.

The time when something of a topic is due without an announcement is stored once for the topic, not for each
write. At that time the first write that waits for the topic runs.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, KeysView, Mapping
from itertools import count
from operator import attrgetter

from exotrio.manager.store.effects import Topic
from exotrio.manager.store.writes import Write

_turn = attrgetter("turn")


class Topics:
    """Writes that wait, each for topics and until a deadline. For one thread."""

    def __init__(self) -> None:
        self._writes: dict[int, Write] = {}
        self._by_topic: dict[Topic, list[Write]] = {}
        # Also of writes that were removed meanwhile, until they come to the top.
        self._deadlines: list[tuple[float, int]] = []
        self._due: dict[Topic, float] = {}
        self._turns = count()

    def __contains__(self, write: Write) -> bool:
        return write.turn in self._writes

    def give_turn(self, write: Write) -> None:
        """Give a write its turn, if it has none yet: it comes before all that get theirs later."""
        if write.turn < 0:
            write.turn = next(self._turns)

    def add(self, write: Write, due: Mapping[Topic, float]) -> None:
        """Let a write wait for topics, of which something is due at the times in ``due``."""
        assert write.deadline is not None
        if write not in self:
            self.give_turn(write)
            write.waited = True
            self._writes[write.turn] = write
            heapq.heappush(self._deadlines, (write.deadline, write.turn))
        if due.keys() != write.topics:
            self._unlist(write)
            write.topics = frozenset(due)
            for topic in due:
                insort(self._by_topic.setdefault(topic, []), write, key=_turn)
        for topic, at in due.items():
            if at < self._due.get(topic, math.inf):
                self._due[topic] = at

    def remove(self, write: Write) -> None:
        if self._writes.pop(write.turn, None) is not None:
            self._unlist(write)

    def remove_all(self) -> list[Write]:
        writes = list(self._writes.values())
        for write in writes:
            self.remove(write)
        return writes

    def awaited(self) -> KeysView[Topic]:
        """Return the topics for which a write waits."""
        return self._by_topic.keys()

    def waiting_for(self, topics: Collection[Topic]) -> Iterator[Write]:
        """Yield the writes that wait for one of these topics, longest waiting first, some several times."""
        # A list of runs announces thousands of topics, for few of which any write waits.
        return heapq.merge(*[self._by_topic[topic] for topic in self.awaited() & topics], key=_turn)

    def take_expired(self, now: float, limit: float = math.inf) -> list[Write]:
        """Return at most ``limit`` writes whose deadline has passed; they have to run a last time."""
        expired: list[Write] = []
        while self._deadlines and self._deadlines[0][0] <= now and len(expired) < limit:
            write = self._writes.get(heapq.heappop(self._deadlines)[1])
            if write is not None and write.abandoned:
                self.remove(write)
            elif write is not None:
                expired.append(write)
        return expired

    def due(self, now: float) -> set[Topic]:
        """Return the topics of which something is due, if a write waits for them."""
        due = {topic for topic, at in self._due.items() if at <= now}
        awaited = {topic for topic in due if topic in self._by_topic}
        self.forget_due(due - awaited)
        return awaited

    def forget_due(self, topics: Collection[Topic]) -> None:
        """Forget when something of these topics is due: a write has run for it, or none waits for it."""
        for topic in topics:
            del self._due[topic]

    def postpone(self, topics: Collection[Topic], until: float) -> None:
        """Let what is due of these topics be due later: the commit failed."""
        for topic in topics:
            self._due[topic] = until

    def next_at(self) -> float:
        """Return when a deadline passes or something is due next; infinity for never."""
        while self._deadlines and self._deadlines[0][1] not in self._writes:
            heapq.heappop(self._deadlines)
        deadline = self._deadlines[0][0] if self._deadlines else math.inf
        return min(deadline, min(self._due.values(), default=math.inf))

    def _unlist(self, write: Write) -> None:
        for topic in write.topics:
            listed = self._by_topic[topic]
            del listed[bisect_left(listed, write.turn, key=_turn)]
            if not listed:
                del self._by_topic[topic]
        write.topics = frozenset()
