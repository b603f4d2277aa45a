"""How late a loop is: measured in the loop, and readable in any thread while the loop is blocked."""

from __future__ import annotations

import time

import trio

INTERVAL = 0.5


class LoopLag:
    """The lateness of one loop."""

    def __init__(self) -> None:
        self._late = 0.0
        self._due: float | None = None

    @property
    def seconds(self) -> float:
        """How late the loop was last, or already is this time. 0 while nobody measures."""
        due = self._due
        return 0.0 if due is None else max(self._late, time.monotonic() - due, 0.0)

    # A Ctrl-C may go to any line of the loop's thread; it is meant for the application.
    @trio.lowlevel.enable_ki_protection
    async def measure(self) -> None:
        """Measure in this loop. Never returns unless cancelled."""
        try:
            while True:
                self._due = time.monotonic() + INTERVAL
                await trio.sleep(INTERVAL)
                self._late = time.monotonic() - self._due
        finally:
            self._due = None
