"""Thousands of clients that want nothing, or never come to say what: others are served meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

import httpx
import pytest
import trio

from exotrio.manager import Limits, serve
from exotrio.manager.web import guard
from tests.support.helpers import ok, open_client
from tests.support.manager import KEY

CROWD = 2_000
FILES = 2 * CROWD + 500
TEST_TIMEOUT = 60.0
NO_LIMITS = Limits(idle=7_200, head=7_200, body=7_200, write=7_200, keyless=7_200)
"""Longer than the test waits: no client is disconnected by waiting."""
SIGN_IN = b"POST /sign-in HTTP/1.1\r\nhost: 127.0.0.1:PORT\r\norigin: http://127.0.0.1:PORT\r\n"
HEARTBEAT = {"worker_id": "w", "states": []}
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
async def test_thousands_of_idle_connections_do_not_block_other_clients() -> None:
    await crowd_out(CROWD, NO_LIMITS)


@pytest.mark.parametrize(
    ("sent", "half_closed"),
    [
        (b"", False),
        (b"", True),
        (POST, False),
        (b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", False),
        (b"GET /static/1/style.css HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 900, False),
        (POST + b"content-length: 1000\r\n\r\n{", False),
        (SIGN_IN + b"content-length: 1000\r\n\r\nkey=", False),
        (SIGN_IN + b"transfer-encoding: chunked\r\n\r\n1\r\nk\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01", False),
    ],
    ids=[
        "silent",
        "half closed",
        "half a head",
        "answered",
        "reads nothing",
        "half a body",
        "half a form",
        "a form in small chunks",
        "another protocol",
    ],
)
async def test_clients_that_never_finish_a_request_do_not_block_others(
    monkeypatch: pytest.MonkeyPatch, sent: bytes, half_closed: bool
) -> None:
    monkeypatch.setattr(guard, "FORM_TIME", 7_200)
    await crowd_out(100, replace(NO_LIMITS, max_connections=40), sent, half_closed)


async def test_a_browser_keeps_its_connection_once_a_user_is_signed_in() -> None:
    with trio.fail_after(TEST_TIMEOUT):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(partial(serve, port=0, db=":memory:", key=KEY, grace=0.1))
            async with open_client(url=url) as browser:
                form = await browser.get("/sign-in")
                assert form.headers["connection"] == "close"
                opened = await browser.post("/sign-in", data={"key": KEY}, headers={"origin": url})
                assert opened.status_code == 303
                page = await browser.get("/ns/default")
                assert _address(page) == _address(opened)
            async with open_client(url=url) as later:
                later.cookies = browser.cookies
                style = await later.get("/static/0/style.css")
                page = await later.get("/ns/default")
                assert (style.status_code, page.status_code) == (200, 200)
                assert _address(style) == _address(page)
            nursery.cancel_scope.cancel()


async def crowd_out(clients: int, limits: Limits, sent: bytes = b"", half_closed: bool = False) -> None:
    """See that others are answered while so many clients without a key do what they do, and stay."""
    crowd: list[trio.SocketStream] = []
    try:
        with trio.fail_after(TEST_TIMEOUT):
            async with trio.open_nursery() as nursery:
                run = partial(serve, port=0, db=":memory:", key=KEY, limits=limits, grace=0.1)
                (url,) = await nursery.start(run)
                async with open_client(url=url, key=KEY) as known:
                    address = _address(await _heartbeat(known))
                    for number in range(clients):
                        crowd.append(await _client(url, sent, half_closed))
                        if number % 100 == 0:
                            # Or its own limit on idle connections, 5 s, would close it.
                            await _heartbeat(known)
                    async with open_client(url=url) as probe, open_client(url=url, key=KEY) as client:
                        assert (await probe.get("/readyz")).status_code == 200
                        await _heartbeat(client)
                    assert _address(await _heartbeat(known)) == address, (
                        "its connection was closed for one without a key"
                    )
                nursery.cancel_scope.cancel()
    finally:
        for stream in crowd:
            stream.socket.close()


async def _heartbeat(client: httpx.AsyncClient) -> httpx.Response:
    answer = await client.post("/exotrio/v1/namespace/n/heartbeat", json=HEARTBEAT)
    ok(answer)
    return answer


def _address(answer: httpx.Response) -> object:
    """Return our address on the connection on which this answer came."""
    return answer.extensions["network_stream"].get_extra_info("client_addr")


async def _client(url: str, sent: bytes, half_closed: bool) -> trio.SocketStream:
    port = int(url.rpartition(":")[2])
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with suppress(trio.BrokenResourceError):  # it was closed for another already
        if sent:
            await stream.send_all(sent.replace(b"PORT", b"%d" % port))
        if half_closed:
            await stream.send_eof()
    return stream
