"""The number of open connections, and which of them are closed to make room for new ones.

A connection is keyless until one of its requests is authenticated (rule 3 of ``_httpd``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import trio

CROWDED = 0.75
"""Share of the connections above which no request should wait at the server. A connection with a waiting
request is not idle, so it cannot be closed; the rest is kept for requests such as heartbeats."""
KEYLESS = 0.5
"""Share of the connections that may be keyless at once. Each connection is keyless at first: when all
runtimes of a busy machine connect at the same time, their requests arrive late, and closing these connections
would lose the outcomes of stock runtimes. New connections can always displace keyless ones."""
MIN_KEYLESS = 32
"""Connections without a key that are allowed also with a lower limit."""
SETTLING = 1.0
"""Seconds an idle connection is kept after its last response."""
KEYLESS_SETTLING = 0.1
"""Seconds a new connection is kept. Without it, a burst of new connections would close each other before
their first requests are read; with a much longer time, a few clients without a key would delay all others."""

logger = logging.getLogger("exotrio.manager.http")


class OpenConnection:
    """One connection that the limiter counts. It is served in ``scope``, which is cancelled to close it.

    Attributes:
        requests: How many have begun.
    """

    def __init__(self, limiter: ConnectionLimiter, scope: trio.CancelScope) -> None:
        self.limiter = limiter
        self.scope = scope
        self.is_authenticated = False
        self.requests = 0
        self._sender: Hashable = None
        self._requests_of_sender = 0
        self._on_lost: Callable[[], object] | None = None

    def mark_authenticated(self) -> None:
        """Lift the limits of keyless connections: a request came with the key or a session."""
        if not self.is_authenticated:
            self.is_authenticated = True
            self.scope.deadline = math.inf
            self.limiter.count_authenticated(self)

    def call_when_lost(self, sender: Hashable, function: Callable[[], object]) -> None:
        """Have ``lost`` call ``function`` if all requests come from ``sender``: once for each request."""
        self._requests_of_sender = self._requests_of_sender + 1 if sender == self._sender else 1
        self._sender, self._on_lost = sender, function

    def lost(self) -> None:
        """Do what ``call_when_lost`` asked for: the client has closed the connection without notice."""
        if self._on_lost is not None and self._requests_of_sender == self.requests > 1:
            self._on_lost()


class ConnectionLimiter:
    """Counts connections and closes some to make room: keyless ones, oldest first, then the longest idle.

    Args:
        limit: Connections open at once. Each acceptor may exceed it by one: it accepts when an idle
            connection can be closed, and that one may get a request before it is.

    Attributes:
        open: How many connections are open.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._max_keyless = max(MIN_KEYLESS, int(limit * KEYLESS))
        self.open = 0
        self._authenticated = self._authenticated_idle = 0
        # Both ordered by the time that is their value.
        self._keyless: dict[OpenConnection, float] = {}
        self._idle: dict[trio.CancelScope, float] = {}
        self._changed = trio.lowlevel.ParkingLot()
        self._crowd_logged = False
        self._keyless_logged = False

    @property
    def crowded(self) -> bool:
        """Whether so many authenticated connections are in use that no request should wait at the server."""
        return self._authenticated - self._authenticated_idle > CROWDED * self._limit

    async def wait_for_room(self) -> None:
        """Wait until one more connection fits, if necessary in place of a keyless or an idle one."""
        while self._is_full:
            at = self._closable_at()
            if at <= trio.current_time():
                return
            with trio.CancelScope(deadline=at):
                await self._changed.park()

    def enter(self, limit: float) -> OpenConnection:
        """Count a new connection, keyless for ``limit`` s at most; above the limits, close another one."""
        if self._is_full:
            # Another acceptor may have filled the last room since this one waited for it. If only the share
            # of keyless connections is full, no idle one has to be closed.
            self.close_one(also_idle=self.open >= self._limit)
        now = trio.current_time()
        connection = OpenConnection(self, trio.CancelScope(deadline=now + limit))
        self.open += 1
        self._keyless[connection] = now
        return connection

    def leave(self, connection: OpenConnection) -> None:
        self.open -= 1
        self._authenticated -= connection.is_authenticated
        self._keyless.pop(connection, None)
        self._changed.unpark_all()
        if self.open < self._limit // 2:
            self._crowd_logged = False
        if len(self._keyless) < self._max_keyless // 2:
            self._keyless_logged = False

    def count_authenticated(self, connection: OpenConnection) -> None:
        self._authenticated += 1
        self._keyless.pop(connection, None)
        self._changed.unpark_all()
        if self.crowded and not self._crowd_logged:
            self._crowd_logged = True
            logger.warning(
                "%d of at most %d connections are in use: long polls return at once, until there are fewer",
                self._authenticated - self._authenticated_idle,
                self._limit,
            )

    @contextmanager
    def idle(self, connection: OpenConnection, limit: float) -> Iterator[None]:
        """Cancel the block, in which a connection waits for a request, to make room, or after ``limit`` s."""
        now = trio.current_time()
        self._authenticated_idle += connection.is_authenticated
        with trio.CancelScope(deadline=now + limit) as scope:
            self._idle[scope] = now
            self._changed.unpark_all()
            try:
                yield
            finally:
                self._idle.pop(scope, None)
                self._authenticated_idle -= connection.is_authenticated

    def close_one(self, *, also_idle: bool = True) -> None:
        """Close the oldest keyless connection, or else (``also_idle``) the longest idle one, once settled."""
        now = trio.current_time()
        for connection, since in self._keyless.items():
            if since + KEYLESS_SETTLING <= now:
                del self._keyless[connection]
                connection.scope.cancel()
                self._warn_of_keyless()
                return
            break
        for scope, since in self._idle.items() if also_idle else ():
            if since + SETTLING <= now:
                del self._idle[scope]
                scope.cancel()
            return

    def close_idle(self) -> None:
        for scope in self._idle:
            scope.cancel()

    @property
    def _is_full(self) -> bool:
        return self.open >= self._limit or len(self._keyless) >= self._max_keyless

    def _closable_at(self) -> float:
        """Return when a connection can be closed to make room; infinity if none can."""
        at = next(iter(self._keyless.values()), math.inf) + KEYLESS_SETTLING
        if self.open < self._limit:
            return at
        return min(at, next(iter(self._idle.values()), math.inf) + SETTLING)

    def _warn_of_keyless(self) -> None:
        if not self._keyless_logged:
            self._keyless_logged = True
            logger.warning(
                "closed a connection that sent no key, to make room: %d connections are open, %d of them"
                " without a key. Find out which clients open them",
                self.open,
                len(self._keyless) + 1,
            )
