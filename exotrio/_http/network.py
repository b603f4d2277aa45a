"""Connections to a state manager over a network: HTTP/1.1 by h11, over streams of Trio, or of anyio.

httpx and httpcore do the same, and took 60 % of the processor time of a request.
"""

from __future__ import annotations

import select
import ssl
import string
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

import h11
import idna
import trio

from exotrio._http.endpoint import Endpoint
from exotrio._http.event_loop import EventLoop, event_loop
from exotrio._http.exchange import ConnectionFailed, Exchange
from exotrio._util.exceptions import leaves
from exotrio.errors import ConfigurationError

CONNECT_TIMEOUT = 5.0
"""Below ``client.REQUEST_TIMEOUT``, so that a host that drops packets is known to have received nothing."""
MAX_HEAD = 100 * 1024
"""Bytes of the head of an answer."""
READ_SIZE = 64 * 1024
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class Stream(Protocol):
    """What is used of Trio's streams."""

    async def send_all(self, data: bytes) -> None: ...
    async def receive_some(self, max_bytes: int) -> bytes: ...
    async def aclose(self) -> None: ...


class Network:
    """The connections of one event loop to one state manager. Each carries one exchange at a time.

    Args:
        endpoint: Its URI must have a host.

    Raises:
        ConfigurationError: the host has no form for name lookups.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urlsplit(endpoint.uri)
        self._is_https = parts.scheme == "https"
        name = parts.hostname or ""
        try:
            self._host = name if name.isascii() else idna.encode(name).decode()
        except idna.IDNAError as error:
            raise ConfigurationError(f"the state manager URI cannot be used: {error}") from error
        usual = 443 if self._is_https else 80
        self._port = parts.port or usual
        self._base = quote(parts.path, safe=string.punctuation).encode()
        shown = f"[{self._host}]" if ":" in self._host else self._host
        host = shown if self._port == usual else f"{shown}:{self._port}"
        self._headers = [(b"host", host.encode())]
        if parts.username or parts.password:
            user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
            self._headers.append((b"authorization", b"Basic " + b64encode(user.encode())))
        self._max_idle = endpoint.max_idle
        self._idle: list[Connection] = []
        self._is_closed = False

    async def send(self, exchange: Exchange) -> None:
        connection = await self._take_idle() or await self._connect()
        try:
            await connection.carry(exchange, self._base, self._headers)
            is_reusable = connection.restart()
        except BaseException:
            await connection.close()
            raise
        if is_reusable and not self._is_closed:
            self._idle.append(connection)
        else:
            await connection.close()

    async def aclose(self) -> None:
        """Close the connections: those in use when their exchanges have ended."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().close()

    async def _take_idle(self) -> Connection | None:
        while self._idle and self._idle[0].idle_for >= self._max_idle:
            await self._idle.pop(0).close()
        # The last one that was used is the least likely to have been closed.
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            await connection.close()
        return None

    async def _connect(self) -> Connection:
        loop = event_loop()
        with loop.CancelScope(deadline=loop.current_time() + CONNECT_TIMEOUT):
            try:
                return await _open(loop, self._host, self._port, is_https=self._is_https)
            # UnicodeError: a label of the host has an impossible length.
            except (*_BROKEN, UnicodeError) as error:
                raise ConnectionFailed(_reason(error)) from error
        raise ConnectionFailed(f"no connection within {CONNECT_TIMEOUT:g} s")


