"""A runtime behind an HTTP proxy on a socket that hides the native API of the state manager for a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import ClassVar

import httpx
import pytest
import trio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio._http.endpoint import Endpoint
from exotrio._httpd import open_listeners, serve_http, urls
from exotrio._link.auto import AutoLink
from exotrio.errors import ManagerUnavailable
from exotrio.manager import create_app
from tests.support.doubles import running
from tests.support.helpers import eventually
from tests.support.manager import KEY, open_manager

ROOT = "/exotrio/"
WITHIN = 60


class HidingProxy:
    """Passes requests on to the app of a state manager.

    Attributes:
        hides: Answers 404 in JSON for each path of the native API.
        lines: The method and the path of each request.
    """

    def __init__(self, upstream: httpx.ASGITransport) -> None:
        self.hides = False
        self.lines: list[str] = []
        self._client = httpx.AsyncClient(transport=upstream, base_url="http://localhost", timeout=None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (await self._answer(Request(scope, receive)))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        self.lines.append(f"{request.method} {path}")
        if self.hides and path.startswith(ROOT):
            return JSONResponse({"detail": "no such route"}, 404)
        headers = [(name, text) for name, text in request.headers.items() if name != "host"]
        answer = await self._client.request(
            request.method, path, headers=headers, content=await request.body()
        )
        return Response(answer.content, answer.status_code, dict(answer.headers))

    async def until_asked_twice(self) -> None:
        """Wait until the native API was looked for, and not found, before and after the nodes were listed."""
        since = len(self.lines)

        async def has_asked() -> None:
            listed = [
                index
                for index, line in enumerate(self.lines)
                if index >= since and line.startswith("GET /v0/")
            ]
            assert listed
            assert f"GET {ROOT}v1" in self.lines[listed[0] :]

        await eventually(has_asked, within=WITHIN)


@asynccontextmanager
async def hiding_proxy() -> AsyncIterator[tuple[HidingProxy, str, StateManager]]:
    async with open_manager() as manager, trio.open_nursery() as nursery:
        app = httpx.ASGITransport(create_app(manager.service, key=KEY), raise_app_exceptions=False)
        proxy = HidingProxy(app)
        listeners = await open_listeners("127.0.0.1", 0)
        (url,) = urls(listeners)
        nursery.start_soon(partial(serve_http, proxy, listeners, stopping=trio.Event()))
        async with StateManager("tests", transport=app, key=KEY) as client:
            yield proxy, url, client
        nursery.cancel_scope.cancel()


class Holds(BaseNode):
    go: ClassVar[trio.Event]

    async def execute(self) -> None:
        await self.go.wait()


async def test_a_runtime_with_leases_stays_native_while_a_proxy_hides_the_native_api() -> None:
    Holds.go = trio.Event()
    graph = Graph("holds", namespace="tests")
    graph.add(Holds)
    async with hiding_proxy() as (proxy, url, client):
        runtime = Runtime("tests", "test", [Holds], state_manager_uri=url, key=KEY)
        async with running(runtime, registered=True, within=2 * WITHIN):
            await client.upsert_graph(graph)
            run = (await client.trigger("holds"))["run_id"]

            async def is_held() -> None:
                assert [each.busy for each in (await client.overview()).runtimes] == [1]

            await eventually(is_held)
            proxy.hides = True
            Holds.go.set()
            await proxy.until_asked_twice()
            proxy.hides = False
            await client.wait(run)
    assert runtime.summary.exit_code == 0
    assert runtime.summary.completed == 1
    assert not [line for line in proxy.lines if line.endswith(("/enqueue", "/executed"))]


async def test_a_runtime_that_cannot_reach_the_native_api_does_not_begin_without_leases() -> None:
    async with hiding_proxy() as (proxy, url, _):
        proxy.hides = True
        endpoint = Endpoint(url, KEY)
        link = AutoLink(endpoint, "tests", worker_id="me", workers=1)
        with pytest.raises(ManagerUnavailable, match="has the native API") as caught:
            await link.register("test", [])
        assert f"pass on all paths below {ROOT}v1" in str(caught.value)
        proxy.hides = False
        await link.register("test", [])
        assert link.is_native
        await link.aclose()


async def test_a_runtime_uses_v0_where_a_state_manager_of_ours_serves_nothing_else() -> None:
    async with open_manager() as manager:
        app = httpx.ASGITransport(create_app(manager.service, key=KEY, native=False))
        link = AutoLink(Endpoint("http://localhost", KEY, app), "tests", worker_id="me", workers=1)
        await link.register("test", [])
        assert not link.is_native
        await link.aclose()
