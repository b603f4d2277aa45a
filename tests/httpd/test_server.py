"""The HTTP server over real sockets, and one connection of it in virtual time."""

from __future__ import annotations

import errno
import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import h11
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from exotrio._httpd import (
    MAX_VALUES,
    ClientDisconnected,
    ConnectionLimiter,
    Limits,
    call_when_lost,
    limiter,
    mark_authenticated,
    open_listeners,
    reserve_values,
    serve_http,
    stopping_event,
    urls,
    while_connected,
)
from exotrio._httpd.budget import SLOW, Budget, InFlight
from exotrio._httpd.connection import serve_connection
from exotrio._httpd.exchange import ServerState
from exotrio._httpd.limiter import OpenConnection
from exotrio.errors import ConfigurationError, PortBusy
from tests.support.steps import counted_steps

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
LATE = b"GET /late HTTP/1.1\r\nhost: x\r\n\r\n"
OTHER = b"GET /other HTTP/1.1\r\nhost: x\r\n\r\n"
UNKNOWN = b"GET /unknown HTTP/1.1\r\nhost: x\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
MEBI = 1024 * 1024


# --- apps


async def start(send: Any, status: int = 200, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})


async def respond(
    send: Any, body: bytes = b"hello", status: int = 200, *headers: tuple[bytes, bytes]
) -> None:
    await start(send, status, (b"content-length", b"%d" % len(body)), *headers)
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Any) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("disconnected")
        body += message["body"]
        if not message["more_body"]:
            return body


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await respond(send)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, await read_body(receive))


async def describe(scope: Any, receive: Any, send: Any) -> None:
    shown = {key: value for key, value in scope.items() if key != "extensions"}
    await respond(send, repr(shown).encode())


async def flood(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"x" * (64 * MEBI))


def keyed(app: Any) -> Any:
    """Treat all clients of ``app`` as authenticated."""

    async def proving(scope: Any, receive: Any, send: Any) -> None:
        mark_authenticated(scope)
        await app(scope, receive, send)

    return proving


# --- a client that does what it is told


@dataclass
class Response:
    status: int
    headers: dict[bytes, bytes]
    body: bytes = b""

    @property
    def detail(self) -> str:
        return str(json.loads(self.body)["detail"])

    @property
    def closes(self) -> bool:
        return self.headers.get(b"connection") == b"close"


@dataclass
class Client:
    stream: Any
    buffer: bytes = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def more(self) -> None:
        chunk = await self.stream.receive_some(65536)
        if not chunk:
            raise EOFError(self.buffer)
        self.buffer += chunk

    async def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            await self.more()
        data, self.buffer = self.buffer.split(mark, 1)
        return data

    async def exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            await self.more()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    async def to_end(self) -> bytes:
        """What is left until the server closes."""
        while chunk := await self.stream.receive_some(65536):
            self.buffer += chunk
        data, self.buffer = self.buffer, b""
        return data

    async def head(self) -> Response:
        status, *lines = (await self.until(b"\r\n\r\n")).split(b"\r\n")
        pairs = (line.split(b": ", 1) for line in lines)
        return Response(int(status.split(b" ")[1]), {name.lower(): value for name, value in pairs})

    async def chunk(self) -> bytes:
        size = int(await self.until(b"\r\n"), 16)
        data = await self.exactly(size)
        assert await self.exactly(2) == b"\r\n"
        return data

    async def response(self) -> Response:
        response = await self.head()
        if b"content-length" in response.headers:
            response.body = await self.exactly(int(response.headers[b"content-length"]))
        elif response.headers.get(b"transfer-encoding") == b"chunked":
            while data := await self.chunk():
                response.body += data
        else:
            response.body = await self.to_end()
        return response

    async def ask(self, data: bytes) -> Response:
        await self.send(data)
        return await self.response()


@dataclass
class Served:
    listeners: list[trio.SocketListener]
    stopping: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)

    clients: list[Client] = field(default_factory=list)

    async def connect(self) -> Client:
        client = Client(await trio.testing.open_stream_to_socket_listener(self.listeners[0]))
        self.clients.append(client)
        return client


@asynccontextmanager
async def serving(
    app: Any, *, limits: Limits | None = None, grace: float = 5.0, keyless: bool = False
) -> AsyncIterator[Served]:
    """A server that must stop by itself when told to at the end; everything within a minute.

    Args:
        keyless: Whether its clients have no key.
    """
    served = Served(await open_listeners("127.0.0.1", 0))

    async def serve(task_status: Any) -> None:
        await serve_http(
            app if keyless else keyed(app),
            served.listeners,
            stopping=served.stopping,
            limits=limits,
            grace=grace,
            task_status=task_status,
        )
        served.ended.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            try:
                yield served
            finally:
                served.stopping.set()
                for client in served.clients:
                    client.stream.socket.close()


@asynccontextmanager
async def client_of(app: Any, **options: Any) -> AsyncIterator[Client]:
    """One connection to a new server."""
    async with serving(app, **options) as served:
        yield await served.connect()


@asynccontextmanager
async def connected(
    app: Any,
    *,
    limits: Limits | None = None,
    stopping: trio.Event | None = None,
    keyless: bool = False,
    lockstep: bool = False,
    in_flight: InFlight | None = None,
) -> AsyncIterator[Client]:
    """One connection over memory streams, for virtual time.

    Args:
        lockstep: Whether ``send_all`` of the server waits until the client has read; else it never blocks.
    """
    pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    ours, theirs = pair()
    limits = limits or Limits()

    async def serve() -> None:
        server = ServerState(
            app=app if keyless else keyed(app),
            limits=limits,
            stopping=trio.Event() if stopping is None else stopping,
            limiter=ConnectionLimiter(limits.max_connections),
            in_flight=in_flight or InFlight(limits.max_in_flight),
        )
        connection = server.limiter.enter(limits.keyless)
        with connection.scope:
            await serve_connection(server, theirs, connection)
        await trio.aclose_forcefully(theirs)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield Client(ours)
        nursery.cancel_scope.cancel()


