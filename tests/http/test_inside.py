"""A client inside the process of a state manager gets the same answers as one that sends it HTTP messages."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from exotrio._http.client import HttpClient
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint
from exotrio._http.exchange import Exchange, Sender
from exotrio._wire.operations import BACKUP_PATH, BACKUP_TYPE
from exotrio._wire.vocabulary import LEASE_HEADER, REQUEST_ID_HEADER
from exotrio.errors import DatabaseError, LifecycleError, ManagerUnavailable, RequestRefused
from exotrio.manager import embedded
from exotrio.manager.queries import graphs

NODE = {"name": "Read", "inputs_schema": {}, "outputs_schema": {}, "secrets": ["token"]}
GRAPH = {
    "secrets": {"token": "s3cret"},
    "nodes": [
        {"identifier": "read", "node_name": "Read", "namespace": "é x", "inputs": {}, "next_nodes": []}
    ],
}
PATH = "/v0/namespace/%C3%A9%20x"
NATIVE = "/exotrio/v1/namespace/%C3%A9%20x"
ANY_STATUS = range(400, 600)


def without_times(body: bytes) -> bytes:
    """Return a body without what differs between two equal requests; of a backup only its start."""
    return re.sub(rb"\d", b"0", body[:16] if body.startswith(b"SQLite") else body)


@asynccontextmanager
async def both_ways() -> AsyncIterator[tuple[HttpClient, httpx.AsyncClient]]:
    """Open one state manager, a client of exotrio for it, and one of httpx, which sends HTTP messages."""
    async with (
        embedded(":memory:") as transport,
        httpx.AsyncClient(transport=transport, base_url=EMBEDDED_URI) as outside,
    ):
        yield HttpClient(Endpoint(EMBEDDED_URI, None, transport)), outside


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        pytest.param("GET", "/v0/namespaces", None, 200, id="no parameters"),
        pytest.param("GET", f"{PATH}/nodes/", None, 200, id="encoded name, slash at the end"),
        pytest.param("GET", f"{PATH}/graphs", None, 200, id="stream"),
        pytest.param("GET", f"{NATIVE}/runs?limit=1&status=FAILED", None, 200, id="query"),
        pytest.param("GET", f"{NATIVE}/runs?limit=many", None, 422, id="wrong query"),
        pytest.param("GET", f"{NATIVE}/run/7", None, 404, id="refused by a use case"),
        pytest.param("POST", f"{NATIVE}/claim", {"limit": "x"}, 422, id="wrong body"),
        pytest.param("POST", f"{NATIVE}/claim", None, 422, id="no body"),
        pytest.param("POST", f"{NATIVE}/release", b"{", 422, id="not JSON"),
        pytest.param("GET", "/v0/namespace/a%0Ab/nodes", None, 422, id="wrong name"),
        pytest.param("GET", "/v1/nothing", None, 404, id="no such path"),
        pytest.param("PATCH", "/v0/namespaces", None, 405, id="no such method"),
    ],
)
async def test_both_ways_give_the_same_answer(
    method: str, path: str, body: dict[str, object] | bytes | None, status: int
) -> None:
    async with both_ways() as (inside, outside):
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        expected = await outside.request(method, path, content=content)
        answer = await inside.ask(method, path, body=body, accept=ANY_STATUS)
    assert expected.status_code == answer.status == status
    if status not in {404, 405} or "detail" in expected.text:
        assert answer.body == expected.json()


async def test_both_ways_give_the_same_answer_on_every_route() -> None:
    async with both_ways() as (inside, outside):
        transport = inside.endpoint.transport
        assert isinstance(transport, Sender)

        async def send(method: str, path: str, content: bytes | None) -> tuple[object, ...]:
            here = Exchange(
                *(method, path, {}, content), at="", request_line="", loop=trio, limit=trio.CancelScope()
            )
            await transport.send(here)
            return here.status, dict(here.answer_headers), without_times(b"".join(here.chunks))

        routes = (await outside.get("/openapi.json")).json()["paths"]
        requests = [
            (method.upper(), re.sub(r"\{\w+\}", value, path), content)
            for path, methods in routes.items()
            for method in methods
            for value in ("x", "7", "a%2Fb")
            for content in (None, b"{}", b"[")
        ]
        assert len(requests) > 300
        for method, path, content in requests:
            expected = await outside.request(method, path, content=content)
            del expected.headers[REQUEST_ID_HEADER]
            answer = expected.status_code, dict(expected.headers), without_times(expected.content)
            assert await send(method, path, content) == answer, (method, path, content)


async def test_a_large_body_is_read() -> None:
    async with both_ways() as (inside, outside):
        body = {"runtime_name": "r", "nodes": [{**NODE, "inputs_schema": {"title": "x" * 1_000_000}}]}
        answer = await inside.ask("PUT", f"{PATH}/nodes", body=body, accept=ANY_STATUS)
        expected = await outside.put(f"{PATH}/nodes", json=body)
        assert (answer.status, answer.body) == (expected.status_code, expected.json())


async def test_a_header_reaches_the_endpoint() -> None:
    async with both_ways() as (inside, _):
        await inside.ask("PUT", f"{PATH}/nodes", body={"runtime_name": "r", "nodes": [NODE]})
        await inside.ask("PUT", f"{PATH}/graph/g", body=GRAPH)
        await inside.ask("POST", f"{PATH}/graph/g/trigger", body={"inputs": {}, "store": {}})
        claim = {"worker_id": "w", "limits": {"Read": 1}, "limit": 1, "claim_id": "c"}
        (state,) = (await inside.ask("POST", f"{NATIVE}/claim", body=claim)).body["states"]
        path = f"{PATH}/state/{state['state_id']}/secrets"
        held = {LEASE_HEADER: state["lease"]["token"]}
        assert (await inside.ask("GET", path, headers=held)).body == {"secrets": {"token": "s3cret"}}
        assert (await inside.ask("GET", path, accept=ANY_STATUS)).status in {403, 404}


async def test_a_defect_is_logged_and_answered_without_details(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(graphs, "list_nodes", fail)
    async with both_ways() as (inside, _):
        answer = await inside.ask("GET", f"{PATH}/nodes", accept=ANY_STATUS)
    assert (answer.status, answer.body["success"]) == (500, False)
    assert "canary" not in str(answer.body)
    assert "canary" in caplog.text


async def test_an_endpoint_that_takes_too_long_is_ended_and_the_claim_of_it_with_it(
    autojump_clock: MockClock,
) -> None:
    claim = {"worker_id": "w", "limits": {"Read": 1}, "limit": 1, "claim_id": "c", "wait_ms": 15_000}
    async with both_ways() as (inside, _):
        await inside.ask("PUT", f"{PATH}/nodes", body={"runtime_name": "r", "nodes": [NODE]})
        await inside.ask("PUT", f"{PATH}/graph/g", body=GRAPH)
        with pytest.raises(ManagerUnavailable, match="did not answer within 5 s") as raised:
            await inside.ask("POST", f"{NATIVE}/claim", body=claim, timeout=5)
        assert raised.value.sent
        await inside.ask("POST", f"{PATH}/graph/g/trigger", body={"inputs": {}, "store": {}})
        # What waited no longer takes the state.
        later = await inside.ask("POST", f"{NATIVE}/claim", body={**claim, "claim_id": "d"})
        assert len(later.body["states"]) == 1


async def test_a_request_that_waits_for_another_one_has_no_effect(autojump_clock: MockClock) -> None:
    async with embedded(":memory:") as transport:
        inside = HttpClient(Endpoint(EMBEDDED_URI, None, transport), tasks=1)
        claim = {"worker_id": "w", "limits": {"Read": 1}, "limit": 1, "claim_id": "c", "wait_ms": 15_000}
        await inside.ask("PUT", f"{PATH}/nodes", body={"runtime_name": "r", "nodes": [NODE]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(inside.ask, "POST", f"{NATIVE}/claim", body=claim))
            await wait_all_tasks_blocked()
            with pytest.raises(ManagerUnavailable) as raised:
                await inside.ask("GET", "/v0/namespaces", timeout=5)
            assert not raised.value.sent
            nursery.cancel_scope.cancel()


async def test_a_refusal_while_an_answer_is_made_is_an_answer_too() -> None:
    async with both_ways() as (inside, _):

        async def refused(_: bytes) -> None:
            with pytest.raises(RequestRefused, match="a backup is being made already") as caught:
                await HttpClient(inside.endpoint).ask("GET", BACKUP_PATH)
            assert caught.value.status == 409

        await inside.download(BACKUP_PATH, refused, timeout=5, media_type=BACKUP_TYPE)


async def test_an_answer_that_breaks_off_is_no_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: object) -> bytes:
        raise DatabaseError("canary")

    async def sink(_: bytes) -> None:
        monkeypatch.setattr("exotrio.manager.api.backup._Slot.send", fail)

    monkeypatch.setattr("exotrio.manager.api.backup.PIECE", 1024)
    async with both_ways() as (inside, _):
        with pytest.raises(ManagerUnavailable, match="broke before an answer: the server failed") as raised:
            await inside.download(BACKUP_PATH, sink, timeout=5, media_type=BACKUP_TYPE)
        assert raised.value.sent
        assert "canary" not in str(raised.value)
    assert "canary" in caplog.text
    assert f"GET {BACKUP_PATH} failed" in caplog.text


async def test_an_error_of_a_sink_is_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    async def full(_: bytes) -> None:
        raise OSError("no space left")

    async with both_ways() as (inside, _):
        with pytest.raises(OSError, match="no space left"):
            await inside.download(BACKUP_PATH, full, timeout=5, media_type=BACKUP_TYPE)
    assert not caplog.records


async def test_it_is_refused_in_another_loop_where_it_would_wait_without_end() -> None:
    async with both_ways() as (inside, _):
        with pytest.raises(LifecycleError, match="another Trio loop"):
            await trio.to_thread.run_sync(partial(trio.run, inside.ask, "GET", "/v0/namespaces"))


async def test_after_its_end_a_backup_is_refused_like_all_else() -> None:
    async with both_ways() as (inside, _):
        pass
    for path in ("/v0/namespaces", BACKUP_PATH):
        with pytest.raises(ManagerUnavailable, match="the state manager was closed"):
            await inside.ask("GET", path)
