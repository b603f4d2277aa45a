"""No limit is exceeded while runs are cancelled at random, by real nodes that count themselves.

The seed is printed, and ``--hypothesis-seed=N`` sets it. With ``--hypothesis-profile=long`` it goes on for
ten minutes on each engine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio
from hypothesis import settings

from exotrio import BaseNode, ExotrioError, Graph, Runtime, StateManager
from exotrio.graph import RetryPolicyModel
from exotrio.manager import embedded, serve
from exotrio.manager.store.clock import wall_clock
from tests.contract.api import Api
from tests.contract.native import executed_item, item_for
from tests.support import postgres
from tests.support.helpers import free_port, open_client
from tests.support.manager import KEY, both_engines
from tests.support.process_nodes import Call, CountedInProcess, counted
from tests.support.stores import until

SECONDS = settings().max_examples / 5
KEYS = "abcd"


class OnTrio(BaseNode):
    Inputs = Call

    async def execute(self) -> None:
        with counted(self.inputs):
            await trio.sleep(self.inputs.seconds)


class Shielded(BaseNode):
    """Does not end when it is cancelled, as the next two, which do not end after their timeout either."""

    Inputs = Call

    async def execute(self) -> None:
        with counted(self.inputs), trio.CancelScope(shield=True):
            await trio.sleep(self.inputs.seconds)


class InThread(BaseNode):
    Inputs = Call

    def execute(self) -> None:
        with counted(self.inputs):
            time.sleep(self.inputs.seconds)


class OnAsyncio(BaseNode):
    Inputs = Call
    runs_in = "asyncio"

    async def execute(self) -> None:
        end = time.monotonic() + self.inputs.seconds
        with counted(self.inputs):
            while time.monotonic() < end:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)


NODES = {node.__name__: node for node in (OnTrio, Shielded, InThread, OnAsyncio, CountedInProcess)}


class Unreliable(httpx.AsyncHTTPTransport):
    """Loses requests and answers."""

    def __init__(self, random: Random, port: int) -> None:
        super().__init__()
        self._random, self._port = random, port

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        lost = self._random.random()
        if lost < 0.1:
            raise httpx.ConnectError("the request is lost")
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        request.headers["host"] = f"127.0.0.1:{self._port}"
        response = await super().handle_async_request(request)
        if lost > 0.9:
            await response.aread()
            raise httpx.ReadError("the answer is lost")
        return response


class Users:
    """They trigger and cancel runs, and do all else that ends states or delays what ends them."""

    def __init__(self, random: Random, folder: Path, client: StateManager, api: Api) -> None:
        self.random, self.folder, self.client, self.api = random, folder, client, api
        self.ahead_ms = 0
        self.runs: list[str] = []
        self.end = trio.Event()

    def clock(self) -> int:
        return wall_clock() + self.ahead_ms

    async def act(self) -> None:
        actions: dict[Callable[[], Awaitable[object]], float] = {
            self.trigger: 8,
            self.cancel: 12,
            self.retry: 2,
            self.set_priority: 1,
            self.delete: 0.1,
            self.work: 3,
            self.set_clock: 1,
        }
        while not self.end.is_set():
            (action,) = self.random.choices([*actions], [*actions.values()])
            # The run has ended, or the state manager is away.
            with suppress(ExotrioError, httpx.HTTPError):
                await action()
            await trio.sleep(self.random.random() / 10)

    async def trigger(self) -> None:
        store = {
            "key": self.random.choice(KEYS),
            "seconds": str(self.random.choice([0.02, 0.1, 0.5, 1.2])),
            "fails": self.random.choice(["true", "false", "false"]),
        }
        run = await self.client.trigger(self.random.choice([*NODES]), store=store)
        self.runs = [*self.runs[-60:], run["run_id"]]

    def _run(self) -> str:
        return self.random.choice(self.runs or ["none"])

    async def cancel(self) -> None:
        await self.client.cancel(self._run())

    async def retry(self) -> None:
        await self.client.retry_run(self._run())

    async def set_priority(self) -> None:
        await self.client.set_priority(self._run(), self.random.choice(["high", "normal", "low"]))

    async def delete(self) -> None:
        name = self.random.choice([*NODES])
        await self.client.delete_graph(name, cancel_runs=True)
        await self.store(name)

    async def work(self) -> None:
        """Be a runtime that claims natively or through v0, sends no heartbeats, and releases or reports."""
        nodes, is_v0 = [self.random.choice([*NODES])], self.random.random() < 0.5
        claim = self.api.claim(nodes, 1) if is_v0 else self.api.native_claim({nodes[0]: 1})
        for state in (await claim).json().get("states", ()):
            with counted(Call(**state["inputs"] | {"fails": False})):
                await trio.sleep(self.random.random() / 3)
            if is_v0:
                await self.api.executed(state["state_id"], {})
            elif self.random.random() < 0.5:
                await self.api.release(states=[item_for(state)])
            else:
                await self.api.outcomes(executed_item(state, {}))

    async def set_clock(self) -> None:
        self.ahead_ms = self.random.choice([0, 500, 45_000, 7_200_000])

    async def store(self, name: str) -> None:
        graph = Graph(name, namespace="tests", retry_policy=RetryPolicyModel(max_retries=1, backoff_factor=1))
        key = graph.store("key")
        graph.add(
            NODES[name],
            folder=str(self.folder),
            key=key,
            seconds=graph.store("seconds"),
            fails=graph.store("fails"),
            limits=graph.limit("service", at_most=2).for_key(key),
            timeout=None if name == "Shielded" else 1,
        )
        while True:
            with suppress(ExotrioError):
                await self.client.upsert_graph(graph)
                return
            await trio.sleep(0.1)


async def keep_running(random: Random, end: trio.Event, **options: Any) -> None:
    """Run one runtime after the other; each stops at a random moment, with more grace or less."""
    while not end.is_set():
        runtime = Runtime("tests", "load", [*NODES.values()], key=KEY, workers=6, **options)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.run)
            with trio.move_on_after(random.uniform(1, 5)):
                await end.wait()
            runtime.stop(random.choice([0.0, 0.3, 5.0]))


async def keep_serving(random: Random, serve_until: Callable[[trio.Event], Awaitable[object]]) -> None:
    """Serve, and stop and start again at random moments."""
    while True:
        stopping = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_until, stopping)
            await trio.sleep(random.uniform(1, 5))
            stopping.set()


@pytest.mark.filterwarnings("ignore:Async generator 'httpx:ResourceWarning")  # of a request that is lost
@both_engines
async def test_no_limit_is_exceeded_while_runs_are_cancelled_at_random(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = str(request.config.getoption("hypothesis_seed") or Random().getrandbits(32))
    print(f"--hypothesis-seed={seed}")
    random, port = Random(seed), free_port()
    monkeypatch.chdir(tmp_path)  # a state manager on PostgreSQL keeps its key in .exotrio
    monkeypatch.setattr("exotrio._runtime.heartbeat.HEARTBEATS_PER_TTL", 60)
    url = f"http://127.0.0.1:{port}"
    async with AsyncExitStack() as stack:
        api = Api(await stack.enter_async_context(open_client(url=url, key=KEY)), "tests")
        client = await stack.enter_async_context(StateManager("tests", state_manager_uri=url, key=KEY))
        users = Users(random, tmp_path, client, api)
        unreliable = await stack.enter_async_context(Unreliable(random, port))
        db = tmp_path / "state.db" if engine == "SQLite" else stack.enter_context(postgres.database()).url
        runtimes: list[dict[str, Any]] = [{"state_manager_uri": url}, {"transport": unreliable}]
        if engine == "PostgreSQL":
            # A second state manager, with a runtime inside it. A file has one, which stops and starts.
            inside = await stack.enter_async_context(embedded(db, clock=users.clock))
            runtimes.append({"transport": inside})
        options: dict[str, Any] = {"port": port, "db": db, "key": KEY, "clock": users.clock, "grace": 0.5}
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(keep_serving, random, lambda stopping: serve(stopping=stopping, **options))
        async with trio.open_nursery() as working:
            for way in runtimes:
                working.start_soon(partial(keep_running, random, users.end, **way))
            for name in NODES:
                await users.store(name)
            for _ in range(6):
                working.start_soon(users.act)
            await until((tmp_path / "calls").exists)
            await trio.sleep(SECONDS)
            users.end.set()
        nursery.cancel_scope.cancel()
    calls = Counter((tmp_path / "calls").read_text().split())
    assert not (tmp_path / "exceeded").exists(), f"of {calls}"
