"""Runs with many states that get another priority: their states are moved in portions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from exotrio.graph import pinned_name
from exotrio.manager.engine import moves
from exotrio.manager.engine.due_work import Step, due_work
from tests.contract.flow import Flow
from tests.contract.native import B, claim, executed_item, item_for, report
from tests.contract.sharing import fan_out, runs_of_claim
from tests.support.due import handle_due, unfinished
from tests.support.helpers import NO_RETRY, declare, eventually, ok, place
from tests.support.manager import Manager, both_engines, open_manager, open_two, recount

Two = tuple[Manager, Manager]


@pytest.fixture
async def two(engine: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    """Two state managers that move 10 states at once, and no more of them by themselves."""
    monkeypatch.setattr(moves, "PORTION", 10)
    monkeypatch.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
    b = place("b", inputs={"x": "${{ f.outputs.v }}"})
    async with open_two(engine) as both:
        await Flow.deploy(both[0].api, place("f", "b"), b, retry_policy=NO_RETRY)
        yield both


async def prioritize(manager: Manager, run_id: str, priority: str) -> int:
    """Change the priority of a run; return how many states follow."""
    shown = ok(await manager.api.native("POST", f"run/{run_id}/priority", json={"priority": priority}))
    assert shown["priority"] == priority
    return int(shown["to_move"])


async def move(manager: Manager) -> int:
    """Move all that is to be moved; return in how many transactions."""
    portions = 0
    while await handle_due(manager.service, Step.GO_ON):
        portions += 1
        assert portions < 100
    return portions


async def counts(manager: Manager, run_id: str) -> dict[str, int]:
    """Return how many states of b a run has by status; the stored numbers are right."""
    await manager.service.store.write(recount)
    nodes = ok(await manager.api.native_run(run_id))["nodes"]
    return next(node["counts"] for node in nodes if node["identifier"] == "b")


@both_engines
async def test_the_states_of_a_large_run_follow_its_priority_in_portions(two: Two) -> None:
    one, other = two
    large, small = await fan_out(one.api, 35), await fan_out(one.api, 10)
    assert await prioritize(one, large, "low") == 25
    assert await counts(one, large) == {"CREATED": 35}
    # Until it is their turn to move, the others are claimed as before.
    assert await runs_of_claim(one.api, 10) == {small: 10}
    held = await claim(one.api, {B: 2}, limit=2)
    assert [state["inputs"]["x"] for state in held] == ["10", "11"]
    assert await handle_due(one.service, Step.GO_ON) == 1
    assert await move(other) == 2
    assert not await other.service.store.read(due_work)
    assert await counts(other, large) == {"CREATED": 33, "QUEUED": 2}
    await one.api.release(states=[item_for(state) for state in held])
    late = await fan_out(one.api, 5)
    assert await runs_of_claim(one.api, 5) == {late: 5}
    states = await claim(one.api, {B: 50}, limit=50)
    assert [int(state["inputs"]["x"]) for state in states] == [*range(35)]


@both_engines
async def test_states_that_two_state_managers_move_while_they_are_claimed_run_once(two: Two) -> None:
    run_id = await fan_out(two[0].api, 100)
    assert await prioritize(two[0], run_id, "high") == 90
    reported: list[str] = []

    async def work(manager: Manager) -> None:
        while states := await claim(manager.api, {B: 7}, limit=7):
            assert await report(manager.api, *map(executed_item, states)) == ["ok"] * len(states)
            reported.extend(state["state_id"] for state in states)

    async with trio.open_nursery() as nursery:
        for manager in two:
            nursery.start_soon(work, manager)
            nursery.start_soon(move, manager)
    while len(reported) < 100:
        await work(two[0])
    assert len(set(reported)) == len(reported)
    assert await counts(two[1], run_id) == {"SUCCESS": 100}


@pytest.mark.parametrize("last", ["high", "normal", "low"])
async def test_a_priority_that_changes_while_states_move_holds_for_all(two: Two, last: str) -> None:
    one, other = two
    run_id = await fan_out(one.api, 30)
    await prioritize(one, run_id, "high")
    await handle_due(one.service, Step.GO_ON)
    assert await prioritize(other, run_id, "low") == 20
    await handle_due(one.service, Step.GO_ON)
    assert await prioritize(one, run_id, last) == (0 if last == "low" else 20)
    await move(other)
    others = {each: await fan_out(one.api, 10, priority=each) for each in ("high", "normal", "low")}
    same = others[last]
    before = {"high": 0, "normal": 10, "low": 20}[last]
    assert sum((await runs_of_claim(one.api, before)).values()) == before
    assert await runs_of_claim(one.api, 40) == {run_id: 30, same: 10}


@both_engines
async def test_those_of_a_fairness_key_that_move_later_keep_their_turns(two: Two) -> None:
    one, _ = two
    key = {"fair_key": "customer"}
    moved = await fan_out(one.api, 30, **key)
    assert await prioritize(one, moved, "low") == 20
    other = await fan_out(one.api, 30, priority="low")
    # Other claims go on meanwhile, and nothing moves the rest by that.
    assert await runs_of_claim(one.api, 20) == {moved: 20}
    await move(one)
    assert await runs_of_claim(one.api, 20) == {moved: 10, other: 10}


async def test_a_small_change_does_not_wait_for_the_end_of_a_large_one(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    monkeypatch.setattr(moves, "PORTION", 2)
    await prioritize(one, await fan_out(one.api, 200), "low")
    large = await one.service.store.read(unfinished)
    await prioritize(one, await fan_out(one.api, 4), "low")
    # Chosen at random, the large one is over first with a probability of 2**-99.
    while len(left := await one.service.store.read(unfinished)) == 2:
        assert await handle_due(one.service, Step.GO_ON) == 1
    assert left == large


async def test_a_run_that_ends_meanwhile_is_moved_no_further(two: Two) -> None:
    one, _ = two
    cancelled, deleted = await fan_out(one.api, 30), await fan_out(one.api, 30)
    await prioritize(one, cancelled, "low")
    ok(await one.api.native("POST", f"run/{cancelled}/cancel"))
    assert await move(one) == 0
    assert await counts(one, cancelled) == {"ERRORED": 30}
    await prioritize(one, deleted, "low")
    await report(one.api, *[executed_item(state) for state in await claim(one.api, {B: 30}, limit=30)])
    ok(await one.api.native("DELETE", "graph/graph"))
    assert await move(one) == 1
    assert not await one.service.store.read(due_work)


async def test_what_fails_before_a_change_of_priority_is_retried_among_the_first_of_the_new_one(
    two: Two,
) -> None:
    one, _ = two
    await fan_out(one.api, 40)
    await claim(one.api, {B: 40}, limit=40)
    run_id = await fan_out(one.api, 1)
    (state,) = await claim(one.api, {B: 1})
    assert await report(one.api, item_for(state, outcome="errored", error="no")) == ["ok"]
    await prioritize(one, run_id, "high")
    await fan_out(one.api, 20, priority="high")
    ok(await one.api.retry_run(run_id))
    assert (await runs_of_claim(one.api, 3))[run_id] == 1


async def test_states_that_were_to_move_before_a_crash_are_moved_by_the_next_state_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moves, "PORTION", 10)
    database = tmp_path / "work.db"
    with monkeypatch.context() as patched:
        patched.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
        async with open_manager(database) as crashed:
            await Flow.deploy(crashed.api, place("f", "b"), place("b"))
            run_id = await fan_out(crashed.api, 35)
            assert await prioritize(crashed, run_id, "low") == 25
            assert await crashed.service.store.read(due_work), "a sweep of any state manager says so"
            # As state managers of earlier versions write and read it.
            assert await crashed.service.store.read(unfinished) == ["moving 1"]
    async with open_manager(database) as following:

        async def is_moved() -> None:
            assert not await following.service.store.read(due_work)

        await eventually(is_moved)
        small = await fan_out(following.api, 5)
        assert await runs_of_claim(following.api, 5) == {small: 5}


@pytest.mark.parametrize("again", ["high", "low"])
async def test_a_run_whose_states_are_being_moved_gets_a_version_without_the_nodes_that_it_has_behind_it(
    engine: str, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    monkeypatch.setattr(moves, "PORTION", 10)
    monkeypatch.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
    async with open_two(engine) as (one, other):
        await Flow.deploy(one.api, place("f", "b"), place("b"), retry_policy=NO_RETRY)
        run_id = await fan_out(one.api, 30)
        ok(await one.api.register([declare(pinned_name(B, "2"), [], ["v", "w"])]))
        assert await prioritize(one, run_id, "low") == 20
        ok(await other.api.native("POST", f"run/{run_id}/repin", json={"version": "2"}))
        assert await prioritize(one, run_id, again) == (0 if again == "low" else 20)
        await move(one)
        assert len(await claim(other.api, {pinned_name(B, "2"): 40}, limit=40)) == 30
