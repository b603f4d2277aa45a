"""The state manager's HTTP/1.1 server: one ASGI 3 app, h11 on Trio.

It exists because a client must not be able to hang it: every wait for a client has a limit, and a stop
takes no longer than its grace. Bounded as well: connections, request heads and bodies, and what is
read ahead (one chunk per connection). Who has not proved a key gets one answer per connection, and a share
of the connections (``_http_gate``). Not served: TLS, WebSocket (an upgrade request is answered as a
plain one), HTTP/2, ASGI lifespan.

In ``_http_*``: ``messages`` (heads, limits, answers of our own; pure), ``peer`` (bytes in and out),
``exchange`` (one request), ``connection`` (one after the other), ``gate`` (how many connections).
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from socket import gaierror
from weakref import WeakSet

import trio

from exotrio._httpd.connection import Address, serve_connection
from exotrio._httpd.exchange import CROWDED, STOPPING, App, prove
from exotrio._httpd.limiter import Gate, OpenConnection
from exotrio._httpd.messages import Limits
from exotrio._httpd.peer import ClientDisconnected
from exotrio.errors import ConfigurationError, PortBusy

__all__ = [
    "CROWDED",
    "STOPPING",
    "ClientDisconnected",
    "Gate",
    "Limits",
    "open_listeners",
    "prove",
    "serve_http",
    "urls",
]

ACCEPT_PAUSE = 0.1

logger = logging.getLogger("exotrio.manager.http")

_listeners: WeakSet[trio.SocketListener] = WeakSet()


def _leave_to_parent() -> None:
    """Give up the ports in a child that was forked (by a node, say): it may live on, and accepts nothing."""
    for listener in _listeners:
        # Detached: the descriptor may be another file's by the time at which the socket object goes.
        if (fd := listener.socket.detach()) >= 0:
            os.close(fd)


os.register_at_fork(after_in_child=_leave_to_parent)


async def open_listeners(host: str, port: int, *, backlog: int | None = None) -> list[trio.SocketListener]:
    """Bind and listen on every address of a host.

    Args:
        host: Address or name of an interface of this machine. Of a name's addresses those that this
            machine lacks are left out (``localhost`` without IPv6), as long as one remains.
        port: 0 to let the kernel choose one, the same for all addresses.
        backlog: Connections the kernel keeps until they are accepted. Defaults to its maximum.

    Returns:
        Listeners that already queue connections; ``serve_http`` closes them.

    Raises:
        PortBusy: another process listens there.
        ConfigurationError: the address cannot be used for another reason.
    """
    where = f"asked to listen on {host!r}, port {port}"
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"{port} is no port", where=where, fix="choose one from 0 to 65535")
    try:
        found = await trio.socket.getaddrinfo(
            host, port, type=trio.socket.SOCK_STREAM, flags=trio.socket.AI_PASSIVE
        )
    except (gaierror, UnicodeError) as error:
        raise ConfigurationError(
            f"the host {host!r} has no address: {error}",
            where=where,
            fix="use an address of this machine, such as 127.0.0.1",
        ) from error
    listeners: list[trio.SocketListener] = []
    absent: OSError | None = None
    try:
        for address in dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found):
            try:
                listeners += await trio.open_tcp_listeners(port, host=address, backlog=backlog)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
            else:
                port = port or int(listeners[0].socket.getsockname()[1])
        if not listeners and absent is not None:
            raise absent
    except BaseException as error:
        for listener in listeners:
            listener.socket.close()
        if isinstance(error, OSError):
            raise _bind_error(error, port, where) from error
        raise
    _listeners.update(listeners)
    return listeners


def _bind_error(error: OSError, port: int, where: str) -> PortBusy | ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        return PortBusy(
            f"port {port} is in use by another process",
            where=where,
            fix="choose another port, or 0 for any free one; or stop what listens there",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConfigurationError(
            f"this user may not listen on port {port}", where=where, fix="choose a port above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return ConfigurationError(
            "the host is not an address of this machine",
            where=where,
            fix="use 127.0.0.1 for this machine only, 0.0.0.0 for every interface",
        )
    return ConfigurationError(f"cannot listen: {error.strerror or error}", where=where)


def urls(listeners: Sequence[trio.SocketListener]) -> list[str]:
    """Return the bound addresses as URLs, such as ``http://127.0.0.1:8000`` or ``http://[::1]:8000``."""
    return [_url(*listener.socket.getsockname()[:2]) for listener in listeners]


