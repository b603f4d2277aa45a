"""Leases at the state manager: how they end, what renews them, what their last holder may still do;
and the cancelling of runs, which heartbeats tell of."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from exotrio.manager.engine.leases import Terms, end_leases, expire
from exotrio.manager.engine.managers import sweep
from exotrio.manager.store.clock import wall_clock
from exotrio.manager.store.errors import NotCommitted
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, claim_one, executed_item, item_for, report
from tests.support.helpers import ok, place, refused
from tests.support.manager import Manager, open_manager, recount

TERMS = Terms(lease_ttl_ms=12_000, poison_limit=3)
TTL = 12.0
SWEEP = TERMS.sweep_interval
A = place("a", "b")
B = place("b")


class Boot:
    """The monotonic clock of a machine. Under virtual time it goes with Trio's, plus what was skipped."""

    def __init__(self, start: float = 5_000.0) -> None:
        self.skipped = start

    def __call__(self) -> int:
        return int((trio.current_time() + self.skipped) * 1000)


@asynccontextmanager
async def managing(
    terms: Terms = TERMS, *, boot: Boot | None = None, db: str | Path = ":memory:"
) -> AsyncIterator[Manager]:
    boot = boot or Boot()
    # Threads cannot read Trio's clock, and a file has some.
    clock = boot if db == ":memory:" else wall_clock
    async with open_manager(db, clock=clock, monotonic=boot, terms=terms) as manager:
        yield manager
        await manager.service.store.read(recount)


@pytest.fixture
def boot() -> Boot:
    return Boot()


@pytest.fixture
async def manager(boot: Boot) -> AsyncIterator[Manager]:
    async with managing(boot=boot) as opened:
        yield opened


@pytest.fixture
async def api(manager: Manager) -> Api:
    """A state manager, as a worker in another process sees it."""
    return manager.remote


@pytest.fixture
async def flow(api: Api) -> Flow:
    """A run whose ``a`` can be claimed."""
    return await Flow.start(api, A, B)


async def beat(api: Api, *states: dict[str, Any], worker_id: str = "w", phase: str = "running") -> Any:
    held = [item_for(state, running=state.get("runs", False)) for state in states]
    return ok(await api.heartbeat(worker_id, phase=phase, states=held))


async def heartbeat_results(api: Api, *states: dict[str, Any]) -> list[str]:
    """Return what a heartbeat about these states learns of them."""
    reply = await beat(api, *states)
    assert [item["state_id"] for item in reply["items"]] == [state["state_id"] for state in states]
    return [item["result"] for item in reply["items"]]


async def status(flow: Flow, state: dict[str, Any]) -> str:
    shown: str = (await flow.detail(state["state_id"]))["status"]
    return shown


# -- the end of a lease


