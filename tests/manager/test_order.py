"""How the states of several runs share a node: with one state manager or several, and after a restart."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from exotrio.manager.store import virtual_times
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import OK, A, B, claim, executed_item, item_for, report
from tests.contract.sharing import fan_out, runs_of_claim
from tests.support import postgres
from tests.support.helpers import NO_RETRY, SettableClock, eventually, node_name, ok, place
from tests.support.manager import ENGINES, Manager, open_manager, open_two, tallied


async def deploy(api: Api) -> None:
    await Flow.deploy(api, place("f", "b"), place("b"), retry_policy=NO_RETRY)


@asynccontextmanager
async def opened(engine: str, clock: SettableClock) -> AsyncIterator[Manager]:
    if engine == "SQLite":
        async with open_manager(clock=clock) as manager:
            yield manager
        return
    with postgres.database() as database:
        async with open_manager(database.url, clock=clock) as manager:
            yield manager


async def test_a_run_that_begins_late_does_not_catch_up(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # On PostgreSQL it begins at a state manager that has claimed nothing so far.
    monkeypatch.setattr(virtual_times, "READ_AGAIN", 0)
    async with open_two(engine) as (one, other):
        await deploy(one.api)
        first = await fan_out(one.api, 40)
        assert await runs_of_claim(one.api, 20) == {first: 20}
        late = await fan_out(other.api, 20)
        assert await runs_of_claim(one.api, 20) == {first: 10, late: 10}


async def test_runs_that_begin_with_a_node_do_not_go_before_one_that_went_far(engine: str) -> None:
    async with opened(engine, SettableClock()) as manager:
        api = manager.api
        await deploy(api)
        await Flow.deploy(api, place("b"), graph="single")
        large = await fan_out(api, 40)
        assert await runs_of_claim(api, 20) == {large: 20}
        for _ in range(20):
            ok(await api.native_trigger("single", str(uuid4())))
        assert (await runs_of_claim(api, 10))[large] == 1


async def test_after_a_restart_a_run_that_went_far_does_not_wait_for_all_that_begin_then(
    tmp_path: Path,
) -> None:
    clock = SettableClock()
    async with open_manager(tmp_path / "state.db", clock=clock) as manager:
        places = place("a", "f"), place("f", "b"), place("b")
        await Flow.deploy(manager.api, *places, graph="far", retry_policy=NO_RETRY)
        await deploy(manager.api)
        flow = Flow(manager.api, "far")
        await flow.trigger()
        await flow.run("a", OK, OK)
        first, second = await claim(manager.api, {node_name("f"): 2})
        outputs = [{"v": str(number)} for number in range(20)]
        await report(manager.api, executed_item(first, *outputs))
        states = await claim(manager.api, {B: 20}, limit=20)
        await report(manager.api, *(item_for(state, outcome="errored", error="no") for state in states))
        await tallied(manager.service, clock)
    async with open_manager(tmp_path / "state.db", clock=clock) as manager:
        await report(manager.api, executed_item(second, *outputs))
        new = await fan_out(manager.api, 20)
        assert await runs_of_claim(manager.api, 20) == {flow.run_id: 10, new: 10}


async def test_states_retried_by_hand_wait_neither_for_the_rest_of_their_run_nor_go_before_others() -> None:
    async with open_manager() as manager:
        await deploy(manager.api)
        large = await fan_out(manager.api, 60)
        failed = await claim(manager.api, {B: 20}, limit=20)
        await report(manager.api, *(item_for(state, outcome="errored", error="no") for state in failed))
        small = await fan_out(manager.api, 20)
        retried = {each["new_state_id"] for each in ok(await manager.api.retry_run(large))["retried"]}
        claimed = await claim(manager.api, {B: 30}, limit=30)
        assert Counter(state["run_id"] for state in claimed) == {large: 20, small: 10}
        assert len(retried & {state["state_id"] for state in claimed}) == 10


@pytest.mark.parametrize("engine", ENGINES)
async def test_many_states_that_come_due_at_once_go_before_no_other_run(engine: str) -> None:
    clock = SettableClock()
    async with opened(engine, clock) as manager:
        await deploy(manager.api)
        large = await fan_out(manager.api, 40)
        states = await claim(manager.api, {B: 20}, limit=20)
        requeued = [item_for(state, outcome="requeued", delay_ms=1_000) for state in states]
        assert await report(manager.api, *requeued) == ["ok"] * 20
        small = await fan_out(manager.api, 10)
        clock.advance(1_001)
        # Those that waited, those that came due, and the other run take turns.
        counted = await runs_of_claim(manager.api, 15)
        assert counted == {large: 10, small: 5}


async def test_runs_that_begin_at_two_state_managers_come_by_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtual_times, "READ_AGAIN", 100)
    async with open_two("PostgreSQL") as (one, other):
        await deploy(one.api)
        runs = [await fan_out(manager.api, 1) for manager in (one, other, one, other, other, one)]
        assert [state["run_id"] for state in await claim(one.api, {B: 9})] == runs


async def test_new_runs_at_a_state_manager_that_claims_nothing_hold_up_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtual_times, "READ_AGAIN", 0)
    monkeypatch.setattr(virtual_times, "STAYS_BEHIND", 0)
    # Its clock stands still: how far the node has come is stored once.
    async with open_two("PostgreSQL", clock=SettableClock()) as (one, other):
        await deploy(one.api)
        large = await fan_out(one.api, 20)
        counted = Counter[str]()
        await fan_out(other.api, 1)
        for _ in range(12):
            for _ in range(2):
                await fan_out(other.api, 1)
            counted += await runs_of_claim(one.api, 2)
        assert counted[large] >= 4


async def test_states_that_come_due_keep_the_weight_of_their_run() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await deploy(manager.api)
        heavy = await fan_out(manager.api, 40, weight=3)
        states = await claim(manager.api, {B: 40}, limit=40)
        requeued = [item_for(state, outcome="requeued", delay_ms=1_000) for state in states]
        assert await report(manager.api, *requeued) == ["ok"] * 40
        other = await fan_out(manager.api, 20)
        clock.advance(1_001)
        assert await runs_of_claim(manager.api, 20) == {heavy: 15, other: 5}


async def test_runs_of_one_fairness_key_that_come_due_together_share_as_one() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await deploy(manager.api)
        runs = [await fan_out(manager.api, 1, fair_key="customer") for _ in range(20)]
        states = await claim(manager.api, {B: 20}, limit=20)
        requeued = [item_for(state, outcome="requeued", delay_ms=1_000) for state in states]
        assert await report(manager.api, *requeued) == ["ok"] * 20
        other = await fan_out(manager.api, 20)
        clock.advance(1_001)
        counted = await runs_of_claim(manager.api, 10)
        assert (counted[other], sum(counted[run] for run in runs)) == (5, 5)


async def test_a_cancelled_run_gives_its_fairness_key_no_second_share() -> None:
    async with open_manager() as manager:
        await deploy(manager.api)
        key = {"fair_key": "customer"}
        runs = [await fan_out(manager.api, 20, **key), await fan_out(manager.api, 1, **key)]
        other = await fan_out(manager.api, 40)
        ok(await manager.api.native("POST", f"run/{runs[1]}/cancel"))
        runs.append(await fan_out(manager.api, 20, **key))
        assert await runs_of_claim(manager.api, 20) == {runs[0]: 10, other: 10}


async def test_a_run_that_gets_another_priority_takes_its_part_of_its_fairness_key_along() -> None:
    key = {"fair_key": "customer"}
    async with open_manager() as manager:
        await deploy(manager.api)
        moved = await fan_out(manager.api, 20, **key)
        ok(await manager.api.native("POST", f"run/{moved}/priority", json={"priority": "low"}))
        runs = [await fan_out(manager.api, 10), await fan_out(manager.api, 10, **key)]
        assert await runs_of_claim(manager.api, 10) == dict.fromkeys(runs, 5)
        low = {"priority": "low"}
        other = await fan_out(manager.api, 40, **low)
        await fan_out(manager.api, 20, **key, **low)
        assert (await runs_of_claim(manager.api, 30))[other] == 10


async def test_storing_how_far_a_node_has_come_waits_for_no_fairness_key() -> None:
    clock = SettableClock()
    with postgres.database() as database:
        async with open_manager(database.url, clock=clock) as manager:
            await deploy(manager.api)
            for key in ("locked", "idle"):
                await fan_out(manager.api, 1, fair_key=key)
            states = await claim(manager.api, {B: 2})
            with psycopg.connect(database.url) as other:
                other.execute("UPDATE turns SET turn = turn WHERE fair_key = 'locked'")
                clock.advance(1_000)
                await report(
                    manager.api, *(item_for(state, outcome="errored", error="no") for state in states)
                )

                async def deleted() -> None:
                    keys = database.execute("SELECT fair_key FROM turns WHERE fair_key <> '' ORDER BY 1")
                    assert keys == [("locked",)]

                await eventually(deleted)


async def test_due_states_of_a_paused_node_hide_no_others(engine: str) -> None:
    clock = SettableClock()
    async with opened(engine, clock) as manager:
        await Flow.deploy(manager.api, place("a"), graph="paused")
        await Flow.deploy(manager.api, place("b"), graph="other")
        for graph, runs in (("paused", 8), ("other", 1)):
            for _ in range(runs):
                ok(await manager.api.native_trigger(graph, str(uuid4()), start_delay=1_000))
        ok(await manager.api.native("POST", f"node/{A}/pause"))
        clock.advance(1_001)
        assert await claim(manager.api, {A: 20}, limit=20) == []
        (state,) = await claim(manager.api, {A: 4, B: 4}, limit=4)
        assert state["node_name"] == B
