"""The connections to a state manager, separate for each event loop, since none works in another one.

Name lookups have separate threads. Trio looks names up in threads of its default limiter. Nodes may keep all
of those busy, and a runtime that waited for one of them could not reach its state manager.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Hashable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import trio

from exotrio._http.endpoint import Endpoint
from exotrio._http.event_loop import closing_scope, event_loop, running_loop
from exotrio.errors import LifecycleError

if TYPE_CHECKING:
    from types import AsyncGeneratorType

    import httpx

    from exotrio._http.event_loop import Limiter

log = logging.getLogger("exotrio")

KEEPALIVE_EXPIRY = 4.0
"""Below the 5 s after which common servers close: a request must not cross the close on the wire."""
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


class InsideAnswer(Protocol):
    """What an ``InsideTransport`` answers."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


@runtime_checkable
class InsideTransport(Protocol):
    """A transport to a state manager in this process that also answers without messages of HTTP."""

    async def answer(
        self, method: str, target: str, headers: Mapping[str, str], content: bytes | None
    ) -> InsideAnswer:
        """Return the answer to a request with these headers, whose names are in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The connections of one event loop.

    Attributes:
        transport: Sends requests.
        limiter: Admits as many exchanges at once as the pool has connections for. httpcore loses connections
            for good when requests are cancelled while more than ``max_connections`` are queued in it.
        inside: The same transport, if it leads into this process and answers without HTTP.
        closer: Closes the connections when it is closed, which the event loop does at its end. It refers to
            no other object here, so that a client is collected as garbage before its connections are.
    """

    transport: httpx.AsyncBaseTransport
    limiter: Admission
    inside: InsideTransport | None = None
    closer: AsyncGeneratorType[None] | None = None


class Connections:
    """The pools of all event loops that talk to one state manager, each for ``tasks`` exchanges at once."""

    def __init__(self, endpoint: Endpoint, tasks: int) -> None:
        self._endpoint = endpoint
        self._tasks = tasks
        self._pools: dict[Hashable, Pool] = {}
        # The owner of a transport closes it: other clients may use it.
        self._embedded: Pool | None = None
        if endpoint.transport is not None:
            transport = endpoint.transport
            self._embedded = Pool(
                transport=transport,
                limiter=Admission(trio.CapacityLimiter(tasks)),
                inside=transport if isinstance(transport, InsideTransport) else None,
            )

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
        transport = open_transport(self._endpoint, self._tasks)
        closer = cast("AsyncGeneratorType[None]", _close_at_the_end(transport))
        await anext(closer)
        pool = self._pools[loop] = Pool(
            transport=transport,
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


async def _close_at_the_end(transport: httpx.AsyncBaseTransport) -> AsyncGenerator[None]:
    """Wait to be closed, then close the connections.

    Trio and asyncio close their async generators when they end, and asyncio also those that are collected as
    garbage. So a client that was not closed leaves no connection open.
    """
    try:
        yield
    finally:
        with closing_scope():
            await transport.aclose()


class HandshakeTrace:
    """Closes a connection whose TLS handshake was cancelled, which httpcore leaves open."""

    _stream: Any = None

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Handle an event of httpcore: its ``trace`` extension."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.failed":
            with closing_scope():
                await self._stream.aclose()


def open_transport(endpoint: Endpoint, tasks: int) -> httpx.AsyncBaseTransport:
    """Return a transport that connects when first used, with connections for that many exchanges at once."""
    import ssl

    import httpx

    if endpoint.plaintext:
        _warn_of_plaintext(endpoint.shown)
    https = endpoint.uri.startswith("https:")
    pool = tasks + 4
    return httpx.AsyncHTTPTransport(
        # The system's certificates, as in the stock SDK. Without TLS an empty context, since loading
        # certificates takes 20 ms.
        verify=ssl.create_default_context() if https else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        trust_env=False,  # only settings reads the environment; stock ignores proxy variables too
        limits=httpx.Limits(
            max_connections=pool, max_keepalive_connections=pool, keepalive_expiry=KEEPALIVE_EXPIRY
        ),
    )


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
