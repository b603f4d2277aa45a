"""Threads of plain ``def`` nodes, which nobody can interrupt: one whose node timed out, or was given
up by the stop path, runs on, and its worker no longer waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.to_thread
import trio

from exotrio._execution.stuck import LeftBehind


async def call_in_thread(function: Callable[[], Any], what: str, left: LeftBehind) -> Any:
    """Return what ``function`` returns in a thread.

    Args:
        function: What to call.
        what: Names it in the log.
        left: Told of a thread that is left behind, and of its end.

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
        if began and thread.leave(lambda did: left.ended(what, did)):
            left.add(what)


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
