"""When ``execute`` begins: waiting, buffered and running are three numbers, for states and in counts."""

from __future__ import annotations

import re
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, ReQueueAfterSignal, Runtime, StateManager
from exotrio.client import Overview, Run, StateHistory, StateStatus, StateSummary
from exotrio.manager import embedded
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.queries.load import backlog
from exotrio.manager.queries.run_detail import spans_of
from exotrio.manager.queries.state_times import HELD
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import OK, A, claim, claim_one, executed_item, item_for, report
from tests.support.doubles import NativeServer, running, runtime
from tests.support.helpers import NO_RETRY, SettableClock, eventually, ok, place, virtual_ms
from tests.support.manager import Manager, open_manager, open_two, tallied
from tests.support.process_nodes import Gated
from tests.support.spans import recording
from tests.support.web import open_site, text_of

SECOND = 1_000


class Split(BaseNode):
    class Outputs(BaseModel):
        seconds: float

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(seconds=1.9)] * 6  # the last one is not buffered for 10 s, and released


class Sleeps(BaseNode):
    class Inputs(BaseModel):
        seconds: float

    async def execute(self) -> None:
        await trio.sleep(self.inputs.seconds)


graph = Graph("six", namespace="tests")
split = graph.add(Split)
graph.add(Sleeps, seconds=split.seconds)


@dataclass
class Working:
    """A run of six nodes of two seconds, and one worker."""

    manager: StateManager
    run_id: str

    async def states(self) -> list[StateSummary]:
        """Return the six states, oldest first."""
        page = await self.manager.states(run=self.run_id, identifier="sleeps")
        return page.states[::-1]


@asynccontextmanager
async def working(transport: httpx.AsyncBaseTransport) -> AsyncIterator[Working]:
    async with StateManager("tests", transport=transport) as manager, trio.open_nursery() as nursery:
        runtime = Runtime("tests", "r", [Split, Sleeps], transport=transport, workers=1)
        await nursery.start(runtime.run)
        await manager.upsert_graph(graph)
        reply = await manager.trigger("six")
        yield Working(manager, reply["run_id"])
        runtime.stop()


def near(ms: int) -> object:
    return pytest.approx(ms, abs=100)


def rounded(*seconds: float | None) -> tuple[float | None, ...]:
    return tuple(None if each is None else round(each, 1) for each in seconds)


async def test_one_worker_runs_six_nodes_of_two_seconds_for_two_seconds_each(
    autojump_clock: MockClock,
) -> None:
    async with (
        embedded(":memory:", clock=virtual_ms) as transport,
        working(transport) as work,
    ):
        with recording() as spans:
            run = await work.manager.wait(work.run_id, poll_interval=5)
        assert rounded(run.waited, run.buffered, run.ran, run.held) == (0.0, 4.1, 1.6, 5.7), (
            "of seven executions"
        )
        attributes = [dict(span.attributes or {}) for span in spans.of("execute Sleeps")]
        assert [each["exotrio.waited_ms"] for each in attributes] == [0] * 6
        assert [each["exotrio.buffered_ms"] for each in attributes] == [near(1_900 * n) for n in range(6)]
        assert [each["exotrio.ran_ms"] for each in attributes] == [near(1_900)] * 6
        states = await work.states()
        assert [rounded(state.ran) for state in states] == [(1.9,)] * 6
        assert [rounded(state.buffered) for state in states] == [rounded(1.9 * n) for n in range(6)]
        assert [rounded(state.held) for state in states] == [rounded(1.9 * (n + 1)) for n in range(6)]
        history = await work.manager.history(states[3].id)
        assert history.claimed_at is not None
        assert history.begun_at is not None
        assert rounded((history.begun_at - history.claimed_at).total_seconds()) == (5.7,)
        await trio.sleep(2)
        overview = await work.manager.overview()
        (node,) = [node for node in overview.nodes if node.name == "Sleeps"]
        assert node.p95 == pytest.approx(1.9, rel=0.15), "and not 12 s"
        assert node.buffered_p95 == pytest.approx(9.5, rel=0.15)
        assert (node.waited_p95, node.ended, node.unreported) == (0.0, 6, 0)


