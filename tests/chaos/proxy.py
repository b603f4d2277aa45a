"""A proxy between workers and state manager that injects faults and remembers what it saw.

It works on whole HTTP messages, so that a fault is defined by what it does to one: lost after it
was committed, sent twice, answered by another server. What state a fault may have touched, which
outcomes the state manager accepted, and when it gave out each state is kept for the assessment.
"""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.chaos.checkpoints import acknowledged

CUT_NEXT = "cut under the next"
"""As stock does it where what follows an outcome fails: the next request is executed, and not answered."""
KINDS = ("drop", "delay", "replay", "html 502", "json 503", "502 after commit", CUT_NEXT)
"""Faults of one request. ``cut`` is one of all connections."""
ROUTES = ("claim", "claim", "report", "report", "report", "release", "heartbeat", "trigger", "any")
ROUTE_WAIT = 2.0
"""Seconds a fault waits for a request of its route; then it takes any."""
MAX_DELAY = 1.2
KEPT = 0.8
"""Share of the heartbeats that go over a connection that stays open, as through a proxy of TCP."""
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
BUSY = b'{"detail": "try again later"}'
FAILURES = {
    "HTML": ("text/html", b"<html><body><h1>500 Internal Server Error</h1></body></html>"),
    "JSON": ("application/json", b'{"success": false, "detail": "contact support with your request id"}'),
}
"""The 500 of a gateway, and that of a stock state manager whose database is away."""
NO_ROUTE = (b'{"detail":"Not Found"}', b'{"message":"no Route matched with those values"}')
"""What applications and gateways answer that know no such route."""
STATE_ID = re.compile(rb"[0-9a-f]{24}")
ROUTE = re.compile(r"/(claim|enqueue|outcomes|release|heartbeat|trigger)$|/state/[0-9a-f]+/([a-z-]+)$")
NAMES = {
    "enqueue": "claim",
    "outcomes": "report",
    "executed": "report",
    "errored": "report",
    "prune": "report",
    "re-enqueue-after": "release",
}