def _url(host: str, port: int) -> str:
    if isinstance(ip_address(host), IPv6Address):
        # The % before a zone must itself be escaped in a URL (RFC 6874).
        host = f"[{host.replace('%', '%25')}]"
    return f"http://{host}:{port}"


async def serve_http(
    app: App,
    listeners: Sequence[trio.SocketListener],
    *,
    stopping: trio.Event,
    limits: Limits | None = None,
    grace: float = 5.0,
    gate: Gate | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app until told to stop.

    When ``stopping`` is set the listeners close, idle connections close at once, and requests in flight
    may finish (their answers say ``connection: close``) for ``grace`` seconds; then they are cancelled.
    The app finds the event in ``scope["extensions"]["exotrio.stopping"]["event"]``, to end long polls. It
    calls ``prove(scope)`` for a request of somebody it knows, whose connection is then kept for more.

    Failures of the app are logged to ``exotrio.manager.http`` and answered 500; they end nothing.

    Args:
        app: An ASGI 3 application. It gets only ``http`` scopes, no lifespan. Its ``send`` raises an
            OSError once the client is gone or no longer reads.
        listeners: Closed by this call, however it ends.
        stopping: Set it to stop.
        limits: What a client may take. Defaults to ``Limits()``.
        grace: Seconds requests in flight get after ``stopping``. Defaults to 5.
        gate: Counts connections, for callers who want to know. Defaults to one of its own.

    Cancellation:
        At once: connections are closed, requests in flight cut. An app that shields itself delays it.
    """
    limits = limits or Limits()
    server = _Server(app, limits, stopping, gate or Gate(limits.max_connections))
    async with trio.open_nursery() as nursery:
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept, listener, nursery)
                task_status.started()
                await stopping.wait()
                accepting.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()
        server.gate.close_idle()
        nursery.cancel_scope.deadline = trio.current_time() + grace


class _Server:
    def __init__(self, app: App, limits: Limits, stopping: trio.Event, gate: Gate) -> None:
        self.gate = gate
        self._app = app
        self._limits = limits
        self._stopping = stopping

    async def accept(self, listener: trio.SocketListener, connections: trio.Nursery) -> None:
        failing = False
        while True:
            await self.gate.room()
            try:
                stream = await listener.accept()
            except OSError as error:
                # Out of file descriptors or memory: the connection stays in the backlog and accept
                # would fail again at once. One line per episode, not ten a second.
                if not failing:
                    logger.error("cannot accept connections, trying again: %s", error)
                failing = True
                self.gate.close_one()
                await trio.sleep(ACCEPT_PAUSE)
                continue
            failing = False
            connections.start_soon(self._serve, stream, self.gate.enter(self._limits.keyless))

    async def _serve(self, stream: trio.SocketStream, connection: OpenConnection) -> None:
        try:
            with connection.scope:
                await serve_connection(
                    self._app,
                    stream,
                    connection,
                    limits=self._limits,
                    stopping=self._stopping,
                    client=_address(stream, "getpeername"),
                    server=_address(stream, "getsockname"),
                )
        except* Exception:
            logger.exception("a connection ended by a defect of the server")
        finally:
            await trio.aclose_forcefully(stream)
            self.gate.leave(connection)


def _address(stream: trio.SocketStream, getter: str) -> Address | None:
    try:
        address = getattr(stream.socket, getter)()
    except OSError:
        # The client has already reset the connection.
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None
