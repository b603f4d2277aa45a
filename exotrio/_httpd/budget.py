"""A limit on what all requests of a server use together, such as memory."""

from __future__ import annotations

from collections import deque

import trio


class Budget:
    """An amount of which requests use parts; who needs more than is left waits, in order of arrival.

    Attributes:
        used: The sum of all parts. What is taken by ``charge`` may exceed the limit.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: deque[tuple[int, trio.Event]] = deque()

    async def acquire(self, amount: int) -> None:
        """Take a part, once it fits. One above the limit, which never fits, needs all of it.

        Cancellation:
            Nothing is taken.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiting and self._fits(amount):
            self.used += amount
            return
        mine = (amount, trio.Event())
        self._waiting.append(mine)
        try:
            await mine[1].wait()
        except trio.Cancelled:
            if mine[1].is_set():
                self.release(amount)
            else:
                self._waiting.remove(mine)
                self._serve_waiting()
            raise

    def charge(self, amount: int) -> None:
        """Take a part at once, for what is there already."""
        self.used += amount

    def release(self, amount: int) -> None:
        """Give a part back."""
        self.used -= amount
        self._serve_waiting()

    def _serve_waiting(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            amount, served = self._waiting.popleft()
            self.used += amount
            served.set()

    def _fits(self, amount: int) -> bool:
        return self.used + min(amount, self.limit) <= self.limit
