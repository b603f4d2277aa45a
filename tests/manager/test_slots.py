"""Limits: how many states are held at once, or start within a period, and which of the others come next.

What concerns two state managers is tested with two.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from exotrio._wire.limits import LimitChange
from exotrio.graph import pinned_name
from exotrio.manager.engine import lanes
from exotrio.manager.engine.lanes import MAX_LANES
from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.engine.limits import remove_limit, set_limit
from exotrio.manager.engine.slots import MAX_STOPPING_MS
from exotrio.manager.engine.starts import tidy
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, executed_item, item_for, report, waiting_claim
from tests.support.due import discard
from tests.support.helpers import NO_RETRY, SettableClock, declare, node_name, ok, place
from tests.support.manager import Manager, both_engines, open_two
from tests.support.statements import noted

LIMIT = "service"
NOW_AND_THEN = re.compile(r"nextval|^SELECT id, limits FROM nodes|FROM turns")
"""Statements that take numbers of states in blocks, or run once a second."""
OF_WHO: dict[str, Any] = {
    "store_config": {"required_keys": ["who"], "default_values": {}},
    "limits": [{"name": LIMIT, "at_most": 1}],
}


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def two(engine: str, clock: SettableClock) -> AsyncIterator[tuple[Manager, Manager]]:
    """Two state managers on one database."""
    async with open_two(engine, clock=clock) as opened:
        yield opened


@pytest.fixture
def manager(two: tuple[Manager, Manager]) -> Manager:
    return two[0]


def limited(identifier: str = "a", *next_nodes: str, key: str = "", name: str = LIMIT) -> dict[str, Any]:
    return place(identifier, *next_nodes, limits=[{"name": name, **({"key": key} if key else {})}])


async def set_to(manager: Manager, name: str = LIMIT, **values: int | None) -> None:
    await manager.service.store.write(set_limit, "tests", name, LimitChange(**values))


async def start(manager: Manager, *places: dict[str, Any], runs: int = 1, **declared: int) -> Flow:
    """Store a graph with a limit, and start runs of it."""
    return await Flow.start(
        manager.api,
        *places,
        runs=runs,
        retry_policy=NO_RETRY,
        limits=[{"name": LIMIT, **declared}],
    )


async def counted(manager: Manager, table: str, which: str = "true") -> int:
    row = await manager.service.store.read(
        lambda view: view.row(f"SELECT count(*) FROM {table} WHERE {which}")
    )
    assert row is not None
    return int(row[0])


async def test_after_a_forced_deletion_a_limit_of_that_name_applies_to_the_same_states(
    two: tuple[Manager, Manager],
) -> None:
    first, second = two
    await start(first, limited(), runs=5, at_most=1)
    (held,) = await claim(first.api)
    await first.service.store.write(remove_limit, "tests", LIMIT, force=True)
    assert ok(await first.api.native("GET", "limits")) == {"limits": []}
    (other,) = await claim(second.api, {A: 1})
    await Flow(first.api, "graph").trigger()
    await set_to(second, at_most=2)
    assert await claim(first.api) == [], "the two that run count"
    shown = ok(await first.api.native("GET", f"limit/{LIMIT}"))
    assert (shown["held"], shown["waiting"]) == (2, 4)
    assert shown["created_at"] == shown["updated_at"]
    await report(first.api, executed_item(held), executed_item(other))
    assert len(await claim(first.api)) == 2


@both_engines
async def test_a_limit_that_no_state_names_can_be_deleted_whatever_the_keys_of_others_contain(
    manager: Manager,
) -> None:
    await set_to(manager, "unused", at_most=1)
    row = await manager.service.store.read(lambda view: view.one("SELECT id FROM limits"))
    flow = await Flow.deploy(manager.api, limited(key="${{ store.who }}"), **OF_WHO)
    for key in ("[{},", "[{},x", '[["],[{},', '"],[{},"', "\\\\[{},"):
        await flow.trigger(store={"who": key.format(row["id"])})
    await manager.service.store.write(remove_limit, "tests", "unused", force=False)
    assert await counted(manager, "limits") == 1


async def test_a_new_graph_declares_limits_while_another_one_names_a_deleted_limit(manager: Manager) -> None:
    await start(manager, limited(), at_most=1)
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=True)
    declared = [{"name": "another", "at_most": 1}]
    await Flow.put(manager.api, "new", manager.api.body([limited(name="another")], limits=declared))


async def test_states_that_a_deleted_limit_kept_waiting_move_to_another_version(
    manager: Manager, clock: SettableClock
) -> None:
    api, versions = manager.api, [pinned_name(A, each) for each in ("1", "2")]
    ok(await api.register([declare(name, [], ["v", "w"]) for name in versions]))
    body = api.body([limited()], retry_policy=NO_RETRY, version="1", limits=[{"name": LIMIT, "at_most": 1}])
    await Flow.put(api, "graph", body)
    runs = [str(uuid4()) for _ in range(3)]
    for run_id in runs:
        ok(await api.native_trigger("graph", run_id))
    assert len(await claim(api, {versions[0]: 10})) == 1
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=True)
    for run_id in runs:
        ok(await api.native("POST", f"run/{run_id}/repin", json={"version": "2"}))
    clock.advance(5_000)  # until other state managers know the node
    assert len(await claim(api, {versions[1]: 10})) == 2


async def test_a_state_that_failed_is_limited_again_when_it_is_retried(manager: Manager) -> None:
    flow = await start(manager, limited(), runs=2, at_most=2)
    await report(
        manager.api, *[item_for(state, outcome="errored", error="x") for state in await claim(manager.api)]
    )
    ok(await manager.api.put_graph(flow.graph, manager.api.body([place("a")])), 201)
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=False)
    await set_to(manager, at_most=1)
    for run in ok(await manager.api.native("GET", "runs"))["runs"]:
        ok(await manager.api.native("POST", f"run/{run['run_id']}/retry", json={"request_id": str(uuid4())}))
    assert len(await claim(manager.api)) == 1


@both_engines
async def test_a_deleted_limit_leaves_nothing_once_no_run_and_no_node_has_it(
    manager: Manager, clock: SettableClock
) -> None:
    flow = await start(manager, limited(), at_most=1)
    await claim(manager.api)
    ok(await manager.api.put_graph(flow.graph, manager.api.body([place("a")])), 201)
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=False)
    assert await counted(manager, "limits") == 1, "its run names it"
    (run,) = ok(await manager.api.native("GET", "runs"))["runs"]
    ok(await manager.api.native("POST", f"run/{run['run_id']}/cancel"))
    clock.advance(1)
    assert await manager.service.store.write(discard, 0) == 1
    await set_to(manager, "another", at_most=1)
    assert await counted(manager, "limits", f"name = '{LIMIT}'") == 1, "its node has not stopped"
    clock.advance(MAX_STOPPING_MS)
    await manager.service.store.write(expire, 10**15, Terms())
    await set_to(manager, "another", at_most=2)
    assert await counted(manager, "limits", f"name = '{LIMIT}'") == 0
    assert await counted(manager, "slots", "limit_id NOT IN (SELECT id FROM limits)") == 0


@both_engines
async def test_no_more_states_are_held_than_a_limit_says(two: tuple[Manager, Manager]) -> None:
    first, second = two
    await start(first, limited(), runs=5, at_most=2)
    held = await claim(first.api)
    assert len(held) == 2
    assert await claim(second.api) == []
    assert await report(first.api, executed_item(held[0])) == ["ok"]
    assert len(await claim(second.api)) == 1
    assert await claim(first.api) == []


async def test_a_limit_also_holds_for_states_that_v0_claims(manager: Manager) -> None:
    await start(manager, limited(), runs=5, at_most=2)
    states = ok(await manager.api.claim([A], 10))["states"]
    assert len(states) == 2
    assert ok(await manager.api.claim([A], 10))["states"] == []
    ok(await manager.api.executed(states[0]["state_id"], {"v": "x", "w": "w"}))
    assert len(ok(await manager.api.claim([A], 10))["states"]) == 1


async def test_each_key_of_a_limit_has_its_own_room(manager: Manager) -> None:
    flow = await Flow.deploy(
        manager.api,
        limited(key="customer ${{store.customer}}"),
        store_config={"required_keys": ["customer"]},
        limits=[{"name": LIMIT, "at_most": 1}],
    )
    runs = {await flow.trigger(store={"customer": customer}): customer for customer in "xxyyz"}
    states = await claim(manager.api)
    assert sorted(runs[state["run_id"]] for state in states) == ["x", "y", "z"]


async def test_a_key_may_be_an_output_of_a_state_before(manager: Manager) -> None:
    await start(manager, place("a", "b"), limited("b", key="${{a.outputs.v}}"), at_most=1)
    [first] = await claim(manager.api)
    await report(manager.api, executed_item(first, {"v": "x"}, {"v": "x"}, {"v": "y"}))
    states = await claim(manager.api, {B: 10})
    assert len(states) == 2


async def test_all_limits_of_a_place_must_have_room(manager: Manager) -> None:
    both = place("a", limits=[{"name": LIMIT}, {"name": "other"}])
    flow = await Flow.deploy(
        manager.api,
        both,
        limits=[{"name": LIMIT, "at_most": 5}, {"name": "other", "at_most": 1}],
    )
    for _ in range(3):
        await flow.trigger()
    [state] = await claim(manager.api)
    assert await claim(manager.api) == []
    await report(manager.api, executed_item(state))
    [state] = await claim(manager.api)
    await set_to(manager, "other", at_most=9)
    [_] = await claim(manager.api)
    await set_to(manager, at_most=0)
    await report(manager.api, executed_item(state))
    assert await claim(manager.api) == []


@both_engines
async def test_a_claim_takes_what_is_behind_the_states_without_room(manager: Manager) -> None:
    await start(manager, limited(), runs=300, at_most=1)
    await Flow.start(manager.api, place("a"), graph="other", runs=3)
    states = await claim(manager.api, {A: 4}, limit=4)
    assert sorted(state["graph_name"] for state in states) == ["graph", "other", "other", "other"]
    assert await counted(manager, "states", "lane IS NOT NULL") == 299


@pytest.mark.parametrize("end", ["executed", "errored", "requeued", "released", "lease"])
async def test_each_end_of_a_hold_makes_room(manager: Manager, end: str) -> None:
    flow = await start(manager, limited(), runs=2, at_most=1)
    [state] = await claim(manager.remote)
    outcomes = {
        "executed": executed_item(state),
        "errored": item_for(state, outcome="errored", error="on purpose"),
        "requeued": item_for(state, outcome="requeued", delay_ms=3_600_000),
    }
    assert await claim(manager.api) == []
    if end in outcomes:
        assert await report(manager.api, outcomes[end]) == ["ok"]
    elif end == "released":
        ok(await manager.api.release(states=[item_for(state)], delay_ms=3_600_000))
    else:
        await manager.service.store.write(expire, 10**15, Terms())
    assert flow.run_id
    [after] = await claim(manager.api)
    assert end == "lease" or after["run_id"] != state["run_id"]
    assert await claim(manager.api) == []


async def test_the_end_of_a_lease_lets_the_next_state_in(manager: Manager) -> None:
    await start(manager, limited(), at_most=1)
    await Flow.start(manager.api, limited("b"), graph="other")
    [_] = await claim(manager.remote)
    assert await claim(manager.remote, {B: 1}) == []
    await manager.service.store.write(expire, 10**15, Terms())
    assert len(await claim(manager.remote, {B: 1})) == 1


async def test_a_raised_limit_lets_states_in_and_a_lowered_one_cancels_none(manager: Manager) -> None:
    await start(manager, limited(), runs=9, at_most=2)
    held = await claim(manager.api)
    await set_to(manager, at_most=5)
    held += await claim(manager.api)
    assert len(held) == 5
    await set_to(manager, at_most=1)
    assert await report(manager.api, *map(executed_item, held[:4])) == ["ok"] * 4
    assert await claim(manager.api) == []
    await report(manager.api, executed_item(held[4]))
    assert len(await claim(manager.api)) == 1


async def test_a_limit_of_0_stops_all(manager: Manager) -> None:
    await start(manager, limited(), runs=2, at_most=0)
    assert await claim(manager.api) == []
    await set_to(manager, at_most=1)
    assert len(await claim(manager.api)) == 1


async def test_states_of_a_deleted_limit_are_not_limited(manager: Manager) -> None:
    await start(manager, limited(), runs=5, at_most=1)
    assert len(await claim(manager.api)) == 1
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=True)
    assert len(await claim(manager.api)) == 4


async def test_no_more_states_start_in_any_period_than_a_rate_says(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager, limited(), runs=40, starts=4, period_ms=60_000)
    starts: list[int] = []
    while clock.now_ms < SettableClock().now_ms + 200_000:
        for state in await claim(manager.api, {A: 3}, limit=3):
            starts.append(clock.now_ms)
            await report(manager.api, executed_item(state))
        clock.advance(1_700)
    assert max(sum(at <= other < at + 60_000 for other in starts) for at in starts) == 4
    assert len(starts) >= 13  # three periods and a bit, less a sixtieth of each


async def test_a_start_counts_for_the_whole_period(manager: Manager, clock: SettableClock) -> None:
    clock.advance(999 - clock.now_ms % 1_000)  # the last moment of a part
    await start(manager, limited(), runs=2, starts=1, period_ms=60_000)
    assert len(await claim(manager.api)) == 1
    clock.advance(59_999)
    await start_more(manager, 1)
    assert await claim(manager.api) == []
    clock.advance(1_002)
    assert len(await claim(manager.api)) == 1


async def test_states_that_wait_for_a_rate_are_let_in_when_the_starts_count_no_more(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager, limited(), runs=2, starts=1, period_ms=60_000)
    assert len(await claim(manager.api)) == 1  # and puts the other aside
    clock.advance(61_001)
    assert len(await claim(manager.api)) == 1


@pytest.mark.parametrize("at_once", [1, 9])
async def test_states_behind_those_that_a_rate_let_in_follow_period_by_period(
    manager: Manager, clock: SettableClock, at_once: int
) -> None:
    await start(manager, limited(), runs=7, starts=2, period_ms=60_000)
    started = []
    for _ in range(4):
        started.append(0)
        while states := await claim(manager.api, {A: at_once}, limit=at_once):
            started[-1] += len(states)
        clock.advance(61_001)
    assert started == [2, 2, 2, 1]


@both_engines
async def test_a_release_gives_its_start_back_but_the_end_of_a_lease_does_not(
    manager: Manager, clock: SettableClock
) -> None:
    await start(manager, limited(), runs=3, starts=1, period_ms=3_600_000)
    clock.advance(1)
    [state] = await claim(manager.remote)
    assert await claim(manager.remote) == []
    ok(await manager.api.release(states=[item_for(state)]))
    [state] = await claim(manager.remote)
    ok(await manager.api.release(states=[{**item_for(state), "handed_over": True}]))
    assert await claim(manager.remote) == []
    await set_to(manager, starts=2)
    [state] = await claim(manager.remote)
    await manager.service.store.write(expire, 10**15, Terms())
    assert await claim(manager.remote) == []


async def test_a_release_gives_back_no_start_that_was_not_counted(manager: Manager) -> None:
    await start(manager, limited(), runs=3, at_most=9)
    [first] = await claim(manager.remote, limit=1)
    await set_to(manager, starts=1, period_ms=3_600_000)
    [_] = await claim(manager.remote)
    ok(await manager.api.release(states=[item_for(first)]))
    assert await claim(manager.remote) == []


@both_engines
async def test_a_lease_is_regained_only_if_its_slot_is_free(manager: Manager) -> None:
    await start(manager, limited(), at_most=1)
    await Flow.start(manager.api, limited("b"), graph="other")
    [late] = await claim(manager.remote)

    async def beat() -> bool:
        """Send a heartbeat, and return whether the lease holds after it."""
        reply = ok(await manager.api.heartbeat(states=[item_for(late)]))
        assert [item["result"] for item in reply["items"]] == ["ok"]
        return await counted(manager, "states", "status = 'QUEUED' AND token IS NOT NULL") == 1

    await manager.service.store.write(expire, 10**15, Terms())
    assert await beat()
    await manager.service.store.write(expire, 10**15, Terms())
    other = ok(await manager.api.claim([B], 1))["states"][0]
    assert not await beat()
    ok(await manager.api.executed(other["state_id"], {"v": "x", "w": "w"}))
    assert await beat()
    ok(await manager.api.trigger("other"))
    assert await claim(manager.api, {B: 1}) == []
    assert await report(manager.remote, executed_item(late)) == ["ok"]


@both_engines
async def test_a_lease_that_is_not_regained_keeps_no_heartbeat_from_renewing_others(manager: Manager) -> None:
    await start(manager, limited(), at_most=1)
    await Flow.start(manager.api, limited("b"), graph="other")
    [late] = await claim(manager.remote)
    await manager.service.store.write(expire, 10**15, Terms())
    [other] = await claim(manager.remote, {B: 1})
    begun = item_for(late, running=True, buffered_ms=1)
    ok(await manager.api.heartbeat(states=[begun, item_for(other)]))
    assert await counted(manager, "states", "status = 'QUEUED' AND begun_at IS NOT NULL") == 0
    assert await report(manager.remote, executed_item(other)) == ["ok"]
    ok(await manager.api.heartbeat(states=[begun]))
    assert await counted(manager, "states", "status = 'QUEUED' AND begun_at IS NOT NULL") == 1
    assert await report(manager.remote, executed_item(late)) == ["ok"]


async def test_a_regained_lease_leaves_the_room_of_a_state_that_ended_with_it(manager: Manager) -> None:
    await start(manager, limited(), runs=3, at_most=2)
    [_] = await claim(manager.remote, limit=1)
    [late] = await claim(manager.remote, limit=1, announces=True)
    assert await claim(manager.remote) == []
    # The first one has begun, and so ends as poison.
    await manager.service.store.write(expire, 10**15, Terms(poison_limit=1))
    assert await counted(manager, "states", "status = 'ERRORED'") == 1
    ok(await manager.api.heartbeat(states=[item_for(late)]))
    assert await counted(manager, "states", "status = 'QUEUED'") == 1
    assert len(await claim(manager.api)) == 1


async def start_more(manager: Manager, runs: int) -> list[str]:
    return [ok(await manager.api.trigger("graph"))["run_id"] for _ in range(runs)]


async def test_retries_keep_the_limits_of_the_first_attempt(manager: Manager) -> None:
    flow = await start(manager, limited(), runs=1, at_most=1)
    [state] = await claim(manager.api)
    await report(manager.api, item_for(state, outcome="errored", error="on purpose"))
    ok(await manager.api.retry_run(flow.run_id))
    await start_more(manager, 1)
    assert len(await claim(manager.api)) == 1
    assert await claim(manager.api) == []


async def test_a_united_node_that_is_replaced_keeps_its_slot_until_it_has_stopped(manager: Manager) -> None:
    flow = await start(
        manager,
        place("a", "c"),
        place("c", "u"),
        {**limited("u"), "unites": {"identifier": "a", "strategy": "ALL_DONE"}},
        at_most=1,
    )
    await Flow.start(manager.api, limited("b"), graph="other")
    nodes = {node_name(each): 9 for each in "acu"}
    [state] = await claim(manager.api, nodes)
    await report(manager.api, executed_item(state))
    [state] = await claim(manager.api, nodes)
    await report(manager.api, item_for(state, outcome="errored", error="on purpose"))
    [united] = await claim(manager.api, nodes)
    assert united["identifier"] == "u"
    assert await claim(manager.api, {B: 1}) == []
    ok(await manager.api.retry_run(flow.run_id))  # the united node is replaced while a runtime has it
    assert await claim(manager.api, {B: 1}) == []
    ok(await manager.api.release(states=[item_for(united)]))  # it has stopped
    assert len(await claim(manager.api, {B: 1})) == 1


@both_engines
async def test_a_claim_for_one_run_does_not_wait_behind_states_of_others(manager: Manager) -> None:
    flow = await start(manager, limited(), runs=4, at_most=1)
    [state] = await claim(manager.api)
    assert await claim(manager.api) == []
    await report(manager.api, executed_item(state))
    [state] = await claim(manager.api, run_id=flow.run_id)
    assert state["run_id"] == flow.run_id


@both_engines
async def test_a_claim_for_one_run_finds_room_that_was_left_to_other_runs(manager: Manager) -> None:
    both = [limited("a"), limited("b")]
    flow = await start(manager, place("r", "a", "b"), *both, runs=3, at_most=1)
    for state in await claim(manager.api, {node_name("r"): 9}):
        await report(manager.api, executed_item(state))
    [state] = await claim(manager.api)
    assert await claim(manager.api, {A: 9, B: 9}) == []
    await report(manager.api, executed_item(state))
    assert await claim(manager.api, run_id=ok(await manager.api.trigger("graph"))["run_id"]) == []
    [state] = await claim(manager.api, {B: 1}, run_id=flow.run_id)
    assert state["run_id"] == flow.run_id


async def test_a_claim_for_one_run_keeps_the_room_from_no_other(manager: Manager) -> None:
    await start(manager, limited(), runs=2, at_most=1)
    [state] = await claim(manager.api, limit=1)
    assert await claim(manager.api) == []
    await report(manager.api, executed_item(state))
    assert await claim(manager.api, run_id=state["run_id"]) == []
    assert len(await claim(manager.api)) == 1


@pytest.mark.parametrize("how", ["cancelled", "reported after its lease"])
async def test_a_state_that_was_let_in_and_ends_leaves_its_room_to_the_next(
    manager: Manager, how: str
) -> None:
    flow = await start(manager, limited("b"), at_most=1)
    [late] = await claim(manager.remote, {B: 1})
    await manager.service.store.write(expire, 10**15, Terms())
    await Flow.start(manager.api, limited("a"), graph="other")
    [state] = await claim(manager.api, {A: 1})
    next_run = ok(await manager.api.trigger(flow.graph))["run_id"]
    assert await claim(manager.api, {B: 9}) == []
    await report(manager.api, executed_item(state))
    assert await claim(manager.api, {A: 1}) == []  # lets in the first one of the other node
    if how == "cancelled":
        ok(await manager.api.native("POST", f"run/{flow.run_id}/cancel"))
    else:
        assert await report(manager.remote, executed_item(late)) == ["ok"]
    [state] = await claim(manager.api, {B: 1})
    assert state["run_id"] == next_run


@both_engines
async def test_a_node_that_another_state_manager_gave_its_limit_is_let_in(
    two: tuple[Manager, Manager], clock: SettableClock
) -> None:
    first, second = two
    await start(first, limited("a"), at_most=1)
    [state] = await claim(second.api, {A: 1})
    await Flow.start(first.api, limited("b"), graph="other")
    assert await claim(first.api, {B: 1}) == []
    await report(second.api, executed_item(state))
    assert await claim(second.api, {A: 1}) == []  # as far as this one knows, no other node has the limit
    clock.advance(5_001)
    await second.service.store.write(_forget_limits)
    states = [*await claim(first.api, {B: 1}), *await claim(second.api, {B: 1})]
    assert len(states) == 1


def _forget_limits(tx: Transaction) -> None:
    """Let what a state manager knows of the limits of nodes be a second old."""
    tx.limited_nodes.forget()


async def test_a_claim_of_one_node_leaves_the_room_to_the_states_of_another(manager: Manager) -> None:
    await start(manager, limited("a"), at_most=1)
    await Flow.start(manager.api, limited("b"), graph="other", runs=2)
    [state] = await claim(manager.api, {A: 1})
    assert await claim(manager.api, {B: 9}) == []
    await report(manager.api, executed_item(state))
    assert await claim(manager.api, {A: 9}) == []
    [state] = await claim(manager.api, {B: 9})
    await report(manager.api, executed_item(state))
    assert len(await claim(manager.api, {B: 9})) == 1


@both_engines
async def test_a_report_with_a_claim_wakes_the_claims_for_room_that_it_leaves(manager: Manager) -> None:
    await start(manager, limited("a"), at_most=1)
    await Flow.start(manager.api, limited("b"), graph="other")
    [state] = await claim(manager.api, {A: 1})
    async with waiting_claim(manager.api, {B: 1}) as states:
        busy = {"worker_id": "busy", "claim_id": "c", "limits": {A: 1}, "limit": 1, "at_once": 1}
        assert ok(await manager.api.outcomes(executed_item(state), {"claim": busy}))["states"] == []
    assert len(states) == 1


async def test_a_claim_that_waits_finds_the_room_that_a_report_left_beyond_what_its_own_claim_checks(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "MAX_LANES", 1)
    flow = await Flow.deploy(
        manager.api,
        limited(key="${{store.k}}"),
        store_config={"required_keys": ["k"], "default_values": {}},
        limits=[{"name": LIMIT, "at_most": 1}],
    )
    runs = [{"run_id": str(uuid4()), "store": {"k": key}} for key in ("a", "b", "b")]
    ok(await manager.api.trigger_many(flow.graph, *runs))
    held = await claim(manager.api)
    assert len(held) == 2
    async with waiting_claim(manager.api) as states:
        busy = {"worker_id": "busy", "claim_id": "c", "limits": {A: 1}, "limit": 1, "at_once": 1}
        # It checks the lane of a, in which none waits.
        outcomes = await manager.api.outcomes(*map(executed_item, held), {"claim": busy})
        assert ok(outcomes)["states"] == []
    assert [state["run_id"] for state in states] == [runs[2]["run_id"]]


async def report_and_claim(manager: Manager, node: str, *items: dict[str, Any]) -> list[dict[str, Any]]:
    """Report, and claim states of a node with the same request; return these."""
    along = {"worker_id": "busy", "claim_id": str(uuid4()), "limits": {node: 8}, "limit": 8, "at_once": 8}
    return list(ok(await manager.api.outcomes(*items, {"claim": along}))["states"])


@both_engines
async def test_a_claim_that_comes_with_a_report_finds_the_room_that_it_makes(manager: Manager) -> None:
    flow = await start(manager, limited(), runs=6, at_most=2)
    held = await claim(manager.api)
    for _ in range(2):
        held = await report_and_claim(manager, A, *map(executed_item, held))
        assert len(held) == await counted(manager, "slots", "state > 0") == 2
    for _ in range(3):
        await flow.trigger()
    held = await report_and_claim(manager, A, *map(executed_item, held))
    assert len(held) == await counted(manager, "slots", "state > 0") == 2, (
        "those that never waited in the lane, too"
    )


@pytest.mark.parametrize("node", [B, node_name("unknown")])
async def test_a_report_whose_claim_is_of_another_node_makes_room(manager: Manager, node: str) -> None:
    await start(manager, limited(), runs=2, at_most=1)
    await Flow.deploy(manager.api, place("b"), graph="without")
    held = await claim(manager.api)
    async with waiting_claim(manager.api) as states:
        assert await report_and_claim(manager, node, *map(executed_item, held)) == []
    assert len(states) == 1


async def test_a_stuck_node_keeps_its_slot_although_a_claim_comes_with_its_outcome(
    manager: Manager,
) -> None:
    await start(manager, limited(), runs=3, at_most=2)
    stuck, other = await claim(manager.api)
    late = item_for(stuck, outcome="errored", error="timeout", retry=False, stuck=True)
    assert len(await report_and_claim(manager, A, late, executed_item(other))) == 1
    await start_more(manager, 1)
    assert await claim(manager.api) == []


@both_engines
async def test_a_request_that_reports_and_claims_states_of_a_limit_costs_five_statements_more(
    manager: Manager,
) -> None:
    async def statements(*, runs: int, at_most: int) -> list[str]:
        await start(manager, limited(), runs=runs, at_most=at_most)
        held = await claim(manager.api, {A: 8}, limit=8)
        with noted(manager.service.store) as run:
            assert len(await report_and_claim(manager, A, *map(executed_item, held))) == 8
        return [sql for sql in run if re.search(r"\b(slots|limits) ", sql) and "FROM nodes" not in sql]

    assert len(await statements(runs=16, at_most=100)) == 5


async def test_no_room_is_given_to_a_state_in_a_lane_whose_node_is_paused(manager: Manager) -> None:
    await start(manager, limited(), runs=2, at_most=1)
    [state] = await claim(manager.api)
    ok(await manager.api.native("POST", f"node/{A}/pause"))
    await report(manager.api, executed_item(state))
    assert await claim(manager.api) == []
    ok(await manager.api.native("POST", f"node/{A}/resume"))
    assert len(await claim(manager.api)) == 1


async def test_states_that_end_together_leave_a_check_for_each_of_their_limits(manager: Manager) -> None:
    for name, at_most in (("all", 3), ("first", 1), ("others", 2)):
        await set_to(manager, name, at_most=at_most)
    for graph, name, runs in (("one", "first", 1), ("two", "others", 2)):
        both = place("a", limits=[{"name": "all"}, {"name": name}])
        await Flow.start(manager.api, both, graph=graph, runs=runs)
    held = await claim(manager.api)
    for name in ("first", "others"):
        await Flow.start(manager.api, limited(name=name), graph=f"last-{name}")
    assert await claim(manager.api) == []
    assert await report(manager.api, *map(executed_item, held)) == ["ok"] * 3
    assert len(await claim(manager.api)) == 2


@both_engines
async def test_no_row_is_kept_for_keys_that_are_idle(manager: Manager, clock: SettableClock) -> None:
    flow = await Flow.deploy(
        manager.api,
        limited(key="${{store.k}}"),
        store_config={"required_keys": ["k"], "default_values": {}},
        limits=[{"name": LIMIT, "at_most": 1, "starts": 9, "period_ms": 1_000}],
    )
    clock.advance(5_001)  # so that all state managers know the limit of the node
    for number in range(20):
        await flow.trigger(store={"k": str(number)})
    states = await claim(manager.api, {A: 20})
    assert len(states) == 20
    await report(manager.api, *map(executed_item, states))
    assert await claim(manager.api) == []
    assert await counted(manager, "slots") == 0
    clock.advance(5_000)
    await manager.service.store.write(tidy)
    assert await counted(manager, "starts") == 0


async def test_a_key_that_cannot_be_built_is_an_error_like_an_input(manager: Manager) -> None:
    await start(manager, place("a", "b"), limited("b", key="${{a.outputs.v}}"), at_most=1)
    for value, why in (
        ({"w": "w"}, "gave no output 'v'"),
        ({"v": "x" * 300}, "300 characters; at most 256"),
        ({"v": ""}, "it is empty, so the state would share the limit with those that have no key"),
    ):
        await start_more(manager, 1)
        [state, *_] = await claim(manager.api, limit=1)
        await report(manager.api, executed_item(state, value))
        shown = ok(await manager.api.state("graph", state["run_id"], state["state_id"]))
        assert shown["status"] == "NEXT_CREATED_ERROR"
        assert f"the key of limit '{LIMIT}' of 'b': " in shown["error"]
        assert why in shown["error"]


async def test_a_run_whose_first_state_has_an_empty_key_is_refused(manager: Manager) -> None:
    flow = await Flow.deploy(manager.api, limited(key="${{ store.who }}"), **OF_WHO)
    reply = await manager.api.trigger(flow.graph, {}, {"who": ""})
    assert reply.status_code == 400
    assert f"the key of limit '{LIMIT}' of 'a': it is empty" in reply.text


async def test_a_united_state_with_an_empty_key_fails(manager: Manager) -> None:
    united = limited("c", key="${{ store.who }}") | {"unites": {"identifier": "a"}}
    flow = await Flow.deploy(manager.api, place("a", "b"), place("b", "c"), united, **OF_WHO)
    run = await flow.trigger(store={"who": ""})
    for node in (A, B):
        [state] = await claim(manager.api, {node: 1})
        await report(manager.api, executed_item(state, {"v": "v", "w": "w"}))
    [failed] = ok(await manager.api.states(run_id=run, status="ERRORED"))["states"]
    assert f"cannot run: the key of limit '{LIMIT}' of 'c': it is empty" in failed["error"]


@pytest.mark.parametrize(
    ("key", "why"),
    [
        ("", "it is empty: leave it out, if all states share the limit"),
        (
            "c-{{ store.who }}",
            "the key has '{{' without '$': a reference is '${{ identifier.outputs.field }}'",
        ),
    ],
)
async def test_a_graph_with_a_key_for_all_by_mistake_is_refused(manager: Manager, key: str, why: str) -> None:
    places = [place("a", limits=[{"name": LIMIT, "key": key}])]
    limits = [{"name": LIMIT, "at_most": 1}]
    reply = await manager.api.put_graph("graph", manager.api.body(places, limits=limits))
    assert reply.status_code == 422
    assert why in reply.text


async def test_the_first_that_waits_comes_first_when_there_is_room(manager: Manager) -> None:
    await start(manager, limited(), at_most=1)
    [state] = await claim(manager.api)
    runs = await start_more(manager, 3)
    assert await claim(manager.api) == []
    runs += await start_more(manager, 1)
    order = []
    for _ in runs:
        await report(manager.api, executed_item(state))
        [state] = await claim(manager.api)
        order.append(state["run_id"])
    assert order == runs


async def test_claims_cost_the_same_however_many_states_wait_for_a_limit(
    two: tuple[Manager, Manager],
) -> None:
    manager, _ = two
    await start(manager, limited(), runs=2, at_most=1)
    await Flow.start(manager.api, place("a"), graph="other", runs=2)
    [*_] = await claim(manager.api)

    async def statements() -> list[str]:
        await start_more(manager, 1)
        assert await claim(manager.api) == []
        await Flow.start(manager.api, place("a"), graph="other", runs=1)
        with noted(manager.service.store) as run:
            [state] = await claim(manager.api)
        await report(manager.api, executed_item(state))
        return [sql for sql in run if not NOW_AND_THEN.search(sql)]

    few = await statements()
    await manager.api.trigger_many("graph", *[{"run_id": str(uuid4())} for _ in range(1_500)])
    assert await claim(manager.api) == []
    assert await statements() == few


@both_engines
async def test_a_state_that_lacks_another_limit_does_not_keep_the_room_from_the_next(
    manager: Manager,
) -> None:
    both = place("a", limits=[{"name": LIMIT}, {"name": "other"}])
    await set_to(manager, LIMIT, at_most=1)
    await set_to(manager, "other", at_most=1)
    for graph, of in (
        ("first", limited()),
        ("other", limited(name="other")),
        ("both", both),
        ("last", limited()),
    ):
        await Flow.start(manager.api, of, graph=graph, retry_policy=NO_RETRY)
    first, other = await claim(manager.api)
    assert await claim(manager.api) == []
    await report(manager.api, executed_item(first))
    await Flow.start(manager.api, place("a"), graph="free", retry_policy=NO_RETRY)
    await claim(manager.api, limit=1)  # it meets the state that needs both, and looks no further than "free"
    states = [*await claim(manager.api), *await claim(manager.api)]
    held = await manager.service.store.read(
        lambda view: [
            row[0]
            for row in view.execute(
                "SELECT graphs.name FROM states JOIN runs ON runs.id = run JOIN graphs ON graphs.id = graph"
                " WHERE status = 'QUEUED' ORDER BY graphs.name"
            )
        ]
    )
    assert held == ["free", "last", "other"], states
    await report(manager.api, executed_item(other))


@both_engines
async def test_a_claim_finds_room_behind_many_states_that_also_lack_another_limit(manager: Manager) -> None:
    both = place("a", limits=[{"name": LIMIT}, {"name": "customer", "key": "${{store.k}}"}])
    flow = await Flow.deploy(
        manager.api,
        both,
        store_config={"required_keys": ["k"], "default_values": {}},
        limits=[{"name": LIMIT, "at_most": 2}, {"name": "customer", "at_most": 1}],
    )
    for customer in "12":
        await flow.trigger(store={"k": customer})
    held = await claim(manager.api)
    runs = [{"run_id": str(uuid4()), "store": {"k": "3"}} for _ in range(90)]
    ok(await manager.api.trigger_many(flow.graph, *runs))
    last = await flow.trigger(store={"k": "4"})
    assert await claim(manager.api) == []
    assert await report(manager.api, *map(executed_item, held)) == ["ok", "ok"]
    claimed = [state["run_id"] for state in await claim(manager.api)]
    assert claimed == [runs[0]["run_id"], last]


@both_engines
async def test_a_raised_limit_lets_in_states_of_all_keys(manager: Manager) -> None:
    flow = await Flow.deploy(
        manager.api,
        limited(key="${{store.k}}"),
        store_config={"required_keys": ["k"], "default_values": {}},
        limits=[{"name": LIMIT, "at_most": 0}],
    )
    runs = [{"run_id": str(uuid4()), "store": {"k": f"{number:x}"}} for number in range(MAX_LANES * 2 + 9)]
    ok(await manager.api.trigger_many(flow.graph, *runs))
    assert await claim(manager.api, {A: 500}, limit=500) == []
    await set_to(manager, at_most=1)
    claimed = 0
    for _ in range(4):
        claimed += len(await claim(manager.api, {A: 500}, limit=500))
    assert claimed == len(runs)


# On SQLite; on PostgreSQL a sweep moves the times (test_clock).
async def test_the_clock_that_is_set_back_delays_no_start(manager: Manager, clock: SettableClock) -> None:
    await start(manager, limited(), runs=3, starts=1, period_ms=60_000)
    [state] = await claim(manager.api)
    await report(manager.api, executed_item(state))
    assert await claim(manager.api) == []
    clock.advance(-7_200_000)
    assert await claim(manager.api) == []
    clock.advance(61_001)
    [state] = await claim(manager.api)
    assert await claim(manager.api) == []


@both_engines
async def test_starts_count_for_long_enough_when_the_period_becomes_shorter(
    manager: Manager, clock: SettableClock
) -> None:
    clock.advance(3_599_999 - clock.now_ms % 3_600_000)  # the last moment of a part
    await start(manager, limited(), runs=3, starts=1, period_ms=60 * 3_600_000)
    [_] = await claim(manager.api)
    await set_to(manager, period_ms=60_000)
    assert await claim(manager.api) == []
    clock.advance(59_999)
    assert await claim(manager.api) == []
    clock.advance(1_002)
    assert len(await claim(manager.api)) == 1


async def test_a_limit_that_is_made_again_holds_for_runs_of_earlier_versions(manager: Manager) -> None:
    flow = await start(manager, place("a", "b"), limited("b"), runs=3, at_most=1)
    ok(await manager.api.put_graph(flow.graph, manager.api.body([place("a", "b"), place("b")])), 201)
    await manager.service.store.write(remove_limit, "tests", LIMIT, force=False)
    await set_to(manager, at_most=1)
    await report(manager.api, *map(executed_item, await claim(manager.api)))
    for _ in range(3):
        [state] = await claim(manager.api, {B: 10})
        assert await claim(manager.api, {B: 10}) == []
        await report(manager.api, executed_item(state))


@both_engines
async def test_the_number_of_statements_does_not_grow_with_the_states_of_a_limit(manager: Manager) -> None:
    flow = await Flow.deploy(
        manager.api,
        limited(key="${{store.k}}"),
        store_config={"required_keys": ["k"], "default_values": {}},
        limits=[{"name": LIMIT, "at_most": 50, "starts": 1_000, "period_ms": 60_000}],
    )

    async def statements(count: int) -> list[list[str]]:
        runs = [{"run_id": str(uuid4()), "store": {"k": str(number % 7)}} for number in range(count)]
        found = []
        store = manager.service.store
        with noted(store) as triggered:
            ok(await manager.api.trigger_many(flow.graph, *runs))
        with noted(store) as claimed:
            states = await claim(manager.api, {A: count}, limit=count)
        assert len(states) == count
        with noted(store) as reported:
            await report(manager.api, *map(executed_item, states))
        for run in (triggered, claimed, reported):
            found.append([sql for sql in run if not NOW_AND_THEN.search(sql)])
        return found

    await statements(3)
    few = await statements(8)  # with two of a key, too
    many = await statements(200)
    assert [len(run) for run in many] == [len(run) for run in few]