@dataclass(frozen=True, slots=True)
class Message:
    """A request or a response, as its bytes."""

    head: bytes
    body: bytes

    @property
    def start(self) -> list[str]:
        return self.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")

    @property
    def raw(self) -> bytes:
        return self.head + self.body

    @property
    def is_last(self) -> bool:
        """Whether the connection is to be closed after it."""
        return re.search(rb"\r\nconnection: *close\r\n", self.head, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Accepted:
    """An outcome the state manager said it has.

    Attributes:
        what: The outcome in a form that can be compared.
        recorded_now: This request recorded it.
        at: When the state manager said so.
    """

    what: str
    recorded_now: bool
    at: float


@dataclass(slots=True)
class _Armed:
    kind: str
    route: str
    at: float


@dataclass(slots=True)
class Proxy:
    """Forwards from ``port`` to ``upstream``, both on 127.0.0.1.

    Attributes:
        others: Ports of more state managers. Each request goes to another one than that before, and to the
            next one if none listens there, as a load balancer does.
        injected: Faults so far, by kind.
        touched: How often a fault hit a report or a release of a state, by its id.
        accepted: Outcomes by the id of their state, in order.
        answered: Executions whose outcome the state manager itself has answered, whatever it said.
        claimed: When each v0 claim that gave out a state was sent and answered, by the state's id.
        closed: Routes whose requests are all answered 502; ``"any"`` for all of them.
        stored: When the state manager said that it has a checkpoint of a piece of work, with how many parts.
        beats: When each heartbeat of a process came that the state manager answered, and when its answer was
            delivered.
        followed: Requests that came on a connection that was to be cut under them, by route.
    """

    upstream: int
    rng: random.Random
    port: int = 0
    others: tuple[int, ...] = ()
    injected: Counter[str] = field(default_factory=Counter)
    touched: Counter[str] = field(default_factory=Counter)
    accepted: dict[str, list[Accepted]] = field(default_factory=lambda: defaultdict(list))
    answered: set[str] = field(default_factory=set)
    claimed: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    stored: dict[str, list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))
    closed: set[str] = field(default_factory=set)
    beats: dict[int, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    followed: Counter[str] = field(default_factory=Counter)
    _answering_404: int = 0
    _failing: tuple[str, str, bytes] | None = None
    """The route that fails, and how."""
    _forwarded: int = 0
    _armed: deque[_Armed] = field(default_factory=deque)
    _open: dict[trio.CancelScope, Message | None] = field(default_factory=dict)

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Forward until cancelled."""
        (listener,) = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._connection, [listener])

    def arm(self, kind: str) -> None:
        """Inject this fault into one of the next requests."""
        route = "report" if kind == CUT_NEXT else self.rng.choice(ROUTES)
        self._armed.append(_Armed(kind, route, time.monotonic()))

    @contextmanager
    def answering_404(self) -> Iterator[None]:
        """Answer all requests like a gateway without such a route, for as long as the block lasts."""
        self._answering_404 += 1
        try:
            yield
        finally:
            self._answering_404 -= 1

    @contextmanager
    def failing(self, route: str, form: str) -> Iterator[None]:
        """Answer 500 to a route, or to ``"any"``, for as long as the block lasts; ``form``: HTML or JSON."""
        self._failing = (route, *FAILURES[form])
        try:
            yield
        finally:
            self._failing = None

    def cut(self) -> None:
        """Break every connection, whatever it is doing."""
        self.injected["cut"] += 1
        for scope, request in self._open.items():
            if request is not None:
                self._touch(request)
            scope.cancel()

    @property
    def idle(self) -> bool:
        """Whether all faults have struck that meet any request."""
        return all(armed.kind == CUT_NEXT for armed in self._armed)

    async def _connection(self, stream: trio.SocketStream) -> None:
        client = _Connection()
        buffer = bytearray()
        scope = trio.CancelScope()
        self._open[scope] = None
        try:
            with scope:
                while (request := await _read(stream, buffer)) is not None:
                    began = time.monotonic()
                    self._open[scope] = request
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_gone, stream, buffer, scope)
                        response = await self._faulty(request, client)
                        nursery.cancel_scope.cancel()
                    if response is None:
                        break
                    await stream.send_all(response)
                    if _route(request) == "heartbeat" and response.startswith(b"HTTP/1.1 200 "):
                        pid = int(_json(request.body)["worker_id"].split(":")[-2])
                        self.beats[pid].append((began, time.monotonic()))
                    self._open[scope] = None
                    if request.is_last:
                        break
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the side that hung up handles it
        finally:
            del self._open[scope]
            await trio.aclose_forcefully(stream)
            if client.kept is not None:
                await trio.aclose_forcefully(client.kept)

    async def _faulty(self, request: Message, client: _Connection) -> bytes | None:
        """Return the response for the client; None closes its connection."""
        if client.is_doomed:
            self.followed[_route(request) or "other"] += 1
            self._touch(request)
            await self._forward(request, client)
            return None
        if self._answering_404:
            return _answer(404, "application/json", self.rng.choice(NO_ROUTE))
        if self.closed & {"any", _route(request)}:
            return _answer(502, "text/html", HTML)
        if self._failing is not None and self._failing[0] in ("any", _route(request)):
            return _answer(500, *self._failing[1:])
        armed = self._strikes(request)
        if armed is None:
            return await self._forward(request, client)
        self.injected[armed.kind] += 1
        if armed.kind == CUT_NEXT:
            client.is_doomed = True
            return await self._forward(request, client)
        self._touch(request)
        match armed.kind:
            case "html 502":
                return _answer(502, "text/html", HTML)
            case "json 503":
                return _answer(503, "application/json", BUSY)
            case "delay":
                if self.rng.random() < 0.5:
                    await trio.sleep(self.rng.uniform(0.1, MAX_DELAY))
                    return await self._forward(request, client)
                response = await self._forward(request, client)
                await trio.sleep(self.rng.uniform(0.1, MAX_DELAY))
                return response
            case "replay":
                answers = [await self._forward(request, client), await self._forward(request, client)]
                return self.rng.choice(answers)
            case "502 after commit":
                await self._forward(request, client)
                return _answer(502, "text/html", HTML)
            case _:
                await self._forward(request, client)
                return None

    def _strikes(self, request: Message) -> _Armed | None:
        route = _route(request)
        now = time.monotonic()
        for armed in self._armed:
            late = now - armed.at > ROUTE_WAIT and armed.kind != CUT_NEXT
            if armed.route in (route, "any") or late:
                self._armed.remove(armed)
                return armed
        return None

    async def _forward(self, request: Message, client: _Connection) -> bytes | None:
        began = time.monotonic()
        response = None
        # Most heartbeats of a connection go over the same one, which is closed with it.
        is_kept = _route(request) == "heartbeat" and self.rng.random() < KEPT
        if is_kept and client.kept is not None:
            response = await _exchange(client.kept, request)
            if response is None:  # that state manager has ended
                await trio.aclose_forcefully(client.kept)
                client.kept = None
        if response is None:
            # A connection for each request: one that was kept could be stale, which would be another fault.
            server = await self._connect()
            if server is None:
                return _answer(502, "text/html", HTML)
            if is_kept:
                client.kept = server
                response = await _exchange(server, request)
            else:
                async with server:
                    response = await _exchange(server, request)
        if response is None:
            return None
        self._remember(request, response, began)
        return response.raw

    async def _connect(self) -> trio.SocketStream | None:
        """Connect to the state manager whose turn it is, or to the next one that is there."""
        upstreams = (self.upstream, *self.others)
        self._forwarded += 1
        for number in range(len(upstreams)):
            try:
                port = upstreams[(self._forwarded + number) % len(upstreams)]
                return await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                pass
        return None

    # -- for the assessment

    def _touch(self, message: Message) -> None:
        if _route(message) in ("report", "release"):
            self.touched.update({state_id.decode() for state_id in STATE_ID.findall(message.raw)})

    def _remember(self, request: Message, response: Message, began: float) -> None:
        now = time.monotonic()
        if request.start[1].endswith("/states/enqueue") and response.start[1] == "200":
            for state in _json(response.body)["states"]:
                self.claimed[state["state_id"]].append((began, now))
        if re.search(r"/(outcomes|release|heartbeat)$", request.start[1]) and response.start[1] == "200":
            for checkpoint in acknowledged(_json(request.body), _json(response.body)):
                self.stored[checkpoint["owner"]].append((now, int(checkpoint["done"])))
        if _route(request) not in ("report", "release") or response.start[1] >= "500":
            return
        path, body = request.start[1], _json(request.body)
        if path.endswith("/outcomes"):
            # Without the claim after them.
            body = [item for item in body if "outcome" in item]
        for item in body if path.endswith("/outcomes") else [body]:
            parts = [*(item.get("outputs") or ()), item.get("data") or {}]
            self.answered.update(part["by"] for part in parts if "by" in part)
        if response.start[1] != "200":
            return
        if path.endswith("/outcomes"):
            for item, reply in zip(body, _json(response.body)["items"], strict=True):
                if reply["result"] in ("ok", "duplicate"):
                    what = _comparable(item["outcome"], item)
                    self.accepted[item["state_id"]].append(Accepted(what, reply["result"] == "ok", now))
        elif (match := re.search(r"/state/([0-9a-f]{24})/(executed|errored|prune)$", path)) is not None:
            self.accepted[match[1]].append(Accepted(_comparable(match[2], body), True, now))


def _comparable(outcome: str, item: dict[str, Any]) -> str:
    content = {name: item.get(name) for name in ("outputs", "error", "data") if name in item}
    return f"{outcome.replace('pruned', 'prune')} {json.dumps(content, sort_keys=True)}"


def _route(request: Message) -> str:
    match = ROUTE.search(request.start[1])
    name = next((part for part in match.groups() if part), "") if match else ""
    return NAMES.get(name, name)


def _json(body: bytes) -> Any:
    return json.loads(body)


def _answer(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} Fault\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass(slots=True)
class _Connection:
    """A worker's connection.

    ``is_doomed``: the next request is executed, and its answer is not sent. ``kept``: to a state manager, for
    heartbeats.
    """

    is_doomed: bool = False
    kept: trio.SocketStream | None = None


async def _exchange(server: trio.SocketStream, request: Message) -> Message | None:
    try:
        await server.send_all(request.raw)
        return await _read(server, bytearray())
    except (OSError, trio.BrokenResourceError):
        return None


async def _read(stream: trio.SocketStream, buffer: bytearray) -> Message | None:
    """Read one message; None if the stream ends before it is whole."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not await _more(stream, buffer):
            return None
    head = bytes(buffer[: end + 4])
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    size = len(head) + (int(length[1]) if length else 0)
    while len(buffer) < size:
        if not await _more(stream, buffer):
            return None
    body = bytes(buffer[len(head) : size])
    del buffer[:size]
    return Message(head, body)


async def _more(stream: trio.SocketStream, buffer: bytearray) -> bool:
    data = await stream.receive_some(65_536)
    buffer += data
    return bool(data)


async def _gone(stream: trio.SocketStream, buffer: bytearray, scope: trio.CancelScope) -> None:
    """End the connection when the client hangs up, as a long poll must see."""
    try:
        while await _more(stream, buffer):
            pass
    except (OSError, trio.BrokenResourceError):
        pass
    scope.cancel()
