"""Server-sent events over a real socket: what they say, when they end, and that they delay nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from exotrio.manager import serve
from exotrio.manager.web import live
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.helpers import eventually, node_name, ok, open_client, place
from tests.support.web import KEY, NAMESPACE

LAST_CHUNK = b"\r\n0\r\n\r\n"


class Listener:
    """A browser on a page, which receives its events, on a bare socket, so that nothing reads ahead."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._unread = b""

    async def head(self) -> str:
        """Return the head of the answer."""
        while b"\r\n\r\n" not in self._unread:
            await self._more()
        head, _, self._unread = self._unread.partition(b"\r\n\r\n")
        return head.decode()

    async def changed(self) -> set[str] | None:
        """Return the fragments of the next event, None at the end of the stream."""
        while b"\n\n" not in self._unread:
            if self._unread.endswith(LAST_CHUNK) or not await self._more():
                return None
        event, _, self._unread = self._unread.partition(b"\n\n")
        _, separator, names = event.decode().partition("data: ")
        return set(names.split()) if separator else await self.changed()

    async def hears_the_end(self) -> None:
        while await self.changed() is not None:
            pass

    async def _more(self) -> bool:
        received = await self._stream.receive_some()
        self._unread += received
        return bool(received)


@dataclass
class Office:
    """A served state manager with a file, and a client with a session."""

    url: str
    client: httpx.AsyncClient
    api: Api
    stopping: trio.Event
    ended: trio.Event

    @asynccontextmanager
    async def listening(self, path: str, status: int = 200) -> AsyncIterator[Listener]:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        cookies = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            request = f"GET /live{path} HTTP/1.1\r\nHost: {host}:{port}\r\nCookie: {cookies}\r\n\r\n"
            await stream.send_all(request.encode())
            listener = Listener(stream)
            head = await listener.head()
            assert head.startswith(f"HTTP/1.1 {status} ")
            assert status != 200 or "content-type: text/event-stream" in head
            yield listener


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    stopping, ended = trio.Event(), trio.Event()

    async def run(task_status: Any) -> None:
        await serve(
            port=0, db=tmp_path / "state.db", key=KEY, stopping=stopping, grace=600, task_status=task_status
        )
        ended.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            (url,) = await nursery.start(run)
            async with open_client(url=url) as client, open_client(url=url, key=KEY) as api:
                answer = await client.post("/sign-in", data={"key": KEY}, headers={"origin": url})
                assert answer.status_code == 303
                yield Office(url, client, Api(api, NAMESPACE), stopping, ended)
            stopping.set()


async def test_changed_fragments_are_sent_as_events(office: Office) -> None:
    flow = await Flow.start(office.api, place("work"))
    async with office.listening(f"/ns/{NAMESPACE}/runs/{flow.run_id}") as page:
        every = {"summary", "waits", "faults", "result", "children", "graph", "timeline", "states", "events"}
        assert await page.changed() == every, "first all, since the page may be older than the stream"
        await flow.run("work")
        received: set[str] = set()
        while not {"summary", "graph", "timeline", "states"} <= received:
            received |= await page.changed() or set()


async def test_the_picture_of_a_graph_follows_heartbeats(office: Office) -> None:
    flow = await Flow.start(office.api, place("work"))
    state = await claim_one(office.api, limits={node_name("work"): 1}, worker_id="w", announces=True)
    async with office.listening(f"/ns/{NAMESPACE}/runs/{flow.run_id}") as page:
        await page.changed()
        ok(await office.api.heartbeat("w", workers=1, states=[item_for(state, running=True, buffered_ms=0)]))
        while "graph" not in (await page.changed() or set()):
            pass


async def test_an_open_stream_ends_at_once_when_the_server_stops(office: Office) -> None:
    async with office.listening("/ns/shop") as page:
        await page.changed()
        # The grace of this server is ten minutes; the deadline of the test is a minute.
        office.stopping.set()
        await page.hears_the_end()
        await office.ended.wait()


async def test_a_stream_ends_when_its_session_does(office: Office) -> None:
    async with office.listening("/ns/shop") as page:
        await page.changed()
        answer = await office.client.post("/sign-out", headers={"origin": office.url})
        assert answer.status_code == 303
        await page.hears_the_end()


async def test_a_head_request_opens_no_stream(office: Office) -> None:
    head = await office.client.head("/live/ns/shop")
    assert head.headers["content-type"] == "text/event-stream"
    # On the same connection: it must be free.
    assert (await office.client.get("/ns/shop")).status_code == 200


async def test_streams_of_disconnected_browsers_end(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_STREAMS", 2)
    async with (
        office.listening("/ns/shop"),
        office.listening("/ns/shop"),
        # Who gets no stream asks by itself instead.
        office.listening("/ns/shop", 503),
    ):
        pass

    async def gets_one() -> None:
        async with office.listening("/ns/shop"):
            pass

    await eventually(gets_one)


async def test_all_fragments_change_when_the_shown_object_is_deleted(office: Office) -> None:
    async with office.listening("/ns/shop/runs/absent") as page:
        assert "summary" in (await page.changed() or ())
    response = await office.client.get("/ns/shop/runs/absent", headers={"x-fragments": "summary"})
    assert response.status_code == 404


async def test_at_most_four_events_a_second_are_sent(office: Office) -> None:
    flow = await Flow.deploy(office.api, place("work"))
    received = 0

    async def listen(page: Listener) -> None:
        nonlocal received
        while await page.changed() is not None:
            received += 1

    async with office.listening("/ns/shop/runs") as page, trio.open_nursery() as nursery:
        await page.changed()
        nursery.start_soon(listen, page)
        began = trio.current_time()
        for _ in range(200):
            await flow.trigger()
        lasted = trio.current_time() - began
        nursery.cancel_scope.cancel()
    assert received <= lasted / live.INTERVAL + 1
