"""Requests of a runtime fail in each way: the run ends as if nothing had happened, a stop ends in time.

A real state manager in memory and real runtimes, under virtual time. The transport between them fails once,
at one request, or often. ``pytest -m chaos tests/chaos/test_requests.py`` takes every combination.
"""

from __future__ import annotations

import itertools
import json
import random
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    Graph,
    GraphInvalid,
    HandOver,
    Phase,
    ReQueueAfterSignal,
    RetryPolicyModel,
    Runtime,
    StateManager,
)
from exotrio._shared.settings import Settings
from exotrio.client import RunStatus
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms
from exotrio.manager.service import Service
from exotrio.manager.store.view import View
from tests.chaos.checkpoints import acknowledged, broken_checkpoints
from tests.chaos.journal import GOES_ON, Execution
from tests.support.helpers import virtual_ms
from tests.support.manager import recount

pytestmark = pytest.mark.chaos

NAMESPACE = "requests"
KEY = "a-key-for-requests"
SECRET = "secret-canary-4711"
TERMS = Terms(lease_ttl_ms=6_000, claim_timeout_ms=15_000, poison_limit=1_000)
SETTINGS = Settings(secrets_encryption_key=b64encode(bytes(32)).decode())
MAX_RUN = 600.0
"""Seconds until a run that has not ended is taken for lost."""


class Fault(StrEnum):
    """What happens to one request."""

    REFUSED = "connection refused"
    RESET = "connection reset"
    SILENCE = "no answer"
    HTTP_404 = "404 of a gateway"
    HTTP_500 = "500 in JSON"
    HTTP_502 = "502 in HTML"
    HTTP_503 = "503 with Retry-After"
    STOP = "stop"
    KILL = "kill"


F = Fault
BEFORE = tuple(Fault)
AFTER = (F.RESET, F.SILENCE, F.HTTP_500, F.HTTP_502, F.STOP, F.KILL)
"""Faults once the state manager has handled the request: only its answer is lost."""
CHECKPOINT = "heartbeat with a checkpoint"
ROUTES = {
    "native": ("discovery", "nodes", "claim", "outcomes", "heartbeat", CHECKPOINT, "secrets", "release"),
    "v0": ("discovery", "nodes", "enqueue", "executed", "errored", "re-enqueue-after", "secrets"),
}
NTH = {"claim": 2, "outcomes": 3, "enqueue": 2, "executed": 2}
"""Which request of a route is hit, so that something is held by then. Defaults to the first."""


@dataclass(frozen=True)
class Case:
    api: str
    route: str
    when: str
    fault: Fault

    def __str__(self) -> str:
        return f"{self.fault} {self.when} {self.route} on {self.api}"

    @property
    def may_repeat(self) -> bool:
        """Whether a node may run once more: it was cancelled with its runtime, or its v0 claim timed out."""
        return self.fault in (F.STOP, F.KILL) or (
            self.api == "v0" and (self.fault is F.SILENCE or self.route in ("enqueue", "re-enqueue-after"))
        )


def cases() -> Iterator[Any]:
    """Yield each combination, as parameters: those that are not long_form take each route and fault."""
    used = Counter[Fault]()
    for api, routes in ROUTES.items():
        for route in routes:
            for when, faults in (("before", BEFORE), ("after", AFTER)):
                first = min(faults, key=used.__getitem__)
                used[first] += 1
                for fault in faults:
                    marks = () if fault is first else pytest.mark.long_form
                    case = Case(api, route, when, fault)
                    yield pytest.param(case, id=str(case), marks=marks)


# -- the graph


executions = Counter[str]()
began = defaultdict[str, list[Execution]](list)
"""The executions of each leaf."""
stored = defaultdict[str, list[tuple[float, int]]](list)
"""When a checkpoint of a leaf was stored, and how many of its parts were done."""
runtime_number = ContextVar[int]("runtime_number")


ENDS: dict[type[BaseException], str] = {
    HandOver: "handed-over",
    RuntimeError: "errored",
    ReQueueAfterSignal: "requeued",
    trio.Cancelled: "cancelled",
}


