"""Stand-ins for a state manager on the other side of HTTP: in memory, and on a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import trio

from exotrio._http.client import HttpClient
from exotrio._http.endpoint import EMBEDDED_URI, Endpoint

Handler = Callable[[httpx.Request], Any]


def answer(status: int, body: Any = None, **headers: str) -> httpx.Response:
    """Return a JSON answer; header names are given with underscores."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={} if body is None else body, headers=sent)


def no_nodes(namespace: str = "ns") -> httpx.Response:
    """Return the list of nodes by which a v0 server is known."""
    return answer(200, {"namespace": namespace, "count": 0, "nodes": []})


def done() -> httpx.Response:
    """Return the answer to an outcome, or to a release, that v0 servers give."""
    return answer(200, {"status": "EXECUTED"})


async def silent(_: httpx.Request) -> httpx.Response:
    """Answer never."""
    await trio.sleep_forever()
    raise AssertionError


class Double:
    """An in-memory server that answers by ``handler`` and notes what it was asked.

    The handler may be async (and sleep), return a response, or raise a transport error.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[httpx.Request] = []

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(EMBEDDED_URI, "the-key", httpx.MockTransport(self._handle))

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.handler(request)
        if isinstance(response, Awaitable):
            response = await response
        return response

    @property
    def calls(self) -> list[str]:
        """``METHOD last-path-segment`` of each request."""
        return [
            f"{request.method} {request.url.path.rstrip('/').rpartition('/')[2]}" for request in self.requests
        ]

    def bodies(self, ending: str) -> list[Any]:
        """Return the decoded bodies of the requests whose path ends in ``ending``."""
        return [json.loads(r.content) for r in self.requests if r.url.path.rstrip("/").endswith(ending)]


@asynccontextmanager
async def tcp_server(
    respond: Callable[[trio.SocketStream, bytes], Awaitable[None]],
) -> AsyncIterator[tuple[str, list[bytes]]]:
    """Serve raw TCP on loopback; give the base URI and the requests seen so far.

    ``respond`` gets the stream and each request's bytes (up to the end of its JSON body).
    """
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                while chunk := await stream.receive_some():
                    seen.append(chunk)
                    await respond(stream, chunk)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield f"http://127.0.0.1:{port}", seen
        nursery.cancel_scope.cancel()


def client_for(handler: Handler) -> tuple[HttpClient, Double]:
    """Return a client whose requests a handler answers, and what keeps them."""
    double = Double(handler)
    return HttpClient(double.endpoint), double
