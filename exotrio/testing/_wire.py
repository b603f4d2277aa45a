"""The connection of a runtime to the state manager, which can be cut, or lose an answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
import trio


@dataclass(eq=False, slots=True)
class _Exchange:
    """A request that waits for its answer."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    over: trio.Event = field(default_factory=trio.Event)
    response: httpx.Response | None = None


class Wire(httpx.AsyncBaseTransport):
    """Carries each request in a task of the server's: a runtime that is held does not hold the server.

    Args:
        server: Answers requests.
        nursery: For the tasks of the server.

    Attributes:
        cut: Nothing is carried any more, and nothing answered.
        loses_answer_about: The id of a state; the answer to its outcome is lost, once.
    """

    def __init__(self, server: httpx.AsyncBaseTransport, nursery: trio.Nursery) -> None:
        self.cut = False
        self.loses_answer_about: str | None = None
        self._server = server
        self._nursery = nursery

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return its answer."""
        if self.cut:
            await trio.sleep_forever()
        exchange = _Exchange()
        self._nursery.start_soon(self._serve, request, exchange)
        try:
            await exchange.over.wait()
        finally:
            exchange.scope.cancel()
        lost = self.loses_answer_about
        if lost is not None and request.url.path.endswith("/outcomes") and lost.encode() in request.content:
            self.loses_answer_about = None
            raise httpx.ReadError("the answer was lost")
        assert exchange.response is not None, "the server has answered"
        return exchange.response

    async def _serve(self, request: httpx.Request, exchange: _Exchange) -> None:
        with exchange.scope:
            exchange.response = await self._server.handle_async_request(request)
        exchange.over.set()
