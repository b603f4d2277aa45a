"""States that end before their nodes: they keep slots until these stop.

What needs no real node runs on both engines, with two state managers.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio._runtime.held_claim import Stage
from exotrio.graph import RetryPolicyModel
from exotrio.manager import Service, create_app
from exotrio.manager.engine import managers
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.slots import MAX_STOPPING_MS
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, executed_item, item_for, report, results, until_polling
from tests.support import postgres
from tests.support.doubles import running
from tests.support.helpers import NO_RETRY, SettableClock, eventually, node_name, ok, place, virtual_ms
from tests.support.manager import KEY, Manager, both_engines, open_manager, open_two

LIMITED = [{"name": "service"}]
LEASE_MS = Terms().lease_ttl_ms
BEFORE_MS = 10_000
"""From the claim to the cancellation."""


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def two(engine: str, clock: SettableClock) -> AsyncIterator[tuple[Manager, Manager]]:
    options = {"monotonic": clock} if engine == "SQLite" else {}
    terms = Terms(claim_timeout_ms=2 * LEASE_MS)
    async with open_two(engine, clock=clock, terms=terms, **options) as opened:
        yield opened


async def start(
    manager: Manager, at_most: int = 1, runs: int = 1, retry_policy: dict[str, Any] = NO_RETRY
) -> None:
    """Start runs of a graph whose states share a limit, and one of another graph that waits behind them."""
    limits = [{"name": "service", "at_most": at_most}]
    await Flow.start(
        manager.api, place("a", limits=LIMITED), limits=limits, retry_policy=retry_policy, runs=runs
    )
    await Flow.start(manager.api, place("b", limits=LIMITED), graph="other", runs=at_most)


async def cancel(manager: Manager, *states: dict[str, Any]) -> None:
    for state in states:
        ok(await manager.api.native("POST", f"run/{state['run_id']}/cancel"))


async def next_ones(manager: Manager) -> int:
    """Claim what the limit has room for, and return how many states those are."""
    return len(await claim(manager.remote, {B: 9}, limit=9))


async def sweep(manager: Manager) -> None:
    """Do what a sweep does that is in time."""
    await manager.service.store.write(lambda tx: expire(tx, tx.lease_now, Terms()))


@pytest.mark.parametrize("by", ["released", "executed", "errored"])
async def test_a_cancelled_state_keeps_its_slot_until_its_runtime_says_that_the_node_has_stopped(
    two: tuple[Manager, Manager], by: str
) -> None:
    manager, second = two
    await start(manager)
    [state] = await claim(manager.remote)
    await cancel(second, state)
    assert await next_ones(second) == 0
    item = item_for(state)
    if by == "released":
        assert results(ok(await manager.remote.release(states=[{**item, "token": "another"}]))) == ["stale"]
        assert await next_ones(second) == 0
        for _ in range(2):  # it may be repeated
            assert results(ok(await manager.remote.release(states=[item]))) == ["ok"]
    else:
        outcomes = {
            "executed": executed_item(state),
            "errored": item_for(state, outcome="errored", error="e"),
        }
        assert await report(manager.remote, outcomes[by]) == ["stale"]
    assert await next_ones(second) == 1
    assert ok(await manager.api.states(status="ERRORED"))["states"][0]["id"] == state["state_id"]


async def test_without_a_word_of_its_runtime_the_slot_is_free_at_the_end_of_the_lease(
    two: tuple[Manager, Manager], clock: SettableClock
) -> None:
    manager, second = two
    await start(manager)
    [state] = await claim(manager.remote)
    clock.advance(BEFORE_MS)
    await cancel(second, state)
    clock.advance(LEASE_MS - BEFORE_MS - 1)
    await sweep(manager)
    assert await next_ones(second) == 0
    clock.advance(1)
    await sweep(manager)
    assert await next_ones(second) == 1
    ok(await manager.remote.release(states=[item_for(state)]))  # too late: another state has the slot
    await start_other(manager)
    assert await next_ones(second) == 0


async def start_other(manager: Manager) -> None:
    ok(await manager.api.trigger("other"))


async def test_heartbeats_say_that_the_node_has_not_stopped_yet(
    two: tuple[Manager, Manager], clock: SettableClock
) -> None:
    manager, second = two
    await start(manager)
    [state] = await claim(manager.remote)
    await cancel(second, state)
    for _ in range(5):
        clock.advance(LEASE_MS - 1)
        await sweep(manager)
        [item] = ok(await manager.remote.heartbeat(states=[item_for(state)]))["items"]
        assert (item["result"], item["release"]) == ("cancelled", True)
        assert await next_ones(second) == 0
    ok(await manager.remote.release(states=[item_for(state)]))
    # One that was on its way when the node stopped takes the slot from no other state.
    ok(await manager.remote.heartbeat(states=[item_for(state)]))
    assert await next_ones(second) == 1


async def test_what_has_no_limit_need_not_be_released(manager: Manager) -> None:
    await Flow.start(manager.api, place("a"))
    [state] = await claim(manager.remote)
    await cancel(manager, state)
    [item] = ok(await manager.remote.heartbeat(states=[item_for(state)]))["items"]
    assert (item["result"], item["release"]) == ("cancelled", False)
    assert results(ok(await manager.remote.release(states=[item_for(state)]))) == ["stale"]


@pytest.fixture
def manager(two: tuple[Manager, Manager]) -> Manager:
    return two[0]


@pytest.mark.parametrize("how", ["v0", "in process"])
async def test_a_claim_without_a_lease_keeps_its_slot_for_a_time(
    manager: Manager, clock: SettableClock, how: str
) -> None:
    await start(manager)
    if how == "v0":
        [state] = ok(await manager.remote.claim([A], 1))["states"]
        [run_id] = {each["run_id"] for each in ok(await manager.api.states(status="QUEUED"))["states"]}
        kept_ms = 2 * LEASE_MS  # the timeout of v0 claims
    else:
        [state] = await claim(manager.api)
        run_id, kept_ms = state["run_id"], MAX_STOPPING_MS
    await cancel(manager, {"run_id": run_id})
    clock.advance(kept_ms - 1)
    await sweep(manager)
    assert await next_ones(manager) == 0
    clock.advance(1)
    await sweep(manager)
    assert await next_ones(manager) == 1


async def test_a_late_outcome_through_v0_gives_the_slot_back(manager: Manager) -> None:
    await start(manager)
    [state] = ok(await manager.remote.claim([A], 1))["states"]
    [run] = ok(await manager.api.states(status="QUEUED"))["states"]
    await cancel(manager, run)
    assert await next_ones(manager) == 0
    assert (await manager.remote.executed(state["state_id"], {"v": "x", "w": "w"})).status_code >= 400
    assert await next_ones(manager) == 1


async def test_a_state_that_is_deleted_meanwhile_keeps_its_slot_until_the_end_of_its_lease(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager)
    [state] = await claim(manager.remote)
    ok(await manager.api.delete_graph("graph", cancel_runs="true"))
    assert (await manager.api.history(state["state_id"])).status_code == 404
    assert await next_ones(manager) == 0
    detail = ok(await manager.api.native("GET", "limit/service"))
    assert (detail["held"], detail["holders"], detail["keys"][0]["held"]) == (1, [], 1)
    clock.advance(LEASE_MS)
    await sweep(manager)
    assert await next_ones(manager) == 1


async def test_a_limit_is_shown_before_all_rows_of_a_deleted_run_are_gone(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio.manager.background.clear", lambda tx, runs: 0)
    async with open_two(engine) as (manager, _):
        await start(manager)
        await claim(manager.remote)
        ok(await manager.api.delete_graph("graph", cancel_runs="true"))
        assert await next_ones(manager) == 0
        detail = ok(await manager.api.native("GET", "limit/service"))
        assert (detail["held"], detail["holders"]) == (1, [])
        [waits] = ok(await manager.api.states(status="CREATED"))["states"]
        assert waits["waits_for"]["limit"]["holders"] == []


@pytest.mark.parametrize("by", ["release", "term"])
@both_engines
async def test_while_no_state_manager_runs_the_slot_of_a_node_that_has_not_stopped_is_kept(
    tmp_path: Path, clock: SettableClock, engine: str, by: str
) -> None:
    with ExitStack() as stack:
        if engine == "SQLite":
            open_again = partial(open_manager, tmp_path / "work.db", clock=clock, monotonic=clock)
        else:
            open_again = partial(open_manager, stack.enter_context(postgres.database()).url, clock=clock)
        async with open_again() as manager:
            await start(manager)
            [state] = await claim(manager.remote)
            await cancel(manager, state)
        clock.advance(10 * LEASE_MS)
        async with open_again() as manager:
            assert await next_ones(manager) == 0
            if by == "release":
                [item] = ok(await manager.remote.heartbeat(states=[item_for(state)]))["items"]
                assert item["release"]
                assert results(ok(await manager.remote.release(states=[item_for(state)]))) == ["ok"]
            else:
                early = 1 if engine == "SQLite" else round(2_000 * Terms().sweep_interval)
                clock.advance(LEASE_MS - early)
                await sweep(manager)
                assert await next_ones(manager) == 0
                clock.advance(early)
                await sweep(manager)
            assert await next_ones(manager) == 1


async def test_the_time_in_which_no_heartbeat_could_come_ends_no_hold(
    two: tuple[Manager, Manager], clock: SettableClock
) -> None:
    manager, second = two
    await start(manager)
    [state] = await claim(manager.remote)
    await cancel(manager, state)
    store, last = manager.service.store, clock()
    clock.advance(2 * LEASE_MS)
    assert await next_ones(second) == 0
    terms = Terms(claim_timeout_ms=2 * LEASE_MS)
    late = partial(managers.sweep, manager=manager.service.manager, now=clock(), terms=terms)
    await store.write(partial(late, last=None if store.is_shared else last))
    clock.advance(LEASE_MS - 2 * round(terms.sweep_interval * 1_000))
    await sweep(manager)
    assert await next_ones(second) == 0
    clock.advance(LEASE_MS)
    await sweep(manager)
    assert await next_ones(second) == 1


async def test_states_that_stop_together_give_back_all_their_slots(
    two: tuple[Manager, Manager], clock: SettableClock
) -> None:
    manager, second = two
    await start(manager, at_most=4, runs=4)
    states = await claim(manager.remote, limit=4)
    await cancel(manager, *states[:3])
    assert await next_ones(second) == 0
    ok(await manager.remote.release(states=[item_for(state) for state in states[:2]]))
    assert await next_ones(second) == 2
    ok(await manager.remote.release(states=[item_for(state) for state in states]))
    assert await next_ones(second) == 2


async def test_it_is_shown_that_a_holder_has_ended_and_not_stopped(manager: Manager) -> None:
    await start(manager, at_most=2, runs=2)
    ok(await manager.api.heartbeat("w", runtime="r", phase="running", workers=9, nodes={node_name("b"): ""}))
    states = await claim(manager.remote, limit=2)
    await cancel(manager, states[0])
    assert await next_ones(manager) == 0
    detail = ok(await manager.api.native("GET", "limit/service"))
    assert (detail["held"], detail["waiting"]) == (2, 2)
    stopping = {each["state_id"]: each["stopping"] for each in detail["holders"]}
    assert stopping == {states[0]["state_id"]: True, states[1]["state_id"]: False}
    waits = [each["waits_for"] for each in ok(await manager.api.states(status="CREATED"))["states"]]
    assert {each["limit"]["stopping"] for each in waits} == {1}
    assert all(", of which 1 has ended, but not yet stopped; " in each["text"] for each in waits)
    ok(await manager.remote.release(states=[item_for(states[0])]))
    assert ok(await manager.api.native("GET", "limit/service"))["held"] == 1


@pytest.mark.parametrize("by_ms", [-7_200_000, 7_200_000])
async def test_a_wall_clock_that_is_set_neither_ends_a_hold_nor_makes_it_longer(
    clock: SettableClock, by_ms: int
) -> None:
    of_leases = SettableClock()
    # On PostgreSQL both are the same clock, and a sweep moves the times.
    async with open_manager(clock=clock, monotonic=of_leases) as manager:
        await start(manager)
        [state] = await claim(manager.remote)
        await cancel(manager, state)
        clock.advance(by_ms)
        of_leases.advance(LEASE_MS - 1)
        await sweep(manager)
        assert await next_ones(manager) == 0
        of_leases.advance(1)
        await sweep(manager)
        assert await next_ones(manager) == 1


# -- outcomes of nodes that are stuck


def stuck_item(state: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return item_for(state, outcome="errored", error="timed out", **{"stuck": True, **fields})


async def report_stuck(manager: Manager, state: dict[str, Any], **fields: Any) -> tuple[str, bool]:
    """Report that a node timed out and is stuck; return the result, and whether it is to be released."""
    [item] = ok(await manager.remote.outcomes(stuck_item(state, **fields)))["items"]
    return item["result"], item["after_error"]["release"]


@both_engines
@pytest.mark.parametrize("by", ["release", "outcome", "lease"])
async def test_a_state_that_timed_out_keeps_its_slot_until_its_node_has_ended(
    two: tuple[Manager, Manager], clock: SettableClock, by: str
) -> None:
    manager, second = two
    await start(manager)
    [state] = await claim(manager.remote)
    assert await report_stuck(manager, state) == ("ok", True)
    assert ok(await manager.api.states(status="ERRORED"))["states"][0]["id"] == state["state_id"]
    for _ in range(3):
        assert await next_ones(second) == 0
        assert await report_stuck(manager, state) == ("duplicate", True), "its answer was lost"
        clock.advance(LEASE_MS - 1)
        [item] = ok(await manager.remote.heartbeat(states=[item_for(state)]))["items"]
        assert item["release"]
    [holder] = ok(await manager.api.native("GET", "limit/service"))["holders"]
    assert (holder["state_id"], holder["stopping"]) == (state["state_id"], True)
    match by:
        case "release":
            assert results(ok(await manager.remote.release(states=[item_for(state)]))) == ["ok"]
        case "outcome":
            assert await report_stuck(manager, state, stuck=False) == ("duplicate", False)
        case "lease":
            clock.advance(LEASE_MS - 1)
            await sweep(manager)
            assert await next_ones(second) == 0
            clock.advance(1)
            await sweep(manager)
    assert await next_ones(second) == 1


async def test_a_retry_of_a_state_whose_node_is_stuck_needs_another_slot(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager, at_most=2, retry_policy={**NO_RETRY, "max_retries": 1})
    first, other = *await claim(manager.remote), *await claim(manager.remote, {B: 1})
    assert await report_stuck(manager, first) == ("ok", True)
    clock.advance(10)  # by then it is due
    assert await claim(manager.remote) == []
    assert await report(manager.remote, executed_item(other)) == ["ok"]
    [retry] = await claim(manager.remote)
    assert retry["lease"]["attempt"] == 2
    assert await next_ones(manager) == 0
    ok(await manager.remote.release(states=[item_for(first)]))
    await start_other(manager)
    assert await next_ones(manager) == 1


async def test_a_run_that_is_cancelled_before_the_outcome_of_a_stuck_node_keeps_its_slot(
    manager: Manager,
) -> None:
    await start(manager)
    [state] = await claim(manager.remote)
    await cancel(manager, state)
    assert await report_stuck(manager, state, token="another") == ("stale", False)
    assert await report_stuck(manager, state) == ("stale", True)
    assert await next_ones(manager) == 0


async def test_a_state_without_limits_whose_node_is_stuck_need_not_be_released(manager: Manager) -> None:
    await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY)
    [state] = await claim(manager.remote)
    assert await report_stuck(manager, state) == ("ok", False)


async def test_a_slot_that_another_state_has_taken_is_not_taken_back(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager)
    [state] = await claim(manager.remote)
    clock.advance(LEASE_MS)
    now = clock()
    await manager.service.store.write(partial(expire, now=now, terms=Terms()))
    assert await next_ones(manager) == 1
    assert (await report_stuck(manager, state))[0] == "ok"
    assert ok(await manager.api.native("GET", "limit/service"))["held"] == 1


# -- claims that wait, and nodes that run


async def test_a_claim_that_waits_is_woken_when_the_node_stops_and_when_the_lease_ends(
    autojump_clock: MockClock,
) -> None:
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        await start(manager, runs=2)
        await start_other(manager)
        for ends_after, by in ((5.0, "release"), (10.0, "lease")):
            [state] = await claim(manager.remote)
            await trio.sleep(LEASE_MS / 1000 - 10)
            claimed: list[float] = []
            began = trio.current_time()

            async def wait(by: str = by, claimed: list[float] = claimed, began: float = began) -> None:
                while not (states := await claim(manager.remote, {B: 1}, wait_ms=15_000, worker_id=by)):
                    pass
                claimed.append(trio.current_time() - began)
                assert await report(manager.remote, executed_item(states[0])) == ["ok"]

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await until_polling(manager.remote, by)
                await cancel(manager, state)
                if by == "release":
                    await trio.sleep(ends_after - (trio.current_time() - began))
                    ok(await manager.remote.release(states=[item_for(state)]))
            assert claimed == pytest.approx([ends_after], abs=0.2)


class Number(BaseModel):
    n: int


class Calls(BaseNode):
    """Calls a service, and does not stop when it is told to."""

    Inputs = Number
    journal: ClassVar[list[str]] = []
    seconds: ClassVar[float]

    async def execute(self) -> None:
        self.journal.append(f"{self.inputs.n} begins")
        with trio.CancelScope(shield=True):
            await trio.sleep(self.seconds)
        self.journal.append(f"{self.inputs.n} ends")


class Others(Calls):
    """The same in other runtimes."""


class CallsInThread(BaseNode):
    """As ``Calls``, in a thread."""

    Inputs = Number

    def execute(self) -> None:
        Calls.journal.append(f"{self.inputs.n} begins")
        time.sleep(Calls.seconds)
        Calls.journal.append(f"{self.inputs.n} ends")


class OthersInThread(CallsInThread):
    """The same in other runtimes."""


def runtime_at(service: Service, node: type[BaseNode], **options: Any) -> Runtime:
    """Return a runtime as in another process: its claims have leases."""
    transport = httpx.ASGITransport(create_app(service, key=KEY), raise_app_exceptions=False)
    settings: dict[str, Any] = {"transport": transport, "key": KEY, "workers": 1} | options
    return Runtime("tests", "test", [node], **settings)


class SlowReleases(httpx.ASGITransport):
    """Passes each release on after 2 s, unless it is cancelled."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/release"):
            await trio.sleep(2)
        return await super().handle_async_request(request)


