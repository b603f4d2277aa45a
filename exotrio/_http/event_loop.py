"""The event loop that a request is made in: Trio's or asyncio's."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeAlias

import trio

from exotrio.errors import LifecycleError

if TYPE_CHECKING:
    import anyio

    Scope: TypeAlias = trio.CancelScope | anyio.CancelScope
    Limiter: TypeAlias = trio.CapacityLimiter | anyio.CapacityLimiter


class EventLoop(Protocol):
    """What requests use of ``trio``, or of ``anyio`` under asyncio.

    They do not use ``anyio`` under Trio, where it would make a short request in process a tenth slower.
    """

    def current_time(self) -> float: ...

    def CancelScope(self, *, deadline: float = ..., shield: bool = ...) -> Scope: ...

    def CapacityLimiter(self, total_tokens: int) -> Limiter: ...

    def fail_after(self, seconds: float, /) -> AbstractContextManager[object]:
        """Raise ``trio.TooSlowError`` (Trio) or ``TimeoutError`` (asyncio) when the time is up."""


def event_loop() -> EventLoop:
    """Return the functions for the caller's event loop; raise LifecycleError if there is none."""
    if trio.lowlevel.in_trio_task():
        return trio
    running_loop()
    import anyio  # here, since only asyncio needs it

    return anyio


def running_loop() -> Hashable:
    """Return an object that identifies the caller's event loop; raise LifecycleError if there is none."""
    if trio.lowlevel.in_trio_task():
        return trio.lowlevel.current_trio_token()
    asyncio = sys.modules.get("asyncio")
    loop: Hashable = asyncio and asyncio._get_running_loop()
    if loop is None:
        raise LifecycleError(
            "a state manager was called outside of an event loop",
            fix="call it from a function that trio.run(...) or asyncio.run(...) runs",
        )
    return loop
