"""In-memory state managers for tests of the runtime, as httpx transports: scriptable, under virtual time.

``before`` is asked first about each request and may sleep, raise, or return a response in place of
the server's; ``after`` is asked once the server has done its part, and may do the same to the answer.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from exotrio import BaseNode, Runtime


@dataclass
class Call:
    """One request as hooks see it: the route's name, the state (if it is about one), the body.

    ``claim`` is the claim after a list of outcomes, if there is one.
    """

    route: str
    state_id: str
    body: Any
    claim: Any = None

    def __post_init__(self) -> None:
        if self.route == "outcomes" and "claim" in self.body[-1]:
            self.claim = self.body.pop()["claim"]


Hook = Callable[[Call], Awaitable[httpx.Response | None]]


@dataclass
class State:
    id: str
    node_name: str
    inputs: dict[str, Any]
    status: str = "CREATED"
    result: Any = None
    deliveries: int = 0
    announce: bool = False
    alone: bool = False
    run_id: str = "r"
    attempt: int = 1
    checkpoint: dict[str, Any] | None = None


def reply(status: int, body: Any = None, **headers: str) -> httpx.Response:
    return httpx.Response(
        status, json={"detail": f"test {status}"} if body is None else body, headers=headers
    )


class V0Server(httpx.AsyncBaseTransport):
    """The routes of v0 that a runtime uses.

    Args:
        counts: How many states of each node there are from the beginning, without inputs.
    """

    discovery = reply(404)

    def __init__(self, **counts: int) -> None:
        self.states: dict[str, State] = {}
        self.secrets: dict[str, str] = {}
        self.registered: list[str] = []
        self.calls: list[Call] = []
        self.before: Hook | None = None
        self.after: Hook | None = None
        self.changed = trio.Event()
        for node_name, count in counts.items():
            self.add(node_name, count)

    def add(self, node_name: str, count: int = 1, **inputs: Any) -> list[str]:
        """Create states and return their ids."""
        ids = [f"{len(self.states) + position:024x}" for position in range(count)]
        self.states |= {state_id: State(state_id, node_name, inputs) for state_id in ids}
        self._notify()
        return ids

    def routes(self, *names: str) -> list[Call]:
        return [call for call in self.calls if call.route in names]

    def statuses(self) -> Counter[str]:
        return Counter(state.status for state in self.states.values())

    async def until(self, condition: Callable[[], object] | None = None, **counts: int) -> None:
        """Wait until ``condition`` holds, or until so many states have these statuses.

        It is asked again after every request.
        """
        with trio.fail_after(600):
            while not (condition() if condition else counts.items() <= self.statuses().items()):
                await self.changed.wait()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        parts = request.url.path.strip("/").split("/")
        if parts[-1] == "v1":
            call = Call("discovery", "", None)
        else:
            content = await request.aread()
            state_id = parts[4] if len(parts) > 5 and parts[3] == "state" else ""
            call = Call(parts[-1], state_id, json.loads(content) if content else None)
        self.calls.append(call)
        await trio.lowlevel.checkpoint()
        try:
            if self.before is not None and (response := await self.before(call)) is not None:
                return response
            response = await self.serve(call)
        finally:
            self._notify()
        if self.after is not None and (other := await self.after(call)) is not None:
            return other
        return response

    async def serve(self, call: Call) -> httpx.Response:
        state = self.states.get(call.state_id)
        match call.route:
            case "discovery":
                return httpx.Response(self.discovery.status_code, content=self.discovery.content)
            case "nodes" if call.body is None:
                return reply(200, {"namespace": "ns", "count": 0, "nodes": []})
            case "nodes":
                self.registered = [node["name"] for node in call.body["nodes"]]
                return reply(
                    200, {"runtime_name": call.body["runtime_name"], "registered_nodes": call.body["nodes"]}
                )
            case "enqueue":
                states = self.take(call.body["nodes"], call.body["batch_size"])
                shown = [
                    {
                        "state_id": s.id,
                        "node_name": s.node_name,
                        "identifier": "it",
                        "inputs": s.inputs,
                        "created_at": "",
                    }
                    for s in states
                ]
                return reply(
                    200, {"count": len(shown), "namespace": "ns", "status": "QUEUED", "states": shown}
                )
            case "secrets":
                return reply(200, {"secrets": self.secrets})
        if state is None:
            return reply(404)
        if call.route == "re-enqueue-after":
            state.status = "CREATED" if call.body["enqueue_after"] <= 1 else "DELAYED"
            return reply(200, {"status": "CREATED", "enqueue_after": 1})
        if state.status != "QUEUED":
            return reply(400)
        state.result = next(iter(call.body.values()))
        match call.route:
            case "executed":
                state.status = "EXECUTED"
                return reply(200, {"status": "EXECUTED"})
            case "errored":
                state.status = "ERRORED"
                return reply(200, {"status": "ERRORED", "retry_created": False})
            case "prune":
                state.status = "PRUNED"
                return reply(200, {"status": "PRUNED", "enqueue_after": 1})
        return reply(404)

    def take(self, nodes: Any, limit: int) -> list[State]:
        """Hand states out; natively ``nodes`` has a limit for each node."""
        due: list[State] = []
        taken: Counter[str] = Counter()
        for state in self.states.values():
            name = state.node_name
            if len(due) == limit or state.status != "CREATED" or name not in nodes:
                continue
            if isinstance(nodes, dict) and taken[name] == nodes[name]:
                continue
            taken[name] += 1
            state.status = "QUEUED"
            state.deliveries += 1
            due.append(state)
        return due

    def _notify(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class NativeServer(V0Server):
    """The routes of the native API that a runtime uses; a claim waits for a first state.

    Attributes:
        lost: Ids of states whose leases heartbeats are told to be lost.
        cancelled: Ids of states whose run heartbeats are told to be cancelled.
        commands: Told with every heartbeat.
        ttl: Of the leases, in seconds. They never end by themselves.
    """

    discovery = reply(200, {"version": "1", "capabilities": ["leases", "checkpoints"]})

    def __init__(self, **counts: int) -> None:
        super().__init__(**counts)
        self.lost: set[str] = set()
        self.cancelled: set[str] = set()
        self.commands: list[str] = []
        self.ttl = 60.0
        self.claim_ids: dict[str, list[State]] = {}
        self.voided: set[str] = set()

    async def serve(self, call: Call) -> httpx.Response:
        match call.route:
            case "claim":
                return reply(200, {"states": [self._native(s) for s in await self._claim(call.body)]})
            case "outcomes":
                items = [self._end(item, item["outcome"].upper()) for item in call.body]
                states = await self._claim({**call.claim, "wait_ms": 0}) if call.claim else []
                return reply(200, {"items": items, "states": [self._native(state) for state in states]})
            case "heartbeat":
                items = [self._beat(item) for item in call.body["states"]]
                ttl_ms = round(self.ttl * 1000)
                return reply(200, {"items": items, "ttl_ms": ttl_ms, "commands": self.commands})
            case "release":
                items = [self._end(item, "CREATED") for item in call.body.get("states") or []]
                claim_id = call.body.get("claim_id")
                if claim_id:
                    self.voided.add(claim_id)
                    for state in self.claim_ids.pop(claim_id, []):
                        self._end({"state_id": state.id, "token": _token(state)}, "CREATED")
                return reply(200, {"items": items})
        return await super().serve(call)

    def _beat(self, item: Any) -> dict[str, Any]:
        state_id = item["state_id"]
        result = "lost" if state_id in self.lost else "cancelled" if state_id in self.cancelled else "ok"
        number = self._store(item) if result == "ok" and item.get("checkpoint") else None
        return {"state_id": state_id, "result": result, "checkpoint": number}

    def _store(self, item: Any) -> int | None:
        """Store the checkpoint of an item, if it has a newer one; return the number of the stored one."""
        state, newer = self.states[item["state_id"]], item.get("checkpoint")
        if newer and newer["number"] > (state.checkpoint or {"number": 0})["number"]:
            state.checkpoint = newer
        return None if state.checkpoint is None else int(state.checkpoint["number"])

    async def _claim(self, body: Any) -> list[State]:
        claim_id = body["claim_id"]
        if claim_id in self.claim_ids:
            return [state for state in self.claim_ids[claim_id] if state.status == "QUEUED"]
        with trio.move_on_after(body["wait_ms"] / 1000):
            while not any(
                state.status == "CREATED" and state.node_name in body["limits"]
                for state in self.states.values()
            ):
                await self.changed.wait()
        if claim_id in self.voided:
            return []
        self.claim_ids[claim_id] = self.take(body["limits"], body["limit"])
        return self.claim_ids[claim_id]

    def _end(self, item: Any, status: str) -> dict[str, str]:
        state = self.states.get(item["state_id"])
        if state is None:
            return {"state_id": item["state_id"], "result": "unknown"}
        current = item["token"] == _token(state)
        if current and state.status == "QUEUED":
            state.status, state.result = status, item.get("outputs")
            self._store(item)
            if status in ("EXECUTED", "PRUNED"):
                state.checkpoint = None
            result = "ok"
        else:
            result = "duplicate" if current and state.status == status else "stale"
        return {"state_id": state.id, "result": result}

    def _native(self, state: State) -> dict[str, Any]:
        lease = {
            "token": _token(state),
            "ttl_ms": round(self.ttl * 1000),
            "attempt": state.attempt,
            "deliveries": state.deliveries,
            "announce": state.announce,
            "alone": state.alone,
        }
        return {
            "state_id": state.id,
            "node_name": state.node_name,
            "identifier": "it",
            "graph_name": "g",
            "run_id": state.run_id,
            "inputs": state.inputs,
            "created_at": "",
            "waited_ms": 250,
            "lease": lease,
            "checkpoint": state.checkpoint,
        }


def _token(state: State) -> str:
    return f"{state.id}-{state.deliveries}"


@dataclass
class Fails:
    """A hook that answers some routes by something else, while it is switched on.

    Attributes:
        routes: Which; empty for all.
        times: How often; then it switches itself off.
        make: The answer, or the exception to raise.
    """

    routes: tuple[str, ...] = ()
    make: Callable[[], httpx.Response | Exception] = lambda: httpx.ConnectError("test: no server")
    times: float = math.inf
    state_ids: frozenset[str] = frozenset()
    count: int = field(default=0, init=False)

    async def __call__(self, call: Call) -> httpx.Response | None:
        if self.count >= self.times or (self.routes and call.route not in self.routes):
            return None
        if self.state_ids and call.state_id not in self.state_ids:
            return None
        self.count += 1
        made = self.make()
        if isinstance(made, Exception):
            raise made
        return made


@dataclass
class Delays:
    """A hook that holds up some routes.

    Attributes:
        routes: Which; empty for all.
        seconds: How long; by default without a limit.
        times: How often; then it switches itself off.
    """

    routes: tuple[str, ...] = ()
    seconds: float = math.inf
    times: float = math.inf
    count: int = field(default=0, init=False)

    async def __call__(self, call: Call) -> None:
        if self.count < self.times and (not self.routes or call.route in self.routes):
            self.count += 1
            await trio.sleep(self.seconds)


def runtime(server: httpx.AsyncBaseTransport, *nodes: type[BaseNode], **options: Any) -> Runtime:
    """Return a runtime for these nodes that works with ``server``."""
    return Runtime("ns", "test", list(nodes), transport=server, **options)


@asynccontextmanager
async def running(
    what: Runtime | httpx.AsyncBaseTransport,
    *nodes: type[BaseNode],
    grace: float | None = None,
    registered: bool = False,
    within: float = math.inf,
    **options: Any,
) -> AsyncIterator[Runtime]:
    """Run a runtime in the background of the block, then stop it.

    Args:
        what: A runtime, or the server for which ``runtime`` makes one of the nodes and options.
        grace: Of the stop.
        registered: Whether the block begins when it is registered, or before.
        within: Seconds that the block and the stop may take; for tests in real time.
    """
    rt = what if isinstance(what, Runtime) else runtime(what, *nodes, **options)
    with trio.fail_after(within):
        async with trio.open_nursery() as nursery:
            if registered:
                await nursery.start(rt.run)
            else:
                nursery.start_soon(rt.run)
            yield rt
            rt.stop(grace)
