"""Decides which of the waiting writes runs next, on PostgreSQL.

A write that found nothing, such as a claim, waits for topics. An announcement of a topic runs only the first
write that waits for it and does not run already. If that one finds something, there may be more, so the next
one runs. A write that runs when the announcement comes may have read too early: it runs again if it finds
nothing. The first waiting write also runs when something of its topic is due, and every second or two, since
an announcement of another state manager may be lost.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import trio

from exotrio.manager.store.effects import Topic
from exotrio.manager.store.topics import Topics
from exotrio.manager.store.writes import Write

MIN_POLL = 1.0
MAX_POLL = 2.0
"""Seconds after which the first that waits is run again."""


@dataclass(slots=True)
class _Run:
    """What has to be known when a write ends that may wait."""

    woken_for: set[Topic] = field(default_factory=set)
    """Topics of which there may be more if it finds something."""
    missed: set[Topic] = field(default_factory=set)
    """What was announced while it ran."""
    missed_unknown: bool = False
    """Whether something was announced meanwhile whose topics are not known."""


class Waiting:
    """The writes that may wait: those that run, and those that wait for a topic. For the Trio thread.

    ``run`` is called with a write that has to run.
    """

    def __init__(self, run: Callable[[Write], None]) -> None:
        self._run = run
        self._topics = Topics()
        self._running: dict[Write, _Run] = {}

    def begin(self, write: Write) -> None:
        """Record that a write runs. It does not miss what is announced from now on."""
        self._topics.give_turn(write)
        self._running[write] = _Run()

    def wait(self, write: Write, waits_for: Mapping[Topic, float]) -> float:
        """Let a write wait that found nothing, with the seconds after which something of each topic is due.

        It is run again if that was announced while it ran, or if its deadline has passed. Returns when
        something has to be run.
        """
        assert write.deadline is not None
        now = trio.current_time()
        run = self._running.pop(write)
        due = {
            topic: now + min(seconds, random.uniform(MIN_POLL, MAX_POLL))
            for topic, seconds in waits_for.items()
        }
        self._topics.add(write, due)
        missed = set(waits_for) if run.missed_unknown else run.missed & waits_for.keys()
        # What it waits for was announced while it ran, and after it had read; or its time ended meanwhile.
        if missed or now >= write.deadline:
            self._run_again(write, missed)
        # It was woken for these topics, but searched others: wake the next write for them.
        self._wake(run.woken_for - waits_for.keys())
        return min(write.deadline, min(due.values(), default=math.inf))

    def remove(self, write: Write) -> None:
        """Forget a write that has its result, or whose task was cancelled."""
        run = self._running.pop(write, None)
        self._topics.remove(write)
        if run is not None:
            # It found something or gave up: the next one may find something.
            self._wake(run.woken_for)

    def remove_all(self) -> list[Write]:
        """Remove the writes that wait, and return those that do not run."""
        return [write for write in self._topics.remove_all() if write not in self._running]

    def announce(self, topics: Iterable[Topic]) -> None:
        """Run the first that waits for each of these topics; those that run may have to run again."""
        topics = set(topics)
        for run in self._running.values():
            run.missed |= topics
        self._wake(topics)

    def announce_all(self) -> None:
        """Run the first that waits for each topic: it is not known what was announced."""
        for run in self._running.values():
            run.missed_unknown = True
        self._wake(self._topics.awaited())

    def run_due(self) -> None:
        """Run what has to run though nothing was announced."""
        now = trio.current_time()
        for write in self._topics.take_expired(now):
            # One that runs just then is run again, for the last time, by ``wait``.
            if write not in self._running:
                self._run_again(write, set())
        due = self._topics.due(now)
        # A write that runs for them says when it is due again.
        self._topics.forget_due(due)
        self._wake(due)

    def next_at(self) -> float:
        """Return when ``run_due`` has something to do next; infinity for never."""
        return self._topics.next_at()

    def _wake(self, topics: Collection[Topic]) -> None:
        """Run the first that waits for each of these topics, once for all of them."""
        woken: dict[Write, set[Topic]] = {}
        for topic in self._topics.awaited() & topics:
            for write in self._topics.waiting_for([topic]):
                if write in woken or write not in self._running:
                    woken.setdefault(write, set()).add(topic)
                    break
        for write, woken_for in woken.items():
            self._run_again(write, woken_for)

    def _run_again(self, write: Write, woken_for: set[Topic]) -> None:
        self._running[write] = _Run(woken_for)
        self._run(write)
