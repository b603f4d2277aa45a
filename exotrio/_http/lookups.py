"""Name lookups for requests to a state manager, in threads of their own.

Trio looks names up in threads of its default limiter. Nodes may keep all of those busy, and a runtime
that waited for one of them could not reach its state manager.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import trio

MAX_LOOKUPS = 8
"""At once, in one Trio loop. One that is not answered keeps its thread until the system gives it up."""

_ours: ContextVar[bool] = ContextVar("exotrio looks up", default=False)
_installed: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("exotrio lookups", default=False)


@contextmanager
def own_lookups() -> Iterator[None]:
    """Let name lookups within the body, in this task and its children, not wait for other threads.

    An application that has set a resolver of its own keeps it, for us too.
    """
    if not _installed.get():
        _installed.set(True)
        other = trio.socket.set_custom_hostname_resolver(_Resolver())
        if other is not None:
            trio.socket.set_custom_hostname_resolver(other)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


class _Resolver(trio.abc.HostnameResolver):
    """Does what Trio does without a resolver, except that our own lookups have threads of their own.

    A cancelled lookup is left to its thread.
    """

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_LOOKUPS)

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        return await trio.to_thread.run_sync(
            partial(socket.getaddrinfo, *args, **options),
            limiter=self._limiter if _ours.get() else None,
            abandon_on_cancel=True,
        )

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)
