"""One HTTP/1.1 connection: its requests, one after the other; and what the app tells the server.

A connection has two tasks. One reads ahead (``Peer.read_ahead``). The other waits for a request head, runs
the app, and starts over if both sides are done and neither wants to close; only this one uses h11.

The functions that the app calls with a scope do nothing under another server, or in a test without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import h11
import trio

from exotrio._httpd.exchange import EXTENSION, Exchange, ServerState, parse, respond
from exotrio._httpd.limiter import OpenConnection
from exotrio._httpd.messages import Refusal
from exotrio._httpd.peer import Peer

Address = tuple[str, int]


async def serve_connection(
    server: ServerState,
    stream: trio.abc.HalfCloseableStream,
    connection: OpenConnection,
    *,
    client: Address | None = None,
    address: Address | None = None,
) -> None:
    """Serve the requests of one connection; return when the caller is to close it, forcefully.

    Cancellation:
        At once. The client sees a response in flight as incomplete.
    """
    peer = Peer(stream, write=server.limits.write)
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=server.limits.max_head)
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "http",
        "root_path": "",
        "client": client,
        "server": address,
    }
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.read_ahead)
        try:
            timeout, is_cut = server.limits.head, True
            while request := await _next_request(http, peer, server, connection, timeout):
                connection.requests += 1
                exchange = Exchange(request, http=http, peer=peer, server=server, connection=connection)
                if not await exchange.run(scope):
                    is_cut = exchange.is_cut
                    if _has_unread(http, peer):
                        await peer.linger()
                    break
                http.start_next_cycle()
                timeout = server.limits.idle
            if is_cut and peer.gone and not server.stopping.is_set():
                connection.lost()
        except Refusal as refusal:
            await respond(peer, refusal.status, {"detail": refusal.detail})
            await peer.linger()
        nursery.cancel_scope.cancel()


def _has_unread(http: h11.Connection, peer: Peer) -> bool:
    request_read = http.their_state in (h11.DONE, h11.MUST_CLOSE)
    return not request_read or bool(http.trailing_data[0]) or bool(peer.ready())


async def _next_request(
    http: h11.Connection, peer: Peer, server: ServerState, connection: OpenConnection, timeout: float
) -> h11.Request | None:
    """Wait ``timeout`` seconds for the start of a request, then for its head; None if there is none."""
    event = parse(http)
    if event is h11.NEED_DATA and not http.trailing_data[0]:
        chunk = b""
        if not server.stopping.is_set():
            with server.limiter.idle(connection, timeout):
                chunk = await peer.more()
        if not chunk:
            return None
        http.receive_data(chunk)
        event = parse(http)
    if event is h11.NEED_DATA:
        with trio.move_on_after(server.limits.head) as reading:
            while event is h11.NEED_DATA:
                chunk = await peer.more()
                if not chunk:
                    return None
                http.receive_data(chunk)
                event = parse(http)
        if reading.cancelled_caught:
            raise Refusal(408, f"the request head was not complete within {server.limits.head:g} s")
    assert isinstance(event, h11.Request), event
    return event


def stopping_event(scope: Mapping[str, Any]) -> trio.Event | None:
    """Return the event that is set when the server begins to stop."""
    exchange = _exchange_of(scope)
    return None if exchange is None else exchange.server.stopping


@contextmanager
def while_connected(scope: Mapping[str, Any], max_wait: float = math.inf) -> Iterator[None]:
    """Cancel the block if the client disconnects, the server begins to stop, or after ``max_wait`` seconds.

    For long polls and endless responses. A block whose last step has succeeded is not cancelled any more.
    """
    exchange = _exchange_of(scope)
    waiting = trio.CancelScope(deadline=trio.current_time() + max_wait)
    with waiting, nullcontext() if exchange is None else exchange.cancelled_when_over(waiting):
        yield


def is_crowded(scope: Mapping[str, Any]) -> bool:
    """Return whether connections are so scarce that no request should wait at the server."""
    exchange = _exchange_of(scope)
    return exchange is not None and exchange.server.limiter.crowded


def mark_authenticated(scope: Mapping[str, Any]) -> None:
    """Tell the server that a request comes from a client with the key or a session.

    Its connection may then stay open for more, and does not count among the unauthenticated ones.
    """
    if (exchange := _exchange_of(scope)) is not None:
        exchange.connection.mark_authenticated()


def call_when_lost(scope: Mapping[str, Any], sender: Hashable, function: Callable[[], object]) -> None:
    """Have ``function`` called if the client closes the connection of this request, now or between requests.

    It replaces the function of an earlier request, and must not raise. It is not called if the end of the
    connection says nothing of ``sender``, since that is a proxy's: one that had only this request, or one
    with a request for which this was not called with the same sender.
    """
    if (exchange := _exchange_of(scope)) is not None:
        exchange.connection.call_when_lost(sender, function)


async def reserve_values(scope: Mapping[str, Any], count: int) -> None:
    """Wait until ``count`` values fit among those in all large bodies; released after the request."""
    if (exchange := _exchange_of(scope)) is not None:
        await exchange.reserve_values(count)


def _exchange_of(scope: Mapping[str, Any]) -> Exchange | None:
    exchange: Exchange | None = scope.get("extensions", {}).get(EXTENSION)
    return exchange
