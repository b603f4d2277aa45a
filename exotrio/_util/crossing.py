"""Calls and events from any thread to a Trio loop in another thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TypeVarTuple

import trio

Ts = TypeVarTuple("Ts")


def call_in_loop(
    token: trio.lowlevel.TrioToken | None, function: Callable[[*Ts], object], *args: *Ts, once: bool = False
) -> None:
    """Call ``function`` in the Trio loop of ``token``, soon. From any thread, and from a signal handler.

    Without a token, or once the loop has ended, nothing happens. An error of the function would end the loop.
    With ``once``, several calls become one, as long as the loop has not run the first of them.
    """
    if token is not None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(function, *args, idempotent=once)


class ThreadsafeEvent:
    """An event that any thread may set repeatedly, and that one Trio task waits for repeatedly."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def attach(self) -> None:
        """Make this loop the one that waits. Earlier calls of ``set`` do not count."""
        self._event = trio.Event()
        self._token = trio.lowlevel.current_trio_token()

    def set(self) -> None:
        """Wake the task that waits, or that waits next. From any thread; does nothing before ``attach``."""
        call_in_loop(self._token, self._set, once=True)

    async def wait(self) -> None:
        """Wait until it was set since the last wait. Cancellation is safe: nothing is lost."""
        await self._event.wait()
        self._event = trio.Event()

    def _set(self) -> None:
        self._event.set()
