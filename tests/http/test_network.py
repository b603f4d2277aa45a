"""Requests over real sockets, from Trio and from asyncio."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme

from exotrio._http import network
from exotrio._http.client import HttpClient
from exotrio._http.endpoint import Endpoint
from exotrio.errors import ManagerUnavailable, RequestRefused

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
    first, second = (request.decode().split("\r\n") for request in requests)
    assert first[0] == "GET /behind/a%20proxy/x?a=1 HTTP/1.1"
    assert f"host: {uri.removeprefix('http://')}" in map(str.lower, first)
    assert f"authorization: Basic {b64encode(b'ada:p@ss').decode()}" in first
    assert "content-length: 2" in second
    assert not any(line.lower().startswith("content-length") for line in first)


@both_loops
@pytest.mark.parametrize("is_trusted", [True, False])
async def test_over_tls_only_a_trusted_certificate_is_accepted(
    run: Any, is_trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def respond(stream: Any, _: bytes) -> None:
        await stream.send_all(OK)

    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
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
    else:
        assert not end.sent
        assert "cannot be reached" in end.what
        assert "unable to get local issuer certificate" in end.what
