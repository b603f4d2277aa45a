"""Requests over real sockets, from Trio and from asyncio."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import ssl
import struct
import threading
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
import trio.testing
import trustme

from exotrio._http import network
from exotrio._http.client import HttpClient
from exotrio._http.endpoint import Endpoint
from exotrio.errors import ConfigurationError, ManagerUnavailable, RequestRefused

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
Respond = Callable[[Any, bytes], Awaitable[None]]
Ask = Callable[[str], Awaitable[Any]]


@asynccontextmanager
async def served(respond: Respond, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve each connection with ``respond``, which gets the stream and what arrived; give the base URI."""

    async def serve(tcp: trio.SocketStream) -> None:
        stream: Any = trio.SSLStream(tcp, tls, server_side=True, https_compatible=True) if tls else tcp
        async with stream:
            try:
                while chunk := await stream.receive_some():
                    await respond(stream, chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def in_trio(ask: Ask, uri: str) -> Any:
    return await ask(uri)


async def in_asyncio(ask: Ask, uri: str) -> Any:
    return await trio.to_thread.run_sync(lambda: asyncio.run(ask(uri)))  # type: ignore[arg-type]


both_loops = pytest.mark.parametrize("run", [in_trio, in_asyncio])


@both_loops
async def test_an_answer_may_come_in_pieces_after_others_that_say_nothing(run: Any) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n")
        await stream.send_all(b'transfer-encoding: chunked\r\n\r\n4\r\n{"a"\r\n')
        await stream.send_all(b"4\r\n:12}\r\n0\r\n\r\n")

    async def ask(uri: str) -> Any:
        client = HttpClient(Endpoint(uri, "the-key"))
        answers = [(await client.ask("GET", "/x")).body for _ in range(2)]
        await client.aclose()
        return answers

    async with served(respond) as uri:
        assert await run(ask, uri) == [{"a": 12}] * 2


@both_loops
async def test_a_connection_that_the_server_closed_is_not_used_again(run: Any) -> None:
    closed = 0

    async def respond(stream: Any, _: bytes) -> None:
        nonlocal closed
        await stream.send_all(OK)
        await stream.aclose()
        closed += 1

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        for number in range(3):
            while closed < number:  # noqa: ASYNC110 (the server may be in another thread)
                await anyio.sleep(0.001)
            await client.ask("GET", "/x")
        await client.aclose()

    async with served(respond) as uri:
        await run(ask, uri)


@both_loops
async def test_the_refusal_of_a_body_that_is_larger_than_all_buffers_is_read(run: Any) -> None:
    is_refused = False

    async def respond(stream: Any, _: bytes) -> None:
        nonlocal is_refused
        if not is_refused:
            is_refused = True
            await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\n{}")

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(RequestRefused) as caught:
            await client.ask("POST", "/x", body=b" " * 20_000_000)
        assert caught.value.status == 413
        await client.aclose()

    async with served(respond) as uri:
        await run(ask, uri)


@both_loops
@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000]
)
async def test_what_is_no_answer_breaks_the_connection(run: Any, answer: bytes) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_all(answer)

    async def ask(uri: str) -> ManagerUnavailable:
        client = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(ManagerUnavailable, match="broke before an answer") as caught:
            await client.ask("GET", "/x")
        await client.aclose()
        return caught.value

    async with served(respond) as uri:
        error = await run(ask, uri)
    assert error.sent


@both_loops
async def test_what_follows_an_answer_is_not_taken_for_the_next_one(run: Any) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_all(OK + b'HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{"wrong":1}'[:-1])

    async def ask(uri: str) -> Any:
        client = HttpClient(Endpoint(uri, "the-key"))
        answers = [(await client.ask("GET", "/x")).body for _ in range(2)]
        await client.aclose()
        return answers

    async with served(respond) as uri:
        assert await run(ask, uri) == [{}, {}]


@both_loops
async def test_a_connection_that_broke_says_why(run: Any) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(ManagerUnavailable, match="Connection reset by peer") as caught:
            await client.ask("GET", "/x")
        assert caught.value.sent
        with pytest.raises(ManagerUnavailable, match="Connection reset by peer") as caught:
            await HttpClient(Endpoint(uri.replace("http:", "https:"), "the-key")).ask("GET", "/x")
        assert not caught.value.sent
        await client.aclose()

    async with served(respond) as uri:
        await run(ask, uri)


@both_loops
async def test_a_tls_handshake_that_the_server_ends_is_no_connection(run: Any) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_eof()

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri.replace("http:", "https:"), "the-key"))
        with pytest.raises(ManagerUnavailable, match=r"reached: (it was closed|.*EOF)") as caught:
            await client.ask("GET", "/x")
        assert not caught.value.sent
        await client.aclose()

    async with served(respond) as uri:
        await run(ask, uri)


@both_loops
async def test_a_host_with_an_empty_label_cannot_be_reached(run: Any) -> None:
    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(ManagerUnavailable, match="cannot be reached") as caught:
            await client.ask("GET", "/x")
        assert not caught.value.sent
        await client.aclose()

    await run(ask, "http://a..b:1")


