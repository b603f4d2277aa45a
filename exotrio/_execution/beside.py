"""Where nodes run that cannot run on the Trio loop: threads, and an asyncio loop in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import trio

from exotrio._execution.stuck import MOST_LEFT_PER_WORKER, LeftBehind
from exotrio._execution.threads import call_in_thread
from exotrio._nodes.base import BaseNode, is_plain, needs_asyncio

if TYPE_CHECKING:
    from exotrio._execution.asyncio_thread import SideLoop


class Beside:
    """The threads and the asyncio loop of one runtime.

    Args:
        workers: Tasks that run nodes: what may be left behind grows with them.
        changed: Called in the Trio loop when what ``full`` says may have changed.
    """

    def __init__(self, workers: int = 1, changed: Callable[[], None] = lambda: None) -> None:
        most = MOST_LEFT_PER_WORKER * workers
        self._changed = changed
        self._threads = LeftBehind(most, "plain def nodes", "in its thread", changed)
        self._tasks = LeftBehind(most, "asyncio nodes", "in the asyncio loop", changed)
        self._loop: SideLoop | None = None

    async def aclose(self) -> None:
        """End the loop, in bounded time.

        Cancellation:
            None.
        """
        if self._loop is not None:
            with trio.CancelScope(shield=True):  # it has a deadline of its own
                await self._loop.aclose()

    def full(self, node: type[BaseNode]) -> bool:
        """Whether no state of ``node`` should be begun, for what was left behind by others."""
        if needs_asyncio(node):
            return self._tasks.full or (self._loop is not None and self._loop.blocked)
        return self._threads.full and is_plain(node)

    def stuck(self, nodes: Iterable[type[BaseNode]]) -> str:
        """Return why states of some of these are not begun; empty if all are. From any thread."""
        for node in nodes:
            if self.full(node):
                left = self._tasks if needs_asyncio(node) else self._threads
                return f"{left.why or 'a node blocks the asyncio loop'}: no such node is begun"
        return ""

    async def in_thread(self, function: Callable[[], Any], what: str) -> Any:
        """Call ``function`` in a thread; see ``call_in_thread``."""
        return await call_in_thread(function, what, self._threads)

    async def in_loop(self, function: Callable[[], Any], what: str) -> Any:
        """Call ``function``, and await what it returns, in the asyncio loop; see ``SideLoop.call``."""
        from exotrio._execution.asyncio_thread import SideLoop  # here, since it imports asyncio

        if self._loop is None or self._loop.ended:
            self._loop = SideLoop(self._tasks, self._changed)
        return await self._loop.call(function, what)
