"""Limits on the memory that all requests of a server use together."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import trio

LARGE = 64 * 1024
"""Bytes above which a body or a response is counted: each connection may have less at any time."""
SLOW = 5.0
"""Seconds after which a response that the client still reads may be cancelled for another one."""
MAX_VALUES = 1_500_000
"""Values in all large JSON bodies that are handled at once. A field counts once, with its name."""

logger = logging.getLogger("exotrio.manager.http")


class Budget:
    """An amount of which requests reserve parts. A request that needs more than is left waits its turn.

    Attributes:
        used: The sum of all parts. It exceeds the limit while one part alone does.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    async def acquire(self, amount: int) -> None:
        """Reserve a part once it fits; one above the limit, once nothing else is reserved.

        Cancellation:
            Nothing is reserved.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiting and self._fits(amount):
            self.used += amount
            return
        served = trio.Event()
        self._waiting.append((amount, served))
        try:
            await served.wait()
        except trio.Cancelled:
            if served.is_set():
                # Another request released enough for this one before it was cancelled.
                self.release(amount)
            else:
                self._waiting.remove((amount, served))
                # Requests that waited behind this one may fit now.
                self._serve_waiting()
            raise

    def release(self, amount: int) -> None:
        self.used -= amount
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            amount, served = self._waiting.popleft()
            self.used += amount
            served.set()

    def _fits(self, amount: int) -> bool:
        return self.used + min(amount, self.limit) <= self.limit


class InFlight:
    """Limits on the large bodies and responses of all connections together.

    A body waits until it fits, before it is read, so that no client has to send it again. Then the app may
    let it wait until the values in it fit, before it is parsed: they can take fifty times its size. A
    response is in memory already: if it does not fit, others that were not read within ``SLOW`` seconds are
    cancelled, oldest first.

    Args:
        limit: In bytes: half of it is for bodies, half for responses.
    """

    def __init__(self, limit: int) -> None:
        self.bodies = Budget(limit // 2)
        self.values = Budget(MAX_VALUES)
        self._limit = limit // 2
        self._responded = 0
        # The responses that are being written, oldest first: when that began, and the size.
        self._writes: dict[trio.CancelScope, tuple[float, int]] = {}

    def has_room(self, size: int) -> bool:
        """Return whether a response fits. Others that are read slowly are cancelled if that makes it fit."""
        now, missing = trio.current_time(), self._responded + min(size, self._limit) - self._limit
        slow = []
        for write, (began, written) in self._writes.items():
            if missing <= 0 or began + SLOW > now:
                break
            slow.append((write, began))
            missing -= written
        if missing > 0:
            return False
        for write, began in slow:
            logger.warning(
                "disconnected a client that had not read its response after %.0f s: other responses need the"
                " memory",
                now - began,
            )
            self._forget(write)
            write.cancel()
        return True

    @contextmanager
    def response(self, size: int) -> Iterator[trio.CancelScope]:
        """Count a response while the block writes it, which is cancelled if another one needs the room."""
        with trio.CancelScope() as write:
            self._writes[write] = (trio.current_time(), size)
            self._responded += size
            try:
                yield write
            finally:
                self._forget(write)

    def _forget(self, write: trio.CancelScope) -> None:
        _, size = self._writes.pop(write, (0.0, 0))
        self._responded -= size