async def test_a_host_with_other_letters_is_looked_up_as_browsers_do_and_no_usual_port_is_named() -> None:
    names: list[Any] = []
    requests = []

    async def respond(stream: Any, chunk: bytes) -> None:
        requests.append(chunk.lower())
        await stream.send_all(OK)

    async with served(respond) as uri:
        address = ("127.0.0.1", int(uri.rpartition(":")[2]))

        class Resolver(trio.abc.HostnameResolver):
            async def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> Any:
                names.append(host)
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]

            async def getnameinfo(self, *_: Any) -> Any: ...

        trio.socket.set_custom_hostname_resolver(Resolver())
        client = HttpClient(Endpoint("http://Straße.invalid:80", "the-key"))
        await client.ask("GET", "/x")
        await client.aclose()
        with pytest.raises(ConfigurationError, match="the state manager URI cannot be used"):
            await HttpClient(Endpoint("http://\N{SNOWMAN}.invalid", "the-key")).ask("GET", "/x")
    assert names == [b"xn--strae-oqa.invalid"]
    assert b"\r\nhost: xn--strae-oqa.invalid\r\n" in requests[0]


@both_loops
async def test_an_error_of_a_sink_is_not_one_of_the_connection(run: Any) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: 2\r\n\r\n{}")

    async def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(OSError, match="no space left"):
            await client.download("/x", full, timeout=5, media_type="x/y")
        await client.aclose()

    async with served(respond) as uri:
        await run(ask, uri)


@both_loops
async def test_a_connection_in_use_when_its_client_is_closed_is_closed_afterwards(run: Any) -> None:
    is_closed = threading.Event()

    async def respond(stream: Any, _: bytes) -> None:
        while not is_closed.is_set():  # noqa: ASYNC110 (it may be set in another thread)
            await anyio.sleep(0.001)
        await stream.send_all(OK)

    async def ask(uri: str) -> None:
        client = HttpClient(Endpoint(uri, "the-key"))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.ask, "GET", "/x")
            await anyio.wait_all_tasks_blocked()
            await client.aclose()
            is_closed.set()

    async with served(respond) as uri:
        await run(ask, uri)
    gc.collect()  # pytest turns a warning of what is left open into an error


async def test_connections_that_are_not_needed_any_more_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = 0.0
    streams = set()

    async def respond(stream: trio.SocketStream, _: bytes) -> None:
        streams.add(stream)
        while len(streams) < 3:
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(OK)

    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed)
    monkeypatch.setattr("exotrio._http.network.time", clock)
    async with served(respond) as uri:
        client = HttpClient(Endpoint(uri, "the-key"))
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(client.ask, "GET", "/x")
        passed = 3.0
        await client.ask("GET", "/x")
        passed = 6.0
        await client.ask("GET", "/x")
        await trio.testing.wait_all_tasks_blocked()
        assert sum(stream.socket.fileno() >= 0 for stream in streams) == 1
        await client.aclose()


async def test_user_and_path_of_the_uri_are_sent_with_each_request() -> None:
    requests = []

    async def respond(stream: Any, chunk: bytes) -> None:
        requests.append(chunk)
        await stream.send_all(OK)

    async with served(respond) as uri:
        client = HttpClient(Endpoint(uri.replace("//", "//ada:p%40ss@") + "/behind/a%20proxy", "the-key"))
        await client.ask("GET", "/x?a=1")
        await client.ask("POST", "/x", body={})
        await client.aclose()
        client = HttpClient(Endpoint(uri.replace("//", "//@") + "/é b", "the-key"))
        await client.ask("GET", "/x")
        await client.aclose()
    first, second, third = (request.decode().split("\r\n") for request in requests)
    assert first[0] == "GET /behind/a%20proxy/x?a=1 HTTP/1.1"
    assert f"host: {uri.removeprefix('http://')}" in map(str.lower, first)
    assert f"authorization: Basic {b64encode(b'ada:p@ss').decode()}" in first
    assert "content-length: 2" in second
    assert not any(line.lower().startswith("content-length") for line in first)
    assert third[0] == "GET /%C3%A9%20b/x HTTP/1.1"
    assert not any(line.startswith("authorization") for line in third)


@both_loops
@pytest.mark.parametrize("is_trusted", [True, False])
async def test_over_tls_only_a_trusted_certificate_is_accepted(
    run: Any, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocols = []

    async def respond(stream: Any, _: bytes) -> None:
        protocols.append(stream.selected_alpn_protocol())
        await stream.send_all(OK)

    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_alpn_protocols(["h2", "http/1.1"])
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusted = tmp_path / "trusted.pem"
    (authority if is_trusted else trustme.CA()).cert_pem.write_to_path(trusted)
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    network.tls_context.cache_clear()

    async def ask(uri: str) -> list[int] | ManagerUnavailable:
        client = HttpClient(Endpoint(uri, "the-key"))
        try:
            return [(await client.ask("GET", "/x")).status for _ in range(2)]
        except ManagerUnavailable as error:
            return error
        finally:
            await client.aclose()

    try:
        async with served(respond, tls) as uri:
            end = await run(ask, uri)
    finally:
        network.tls_context.cache_clear()
    if is_trusted:
        assert end == [200, 200]
        assert protocols == ["http/1.1"] * 2
    else:
        assert not end.sent
        assert "cannot be reached" in end.what
        assert "unable to get local issuer certificate" in end.what
