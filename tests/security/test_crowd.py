"""Thousands of clients that want nothing, or never come to say what: others are served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pytest
import trio

from exotrio.manager import Limits, _http_gate, serve
from exotrio.manager.web import _guard
from tests.helpers import ok, open_client
from tests.manager.support import KEY

CROWD = 2_000
FILES = 2 * CROWD + 500
PATIENCE = 60.0
FOR_EVER = Limits(idle=7_200, head=7_200, body=7_200)
"""Longer than the test waits: nobody is got rid of by waiting."""
SIGN_IN = b"POST /sign-in HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\norigin: http://127.0.0.1:PORT\r\n"
POST = b"POST /v0/namespace/n/states/enqueue HTTP/1.1\r\nhost: 127.0.0.1\r\n"


@pytest.fixture
def many_files() -> Iterator[None]:
    """Let this process have a file for each client, and for each connection on the other side."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard < FILES:
        pytest.skip(f"at most {hard} files may be open here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
async def test_thousands_of_idle_connections_keep_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # So that it does not take a second for each five hundred of them.
    monkeypatch.setattr(_http_gate, "SETTLING", 0.0)
    await crowd_out(CROWD, FOR_EVER)


@pytest.mark.parametrize(
    ("sent", "half_closed"),
    [
        (b"", True),
        (POST, False),
        (b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", False),
        (POST + b"content-length: 1000\r\n\r\n{", False),
        (SIGN_IN + b"content-length: 1000\r\n\r\nkey=", False),
        (b"\x16\x03\x01\x02\x00\x01", False),
    ],
    ids=["half closed", "half a head", "answered", "half a body", "half a form", "another protocol"],
)
async def test_clients_that_never_come_to_their_request_keep_nobody_out(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, half_closed: bool
) -> None:
    # Long enough that each is heard before it may be closed for another.
    monkeypatch.setattr(_http_gate, "SETTLING", 0.2)
    monkeypatch.setattr(_guard, "FORM_TIME", 0.1)
    await crowd_out(30, replace(FOR_EVER, max_connections=20), sent, half_closed)


async def crowd_out(clients: int, limits: Limits, sent: bytes = b"", half_closed: bool = False) -> None:
    """See that a request is answered while so many clients do what they do, and stay."""
    crowd: list[trio.SocketStream] = []
    try:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                run = partial(serve, port=0, db=":memory:", key=KEY, limits=limits, grace=0.1)
                (url,) = await nursery.start(run)
                for _ in range(clients):
                    crowd.append(await _client(url, sent, half_closed))
                async with open_client(url=url, key=KEY) as client:
                    ok(await client.get("/v0/namespaces"))
                nursery.cancel_scope.cancel()
    finally:
        for stream in crowd:
            stream.socket.close()


async def _client(url: str, sent: bytes, half_closed: bool) -> trio.SocketStream:
    port = int(url.rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with suppress(trio.BrokenResourceError):  # it was closed for another already
        if sent:
            await stream.send_all(sent.replace(b"PORT", b"%d" % port))
        if half_closed:
            await stream.send_eof()
    return stream
