"""Threads of plain ``def`` nodes, which nobody can interrupt, and what becomes of those left behind.

A thread whose node timed out, or was given up by the stop path, runs on: its worker no longer waits
for it. It takes no place from the workers, so a node that hangs does not stop the others. But it
holds memory, and perhaps a connection; so there is a bound: once ``most_left`` of them run, plain
``def`` nodes are neither claimed nor begun until one ends. ``async def`` nodes go on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import trio

log = logging.getLogger("exotrio.worker")

MOST_LEFT_PER_WORKER = 4


class Threads:
    """Calls functions in threads, and counts those it no longer waits for.

    Args:
        most_left: Threads left behind from which on ``full`` is true.
        changed: Called in the loop when ``full`` may have changed.
    """

    def __init__(
        self, most_left: int = MOST_LEFT_PER_WORKER, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._most_left = most_left
        self._changed = changed
        self.left = 0

    @property
    def full(self) -> bool:
        """Whether so many were left behind that no other thread should be begun."""
        return self.left >= self._most_left

    async def call(self, function: Callable[[], Any], what: str) -> Any:
        """Return what ``function`` returns in a thread.

        Args:
            function: What to call.
            what: Names it in the log.

        Cancellation:
            Leaves the thread behind. What it returns or raises later is logged and dropped.
        """
        thread = _Thread(function)
        # A limiter of its own: in a shared one, a thread left behind would keep a worker's place.
        limiter = anyio.CapacityLimiter(1)
        try:
            # Boxed, since Trio refuses a thread that returns a coroutine, as decorated methods may.
            box = await anyio.to_thread.run_sync(thread.run, abandon_on_cancel=True, limiter=limiter)
            return box[0]
        finally:
            began = limiter.borrowed_tokens > 0
            if began and thread.leave(lambda did: self._ended(what, did)):
                self._leave(what)

    def _leave(self, what: str) -> None:
        self.left += 1
        log.warning("%s goes on in its thread, which nobody waits for any more", what)
        if self.left == self._most_left:
            log.error(
                "%d threads were left behind by plain def nodes and still run: "
                "no such node is begun until one of them ends",
                self.left,
            )
        self._changed()

    def _ended(self, what: str, did: str) -> None:
        was_full = self.full
        self.left -= 1
        log.warning("%s %s in its thread at last, which is ignored", what, did)
        if was_full and not self.full:
            log.info("plain def nodes are begun again")
        self._changed()


class _Thread:
    """One call. Whether it ended or was left first is decided under a lock."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._did = ""
        self._report: Callable[[], None] | None = None

    def run(self) -> list[Any]:
        did = "returned"
        try:
            return [self._function()]
        except BaseException as error:
            # The kind only: the text may hold the node's secrets.
            did = f"raised {type(error).__name__}"
            raise
        finally:
            with self._lock:
                self._did = did
                report = self._report
            if report is not None:
                report()

    def leave(self, ended: Callable[[str], None]) -> bool:
        """Have ``ended`` called in the loop when the call is over; False if it is over now."""
        token = trio.lowlevel.current_trio_token()

        def report() -> None:
            with suppress(trio.RunFinishedError):  # then nobody counts any more
                token.run_sync_soon(ended, self._did)

        with self._lock:
            if self._did:
                return False
            self._report = report
            return True