class Root(BaseNode):
    async def execute(self) -> None:
        executions["root"] += 1


class Split(BaseNode):
    class Outputs(BaseModel):
        key: str

    async def execute(self) -> list[Outputs]:
        executions["split"] += 1
        await trio.sleep(1)
        return [self.Outputs(key=str(number)) for number in range(5)]


class Leaf(BaseNode):
    """One fails in its first execution, and one is requeued in its first one. Each has three parts.

    They take different times, so that what happens to one meets others whose checkpoint is not stored yet.
    """

    class Inputs(BaseModel):
        key: str

    class Checkpoint(BaseModel):
        owner: str = "-"
        done: int = 0

    class Outputs(BaseModel):
        key: str

    class Secrets(BaseModel):
        token: str

    async def execute(self) -> Outputs:
        key = self.inputs.key
        assert self.secrets.token == SECRET
        executions[key] += 1
        execution = Execution(f"{key}/{executions[key]}", key, runtime_number.get(), trio.current_time())
        execution.owner, execution.received = self.checkpoint.owner, self.checkpoint.done
        began[key].append(execution)
        try:
            for part in range(self.checkpoint.done + 1, 4):
                await trio.sleep(1 + int(key) / 10)
                self.checkpoint = self.Checkpoint(owner=key, done=part)
                execution.parts = part
                if part == int(key) % 2 + 2:
                    await self.save_checkpoint(self.checkpoint)
                    stored[key].append((trio.current_time(), part))
                if self.stopping and part < 3:
                    raise HandOver
            if key == "1" and executions[key] == 1:
                raise RuntimeError("fails once")
            if key == "2" and executions[key] == 1:
                raise ReQueueAfterSignal(timedelta(seconds=2))
        except BaseException as ended:
            execution.end = ENDS[type(ended)]
            raise
        return self.Outputs(key=key)


class Join(BaseNode):
    class Inputs(BaseModel):
        keys: list[str]

    class Outputs(BaseModel):
        keys: str

    async def execute(self) -> Outputs:
        executions["join"] += 1
        return self.Outputs(keys=" ".join(sorted(self.inputs.keys)))


NODES = (Root, Split, Leaf, Join)
PLANNED = Counter({"root": 1, "split": 1, "join": 1, "0": 1, "1": 2, "2": 2, "3": 1, "4": 1})
RETRIES = RetryPolicyModel(max_retries=3, backoff_factor=500)
GRAPH = Graph("requests", namespace=NAMESPACE, secrets={"token": SECRET}, retry_policy=RETRIES)
_root = GRAPH.add(Root)
_split = GRAPH.add(Split, after=_root)
_leaf = GRAPH.add(Leaf, key=_split.key)
GRAPH.add(Join, keys=_leaf.every.key, unites=_root)


class Works(BaseNode):
    """Takes its time, and some time to clean up."""

    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        try:
            await trio.sleep(float(self.inputs.seconds))
        finally:
            with trio.move_on_after(min(float(self.inputs.seconds) / 10, 7), shield=True):
                await trio.sleep_forever()


WORK = Graph("work", namespace=NAMESPACE)
WORK.add(Works, seconds="0")


# -- the network


Faults = Callable[[str, str], Awaitable[Fault | None]]
"""Called before and after the state manager handles a request, with its route and ``before`` or ``after``."""


class Once:
    """The fault of a case, at one request."""

    def __init__(self, case: Case) -> None:
        self.has_struck = False
        self._case = case
        self._visits = 0

    async def __call__(self, route: str, when: str) -> Fault | None:
        if route != self._case.route or when != self._case.when or self.has_struck:
            return None
        self._visits += 1
        self.has_struck = self._visits == NTH.get(route, 1)
        return self._case.fault if self.has_struck else None


class Often:
    """Any request takes a moment, and as many as ``badness`` says fail."""

    def __init__(self, rng: random.Random) -> None:
        self.badness = 0.0
        self._rng = rng

    async def __call__(self, route: str, when: str) -> Fault | None:
        await trio.sleep(self._rng.expovariate(20))
        if self._rng.random() >= (self.badness if when == "before" else self.badness / 2):
            return None
        faults = BEFORE if when == "before" else AFTER
        return self._rng.choice([fault for fault in faults if fault not in (F.STOP, F.KILL)])