# --- requests and responses


async def test_a_connection_is_kept_alive_between_requests() -> None:
    async with client_of(hello) as client:
        for _ in range(3):
            response = await client.ask(GET)
            assert (response.status, response.body, response.closes) == (200, b"hello", False)
            assert b"date" in response.headers
            assert b"server" not in response.headers


async def test_a_request_on_a_kept_connection_takes_four_steps_of_the_loop() -> None:
    async with client_of(hello) as client:
        await client.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        with counted_steps() as steps:
            for _ in range(10):
                await client.ask(GET)
            await trio.testing.wait_all_tasks_blocked()
    ours = {name: count for name, count in steps.items() if name.startswith("exotrio._httpd")}
    # One that reads; one that runs the app, one after its write, and one while nothing waits to be read.
    assert sum(ours.values()) <= 40, ours


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with client_of(echo) as client:
        posts = (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n%d" % n for n in range(9))
        await client.send(b"".join(posts))
        assert [(await client.response()).body for _ in range(9)] == [b"%d" % n for n in range(9)]


async def test_a_pipelined_request_is_not_taken_for_a_disconnect() -> None:
    messages = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        with trio.move_on_after(0.05):
            messages.append(await receive())
        await respond(send)

    async with client_of(app) as client:
        await client.send(GET + GET)
        assert (await client.response()).status == 200
        assert (await client.response()).status == 200
        assert messages == []


async def test_the_scope_has_the_keys_that_asgi_requires() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await respond(send)

    async with serving(app) as served:
        client = await served.connect()
        await client.ask(b"GET /a%2Fb%C3%BC/?q=%20&r HTTP/1.1\r\nHost: x\r\nX-Thing:  Value \r\n\r\n")
        scope = scopes[0]
        assert stopping_event(scope) is served.stopping
        del scope["extensions"]
        address = client.stream.socket.getsockname()
        assert scope == {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a/bü/",
            "raw_path": b"/a%2Fb%C3%BC/",
            "query_string": b"q=%20&r",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"x-thing", b"Value")],
            "client": address,
            "server": served.listeners[0].socket.getsockname(),
        }
        assert all(type(part) is bytes for pair in scope["headers"] for part in pair)


