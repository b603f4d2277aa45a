"""A network that is slow: claims ask for less, large bodies get time, and answers have a size."""

from __future__ import annotations

import gzip
import math
from collections.abc import AsyncIterator

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

import exotrio._http.exchange
from exotrio import BaseNode, Graph, GraphNodeModel, ManagerUnavailable, StateManager
from exotrio._http.client import REQUEST_TIMEOUT, HttpClient
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._http.response import ResponseTooSlow
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager import embedded
from tests.support.doubles import NativeServer, V0Server, running
from tests.support.http_doubles import Double, answer, silent, tcp_server

RATE = 250_000
MB = 1_000_000


class Slow(httpx.AsyncBaseTransport):
    """A way to a server over which ``RATE`` bytes pass in a second, none after ``limit`` of an answer."""

    def __init__(self, server: httpx.AsyncBaseTransport, limit: float = math.inf) -> None:
        self._server = server
        self._limit = limit

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await trio.sleep(len(await request.aread()) / RATE)
        response = await self._server.handle_async_request(request)
        return httpx.Response(response.status_code, stream=Body(self._drip(await response.aread())))

    async def _drip(self, content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), RATE):
            if start >= self._limit:
                await trio.sleep_forever()
            piece = content[start : start + RATE]
            await trio.sleep(len(piece) / RATE)
            yield piece


class Body(httpx.AsyncByteStream):
    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces


class Counts(BaseNode):
    class Inputs(BaseModel):
        text: str

    class Outputs(BaseModel):
        length: str

    async def execute(self) -> Outputs:
        return self.Outputs(length=str(len(self.inputs.text)))


def slow_client(reply: httpx.Response) -> HttpClient:
    return HttpClient(Endpoint(EMBEDDED_URI, None, Slow(httpx.MockTransport(lambda _: reply))))


# -- the runtime


async def test_a_native_claim_that_comes_too_slowly_is_followed_by_smaller_ones(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """At a server that does not bound its replies."""
    server = NativeServer()
    server.add("Counts", 14, text="x" * MB)
    async with running(Slow(server), Counts) as rt:
        await server.until(EXECUTED=14)
        assert trio.current_time() < 200
    assert (rt.summary.completed, rt.summary.exit_code) == (14, 0)
    assert all(state.deliveries <= 2 for state in server.states.values())
    assert "a claim of up to 16 states arrived too slowly; the next claim is of up to 8" in caplog.text
    # It recovers slowly, or every second claim would be in vain.
    claims = [call.claim or call.body for call in server.calls if call.claim or call.route == "claim"]
    first, second, *others = [claim["limit"] for claim in claims]
    assert (first, second) == (16, 8)
    assert max(others) <= 9


async def test_our_server_bounds_its_replies_so_that_nothing_comes_too_slowly(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    place = GraphNodeModel(node_name="Counts", namespace="ns", identifier="counts", inputs={"text": ""})
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        running(Slow(transport), Counts, registered=True) as rt,
    ):
        await manager.upsert_graph(Graph("g", [place]))
        for _ in range(14):
            last = await manager.trigger("g", inputs={"text": "x" * MB})
        began = trio.current_time()
        await rt._ledger.until(lambda: rt.summary.completed == 14)
        assert trio.current_time() - began < 2 * 14 * MB / RATE
        assert (await manager.status(last["run_id"])).status is RunStatus.SUCCESS
    assert "too slowly" not in caplog.text


async def test_a_v0_claim_is_waited_for_as_long_as_it_arrives(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.add("Counts", 40, text="x" * MB)
    async with running(Slow(server), Counts, batch_size=40) as rt:
        await server.until(EXECUTED=40)
    assert (rt.summary.completed, rt.summary.lost_claims) == (40, 0)


async def test_after_a_v0_claim_that_stopped_arriving_less_is_asked_for(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = V0Server()
    server.add("Counts", 20, text="x" * MB)
    async with running(Slow(server, limit=9 * MB), Counts) as rt:
        await server.until(EXECUTED=4)
    assert "a claim of up to 16 states arrived too slowly; the next claim is of up to 8" in caplog.text
    assert rt.summary.lost_claims == 16


# -- requests and answers


async def test_a_large_body_gets_the_time_that_a_slow_link_needs(autojump_clock: MockClock) -> None:
    http = slow_client(answer(200, {}))
    await http.ask("POST", "/outcomes", body=b"x" * (40 * RATE))
    assert trio.current_time() > REQUEST_TIMEOUT


async def test_an_answer_that_arrives_too_slowly_says_how_much_of_it_did(autojump_clock: MockClock) -> None:
    http = slow_client(answer(200, {"text": "x" * (40 * RATE)}))
    with pytest.raises(ResponseTooSlow, match="did not arrive as a whole within 30 s: 7250000 bytes did"):
        await http.ask("GET", "/ping")
    assert (await http.ask("GET", "/ping", chunk_timeout=REQUEST_TIMEOUT)).status == 200


async def test_an_answer_that_only_begins_too_late_is_not_said_to_be_too_large(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(ManagerUnavailable) as caught:
        await HttpClient(Double(silent).endpoint).ask("GET", "/ping")
    assert not isinstance(caught.value, ResponseTooSlow)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_an_answer_that_was_compressed_unasked_is_not_decoded(coding: str) -> None:
    async def respond(stream: trio.SocketStream, request: bytes) -> None:
        body = gzip.compress(b'{"text": "' + b"x" * 1000 + b'"}')
        head = f"HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {len(body)}\r\n\r\n"
        await stream.send_all(head.encode() + body)

    async with tcp_server(respond) as (uri, seen):
        http = HttpClient(Endpoint(uri, "the-key"))
        with pytest.raises(ManagerUnavailable, match="which was not requested"):
            await http.ask("GET", "/ping")
        await http.aclose()
    assert b"accept-encoding: identity" in seen[0].lower()


async def test_an_answer_without_end_is_given_up_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exotrio._http.exchange, "MAX_ANSWER", 100_000)
    sent = 0

    async def long() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 1000
            yield b" " * 1000

    http = HttpClient(Double(lambda _: httpx.Response(200, stream=Body(long()))).endpoint)
    with pytest.raises(ManagerUnavailable, match="more than 100000 bytes"):
        await http.ask("GET", "/ping")
    assert sent <= 102_000
