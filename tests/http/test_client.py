from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import trio
import trio.testing
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio._http.client import HttpClient
from exotrio._http.endpoint import Endpoint
from exotrio._http.response import NotAccepted, ServerError, retry_after
from exotrio._shared import deadlines
from exotrio.errors import (
    ConfigurationError,
    InvalidResponse,
    KeyRefused,
    LifecycleError,
    ManagerError,
    ManagerUnavailable,
    NotFound,
    RequestRefused,
)
from tests.support.http_doubles import Double, answer, client_for, tcp_server


class Pong(BaseModel):
    pong: str


async def failure_of(handler) -> ManagerError:
    http, _ = client_for(handler)
    with pytest.raises(ManagerError) as caught:
        await http.fetch(Pong, "GET", "/ping")
    assert "the-key" not in str(caught.value)
    assert "request: GET /ping" in str(caught.value)
    return caught.value


async def test_an_answer_is_parsed_and_the_key_and_a_fresh_request_id_are_sent() -> None:
    http, double = client_for(lambda _: answer(200, {"pong": "yes"}))
    assert (await http.fetch(Pong, "GET", "/ping")).pong == "yes"
    await http.ask("POST", "/ping", body={"a": 1})
    first, second = double.requests
    assert first.headers["x-api-key"] == "the-key"
    ids = {UUID(request.headers["X-Exosphere-Request-ID"]) for request in double.requests}
    assert len(ids) == 2
    assert second.headers["content-type"] == "application/json"


async def test_a_key_that_is_refused_is_read_from_its_file_again_and_the_request_repeated_once(
    tmp_path: Path,
) -> None:
    file = tmp_path / "key"
    file.write_text("new\n", "utf-8")

    def serve(request: httpx.Request) -> httpx.Response:
        if request.headers["x-api-key"] == file.read_text("utf-8").strip():
            return answer(200, {"pong": "yes"})
        return answer(401, {"detail": "wrong"})

    double = Double(serve)
    endpoint = Endpoint("http://manager.invalid", "old", double.endpoint.transport, key_file=str(file))
    http = HttpClient(endpoint)
    assert (await http.fetch(Pong, "GET", "/ping")).pong == "yes"
    assert [request.headers["x-api-key"] for request in double.requests] == ["old", "new"]
    await http.fetch(Pong, "GET", "/ping")
    assert [request.headers["x-api-key"] for request in double.requests] == ["old", "new", "new"]
    # The file has the same key, is illegal, or is not there: refused after one request.
    for text in ("new", "two\nlines\x00", None):
        double.requests.clear()
        if text is None:
            file.unlink()
        else:
            file.write_text(text, "utf-8")
        http = HttpClient(replace(endpoint, key="new" if text == "new" else "old"))
        refuse = Double(lambda _: answer(401, {"detail": "wrong"}))
        http = HttpClient(replace(http.endpoint, transport=refuse.endpoint.transport))
        with pytest.raises(KeyRefused) as caught:
            await http.fetch(Pong, "GET", "/ping")
        assert len(refuse.requests) == 1
        assert "lines" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefused),
        (401, KeyRefused),
        (403, KeyRefused),
        (404, NotFound),
        (405, RequestRefused),
        (408, NotAccepted),
        (409, RequestRefused),
        (422, RequestRefused),
        (425, NotAccepted),
        (429, NotAccepted),
        (500, ServerError),
        (502, ManagerUnavailable),
        (503, NotAccepted),
    ],
)
async def test_each_status_becomes_its_own_error(status: int, kind: type[ManagerError]) -> None:
    error = await failure_of(lambda _: answer(status, {"detail": "the reason"}))
    assert type(error) is kind
    assert error.status == status
    assert "the reason" in error.what
    if isinstance(error, ManagerUnavailable):
        assert error.sent


