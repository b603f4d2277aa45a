"""A thread with a Trio loop of its own, in which heartbeats are sent while the runtime's loop is blocked."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from typing import TypeVarTuple

import trio

from exotrio._runtime.stop import Stop
from exotrio._util import deadlines
from exotrio._util.crossing import call_in_loop

Ts = TypeVarTuple("Ts")

log = logging.getLogger("exotrio.heartbeat")


class HeartbeatThread:
    """Made and ended by the runtime's loop.

    Args:
        stop: Is told of a defect.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._runtime_loop = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        self._ending = False
        self._loop: trio.lowlevel.TrioToken | None = None

    async def run(self, body: Callable[[], Awaitable[None]], end: Callable[[], None]) -> None:
        """Run ``body`` in the thread. Never returns unless cancelled.

        Args:
            body: Called in the thread; not at all if this was cancelled before.
            end: Called in the thread when this is cancelled. ``body`` should return soon after.

        Cancellation:
            Waits until the thread has ended, for ``deadlines.CLOSE`` at most; then it is left to itself.
        """
        # A daemon: one that hangs in spite of all must not keep the process from ending.
        # In this context, so that its log lines have the phase too.
        target = partial(copy_context().run, self._run, body)
        threading.Thread(target=target, name="exotrio heartbeat", daemon=True).start()
        try:
            await trio.sleep_forever()
        finally:
            self._ending = True
            call_in_loop(self._loop, end)
            with trio.move_on_after(deadlines.CLOSE, shield=True):
                await self._over.wait()

    def call_back(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call ``function`` in the runtime's loop, when that gets to it. From the thread."""
        call_in_loop(self._runtime_loop, self._guarded, function, *args)

    def _guarded(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        try:
            function(*args)
        except Exception as error:  # out of here it would tear down the loop, whosever it is
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        log.critical("the heartbeat failed; the runtime stops", exc_info=error)
        self._stop.fail(error)

    def _run(self, body: Callable[[], Awaitable[None]]) -> None:
        try:
            trio.run(self._main, body)
        except BaseException as error:
            self.call_back(self._fail, error)
        finally:
            self.call_back(self._over.set)

    async def _main(self, body: Callable[[], Awaitable[None]]) -> None:
        # First it makes its loop known, then it looks whether it came too late: so no end is missed.
        self._loop = trio.lowlevel.current_trio_token()
        if not self._ending:
            await body()
