"""Deleting finished runs: which ones, with what, in how small steps, and what survives a kill between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from exotrio import ConfigurationError
from exotrio.manager import background, embedded, serve
from exotrio.manager.engine import retention
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.engine.runs import find_run
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import PRINTED, B, claim, executed_item, item_for, report
from tests.support.due import clear, discard
from tests.support.helpers import (
    NO_RETRY,
    SettableClock,
    eventually,
    node_name,
    ok,
    open_client,
    place,
    refused,
    virtual_ms,
)
from tests.support.manager import ENGINES, Manager, open_manager, open_two, recount

MINUTE = 60.0
MINUTE_MS = 60_000
OF_RUNS = (
    *("runs", "states", "counts", "unite_counters", "unite_members", "events", "logs", "store"),
    *("checkpoints", "mailbox"),
    *("idle_times", "discarded"),
)
U = node_name("u")
PLACES = (
    place("t", "b"),
    place("b", "u"),
    place("u", unites="t", inputs={"p": "${{b.outputs.v}}"}),
)


def rows(view: View) -> Counter[str]:
    """Count the rows of every table that belong to runs."""
    return Counter({table: view.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in OF_RUNS})


async def finish(api: Api, width: int = 3, depth: int = 1) -> Flow:
    """Run a graph with two fan-outs, a united node that fails, an event, logs, a store and checkpoints to its
    end."""
    flow = await Flow.deploy(api, *PLACES)
    await flow.trigger(store={"key": "value"})
    await flow.run("t", *({"v": str(index)} for index in range(width)))
    (held,) = await claim(api, {B: 1})
    ok(await api.release(states=[item_for(held)]))
    outputs = [{"v": str(index)} for index in range(depth)]
    for state in await claim(api, {B: width}):
        assert await report(api, executed_item(state, *outputs) | {"logs": [PRINTED]}) == ["ok"]
    failed = {
        "outcome": "errored",
        "error": "x",
        "retry": False,
        "checkpoint": {"number": 1, "value": '{"row": "1"}'},
    }
    for state in await claim(api, {U: width}):
        assert await report(api, item_for(state, **failed)) == ["ok"]
    assert (await flow.run_summary())["status"] == "FAILED"
    return flow


async def pass_minute(manager: Manager, clock: SettableClock) -> None:
    """Let a minute pass, and not jump."""
    for _ in range(6):
        clock.advance(MINUTE_MS // 6)
        await manager.service.store.write(lambda tx: None)


async def test_a_finished_run_is_deleted_with_all_its_rows_once_it_is_old_enough(
    autojump_clock: MockClock,
) -> None:
    async with open_manager(clock=virtual_ms, keep_ms=30 * MINUTE_MS) as manager:
        flow = await finish(manager.api)
        await flow.trigger(store={"key": "value"})
        ok(await manager.api.native("POST", f"run/{flow.run_id}/events", json={"name": "early"}))
        pruned = await flow.one("t")
        ok(await manager.api.prune(pruned))
        await trio.sleep(1)
        ok(await manager.api.manual_retry(pruned))
        ok(await manager.api.prune(await flow.one("t")))
        before = await manager.service.store.read(rows)
        assert all(before[table] for table in OF_RUNS if table != "discarded")
        await trio.sleep(29.9 * MINUTE)
        assert await manager.service.store.read(rows) == before
        await trio.sleep(4 * MINUTE)
        assert not +(await manager.service.store.read(rows))
        assert len(ok(await manager.api.graphs())["templates"]) == 1


async def test_a_deleted_run_and_its_states_are_404_everywhere(autojump_clock: MockClock) -> None:
    async with open_manager(clock=virtual_ms, keep_ms=MINUTE_MS) as manager:
        api = manager.api
        flow = await finish(api)
        (state, *_) = await flow.states("b")
        await trio.sleep(1.2 * MINUTE)
        for response in (
            await api.native_run(flow.run_id),
            await api.native("POST", f"run/{flow.run_id}/cancel"),
            await api.retry_run(flow.run_id),
            await api.states(run=flow.run_id),
            await api.history(state["id"]),
            await api.state("graph", flow.run_id, state["id"]),
            await api.executed(state["id"], {"v": "late"}),
            await api.manual_retry(state["id"]),
            await api.secrets(state["id"]),
        ):
            refused(response, 404)
        assert ok(await api.run_graph(flow.run_id))["nodes"] == []
        assert ok(await api.runs())["runs"] == ok(await api.find_runs())["runs"] == []
        assert ok(await api.states())["states"] == []


async def test_a_key_is_free_again_once_its_run_is_deleted(autojump_clock: MockClock) -> None:
    async def trigger(**values: str) -> tuple[str, bool]:
        body = {"key": "k", "store": values}
        reply = ok(await manager.api.v0("POST", "graph/graph/trigger", json=body))
        return reply["run_id"], reply["created"]

    async with open_manager(clock=virtual_ms, keep_ms=MINUTE_MS) as manager:
        await Flow.deploy(manager.api, place("a"))
        first, _ = await trigger()
        ok(await manager.api.native("POST", f"run/{first}/cancel"))
        assert await trigger() == (first, False)
        await trio.sleep(1.2 * MINUTE)
        second, created = await trigger(other="value")
        assert created
        assert second != first


async def test_a_run_that_is_not_finished_is_kept_however_old_it_is(autojump_clock: MockClock) -> None:
    async with open_manager(clock=virtual_ms, keep_ms=MINUTE_MS) as manager:
        waiting = await Flow.start(manager.api, *PLACES)
        await trio.sleep(100 * MINUTE)
        assert (await waiting.run_summary())["status"] == "PENDING"
        await waiting.run("t", {"v": "x"})
        await trio.sleep(100 * MINUTE)
        await waiting.run("b")
        await manager.service.store.read(recount)


async def test_a_run_that_was_retried_is_as_old_as_its_last_end(autojump_clock: MockClock) -> None:
    async with open_manager(clock=virtual_ms, keep_ms=10 * MINUTE_MS) as manager:
        flow = await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY)
        await flow.fail("a", times=1)
        await trio.sleep(9 * MINUTE)
        ok(await manager.api.retry_run(flow.run_id))
        await trio.sleep(9 * MINUTE)
        await flow.run("a")
        await trio.sleep(9 * MINUTE)
        assert (await flow.run_summary())["status"] == "SUCCESS"
        await trio.sleep(3 * MINUTE)
        refused(await manager.api.native_run(flow.run_id), 404)


async def test_without_a_limit_nothing_is_ever_deleted(autojump_clock: MockClock) -> None:
    async with open_manager(clock=virtual_ms) as manager:
        flow = await finish(manager.api)
        await trio.sleep(100 * MINUTE)
        assert (await flow.run_summary())["status"] == "FAILED"


async def test_versions_of_a_graph_go_with_their_last_run(autojump_clock: MockClock) -> None:
    def bodies(view: View) -> int:
        count: int = view.execute("SELECT count(*) FROM templates").fetchone()[0]
        return count

    async with open_manager(clock=virtual_ms, keep_ms=MINUTE_MS) as manager:
        old = await Flow.start(manager.api, place("a"))
        kept = await Flow.start(manager.api, place("c"), graph="other")
        await Flow.deploy(manager.api, place("a", inputs={"p": "never run"}))
        await Flow.deploy(manager.api, place("a", inputs={"p": "current"}))
        assert await manager.service.store.read(bodies) == 4
        await trio.sleep(MINUTE)
        assert await manager.service.store.read(bodies) == 3
        await old.run("a")
        await trio.sleep(1.2 * MINUTE)
        assert await manager.service.store.read(bodies) == 2
        await kept.run("c")
        fresh = await Flow.deploy(manager.api, place("a", inputs={"p": "next"}))
        await fresh.trigger()
        assert (await fresh.take("a"))[0]["inputs"] == {"p": "next"}


async def test_a_large_run_is_deleted_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    monkeypatch.setattr(retention, "TEXTS", 2)
    monkeypatch.setattr(retention, "MAX_BATCH", 0.0)
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        store = manager.service.store
        await finish(manager.api, width=5, depth=25)
        await pass_minute(manager, clock)
        assert await store.write(discard, MINUTE_MS - 1) == 1
        left = await store.read(rows)
        assert (left["runs"], left["discarded"]) == (0, 1)
        steps = 0
        while await store.write(clear):
            now = await store.read(rows)
            assert all(left[table] - now[table] <= 2 for table in ("logs", "checkpoints"))
            assert all(
                left[table] - now[table] <= 10
                for table in ("states", "unite_members", "unite_counters", "events")
            )
            left = now
            steps += 1
        assert steps >= 6
        assert not +left


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_step_deletes_a_limited_number_of_rows_of_each_table(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 10)
    monkeypatch.setattr(retention, "TEXTS", 5)
    monkeypatch.setattr(retention, "MAX_BATCH", 0.0)
    tables = {
        "counts (run, place)": "id, seq",
        "idle_times (run, since, until)": "id, seq, 0",
        "alerts (run, number, at, state)": "id, seq, 0, 0",
        "unite_counters (target_state, place)": "seq, id",
        "store (run, key, value)": "id, '' || seq, '1'",
        "mailbox (run, name, value, sent_at)": "id, '' || seq, '{}', 0",
    }

    def discard_all(tx: Transaction) -> None:
        for table, values in tables.items():
            tx.execute(f"INSERT INTO {table} SELECT {values} FROM runs CROSS JOIN states")
        retention.discard_runs(tx, [run for (run,) in tx.execute("SELECT id FROM runs").fetchall()])

    def left(view: View) -> list[int]:
        return [view.one(f"SELECT count(*) FROM {table.split()[0]}")[0] for table in tables]

    async with open_two(engine) as (manager, _):
        store = manager.service.store
        await Flow.start(manager.api, place("a"), runs=7)
        await store.write(discard_all)
        before = await store.read(left)
        while await store.write(clear):
            after = await store.read(left)
            limits = (10, 10, 10, 10, 5, 5)
            assert all(old - new <= limit for old, new, limit in zip(before, after, limits, strict=True))
            before = after
        assert before == [0] * len(tables)


async def test_many_small_runs_share_few_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "MAX_BATCH", 60.0)
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        store = manager.service.store
        flow = await Flow.deploy(manager.api, place("a"))
        for _ in range(250):
            await flow.trigger(store={"key": "value"})
        for state in ok(await manager.api.claim(["Node_a"], 250))["states"]:
            ok(await manager.api.prune(state["state_id"]))
        kept = await Flow.start(manager.api, place("a"))
        await pass_minute(manager, clock)
        assert await store.write(discard, MINUTE_MS - 1) == 250
        assert await store.write(clear) > 0
        assert await store.write(clear) == 0
        assert +(await store.read(rows)) == Counter({"runs": 1, "states": 1, "counts": 1})
        await kept.run("a")
        await store.read(recount)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_run_that_is_retried_after_it_was_found_old_is_kept(engine: str) -> None:
    clock = SettableClock()
    async with open_two(engine, clock=clock) as (manager, _):
        store = manager.service.store
        flow = await Flow.start(manager.api, place("a"), retry_policy=NO_RETRY)
        await flow.fail("a", times=1)
        await pass_minute(manager, clock)
        old = (await store.read(due_work, (Step.DISCARD,), 10, MINUTE_MS - 1))[Step.DISCARD]
        assert len(old) == 1
        ok(await manager.api.retry_run(flow.run_id))
        delete = partial(retention.discard, keep_ms=MINUTE_MS - 1)
        assert await store.write(delete, old) == 0, "it goes on"
        await flow.run("a")
        assert await store.write(delete, old) == 0, "it has ended just now"
        assert (await flow.run_summary())["status"] == "SUCCESS"
        await store.read(recount)


@pytest.mark.parametrize("step", ["discard", "clear"])
async def test_a_run_that_cannot_be_deleted_delays_no_others(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: MockClock,
    step: str,
) -> None:
    use_case, is_broken = getattr(retention, step), True

    def failing(tx: Transaction, runs: Sequence[int], **options: int) -> int:
        if bad in runs and is_broken:
            raise ZeroDivisionError("a mistake")
        return int(use_case(tx, runs, **options))

    monkeypatch.setattr(background, step, failing)
    async with open_manager(clock=virtual_ms, keep_ms=1_000) as manager:
        read = manager.service.store.read
        flows = [await finish(manager.api) for _ in range(3)]
        bad = (await read(find_run, "tests", flows[1].run_id))["id"]
        await trio.sleep(30)
        left = await read(rows)
        assert (left["runs"], left["discarded"]) == ((1, 0) if step == "discard" else (0, 1))
        (line,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
        assert (flows[1].run_id if step == "discard" else f"a deleted run ({bad})") in line
        assert f"the step '{step}' failed, others go on" in line
        is_broken = False
        await trio.sleep(60)
        assert not +(await read(rows))


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_run_that_the_database_refuses_to_delete_delays_no_others(
    engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(tx: Transaction, runs: Sequence[int]) -> int:
        if bad in runs:
            tx.execute("SELECT 1 FROM damaged").fetchone()
        return retention.clear(tx, runs)

    async with open_two(engine) as (manager, _):
        store = manager.service.store
        await Flow.start(manager.api, place("a"), runs=3)
        runs = await store.read(lambda view: [run for (run,) in view.execute("SELECT id FROM runs")])
        _, bad, _ = sorted(runs)
        await store.write(retention.discard_runs, runs)
        deletion = background.DueWork(store, {Step.CLEAR: refused})
        while await deletion.handle():
            pass
        assert await store.read(due_work, (Step.CLEAR,)) == {Step.CLEAR: [bad]}
        (line,) = [each.message for each in caplog.records if each.levelname == "ERROR"]
        assert line.startswith(f"a deleted run ({bad}): the step 'clear' failed, others go on; it is tried")
        assert "damaged" in line


async def test_the_next_process_finishes_the_deletion_that_a_killed_one_began(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    clock = SettableClock()
    async with open_manager(db, clock=clock) as manager:
        old = await finish(manager.api)
        await pass_minute(manager, clock)
        await manager.service.store.write(discard, MINUTE_MS - 1)
    async with open_manager(db, clock=clock) as manager:
        # The last run there was is deleted, and its number is the first that could be given out again.
        fresh = await finish(manager.api)
        ids = {state["id"] for state in (await fresh.shown())["nodes"]}
        refused(await manager.api.native_run(old.run_id), 404)

        async def cleared() -> None:
            assert not (await manager.service.store.read(rows))["discarded"]

        await eventually(cleared)
        assert {state["id"] for state in (await fresh.shown())["nodes"]} == ids
        await manager.service.store.read(recount)
    clock.advance(MINUTE_MS)
    async with open_manager(db, clock=clock, keep_ms=1_000) as manager:

        async def empty() -> None:
            clock.advance(1_000)
            assert not +(await manager.service.store.read(rows))

        await eventually(empty)
        last = await Flow.start(manager.api, *PLACES)
        assert not ids & {state["id"] for state in (await last.shown())["nodes"]}


async def test_an_embedded_manager_may_delete_finished_runs_too(autojump_clock: MockClock) -> None:
    async with (
        embedded(":memory:", keep=MINUTE, clock=virtual_ms) as transport,
        open_client(transport=transport) as client,
    ):
        flow = await finish(Api(client, "tests"))
        await trio.sleep(1.2 * MINUTE)
        refused(await flow.api.native_run(flow.run_id), 404)


@pytest.mark.parametrize("keep", [0, -1, float("nan"), float("inf")])
async def test_a_time_to_keep_runs_that_is_out_of_range_is_refused(keep: float) -> None:
    with pytest.raises(ConfigurationError, match="keep is"):
        async with embedded(":memory:", keep=keep):
            pass
    with pytest.raises(ConfigurationError, match="keep is"):
        await serve(port=0, db=":memory:", keep=keep)