async def overlap(
    managers: list[Manager], node: type[BaseNode], other: type[BaseNode], seconds: float, **options: Any
) -> None:
    """Cancel a run whose node goes on; assert that the next state begins once that has ended."""
    Calls.journal, Calls.seconds = [], seconds
    first, second, third = (each.service for each in managers)
    graph = Graph("calls", namespace="tests")
    graph.add(node, n=1, limits=graph.limit("service", at_most=1))
    others = Graph("others", namespace="tests")
    others.add(other, n=2, limits=others.limit("service"))
    transport = httpx.ASGITransport(create_app(second, key=KEY), raise_app_exceptions=False)

    async def has_begun() -> None:
        assert Calls.journal

    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(StateManager("tests", transport=transport, key=KEY))
        one = await stack.enter_async_context(
            running(runtime_at(first, node, **options), registered=True, within=3 * seconds + 60)
        )
        await client.upsert_graph(graph)
        runs = [(await client.trigger("calls"))["run_id"]]
        await eventually(has_begun)
        await stack.enter_async_context(
            running(runtime_at(third, other), registered=True, within=3 * seconds + 60)
        )
        await client.upsert_graph(others)
        runs.append((await client.trigger("others"))["run_id"])
        await client.cancel(runs[0])
        await client.wait(runs[1])
    assert Calls.journal == ["1 begins", "1 ends", "2 begins", "2 ends"]
    assert one.summary.run_cancelled == 1
    assert one.summary.exit_code == 0


