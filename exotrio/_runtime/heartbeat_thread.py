"""The thread that sends heartbeats, with its own Trio loop, and how it and the runtime's loop call each
other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial

import trio

from exotrio._runtime.stop import Stop
from exotrio._shared import deadlines
from exotrio._shared.deadlines import join_at_exit
from exotrio._util.crossing import call_in_loop

log = logging.getLogger("exotrio.heartbeat")


class HeartbeatThread:
    """A thread with a Trio loop, which the runtime creates and ends. A defect in it stops the runtime."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._runtime_loop = trio.lowlevel.current_trio_token()
        self._over = trio.Event()
        self._ending = False
        self._loop: trio.lowlevel.TrioToken | None = None

    async def run(self, body: Callable[[], Awaitable[None]], end: Callable[[], None]) -> None:
        """Run ``body`` in the thread. Never returns unless cancelled.

        Cancellation:
            Calls ``end`` in the thread, after which ``body`` should return soon. Waits until the thread
            has ended, for ``deadlines.CLOSE`` at most; then it is left to itself until the process ends.
        """
        # A daemon: if it hangs, it must not keep the process from ending.
        # In this context, so that its log lines have the phase too.
        target = partial(copy_context().run, self._run, body)
        thread = threading.Thread(target=target, name="exotrio heartbeat", daemon=True)
        thread.start()
        try:
            await trio.sleep_forever()
        finally:
            self._ending = True
            call_in_loop(self._loop, end)
            with trio.move_on_after(deadlines.CLOSE, shield=True):
                await self._over.wait()
            # As long as it refers to the user's code, Python does not flush files that this left open.
            join_at_exit(thread)

    def call_back(self, function: Callable[..., object], *args: object) -> None:
        """Call ``function`` in the runtime's loop, when that gets to it. From the thread."""
        call_in_loop(self._runtime_loop, self._guarded, function, *args)

    def _guarded(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except Exception as error:  # out of here it would tear down the loop, which may be the application's
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
        # First it makes its loop known, then it checks whether ``run`` was cancelled before: either ``run``
        # reaches this loop, or the flag is seen here.
        self._loop = trio.lowlevel.current_trio_token()
        if not self._ending:
            await body()
