"""One connection to the application: what is sent, and all that comes back until the server closes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import trio
import trio.testing

from exotrio._httpd import ConnectionLimiter, Limits
from exotrio._httpd.budget import InFlight
from exotrio._httpd.connection import serve_connection
from exotrio._httpd.exchange import ServerState

TEST_TIMEOUT = 600.0
"""Seconds, mostly of virtual time: longer than all limits of the server together."""
MAX_COMPUTING = 20.0
"""Seconds of computing that one exchange may take before it counts as a hang."""
STREAM = b"text/event-stream"

Piece = tuple[bytes, float]
"""What to send, and the seconds to wait before."""


async def exchange(app: Any, pieces: Sequence[Piece], *, half_close: bool = False) -> bytes:
    """Return what the application answers on a connection over memory."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_serve, app, theirs)
        return await converse(ours, pieces, half_close=half_close)


async def converse(
    stream: trio.abc.HalfCloseableStream, pieces: Sequence[Piece], *, half_close: bool
) -> bytes:
    """Send pieces, and return what is answered until the server closes.

    A stream of events, which has no end, is read for a while and then left.

    Args:
        half_close: Close our side after the last piece.
    """
    began, received = time.thread_time(), b""
    with trio.fail_after(TEST_TIMEOUT):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(_send, stream, pieces, half_close)
            while chunk := await _receive(stream):
                received += chunk
                if STREAM in received and received.count(b"\n\n") > 2:
                    break
            nursery.cancel_scope.cancel()
    assert time.thread_time() - began < MAX_COMPUTING, "it took too much computing"
    return received


async def _serve(app: Any, stream: Any) -> None:
    limits = Limits()
    client = ("127.0.0.1", 50_000)
    server = ServerState(
        app=app,
        limits=limits,
        stopping=trio.Event(),
        limiter=ConnectionLimiter(limits.max_connections),
        in_flight=InFlight(limits.max_in_flight),
    )
    connection = server.limiter.enter(limits.keyless)
    with connection.scope:
        await serve_connection(server, stream, connection, client=client)
    await trio.aclose_forcefully(stream)


async def _send(stream: trio.abc.HalfCloseableStream, pieces: Sequence[Piece], half_close: bool) -> None:
    try:
        for data, pause in pieces:
            await trio.sleep(pause)
            if data:
                await stream.send_all(data)
        if half_close:
            await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the server had heard enough


async def _receive(stream: trio.abc.ReceiveStream) -> bytes:
    try:
        return bytes(await stream.receive_some(65536))
    except trio.BrokenResourceError:
        return b""