@pytest.mark.parametrize(
    ("target", "path"), [(b"http://other:1/p?q", "/p"), (b"HTTP://other", "/"), (b"//x/y", "//x/y")]
)
async def test_the_path_of_targets_in_other_forms_is_read(target: bytes, path: str) -> None:
    async with client_of(describe) as client:
        response = await client.ask(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\n\r\n")
        assert f"'path': {path!r}" in response.body.decode()


async def test_an_upgrade_request_is_served_as_a_plain_one() -> None:
    async with client_of(hello) as client:
        upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        assert (await client.ask(upgrade)).body == b"hello"
        assert (await client.ask(GET)).body == b"hello"


@pytest.mark.parametrize("size", [0, 5, 3 * MEBI])
async def test_a_body_with_a_length_arrives(size: int) -> None:
    async with client_of(echo) as client, trio.open_nursery() as nursery:
        request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"b" * size
        nursery.start_soon(client.send, request)
        assert len((await client.response()).body) == size


async def test_a_chunked_body_arrives_and_the_connection_lives_on() -> None:
    async with client_of(echo) as client:
        await client.send(CHUNKED + b"3\r\nabc\r\n4")
        await client.send(b";ext=1\r\ndefg\r\n")
        assert (await client.ask(b"0\r\ntrailer: t\r\n\r\n")).body == b"abcdefg"
        assert (await client.ask(GET)).status == 200


@pytest.mark.parametrize(("size", "count", "status"), [(1, 90, 200), (1, 110, 400), (70, 5_000, 200)])
async def test_short_chunks_are_accepted_only_if_they_are_few(size: int, count: int, status: int) -> None:
    async with client_of(echo) as client:
        chunk = b"%x\r\n%b\r\n" % (size, b"a" * size)
        response = await client.ask(CHUNKED + chunk * count + b"0\r\n\r\n")
        assert response.status == status
        assert len(response.body) == size * count if status == 200 else "64 bytes or more" in response.detail


@pytest.mark.parametrize("admitted", [True, False])
async def test_chunks_of_unauthenticated_clients_are_not_parsed(
    monkeypatch: pytest.MonkeyPatch, admitted: bool
) -> None:
    parsed: list[object] = []
    next_event = h11.Connection.next_event

    def counting(http: h11.Connection) -> object:
        event = next_event(http)
        if isinstance(event, h11.Data):
            parsed.append(event)
        return event

    monkeypatch.setattr(h11.Connection, "next_event", counting)
    async with client_of(hello, keyless=not admitted) as client:
        response = await client.ask(CHUNKED + b"1\r\na\r\n" * 50 + b"0\r\n\r\n")
        assert (response.status, response.closes) == (200, not admitted)
    assert len(parsed) == (50 if admitted else 0)


async def test_a_client_that_expects_100_continue_gets_it_when_the_app_reads() -> None:
    async with client_of(echo) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n")
        assert await client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        assert (await client.ask(b"hi")).body == b"hi"
        assert (await client.ask(GET)).status == 200


async def test_a_client_that_expects_100_continue_gets_the_response_if_the_app_does_not_read() -> None:
    async with client_of(hello) as client:
        response = await client.ask(
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
        assert (response.status, response.closes) == (200, True)


async def test_http_1_0_gets_its_answer_until_the_connection_closes() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async with client_of(app) as client:
        response = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
        assert (response.status, response.body, response.closes) == (200, b"onetwo", True)
        assert b"transfer-encoding" not in response.headers


async def test_head_has_the_length_and_no_body() -> None:
    async with client_of(hello) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.head()).headers[b"content-length"] == b"5"
        assert (await client.ask(GET)).body == b"hello"


@pytest.mark.parametrize("status", [204, 304])
async def test_statuses_without_a_body_have_none(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send, status)
        await send({"type": "http.response.body", "body": b"not sent"})

    async with client_of(app) as client:
        for _ in range(2):
            await client.send(GET)
            head = await client.head()
            assert head.status == status
            assert b"transfer-encoding" not in head.headers
        assert client.buffer == b""


async def test_a_streamed_response_is_flushed_piece_by_piece() -> None:
    go_on = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await go_on.wait()
        await send({"type": "http.response.body", "body": b"last"})

    async with client_of(app) as client:
        await client.send(GET)
        assert (await client.head()).headers[b"transfer-encoding"] == b"chunked"
        assert await client.chunk() == b"first"
        go_on.set()
        assert (await client.chunk(), await client.chunk()) == (b"last", b"")


async def test_a_large_response_arrives_whole() -> None:
    async with client_of(flood) as client:
        await client.send(GET)
        length = int((await client.head()).headers[b"content-length"])
        received = len(client.buffer)
        while received < length:
            received += len(await client.stream.receive_some(MEBI))
        assert received == 64 * MEBI


async def test_receive_says_disconnect_once_the_response_is_complete() -> None:
    messages = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                messages.append(await receive())

            await read_body(receive)
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await respond(send)
        messages.append(await receive())

    async with client_of(app) as client:
        await client.ask(GET)
        assert (await client.ask(GET)).status == 200
        assert messages[:2] == [{"type": "http.disconnect"}] * 2


# --- refusals


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad name: 1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"GET /%ff HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (CHUNKED[:-2] + b"content-length: 3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 501),
        (b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nhost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 33_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"a" * 100_000, 431),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n", 413),
        (CHUNKED + b"3e9\r\n" + b"a" * 1001, 413),
        (CHUNKED + (b"1f5\r\n" + b"a" * 501 + b"\r\n") * 2, 413),
        (CHUNKED + b"1\r\na\r\n" * 110, 400),
        (CHUNKED + b"oops\r\n", 400),
        (CHUNKED + b"1;" + b"e" * 100_000, 431),
    ],
)
async def test_a_bad_request_is_refused_in_json_and_the_connection_closed(
    request_bytes: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, limits=Limits(max_body=1000)) as served:
        client = await served.connect()
        response = await client.ask(request_bytes)
        assert (response.status, response.closes) == (status, True)
        assert response.headers[b"content-type"] == b"application/json"
        assert response.detail
        assert await client.to_end() == b""
        assert (await (await served.connect()).ask(GET)).status == 200
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("request_bytes", "detail"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-api-key: k3y\0\r\n\r\n", "illegal header line"),
        (b"GET / HTTP/1.1\r\nhost: x\0x-api-key: k3y'\"\r\n\r\n", "illegal header line"),
        (b"GET / k3y HTTP/1.1\r\nhost: x\r\n\r\n", "illegal request line"),
        (CHUNKED + b"k3y\r\n", "illegal chunk header"),
        (CHUNKED + b"1\r\na" + b"k3y", "malformed chunk footer"),
    ],
)
async def test_a_refusal_does_not_quote_the_request(request_bytes: bytes, detail: str) -> None:
    async with serving(echo) as served:
        response = await (await served.connect()).ask(request_bytes)
        assert response.detail == f"malformed request: {detail}"


async def test_a_refusal_of_a_head_request_has_no_body() -> None:
    async with client_of(hello) as client:
        await client.send(b"HEAD /%zz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await client.head()).status == 400
        assert await client.to_end() == b""


async def test_an_app_cannot_respond_after_the_server_refused_the_request() -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        try:
            await respond(send)
        except OSError as error:
            raised.append(error)

    async with client_of(app, limits=Limits(max_body=10)) as client:
        assert (await client.ask(CHUNKED + b"b\r\nelevenbytes\r\n")).status == 413
        assert await client.to_end() == b""
    assert isinstance(raised[0], ClientDisconnected)


async def test_a_client_that_leaves_before_its_response_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    left, ended = trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()
        try:
            await respond(send)
        finally:
            ended.set()

    with caplog.at_level(logging.DEBUG):
        async with client_of(app) as client:
            await client.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await client.stream.aclose()
            await ended.wait()
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert [record.exc_info for record in caplog.records if record.name.startswith("exotrio")] == [None]


async def test_a_client_that_keeps_sending_can_read_its_refusal() -> None:
    async with client_of(hello) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (20 * MEBI))
        # All of it before reading: a reset would take the answer away.
        await client.send(b"x" * (20 * MEBI))
        assert (await client.response()).status == 413


async def test_a_response_reaches_the_client_although_its_body_was_not_read() -> None:
    async with client_of(hello) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (9 * MEBI))
        await client.send(b"x" * (9 * MEBI))
        response = await client.response()
        assert (response.status, response.body, response.closes) == (200, b"hello", True)


async def test_an_unread_body_that_came_with_the_head_does_not_close_the_connection() -> None:
    async with client_of(hello) as client:
        request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi"
        assert not (await client.ask(request)).closes
        assert (await client.ask(request)).body == b"hello"


