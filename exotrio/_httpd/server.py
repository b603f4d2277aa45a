"""Accepts connections and serves an ASGI app on them until it is to stop."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import trio

from exotrio._httpd.budget import InFlight
from exotrio._httpd.connection import Address, serve_connection
from exotrio._httpd.exchange import App, ServerState
from exotrio._httpd.limiter import ConnectionLimiter, OpenConnection
from exotrio._httpd.messages import Limits

ACCEPT_PAUSE = 0.1
"""Seconds to wait after a failed accept."""

logger = logging.getLogger("exotrio.manager.http")


async def serve_http(
    app: App,
    listeners: Sequence[trio.SocketListener],
    *,
    stopping: trio.Event,
    limits: Limits | None = None,
    grace: float = 5.0,
    limiter: ConnectionLimiter | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve an ASGI app until ``stopping`` is set.

    When ``stopping`` is set the listeners close, idle connections close at once, and requests in flight
    may finish (their responses say ``connection: close``) for ``grace`` seconds; then they are cancelled.
    Long polls of the app are cancelled (``while_connected(scope)``). It calls ``mark_authenticated(scope)``
    for a request with the key or a session, whose connection is then kept open.

    Failures of the app are logged to ``exotrio.manager.http`` and answered with 500; they end nothing else.

    Args:
        app: An ASGI 3 application. It gets only ``http`` scopes, no lifespan. Its ``send`` raises an
            OSError once the client is gone or no longer reads.
        listeners: Closed by this call in any case.
        stopping: Set it to stop.
        limits: What a client may use. Defaults to ``Limits()``.
        grace: Seconds requests in flight get after ``stopping``. Defaults to 5.
        limiter: Counts connections, for callers who want to know. Defaults to a separate one.

    Cancellation:
        At once: connections are closed, requests in flight cancelled. An app that shields itself delays it.
    """
    limits = limits or Limits()
    server = ServerState(
        app=app,
        limits=limits,
        stopping=stopping,
        limiter=limiter or ConnectionLimiter(limits.max_connections),
        in_flight=InFlight(limits.max_in_flight),
    )
    async with trio.open_nursery() as nursery:
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(_accept, server, listener, nursery)
                task_status.started()
                await stopping.wait()
                accepting.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()
        server.limiter.close_idle()
        for waiting in server.waits:
            waiting.cancel()
        nursery.cancel_scope.deadline = trio.current_time() + grace


async def _accept(server: ServerState, listener: trio.SocketListener, connections: trio.Nursery) -> None:
    failing = False
    while True:
        await server.limiter.wait_for_room()
        try:
            stream = await listener.accept()
        except OSError as error:
            # Out of file descriptors or memory: the connection stays in the backlog and accept
            # would fail again at once. One line per episode, not ten a second.
            if not failing:
                logger.error("cannot accept connections, trying again: %s", error)
            failing = True
            server.limiter.close_one()
            await trio.sleep(ACCEPT_PAUSE)
            continue
        failing = False
        connections.start_soon(_serve, server, stream, server.limiter.enter(server.limits.keyless))


async def _serve(server: ServerState, stream: trio.SocketStream, connection: OpenConnection) -> None:
    try:
        with connection.scope:
            client, address = _address(stream, "getpeername"), _address(stream, "getsockname")
            await serve_connection(server, stream, connection, client=client, address=address)
    except* Exception:
        logger.exception("closed a connection after an unexpected error; this is a defect of exotrio")
    finally:
        await trio.aclose_forcefully(stream)
        server.limiter.leave(connection)


def _address(stream: trio.SocketStream, getter: str) -> Address | None:
    try:
        address = getattr(stream.socket, getter)()
    except OSError:
        # The client has already reset the connection.
        return None
    return (address[0], address[1]) if isinstance(address, tuple) else None
