"""From asyncio to Trio and back: one call in a Trio loop of its own, in a thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

if TYPE_CHECKING:
    import asyncio

    from outcome import Outcome

T = TypeVar("T")


def in_asyncio() -> bool:
    """Whether the caller runs in asyncio, and not in Trio."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or trio.lowlevel.in_trio_task():
        return False
    return asyncio._get_running_loop() is not None


async def in_trio_thread(main: Callable[[], Awaitable[T]]) -> T:
    """Run ``main`` in Trio, for a caller in asyncio, and return what it returns.

    Cancellation:
        Cancels ``main`` and waits for its end; another one does not wait.
    """
    import asyncio  # here: it is running, but who only imports exotrio need not load it

    call = _Call(main, asyncio.get_running_loop())
    # Trio's threads are daemons: a server that does not answer cannot keep the interpreter from exiting.
    trio.lowlevel.start_thread_soon(lambda: trio.run(call.run), call.deliver, "exotrio call")
    try:
        result = await asyncio.shield(call.over)
    except asyncio.CancelledError:
        call.cancel()
        await asyncio.wait([call.over])
        raise
    return result.unwrap()


class _Call(Generic[T]):
    """One call. Only ``run`` and ``deliver`` are called in its thread."""

    def __init__(self, main: Callable[[], Awaitable[T]], loop: asyncio.AbstractEventLoop) -> None:
        self._main = main
        self._loop = loop
        self.over: asyncio.Future[Outcome[T]] = loop.create_future()
        self._scope = trio.CancelScope()
        self._lock = threading.Lock()
        self._token: trio.lowlevel.TrioToken | None = None
        self._cancelled = False

    async def run(self) -> T:
        with self._lock:
            self._token = trio.lowlevel.current_trio_token()
            if self._cancelled:
                self._scope.cancel()
        with self._scope:
            return await self._main()
        raise RuntimeError("cancelled")  # nobody looks: the caller was cancelled too

    def deliver(self, result: Outcome[T]) -> None:
        with suppress(RuntimeError):  # asyncio's loop is closed
            self._loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: Outcome[T]) -> None:
        if not self.over.done():
            self.over.set_result(result)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            token = self._token
        if token is not None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._scope.cancel)
