"""How many connections are open, and which of them may be closed to make room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

SETTLING = 1.0
"""Seconds a connection is left alone after it was opened or answered. Without them a burst of new
connections would close each other before their first requests are read."""


class Gate:
    """Counts connections and remembers the idle ones, longest idle first.

    Args:
        limit: Connections open at once. Each acceptor may exceed it by one, which it took in when an
            idle connection was at hand that had found work before it could be closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0
        self._idle: dict[trio.CancelScope, float] = {}
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._open

    async def room(self) -> None:
        """Wait until one more connection fits, if need be in place of an idle one."""
        while self._open >= self._limit:
            with trio.CancelScope() as scope:
                for since in self._idle.values():
                    scope.deadline = since + SETTLING
                    break
                if scope.deadline <= trio.current_time():
                    return
                await self._changed.park()

    def enter(self) -> None:
        """Count a new connection; above the limit the longest idle one is closed for it."""
        self._open += 1
        if self._open > self._limit:
            self.close_longest_idle()

    def leave(self) -> None:
        """Count a connection that is closed."""
        self._open -= 1
        self._changed.unpark_all()

    @contextmanager
    def idle(self, limit: float) -> Iterator[None]:
        """Mark the calling connection idle in the block, which ends early when it is to be closed.

        Args:
            limit: Seconds until it is to be closed anyway.
        """
        now = trio.current_time()
        with trio.CancelScope(deadline=now + limit) as scope:
            self._idle[scope] = now
            self._changed.unpark_all()
            try:
                yield
            finally:
                self._idle.pop(scope, None)

    def close_longest_idle(self) -> None:
        """Close the connection that has been idle longest, if one has settled."""
        for scope, since in self._idle.items():
            if since + SETTLING <= trio.current_time():
                del self._idle[scope]
                scope.cancel()
            return

    def close_idle(self) -> None:
        """Close every idle connection."""
        for scope in self._idle:
            scope.cancel()
