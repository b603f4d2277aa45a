"""What a request with a named key costs the state manager, next to one with the root key.

Processor time of its process, since latency is noisier. The root key is compared with itself, too: how far
that differs from 1 says what the other ratios are worth.
"""

from __future__ import annotations

import http.client
import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from operator import truediv
from statistics import median
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import trio

from exotrio import Runtime, StateManager
from exotrio.manager.rules.access import IN_NAMESPACE
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, cpu_seconds, fresh, server
from tests.bench.work import NAMESPACE, STEP, Step
from tests.support.postgres import database

ENGINES, COUNTS = ("SQLite", "PostgreSQL"), (1, 1_000)
BATCH = 16
CHUNK = 10
"""Requests with one key before those with the next."""
_SPACE = f"/exotrio/v1/namespace/{NAMESPACE}"


def keys(plan: Plan) -> Iterator[Sample]:
    """Requests with one named key, and with one of 1,000, on both engines."""
    for engine in ENGINES:
        for count in COUNTS:
            with ExitStack() as stack:
                db = stack.enter_context(database()).url if engine == "PostgreSQL" else None
                where, pid = stack.enter_context(server(db or str(fresh(plan.folder) / "state.db")))
                named = trio.run(_prepare, where, count)
                yield from _ratios(where, pid, named, f"{count:,} keys, {engine}", plan)


async def _prepare(where: Where, count: int) -> str:
    """Store the graph, and so many keys; return the text of one."""
    async with StateManager(NAMESPACE, **where) as manager:
        runtime = Runtime(NAMESPACE, "bench", [Step], **where)
        async with trio.open_nursery() as nursery:
            await nursery.start(runtime.run)
            runtime.stop()
        await manager.upsert_graph(STEP)
        for number in range(count):
            key = await manager.add_key(f"bench-{number}", [f"{each}:*" for each in IN_NAMESPACE])
    return key.text


def _ratios(where: Where, pid: int, named: str, what: str, plan: Plan) -> Iterator[Sample]:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(closing(_Client(where, key))) for key in (where["key"], where["key"], named)
        ]
        yield from _rounds(clients, pid, what, plan)


def _rounds(clients: list[_Client], pid: int, what: str, plan: Plan) -> Iterator[Sample]:
    for number in range(plan.runs + 1):
        for request, costs in _round(clients, pid, plan.triggers):
            if number:  # the first round warms up
                root, again, key = zip(*costs, strict=True)
                yield Sample(f"{request}: root key, {what}", median(root) * 1e6, "us")
                for name, others in (("root key over itself", again), ("named key over root key", key)):
                    ratio = median(map(truediv, others, root))
                    yield Sample(f"{request}: {name}, {what}", ratio, "x")


class _Client:
    """A connection that sends one key, and what is held by it."""

    def __init__(self, where: Where, key: str) -> None:
        address = urlsplit(where["state_manager_uri"])
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        self._key = key
        self.held: list[list[dict[str, str]]] = []
        self.close = self._connection.close

    def ask(self, path: str, body: Any) -> Any:
        self._connection.request("POST", _SPACE + path, json.dumps(body), {"x-api-key": self._key})
        with self._connection.getresponse() as response:
            assert response.status == 200, response.read()
            return json.load(response)

    def claim_nothing(self) -> None:
        self.ask("/claim", _claim())

    def trigger(self) -> None:
        self.ask(f"/graph/{STEP.name}/trigger", _run())

    def claim(self) -> None:
        states = self.ask("/claim", _claim())["states"]
        assert len(states) == BATCH
        self.held.append([{"state_id": each["state_id"], "token": each["lease"]["token"]} for each in states])

    def beat(self) -> None:
        self.held.append(self.held.pop(0))
        self.ask("/heartbeat", {"worker_id": "bare", "states": self.held[0]})

    def exchange(self) -> None:
        outcomes = [{**each, "outcome": "executed", "outputs": [{"i": "1"}]} for each in self.held.pop()]
        self.ask("/outcomes", [*outcomes, {"claim": {**_claim(), "at_once": BATCH}}])


def _claim() -> dict[str, Any]:
    return {"worker_id": "bare", "limits": {"Step": BATCH}, "limit": BATCH, "claim_id": str(uuid4())}


def _run() -> dict[str, Any]:
    return {"run_id": str(uuid4()), "inputs": {"i": "1"}}


def _round(clients: list[_Client], pid: int, count: int) -> Iterator[tuple[str, list[list[float]]]]:
    """Yield each kind of request with the CPU seconds that it took by each client, in several chunks."""
    kinds: dict[str, Callable[[_Client], None]] = {
        "claim of nothing": _Client.claim_nothing,
        "trigger": _Client.trigger,
        f"claim of {BATCH}": _Client.claim,
        f"heartbeat with {BATCH} states": _Client.beat,
        f"{BATCH} outcomes and a claim": _Client.exchange,
    }
    for kind, send in kinds.items():
        if send is _Client.claim:
            for _ in range((BATCH - 1) * len(clients)):
                clients[0].ask(f"/graph/{STEP.name}/runs", {"runs": [_run() for _ in range(count + CHUNK)]})
        costs = []
        for _ in range(0, count, CHUNK):
            # In turns, each time in another order: the speed of a processor changes within a second.
            cost = [0.0] * len(clients)
            for index in random.sample(range(len(clients)), len(clients)):
                began = cpu_seconds(pid)
                for _ in range(CHUNK):
                    send(clients[index])
                cost[index] = (cpu_seconds(pid) - began) / CHUNK
            costs.append(cost)
        yield kind, costs
