"""What ended is counted as it ends, with the commits that record it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exotrio.graph.declaration import WAIT_NODE
from exotrio.manager.engine.due_work import Step
from exotrio.manager.engine.leases import expire
from exotrio.manager.engine.states import STATUSES
from exotrio.manager.queries.load import HOUR, Performance, performance
from exotrio.manager.store import tallies
from exotrio.manager.store.clock import WatchedClock
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import claim_one
from tests.support.due import handle_due
from tests.support.helpers import NO_RETRY, SettableClock, ok, place, wait_place
from tests.support.manager import Manager, open_manager, tallied


@pytest.fixture
def clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
async def manager(clock: SettableClock) -> AsyncIterator[Manager]:
    async with open_manager(clock=clock) as opened:
        yield opened


async def counted(manager: Manager, clock: SettableClock) -> dict[str, int]:
    """Return how many ended in which status, once that is written."""
    await tallied(manager.service, clock)

    def read(view: View) -> dict[str, int]:
        node_ids = [row[0] for row in view.execute("SELECT id FROM nodes")]
        slots = tallies.in_slots(view, 120, 84, nodes=node_ids).values()
        return {status: n for status in STATUSES if (n := sum(counts.statuses[status] for counts in slots))}

    return await manager.service.store.read(read)


async def test_each_outcome_counts_once_and_what_is_no_execution_does_not(
    manager: Manager, clock: SettableClock
) -> None:
    api = manager.api
    flow = await Flow.start(
        api,
        place("fan", "leaf"),
        place("leaf", inputs={"v": "${{ fan.outputs.v }}"}),
        retry_policy={**NO_RETRY, "max_retries": 1},
    )
    await flow.run("fan", *({"v": str(index), "w": ""} for index in range(4)))
    one, two, three, four = ok(await api.claim(["Node_leaf"], 4))["states"]
    ok(await api.executed(one["state_id"]))
    ok(await api.errored(two["state_id"]))
    ok(await api.prune(three["state_id"]))
    ok(await api.requeue(four["state_id"]))
    await api.executed(one["state_id"])  # again, and refused
    assert await counted(manager, clock) == {"SUCCESS": 2, "RETRY_CREATED": 1, "PRUNED": 1}


async def test_a_lease_lost_too_often_counts_as_an_error(manager: Manager, clock: SettableClock) -> None:
    await Flow.start(manager.api, place("work"))
    await claim_one(manager.remote, limits={"Node_work": 1})
    terms = manager.service.terms
    now = manager.service.monotonic() + terms.lease_ttl_ms + 1
    await manager.service.store.write(expire, now, replace(terms, poison_limit=1))
    assert await counted(manager, clock) == {"ERRORED": 1}


async def test_a_place_that_waits_counts_when_it_ends_by_its_event_or_without_it(
    manager: Manager, clock: SettableClock
) -> None:
    places = [place("a", "w"), wait_place("w", event="approved", timeout_ms=6_000)]
    await manager.api.register_for(places[:1])
    flow = await Flow.put(manager.api, "graph", manager.api.body(places, retry_policy=NO_RETRY))
    for is_sent in (True, False):
        await flow.trigger()
        await flow.run("a")
        clock.advance(2_000 if is_sent else 6_000)
        if is_sent:
            body = {"name": "approved", "value": {"by": "ada", "ok": "true"}}
            ok(await manager.api.native("POST", f"run/{flow.run_id}/events", json=body))
        else:
            await handle_due(manager.service, Step.WAIT)
    assert await counted(manager, clock) == {"SUCCESS": 3, "ERRORED": 1}

    def waits(view: View) -> Performance:
        (node_id,) = (row[0] for row in view.execute("SELECT id FROM nodes WHERE name = ?", (WAIT_NODE,)))
        return performance(view, node_id, HOUR, is_wait=True)

    recent = await manager.service.store.read(waits)
    assert (recent.ended, recent.failed, recent.unreported) == (2, 1, 0)
    assert recent.ran[50] == pytest.approx(4_000, rel=0.15), "how long they waited"
    assert recent.waited[50] is None, "for no runtime"


async def test_states_whose_end_could_not_be_recorded_are_not_counted(
    manager: Manager, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await Flow.start(manager.api, place("work"))
    (state,) = await flow.take("work")
    with monkeypatch.context() as patch:
        patch.setattr(WatchedClock, "store", _fail)
        clock.advance(1_000)
        assert (await manager.api.executed(state["state_id"])).status_code == 503
    assert await counted(manager, clock) == {}
    ok(await manager.api.executed(state["state_id"]))
    assert await counted(manager, clock) == {"SUCCESS": 1}


def _fail(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_counts_that_could_not_be_written_are_written_later(
    manager: Manager, clock: SettableClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = await Flow.start(manager.api, place("work"))
    with monkeypatch.context() as patch:
        patch.setattr(tallies, "write", _fail)
        await flow.run("work")
        await tallied(manager.service, clock)
    assert await counted(manager, clock) == {"SUCCESS": 1}


async def test_the_last_counts_are_written_at_the_end(tmp_path: Path) -> None:
    clock, db = SettableClock(), tmp_path / "state.db"
    async with open_manager(db, clock=clock) as manager:
        flow = await Flow.deploy(manager.api, place("work"))
        for _ in range(3):
            await flow.trigger()
            await flow.run("work")
    with closing(sqlite3.connect(db)) as connection:
        assert (
            connection.execute("SELECT sum(count) FROM trends WHERE node_id <> 0 AND width = 1").fetchone()[0]
            == 3
        )


async def test_states_and_runs_of_each_graph_are_counted_in_slots_that_are_deleted_when_they_are_old(
    manager: Manager, clock: SettableClock
) -> None:
    store = manager.service.store

    def rows(view: View) -> set[tuple[str, bool, str, int, int]]:
        return {
            (row["name"], row["node_id"] == tallies.RUN, row["status"], row["width"], row["count"])
            for row in view.execute("SELECT trends.*, name FROM trends JOIN graphs ON graphs.id = graph")
        }

    for graph in ("a", "b"):
        flow = await Flow.start(manager.api, place("work"), graph=graph, retry_policy=NO_RETRY)
        (state,) = await flow.take("work")
        await (manager.api.executed if graph == "a" else manager.api.errored)(state["state_id"])
    await flow.trigger()
    ok(await manager.api.native("POST", f"run/{flow.run_id}/cancel"))
    await tallied(manager.service, clock)
    runs = {("a", True, "SUCCESS"), ("b", True, "ERRORED"), ("b", True, "CANCELLED")}
    states = {("a", False, "SUCCESS"), ("b", False, "ERRORED")}
    assert await store.read(rows) == {
        (*counted, width, 1) for counted in runs | states for width in tallies.WIDTHS
    }, "a state that was cancelled was not executed"
    clock.advance(4 * 3_600_000)
    flow = await Flow.start(manager.api, place("work"), graph="c")
    await flow.run("work")
    await tallied(manager.service, clock)
    left = await store.read(rows)
    assert {row[0] for row in left if row[3] == 1} == {"c"}
    assert {row[0] for row in left if row[3] == 15} == {"a", "b", "c"}
    ok(await manager.api.delete_graph("a"))
    assert {row[0] for row in await store.read(rows)} == {"b", "c"}


@pytest.mark.parametrize("can_be_built", [True, False])
async def test_a_run_that_a_united_node_ends_is_counted_once_as_it_ended(
    manager: Manager, clock: SettableClock, can_be_built: bool
) -> None:
    def rows(view: View) -> list[tuple[str, int]]:
        sql = "SELECT status, count FROM trends WHERE node_id = ? AND width = 1"
        return [(row["status"], row["count"]) for row in view.execute(sql, (tallies.RUN,))]

    flow = await Flow.start(
        manager.api,
        place("a", "b"),
        place("b", "u"),
        place("u", unites="a", inputs={"v": "${{ b.outputs.v }}"}),
        retry_policy=NO_RETRY,
    )
    await flow.run("a", {"v": "1"})
    await flow.run("b", {"v": "1"} if can_be_built else {})
    await tallied(manager.service, clock)
    assert await manager.service.store.read(rows) == ([] if can_be_built else [("ERRORED", 1)])
    if can_be_built:
        await flow.run("u")
        await tallied(manager.service, clock)
        assert await manager.service.store.read(rows) == [("SUCCESS", 1)]


async def test_counts_of_a_deleted_graph_are_not_written_for_another_one_with_its_number(
    manager: Manager, clock: SettableClock
) -> None:
    flow = await Flow.start(manager.api, place("work"), graph="old")
    await flow.run("work")
    ok(await manager.api.delete_graph("old"))
    await tallied(manager.service, clock)
    await Flow.deploy(manager.api, place("work"), graph="new")
    sql = "SELECT count(*) FROM trends"
    assert (await manager.service.store.read(lambda view: view.execute(sql).fetchone()))[0] == 0


# -- buckets of durations


@given(st.integers(0, 10**12))
def test_a_bucket_tells_a_time_to_about_a_tenth(ms: int) -> None:
    middle = tallies.middle_ms(tallies.bucket_of(ms))
    assert abs(middle - ms) <= max(1, ms * 0.13)


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_buckets_keep_the_order_of_times(one: int, other: int) -> None:
    assert (tallies.bucket_of(one) <= tallies.bucket_of(other)) or one > other


def test_quantiles_come_from_the_buckets() -> None:
    buckets = {tallies.bucket_of(ms): count for ms, count in ((10, 90), (1_000, 9), (60_000, 1))}
    results = [tallies.quantile(buckets, share) for share in (0.5, 0.95, 0.999)]
    assert results == [
        pytest.approx(10, rel=0.13),
        pytest.approx(1_000, rel=0.13),
        pytest.approx(6e4, rel=0.13),
    ]
    assert tallies.quantile({}, 0.5) is None
    two = {tallies.bucket_of(ms): 1 for ms in (21_200, 130_700)}
    assert tallies.quantile(two, 0.5) == pytest.approx(75_950, rel=0.13), "the median of two is their mean"
    assert tallies.quantile(two, 1.0) == pytest.approx(130_700, rel=0.13)
