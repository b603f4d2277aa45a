"""The connections to a state manager, separate for each event loop, since none works in another one.

Name lookups have separate threads. Trio looks names up in threads of its default limiter. Nodes may keep all
of those busy, and a runtime that waited for one of them could not reach its state manager.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Hashable
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

import trio

from exotrio._http.endpoint import Endpoint
from exotrio._http.event_loop import event_loop, running_loop
from exotrio._http.exchange import Sender
from exotrio._http.network import Network
from exotrio._shared import deadlines
from exotrio.errors import LifecycleError

if TYPE_CHECKING:
    from types import AsyncGeneratorType

    from exotrio._http.event_loop import Limiter

log = logging.getLogger("exotrio")

MAX_LOOKUPS = 40
"""Lookups at once in one Trio loop. An unanswered one keeps its thread until the system gives it up."""

_is_installed: trio.lowlevel.RunVar[bool] = trio.lowlevel.RunVar("exotrio lookups", default=False)


class Admission:
    """Admits as many exchanges at once as ``limiter`` has tokens.

    While it has some this takes no step of the event loop, which was a thirtieth of the time of a hop.
    """

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter

    async def __aenter__(self) -> None:
        # Only Trio's: before 4.15, anyio's may keep a token that it reserved for a cancelled task.
        if isinstance(self._limiter, trio.CapacityLimiter) and self._limiter.available_tokens:
            self._limiter.acquire_nowait()
        else:
            await self._limiter.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The way to a state manager from one event loop.

    Attributes:
        sender: Carries requests.
        limiter: Admits a number of exchanges at once: each one over a network has a connection.
        closer: Closes the connections when it is closed, which the event loop does at its end. It refers to
            no other object here, so that a client is collected as garbage before its connections are.
    """

    sender: Sender
    limiter: Admission
    closer: AsyncGeneratorType[None] | None = None


class Connections:
    """The pools of all event loops that talk to one state manager, each for ``tasks`` exchanges at once."""

    def __init__(self, endpoint: Endpoint, tasks: int) -> None:
        self._endpoint = endpoint
        self._tasks = tasks
        self._pools: dict[Hashable, Pool] = {}
        self._embedded: Pool | None = None
        if endpoint.transport is not None:
            sender: object = endpoint.transport  # it leads into this process, without messages of HTTP
            if not isinstance(sender, Sender):
                from exotrio._http.given import GivenTransport  # here, since it imports httpx

                sender = GivenTransport(endpoint.transport, endpoint)
            self._embedded = Pool(sender=sender, limiter=Admission(trio.CapacityLimiter(tasks)))

    async def pool(self) -> Pool:
        """Return the pool of the caller's event loop. It connects when first used.

        Raises:
            LifecycleError: there is no event loop, or it is not the one of an embedded state manager.
        """
        if self._embedded is not None:
            if not trio.lowlevel.in_trio_task():
                raise LifecycleError(
                    "an embedded state manager runs in a Trio loop, and was called outside of it",
                    fix="call it from that loop; or serve it on a port, with python -m exotrio server",
                )
            return self._embedded
        loop = running_loop()
        return self._pools.get(loop) or await self._open(loop)

    async def _open(self, loop: Hashable) -> Pool:
        for other, pool in list(self._pools.items()):
            ended = pool.closer is not None and pool.closer.ag_frame is None
            if ended or _is_closed(other):
                self._pools.pop(other, None)
        if trio.lowlevel.in_trio_task():
            _separate_lookups()
        network = open_network(self._endpoint)
        closer = cast("AsyncGeneratorType[None]", _close_at_the_end(network))
        await anext(closer)
        pool = self._pools[loop] = Pool(
            sender=network,
            limiter=Admission(event_loop().CapacityLimiter(self._tasks)),
            closer=closer,
        )
        return pool

    async def aclose(self) -> None:
        """Close the connections of the caller's event loop. Safe to call twice."""
        pool = self._pools.pop(running_loop(), None) if self._pools else None
        if pool is not None and pool.closer is not None:
            await pool.closer.aclose()


def _is_closed(loop: Hashable) -> bool:
    """Return whether a loop of asyncio was closed, which it can be without ending its generators."""
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and isinstance(loop, asyncio.AbstractEventLoop) and loop.is_closed()


async def _close_at_the_end(network: Network) -> AsyncGenerator[None]:
    """Wait to be closed, then close the connections.

    Trio and asyncio close their async generators when they end, and asyncio also those that are collected as
    garbage. So a client that was not closed leaves no connection open.
    """
    try:
        yield
    finally:
        loop = event_loop()
        with loop.CancelScope(deadline=loop.current_time() + deadlines.HANG_UP, shield=True):
            await network.aclose()


def open_network(endpoint: Endpoint) -> Network:
    """Return a sender for one event loop, which connects when it is first used."""
    if endpoint.plaintext:
        _warn_of_plaintext(endpoint.shown)
    return Network(endpoint)


@cache
def _warn_of_plaintext(uri: str) -> None:
    log.warning("the API key travels unencrypted to %s: use https:// off this machine", uri)


def _separate_lookups() -> None:
    """Give the name lookups of this Trio loop separate threads, unless the application has set a resolver."""
    if not _is_installed.get():
        _is_installed.set(True)
        other = trio.socket.set_custom_hostname_resolver(_Resolver())
        if other is not None:
            trio.socket.set_custom_hostname_resolver(other)


class _Resolver(trio.abc.HostnameResolver):
    """Does what Trio does without a resolver, in separate threads. A cancelled lookup keeps its thread."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(MAX_LOOKUPS)

    async def getaddrinfo(self, *args: Any, **options: Any) -> Any:
        try:
            return await trio.to_thread.run_sync(
                partial(socket.getaddrinfo, *args, **options), limiter=self._limiter, abandon_on_cancel=True
            )
        except RuntimeError as error:
            # No thread can be started: the host cannot be reached now, which is not the caller's error.
            raise OSError(errno.EAGAIN, str(error)) from error

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        return await trio.to_thread.run_sync(socket.getnameinfo, sockaddr, flags, abandon_on_cancel=True)