async def test_a_lease_that_is_not_renewed_ends_and_the_state_can_be_claimed_again(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    first = await claim_one(api)
    assert (first["lease"]["ttl_ms"], first["lease"]["deliveries"]) == (12_000, 0)
    await trio.sleep(TTL - 0.1)
    assert await claim(api) == []
    assert await status(flow, first) == "QUEUED"
    await trio.sleep(0.1 + SWEEP)
    assert await status(flow, first) == "CREATED"
    second = await claim_one(api)
    assert second["state_id"] == first["state_id"]
    lease = second["lease"]
    assert (lease["ttl_ms"], lease["attempt"], lease["deliveries"]) == (12_000, 1, 1), "no retry is used"
    assert lease["token"] != first["lease"]["token"]


@pytest.mark.parametrize("late", [None, "release", "heartbeat", "outcome"])
async def test_a_checkpoint_outlives_the_lease_and_its_holder_may_store_one_until_another_claims_the_state(
    autojump_clock: MockClock, api: Api, late: str | None
) -> None:
    await Flow.start(api, place("a"))
    first = await claim_one(api)
    ok(await api.heartbeat(states=[item_for(first, checkpoint={"number": 1, "value": '{"row": "1"}'})]))
    await trio.sleep(TTL + SWEEP)
    item = item_for(first, checkpoint={"number": 2, "value": '{"row": "2"}'})
    if late == "release":
        ok(await api.release(states=[item]))
    elif late == "heartbeat":
        assert ok(await api.heartbeat(states=[item]))["items"][0]["checkpoint"] == 2
        await trio.sleep(TTL + SWEEP)
    elif late == "outcome":
        assert await report(api, {**item, "outcome": "requeued", "delay_ms": 1}) == ["ok"]
        await trio.sleep(1)
    second = await claim_one(api)
    assert (
        second["checkpoint"] == {"number": 2, "value": '{"row": "2"}'}
        if late
        else {"number": 1, "value": '{"row": "1"}'}
    )
    assert ok(await api.heartbeat(states=[item]))["items"][0]["result"] == "lost"


async def test_the_end_of_a_lease_wakes_a_long_poll(autojump_clock: MockClock, api: Api) -> None:
    await Flow.start(api, A, B)
    first = await claim_one(api)
    began = trio.current_time()
    (second,) = await claim(api, wait_ms=15_000)
    assert second["state_id"] == first["state_id"]
    assert TTL <= trio.current_time() - began <= TTL + SWEEP


async def test_heartbeats_keep_a_lease_while_they_arrive(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    state = await claim_one(api)
    for _ in range(10):
        await trio.sleep(TTL - 1)
        reply = await beat(api, state)
        assert (reply["ttl_ms"], reply["items"][0]["result"]) == (12_000, "ok")
    assert await status(flow, state) == "QUEUED"
    assert await report(api, executed_item(state)) == ["ok"]
    assert await heartbeat_results(api, state) == ["lost"]


async def test_claims_in_process_never_end(autojump_clock: MockClock, manager: Manager) -> None:
    flow = await Flow.start(manager.api, A, B)
    state = await claim_one(manager.api)
    assert state["lease"]["ttl_ms"] is None
    reply = await beat(manager.api, state)
    assert (reply["ttl_ms"], reply["items"][0]["result"]) == (None, "ok")
    await trio.sleep(100 * TTL)
    assert await status(flow, state) == "QUEUED"


async def test_a_repeated_claim_returns_the_rest_of_the_lease(autojump_clock: MockClock, api: Api) -> None:
    await Flow.start(api, A, B)
    first = await claim_one(api, claim_id="c")
    await trio.sleep(5)
    again = await claim_one(api, claim_id="c")
    assert again["lease"] == {**first["lease"], "ttl_ms": 7_000}


async def test_a_late_sweep_extends_the_leases_first(
    autojump_clock: MockClock, boot: Boot, api: Api, flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    state = await claim_one(api)
    boot.skipped += 3_600  # this process was stopped for an hour and received no heartbeat
    await trio.sleep(TTL - SWEEP)
    assert await status(flow, state) == "QUEUED"
    assert "were not checked for 3600.0 s" in caplog.text
    await trio.sleep(3 * SWEEP)
    assert await status(flow, state) == "CREATED"


@pytest.mark.parametrize("fails", [True, False], ids=["failed", "slow"])
async def test_no_lease_ends_because_the_database_failed_or_was_slow_for_longer_than_a_term(
    autojump_clock: MockClock,
    manager: Manager,
    flow: Flow,
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    state = await claim_one(manager.remote)
    store, write = manager.service.store, manager.service.store.write

    async def disturbed(*args: Any) -> Any:
        if fails:
            raise NotCommitted("the disk is full", fix="make room")
        await trio.sleep(5 * TTL)
        return await write(*args)

    monkeypatch.setattr(store, "write", disturbed)
    await trio.sleep(5 * TTL)
    monkeypatch.setattr(store, "write", write)
    await trio.sleep(TTL - 2 * SWEEP)
    assert await status(flow, state) == "QUEUED"
    await trio.sleep(4 * SWEEP)
    assert await status(flow, state) == "CREATED"


async def test_a_state_that_loses_its_lease_again_and_again_is_poison_and_can_be_retried_by_hand(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    for lost in range(3):
        state = await claim_one(api)
        assert state["lease"]["deliveries"] == lost
        await trio.sleep(TTL + SWEEP)
    shown = await flow.detail(state["state_id"])
    assert shown["status"] == "ERRORED"
    assert "poison: 3 runtimes in a row" in shown["error"]
    assert await claim(api) == []
    assert await heartbeat_results(api, state) == ["lost"]
    assert (await flow.run_summary())["status"] == "FAILED"
    ok(await api.manual_retry(state["state_id"]))
    again = await claim_one(api)
    assert again["lease"]["deliveries"] == 0
    assert await report(api, executed_item(again)) == ["ok"]
    assert (await flow.statuses())[("b", "CREATED")] == 1


@pytest.mark.parametrize("end", ["requeued", "handed over", "released"])
async def test_a_node_that_ends_in_between_clears_the_count_of_lost_leases(
    autojump_clock: MockClock, api: Api, end: str
) -> None:
    await Flow.start(api, A, B)
    for _ in range(2):
        await claim_one(api)
        await trio.sleep(TTL + SWEEP)
    state = await claim_one(api)
    assert lease_of(state) == (2, True, True)
    if end == "requeued":
        assert await report(api, item_for(state, outcome="requeued", delay_ms=1)) == ["ok"]
    else:
        ok(await api.release(states=[item_for(state, handed_over=end == "handed over")]))
    await trio.sleep(0.001)
    # A release may be of a state that never ran.
    assert lease_of(await claim_one(api)) == ((2, True, True) if end == "released" else (0, False, False))


# -- which states end their workers


def lease_of(state: dict[str, Any]) -> tuple[int, bool, bool]:
    return state["lease"]["deliveries"], state["lease"]["announce"], state["lease"]["alone"]


async def test_only_a_state_that_heartbeats_called_running_counts_when_its_lease_ends(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    await flow.trigger()
    for lost in range(3):
        killer, innocent = await claim(api, announces=True)
        assert lease_of(killer) == (lost, lost > 0, lost == 2), "alone before it is one too many"
        assert lease_of(innocent) == (0, lost > 0, False)
        await beat(api, {**killer, "runs": True}, innocent)
        await beat(api, killer, innocent)  # said once is enough
        await trio.sleep(TTL + SWEEP)
    (left,) = await claim(api, announces=True)
    assert left["state_id"] == innocent["state_id"]
    assert lease_of(left) == (0, True, False)
    assert await report(api, executed_item(left)) == ["ok"]


async def test_a_runtime_that_does_not_name_running_states_counts_as_running_all_that_it_claimed(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    await flow.trigger()
    old = await claim(api)
    await beat(api, *old)
    await trio.sleep(TTL + SWEEP)
    assert {lease_of(state)[0] for state in await claim(api, announces=True)} == {1}


async def test_with_a_limit_of_one_nothing_is_run_alone_before_it_was_lost(autojump_clock: MockClock) -> None:
    async with managing(Terms(lease_ttl_ms=12_000, poison_limit=1)) as manager:
        await Flow.start(manager.remote, A, B)
        assert lease_of(await claim_one(manager.remote, announces=True)) == (0, False, False)


async def test_a_state_that_ends_a_process_with_its_state_manager_inside_is_poison_and_no_other_state_is(
    tmp_path: Path,
) -> None:
    db = tmp_path / "state.db"
    for lost in range(4):
        # What is left like this is left by a process that is killed.
        async with managing(db=db) as manager:
            api = manager.api
            if lost == 0:
                first = await Flow.start(api, A, B)
                second = await Flow.start(api, A, B)
            held = await claim(api, announces=True)
            if lost < 3:
                killer, innocent = held
                assert lease_of(killer) == (lost, lost > 0, lost == 2)
                assert lease_of(innocent) == (0, lost > 0, False)
                await beat(api, {**killer, "runs": True}, innocent)
            else:
                (left,) = held
                assert left["state_id"] == innocent["state_id"]
                killed = Flow(api, first.graph, first.run_id)
                shown = await killed.detail(killer["state_id"])
                assert "poison: 3 runtimes in a row" in shown["error"]
                assert second.run_id != first.run_id


# -- what the last holder may still do


async def test_a_late_outcome_counts_until_another_runtime_claims_the_state(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    state = await claim_one(api)
    await trio.sleep(TTL + SWEEP)
    assert await status(flow, state) == "CREATED"
    assert await report(api, executed_item(state)) == ["ok"]
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "CREATED"): 1}


async def test_a_late_outcome_is_stale_once_another_runtime_has_claimed_the_state(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    zombie = await claim_one(api)
    await trio.sleep(TTL + SWEEP)
    state = await claim_one(api)
    assert await report(api, executed_item(zombie, {"v": "zombie"})) == ["stale"]
    assert await heartbeat_results(api, zombie, state) == ["lost", "ok"]
    assert await report(api, executed_item(state)) == ["ok"]
    assert await report(api, executed_item(zombie, {"v": "zombie"})) == ["stale"]
    assert (await flow.detail(state["state_id"]))["outputs"]["v"] == "x"


async def test_a_heartbeat_regains_a_lease_that_ended_until_another_runtime_claims_the_state(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    state = await claim_one(api)
    await trio.sleep(TTL + SWEEP)
    assert await heartbeat_results(api, state) == ["ok"]
    assert await status(flow, state) == "QUEUED"
    assert await claim(api) == []
    await trio.sleep(TTL - 1)
    assert await report(api, executed_item(state)) == ["ok"]


async def test_a_runtime_that_regains_its_lease_again_and_again_does_not_count_as_several_lost_ones(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    state = await claim_one(api)
    for _ in range(TERMS.poison_limit):
        await trio.sleep(TTL + SWEEP)
        assert await heartbeat_results(api, state) == ["ok"]
    assert await status(flow, state) == "QUEUED"
    await trio.sleep(TTL + SWEEP)
    assert (await claim_one(api))["lease"]["deliveries"] == 1


@pytest.mark.parametrize("way", ["released", "requeued"])
async def test_a_heartbeat_does_not_take_back_a_state_that_was_released_or_requeued(
    autojump_clock: MockClock, api: Api, flow: Flow, way: str
) -> None:
    state = await claim_one(api)
    if way == "released":
        ok(await api.release(states=[item_for(state)]))
    else:
        await report(api, item_for(state, outcome="requeued", delay_ms=1_000))
    assert await heartbeat_results(api, state) == ["lost"]
    assert await status(flow, state) == "CREATED"


async def test_states_of_a_runtime_whose_process_has_ended_do_not_wait_for_the_end_of_its_lease(
    autojump_clock: MockClock, manager: Manager
) -> None:
    api, service = manager.remote, manager.service
    flow = await Flow.start(api, A, B)
    dead = await claim_one(api, worker_id="dead")
    await flow.trigger()
    alive = await claim_one(api, worker_id="alive")
    assert await service.store.write(end_leases, "other", "dead", service.monotonic()) == 0
    assert await service.store.write(end_leases, "tests", "dead", service.monotonic()) == 1
    await trio.sleep(0.1 + SWEEP)
    again = await claim(api)
    assert [(state["state_id"], state["lease"]["deliveries"]) for state in again] == [
        (dead["state_id"], 1)
    ], "as a lost lease: what ends every worker has to come to an end"
    assert await heartbeat_results(api, alive) == ["ok"]


async def test_heartbeats_with_unknown_states_learn_that_these_are_lost(
    autojump_clock: MockClock, api: Api
) -> None:
    await Flow.start(api, A, B)
    state = await claim_one(api)
    unknown = {"state_id": "0" * 24, "lease": {"token": "t"}}
    wrong = {**state, "lease": {"token": "t"}}
    assert await heartbeat_results(api, unknown, wrong, state) == ["lost", "lost", "ok"]
    assert await heartbeat_results(api.elsewhere("other"), state) == ["lost"]


# -- v0


async def test_v0_claims_hold_without_a_limit_unless_a_timeout_is_set(
    autojump_clock: MockClock, api: Api, flow: Flow
) -> None:
    state_id = await flow.one("a")
    await trio.sleep(100 * TTL)
    assert await flow.status(state_id) == "QUEUED"
    ok(await api.executed(state_id, {"v": "1", "w": "2"}))


async def test_a_v0_claim_ends_with_its_timeout_and_its_late_outcome_is_refused(
    autojump_clock: MockClock,
) -> None:
    terms = Terms(lease_ttl_ms=60_000, claim_timeout_ms=30_000)
    async with managing(terms) as manager:
        api = manager.remote
        flow = await Flow.start(api, A, B)
        state_id = await flow.one("a")
        await trio.sleep(29)
        assert await flow.status(state_id) == "QUEUED"
        await trio.sleep(1 + terms.sweep_interval)
        assert await flow.status(state_id) == "CREATED"
        refused(await api.executed(state_id, {"v": "1", "w": "2"}), 400)
        assert await flow.one("a") == state_id
        ok(await api.executed(state_id, {"v": "1", "w": "2"}))


# -- restarts


@pytest.mark.parametrize("uptime", [10.0, 10_000_000.0])
async def test_after_a_restart_every_lease_has_a_new_term_whatever_the_clock_shows(
    tmp_path: Path, uptime: float
) -> None:
    terms = Terms(lease_ttl_ms=600_000, claim_timeout_ms=900_000)
    db = tmp_path / "state.db"
    async with managing(terms, db=db) as manager:
        flow = await Flow.start(manager.remote, A, B)
        first = await claim_one(manager.remote, claim_id="c")
        other = await flow.trigger()
        v0 = await flow.one("a")
    boot = Boot(uptime)
    async with managing(terms, db=db, boot=boot) as manager:
        began = boot()
        again = await claim_one(manager.remote, claim_id="c")
        assert again["lease"]["token"] == first["lease"]["token"]
        assert 590_000 < again["lease"]["ttl_ms"] <= 600_000
        assert await manager.service.store.write(expire, began + 590_000, terms) == 0
        assert await manager.service.store.write(expire, began + 600_000, terms) == 1
        assert await manager.service.store.write(expire, began + 890_000, terms) == 0
        assert await manager.service.store.write(expire, began + 900_000, terms) == 1
        flow = Flow(manager.remote, "graph", other)
        assert await flow.status(v0) == "CREATED"


# -- cancelling a run


async def cancelled(api: Api, run_id: str) -> Any:
    return ok(await api.native("POST", f"run/{run_id}/cancel"))


async def test_cancelling_ends_waiting_and_running_states_and_heartbeats_learn_it(
    autojump_clock: MockClock, api: Api
) -> None:
    flow = await Flow.start(api, place("t", "b"), place("b", "u"), place("u", unites="t"))
    await flow.run("t", *({"v": str(index), "w": ""} for index in range(3)))
    running, done, waiting = await claim(api, {"Node_b": 3})
    assert await report(api, executed_item(done)) == ["ok"]
    ok(await api.release(states=[item_for(waiting)]))
    run_id, other = flow.run_id, await flow.trigger()

    run = await cancelled(api, run_id)
    assert (run["status"], run["pending_count"], run["errored_count"]) == ("FAILED", 0, 3)
    assert await heartbeat_results(api, running) == ["cancelled"]
    flow.run_id = run_id
    for state in (running, waiting):
        shown = await flow.detail(state["state_id"])
        assert (shown["status"], shown["error"]) == ("ERRORED", "cancelled")
    assert (await flow.statuses())[("u", "ERRORED")] == 1, "the united node of the one that was done"
    assert await cancelled(api, run_id) == run, "again changes nothing"
    assert await claim(api, {"Node_b": 9, "Node_u": 9}) == []
    assert ok(await api.native_run(other))["status"] == "PENDING", "other runs go on"


@pytest.mark.parametrize(
    "outcome",
    [
        {"outcome": "executed", "outputs": [{"v": "x", "w": "w"}]},
        {"outcome": "errored", "error": "it failed"},
        {"outcome": "pruned", "data": {}},
        {"outcome": "requeued", "delay_ms": 1},
    ],
    ids=lambda outcome: str(outcome["outcome"]),
)
async def test_after_the_cancel_no_outcome_is_accepted_and_nothing_follows(
    autojump_clock: MockClock, api: Api, flow: Flow, outcome: dict[str, Any]
) -> None:
    state = await claim_one(api)
    await cancelled(api, flow.run_id)
    assert await report(api, item_for(state, **outcome)) == ["stale"]
    assert await flow.statuses() == {("a", "ERRORED"): 1}
    detail = refused(await api.manual_retry(state["state_id"]), 409)
    assert "cancelled" in detail
    await trio.sleep(TTL + SWEEP)
    assert await flow.statuses() == {("a", "ERRORED"): 1}, "the end of its lease changes nothing either"


async def test_a_run_that_has_ended_or_is_not_known_cannot_be_cancelled(
    autojump_clock: MockClock, api: Api
) -> None:
    flow = await Flow.start(api, B)
    await flow.run("b")
    assert "already ended" in refused(await api.native("POST", f"run/{flow.run_id}/cancel"), 409)
    refused(await api.native("POST", "run/absent/cancel"), 404)
    refused(await api.elsewhere("other").native("POST", f"run/{flow.run_id}/cancel"), 404)


# -- ids of claims


@pytest.mark.parametrize("boot_after", [5_000.0 + 86_400, 1.0], ids=["restart", "reboot"])
async def test_the_id_of_a_claim_is_remembered_for_ten_minutes_across_a_restart(
    tmp_path: Path, boot_after: float
) -> None:
    db = tmp_path / "state.db"
    async with managing(db=db) as manager:
        await Flow.start(manager.api, place("a"), runs=4)
        (state,) = await claim(manager.remote, limits={"Node_a": 1}, claim_id="used")
        assert await report(manager.remote, executed_item(state)) == ["ok"]
    boot = Boot(boot_after)
    async with managing(db=db, boot=boot) as manager:
        boot.skipped += 590
        assert await claim(manager.remote, limits={"Node_a": 1}, claim_id="other")
        assert await claim(manager.remote, limits={"Node_a": 1}, claim_id="used") == []
        boot.skipped += 20
        assert await claim(manager.remote, limits={"Node_a": 1}, claim_id="third")
        await manager.service.store.write(sweep, "", boot(), TERMS, boot())
        ids = await manager.service.store.read(lambda view: view.execute("SELECT id FROM claims").fetchall())
        assert {row["id"] for row in ids} == {"other", "third"}


async def test_a_sweep_reads_no_inputs_of_the_states_that_it_takes_back() -> None:
    boot, mib = Boot(), 1024 * 1024
    async with managing(boot=boot) as manager:
        flow = await Flow.deploy(manager.remote, place("a", inputs={"p": "INITIAL"}))
        for number in range(20):
            await flow.trigger(inputs={"p": "x" * mib})
            await claim_one(manager.remote, claim_id=str(number))
        late = boot() + 2 * TERMS.lease_ttl_ms
        tracemalloc.start()
        assert await manager.service.store.write(expire, late, TERMS) == 20
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * mib
