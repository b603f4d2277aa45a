"""The connections of one worker, as an httpx transport that passes every request through its points."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import trio

from tests.chaos.point_server import Exchange, Server
from tests.chaos.points import Fault

PROPAGATION = 0.02
"""Seconds between a fault of the worker's own after the send and the reply."""

_REPORTS = {"executed", "errored", "prune", "outcomes"}


@dataclass(frozen=True)
class Call:
    """A request, read.

    Attributes:
        operation: As the points are named.
        states: Ids of the states it is about.
        body: Its JSON, of outcomes without the claim behind them.
        route: Last part of its path.
        claims: Whether its answer may bring states.
    """

    operation: str
    states: tuple[str, ...]
    body: Any
    route: str
    claims: bool


class Worker(Protocol):
    """Whose connections these are. ``replaced``: somebody else holds a state it believes to hold."""

    replaced: trio.Event

    async def reach_wire(self, point: str, call: Call, reply: Any) -> Fault | None: ...
    def answered(self, call: Call, status: int, reply: Any) -> None: ...
    def violates(self, what: str) -> None: ...


class Wire(httpx.AsyncBaseTransport):
    """Carries requests to the server, unless something strikes.

    Attributes:
        claiming: Claims in flight.
    """

    def __init__(self, server: Server, nursery: trio.Nursery, worker: Worker) -> None:
        self._server = server
        self._nursery = nursery
        self._worker = worker
        self._cut = False
        self._held: trio.Event | None = None
        self._on_their_way: set[Exchange] = set()
        self._doubtful: set[str] = set()
        self.claiming = 0

    def cut(self) -> None:
        """Carry nothing any more, in either direction."""
        self._cut = True
        for exchange in self._on_their_way:
            exchange.give_up()

    def hold(self, longest: float) -> None:
        """Carry nothing until somebody else holds what this worker believes to hold; then all of it."""
        if self._held is None:
            self._held = trio.Event()
            self._nursery.start_soon(self._let_go, self._held, longest)

    async def _let_go(self, held: trio.Event, longest: float) -> None:
        with trio.move_on_after(longest):
            await self._worker.replaced.wait()
            await trio.sleep(PROPAGATION)
        self._held = None
        held.set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        call = read(request, body)
        self.claiming += call.claims
        self._check_doubts(call)
        try:
            response = await self._carry(request, body, call)
        except httpx.ConnectError:
            raise
        except BaseException:
            self._doubt(call)
            raise
        finally:
            self.claiming -= call.claims
        turned_away = response.status_code == 503 and response.content.startswith(b"{")
        if response.status_code >= 500 and not turned_away:
            self._doubt(call)
        elif not turned_away:
            self._doubtful.difference_update(call.states)
        return response

    async def _carry(self, request: httpx.Request, body: bytes, call: Call) -> httpx.Response:
        if (early := await self._reach(f"before the send of {call.operation}", call)) is not None:
            return early
        exchange = Exchange(request, body, self._worker)
        self._on_their_way.add(exchange)
        try:
            self._send(exchange)
            await exchange.answered.wait()
        finally:
            self._on_their_way.discard(exchange)
            if not exchange.answered.is_set():
                exchange.give_up()
        response = exchange.response()
        reply: Any = response.json()
        if (other := await self._reach(f"after the send of {call.operation}", call, reply)) is not None:
            return other
        if self._held is not None:
            await self._held.wait()
        self._worker.answered(call, response.status_code, reply)
        if call.claims:
            self._doubtful.difference_update(state["state_id"] for state in reply.get("states", ()))
        await self._reach(f"after the reply of {call.operation}", call, reply)
        return response

    def _send(self, exchange: Exchange) -> None:
        if self._held is None:
            self._server.deliver(exchange)
        else:
            # In a task of the network's: what was sent arrives, whether or not its sender still waits.
            self._nursery.start_soon(self._deliver_later, exchange, self._held)

    async def _deliver_later(self, exchange: Exchange, held: trio.Event) -> None:
        await held.wait()
        self._server.deliver(exchange)

    async def _reach(self, point: str, call: Call, reply: Any = None) -> httpx.Response | None:
        """Pass a point. Return a response in place of the server's, or raise, or do neither."""
        if self._cut:
            await trio.sleep_forever()
        fault = await self._worker.reach_wire(point, call, reply)
        if self._cut or fault is Fault.SILENCE:
            await trio.sleep_forever()
        match fault:
            case Fault.REFUSED:
                raise httpx.ConnectError("chaos: refused")
            case Fault.RESET:
                raise httpx.ReadError("chaos: reset")
            case Fault.HTTP_404:
                return httpx.Response(404, json={"detail": "Not Found"})
            case Fault.HTTP_500:
                return httpx.Response(500, json={"success": False, "detail": "chaos"})
            case Fault.HTTP_502:
                return httpx.Response(502, content=b"<html>Bad Gateway</html>")
            case Fault.HTTP_503:
                return httpx.Response(503, json={"detail": "chaos"}, headers={"retry-after": "2"})
            case None:
                return None
        if point.startswith("after the send"):
            await trio.sleep(PROPAGATION)  # it meets a request that waits for its reply
        return None

    # -- v0 guards no re-enqueueing: a stock server does it to states that have ended, too

    def _check_doubts(self, call: Call) -> None:
        if call.route == "re-enqueue-after" and self._doubtful.intersection(call.states):
            self._worker.violates(
                f"{call} was sent after something that may have ended the state or freed it"
            )

    def _doubt(self, call: Call) -> None:
        if call.operation in ("report", "requeue", "release"):
            self._doubtful.update(call.states)


def read(request: httpx.Request, content: bytes) -> Call:
    """Say what a request is."""
    parts = request.url.path.strip("/").split("/")
    body: Any = json.loads(content) if content else None
    route = parts[-1]
    states: tuple[str, ...] = ()
    if len(parts) > 5 and parts[3] == "state":
        states = (parts[4],)
    match route:
        case "v1":
            operation = "discovery"
        case "nodes":
            operation = "register"
        case "claim" | "enqueue":
            operation = "claim"
        case "re-enqueue-after":
            operation = "release" if body["enqueue_after"] == 1 else "requeue"
        case "release":
            operation = "void" if body.get("claim_id") else "release"
        case _:
            operation = "report" if route in _REPORTS else route
    items = body.get("states") or () if isinstance(body, dict) and route in ("release", "heartbeat") else ()
    claims = operation == "claim"
    if route == "outcomes":
        claims = "claim" in body[-1]
        items = body = body[:-1] if claims else body
    states += tuple(item["state_id"] for item in items)
    return Call(operation, states, body, route, claims)