@dataclass(eq=False)
class World:
    """A state manager, a client of it, and the runtimes that work for it."""

    service: Service
    server: httpx.AsyncBaseTransport
    manager: StateManager
    nursery: trio.Nursery
    faults: Faults
    wires: list[Wire] = field(default_factory=list)


class Wire(httpx.AsyncBaseTransport):
    """A runtime, and its way to the state manager, with faults. It has to run in ``scope``.

    The state manager handles each request in a task of its nursery: a client that gives up does not stop it.
    """

    def __init__(self, world: World, name: str, *nodes: type[BaseNode], **options: Any) -> None:
        self.runtime = Runtime(NAMESPACE, name, nodes, key=KEY, transport=self, **options)
        self.scope = trio.CancelScope()
        self.has_stopped = False
        self._world = world
        world.wires.append(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        route = request.url.path.strip("/").rpartition("/")[2].replace("v1", "discovery")
        if route == "heartbeat" and b'"checkpoint"' in request.content:
            route = CHECKPOINT
        if (fault := await self._world.faults(route, "before")) is not None:
            return await self._strike(fault) or await self._handle(request)
        response = await self._handle(request)
        if (fault := await self._world.faults(route, "after")) is not None:
            return await self._strike(fault) or response
        return response

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        """Send a request to the state manager and return its answer, unless the runtime was killed."""
        answer, receive = trio.open_memory_channel[httpx.Response](1)

        async def handle() -> None:
            response = await self._world.server.handle_async_request(request)
            await _note_checkpoints(request, response)
            answer.send_nowait(response)

        self._world.nursery.start_soon(handle)
        response = await receive.receive()
        if self.scope.cancel_called:
            await trio.sleep_forever()
        return response

    async def _strike(self, fault: Fault) -> httpx.Response | None:
        match fault:
            case F.REFUSED:
                raise httpx.ConnectError("refused")
            case F.RESET:
                raise httpx.ReadError("reset")
            case F.SILENCE:
                await trio.sleep_forever()
            case F.HTTP_404:
                return httpx.Response(404, json={"detail": "Not Found"})
            case F.HTTP_500:
                return httpx.Response(500, json={"success": False, "detail": "chaos"})
            case F.HTTP_502:
                return httpx.Response(502, content=b"<html>Bad Gateway</html>")
            case F.HTTP_503:
                return httpx.Response(503, json={"detail": "chaos"}, headers={"retry-after": "2"})
            case F.STOP:
                self.runtime.stop(0)
            case F.KILL:
                self.scope.cancel()
                await trio.sleep_forever()
        return None


async def _note_checkpoints(request: httpx.Request, response: httpx.Response) -> None:
    route = request.url.path.rpartition("/")[2]
    if route in ("heartbeat", "outcomes", "release") and response.status_code == 200:
        reply = json.loads(await response.aread())
        for checkpoint in acknowledged(json.loads(request.content), reply):
            stored[checkpoint["owner"]].append((trio.current_time(), int(checkpoint["done"])))


# -- the tests


@asynccontextmanager
async def made(api: str, faults: Faults) -> AsyncIterator[World]:
    async with (
        open_service(
            ":memory:", clock=virtual_ms, monotonic=virtual_ms, terms=TERMS, settings=SETTINGS
        ) as service,
        trio.open_nursery() as nursery,
    ):
        app = create_app(service, key=KEY, native=api == "native")
        server = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with StateManager(NAMESPACE, "http://manager", KEY, transport=server) as manager:
            yield World(service, server, manager, nursery, faults)
        await service.store.read(recount)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("case", list(cases()))
async def test_a_run_ends_as_planned_although_a_request_fails(case: Case, autojump_clock: MockClock) -> None:
    for kept in (executions, began, stored):
        kept.clear()
    over = trio.Event()
    once = Once(case)
    async with made(case.api, once) as world, trio.open_nursery() as slots:
        for slot in ("a", "b"):
            slots.start_soon(_keep_running, slot, world, over)
        with trio.fail_after(MAX_RUN):
            run = await _run_graph(world.manager)
            over.set()
            for wire in world.wires:
                wire.runtime.stop(30.0)
        lost = await world.service.store.read(_lost_leases)

    def is_handed_on(execution: Execution) -> bool:
        return execution.end in GOES_ON and world.wires[execution.pid].has_stopped and not lost

    assert once.has_struck or case.route == "release"
    assert run.status is RunStatus.SUCCESS
    for key, planned in PLANNED.items():
        assert planned <= executions[key] <= planned + case.may_repeat, executions
    for key, found in began.items() if case.api == "native" else ():
        assert list(broken_checkpoints(key, found, stored[key], is_handed_on)) == []


@pytest.mark.parametrize("way", ["stop", "stop twice", "cancel"])
@pytest.mark.parametrize("api", ROUTES)
@pytest.mark.parametrize("badness", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.long_form) for n in range(1, 7))])
async def test_a_stop_ends_in_time_and_every_state_ends_is_free_again_or_is_named(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, way: str, api: str, badness: float, seed: int
) -> None:
    rng = random.Random(seed)
    often = Often(rng)
    workers, batch_size = rng.randint(1, 5), rng.randint(1, 12)
    async with made(api, often) as world:
        runtime = Wire(world, "a", Works, workers=workers, batch_size=batch_size).runtime
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(runtime.run)
                await world.manager.upsert_graph(WORK)
                for _ in range(30):
                    seconds = rng.expovariate(1 / rng.choice([0.1, 3, 30]))
                    await world.manager.trigger(WORK.name, inputs={"seconds": str(seconds)})
                often.badness = badness
                await trio.sleep(rng.expovariate(1 / 5))
                began = trio.current_time()
                if way == "cancel":
                    scope.cancel()
                else:
                    runtime.stop()
                    if way == "stop twice":
                        await trio.sleep(rng.random() * 5)
                        runtime.stop(0)
                        began = trio.current_time()
        assert trio.current_time() - began <= (28.6 if way == "stop" else 8.6)
        assert runtime.phase is Phase.STOPPED
        ids = await world.service.store.read(_ids_by_status)
    summary: Any = runtime.summary
    unnamed = ids["QUEUED"] - set(summary.left_behind)
    # A claim that could not even be given up is logged as such; its leases run out.
    assert len(unnamed) <= summary.lost_claims or "leases have to expire" in caplog.text
    assert not ids["ERRORED"]
    if badness == 0:
        assert not ids["QUEUED"]
        assert summary.exit_code == 0
        assert summary.completed == len(ids["SUCCESS"])


