"""Runs with many failed states that are retried: in portions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import trio

from exotrio._wire.vocabulary import PENDING
from exotrio.graph import pinned_name
from exotrio.manager.engine import retries
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.rules.errors import Conflict
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim, executed_item, item_for, report
from tests.support.due import handle_due, unfinished
from tests.support.helpers import NO_RETRY, declare, eventually, node_name, ok, place, refused
from tests.support.manager import Manager, both_engines, open_manager, open_two, recount

Two = tuple[Manager, Manager]
C, U = node_name("c"), node_name("u")


@pytest.fixture
async def two(engine: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    """Two state managers that retry 10 states at once, and no more of them by themselves."""
    monkeypatch.setattr(retries, "PORTION", 10)
    monkeypatch.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
    async with open_two(engine) as both:
        yield both


async def fan_out(api: Api, states: int, strategy: str = "ALL_DONE") -> str:
    """Trigger a run with so many states of b, each of which c follows, and u, which unites all; return its
    id."""
    united = place("u", unites="s", strategy=strategy)
    places = [place("s", "f"), place("f", "b"), place("b", "c", inputs={"x": "${{ f.outputs.v }}"})]
    flow = await Flow.deploy(api, *places, place("c", "u"), united, retry_policy=NO_RETRY)
    flow.run_id = str(uuid4())
    ok(await api.native_trigger("graph", flow.run_id))
    await flow.run("s")
    await flow.run("f", *[{"v": str(number), "w": "w"} for number in range(states)])
    return flow.run_id


async def end_claimed(
    api: Api, node: str, count: int, outcome: str = "executed", *, of: int | None = None
) -> list[str]:
    """Claim so many states of a node, which are all, or those ``of`` more, and let them end; return their
    inputs."""
    limit = count if of else count + 1
    states = await claim(api, {node: limit}, limit=limit)
    assert len(states) == count
    items = [
        executed_item(state) if outcome == "executed" else item_for(state, outcome="errored", error="no")
        for state in states
    ]
    assert await report(api, *items) == ["ok"] * count
    return [state["inputs"].get("x", "") for state in states]


async def failed(api: Api, states: int, **options: Any) -> str:
    """Return a run of which so many states of b failed, and u is due, if it does not need all."""
    run_id = await fan_out(api, states, **options)
    await end_claimed(api, B, states, "errored")
    return run_id


async def retry(manager: Manager, run_id: str, request_id: str | None = None) -> tuple[int, int]:
    """Retry a run; return how many states were retried, and how many follow."""
    reply = ok(await manager.api.retry_run(run_id, request_id))
    return len(reply["retried"]), reply["others"]


async def go_on(manager: Manager) -> int:
    """Retry all that is to be retried; return in how many transactions."""
    portions = 0
    while await handle_due(manager.service, Step.GO_ON):
        portions += 1
        await manager.service.store.write(recount)
        assert portions < 100
    return portions


async def shown(manager: Manager, run_id: str) -> tuple[str, dict[str, int]]:
    """Return the status of a run, and how many states of b it has by status; the stored numbers are right."""
    await manager.service.store.write(recount)
    run = ok(await manager.api.native_run(run_id))
    counts = {node["identifier"]: node["counts"] for node in run["nodes"]}
    # The retry holds the run as one more pending state would, and is none.
    assert run["pending_count"] == sum(each.get(s, 0) for each in counts.values() for s in PENDING)
    assert run["total_count"] == sum(sum(each.values()) for each in counts.values())
    return run["status"], counts["b"]


async def test_many_failed_states_are_retried_once_each_in_portions(two: Two) -> None:
    one, other = two
    run_id = await failed(one.api, 35)
    assert await end_claimed(one.api, U, 1) == [""]
    assert (await shown(one, run_id))[0] == "FAILED"
    request_id = str(uuid4())
    assert await retry(one, run_id, request_id) == (10, 25)
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 10, "ERRORED": 25, "RETRY_CREATED": 10})
    assert await handle_due(other.service, Step.GO_ON) == 1
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 20, "ERRORED": 15, "RETRY_CREATED": 20})
    # As often as the request is repeated, nothing more is retried by it.
    assert await retry(other, run_id, request_id) == (10, 25)
    await go_on(one)
    assert await retry(other, run_id, request_id) == (10, 25)
    assert not await one.service.store.read(due_work)
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 35, "RETRY_CREATED": 35})
    assert sorted(await end_claimed(one.api, B, 35), key=int) == [str(number) for number in range(35)]
    await end_claimed(one.api, C, 35)
    await end_claimed(one.api, U, 1)
    assert await shown(one, run_id) == ("SUCCESS", {"SUCCESS": 35, "RETRY_CREATED": 35})


@pytest.mark.parametrize("strategy", ["ALL_DONE", "ALL_SUCCESS"])
async def test_a_run_neither_ends_nor_unites_while_others_of_its_states_are_still_to_be_retried(
    two: Two, strategy: str
) -> None:
    one, other = two
    run_id = await failed(one.api, 35, strategy=strategy)
    await end_claimed(one.api, U, 1 if strategy == "ALL_DONE" else 0)
    await retry(one, run_id)
    for left in (25, 15, 5, 0):
        count = 5 if left == 0 else 10
        await end_claimed(other.api, B, count)
        await end_claimed(other.api, C, count)
        await end_claimed(one.api, U, 1 if left == 0 else 0)
        assert (await shown(one, run_id))[0] == "PENDING"
        await handle_due(one.service, Step.GO_ON)
    await go_on(one)
    assert (await shown(one, run_id))[0] == "SUCCESS"


async def test_what_fails_while_others_are_retried_is_not_retried_and_then_united(two: Two) -> None:
    one, other = two
    run_id = await fan_out(one.api, 60)
    late = await claim(one.api, {B: 60}, limit=60)
    errored = [item_for(state, outcome="errored", error="no") for state in late]
    assert await report(one.api, *errored[20:]) == ["ok"] * 40
    await trio.sleep(0.002)
    assert await retry(one, run_id) == (10, 30)
    # Those that ran then, the new attempts, and what follows one of these.
    assert await report(one.api, *errored[:20]) == ["ok"] * 20
    await end_claimed(other.api, B, 1, of=10)
    await end_claimed(other.api, C, 1, "errored")
    await end_claimed(other.api, B, 9, "errored")
    while (await shown(one, run_id))[1].get("CREATED", 0) < 30:
        assert await handle_due(one.service, Step.GO_ON) == 1
    await end_claimed(one.api, B, 30, "errored")
    await end_claimed(one.api, U, 0)
    await go_on(other)
    assert await end_claimed(one.api, B, 0) == []
    assert await shown(one, run_id) == (
        "PENDING",
        {"SUCCESS": 1, "ERRORED": 59, "RETRY_CREATED": 40},
    )
    await end_claimed(one.api, U, 1)
    assert (await shown(one, run_id))[0] == "FAILED"


async def test_a_run_that_fails_again_while_it_is_retried_ends_afterwards(two: Two) -> None:
    one, _ = two
    run_id = await failed(one.api, 12, strategy="ALL_SUCCESS")
    await retry(one, run_id)
    await end_claimed(one.api, B, 10, "errored")
    assert await handle_due(one.service, Step.GO_ON) == 1
    await end_claimed(one.api, B, 2, "errored")
    assert (await shown(one, run_id))[0] == "PENDING"
    await go_on(one)
    assert await shown(one, run_id) == ("FAILED", {"ERRORED": 12, "RETRY_CREATED": 12})


async def test_states_that_failed_by_a_clock_that_was_ahead_are_retried_too(
    two: Two,
) -> None:
    one, _ = two
    run_id = await failed(one.api, 35)

    def set_ahead(tx: Transaction) -> None:
        tx.execute("UPDATE states SET finished_at = finished_at + 60000 WHERE status = 'ERRORED'")

    await one.service.store.write(set_ahead)
    await retry(one, run_id)
    await end_claimed(one.api, B, 10, "errored")
    await go_on(one)
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 25, "ERRORED": 10, "RETRY_CREATED": 35})


@pytest.mark.parametrize("portions", [0, 1, 4])
async def test_a_run_that_is_cancelled_or_deleted_meanwhile_ends_at_once(two: Two, portions: int) -> None:
    one, other = two
    cancelled = await failed(one.api, 35)
    await retry(one, cancelled)
    for _ in range(portions):
        await handle_due(one.service, Step.GO_ON)
    await end_claimed(one.api, B, min(35, 10 + 10 * portions))
    await end_claimed(one.api, C, min(35, 10 + 10 * portions))
    ok(await other.api.native("POST", f"run/{cancelled}/cancel"))
    assert (await shown(one, cancelled))[0] == "FAILED"
    refused(await one.api.retry_run(cancelled), 409)
    assert await go_on(one) == 0
    deleted = await failed(one.api, 35)
    await retry(one, deleted)
    ok(await one.api.native("DELETE", "graph/graph?cancel_runs=true"))
    assert await go_on(one) == 0


async def test_another_retry_takes_the_place_of_the_one_that_goes_on(two: Two) -> None:
    one, other = two
    run_id = await failed(one.api, 35)
    await retry(one, run_id)
    await end_claimed(one.api, B, 10, "errored")
    assert await retry(other, run_id) == (10, 25)
    await go_on(one)
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 35, "RETRY_CREATED": 45})
    await end_claimed(one.api, B, 35, "errored")
    # A last one while groups of an earlier one are still to be checked.
    await retry(one, run_id)
    for _ in range(4):
        assert await handle_due(one.service, Step.GO_ON) == 1
    await end_claimed(one.api, B, 35, "errored")
    assert await retry(other, run_id) == (10, 25)
    await go_on(other)
    await end_claimed(one.api, B, 35)
    await end_claimed(one.api, C, 35)
    await end_claimed(one.api, U, 1)
    assert (await shown(one, run_id))[0] == "SUCCESS"


async def test_a_retry_of_few_states_while_many_are_being_retried_leaves_nothing_behind(two: Two) -> None:
    one, other = two
    run_id = await failed(one.api, 15)
    assert await retry(one, run_id) == (10, 5)
    assert await retry(other, run_id) == (5, 0)
    assert await go_on(one) == 2
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 15, "RETRY_CREATED": 15})


@both_engines
async def test_two_state_managers_retry_no_state_twice(two: Two) -> None:
    run_id = await failed(two[0].api, 95)
    await retry(two[0], run_id)
    reported: list[str] = []

    async def work(manager: Manager) -> None:
        while states := await claim(manager.api, {B: 7}, limit=7):
            assert await report(manager.api, *map(executed_item, states)) == ["ok"] * len(states)
            reported.extend(state["inputs"].get("x", "") for state in states)

    async def move(manager: Manager) -> None:
        while await handle_due(manager.service, Step.GO_ON):
            pass

    async with trio.open_nursery() as nursery:
        for manager in two:
            nursery.start_soon(work, manager)
            nursery.start_soon(move, manager)
    await work(two[0])
    assert len(reported) == 95
    assert await shown(two[1], run_id) == ("PENDING", {"SUCCESS": 95, "RETRY_CREATED": 95})


async def test_a_retry_that_cannot_go_on_ends_and_says_why(two: Two) -> None:
    one, other = two
    run_id = await failed(one.api, 35, strategy="ALL_SUCCESS")
    await retry(one, run_id)

    def refuse(*args: object, **more: object) -> None:
        raise Conflict("too many states would run again")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("exotrio.manager.engine.retries.Reruns.find", refuse)
        await go_on(other)
    assert await shown(one, run_id) == ("PENDING", {"CREATED": 10, "ERRORED": 25, "RETRY_CREATED": 10})
    rows = await other.service.store.read(
        lambda view: view.execute(
            "SELECT result, who FROM audit WHERE action = 'run.retry' ORDER BY id"
        ).fetchall()
    )
    assert tuple(rows[-1]) == ("25 states not retried: too many states would run again", "state manager")
    await end_claimed(one.api, B, 10, "errored")
    assert (await shown(one, run_id))[0] == "FAILED"


async def test_a_retry_that_a_crash_ends_is_continued_by_the_next_state_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "PORTION", 10)
    database = tmp_path / "work.db"
    with monkeypatch.context() as patched:
        patched.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
        async with open_manager(database) as crashed:
            run_id = await failed(crashed.api, 35)
            assert await retry(crashed, run_id) == (10, 25)
            assert await crashed.service.store.read(due_work), "a sweep of any state manager says so"
            # As state managers of earlier versions write and read it.
            assert await crashed.service.store.read(unfinished) == ["retry 1 1"]
    async with open_manager(database) as following:

        async def is_retried() -> None:
            assert not await following.service.store.read(due_work)

        await eventually(is_retried)
        assert await shown(following, run_id) == ("PENDING", {"CREATED": 35, "RETRY_CREATED": 35})


async def test_states_are_retried_on_the_version_to_which_their_run_moves_meanwhile(two: Two) -> None:
    one, other = two
    run_id = await failed(one.api, 35)
    await retry(one, run_id)
    nodes = {pinned_name(node_name(name), "2"): name for name in "sfbcu"}
    ok(await one.api.register([declare(name, ["x"] if name == "b" else []) for name in nodes]))
    ok(await other.api.native("POST", f"run/{run_id}/repin", json={"version": "2"}))
    await go_on(one)
    assert await end_claimed(one.api, B, 0) == []
    assert len(await end_claimed(one.api, pinned_name(B, "2"), 35)) == 35


async def test_a_change_of_priority_does_not_count_the_retry_among_the_states_that_follow(two: Two) -> None:
    one, _ = two
    run_id = await failed(one.api, 35)
    await retry(one, run_id)
    changed = ok(await one.api.native("POST", f"run/{run_id}/priority", json={"priority": "low"}))
    assert changed["to_move"] == 0