async def test_a_response_that_was_cancelled_before_it_was_sent_can_be_replaced() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with trio.CancelScope() as giving_up:
            await start(send)
            giving_up.cancel()
            await send({"type": "http.response.body", "body": b"too late"})
        await send({"type": "http.response.body", "body": b"sorry"})

    async with client_of(app) as client:
        for _ in range(2):
            assert (await client.ask(GET)).body == b"sorry"


async def test_every_response_has_headers_against_caching_and_sniffing() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/fails":
            raise ValueError
        cached = [(b"Cache-Control", b"max-age=60")] if scope["path"] == "/cached" else []
        await respond(send, b"", 200, *cached)

    kept = {}
    async with serving(app) as served:
        for path in (b"/", b"/cached", b"/fails", b"/%"):
            response = await (await served.connect()).ask(b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n\r\n")
            assert response.headers[b"x-content-type-options"] == b"nosniff"
            kept[response.status, path] = response.headers[b"cache-control"]
    assert kept == {
        (200, b"/"): b"no-store",
        (200, b"/cached"): b"max-age=60",
        (500, b"/fails"): b"no-store",
        (400, b"/%"): b"no-store",
    }


# --- clients that are slow or gone, in virtual time


async def test_an_idle_connection_is_closed_after_its_limit(autojump_clock: MockClock) -> None:
    async with connected(hello) as client:
        await client.ask(GET)
        start = trio.current_time()
        assert await client.to_end() == b""
        assert trio.current_time() - start == pytest.approx(Limits().idle)


@pytest.mark.parametrize(
    ("requests", "ending", "is_lost"),
    [
        ((GET, GET), "client", True),
        ((GET, GET + b"GET"), "client", True),
        ((GET, GET + LATE), "client", True),
        ((GET,), "client", False),
        ((LATE,), "client", False),
        ((GET, CLOSING), "client", False),
        ((GET, OTHER, GET, GET), "client", False),
        ((UNKNOWN, GET, GET), "client", False),
        ((GET, GET, UNKNOWN), "client", False),
        ((GET, GET), "idle for too long", False),
        ((GET, GET), "server stops", False),
        ((GET, GET + LATE), "server stops", False),
    ],
    ids=[
        "it is closed",
        "within a head",
        "before the answer",
        "after one request",
        "before the first answer",
        "as announced",
        "that others use",
        "that others used",
        "that others use at last",
        "by the server",
        "by a stop",
        "before the answer, by a stop",
    ],
)
async def test_an_app_learns_that_a_client_closed_the_connection_that_it_alone_had_kept(
    autojump_clock: MockClock, requests: Sequence[bytes], ending: str, is_lost: bool
) -> None:
    lost: list[int] = []
    begun = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal begun
        begun += 1
        if scope["path"] != "/unknown":
            sender = scope["path"].removesuffix("late")
            call_when_lost(scope, sender, partial(lost.append, begun))
        if scope["path"].endswith("late"):
            await trio.sleep(1)
        await respond(send)

    stopping = trio.Event()
    async with connected(app, stopping=stopping) as client:
        for request in requests:
            if request.endswith(LATE):
                await client.send(request)
                await trio.sleep(0.5)
            else:
                await client.ask(request)
        assert lost == []
        if ending == "server stops":
            stopping.set()
        if ending != "idle for too long":
            await client.stream.aclose()
        await trio.sleep(2 * Limits().idle)
        assert lost == [begun] * is_lost


async def test_idle_connections_do_not_keep_requests_from_waiting(autojump_clock: MockClock) -> None:
    connections = ConnectionLimiter(4)
    opened = [connections.enter(math.inf) for _ in range(4)]
    for connection in opened:
        connection.mark_authenticated()
    assert connections.crowded
    with connections.idle(opened[0], math.inf):
        assert not connections.crowded, "one more request closes the idle one, if it needs the room"
    assert connections.crowded


async def test_a_new_connection_must_send_a_request_within_the_head_limit(autojump_clock: MockClock) -> None:
    async with connected(hello) as client:
        start = trio.current_time()
        assert await client.to_end() == b""
        assert trio.current_time() - start == pytest.approx(Limits().head)


async def test_a_head_that_trickles_is_refused(autojump_clock: MockClock) -> None:
    async with connected(hello) as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            await client.send(GET[:-2])
            while True:
                await client.send(b"x")
                await trio.sleep(1)

        nursery.start_soon(trickle)
        assert (await client.response()).status == 408
        nursery.cancel_scope.cancel()


async def test_a_body_that_trickles_is_refused(autojump_clock: MockClock) -> None:
    async with connected(echo, limits=Limits(body=5)) as client, trio.open_nursery() as nursery:

        async def trickle() -> None:
            await client.send(CHUNKED)
            while True:
                await client.send(b"1\r\na\r\n")
                await trio.sleep(1)

        nursery.start_soon(trickle)
        assert (await client.response()).status == 408
        nursery.cancel_scope.cancel()


async def test_the_time_between_two_receives_does_not_count_as_body_time(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await trio.sleep(1000)
        await respond(send, await read_body(receive))

    async with connected(app) as client:
        await client.send(CHUNKED + b"1\r\na\r\n")
        await trio.sleep(1000)
        assert (await client.ask(b"1\r\nb\r\n0\r\n\r\n")).body == b"b"


async def test_a_cancelled_receive_loses_nothing_of_the_body(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = b""
        more = True
        while more:
            with trio.move_on_after(0.3):
                message = await receive()
                body += message["body"]
                more = message["more_body"]
        await respond(send, body)

    async with connected(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n")
        for digit in b"123456789":
            await trio.sleep(1)
            await client.send(bytes([digit]))
        assert (await client.response()).body == b"123456789"


async def test_a_disconnect_during_a_long_poll_is_noticed() -> None:
    noticed = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        assert await receive() == {"type": "http.disconnect"}
        with pytest.raises(OSError, match="closed the connection"):
            await respond(send)
        noticed.set()

    async with client_of(app) as client:
        await client.send(GET)
        await client.stream.aclose()
        await noticed.wait()


@pytest.mark.parametrize("already", [False, True])
async def test_what_waits_while_its_client_is_connected_is_cancelled_by_a_disconnect(already: bool) -> None:
    begun, go_on, noticed = trio.Event(), trio.Event(), trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await go_on.wait()
        with while_connected(scope, 60):
            await trio.sleep_forever()
        with pytest.raises(OSError, match="closed the connection"):
            await respond(send)
        noticed.set()

    async with client_of(app) as client:
        await client.send(GET)
        await begun.wait()
        if not already:
            go_on.set()
            await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        if already:
            await trio.testing.wait_all_tasks_blocked(0.05)
            go_on.set()
        with trio.fail_after(5):
            await noticed.wait()


@pytest.mark.parametrize("already", [False, True])
async def test_what_waits_while_its_client_is_connected_ends_when_the_server_begins_to_stop(
    already: bool,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if already:
            served.stopping.set()
        running.set()
        with while_connected(scope):
            await trio.sleep_forever()
        await respond(send)

    running = trio.Event()
    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        await running.wait()
        await trio.testing.wait_all_tasks_blocked()
        served.stopping.set()
        response = await client.response()
        assert (response.body, response.closes) == (b"hello", True)


async def test_send_raises_after_a_disconnect() -> None:
    go_on = trio.Event()
    raised: list[BaseException] = []
    noticed = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go_on.wait()
        try:
            await respond(send)
        except OSError as error:
            raised.append(error)
        noticed.set()

    async with client_of(app) as client:
        await client.send(GET)
        await client.stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()
        await noticed.wait()
    assert isinstance(raised[0], ClientDisconnected)


async def test_a_disconnect_within_a_body_is_not_logged_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    ended = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await read_body(receive)
        finally:
            ended.set()

    async with client_of(app) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nabc")
        await client.stream.aclose()
        await ended.wait()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_client_that_does_not_read_is_disconnected_and_send_raises() -> None:
    noticed = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        with pytest.raises(ClientDisconnected, match="did not read"):
            await flood(scope, receive, send)
        assert await receive() == {"type": "http.disconnect"}
        noticed.set()

    async with client_of(app, limits=Limits(write=0.2)) as client:
        await client.send(GET)
        await noticed.wait()


async def test_a_client_that_reads_slowly_is_not_disconnected(autojump_clock: MockClock) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, b"x" * MEBI)

    async with connected(app, limits=Limits(write=10), lockstep=True) as client:
        await client.send(GET)
        received = b""
        while len(received) < MEBI:
            await trio.sleep(4)
            received += await client.stream.receive_some(32 * 1024)
        assert trio.current_time() > 10 * 5


async def test_a_keyless_connection_gets_one_response() -> None:
    async with client_of(hello, keyless=True) as client:
        response = await client.ask(GET + GET)
        assert (response.status, response.body, response.closes) == (200, b"hello", True)
        assert await client.to_end() == b""


async def test_a_keyless_connection_has_a_total_time(autojump_clock: MockClock) -> None:
    async with connected(flood, limits=Limits(keyless=30), keyless=True, lockstep=True) as client:
        await client.send(GET)
        # Fast enough for the limit on stalling: 64 KiB within 20 s.
        while await client.stream.receive_some(32 * 1024):  # noqa: ASYNC110 - it reads slowly
            await trio.sleep(8)
        assert 30 < trio.current_time() <= 30 + 2 * 8, "what was on its way is read still"


async def test_the_limits_of_keyless_connections_end_with_an_authenticated_request(
    autojump_clock: MockClock,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        mark_authenticated(scope)
        await trio.sleep(1000)
        await respond(send)

    async with connected(app, limits=Limits(keyless=30), keyless=True) as client:
        assert not (await client.ask(GET)).closes
        assert (await client.ask(GET)).status == 200


async def test_a_large_body_has_more_time(autojump_clock: MockClock) -> None:
    async with connected(echo, limits=Limits(body=5, body_rate=1000)) as client:
        await client.send(CHUNKED)
        for _ in range(20):
            await client.send(b"7d0\r\n" + 2000 * b"a" + b"\r\n")
            await trio.sleep(1)
        assert len((await client.ask(b"0\r\n\r\n")).body) == 40_000


# --- apps that fail


async def raising(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("secret text")


async def raising_after_its_answer(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b'{"mine": 1}', 500)
    raise ValueError("secret text")


async def raising_in_a_nursery(scope: Any, receive: Any, send: Any) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raising, scope, receive, send)
        await trio.sleep_forever()


def sending(*messages: dict[str, Any]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    return app


def head(*headers: tuple[bytes, bytes], status: int = 200) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


BODY = {"type": "http.response.body", "body": b"xx"}
FAILING = {
    "raises": raising,
    "raises in a nursery": raising_in_a_nursery,
    "sends nothing": sending(),
    "sends a head only": sending(head()),
    "sends a body first": sending(BODY),
    "sends too much": sending(head((b"content-length", b"1")), BODY),
    "sends too little": sending(head((b"content-length", b"9")), BODY),
    "splits the response by a value": sending(head((b"location", b"/\r\nset-cookie: evil=1")), BODY),
    "splits the response by a name": sending(head((b"evil: 1\r\nset-cookie", b"evil=1")), BODY),
    "sends an informational response": sending(head(status=101), BODY),
    "sends an unknown message": sending({"type": "http.response.invented"}),
}


@pytest.mark.parametrize("app", FAILING.values(), ids=FAILING)
async def test_an_app_that_fails_before_its_response_causes_a_500(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(app) as served:
        for _ in range(2):
            client = await served.connect()
            response = await client.ask(GET)
            assert (response.status, response.closes) == (500, True)
            assert json.loads(response.body)["success"] is False
            assert b"secret" not in response.body
            assert b"set-cookie" not in response.headers
            assert await client.to_end() == b""
    errors = [record for record in caplog.records if record.name == "exotrio.manager.http"]
    assert [record.levelname for record in errors] == ["ERROR"] * 2
    assert all("GET /" in record.getMessage() for record in errors)


async def test_a_failure_of_the_app_after_its_response_is_only_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client_of(raising_after_its_answer) as client:
        response = await client.ask(GET)
        assert (response.status, response.body) == (500, b'{"mine": 1}')
    assert len(caplog.records) == 1
    assert "secret text" in caplog.text


async def test_a_failure_of_the_app_within_its_response_leaves_that_visibly_incomplete() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await start(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError("oops")

    async with client_of(app) as client:
        await client.send(GET)
        await client.head()
        assert await client.to_end() == b"4\r\nhalf\r\n"


# --- stopping


async def test_stopping_closes_idle_connections_and_listeners_at_once() -> None:
    async with serving(hello, grace=math.inf) as served:
        active, silent = await served.connect(), await served.connect()
        await active.ask(GET)
        port = served.listeners[0].socket.getsockname()[1]
        served.stopping.set()
        assert await active.to_end() == b""
        assert await silent.to_end() == b""
        await served.ended.wait()
        with pytest.raises(OSError, match="127"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_connection_accepted_during_the_stop_does_not_wait_for_a_request(
    autojump_clock: MockClock,
) -> None:
    stopping = trio.Event()
    stopping.set()
    async with connected(hello, stopping=stopping) as client:
        start = trio.current_time()
        assert await client.to_end() == b""
        assert trio.current_time() == start


async def test_a_request_in_flight_is_finished_and_its_connection_closed() -> None:
    running = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        stopping = stopping_event(scope)
        assert stopping is not None
        await stopping.wait()
        await respond(send)

    async with serving(app) as served:
        client = await served.connect()
        await client.send(GET)
        await running.wait()
        served.stopping.set()
        response = await client.response()
        assert (response.body, response.closes) == (b"hello", True)
        assert await client.to_end() == b""
        await client.stream.aclose()
        await served.ended.wait()


async def test_a_request_that_outlasts_the_grace_is_cancelled() -> None:
    running = trio.Event()
    cancelled = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(app, grace=0.05) as served:
        client = await served.connect()
        await client.send(GET)
        await running.wait()
        served.stopping.set()
        await served.ended.wait()
        assert cancelled.is_set()


async def test_an_app_that_fails_while_it_is_cancelled_is_logged_and_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def fail_in_the_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("in the end")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_in_the_end)
            nursery.start_soon(trio.sleep_forever)
            running.set()

    async with serving(app, grace=0.05) as served:
        await (await served.connect()).send(GET)
        await running.wait()
        served.stopping.set()
        await served.ended.wait()
    assert "in the end" in caplog.text


async def test_a_client_that_stopped_reading_does_not_delay_the_end_of_the_grace() -> None:
    async with serving(flood, limits=Limits(write=3600), grace=0.05) as served:
        client = await served.connect()
        await client.send(GET)
        await client.head()
        served.stopping.set()
        await served.ended.wait()


async def test_a_client_that_does_not_close_does_not_delay_the_end_of_the_grace() -> None:
    async with serving(hello, grace=0.05) as served:
        client = await served.connect()
        assert (await client.ask(b"nonsense\r\n\r\n")).status == 400
        served.stopping.set()
        await served.ended.wait()


async def test_a_cancelled_server_ends_at_once_with_all_its_connections() -> None:
    running = trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        await flood(scope, receive, send)

    listeners = await open_listeners("127.0.0.1", 0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:

            async def serve(task_status: Any) -> None:
                await serve_http(app, listeners, stopping=trio.Event(), task_status=task_status)

            await nursery.start(serve)
            stuck = await trio.testing.open_stream_to_socket_listener(listeners[0])
            idle = await trio.testing.open_stream_to_socket_listener(listeners[0])
            await stuck.send_all(GET)
            await running.wait()
            nursery.cancel_scope.cancel()
        assert await idle.receive_some() == b""
        await idle.aclose()
        await stuck.aclose()
    assert listeners[0].socket.fileno() == -1


# --- many connections


async def test_above_the_limit_the_longest_idle_connection_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "SETTLING", 0.0)
    async with serving(hello, limits=Limits(max_connections=2)) as served:
        first, second = await served.connect(), await served.connect()
        await first.ask(GET)
        await second.ask(GET)
        await first.ask(GET)
        third = await served.connect()
        assert (await third.ask(GET)).status == 200
        assert await second.to_end() == b""
        assert (await first.ask(GET)).status == 200


async def test_connections_with_slow_heads_do_not_lock_out_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limiter, "KEYLESS_SETTLING", 0.0)
    # The test has a minute; without the safeguard the first of them would be refused in an hour.
    async with serving(hello, limits=Limits(max_connections=5, head=3600)) as served:
        slow = [await served.connect() for _ in range(5)]
        for client in slow:
            await client.send(GET[:-1])
            # One at a time: of those that are read in the same turn of the loop any may count as the slowest.
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await (await served.connect()).ask(GET)).status == 200
        assert await slow[0].to_end() == b""
        await slow[4].send(GET[-1:])
        assert (await slow[4].response()).status == 200


async def test_a_request_whose_head_is_incomplete_at_the_stop_is_served() -> None:
    async with serving(hello) as served:
        client = await served.connect()
        await client.ask(GET)
        await client.send(GET[:-1])
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.stopping.set()
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.send(GET[-1:])
        assert (await client.response()).status == 200


async def test_new_connections_wait_while_all_are_busy() -> None:
    go_on, full = trio.Event(), trio.Event()
    running = 0
    max_running = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal running, max_running
        running += 1
        max_running = max(max_running, running)
        if running == 3:
            full.set()
        await go_on.wait()
        running -= 1
        await respond(send)

    async with serving(app, limits=Limits(max_connections=3)) as served, trio.open_nursery() as nursery:
        answers: list[int] = []

        async def ask() -> None:
            client = await served.connect()
            answers.append((await client.ask(CLOSING)).status)
            await client.stream.aclose()

        for _ in range(12):
            nursery.start_soon(ask)
        await full.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert max_running == 3
        go_on.set()
    assert answers == [200] * 12


async def test_an_idle_connection_is_closed_for_another_only_after_it_settled(
    autojump_clock: MockClock,
) -> None:
    connections = ConnectionLimiter(1)
    connection = connections.enter(math.inf)
    connection.mark_authenticated()

    async def idle() -> None:
        with connection.limiter.idle(connection, math.inf):
            await trio.sleep_forever()
        connections.leave(connection)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(idle)
        start = trio.current_time()
        await connections.wait_for_room()
        assert trio.current_time() - start == pytest.approx(limiter.SETTLING)
        connections.enter(math.inf).mark_authenticated()
    # The idle one has left, so the new one fills the only place.
    with trio.move_on_after(10) as scope:
        await connections.wait_for_room()
    assert scope.cancelled_caught


async def test_keyless_connections_have_a_share_and_the_oldest_is_closed(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    connections = ConnectionLimiter(1_000)
    for _ in range(100):
        connections.enter(math.inf).mark_authenticated()
    keyless: list[OpenConnection] = []
    for _ in range(1_200):
        await connections.wait_for_room()
        keyless.append(connections.enter(math.inf))
        if len(keyless) > 500:
            connections.leave(keyless[len(keyless) - 501])
    assert [each.scope.cancel_called for each in keyless] == [True] * 700 + [False] * 500
    assert trio.current_time() == pytest.approx(2 * limiter.KEYLESS_SETTLING)
    assert not connections.crowded
    assert caplog.text.count("closed a connection that sent no key") == 1


async def test_a_keyless_connection_above_the_share_closes_no_idle_connection(
    autojump_clock: MockClock,
) -> None:
    connections = ConnectionLimiter(1_000)
    known = connections.enter(math.inf)
    known.mark_authenticated()
    with known.limiter.idle(known, math.inf):
        await trio.sleep(2 * limiter.SETTLING)
        # As several acceptors do, each of which found room before.
        for _ in range(510):
            connections.enter(math.inf)
        await trio.sleep(limiter.SETTLING)
    assert trio.current_time() == pytest.approx(3 * limiter.SETTLING)


async def test_a_hundred_simultaneous_clients_are_served_although_they_send_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "KEYLESS_SETTLING", 0.0)
    async with serving(hello) as served:
        clients = [await served.connect() for _ in range(100)]
        for client in clients:
            assert (await client.ask(GET)).status == 200


async def test_running_out_of_file_descriptors_is_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept: Callable[[Any], Awaitable[Any]] = trio.SocketListener.accept
    failures = 2

    async def failing_accept(listener: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", failing_accept)
    async with serving(hello) as served:
        assert (await (await served.connect()).ask(GET)).status == 200
    assert len(caplog.records) == 1
    assert "Too many open files" in caplog.text


async def test_without_file_descriptors_an_idle_connection_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limiter, "SETTLING", 0.0)
    accept: Callable[[Any], Awaitable[Any]] = trio.SocketListener.accept
    exhausted = False

    async def exhaustible_accept(listener: Any) -> Any:
        if exhausted:
            raise OSError(errno.EMFILE, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr(trio.SocketListener, "accept", exhaustible_accept)
    async with serving(hello) as served:
        idle = await served.connect()
        await idle.ask(GET)
        exhausted = True
        # The accept that is already waiting takes this one; the next fails.
        await served.connect()
        assert await idle.to_end() == b""


# --- listening


async def test_listening_on_port_0_says_which_port_it_is() -> None:
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        assert urls([listener]) == [f"http://127.0.0.1:{port}"]


async def test_ipv6_addresses_are_bracketed_in_urls() -> None:
    try:
        (listener,) = await open_listeners("::1", 0)
    except ConfigurationError:
        pytest.skip("no IPv6 here")
    async with listener:
        assert urls([listener]) == [f"http://[::1]:{listener.socket.getsockname()[1]}"]


async def test_all_addresses_of_a_name_share_one_port() -> None:
    listeners = await open_listeners("localhost", 0)
    assert len({listener.socket.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        await listener.aclose()


async def test_a_busy_port_is_named() -> None:
    (listener,) = await open_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    async with listener:
        with pytest.raises(PortBusy, match=f"port {port} is in use"):
            await open_listeners("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 70_000, "not a port"),
        ("127.0.0.1", -1, "not a port"),
        ("no-such-host.invalid", 0, "has no address"),
        ("x" * 70 + ".invalid", 0, "has no address"),
        ("192.0.2.1", 0, "not an address of this machine"),
    ],
)
async def test_addresses_that_cannot_be_used_are_explained(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await open_listeners(host, port)


async def test_a_port_that_needs_privileges_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*args: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(trio, "open_tcp_listeners", refuse)
    with pytest.raises(ConfigurationError, match="may not listen on port 80"):
        await open_listeners("127.0.0.1", 80)


# --- what all bodies and answers may take together


def post(size: int) -> bytes:
    return b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % size + b"b" * size


def chunked_post(size: int) -> bytes:
    return CHUNKED + (b"10000\r\n" + b"b" * 65_536 + b"\r\n") * (size // 65_536) + b"0\r\n\r\n"


@dataclass
class Handling:
    """An app that reads bodies, and answers when it may."""

    go_on: trio.Event = field(default_factory=trio.Event)
    read: list[int] = field(default_factory=list)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.read.append(len(await read_body(receive)))
        await self.go_on.wait()
        await respond(send)


@pytest.mark.parametrize("request_of", [post, chunked_post])
async def test_a_large_body_waits_until_it_fits_among_those_of_all_requests(
    request_of: Callable[[int], bytes], autojump_clock: MockClock
) -> None:
    app, size = Handling(), 131_072
    options: dict[str, Any] = {"limits": Limits(max_body=size), "in_flight": InFlight(4 * size - 2)}
    async with (
        connected(app, **options) as first,
        connected(app, **options) as second,
        connected(app, **options) as small,
    ):
        await first.send(request_of(size))
        await trio.testing.wait_all_tasks_blocked()
        await second.send(request_of(size))
        await trio.testing.wait_all_tasks_blocked()
        assert app.read == [size]
        await small.send(post(1_000))
        await trio.testing.wait_all_tasks_blocked()
        assert app.read == [size, 1_000], "small ones do not wait"
        app.go_on.set()
        for client in (first, second, small):
            assert (await client.response()).status == 200
        assert app.read == [size, 1_000, size]


async def test_the_values_in_a_body_wait_for_those_of_other_requests(autojump_clock: MockClock) -> None:
    handling, go_on = 0, trio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal handling
        await reserve_values(scope, MAX_VALUES // 2 + 1)
        handling += 1
        await go_on.wait()
        await respond(send)

    in_flight = InFlight(1_000)
    async with connected(app, in_flight=in_flight) as first, connected(app, in_flight=in_flight) as second:
        for client in (first, second):
            await client.send(GET)
            await trio.testing.wait_all_tasks_blocked()
        assert handling == 1
        go_on.set()
        for client in (first, second):
            assert (await client.response()).status == 200
    assert in_flight.values.used == 0


async def test_a_large_body_that_does_not_fit_in_time_is_refused_with_retry_after(
    autojump_clock: MockClock,
) -> None:
    app, size = Handling(), 131_072
    options: dict[str, Any] = {"limits": Limits(body=30), "in_flight": InFlight(2 * size)}
    async with connected(app, **options) as first, connected(app, **options) as second:
        await first.send(post(size))
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        response = await second.ask(post(size))
        assert trio.current_time() - began == 30
        assert (response.status, response.headers[b"retry-after"]) == (503, b"1")
        app.go_on.set()
        assert (await first.response()).status == 200
        async with connected(app, **options) as third:
            assert (await third.ask(post(size))).status == 200


async def large_answer(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"x" * 131_072)


async def test_a_response_that_is_read_slowly_makes_room_for_others(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"in_flight": InFlight(300_000), "lockstep": True}
    async with (
        connected(large_answer, **options) as slow,
        connected(large_answer, **options) as early,
        connected(large_answer, **options) as late,
    ):
        await slow.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        refusal = await early.ask(GET)
        assert (refusal.status, refusal.headers[b"retry-after"]) == (503, b"1")
        await trio.sleep(SLOW)
        assert len((await late.ask(GET)).body) == 131_072
        assert len(await slow.to_end()) < 131_072
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_no_response_is_cancelled_for_one_that_would_not_fit_anyway(
    autojump_clock: MockClock,
) -> None:
    in_flight = InFlight(20)
    with in_flight.response(3) as slow:
        await trio.sleep(SLOW)
        with in_flight.response(6):
            assert not in_flight.has_room(5)
            assert not slow.cancel_called
            assert in_flight.has_room(4)
            assert slow.cancel_called


async def test_send_raises_if_a_response_is_refused_for_lack_of_room(
    autojump_clock: MockClock,
) -> None:
    raised: list[Exception] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await large_answer(scope, receive, send)
        except OSError as error:
            raised.append(error)  # a claim is released then
            raise

    options: dict[str, Any] = {"in_flight": InFlight(300_000), "lockstep": True}
    async with connected(app, **options) as slow, connected(app, **options) as refused:
        await slow.send(GET)
        await trio.testing.wait_all_tasks_blocked()
        assert (await refused.ask(GET)).status == 503
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(raised[0], ClientDisconnected)


async def test_a_budget_serves_in_order_and_reserves_nothing_after_a_cancellation(
    autojump_clock: MockClock,
) -> None:
    budget, served = Budget(10), []

    async def take(amount: int) -> None:
        await budget.acquire(amount)
        served.append(amount)

    async with trio.open_nursery() as nursery:
        await take(8)
        with trio.move_on_after(1):
            await take(20)
        for amount in (5, 1, 99):
            nursery.start_soon(take, amount)
            await trio.testing.wait_all_tasks_blocked()
        assert served == [8], "a small one does not overtake"
        budget.release(8)
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(served) == [1, 5, 8], "in any order, since both fit at once"
        budget.release(6)
        await trio.testing.wait_all_tasks_blocked()
        assert served[3:] == [99], "one above the limit gets all of it"
    budget.release(99)
    assert budget.used == 0
