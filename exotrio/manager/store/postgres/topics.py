"""What waits for a topic, in the order in which it came.

An announcement wakes only the one that came first of those that wait for the topic and do not run. It runs
its use case again; if that finds something, there may be more, and the next one is woken. One that runs
already may have looked too early, and looks again if it found nothing. If a topic is not announced, the first
that waits looks when something comes due, and every second or two: an announcement of another state manager
may be lost.
"""

from __future__ import annotations

import math
import random
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count
from operator import attrgetter

import trio

from exotrio.manager.store.effects import Topic

MIN_POLL = 1.0
MAX_POLL = 2.0
"""Seconds after which the first that waits looks again."""


_place = attrgetter("place")


class Waiter:
    """A use case that may wait. It runs at first, and when it was woken."""

    def __init__(self, place: int) -> None:
        self.place = place
        """The lower, the earlier it came."""
        self.woken = trio.Event()
        self.topics: frozenset[Topic] = frozenset()
        """What it waits for since it ran last."""
        self.woken_for: set[Topic] = set()
        self.missed: set[Topic] = set()
        """What was announced while it ran."""
        self.missed_any = False
        """Whether it is not known what was announced while it ran: it may be what it will wait for."""


class Topics:
    """All that waits in one store. For the Trio thread."""

    def __init__(self) -> None:
        # In the order of their places, also those that were woken and run.
        self._waiters: dict[Topic, list[Waiter]] = {}
        self._places = count()
        self._running: set[Waiter] = set()
        self._due: dict[Topic, float] = {}
        self._polls: dict[Topic, float] = {}
        self._look_at = math.inf
        self._sooner = trio.Event()

    @contextmanager
    def waiter(self) -> Iterator[Waiter]:
        """Return one that runs. It does not miss what is announced from now on."""
        waiter = Waiter(next(self._places))
        self._running.add(waiter)
        try:
            yield waiter
        finally:
            self._running.discard(waiter)
            self._list(waiter, frozenset())
            # It found something or gave up: the next one may find something.
            self._wake(waiter.woken_for)

    def wait(self, waiter: Waiter, topics: Mapping[Topic, float]) -> bool:
        """Let one wait that found nothing: for each topic, the seconds until something comes due.

        Return whether it waits now. It does not, and has to run again, if something of that was announced
        while it ran.
        """
        self._list(waiter, frozenset(topics))
        now = trio.current_time()
        for topic, seconds in topics.items():
            self._due[topic] = min(self._due.get(topic, math.inf), now + seconds)
            self._polls[topic] = now + random.uniform(MIN_POLL, MAX_POLL)
            self._look_by(min(self._due[topic], self._polls[topic]))
        not_looked_for = waiter.woken_for - waiter.topics
        waiter.woken_for = set(waiter.topics) if waiter.missed_any else waiter.missed & waiter.topics
        waiter.missed.clear()
        waiter.missed_any = False
        if not waiter.woken_for:
            waiter.woken = trio.Event()
            self._running.discard(waiter)
        self._wake(not_looked_for)
        return waiter not in self._running

    def announce(self, topics: Iterable[Topic]) -> None:
        """Wake the first that waits for each of these topics; have those that run look again."""
        topics = set(topics)
        for waiter in self._running:
            waiter.missed |= topics
        self._wake(topics)

    def announce_all(self) -> None:
        """Wake the first that waits for each topic: it is not known what was announced."""
        for waiter in self._running:
            waiter.missed_any = True
        self._wake([*self._waiters])

    def run_again(self, waiter: Waiter) -> None:
        """Have one run that still waits: its time is over."""
        self._running.add(waiter)

    async def run(self) -> None:
        """Wake what has to look though nothing was announced. Never returns."""
        while True:
            now = trio.current_time()
            due = {topic for topic, at in chain(self._due.items(), self._polls.items()) if at <= now}
            for topic in due:
                # Who looks says when to look again.
                self._due.pop(topic, None)
                self._polls.pop(topic, None)
            self._wake(due)
            self._sooner = trio.Event()
            self._look_at = min(chain(self._due.values(), self._polls.values()), default=math.inf)
            with trio.move_on_at(self._look_at):
                await self._sooner.wait()

    def _look_by(self, at: float) -> None:
        if at < self._look_at:
            self._look_at = at
            self._sooner.set()

    def _wake(self, topics: Iterable[Topic]) -> None:
        """Wake the first that waits for each of these topics, once for all of them."""
        woken: set[Waiter] = set()
        for topic in topics:
            for waiter in self._waiters.get(topic, ()):
                if waiter in woken or waiter not in self._running:
                    woken.add(waiter)
                    self._running.add(waiter)
                    waiter.woken_for.add(topic)
                    waiter.woken.set()
                    break

    def _list(self, waiter: Waiter, topics: frozenset[Topic]) -> None:
        for topic in waiter.topics - topics:
            listed = self._waiters[topic]
            listed.remove(waiter)
            if not listed:
                del self._waiters[topic]
                self._due.pop(topic, None)
                self._polls.pop(topic, None)
        for topic in topics - waiter.topics:
            insort(self._waiters.setdefault(topic, []), waiter, key=_place)
        waiter.topics = topics