@pytest.mark.parametrize(("node", "other"), [(Calls, Others), (CallsInThread, OthersInThread)])
async def test_the_next_state_begins_after_the_node_of_a_cancelled_run_has_ended(
    engine: str, node: type[BaseNode], other: type[BaseNode], tmp_path: Path
) -> None:
    terms = Terms(lease_ttl_ms=9_000)
    async with AsyncExitStack() as stack:
        if engine == "SQLite":
            managers = [await stack.enter_async_context(open_manager(terms=terms))] * 3
        else:
            url = stack.enter_context(postgres.database()).url
            managers = [await stack.enter_async_context(open_manager(url, terms=terms)) for _ in range(3)]
        await overlap(managers, node, other, seconds=3.0, outbox=tmp_path / "outbox.db")


async def test_also_if_that_takes_longer_than_a_lease(autojump_clock: MockClock) -> None:
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        began = trio.current_time()
        await overlap([manager] * 3, Calls, Others, seconds=100.0)
        assert trio.current_time() - began < 202, "the second began as soon as the first had ended"


def _holds(runtime: Runtime, number: int) -> bool:
    return len(runtime._ledger.leased()) == number


async def test_a_buffered_state_gives_its_slot_back_when_its_runtime_learns_that_it_was_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    Calls.journal, Calls.seconds = [], 50.0
    graph = Graph("calls", namespace="tests")
    graph.add(Calls, n=graph.store("n"), limits=graph.limit("service", at_most=2))
    others = Graph("others", namespace="tests")
    others.add(Others, n=3, limits=others.limit("service"))
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with (
            running(runtime_at(manager.service, Calls), registered=True) as busy,
            StateManager("tests", transport=transport, key=KEY) as client,
        ):
            await client.upsert_graph(graph)
            for number in (1, 2):
                buffered = (await client.trigger("calls", store={"n": str(number)}))["run_id"]
                await busy._ledger.until(partial(_holds, busy, number))
            await client.cancel(buffered)
            async with running(runtime_at(manager.service, Others), registered=True):
                await client.upsert_graph(others)
                began = trio.current_time()
                await client.wait((await client.trigger("others"))["run_id"])
            assert 50 <= trio.current_time() - began < 53, "it began while the first one ran"
    assert Calls.journal == ["1 begins", "3 begins", "1 ends", "3 ends"]
    assert busy.summary.run_cancelled == 1
    assert "no longer claimed" not in caplog.text