class Connection:
    """One connection: a stream, and the state of HTTP on it."""

    def __init__(self, stream: Stream, raw: Any, loop: EventLoop) -> None:
        self._stream = stream
        self._raw = raw
        self._loop = loop
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._idle_since = 0.0

    async def carry(self, exchange: Exchange, base: bytes, usual: list[tuple[bytes, bytes]]) -> None:
        """Carry one exchange. ``base`` begins each path, and ``usual`` are headers of each request."""
        content = exchange.content or b""
        headers = [*usual, *((name.encode(), text.encode()) for name, text in exchange.headers.items())]
        if exchange.content is not None or exchange.method not in ("GET", "DELETE"):
            headers.append((b"content-length", b"%d" % len(content)))
        request = h11.Request(method=exchange.method, target=base + exchange.path.encode(), headers=headers)
        events = (request, h11.Data(data=content), h11.EndOfMessage())
        data = b"".join(self._http.send(event) or b"" for event in events)
        exchange.is_sent = True
        try:
            await self._stream.send_all(data)
        except _BROKEN as error:
            # A server may refuse a body before it has read all of it, and close: its answer says why.
            if not content:
                raise ConnectionFailed(_reason(error)) from error
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                exchange.begin(event.status_code, _headers_of(event))
            elif isinstance(event, h11.Data):
                await exchange.take(bytes(event.data))
        exchange.end()

    async def _next_event(self) -> h11.Event:
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._stream.receive_some(READ_SIZE)
                if not data and self._http.their_state is h11.SEND_RESPONSE:
                    raise h11.RemoteProtocolError("it was closed")
                self._http.receive_data(data)
        except (*_BROKEN, h11.RemoteProtocolError) as error:
            raise ConnectionFailed(_reason(error)) from error
        if isinstance(event, h11.ConnectionClosed) or not isinstance(event, h11.Event):
            raise ConnectionFailed("it was closed")
        return event

    def restart(self) -> bool:
        """Return whether another exchange may follow."""
        is_done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        # What came after this answer would be taken for the next one.
        if is_done and not self._http.trailing_data[0]:
            self._http.start_next_cycle()
            self._idle_since = time.monotonic()
            return True
        return False

    @property
    def idle_for(self) -> float:
        """Seconds since its last answer."""
        return time.monotonic() - self._idle_since

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it while it was idle."""
        # Between two exchanges nothing but its end can arrive.
        poll = select.poll()
        poll.register(self._raw.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def close(self) -> None:
        """Close it at once; also if the caller is cancelled."""
        with self._loop.CancelScope() as scope:
            scope.cancel()
            await self._stream.aclose()


class _AnyioStream:
    """A stream of anyio, as Trio has it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def send_all(self, data: bytes) -> None:
        with _errors_of_trio():
            await self._stream.send(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        import anyio

        with _errors_of_trio():
            try:
                received: bytes = await self._stream.receive(max_bytes)
            except anyio.EndOfStream:
                return b""
        return received

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _errors_of_trio() -> Iterator[None]:
    import anyio

    try:
        yield
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream) as error:
        raise trio.BrokenResourceError("it was closed") from error.__cause__


async def _open(loop: EventLoop, host: str, port: int, *, is_https: bool) -> Connection:
    """Connect; a connection whose TLS handshake fails or is cancelled is closed."""
    raw: Any
    tls: Any
    if trio.lowlevel.in_trio_task():
        tcp = await trio.open_tcp_stream(host, port)
        raw = tcp.socket
        connection = Connection(tcp, raw, loop)
        if is_https:
            tls = trio.SSLStream(tcp, tls_context(), server_hostname=host, https_compatible=True)
            async with _closed_on_error(connection):
                await tls.do_handshake()
            connection = Connection(tls, raw, loop)
        return connection
    import anyio
    from anyio.streams.tls import TLSStream

    plain = await anyio.connect_tcp(host, port)
    raw = plain.extra(anyio.abc.SocketAttribute.raw_socket)
    connection = Connection(_AnyioStream(plain), raw, loop)
    if is_https:
        async with _closed_on_error(connection):
            with _errors_of_trio():
                tls = await TLSStream.wrap(
                    plain, hostname=host, ssl_context=tls_context(), standard_compatible=False
                )
        connection = Connection(_AnyioStream(tls), raw, loop)
    return connection


@asynccontextmanager
async def _closed_on_error(connection: Connection) -> AsyncIterator[None]:
    try:
        yield
    except BaseException:
        await connection.close()
        raise


@cache
def tls_context() -> ssl.SSLContext:
    """Return what trusts the system's certificates, as the stock SDK does. To load them takes 20 ms."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _reason(error: BaseException) -> str:
    """Return why there is no connection, or no answer: what the system says, or the class of the error."""
    causes = [cause for root in (error.__cause__, error) if root is not None for cause in leaves(root)]
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return str(cause.verify_message)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    if isinstance(error, h11.RemoteProtocolError | trio.BrokenResourceError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _headers_of(response: h11.Response) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for name, value in response.headers:
        key, text = name.decode("ascii"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers
