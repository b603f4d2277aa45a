"""What is left of a deleted graph, and of a deletion that ended in the middle."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
import trio

from exotrio.manager import service
from exotrio.manager.engine import deletion, runs, triggers
from exotrio.manager.engine.deletion import Deleted, delete_graph
from exotrio.manager.store.effects import WithEffects
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import PRINTED, A, claim, executed_item, item_for, report
from tests.support.helpers import eventually, node_name, ok, place
from tests.support.manager import ENGINES, Manager, open_manager
from tests.support.postgres import Database

OF_GRAPHS = ("graphs", "templates", "secrets", "cron_triggers")
OF_RUNS = (
    *("runs", "states", "counts", "unite_counters", "unite_members", "events", "logs", "store"),
    "checkpoints",
    "discarded",
)
U = node_name("u")
PLACES = (place("a", "b"), place("b", "u"), place("u", unites="a", inputs={"p": "${{b.outputs.v}}"}))
DAILY = [
    {"type": "CRON", "value": {"expression": "@daily", "timezone": zone}} for zone in ("UTC", "Asia/Kolkata")
]


def rows(view: View) -> dict[str, int]:
    counts = {
        table: view.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in OF_GRAPHS + OF_RUNS
    }
    return {table: count for table, count in counts.items() if count}


async def with_runs(manager: Manager, count: int) -> Flow:
    """Return a graph of two versions, with secrets, a schedule and runs that ended."""
    await manager.api.register_for(PLACES, secrets=("token",))
    for key in ("first", "second"):
        body = manager.api.body(
            PLACES,
            secrets={"token": "s3cret"},
            triggers=DAILY,
            store_config={"default_values": {key: ""}},
        )
        ok(await manager.api.put_graph("graph", body), 201)
        flow = Flow(manager.api, "graph")
        for _ in range(count):
            await flow.trigger(store={"key": "value"})
            (held,) = await claim(manager.api, {A: 1})
            ok(await manager.api.release(states=[item_for(held)]))
            (held,) = await claim(manager.api, {A: 1})
            assert await report(manager.api, executed_item(held) | {"logs": [PRINTED]}) == ["ok"]
            await flow.run("b")
            (held,) = await claim(manager.api, {U: 1})
            failed = {"outcome": "errored", "error": "x", "retry": False}
            checkpoint = {"checkpoint": {"number": 1, "value": '{"row": "1"}'}}
            assert await report(manager.api, item_for(held, **failed, **checkpoint)) == ["ok"]
    return flow


@pytest.mark.parametrize("engine", ENGINES)
async def test_nothing_of_a_deleted_graph_stays_in_the_database(engine: str, db: str) -> None:
    async with open_manager(db) as manager:
        await with_runs(manager, 2)
        before = await manager.service.store.read(rows)
        assert set(before) == {*OF_GRAPHS, *OF_RUNS} - {"discarded"}
        assert ok(await manager.api.delete_graph("graph"))["deleted_runs"] == 4

        async def cleared() -> None:
            assert await manager.service.store.read(rows) == {}

        await eventually(cleared)


async def test_a_graph_that_is_triggered_all_the_time_can_be_deleted(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def cancel_and_trigger(tx: Transaction, namespace: str, run_id: str) -> WithEffects[None]:
        begun.append(triggers.trigger(tx, namespace, "graph", triggers.NewRun()))
        assert len(begun) < 10, "for each one that is cancelled another one begins"
        return runs.cancel(tx, namespace, run_id)

    monkeypatch.setattr(service, "cancel", cancel_and_trigger)
    flow = await with_runs(manager, 1)
    await flow.trigger()
    answer = ok(await manager.api.delete_graph("graph", cancel_runs="true"))
    assert (answer["deleted_runs"], answer["cancelled_runs"]) == (4, 2)
    assert await claim(manager.api, {A: 1}) == []


async def test_a_deletion_that_ended_in_the_middle_goes_on_when_it_is_requested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletion, "MAX_BATCH", 0.0)
    monkeypatch.setattr(deletion, "RUNS", 1)
    db = tmp_path / "state.db"
    async with open_manager(db) as manager:
        await with_runs(manager, 2)
        step = await manager.service.store.write(delete_graph, "tests", "graph")
        assert (step.runs, step.graph) == (1, False)
    async with open_manager(db) as manager:
        assert ok(await manager.api.runs())["total"] == 3
        flow = Flow(manager.api, "graph")
        await flow.trigger()
        for identifier in ("a", "b", "u"):
            await flow.run(identifier)
        assert ok(await manager.api.delete_graph("graph"))["deleted_runs"] == 4


async def test_a_deletion_that_has_locked_runs_waits_for_no_other_run(database: Database) -> None:
    """The transaction that has locked that run may wait for one of these."""
    async with open_manager(database.url) as manager:
        flow = await with_runs(manager, 1)
        await flow.trigger()
        write = manager.service.store.write
        with psycopg.connect(database.url) as other:
            other.execute("SELECT 1 FROM runs WHERE run_id = %s FOR UPDATE", (flow.run_id,))
            with trio.fail_after(60):
                step = await write(delete_graph, "tests", "graph", before=1, may_cancel=True)
        assert step == Deleted(runs=2, cancelled=0, graph=False)
        step = await write(delete_graph, "tests", "graph", before=1, may_cancel=True)
        assert step == Deleted(runs=1, cancelled=1, graph=True)