async def test_a_stop_gives_the_slots_of_nodes_back_that_were_cancelled(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    Calls.journal, Calls.seconds = [], 8.0
    graph = Graph("calls", namespace="tests")
    graph.add(Calls, n=graph.store("n"), limits=graph.limit("service", at_most=1))
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with StateManager("tests", transport=transport, key=KEY) as client:
            runtime = runtime_at(
                manager.service, Calls, transport=SlowReleases(create_app(manager.service, key=KEY))
            )
            async with running(runtime, registered=True, grace=1.0) as one:
                await client.upsert_graph(graph)
                run = (await client.trigger("calls", store={"n": "1"}))["run_id"]
                await one._ledger.until(lambda: Calls.journal != [])
                await client.cancel(run)
                await trio.sleep(5)
                assert (await client.limit("service")).holders[0].stopping
            assert (await client.limit("service")).held == 0
    assert one.summary.exit_code == 0
    assert one.summary.run_cancelled == 1
    assert "abandoned" not in caplog.text


# -- nodes that are stuck


class Endless(BaseNode):
    """Goes on in a thread after its timeout, until ``go`` is set."""

    Inputs = Number
    go: ClassVar[threading.Event]

    def execute(self) -> None:
        journal = Calls.journal  # not that of the next test, which may have begun when this goes on
        journal.append(f"{self.inputs.n} begins")
        self.go.wait(100)
        journal.append(f"{self.inputs.n} ends")


class EndlessOnAsyncio(Endless):
    """Goes on in the asyncio loop, also if it is cancelled."""

    runs_in = "asyncio"

    async def execute(self) -> None:  # type: ignore[override]
        journal, go = Calls.journal, self.go
        journal.append(f"{self.inputs.n} begins")
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.002)
        journal.append(f"{self.inputs.n} ends")


