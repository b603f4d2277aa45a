"""One HTTP request and its response: the ASGI ``receive`` and ``send`` of one call of the app.

A request that must be refused while the app runs (its body is too long, too slow or malformed) gets its
response at once, from within ``receive``; for the app, the client has then disconnected.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import h11
import trio

from exotrio._httpd.budget import LARGE, InFlight
from exotrio._httpd.limiter import ConnectionLimiter, OpenConnection
from exotrio._httpd.messages import (
    PHRASES,
    PRIVATE,
    Limits,
    Refusal,
    http_date,
    json_response,
    read_head,
    refusal_of,
    too_large,
)
from exotrio._httpd.peer import ClientDisconnected, Peer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

FAILED = {"success": False, "detail": "internal error; the log of the state manager has the details"}
"""What a client gets when the app fails. Fixed: an exception's text could hold secrets."""

MIN_CHUNKS = 100
"""Chunks that any body may have."""
MIN_CHUNK = 64
"""Bytes that further chunks of a body must have on average."""

EXTENSION = "exotrio"
"""Key among the extensions of an ASGI scope: the ``Exchange``."""

logger = logging.getLogger("exotrio.manager.http")


@dataclass(frozen=True, kw_only=True)
class ServerState:
    """What all connections of a server share."""

    app: App
    limits: Limits
    stopping: trio.Event
    limiter: ConnectionLimiter
    in_flight: InFlight
    waits: set[trio.CancelScope] = field(default_factory=set)
    """What is cancelled when the server begins to stop."""


def parse(http: h11.Connection) -> object:
    """Return h11's next event; raise a Refusal if the client's bytes are not HTTP."""
    try:
        return http.next_event()
    except h11.RemoteProtocolError as error:
        raise refusal_of(error) from error


async def respond(peer: Peer, status: int, content: Mapping[str, object], *, with_body: bool = True) -> None:
    """Respond without the app, if the client still reads."""
    with suppress(ClientDisconnected):
        await peer.write(json_response(status, content, with_body=with_body))


