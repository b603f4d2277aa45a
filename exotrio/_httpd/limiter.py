"""How many connections are open, and which of them may be closed to make room.

A connection is keyless until the app says that one of its requests came from somebody with the key or a
session. Keyless ones have a share, a time in all, and one answer each, so that strangers cannot hold the
connections of those who work here, whatever they send or leave unread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio

CROWDED = 0.75
"""Share of the connections above which nobody should keep one in order to wait: the others are for those
who have something to say, heartbeats for one, and a connection that waits at the server is not idle."""
KEYLESS = 0.5
"""Share of the connections that may be keyless at once. Everybody is at first: when all runtimes of a busy
machine connect at once, their requests follow late, and closing them would lose what stock ones report.
Strangers cannot make it crowded for the others, who close them one by one when they need all connections."""
MIN_KEYLESS = 32
"""Keyless connections that are possible however low the limit is."""
SETTLING = 1.0
"""Seconds a connection is left alone after it was answered."""
KEYLESS_SETTLING = 0.1
"""Seconds a new connection is left alone. Without them a burst of new connections would close each other
before their first requests are read; if they were many, a few strangers would hold up all who connect."""


logger = logging.getLogger("exotrio.manager.http")


class OpenConnection:
    """One connection that the limiter counts.

    Args:
        limiter: Which counts it.
        scope: What it has to run in; the limiter cancels it to close it at once.

    Attributes:
        is_authenticated: Whether one of its requests proved that its client has the key or a session.
    """

    def __init__(self, limiter: ConnectionLimiter, scope: trio.CancelScope) -> None:
        self.limiter = limiter
        self.scope = scope
        self.is_authenticated = False

    def mark_authenticated(self) -> None:
        """Take the limits of strangers off: a request on it came from somebody with the key or a session."""
        if not self.is_authenticated:
            self.is_authenticated = True
            self.scope.deadline = math.inf
            self.limiter.count_authenticated(self)

    @contextmanager
    def idle(self, limit: float) -> Iterator[None]:
        """Mark it idle in the block, which ends early when it is to be closed.

        Args:
            limit: Seconds until it is to be closed anyway.
        """
        with trio.CancelScope(deadline=trio.current_time() + limit) as scope, self.limiter.marked_idle(scope):
            yield


class ConnectionLimiter:
    """Counts connections and remembers which may be closed to make room.

    Those are the keyless ones, oldest first, and after them the idle ones, longest idle first.

    Args:
        limit: Connections open at once. Each acceptor may exceed it by one, which it took in when an
            idle connection was at hand that had found work before it could be closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._max_keyless = max(MIN_KEYLESS, int(limit * KEYLESS))
        self._open = 0
        self._authenticated = 0
        # Both ordered by the time that is their value.
        self._keyless: dict[OpenConnection, float] = {}
        self._idle: dict[trio.CancelScope, float] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._crowd_told = False
        self._strangers_told = False

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._open

    @property
    def crowded(self) -> bool:
        """Whether so many are open, not counting keyless ones, that none should be kept in order to wait."""
        return self._authenticated > CROWDED * self._limit

    async def room(self) -> None:
        """Wait until one more connection fits, if need be in place of a keyless or an idle one."""
        while self._is_full:
            at = self._closable_at()
            if at <= trio.current_time():
                return
            with trio.CancelScope(deadline=at):
                await self._changed.park()

    def enter(self, limit: float) -> OpenConnection:
        """Count a new connection; above the limits another one is closed for it.

        Args:
            limit: Seconds that it may last while it is keyless.
        """
        if self._is_full:
            # No idle one for a stranger above the share, which another acceptor may have filled meanwhile.
            self.close_one(also_idle=self._open >= self._limit)
        now = trio.current_time()
        connection = OpenConnection(self, trio.CancelScope(deadline=now + limit))
        self._open += 1
        self._keyless[connection] = now
        return connection

    def leave(self, connection: OpenConnection) -> None:
        """Stop counting a connection that is closed."""
        self._open -= 1
        self._authenticated -= connection.is_authenticated
        self._keyless.pop(connection, None)
        self._changed.unpark_all()
        if self._open < self._limit // 2:
            self._crowd_told = False
        if len(self._keyless) < self._max_keyless // 2:
            self._strangers_told = False

    def count_authenticated(self, connection: OpenConnection) -> None:
        """Count a connection among those that are not keyless."""
        self._authenticated += 1
        self._keyless.pop(connection, None)
        self._changed.unpark_all()
        if self.crowded and not self._crowd_told:
            self._crowd_told = True
            logger.warning(
                "%d of at most %d connections are open: polls are answered at once, and have to ask again",
                self._open,
                self._limit,
            )

    @contextmanager
    def marked_idle(self, scope: trio.CancelScope) -> Iterator[None]:
        """Let ``scope``, in which a connection waits for a request, be cancelled to make room."""
        self._idle[scope] = trio.current_time()
        self._changed.unpark_all()
        try:
            yield
        finally:
            self._idle.pop(scope, None)

    def close_one(self, *, also_idle: bool = True) -> None:
        """Close the keyless connection that is oldest, or else the one idle longest, if it has settled.

        Args:
            also_idle: False: only a keyless one.
        """
        now = trio.current_time()
        for connection, since in self._keyless.items():
            if since + KEYLESS_SETTLING <= now:
                del self._keyless[connection]
                connection.scope.cancel()
                self._tell_of_strangers()
                return
            break
        for scope, since in self._idle.items() if also_idle else ():
            if since + SETTLING <= now:
                del self._idle[scope]
                scope.cancel()
            return

    def close_idle(self) -> None:
        """Close every idle connection."""
        for scope in self._idle:
            scope.cancel()

    @property
    def _is_full(self) -> bool:
        return self._open >= self._limit or len(self._keyless) >= self._max_keyless

    def _closable_at(self) -> float:
        """Return when a connection can be closed to make room; infinity if none can."""
        at = next(iter(self._keyless.values()), math.inf) + KEYLESS_SETTLING
        if self._open < self._limit:
            return at
        return min(at, next(iter(self._idle.values()), math.inf) + SETTLING)

    def _tell_of_strangers(self) -> None:
        if not self._strangers_told:
            self._strangers_told = True
            logger.warning(
                "a connection without a key was closed to make room for a new one: %d are open, %d of them"
                " without a key. Find out who opens them",
                self._open,
                len(self._keyless) + 1,
            )
