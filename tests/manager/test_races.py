"""Two state managers that do at the same moment what only one of them may do, or one after the other.

One is held up when it has read and not yet written. Without the locks and the conditions of the use cases
these end with wrong counters, states that run twice, or refusals without a reason.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from uuid import uuid4

import httpx
import pytest

from exotrio.graph import pinned_name
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.retention import drop_templates
from exotrio.manager.engine.schedules import fire_schedules
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.contract.flow import OK, Flow
from tests.contract.native import A, claim, claim_one, executed_item, item_for, report
from tests.support.due import clear, discard
from tests.support.helpers import NO_RETRY, SettableClock, declare, node_name, ok, place
from tests.support.manager import Manager, open_manager
from tests.support.races import (
    Call,
    Pair,
    cancelling,
    check_sound,
    in_both_orders,
    open_pair,
    race,
    reporting,
)

HOURLY = [{"type": "CRON", "value": {"expression": "0 * * * *"}}]
RUN_ID = "f2b3d9a0-9f6e-4d43-8c59-3a6c2a1b7e10"


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def pair(clock: SettableClock) -> AsyncIterator[Pair]:
    """Two state managers, whose database has to be sound in the end."""
    async with open_pair(clock=clock) as opened:
        yield opened
        await check_sound(opened)


@pytest.fixture
def api(pair: Pair) -> Api:
    """The second of the two, which is never held up, as a client in another process sees it."""
    return pair.second.remote


async def fire(manager: Manager) -> list[str]:
    lines: list[str] = await manager.service.store.write(fire_schedules)
    return lines


def beating(*items: dict[str, Any]) -> Call:
    async def beat(manager: Manager) -> list[str]:
        answer = ok(await manager.remote.heartbeat("w", phase="running", states=list(items)))
        return [item["result"] for item in answer["items"]]

    return beat


async def expire_all(manager: Manager) -> int:
    lost: int = await manager.service.store.write(expire, 2**60, Terms())
    return lost


@in_both_orders
async def test_a_run_is_cancelled_while_an_outcome_arrives(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await claim_one(api)
    results, cancelled = await race(pair, swapped, reporting(executed_item(state)), cancelling(flow))
    ok(cancelled)
    shown = await flow.run_summary()
    assert shown["status"] == "FAILED"
    assert await flow.take("b", 0) == []
    assert results in (["ok"], ["stale"])


@in_both_orders
async def test_a_lease_expires_while_the_outcome_arrives(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await claim_one(api)
    results, lost = await race(pair, swapped, reporting(executed_item(state)), expire_all)
    # A token is valid until another runtime claims the state, so the outcome counts in both orders.
    assert results == ["ok"]
    assert lost in (0, 1)
    assert await claim(api) == []
    assert len(await flow.take("b")) == 1


@in_both_orders
async def test_a_lease_that_ended_is_renewed_while_the_state_is_claimed_again(
    pair: Pair, api: Api, swapped: bool
) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert await expire_all(pair.second) == 1
    results_of, claimed = await race(
        pair, swapped, beating(item_for(state, running=True)), lambda manager: claim(manager.remote)
    )
    # One of them holds it, and knows that; the other one knows that it does not.
    assert (results_of, len(claimed)) in ((["ok"], 0), (["lost"], 1))
    assert await report(api, executed_item(state)) == (["ok"] if results_of == ["ok"] else ["stale"])


@in_both_orders
async def test_a_lease_is_renewed_while_it_expires(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    results_of, lost = await race(pair, swapped, beating(item_for(state, running=True)), expire_all)
    assert (results_of, lost) == (["ok"], 1)
    # It is claimable unless the heartbeat came last, and held then.
    assert await flow.statuses() == {("a", "QUEUED" if swapped else "CREATED"): 1}


@in_both_orders
async def test_a_heartbeat_and_the_outcome_of_a_state_arrive_together(
    pair: Pair, api: Api, swapped: bool
) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    results_of, results = await race(
        pair, swapped, beating(item_for(state, running=True)), reporting(executed_item(state))
    )
    assert (results_of, results) == (["lost"] if swapped else ["ok"], ["ok"])
    assert await flow.statuses() == {("a", "SUCCESS"): 1}


@in_both_orders
async def test_a_run_is_cancelled_while_a_heartbeat_of_its_state_arrives(
    pair: Pair, api: Api, swapped: bool
) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    beat = beating(item_for(state, running=True))
    results_of, cancelled = await race(pair, swapped, beat, cancelling(flow))
    ok(cancelled)
    assert results_of == ["ok"], "a cancellation that has not written yet has locked no state"
    assert await beat(pair.first) == ["cancelled"]
    assert await flow.statuses() == {("a", "ERRORED"): 1}


async def test_heartbeats_of_the_same_states_in_opposite_orders_are_no_deadlock(pair: Pair, api: Api) -> None:
    await Flow.start(api, place("a"), runs=2)
    items = [item_for(state, running=True) for state in await claim(api, {A: 2}, limit=2)]
    before = len(pair.database.server.log)
    answers = await pair.race(beating(*items), beating(*reversed(items)))
    assert answers == (["ok", "ok"], ["ok", "ok"])
    assert "deadlock detected" not in pair.database.server.log[before:]


async def test_one_outcome_at_two_state_managers_creates_what_follows_once(pair: Pair, api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    item = executed_item(await claim_one(api))
    answers = await pair.race(reporting(item), reporting(item))
    assert sorted(map(str, answers)) == ["['duplicate']", "['ok']"]
    assert len(await flow.states("b")) == 1


async def test_the_last_two_of_a_group_at_two_state_managers_unite_once(pair: Pair, api: Api) -> None:
    places = (place("t", "a"), place("a", "b"), place("b", "u"), place("u", unites="t"))
    flow = await Flow.start(api, *places)
    await flow.run("t")
    await flow.run("a", OK, OK)
    one, other = await claim(api, {node_name("b"): 2})
    answers = await pair.race(reporting(executed_item(one)), reporting(executed_item(other)))
    assert answers == (["ok"], ["ok"])
    assert len(await flow.states("u")) == 1
    await flow.run("u")
    assert (await flow.run_summary())["status"] == "SUCCESS"


@in_both_orders
async def test_a_run_is_cancelled_while_its_states_are_claimed(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a"))
    _, cancelled = await race(pair, swapped, lambda manager: claim(manager.remote), cancelling(flow))
    ok(cancelled)
    assert await flow.statuses() == {("a", "ERRORED"): 1}
    assert await claim(api) == []


@in_both_orders
async def test_a_run_begins_while_its_graph_gets_another_version(pair: Pair, api: Api, swapped: bool) -> None:
    async def trigger(manager: Manager) -> httpx.Response:
        return await manager.remote.trigger("graph")

    async def replace_and_drop(manager: Manager) -> None:
        body = manager.remote.body([place("a", inputs={"p": "second"})])
        ok(await manager.remote.put_graph("graph", body), 201)
        await manager.service.store.write(drop_templates)

    flow = await Flow.deploy(api, place("a", inputs={"p": "first"}))
    triggered, _ = await race(pair, swapped, trigger, replace_and_drop)
    flow.run_id = ok(triggered)["run_id"]
    await pair.second.service.store.write(drop_templates)
    (state,) = await claim(api)
    assert state["inputs"]["p"] in ("first", "second")
    assert await report(api, executed_item(state)) == ["ok"]
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def pinned_run(api: Api, *versions: str) -> Flow:
    """Start a run of the first version of a graph with the places a and b, and register the others."""
    places = [place("a", "b"), place("b")]
    for version in versions:
        ok(
            await api.register(
                [declare(pinned_name(each["node_name"], version), [], ["v", "w"]) for each in places]
            )
        )
    body = api.body(places, version=versions[0], retry_policy=NO_RETRY)
    flow = await Flow.put(api, "graph", body)
    await flow.trigger()
    return flow


async def repin(api: Api, run_id: str) -> httpx.Response:
    return await api.native("POST", f"run/{run_id}/repin", json={"version": "2"})


@in_both_orders
async def test_a_template_is_not_deleted_while_a_run_moves_to_it(
    pair: Pair, api: Api, clock: SettableClock, swapped: bool
) -> None:
    flow = await pinned_run(api, "1", "2")
    first = flow.run_id
    ok(await repin(api, first))
    ok(await api.native("POST", f"run/{first}/cancel"))
    await flow.trigger()
    clock.advance(1_000)

    async def move(manager: Manager) -> httpx.Response:
        return await repin(manager.remote, flow.run_id)

    async def delete(manager: Manager) -> None:
        for step in (partial(discard, keep_ms=0), clear, drop_templates):
            await manager.service.store.write(step)

    moved, _ = await race(pair, swapped, move, delete)
    ok(moved)
    await delete(pair.second)  # what the other one was too early for
    # These two may remember the template.
    async with open_manager(pair.database.url) as third:
        (state,) = await claim(third.remote, {pinned_name(A, "2"): 1})
        assert await report(third.remote, executed_item(state)) == ["ok"]


@in_both_orders
async def test_what_follows_while_a_run_moves_is_claimed_by_the_new_version(
    pair: Pair, api: Api, swapped: bool
) -> None:
    flow = await pinned_run(api, "1", "2")
    (state,) = await claim(api, {pinned_name(A, "1"): 1})

    async def move(manager: Manager) -> httpx.Response:
        return await repin(manager.remote, flow.run_id)

    async def end(manager: Manager) -> list[str]:
        return await report(manager.remote, executed_item(state, *[OK] * 3))

    moved, ended = await race(pair, swapped, move, end)
    ok(moved)
    assert ended == ["ok"]
    node = node_name("b")
    assert await claim(api, {pinned_name(node, "1"): 9}) == []
    assert len(await claim(api, {pinned_name(node, "2"): 9})) == 3


@in_both_orders
async def test_a_state_is_claimed_while_its_run_moves(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await pinned_run(api, "1", "2")

    async def move(manager: Manager) -> httpx.Response:
        return await repin(manager.remote, flow.run_id)

    async def take(manager: Manager) -> list[dict[str, Any]]:
        return await claim(manager.remote, {pinned_name(A, "1"): 9})

    moved, taken = await race(pair, swapped, move, take)
    ok(moved)
    taken += await claim(api, {pinned_name(A, "2"): 9})
    assert len(taken) == 1
    assert await report(api, executed_item(taken[0])) == ["ok"]
    assert len(await claim(api, {pinned_name(node_name("b"), "2"): 9})) == 1


async def test_an_occurrence_of_a_schedule_triggers_once(pair: Pair, api: Api, clock: SettableClock) -> None:
    await Flow.deploy(api, place("a"), triggers=HOURLY)
    clock.advance(3_600_000)
    one, other = await pair.race(fire, fire)
    assert len(one + other) == 1
    assert ok(await api.runs())["total"] == 1


@in_both_orders
async def test_triggers_are_cancelled_while_one_is_due(
    pair: Pair, api: Api, clock: SettableClock, swapped: bool
) -> None:
    async def cancel(manager: Manager) -> httpx.Response:
        return await manager.remote.cancel_triggers("graph")

    await Flow.deploy(api, place("a"), triggers=HOURLY)
    clock.advance(3_600_000)
    lines, cancelled = await race(pair, swapped, fire, cancel)
    assert ok(cancelled)["cancelled_count"] == 1
    assert len(lines) == (not swapped) == ok(await api.runs())["total"]
    clock.advance(3_600_000)
    assert await fire(pair.first) == []


async def test_a_schedule_that_is_changed_while_it_is_due_is_read_after_that(
    pair: Pair, api: Api, clock: SettableClock
) -> None:
    """What is read before would have to be read again each time, while others change schedules."""
    attempts = []

    def fire_noted(tx: Transaction) -> Any:
        attempts.append(tx)
        return fire_schedules(tx)

    await Flow.deploy(api, place("a"), triggers=HOURLY)
    clock.advance(3_600_000)
    cancelled, lines = await pair.race(
        lambda manager: manager.remote.cancel_triggers("graph"),
        lambda manager: manager.service.store.write(fire_noted),
    )
    assert ok(cancelled)["cancelled_count"] == 1
    assert lines == []
    assert len(attempts) == 1


async def test_a_schedule_is_paused_while_it_is_due_behind_another(
    pair: Pair, api: Api, clock: SettableClock
) -> None:
    async def pause(manager: Manager) -> int:
        ok(await manager.remote.native("POST", "graph/second/pause"))
        total: int = ok(await manager.remote.runs())["total"]
        return total

    for name in ("first", "second"):
        await Flow.deploy(api, place("a"), graph=name, triggers=HOURLY)
    clock.advance(3_600_000)
    _, total = await pair.race(fire, pause)
    assert ok(await api.runs())["total"] == total, "it started a run once it was paused"


def deleting(name: str) -> Call:
    return lambda manager: manager.remote.delete_graph(name)


@in_both_orders
async def test_a_run_begins_while_its_graph_is_deleted(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a"))
    await flow.run("a")
    triggered, deleted = await race(
        pair, swapped, lambda manager: manager.remote.trigger("graph"), deleting("graph")
    )
    assert (triggered.status_code, deleted.status_code) == ((404, 200) if swapped else (200, 409))
    kept = ok(await api.runs())["total"]
    assert kept == (0 if swapped else 2), "a deletion that is refused deletes nothing"
    assert len(await claim(api)) == (not swapped)


@in_both_orders
async def test_a_run_is_retried_while_its_graph_is_deleted(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    await flow.fail("a", times=1)
    retried, deleted = await race(
        pair, swapped, lambda manager: manager.remote.retry_run(flow.run_id), deleting("graph")
    )
    assert (retried.status_code, deleted.status_code) == ((404, 200) if swapped else (200, 409))
    assert len(await claim(api)) == (not swapped)


@in_both_orders
async def test_a_trigger_is_due_while_its_graph_is_deleted(
    pair: Pair, api: Api, clock: SettableClock, swapped: bool
) -> None:
    await Flow.deploy(api, place("a"), triggers=HOURLY)
    clock.advance(3_600_000)
    lines, deleted = await race(pair, swapped, fire, deleting("graph"))
    assert (len(lines), deleted.status_code) == ((0, 200) if swapped else (1, 409))
    assert len(await claim(api)) == (not swapped)


@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_one_node_is_registered_at_two_state_managers(pair: Pair, api: Api, known: bool) -> None:
    async def register(manager: Manager) -> httpx.Response:
        return await manager.remote.register([declare("Node_a", inputs=("p", "q"))])

    if known:
        ok(await api.register([declare("Node_a", inputs=("p",))]))
    for answer in await pair.race(register, register):
        ok(answer)
    (node,) = ok(await api.nodes())["nodes"]
    assert set(node["inputs_schema"]["properties"]) == {"p", "q"}


async def test_one_graph_is_put_at_two_state_managers(pair: Pair, api: Api) -> None:
    async def put(manager: Manager) -> httpx.Response:
        body = manager.remote.body([place("a")], secrets={"token": "s3cret"})
        return await manager.remote.put_graph("graph", body)

    await api.register_for([place("a")], secrets=("token",))
    for answer in await pair.race(put, put):
        ok(answer, 201)
    flow = Flow(api, "graph")
    await flow.trigger()
    await flow.run("a")


async def test_one_run_id_begins_one_run(pair: Pair, api: Api) -> None:
    async def trigger(manager: Manager) -> httpx.Response:
        return await manager.remote.native_trigger("graph", RUN_ID)

    flow = await Flow.deploy(api, place("a"))
    for answer in await pair.race(trigger, trigger):
        assert ok(answer)["run_id"] == RUN_ID
    flow.run_id = RUN_ID
    assert await flow.statuses() == {("a", "CREATED"): 1}


async def test_one_key_begins_one_run(pair: Pair, api: Api) -> None:
    async def trigger(manager: Manager) -> httpx.Response:
        return await manager.remote.v0("POST", "graph/graph/trigger", json={"key": "order-17"})

    flow = await Flow.deploy(api, place("a"))
    replies = [ok(answer) for answer in await pair.race(trigger, trigger)]
    assert sorted(reply["created"] for reply in replies) == [False, True]
    (flow.run_id,) = {reply["run_id"] for reply in replies}
    assert await flow.statuses() == {("a", "CREATED"): 1}


@in_both_orders
@pytest.mark.parametrize("by", ["run_id", "key"])
async def test_two_lists_with_the_same_ids_or_keys_begin_each_run_once(
    pair: Pair, api: Api, by: str, swapped: bool
) -> None:
    named = [str(uuid4()) for _ in range(20)]

    def trigger(names: list[str]) -> Call:
        runs = [{by: name, "inputs": {"p": name}} for name in names]
        return lambda manager: manager.remote.trigger_many("graph", *runs)

    await Flow.deploy(api, place("a", inputs={"p": ""}))
    # In opposite orders, so that each could wait for the other.
    one, other = named[:15], named[:4:-1]
    answers = await race(pair, swapped, trigger(one), trigger(other))
    ids: dict[str, str] = {}
    for answer, names in zip(answers, (one, other), strict=True):
        for name, run_id in zip(names, ok(answer)["run_ids"], strict=True):
            assert ids.setdefault(name, run_id) == run_id
    assert by == "key" or ids == {name: name for name in named}
    states = await claim(api, {A: 100}, limit=100)
    assert sorted((state["inputs"]["p"], state["run_id"]) for state in states) == sorted(ids.items())


async def join_of_two_failed(api: Api) -> tuple[Flow, list[str]]:
    """Return a run whose join, a, waits to run without its two branches, and these, which failed."""
    flow = await Flow.start(
        api,
        place("t", "f"),
        place("f", "b"),
        place("b", "a"),
        place("a", "z", unites="t", strategy="ALL_DONE", inputs={"p": "${{b.outputs.v}}"}),
        place("z"),
        retry_policy=NO_RETRY,
    )
    await flow.run("t")
    await flow.run("f", OK, OK)
    branches = [state["state_id"] for state in await flow.take("b", 2)]
    for branch in branches:
        ok(await api.errored(branch))
    return flow, branches


def retrying(state_id: str) -> Call:
    return lambda manager: manager.remote.manual_retry(state_id)


async def check_join(flow: Flow, branches: int) -> None:
    """Check that the join runs once more, with what that many retried branches return."""
    assert await flow.take("z", 0) == []
    for state in await flow.take("b", branches):
        assert await claim(flow.api) == []
        ok(await flow.api.executed(state["state_id"], {"v": "b"}))
    values = ",".join(['"b"'] * branches)
    assert (await claim_one(flow.api))["inputs"] == {"p": f"[{values}]"}


@in_both_orders
async def test_a_branch_is_retried_while_the_outcome_of_its_join_arrives(
    pair: Pair, api: Api, swapped: bool
) -> None:
    flow, (failed, _) = await join_of_two_failed(api)
    state = await claim_one(api)
    results, retried = await race(pair, swapped, reporting(executed_item(state)), retrying(failed))
    ok(retried)
    assert results in (["ok"], ["stale"])
    await check_join(flow, 1)


@in_both_orders
async def test_a_branch_is_retried_while_its_join_is_claimed(pair: Pair, api: Api, swapped: bool) -> None:
    flow, (failed, _) = await join_of_two_failed(api)
    claimed, retried = await race(pair, swapped, lambda manager: claim(manager.remote), retrying(failed))
    ok(retried)
    assert [await report(api, executed_item(state)) for state in claimed] in ([], [["stale"]])
    await check_join(flow, 1)


async def test_two_branches_of_a_join_are_retried_at_once(pair: Pair, api: Api) -> None:
    flow, branches = await join_of_two_failed(api)
    for answer in await pair.race(*map(retrying, branches)):
        ok(answer)
    await check_join(flow, 2)


async def test_one_manual_retry_requested_at_two_state_managers_is_one_attempt(pair: Pair, api: Api) -> None:
    async def retry(manager: Manager) -> httpx.Response:
        return await manager.remote.manual_retry(state_id, "the-same-request")

    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    state_id = await flow.fail("a", times=1)
    answers = await pair.race(retry, retry)
    assert 200 in {answer.status_code for answer in answers}
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert await flow.statuses() == {("a", "RETRY_CREATED"): 1, ("a", "CREATED"): 1}