@dataclass(eq=False, slots=True)
class Exchange:
    """One request and its response."""

    request: h11.Request
    _: KW_ONLY
    http: h11.Connection
    peer: Peer
    server: ServerState
    connection: OpenConnection
    # The request body: the parts that were parsed and not yet received by the app.
    _parts: list[bytes | bytearray] = field(default_factory=list)
    _received: int = 0
    _chunks: int = 0
    # The announced length of the body, and what was reserved for it: bytes, and values in it.
    _announced: int = 0
    _reserved: int = 0
    _reserved_values: int = 0
    _whole: bool = False
    _all_received: bool = False
    _body_time: float = 0.0
    # The response: its head waits for the first part of the body, to leave in the same packet.
    _head: h11.Response | None = None
    _composed: bool = False
    _started: bool = False
    _complete: bool = False
    _refused: bool = False
    # Whether the app knows that it cannot respond: an exception of the app is then not a failure.
    _knows_gone: bool = False

    async def run(self, connection_scope: Mapping[str, Any]) -> bool:
        """Run the app on this request, and return whether another one may follow on the connection.

        All requests of a connection share the keys of ``connection_scope``.
        """
        try:
            head, self._announced = read_head(self.request, self.server.limits)
        except Refusal as refusal:
            await self._refuse(refusal)
            return False
        self._body_time = self.server.limits.body
        failed = False
        try:
            scope = {**connection_scope, **head, "extensions": {EXTENSION: self}}
            await self.server.app(scope, self.receive, self.send)
        except* Exception as failures:
            # except*, since a cancelled app may raise failures mixed with trio.Cancelled.
            failed = True
            self._log(failures.exceptions[0] if len(failures.exceptions) == 1 else failures)
        finally:
            if self._reserved:
                self.server.in_flight.bodies.release(self._reserved)
            if self._reserved_values:
                self.server.in_flight.values.release(self._reserved_values)
        if not self._over:
            if not failed:
                logger.error("%s: the app returned before its response was complete", self._name)
            if not self._started:
                await respond(self.peer, 500, FAILED, with_body=not self.is_head)
        both_done = self.http.our_state is h11.DONE and self.http.their_state is h11.DONE
        return self._complete and both_done and not self.server.stopping.is_set()

    @property
    def is_head(self) -> bool:
        return self.request.method == b"HEAD"

    @property
    def is_cut(self) -> bool:
        """Whether the client closed the connection before it had its response."""
        return self.peer.gone and not (self._complete or self._refused)

    @property
    def _over(self) -> bool:
        return self._complete or self._refused or self.peer.gone

    @property
    def _name(self) -> str:
        # Without the query, which may contain private texts.
        path = self.request.target.partition(b"?")[0]
        return f"{self.request.method.decode('ascii')} {path.decode('ascii')}"

    def _log(self, failure: Exception) -> None:
        if self._knows_gone:
            if isinstance(failure, ClientDisconnected):
                # A client that leaves is no event: each runtime that stops does.
                logger.debug("%s: the client disconnected before it had its response", self._name)
                return
            logger.info(
                "%s: the app failed after the client had disconnected: %r",
                self._name,
                failure,
                exc_info=failure if logger.isEnabledFor(logging.DEBUG) else None,
            )
        else:
            logger.error("%s: the app failed", self._name, exc_info=failure)

    @contextmanager
    def cancelled_when_over(self, waiting: trio.CancelScope) -> Iterator[None]:
        """Cancel a scope if the client disconnects or the server begins to stop during the block."""
        if self.peer.gone or self.server.stopping.is_set():
            waiting.cancel()
        scopes = (self.peer.waits, self.server.waits)
        for each in scopes:
            each.add(waiting)
        try:
            yield
        finally:
            for each in scopes:
                each.discard(waiting)

    # --- the request body

    async def receive(self) -> Message:
        """ASGI ``receive``. Safe to cancel: no part of the body is lost."""
        if not (self._all_received or self._complete or self._refused):
            try:
                return await self._receive_body()
            except Refusal as refusal:
                await self._refuse(refusal)
            except ClientDisconnected:
                pass
        if self._over:
            # An app that loops over receive must not stop everything.
            await trio.lowlevel.checkpoint()
        while not self._over:
            await self.peer.changed.park()
        self._knows_gone = self._knows_gone or not self._complete
        return {"type": "http.disconnect"}

    async def _receive_body(self) -> Message:
        if not self._reserved and max(self._announced, self._received) > LARGE:
            await self._reserve_room()
        self._parse_body()
        if not (self._parts or self._whole):
            if self.http.they_are_waiting_for_100_continue:
                # Before h11 takes it as sent, or a cancelled receive would leave the client waiting.
                await trio.lowlevel.checkpoint_if_cancelled()
                response = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                await self.peer.write(self.http.send(response))
            await self._wait_for_body()
        body = b"".join(self._parts)
        self._parts.clear()
        self._all_received = self._whole
        return {"type": "http.request", "body": body, "more_body": not self._whole}

    async def _reserve_room(self) -> None:
        """Wait until a large body fits among those of all requests; without a length, one of the largest."""
        size = self._announced or self.server.limits.max_body
        with trio.move_on_after(self.server.limits.body):
            await self.server.in_flight.bodies.acquire(size)
            self._reserved = size
        if not self._reserved:
            raise Refusal(503, "the bodies of other requests use all memory for bodies; try again")

    async def reserve_values(self, count: int) -> None:
        """Wait until ``count`` values fit among those of all requests."""
        await self.server.in_flight.values.acquire(count)
        self._reserved_values += count

    async def _wait_for_body(self) -> None:
        began, limits = trio.current_time(), self.server.limits
        try:
            with trio.fail_after(max(0.0, self._body_time)):
                while not (self._parts or self._whole):
                    chunk = await self.peer.more()
                    if not chunk:
                        raise ClientDisconnected("the client closed the connection within its request")
                    self.http.receive_data(chunk)
                    self._parse_body()
        except trio.TooSlowError:
            raise Refusal(
                408,
                f"the request body came too slowly: it may take {limits.body:g} s, and one second more"
                f" for each {limits.body_rate} bytes",
            ) from None
        finally:
            self._body_time -= trio.current_time() - began

    def _parse_body(self) -> None:
        """Take all that h11 has of the body, so that many small chunks make one message."""
        while not self._whole:
            event = parse(self.http)
            if isinstance(event, h11.Data):
                self._received += len(event.data)
                self._body_time += len(event.data) / self.server.limits.body_rate
                if self._received > self.server.limits.max_body:
                    raise too_large(self.server.limits)
                # Each chunk takes h11 as long as some kilobytes, even a short one.
                self._chunks += event.chunk_start
                if self._chunks > MIN_CHUNKS + self._received // MIN_CHUNK:
                    raise Refusal(
                        400, f"the chunks of the body are too short: send {MIN_CHUNK} bytes or more"
                    )
                self._parts.append(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._whole = True
            else:
                return

    async def _refuse(self, refusal: Refusal) -> None:
        self._refused = True
        self._parts.clear()
        if not self._started:
            content = {"detail": refusal.detail}
            await respond(self.peer, refusal.status, content, with_body=not self.is_head)

    # --- the response

    async def send(self, message: Message) -> None:
        """ASGI ``send``.

        Raises:
            ClientDisconnected: the client cannot get this; an OSError, as ASGI requires.
            RuntimeError: the body comes before its head, or another message than these two.
            h11.LocalProtocolError: a header is invalid, or the body does not match content-length.
        """
        kind = message["type"]
        if self._refused:
            self._knows_gone = True
            raise ClientDisconnected("the request was refused, and its response has been sent")
        if kind == "http.response.start":
            self._head = self._make_head(message)
            if self.peer.gone:
                self._knows_gone = True
                raise ClientDisconnected("the client closed the connection")
        elif kind == "http.response.body":
            if self._head is None:
                raise RuntimeError("http.response.body before http.response.start")
            # Before h11 takes the message as sent: an app whose send was cancelled by its own timeout may
            # still send another response, unless bytes of this one are out.
            await trio.lowlevel.checkpoint_if_cancelled()
            last = not message.get("more_body", False)
            body = message.get("body", b"")
            is_large = len(body) > LARGE
            if is_large and not (self.server.in_flight.has_room(len(body)) or self._started):
                detail = "the responses to other requests use all memory for responses; try again"
                await self._refuse(Refusal(503, detail))
                self._knows_gone = True
                raise ClientDisconnected(detail)
            parts = self._compose(self._head, body, last=last)
            self._started = True
            try:
                await (self._write_large(parts) if is_large else self.peer.write(*parts))
            except ClientDisconnected:
                self._knows_gone = True
                raise
            if last:
                self._complete = True
                self.peer.changed.unpark_all()
        else:
            raise RuntimeError(f"this server does not support the ASGI message {kind!r}")

    async def _write_large(self, parts: list[bytes]) -> None:
        with self.server.in_flight.response(sum(map(len, parts))) as write:
            await self.peer.write(*parts)
        if write.cancelled_caught:
            raise ClientDisconnected(
                "the client did not read its response in time, and others needed its memory"
            )

    def _make_head(self, message: Message) -> h11.Response:
        headers = list(message.get("headers", ()))
        names = {name.lower() for name, _ in headers}
        if b"date" not in names:
            headers.append((b"date", http_date()))
        headers += [header for header in PRIVATE if header[0] not in names]
        self._read_ready_body()
        if not self._whole or self.server.stopping.is_set() or not self.connection.is_authenticated:
            # The rest of the request would have to be read and discarded before the next one. And a keyless
            # connection gets one response only, or its client could hold it without a limit.
            headers.append((b"connection", b"close"))
        status = message["status"]
        return h11.Response(status_code=status, headers=headers, reason=PHRASES.get(status, b""))

    def _read_ready_body(self) -> None:
        if not self.connection.is_authenticated and any(
            name == b"transfer-encoding" for name, _ in self.request.headers
        ):
            # The connection is closed after this response anyway, and chunks take long to parse.
            return
        with suppress(Refusal):
            self._parse_body()
            if not self._whole and (chunk := self.peer.ready()):
                self.http.receive_data(chunk)
                self._parse_body()

    def _compose(self, head: h11.Response, body: bytes, *, last: bool) -> list[bytes]:
        compose = self.http.send_with_data_passthrough
        parts: list[bytes] = []
        if not self._composed:
            parts += compose(head) or ()
            self._composed = True
        if body and not self.is_head and head.status_code not in (204, 304):
            parts += compose(h11.Data(data=body)) or ()
        if last:
            parts += compose(h11.EndOfMessage()) or ()
        return parts
