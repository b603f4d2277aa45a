"""Each request of a runtime fails in each way: the run ends as if nothing had happened.

A real state manager in memory and two real runtimes, under virtual time. The transport between them fails
once, at one request. ``pytest -m chaos tests/chaos/test_requests.py`` takes every combination.
"""

from __future__ import annotations

import itertools
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, GraphInvalid, ReQueueAfterSignal, RetryPolicyModel, Runtime, StateManager
from exotrio._shared.settings import Settings
from exotrio.client import RunStatus
from exotrio.manager import create_app, open_service
from exotrio.manager.engine.leases import Terms
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
ROUTES = {
    "native": ("discovery", "nodes", "claim", "outcomes", "heartbeat", "secrets", "release"),
    "v0": ("discovery", "nodes", "enqueue", "executed", "errored", "re-enqueue-after", "secrets"),
}
NTH = {"claim": 2, "outcomes": 2, "enqueue": 2, "executed": 2}
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
    """One fails in its first execution, and one is requeued in its first one."""

    class Inputs(BaseModel):
        key: str

    class Outputs(BaseModel):
        key: str

    class Secrets(BaseModel):
        token: str

    async def execute(self) -> Outputs:
        key = self.inputs.key
        assert self.secrets.token == SECRET
        executions[key] += 1
        await trio.sleep(3)
        if key == "1" and executions[key] == 1:
            raise RuntimeError("fails once")
        if key == "2" and executions[key] == 1:
            raise ReQueueAfterSignal(timedelta(seconds=2))
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


# -- the network


class Wire(httpx.AsyncBaseTransport):
    """Carries requests to the state manager; the case's fault happens to one of them.

    The state manager handles each in a task of its nursery: a client that gives up does not stop it.
    """

    def __init__(self, server: httpx.AsyncBaseTransport, case: Case, nursery: trio.Nursery) -> None:
        self.runtimes: dict[str, tuple[Runtime, trio.CancelScope]] = {}
        self.has_struck = False
        self._server = server
        self._case = case
        self._nursery = nursery
        self._visits = 0

    async def carry(self, name: str, request: httpx.Request) -> httpx.Response:
        await request.aread()
        _, scope = self.runtimes[name]
        route = request.url.path.strip("/").rpartition("/")[2].replace("v1", "discovery")
        fault = self._fault(route)
        if fault is not None and self._case.when == "before":
            return await self._strike(fault, name) or await self._handle(request, scope)
        response = await self._handle(request, scope)
        if fault is not None:
            return await self._strike(fault, name) or response
        return response

    def _fault(self, route: str) -> Fault | None:
        if route != self._case.route or self.has_struck:
            return None
        self._visits += 1
        self.has_struck = self._visits == NTH.get(route, 1)
        return self._case.fault if self.has_struck else None

    async def _handle(self, request: httpx.Request, scope: trio.CancelScope) -> httpx.Response:
        """Send a request to the state manager and return its answer, unless the runtime was killed."""
        answer, receive = trio.open_memory_channel[httpx.Response](1)

        async def handle() -> None:
            answer.send_nowait(await self._server.handle_async_request(request))

        self._nursery.start_soon(handle)
        response = await receive.receive()
        if scope.cancel_called:
            await trio.sleep_forever()
        return response

    async def _strike(self, fault: Fault, name: str) -> httpx.Response | None:
        runtime, scope = self.runtimes[name]
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
                runtime.stop(0)
            case F.KILL:
                scope.cancel()
                await trio.sleep_forever()
        return None


class Connection(httpx.AsyncBaseTransport):
    """The way of one runtime to the state manager."""

    def __init__(self, wire: Wire, name: str) -> None:
        self._wire = wire
        self._name = name

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._wire.carry(self._name, request)


# -- the test


@pytest.mark.parametrize("case", list(cases()))
async def test_a_run_ends_as_planned_although_a_request_fails(case: Case, autojump_clock: MockClock) -> None:
    executions.clear()
    over = trio.Event()
    async with (
        open_service(
            ":memory:", clock=virtual_ms, monotonic=virtual_ms, terms=TERMS, settings=SETTINGS
        ) as service,
        trio.open_nursery() as nursery,
    ):
        app = create_app(service, key=KEY, native=case.api == "native")
        server = httpx.ASGITransport(app, raise_app_exceptions=False)
        wire = Wire(server, case, nursery)
        manager = StateManager(NAMESPACE, "http://manager", KEY, transport=server)
        async with manager, trio.open_nursery() as slots:
            for slot in ("a", "b"):
                slots.start_soon(_keep_running, slot, wire, over)
            with trio.fail_after(MAX_RUN):
                run = await _run_graph(manager)
                over.set()
                for runtime, _ in wire.runtimes.values():
                    runtime.stop(30.0)
        assert wire.has_struck or case.route == "release"
        await service.store.read(recount)
        nursery.cancel_scope.cancel()
    assert run.status is RunStatus.SUCCESS
    for key, planned in PLANNED.items():
        assert planned <= executions[key] <= planned + case.may_repeat, executions


async def _keep_running(slot: str, wire: Wire, over: trio.Event) -> None:
    """Run one runtime after the other until the run is over."""
    for life in itertools.count(1):
        name = f"{slot}{life}"
        runtime = Runtime(
            NAMESPACE,
            name,
            NODES,
            key=KEY,
            workers=2,
            batch_size=2,
            poll_interval=0.5,
            transport=Connection(wire, name),
        )
        with trio.CancelScope() as scope:
            wire.runtimes[name] = (runtime, scope)
            await runtime.run()
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
