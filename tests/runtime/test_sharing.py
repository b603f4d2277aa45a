"""Several runtimes at one state manager: each gets its part of the work."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, StateManager
from exotrio._link.port import LinkKind
from exotrio._runtime.ledger import MAX_BUFFERED
from exotrio._wire.vocabulary import RunStatus
from exotrio.manager import embedded
from tests.support.doubles import Call, Fails, NativeServer, V0Server, running

STATES = 240
RUNTIMES = ("one", "two", "three")


def nodes_of(runtime: str, done: Counter[str]) -> list[type[BaseNode]]:
    """The same nodes for each runtime, but that they note who ran them."""

    class Many(BaseNode):
        class Outputs(BaseModel):
            n: str

        async def execute(self) -> list[Outputs]:
            return [self.Outputs(n=str(number)) for number in range(STATES)]

    class Work(BaseNode):
        class Inputs(BaseModel):
            n: str

        async def execute(self) -> None:
            await trio.sleep(0.1)
            done[runtime] += 1

    return [Many, Work]


@pytest.mark.parametrize("link", ["native", "v0"])
async def test_runtimes_at_one_state_manager_share_the_work_fairly(
    autojump_clock: MockClock, link: LinkKind
) -> None:
    done: Counter[str] = Counter()
    many, work = nodes_of("any", done)
    graph = Graph("g", namespace="ns")
    graph.add(work, n=graph.add(many).n)
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        AsyncExitStack() as stack,
    ):
        for name in RUNTIMES:
            # On v0 who is idle hears of work only at its next poll.
            nodes = nodes_of(name, done)
            one = running(transport, *nodes, link=link, poll_interval=0.05, registered=True)
            await stack.enter_async_context(one)
        await manager.upsert_graph(graph)
        run = await manager.trigger("g")
        assert (await manager.wait(run["run_id"], timeout=600)).status is RunStatus.SUCCESS
    assert done.total() == STATES
    # All have the same workers, and no runtime holds more than a batch that others could run.
    fair = STATES / len(RUNTIMES)
    assert all(abs(done[name] - fair) <= 16 for name in RUNTIMES), done


HOURS = 5 * 3600.0


class Works(BaseNode):
    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        await trio.sleep(float(self.inputs.seconds))


class Gated(BaseNode):
    gate: trio.Event

    async def execute(self) -> None:
        await self.gate.wait()


async def answer(since: float, event: Callable[[], None], steps: int, call: Call) -> None:
    """Have something happen so many steps before a heartbeat is answered, from a moment on."""
    if call.route == "heartbeat" and trio.current_time() >= since:
        event()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()


def released(server: V0Server) -> list[str]:
    """Return the ids of all states that were released, in this order."""
    bodies = [call.body["states"] or [] for call in server.routes("release")]  # none: by the id of a claim
    return [state["state_id"] for states in bodies for state in states]


@pytest.mark.parametrize("scarce", ["limit", "concurrency", ""])
async def test_no_state_waits_behind_long_nodes_while_another_runtime_is_idle(
    autojump_clock: MockClock, scarce: str
) -> None:
    began: list[float] = []

    class Long(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(HOURS)

    class Short(BaseNode):
        concurrency = 2 if scarce == "concurrency" else None

        async def execute(self) -> None:
            began.append(trio.current_time())

    long, short = Graph("long", namespace="ns"), Graph("short", namespace="ns")
    long.add(Long)
    short.add(Short, limits=short.limit("service", at_most=2) if scarce == "limit" else ())
    nodes: list[type[BaseNode]] = [Long, Short]
    async with (
        embedded(":memory:") as transport,
        StateManager("ns", transport=transport) as manager,
        running(transport, *nodes, workers=2, registered=True, grace=0) as busy,
    ):
        for graph, times in (long, 2), (short, 5):
            await manager.upsert_graph(graph)
            runs = [await manager.trigger(graph.name) for _ in range(times)]
            await trio.sleep(1)
        assert (len(busy.vitals.running), busy.vitals.buffered) == (2, 2 if scarce else 5)
        async with running(transport, *nodes, workers=2, registered=True):
            ended = [await manager.wait(run["run_id"], timeout=20) for run in runs]
        assert {run.status for run in ended} == {RunStatus.SUCCESS}
        assert (len(began), busy.vitals.buffered, len(busy.vitals.running)) == (5, 0, 2)


async def test_a_runtime_that_is_alone_claims_again_only_once_a_worker_is_idle(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Works", 6, seconds="100")
    async with running(server, Works, workers=1, batch_size=4) as rt:
        await trio.sleep(1)
        assert rt.vitals.buffered == 3
        await trio.sleep(MAX_BUFFERED + 1)
        assert (rt.vitals.buffered, len(released(server))) == (0, 3)
        requests = len(server.routes("claim", "outcomes", "release"))
        await trio.sleep(80)
        assert len(server.routes("claim", "outcomes", "release")) == requests
        await server.until(EXECUTED=6)
    # At most one of them was claimed ahead for each that ended.
    assert len(released(server)) <= 3 + 5
    assert (rt.summary.completed, rt.summary.errored) == (6, 0)


async def test_a_claim_that_waits_at_the_server_brings_nothing_back(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    server.add("Works", 3, seconds="100")
    async with running(server, Works, workers=1, batch_size=8) as rt:
        await trio.sleep(MAX_BUFFERED - 1)
        assert rt.vitals.buffered == 2
        claims = len(server.routes("claim"))
        await trio.sleep(3)
        assert server.statuses() == {"QUEUED": 1, "CREATED": 2}
        assert (len(server.routes("claim")), len(released(server))) == (claims, 4)
        await trio.sleep(2 * MAX_BUFFERED)
        assert len(released(server)) == 4
        await server.until(EXECUTED=3)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_worker_that_takes_a_state_at_this_moment_runs_it_or_drops_it(
    autojump_clock: MockClock,
) -> None:
    outcomes = set()
    for steps in range(12):
        Gated.gate = trio.Event()
        server = NativeServer(Gated=2)

        async with running(server, Gated, workers=1, batch_size=1) as rt:
            await server.until(QUEUED=2)
            server.after = partial(answer, trio.current_time() + MAX_BUFFERED, Gated.gate.set, steps)
            await server.until(EXECUTED=2)
        assert (rt.summary.completed, rt.summary.dropped) == (2, 0)
        outcomes.add(len(released(server)))
    assert outcomes == {0, 1}


@pytest.mark.parametrize("steps", range(6))
async def test_a_stop_at_this_moment_releases_each_state_once(autojump_clock: MockClock, steps: int) -> None:
    Gated.gate = trio.Event()
    server = NativeServer(Gated=4)
    async with running(server, Gated, workers=1, batch_size=4) as rt:
        await server.until(QUEUED=4)
        server.after = partial(answer, trio.current_time() + MAX_BUFFERED, partial(rt.stop, 0), steps)
        await server.until(CREATED=4)
    assert sorted(released(server)) == sorted(server.states)
    assert rt.summary.abandoned == 0


async def test_a_release_whose_answer_is_lost_is_repeated_and_each_state_runs_once(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Works", 4, seconds="100")
    server.after = Fails(("release",), times=2)
    async with running(server, Works, workers=1, batch_size=3) as rt:
        await server.until(EXECUTED=4)
    assert server.after.count == 2
    assert (rt.summary.completed, rt.summary.abandoned, rt.summary.unknown) == (4, 0, 0)


async def test_a_state_that_a_worker_is_about_to_begin_is_not_released(autojump_clock: MockClock) -> None:
    Gated.gate = trio.Event()
    server = NativeServer(Gated=2)
    server.ttl = MAX_BUFFERED / 2
    async with running(server, Gated, workers=1):
        await server.until(QUEUED=2)
        server.before = Fails(("heartbeat",))
        await trio.sleep(MAX_BUFFERED)
        Gated.gate.set()
        # Its lease has ended as far as the worker knows: it waits for a heartbeat.
        await server.until(EXECUTED=1)
        await trio.sleep(2)
        assert server.statuses()["QUEUED"] == 1
        server.before = None
        await server.until(EXECUTED=2)
    assert released(server) == []


async def test_on_v0_nothing_is_given_back(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.add("Works", 3, seconds="100")
    async with running(server, Works, workers=1) as rt:
        await trio.sleep(3 * MAX_BUFFERED)
        assert rt.vitals.buffered == 2
        assert not server.routes("release", "re-enqueue-after")
        await server.until(EXECUTED=3)