def _lost_leases(view: View) -> bool:
    return bool(list(view.execute("SELECT state FROM events WHERE kind = 'lease lost'")))


def _ids_by_status(view: View) -> defaultdict[str, set[str]]:
    ids = defaultdict[str, set[str]](set)
    for state in view.execute("SELECT seq, status FROM states"):
        ids[state["status"]].add(view.state_id(state["seq"]))
    return ids


async def _keep_running(slot: str, world: World, over: trio.Event) -> None:
    """Run one runtime after the other until the run is over."""
    for life in itertools.count(1):
        wire = Wire(world, f"{slot}{life}", *NODES, workers=2, batch_size=2, poll_interval=0.5)
        runtime_number.set(world.wires.index(wire))
        with wire.scope:
            await wire.runtime.run()
            wire.has_stopped = True
        if over.is_set():
            return
        await trio.sleep(0.5)


async def _run_graph(manager: StateManager) -> Any:
    """Store the graph once its nodes are registered, and wait for the end of a run of it."""
    while True:
        try:
            await manager.upsert_graph(GRAPH)
            break
        except GraphInvalid:
            await trio.sleep(0.5)
    run_id = str((await manager.trigger(GRAPH.name))["run_id"])
    return await manager.wait(run_id, timeout=MAX_RUN, poll_interval=5.0)
