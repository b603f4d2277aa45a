"""How many connections are open, and which of them may be closed to make room."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import trio

CROWDED = 0.75
"""Share of the connections above which nobody should keep one in order to wait: the others are for those
who have something to say, heartbeats for one, and a connection that waits at the server is not idle."""
SETTLING = 1.0
"""Seconds a connection is left alone after it was opened or answered. Without them a burst of new
connections would close each other before their first requests are read."""


logger = logging.getLogger("exotrio.manager.http")


class Gate:
    """Counts connections and remembers which may be closed to make room, longest idle first.

    Those are the idle ones, and after them those that take their time over the head of a request:
    somebody who opens connections and sends a byte now and then must not keep everybody else out.

    Args:
        limit: Connections open at once. Each acceptor may exceed it by one, which it took in when an
            idle connection was at hand that had found work before it could be closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0
        self._idle: dict[trio.CancelScope, float] = {}
        self._slow: dict[trio.CancelScope, float] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._crowd_told = False

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._open

    @property
    def crowded(self) -> bool:
        """Whether so many are open that none should be kept in order to wait."""
        return self._open > CROWDED * self._limit

    async def room(self) -> None:
        """Wait until one more connection fits, if need be in place of an idle one."""
        while self._open >= self._limit:
            with trio.CancelScope() as scope:
                for waiting in (self._idle, self._slow):
                    for since in waiting.values():
                        scope.deadline = min(scope.deadline, since + SETTLING)
                        break
                if scope.deadline <= trio.current_time():
                    return
                await self._changed.park()

    def enter(self) -> None:
        """Count a new connection; above the limit the longest idle one is closed for it."""
        self._open += 1
        if self._open > self._limit:
            self.close_longest_idle()
        if self.crowded and not self._crowd_told:
            self._crowd_told = True
            logger.warning(
                "%d of at most %d connections are open: polls are answered at once, and have to ask again",
                self._open,
                self._limit,
            )

    def leave(self) -> None:
        """Count a connection that is closed."""
        self._open -= 1
        self._changed.unpark_all()
        if self._open < self._limit // 2:
            self._crowd_told = False

    def idle(self, limit: float) -> AbstractContextManager[trio.CancelScope]:
        """Mark the calling connection idle in the block, which ends early when it is to be closed.

        Args:
            limit: Seconds until it is to be closed anyway.
        """
        return self._mark(self._idle, limit)

    def slow(self, limit: float) -> AbstractContextManager[trio.CancelScope]:
        """Likewise, while the head of a request is not complete. A stop leaves it the time it has."""
        return self._mark(self._slow, limit)

    @contextmanager
    def _mark(self, waiting: dict[trio.CancelScope, float], limit: float) -> Iterator[trio.CancelScope]:
        now = trio.current_time()
        with trio.CancelScope(deadline=now + limit) as scope:
            waiting[scope] = now
            self._changed.unpark_all()
            try:
                yield scope
            finally:
                waiting.pop(scope, None)

    def close_longest_idle(self) -> None:
        """Close the connection that has been idle longest, or slow, if one has settled."""
        for waiting in (self._idle, self._slow):
            for scope, since in waiting.items():
                if since + SETTLING <= trio.current_time():
                    del waiting[scope]
                    scope.cancel()
                    return
                break

    def close_idle(self) -> None:
        """Close every idle connection."""
        for scope in self._idle:
            scope.cancel()