@pytest.fixture
def go() -> Iterator[threading.Event]:
    Calls.journal, Calls.seconds = [], 0.0
    Endless.go = threading.Event()
    yield Endless.go
    Endless.go.set()


async def _has_begun() -> None:
    assert Calls.journal


STUCK = [(Endless, "timeout"), (EndlessOnAsyncio, "timeout"), (EndlessOnAsyncio, "cancel")]


@pytest.mark.parametrize(("node", "by"), STUCK)
async def test_the_next_state_begins_after_a_stuck_node_has_ended(
    autojump_clock: MockClock,
    go: threading.Event,
    node: type[BaseNode],
    by: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    graph = Graph("calls", namespace="tests", retry_policy=RetryPolicyModel(max_retries=0))
    limits = graph.limit("service", at_most=1)
    graph.add(node, n=1, limits=limits, timeout=30 if by == "timeout" else None)
    others = Graph("others", namespace="tests")
    others.add(Others, n=2, limits=others.limit("service"))
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with (
            StateManager("tests", transport=transport, key=KEY) as client,
            running(runtime_at(manager.service, node), registered=True) as one,
            running(runtime_at(manager.service, Others), registered=True),
        ):
            await client.upsert_graph(graph)
            await client.upsert_graph(others)
            autojump_clock.autojump_threshold = 0.2  # its timeout must not pass while its thread starts
            run = (await client.trigger("calls"))["run_id"]
            await eventually(_has_begun, within=1_000)
            autojump_clock.autojump_threshold = 0.0
            if by == "cancel":
                await client.cancel(run)
            other = (await client.trigger("others"))["run_id"]
            await trio.sleep(3 * LEASE_MS / 1000)
            limit = await client.limit("service")
            assert [each.stopping for each in limit.holders] == [True]
            assert not one._ledger.snapshot(), "its state has ended"
            assert Calls.journal == ["1 begins"]
            go.set()
            with trio.fail_after(10_000):
                await client.wait(other)
    assert Calls.journal == ["1 begins", "1 ends", "2 begins", "2 ends"]
    assert (one.summary.errored, one.summary.run_cancelled) == ((1, 0) if by == "timeout" else (0, 1))
    assert one.summary.exit_code == 0
    assert "dropping" not in caplog.text


class SlowOutcomes(httpx.ASGITransport):
    """Passes each outcome on after 2 s."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/outcomes"):
            await trio.sleep(2)
        return await super().handle_async_request(request)


async def test_a_stuck_node_keeps_its_slot_though_its_run_is_cancelled_before_its_outcome_arrives(
    autojump_clock: MockClock, go: threading.Event
) -> None:
    graph = Graph("calls", namespace="tests")
    graph.add(Endless, n=1, limits=graph.limit("service", at_most=1), timeout=30)
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        app = create_app(manager.service, key=KEY)
        runtime = runtime_at(manager.service, Endless, transport=SlowOutcomes(app))
        async with (
            StateManager("tests", transport=httpx.ASGITransport(app), key=KEY) as client,
            running(runtime, registered=True) as one,
        ):
            await client.upsert_graph(graph)
            run = (await client.trigger("calls"))["run_id"]
            with trio.fail_after(1_000):
                await one._ledger.until(lambda: one._ledger.count(Stage.DONE) == 1)
            await client.cancel(run)
            await trio.sleep(3 * LEASE_MS / 1000)
            assert Calls.journal == ["1 begins"]
            assert [each.stopping for each in (await client.limit("service")).holders] == [True]
            go.set()
            with trio.fail_after(10_000):
                await one._ledger.until(lambda: not one._ledger.stuck)
            await trio.sleep(1)
            assert (await client.limit("service")).held == 0


async def test_a_stuck_node_whose_first_heartbeat_comes_after_its_end_is_shown_as_begun(
    autojump_clock: MockClock, go: threading.Event
) -> None:
    class WithoutHeartbeats(SlowOutcomes):
        fails = False

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if self.fails and request.url.path.endswith("/heartbeat"):
                return httpx.Response(503, json={"detail": "not now"})
            return await super().handle_async_request(request)

    graph = Graph("calls", namespace="tests")
    graph.add(Endless, n=1, limits=graph.limit("service", at_most=1), timeout=5)
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        app = create_app(manager.service, key=KEY)
        transport = WithoutHeartbeats(app)
        async with (
            StateManager("tests", transport=httpx.ASGITransport(app), key=KEY) as client,
            running(runtime_at(manager.service, Endless, transport=transport), registered=True) as one,
        ):
            await client.upsert_graph(graph)
            transport.fails = True
            run = (await client.trigger("calls"))["run_id"]
            with trio.fail_after(1_000):
                await one._ledger.until(lambda: one._ledger.count(Stage.DONE) == 1)
                await client.cancel(run)
                await one._ledger.until(lambda: bool(one._ledger.stuck))
            transport.fails = False
            await trio.sleep(5)
            (state,) = (await client.states(run=run)).states
            history = await client.history(state.id)
    assert history.begun_at is not None
    assert history.claimed_at is not None
    waited = (history.begun_at - history.claimed_at).total_seconds()  # the clock jumps while a thread starts
    assert round(waited + (history.ran or 0)) == 5


async def test_a_stop_does_not_wait_for_a_stuck_node_whose_slot_is_free_when_its_lease_ends(
    autojump_clock: MockClock, go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph("calls", namespace="tests")
    graph.add(Endless, n=1, limits=graph.limit("service", at_most=1), timeout=30)
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with StateManager("tests", transport=transport, key=KEY) as client:
            async with running(runtime_at(manager.service, Endless), registered=True, grace=500.0) as one:
                await client.upsert_graph(graph)
                await client.trigger("calls")
                with trio.fail_after(1_000):
                    await one._ledger.until(lambda: bool(one._ledger.stuck))
                began = trio.current_time()
            assert trio.current_time() - began < 30
            assert (await client.limit("service")).holders[0].stopping
            await trio.sleep(LEASE_MS / 1000 + Terms().sweep_interval)
            assert (await client.limit("service")).held == 0
    assert one.summary.exit_code == 0
    assert "abandoned" not in caplog.text


async def test_a_stop_gives_up_a_node_whose_slot_is_free_when_its_lease_ends(
    autojump_clock: MockClock, go: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    graph = Graph("calls", namespace="tests")
    graph.add(Endless, n=1, limits=graph.limit("service", at_most=1))
    async with open_manager(clock=virtual_ms, monotonic=virtual_ms) as manager:
        transport = httpx.ASGITransport(create_app(manager.service, key=KEY))
        async with StateManager("tests", transport=transport, key=KEY) as client:
            async with running(runtime_at(manager.service, Endless), registered=True, grace=1.0) as one:
                await client.upsert_graph(graph)
                run = (await client.trigger("calls"))["run_id"]
                await eventually(_has_begun, within=1_000)
                await client.cancel(run)
                with trio.fail_after(1_000):
                    await one._ledger.until(lambda: any(held.forfeited for held in one._ledger.snapshot()))
            assert (await client.limit("service")).holders[0].stopping
            await trio.sleep(LEASE_MS / 1000 + Terms().sweep_interval)
            assert (await client.limit("service")).held == 0
    assert (one.summary.run_cancelled, one.summary.exit_code) == (1, 0)
    assert "abandoned" not in caplog.text
