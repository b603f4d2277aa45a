"""What crosses from one thread to the Trio loop of another."""

from __future__ import annotations

from contextlib import suppress

import trio


class ThreadsafeEvent:
    """An event that any thread may set, and that one Trio task waits for, time and again."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def attach(self) -> None:
        """Make this loop the one that waits. What was set before does not count."""
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        """Wake the task that waits, or that waits next. From any thread; does nothing before ``attach``."""
        if self._token is not None:
            with suppress(trio.RunFinishedError):  # then nobody waits any more
                self._token.run_sync_soon(self._set, idempotent=True)

    async def wait(self) -> None:
        """Wait until it was set since the last wait.

        Cancellation:
            Safe: nothing is lost.
        """
        await self._event.wait()
        self._event = trio.Event()

    def _set(self) -> None:
        self._event.set()