async def test_a_validation_error_shows_its_place_but_not_the_value() -> None:
    item = {
        "type": "x",
        "loc": ["body", "nodes", 0, "identifier"],
        "msg": "cannot be blank",
        "input": "SECRET",
    }
    error = await failure_of(lambda _: answer(422, {"detail": [item]}))
    assert "nodes[0].identifier: cannot be blank" in error.what
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(status, InvalidResponse) for status in (200, 400, 403, 404)],
        *[(status, ManagerUnavailable) for status in (429, 500, 502, 503)],
    ],
)
async def test_a_body_that_is_not_json_is_invalid_unless_its_status_tells_of_an_outage(
    status: int, kind: type[ManagerUnavailable]
) -> None:
    error = await failure_of(lambda _: httpx.Response(status, text="<html>no</html>"))
    assert type(error) is kind
    assert isinstance(error, ManagerUnavailable)
    assert error.sent
    assert error.status == status


async def test_a_proxy_that_finds_the_body_too_large_refuses_it_in_any_format() -> None:
    error = await failure_of(lambda _: httpx.Response(413, text="<html>too large</html>"))
    assert isinstance(error, RequestRefused)


async def test_a_body_of_another_shape_is_invalid_and_its_values_are_not_shown() -> None:
    error = await failure_of(lambda _: answer(200, {"pong": ["SECRET"]}))
    assert type(error) is InvalidResponse
    assert "pong" in error.what
    assert "SECRET" not in str(error)


async def test_a_redirect_is_refused_with_its_location() -> None:
    error = await failure_of(
        lambda _: httpx.Response(307, headers={"location": "https://elsewhere.example/"})
    )
    assert isinstance(error, RequestRefused)
    assert "https://elsewhere.example/" in error.what


@pytest.mark.parametrize(
    ("raised", "sent"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.PoolTimeout("full"), False),
        (httpx.ReadError("reset"), True),
        (httpx.RemoteProtocolError("server disconnected"), True),
        (httpx.WriteError("pipe"), True),
    ],
)
async def test_only_connect_and_pool_failures_are_known_to_be_unsent(raised: Exception, sent: bool) -> None:
    def handler(_: httpx.Request) -> httpx.Response:
        raise raised

    error = await failure_of(handler)
    assert isinstance(error, ManagerUnavailable)
    assert error.sent is sent


async def test_a_request_without_an_answer_in_time_fails(autojump_clock: MockClock) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await trio.sleep(31)
        return answer(200)

    error = await failure_of(handler)
    assert isinstance(error, ManagerUnavailable)
    assert error.sent
    assert "did not answer within 30 s" in error.what
    assert trio.current_time() == pytest.approx(30)