async def test_while_one_worker_works_one_state_runs_and_the_others_are_buffered(
    autojump_clock: MockClock,
) -> None:
    async with (
        embedded(":memory:", clock=virtual_ms) as transport,
        working(transport) as work,
    ):
        await trio.sleep(5.6)
        overview = await work.manager.overview()
        assert (overview.running, overview.buffered, overview.waiting) == (1, 3, 0)
        (node,) = [node for node in overview.nodes if node.name == "Sleeps"]
        assert (node.running, node.buffered, node.waiting) == (1, 3, 0)
        (runtime,) = overview.runtimes
        assert (runtime.busy, runtime.buffered, runtime.holds) == (1, 3, 4)
        running, *others = [each for each in await work.states() if each.status is StateStatus.QUEUED]
        assert rounded(running.buffered, running.ran) == (3.8, 1.8)
        assert [rounded(other.buffered, other.ran, other.held) for other in others] == [(5.6, None, 5.6)] * 3


async def test_each_attempt_and_each_execution_of_a_requeued_state_has_its_own_begin(
    autojump_clock: MockClock,
) -> None:
    times: list[float] = []

    class Twice(BaseNode):
        async def execute(self) -> None:
            times.append(trio.current_time())
            await trio.sleep(len(times))
            if len(times) == 1:
                raise ReQueueAfterSignal(timedelta(seconds=60))

    graph = Graph("twice", namespace="tests")
    graph.add(Twice)
    async with (
        embedded(":memory:", clock=virtual_ms) as transport,
        StateManager("tests", transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        runtime = Runtime("tests", "r", [Twice], transport=transport)
        await nursery.start(runtime.run)
        await manager.upsert_graph(graph)
        run = await manager.wait((await manager.trigger("twice"))["run_id"], poll_interval=15)
        (state,) = (await manager.states(run=run.run_id)).states
        history = await manager.history(state.id)
        runtime.stop()
    assert history.begun_at is not None
    assert round(history.begun_at.timestamp() * 1000) == 1_700_000_000_000 + round(times[1] * 1000)
    assert rounded(history.ran) == (2.0,)


# -- nodes that run elsewhere


class Waits(BaseNode):
    """Waits until the gate is open, and blocks its thread meanwhile."""

    gate = threading.Event()

    def execute(self) -> None:
        self.gate.wait()


class WaitsOnAsyncio(Waits):
    runs_in = "asyncio"

    async def execute(self) -> None:  # type: ignore[override]
        self.gate.wait()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    Waits.gate.clear()
    yield Waits.gate
    Waits.gate.set()


def reports_of(server: NativeServer) -> list[dict[str, Any]]:
    """Return the reported outcomes, those that were buffered shortest first."""
    items = [item for call in server.routes("outcomes") for item in call.body]
    return sorted(items, key=lambda item: int(item["buffered_ms"]))


async def begun(rt: Runtime) -> None:
    """Wait until the first node that runs has begun."""

    async def has_begun() -> None:
        assert [each.duration > 0 for each in rt.vitals.running[:1]] == [True]

    await eventually(has_begun)


async def test_a_node_in_a_thread_reports_the_time_of_its_execute(
    mock_clock: MockClock, gate: threading.Event
) -> None:
    mock_clock.rate = 1
    server = NativeServer()
    server.add("Waits")
    async with running(server, Waits) as rt:
        await begun(rt)
        mock_clock.jump(100)
        gate.set()
        await server.until(EXECUTED=1)
    (report,) = reports_of(server)
    assert report["buffered_ms"] < 100_000 <= report["ran_ms"]


async def test_a_node_that_waits_for_a_blocked_asyncio_loop_is_buffered_meanwhile(
    mock_clock: MockClock, gate: threading.Event
) -> None:
    mock_clock.rate = 1
    server = NativeServer()
    server.add("WaitsOnAsyncio", 2)
    async with running(server, WaitsOnAsyncio, workers=2) as rt:
        await begun(rt)
        mock_clock.jump(100)
        gate.set()
        await server.until(EXECUTED=2)
    first, second = reports_of(server)
    assert first["buffered_ms"] < 100_000 <= first["ran_ms"]
    assert second["ran_ms"] < 100_000 <= second["buffered_ms"]


async def test_a_node_in_a_process_begins_when_that_has_loaded_its_class(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    mock_clock.rate = 1
    server = NativeServer()
    server.add("Gated", path=str(tmp_path / "open"))
    async with running(server, Gated) as rt:
        await server.until(QUEUED=1)
        mock_clock.jump(50)
        await begun(rt)
        mock_clock.jump(100)
        (tmp_path / "open").touch()
        await server.until(EXECUTED=1)
    (report,) = reports_of(server)
    assert 50_000 <= report["buffered_ms"] < 100_000 <= report["ran_ms"]


def told(server: NativeServer, *, has_begun: bool) -> list[str]:
    """Return the states of which heartbeats said that a worker has them, and whether execute has begun."""
    states = [state for call in server.routes("heartbeat") for state in call.body["states"]]
    return [
        each["state_id"]
        for each in states
        if each["running"] and (each["buffered_ms"] is not None) is has_begun
    ]


async def test_heartbeats_say_at_once_that_a_process_starts_and_when_its_node_begins(
    mock_clock: MockClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mock_clock.rate = 0.01  # no other heartbeat is due for minutes
    caplog.set_level("DEBUG", "exotrio.worker")
    server = NativeServer()
    async with running(server, Gated):
        await server.until(lambda: server.routes("heartbeat"))
        server.add("Gated", path=str(tmp_path / "open"))
        with trio.fail_after(0.2):
            await server.until(lambda: told(server, has_begun=False))
            assert "begins" not in caplog.text
            await server.until(lambda: told(server, has_begun=True))
            assert "begins" in caplog.text
            (tmp_path / "open").touch()
            await server.until(EXECUTED=1)


async def test_a_heartbeat_says_at_once_that_execute_began_after_one_said_that_a_worker_has_the_state(
    mock_clock: MockClock,
) -> None:
    """Its thread, or the asyncio loop, may get to it late: its code was entered before."""
    gates = [threading.Event(), threading.Event()]
    waiting = iter(gates)

    class Blocks(BaseNode):
        runs_in = "asyncio"

        async def execute(self) -> None:
            next(waiting).wait()

    mock_clock.rate = 0.01  # no other heartbeat is due for minutes
    server = NativeServer()
    rt = runtime(server, Blocks, workers=2)
    async with running(rt):
        try:
            await server.until(lambda: server.routes("heartbeat"))
            both = set(server.add("Blocks", 2))
            with trio.fail_after(0.1):
                await begun(rt)
                rt._ledger.heartbeat_due.set()  # as for any other state that needs one
                await server.until(lambda: told(server, has_begun=True) != [])
                (early,) = set(told(server, has_begun=True))
                await server.until(lambda: both - {early} <= set(told(server, has_begun=False)))
                gates[0].set()
                await server.until(lambda: both <= set(told(server, has_begun=True)))
                gates[1].set()
                await server.until(EXECUTED=2)
        finally:
            for gate in gates:
                gate.set()


# -- what the state manager makes of a report


@pytest.fixture
async def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def manager(clock: SettableClock) -> AsyncIterator[Manager]:
    async with open_manager(clock=clock) as manager:
        yield manager


async def history_of(api: Api, state: dict[str, Any]) -> StateHistory:
    return StateHistory.model_validate(ok(await api.history(state["state_id"])))


async def test_an_outcome_that_is_delivered_late_does_not_make_the_node_slower(
    manager: Manager, clock: SettableClock
) -> None:
    await Flow.start(manager.api, place("a"))
    clock.advance(2 * SECOND)
    state = await claim_one(manager.api)
    clock.advance(3_600 * SECOND)
    item = executed_item(state) | {"buffered_ms": 5 * SECOND, "ran_ms": 7 * SECOND}
    assert await report(manager.api, item) == ["ok"]
    history = await history_of(manager.api, state)
    assert (history.waited, history.buffered, history.ran, history.held) == (2, 5, 7, 3_600)


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        ({}, (None, None)),
        ({"buffered_ms": 1_000}, (None, None)),
        ({"buffered_ms": -1, "ran_ms": 5}, (None, None)),
        ({"buffered_ms": "soon", "ran_ms": [5]}, (None, None)),
        ({"buffered_ms": 10**15, "ran_ms": 5}, (None, None)),
        ({"buffered_ms": 4_000, "ran_ms": 60_000}, (4, 6)),
        ({"buffered_ms": 60_000, "ran_ms": 60_000}, (10, 0)),
    ],
)
async def test_times_that_cannot_be_are_limited_or_left_out_and_no_outcome_is_refused(
    manager: Manager, clock: SettableClock, reported: dict[str, Any], shown: tuple[float | None, float | None]
) -> None:
    await Flow.start(manager.api, place("a"))
    state = await claim_one(manager.api)
    clock.advance(10 * SECOND)
    assert await report(manager.api, executed_item(state) | reported) == ["ok"]
    history = await history_of(manager.api, state)
    assert (history.buffered, history.ran, history.held) == (*shown, 10)


async def test_a_clock_that_is_set_back_moves_the_times_of_claimed_states(
    manager: Manager, clock: SettableClock
) -> None:
    flow = await Flow.start(manager.api, place("a"), runs=1)
    clock.advance(2 * SECOND)
    state = await claim_one(manager.api)
    clock.advance(SECOND)
    ok(await manager.api.heartbeat("w", states=[item_for(state, running=True, buffered_ms=500)]))
    clock.advance(-3_600 * SECOND)
    ok(await manager.api.heartbeat("w", states=[item_for(state, running=True, buffered_ms=500)]))
    clock.advance(SECOND)
    history = await history_of(manager.api, state)
    assert (history.waited, history.buffered, history.ran) == (2, 0.5, 1.5)
    assert await report(manager.api, executed_item(state) | {"buffered_ms": 500, "ran_ms": 700}) == ["ok"]
    run = Run.model_validate(ok(await manager.api.native_run(flow.run_id)))
    assert (run.waited, run.buffered, run.ran, run.held) == (2, 0.5, 0.7, 2)


async def test_v0_and_older_runtimes_show_the_time_from_claim_to_outcome(clock: SettableClock) -> None:
    async with open_site(clock=clock) as site:
        flow = await Flow.start(site.api, place("a"), retry_policy=NO_RETRY)
        (state,) = await flow.take("a")
        clock.advance(4 * SECOND)
        claimed = text_of(await site.browser.page(f"/ns/shop/states/{state['state_id']}"))
        assert "claimed for 4.0 s" in claimed
        ok(await site.api.executed(state["state_id"]))
        await tallied(site.service, clock)
        page = text_of(await site.browser.page(f"/ns/shop/states/{state['state_id']}"))
        assert "waited 0 ms, from claim to end 4.0 s" in page
        run = text_of(await site.browser.page(f"/ns/shop/runs/{flow.run_id}"))
        assert "4.0 s from claim to end" in run
        assert "pale: from claim to end" in run
        nodes = text_of(await site.browser.page("/ns/shop/nodes"))
        assert "max ≤3.8 s of 1" in nodes
        assert "After ≤ they are upper bounds" in nodes
        (shown,) = Overview.model_validate(ok(await site.api.overview())).nodes
        assert (shown.ended, shown.unreported, shown.buffered_p95) == (1, 1, None)
        assert shown.p95 == pytest.approx(4.0, rel=0.15)


async def test_how_long_states_waited_is_counted_next_to_what_ended(clock: SettableClock) -> None:
    def rows(view: View) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in view.execute("SELECT node_id, count FROM trends WHERE width = 1")]

    async with open_site(clock=clock) as site:
        await Flow.start(site.api, place("a"), runs=20)
        clock.advance(8 * SECOND)
        for state in await claim(site.api, {A: 20}, limit=20):
            assert await report(site.api, executed_item(state) | {"buffered_ms": 0, "ran_ms": 0}) == ["ok"]
        await Flow.start(site.api, place("a"), runs=1)
        clock.advance(SECOND)
        state = await claim_one(site.api)
        clock.advance(60 * SECOND)
        assert await report(site.api, executed_item(state) | {"buffered_ms": 2_000, "ran_ms": 500}) == ["ok"]
        await tallied(site.service, clock)
        (node,) = Overview.model_validate(ok(await site.api.overview())).nodes
        assert (node.ended, node.unreported) == (21, 0)
        assert node.waited_p95 == pytest.approx(8.0, rel=0.15)
        assert node.buffered_p95 == node.p95 == 0.0
        page = text_of(await site.browser.page("/ns/shop/nodes/Node_a"))
        assert "States waited for a runtime: median about <strong>7.7 s</strong>" in page
        assert "upper bounds" not in page
        ended = await site.service.store.read(rows)
        assert sum(count for node_id, count in ended if node_id) == 21, "which older managers count, too"
        clock.advance(4 * 3_600 * SECOND)
        await Flow.start(site.api, place("a"), runs=1)
        await report(site.api, executed_item(await claim_one(site.api)))
        await tallied(site.service, clock)
        sql = "SELECT count(*) AS n FROM waiting_trends WHERE width = 1"
        assert (await site.service.store.read(lambda view: view.one(sql)["n"])) == 1, "older ones are deleted"


async def test_heartbeats_say_which_states_have_begun_and_when() -> None:
    async with open_two("SQLite") as (manager, second):
        await Flow.start(manager.remote, place("a"), runs=4)
        one, two, three, four = await claim(manager.remote, worker_id="w", announces=True)

        async def counts() -> tuple[int, int, int]:
            shown = Overview.model_validate(ok(await second.api.overview()))
            (node,), (runtime,) = shown.nodes, shown.runtimes
            counted = shown.running, shown.buffered, shown.reporting
            assert (node.running, node.buffered, node.reporting) == counted
            assert (runtime.busy, runtime.buffered, runtime.reporting) == counted
            assert runtime.holds == sum(counted)
            return counted

        assert await counts() == (0, 4, 0), "the runtime has not said how many workers it has"
        ok(await manager.remote.heartbeat("w", workers=2))
        assert await counts() == (2, 2, 0)
        three = item_for(three, running=True, buffered_ms=0)
        beats = [item_for(one), item_for(two), three, three, item_for(four, running=True)]
        ok(await manager.remote.heartbeat("w", workers=2, states=beats))
        assert await counts() == (1, 3, 0), "one has begun, and the other worker waits for its process"
        begun = await history_of(second.api, three)
        assert begun.begun_at == begun.claimed_at
        assert (begun.buffered, begun.ran is not None, begun.stage) == (0, True, "running")
        assert (await history_of(second.api, two)).stage == "buffered"
        held = await history_of(second.api, four)
        assert (held.begun_at, held.ran) == (None, None), "a worker has it, and execute has not begun"
        assert held.stage == "buffered"
        ok(
            await manager.remote.heartbeat(
                "w", workers=2, states=[item_for(four, running=True, buffered_ms=0)]
            )
        )
        assert (await history_of(second.api, four)).begun_at is not None
        assert await counts() == (2, 2, 0), "those that have begun, and not those that were claimed first"
        ok(await manager.remote.release(states=[item_for(four)]))
        (again,) = await claim(manager.remote, worker_id="w", announces=True)
        assert again["state_id"] == four["state_id"]
        assert (await history_of(second.api, again)).begun_at is None
        assert await counts() == (2, 2, 0)
        beats = [three | {"running": False, "ran_ms": 0}, item_for(again, running=False, ran_ms=0)]
        ok(await manager.remote.heartbeat("w", workers=2, states=beats))
        assert await counts() == (2, 0, 2), "also of a state whose node ended before execute"
        ended = await history_of(second.api, three)
        assert (ended.status, ended.stage, ended.ran) == ("QUEUED", "reporting", 0)
        ok(await manager.remote.release(states=[item_for(again)]))
        (again,) = await claim(manager.remote, worker_id="w", announces=True)
        assert (await history_of(second.api, again)).stage == "buffered"
        assert await report(manager.remote, {**three, "outcome": "executed", "outputs": [OK]}) == ["ok"]
        assert await counts() == (2, 1, 0)


class Refusing(httpx.AsyncBaseTransport):
    """Passes requests on, but no outcomes while ``refuses``."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport, self.refuses = transport, False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.refuses and request.url.path.endswith("/outcomes"):
            return httpx.Response(503)
        return await self.transport.handle_async_request(request)


async def test_a_runtime_with_one_worker_is_never_shown_with_two_busy_ones(
    autojump_clock: MockClock,
) -> None:
    async with embedded(":memory:", clock=virtual_ms) as transport:
        refusing = Refusing(transport)
        async with working(refusing) as work:
            await trio.sleep(1)
            refusing.refuses = True
            await trio.sleep(4.6)
            overview = await work.manager.overview()
            assert (overview.running, overview.reporting) == (1, 2)
            (runtime,) = overview.runtimes
            assert (runtime.busy, runtime.reporting, runtime.workers) == (1, 2, 1)
            assert rounded(*[state.ran for state in await work.states()])[:3] == (1.9, 1.9, 1.8)
            refusing.refuses = False
            run = await work.manager.wait(work.run_id, poll_interval=5)
            assert (run.status, rounded(run.ran)) == ("SUCCESS", (1.6,))


async def test_a_claim_in_the_millisecond_of_an_earlier_one_has_its_own_begin(manager: Manager) -> None:
    await Flow.start(manager.api, place("a"))
    state = await claim_one(manager.api)
    ok(await manager.api.heartbeat("w", states=[item_for(state, running=True, buffered_ms=0)]))
    ok(await manager.api.release(states=[item_for(state)]))
    assert (await history_of(manager.api, await claim_one(manager.api))).begun_at is None


async def test_the_heartbeat_after_a_cancellation_says_what_was_buffered_and_what_ran(
    manager: Manager, clock: SettableClock
) -> None:
    """Also of a node that began after the cancellation, since its runtime did not know of that."""
    await Flow.start(manager.remote, place("a"), runs=3)
    states = await claim(manager.remote)
    assert len(states) == 3
    clock.advance(17 * SECOND)
    for state in states:
        ok(await manager.remote.native("POST", f"run/{state['run_id']}/cancel"))
    clock.advance(3 * SECOND)
    beats: list[dict[str, Any]] = [
        {},
        {"running": True, "buffered_ms": 5 * SECOND},
        {"running": True, "buffered_ms": 18 * SECOND},
    ]
    items = [item_for(state, **beat) for state, beat in zip(states, beats, strict=True)]
    for _ in range(2):
        reply = ok(await manager.remote.heartbeat("w", states=items))
        assert [each["result"] for each in reply["items"]] == ["cancelled"] * 3
    shown = [await history_of(manager.remote, state) for state in states]
    times = [(each.buffered, each.ran, each.held) for each in shown]
    assert times == [(17, None, 17), (5, 12, 17), (17, 0, 17)]
    assert [each.begun_at is None for each in shown] == [True, False, False]


async def test_states_that_wait_and_are_cancelled_never_ran(manager: Manager, clock: SettableClock) -> None:
    flow = await Flow.start(manager.api, place("a"), runs=1)
    state = await claim_one(manager.api)
    clock.advance(SECOND)
    ok(await manager.api.release(states=[item_for(state)]))
    clock.advance(4 * SECOND)
    ok(await manager.api.native("POST", f"run/{flow.run_id}/cancel"))
    history = await history_of(manager.api, state)
    assert (history.status, history.waited, history.held, history.ran) == ("ERRORED", 4, None, None)


@pytest.mark.parametrize("end", ["handed over", "lease lost"])
async def test_a_state_that_was_held_before_has_waited_since_it_was_given_back(
    end: str, clock: SettableClock
) -> None:
    async with open_manager(clock=clock) as manager:
        api = manager.remote
        flow = await Flow.start(api, place("a"), runs=1)
        state = await claim_one(api)
        clock.advance(3_600 * SECOND)
        beat = item_for(state, running=True, buffered_ms=2 * SECOND)
        ok(await api.heartbeat("w", states=[beat], runtime="r", phase="running", workers=1))
        if end == "handed over":
            ok(await api.release(states=[item_for(state, handed_over=True)]))
        else:
            later = manager.service.monotonic() + 61 * SECOND
            await manager.service.store.write(expire, later, Terms())
        clock.advance(4 * SECOND)
        (waiting,) = await manager.service.store.read(lambda view: backlog(view, namespace="tests"))
        assert (waiting.eligible, waiting.oldest_due) == (1, 4.0)
        at = await manager.service.store.read(
            lambda view: spans_of(view, view.one("SELECT * FROM runs")).spans[0].at
        )
        assert at.earlier == ((HELD, 0, at.waits),) == ((HELD, 0, 3_600 * SECOND),), (
            "waited or ran: not known"
        )
        given_back = await history_of(api, state)
        assert given_back.waited == 4
        assert given_back.claimed_at is not None
        assert given_back.begun_at == given_back.claimed_at + timedelta(seconds=2), "under the last claim"
        again = await claim_one(api)
        assert again["waited_ms"] == 4 * SECOND, "for the metrics of the runtime"
        clock.advance(SECOND)
        assert await report(api, executed_item(again) | {"buffered_ms": 0, "ran_ms": SECOND}) == ["ok"]
        history = await history_of(api, state)
        assert (history.waited, history.held, history.ran) == (4, 1, 1)
        assert history.updated_at == history.finished_at
        assert ok(await api.native_run(flow.run_id))["waited_ms"] == 4 * SECOND
        await tallied(manager.service, clock)
        (node,) = Overview.model_validate(ok(await api.overview())).nodes
        assert node.waited_p95 == pytest.approx(4.0, rel=0.15)


async def test_pages_show_which_claimed_states_run_and_which_are_buffered(clock: SettableClock) -> None:
    async with open_site(clock=clock) as site:
        flow = await Flow.start(site.api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
        (first,) = await claim(site.api, {A: 1}, worker_id="w", announces=True)
        outputs = [{"v": str(n), "w": ""} for n in range(3)]
        ok(await site.api.heartbeat("w", runtime="r", phase="running", workers=1))
        assert await report(site.api, executed_item(first, *outputs)) == ["ok"]
        held = await claim(site.api, {"Node_b": 3}, worker_id="w", announces=True)
        clock.advance(2 * SECOND)
        run = f"/ns/shop/runs/{flow.run_id}"
        html = text_of(await site.browser.page(run))
        assert "1 running · 2 buffered" in html
        for chosen, count in (("running", 1), ("buffered", 2)):
            listed = await site.browser.fragments(f"{run}?status={chosen}", "states")
            assert listed.count('<tr data-key="') == count
            assert f'<span class="chip c-{chosen}">{chosen}</span>' in listed
            assert listed.count("2.0 s since its claim") == (count if chosen == "running" else 0)
            assert listed.count('<td data-label="Buffered" class="num">2.0 s</td>') == (
                count if chosen == "buffered" else 0
            )
        for state, shown in zip(held, ("running", "buffered", "buffered"), strict=True):
            page = await site.browser.page(f"/ns/shop/states/{state['state_id']}")
            assert f'<span class="chip c-{shown}">{shown}</span>' in page
            assert f"{'claimed' if shown == 'running' else 'buffered'} for 2.0 s" in page
        bars = await site.browser.fragments(run, "timeline")
        assert (bars.count('class="s-running unreported"'), bars.count('class="buffered"')) == (1, 2)
        overview = text_of(await site.browser.page("/ns/shop"))
        assert "and 2 buffered: claimed by a runtime, not begun" in overview
        nodes = await site.browser.page("/ns/shop/nodes")
        assert '<td data-label="Running" class="num">1</td>' in nodes
        assert '<td data-label="Buffered" class="num">2</td>' in nodes

        ended = item_for(held[0], running=False, buffered_ms=500, ran_ms=SECOND)
        ok(await site.api.heartbeat("w", runtime="r", phase="running", workers=1, states=[ended]))
        assert "b: 1 reporting, 1 running, 1 buffered" in text_of(await site.browser.page(run))
        listed = await site.browser.fragments(f"{run}?status=reporting", "states")
        assert listed.count('<tr data-key="') == 1
        assert '<span class="chip c-reporting">reporting</span>' in listed
        page = await site.browser.page(f"/ns/shop/states/{held[0]['state_id']}")
        assert "waited 0 ms, buffered 500 ms, ran 1.0 s" in page
        overview = text_of(await site.browser.page("/ns/shop"))
        assert "and 1 buffered: claimed by a runtime, not begun; 1 reporting: ended, outcome not" in overview
        runtimes = await site.browser.page("/ns/shop/runtimes")
        assert re.findall('data-label="(?:Buffered|Reporting)" class="num">([0-9]+)<', runtimes) == ["1", "1"]