async def test_waiting_for_a_free_slot_too_long_is_known_to_be_unsent(autojump_clock: MockClock) -> None:
    async def handler(_: httpx.Request) -> httpx.Response:
        await trio.sleep(20)
        return answer(200)

    double = Double(handler)
    http = HttpClient(double.endpoint, tasks=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(http.ask, "GET", "/first")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ManagerUnavailable) as caught:
            await http.ask("GET", "/second", timeout=5)
        assert not caught.value.sent
    assert len(double.requests) == 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "9" * 5000}, 120.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        (
            {"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


async def test_retry_after_reaches_the_error() -> None:
    error = await failure_of(lambda _: answer(503, retry_after="3"))
    assert isinstance(error, ManagerUnavailable)
    assert error.retry_after == 3.0


def test_outside_of_an_event_loop_the_error_says_so() -> None:
    http, _ = client_for(lambda _: answer(200))
    with pytest.raises(LifecycleError, match=r"call it from a function that trio\.run\(\.\.\.\) or asyncio"):
        http.ask("GET", "/ping").send(None)


async def test_an_argument_without_a_json_form_is_named_as_such() -> None:
    http, _ = client_for(lambda _: answer(200))
    with pytest.raises(ConfigurationError, match="JSON"):
        await http.ask("POST", "/ping", body={"x": float("nan")})


def test_importing_the_modules_loads_no_httpx() -> None:
    code = (
        "import sys, exotrio.client._state_manager, exotrio._link.auto; "
        "sys.exit(any(m in sys.modules for m in ('httpx', 'dotenv')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- over a real socket


async def test_a_refused_connection_is_unsent_and_says_how_to_start_a_server() -> None:
    with trio.socket.socket() as free:
        await free.bind(("127.0.0.1", 0))
        http = HttpClient(Endpoint(f"http://127.0.0.1:{free.getsockname()[1]}", "the-key"))
        with pytest.raises(ManagerUnavailable) as caught:
            await http.ask("GET", "/ping")
    await http.aclose()
    assert not caught.value.sent
    assert "python -m exotrio server" in str(caught.value)


async def test_an_answer_cut_after_the_request_arrived_is_not_known_to_be_unsent() -> None:
    async def respond(stream: trio.SocketStream, _: bytes) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await stream.aclose()

    async with tcp_server(respond) as (uri, _):
        http = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(ManagerUnavailable) as caught:
            await http.ask("GET", "/ping")
        await http.aclose()
    assert caught.value.sent


@pytest.mark.parametrize("how", ["sink fails", "cancelled", "another type"])
async def test_a_failed_download_closes_its_connection_and_releases_its_slot(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "HANG_UP", 15.0)  # it hangs up itself, or this test is too slow
    hung_up = trio.Semaphore(0)
    kind = "text/plain" if how == "another type" else "application/x-test"

    async def respond(stream: trio.SocketStream, request: bytes) -> None:
        if b"/ping" in request:
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            return
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: 1000\r\n\r\nbegin"
        await stream.send_all(head.encode())
        if how == "another type":
            await stream.aclose()  # or its reason would be waited for
        elif not await stream.receive_some():
            hung_up.release()

    async def full(piece: bytes) -> None:
        if how == "cancelled":
            scope.cancel()
            await trio.sleep_forever()
        raise OSError(f"no space left for {piece!r}")

    async with tcp_server(respond) as (uri, _):
        http = HttpClient(Endpoint(uri, "the-key"), tasks=1)
        with trio.fail_after(60):
            for _ in range(3):
                with trio.CancelScope() as scope, suppress(OSError, ManagerUnavailable):
                    await http.download("/large", full, timeout=10, media_type="application/x-test")
            if how != "another type":
                for _ in range(3):
                    await hung_up.acquire()
            await http.ask("GET", "/ping")
        await http.aclose()


async def test_a_request_cancelled_while_its_body_is_sent_leaves_nothing_to_collect() -> None:
    async def never_read(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, never_read, 0, host="127.0.0.1"))
        http = HttpClient(Endpoint(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", "k"))
        more_than_buffers_hold = b" " * 50_000_000
        nursery.start_soon(partial(http.ask, "POST", "/", body=more_than_buffers_hold))
        # Two in turn: while it connects, all tasks are blocked too.
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    gc.collect()  # what is not closed is warned of, and warnings are errors here
    await http.aclose()


async def test_more_requests_than_tasks_wait_outside_the_pool_also_after_many_were_cancelled() -> None:
    running = highest = 0
    begun, ended = trio.Semaphore(0), trio.Semaphore(0)

    async def respond(stream: trio.SocketStream, request: bytes) -> None:
        nonlocal running, highest
        running += 1
        highest = max(highest, running)
        begun.release()
        try:
            if b"/slow" in request:
                await stream.receive_some()  # returns when the client hangs up
                return
            await trio.lowlevel.checkpoint()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        finally:
            running -= 1
            ended.release()

    async with tcp_server(respond) as (uri, _):
        http = HttpClient(Endpoint(uri, "the-key"), tasks=3)
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(http.ask, "GET", "/slow")
                for _ in range(3):
                    await begun.acquire()
                await trio.testing.wait_all_tasks_blocked(0.01)
                nursery.cancel_scope.cancel()
            for _ in range(3):
                await ended.acquire()
            async with trio.open_nursery() as nursery:
                for _ in range(12):
                    nursery.start_soon(http.ask, "GET", "/quick")
        await http.aclose()
    assert highest == 3


async def test_a_transport_need_not_read_a_body_to_its_end() -> None:
    async def refuse(_: object, receive: Callable[[], Awaitable[object]], send: Callable[..., Any]) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 413, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    transport = httpx.ASGITransport(refuse)
    with pytest.raises(RequestRefused):
        await HttpClient(Endpoint("http://manager.invalid", None, transport)).ask("POST", "/ping", body={})
    gc.collect()  # what is not read to its end is warned of, and warnings are errors here
