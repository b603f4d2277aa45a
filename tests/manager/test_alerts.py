"""Runs that are started when another run ends with errors (``Graph.on_failure``)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio._wire.runs import RelatedRun
from exotrio.manager.engine.due_work import Step, due_work
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for, report
from tests.support.due import clear, discard, handle_due
from tests.support.helpers import (
    FAST_RETRY,
    NO_RETRY,
    SettableClock,
    declare,
    eventually,
    node_name,
    ok,
    place,
    refused,
    run_place,
)
from tests.support.manager import Manager, both_engines, open_manager, open_two


@pytest.fixture
async def two(engine: str) -> AsyncIterator[tuple[Manager, Manager]]:
    async with open_two(engine) as managers:
        yield managers


async def deploy_alert(manager: Manager, name: str = "alert", **fields: Any) -> Flow:
    """Store a graph whose first node has all facts as inputs, two of them as keys of the store."""
    inputs = {"graph": "-", "run": "-", "place": "${{ store.place }}", "error": "It says: ${{ store.error }}"}
    config = {"required_keys": ["place"], "default_values": {"error": "nothing"}}
    tell = place("tell", inputs=inputs)
    return await Flow.deploy(
        manager.api, tell, graph=name, **{"store_config": config, "retry_policy": NO_RETRY, **fields}
    )


async def deploy_work(manager: Manager, on_failure: str = "alert", **fields: Any) -> Flow:
    places = place("a", "b"), place("b")
    return await Flow.deploy(manager.api, *places, graph="work", on_failure=on_failure, **fields)


async def started(manager: Manager) -> list[dict[str, Any]]:
    """Return the runs of ``alert`` once none is due, oldest first."""

    async def none_due() -> None:
        assert await manager.service.store.read(count_due) == 0

    await eventually(none_due)
    runs = ok(await manager.api.native("GET", "runs"))["runs"]
    return [run for run in reversed(runs) if run["graph_name"] == "alert"]


def count_due(view: View) -> int:
    return int(
        view.one("SELECT count(*) FROM alerts WHERE started IS NULL AND problem IS NULL")[0],
    )


async def test_a_run_that_fails_starts_another_one_with_what_failed(two: tuple[Manager, Manager]) -> None:
    one, other = two
    alert, work = await deploy_alert(one), await deploy_work(one)
    await work.trigger()
    await work.run("a")
    await work.fail("b", error="no stock")
    (run,) = await started(other)
    assert run["key"] == f"on_failure:{work.run_id}:1"
    alert.run_id = run["run_id"]
    assert await alert.inputs("tell") == {
        "graph": "work",
        "run": work.run_id,
        "place": "b",
        "error": "It says: no stock",
    }


async def test_a_run_that_does_not_end_with_errors_starts_nothing(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    await deploy_alert(one)
    work = await deploy_work(one, retry_policy=FAST_RETRY)
    await work.trigger()
    await work.fail("a", times=2)
    await work.run("a")
    ok(await one.api.prune(await work.one("b")))
    await work.trigger()
    ok(await one.api.native("POST", f"run/{work.run_id}/cancel"))
    await work.trigger()
    await work.run("a", {"v": "1"}, {"v": "2"})
    (first, second) = await work.take("b", 2)
    ok(await one.api.errored(first["state_id"], "failed"))
    for _ in range(2):
        ok(await one.api.errored(await work.one("b"), "failed"))
    assert await started(one) == [], "the last run has not ended"
    ok(await one.api.executed(second["state_id"], {"v": "1"}))
    assert len(await started(one)) == 1


@both_engines
async def test_each_end_with_errors_starts_one_run(two: tuple[Manager, Manager]) -> None:
    one, other = two
    await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    await work.trigger()
    await work.fail("a", times=1)
    for count in (1, 2):
        assert len(await started(other)) == count
        ok(await other.api.retry_run(work.run_id))
        await work.fail("a", times=1)
    assert [run["key"][-2:] for run in await started(other)] == [":1", ":2", ":3"]
    assert await handle_due(one.service, Step.ALERT) == 0


@both_engines
async def test_a_failed_run_that_a_failure_started_starts_nothing(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    alert = await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    alert = await deploy_alert(one, on_failure="work")
    await work.trigger()
    await work.fail("a", times=1)
    (run,) = await started(one)
    alert.run_id = run["run_id"]
    await alert.fail("tell", times=1)
    await started(one)
    runs = ok(await one.api.native("GET", "runs"))["runs"]
    assert len(runs) == 2
    assert await one.service.store.read(lambda view: view.one("SELECT count(*) FROM alerts")[0]) == 1


async def test_what_a_run_that_a_failure_started_runs_starts_nothing_either(
    two: tuple[Manager, Manager],
) -> None:
    one, _ = two
    await deploy_alert(one)
    # Each would otherwise start the other one without an end.
    step = await Flow.deploy(one.api, place("s"), graph="step", on_failure="alert", retry_policy=NO_RETRY)
    runs_it = run_place("r", graph="step", inputs={})
    await Flow.put(one.api, "alert", one.api.body([runs_it], retry_policy=NO_RETRY))
    await step.trigger()
    await step.fail("s", times=1)
    assert len(await started(one)) == 1
    await step.fail("s", times=1)

    async def all_ended() -> None:
        runs = ok(await one.api.native("GET", "runs"))["runs"]
        assert [(run["graph_name"], run["status"]) for run in runs] == [
            ("step", "FAILED"),
            ("alert", "FAILED"),
            ("step", "FAILED"),
        ]

    await eventually(all_ended)
    assert len(await started(one)) == 1


@both_engines
async def test_two_managers_at_once_start_each_run_once(two: tuple[Manager, Manager]) -> None:
    one, other = two
    await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    for _ in range(20):
        await work.trigger()
    states = await work.take("a", 20)
    async with trio.open_nursery() as nursery:
        for number, state in enumerate(states):
            nursery.start_soon((one, other)[number % 2].api.errored, state["state_id"])
            nursery.start_soon(handle_due, (one, other)[number % 2].service, Step.ALERT)
    runs = await started(other)
    assert len(runs) == len({run["key"] for run in runs}) == 20


async def test_what_no_failure_can_start_is_refused_when_it_is_stored(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    body = {"on_failure": "alert"}
    await one.api.register_for([place("a")])

    async def refusal(**fields: Any) -> str:
        return refused(await one.api.put_graph("work", one.api.body([place("a")], **body, **fields)), 400)

    assert "on_failure: there is no graph 'alert' in namespace 'tests': store it first" in await refusal()
    await deploy_alert(
        one, store_config={"required_keys": ["place", "team"], "default_values": {"error": ""}}
    )
    assert "requires keys of its store that a failed run does not give it: team" in await refusal()
    await deploy_alert(one)
    assert (
        ok(await one.api.put_graph("work", one.api.body([place("a")], **body)), 201)["on_failure"] == "alert"
    )


async def test_an_input_that_does_not_accept_every_error_is_refused(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    number = {"type": "string", "contentMediaType": "application/json", "contentSchema": {"type": "integer"}}
    tell = place("tell", inputs={"error": "0"})
    declared = declare(tell["node_name"], ["error"])
    declared["inputs_schema"]["properties"]["error"] = number
    ok(await one.api.register([declared]))
    await one.api.register_for([place("a")])
    ok(await one.api.put_graph("alert", one.api.body([tell])), 201)
    body = one.api.body([place("a")], on_failure="alert")
    text = refused(await one.api.put_graph("work", body), 400)
    assert "input 'error' of 'tell' in graph 'alert' does not accept every text: declare it as str" in text


async def test_what_was_recorded_before_a_crash_is_started_by_the_next_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "work.db"
    with monkeypatch.context() as patched:
        patched.setattr("exotrio.manager.background.start_alerts", lambda tx, runs: 0)
        async with open_manager(database) as crashed:
            await deploy_alert(crashed)
            work = await deploy_work(crashed, retry_policy=NO_RETRY)
            await work.trigger()
            await work.fail("a", times=1)
            assert await crashed.service.store.read(count_due) == 1
            assert await crashed.service.store.read(due_work), "a sweep of any state manager says so"
    async with open_manager(database) as following:
        assert len(await started(following)) == 1


@both_engines
async def test_a_run_that_cannot_be_started_says_why(
    two: tuple[Manager, Manager], caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = two
    alert = await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    ok(await one.api.native("DELETE", f"graph/{alert.graph}"))
    await work.trigger()
    await work.fail("a", times=1)
    assert await started(one) == []
    problem = await one.service.store.read(lambda view: view.one("SELECT problem FROM alerts")["problem"])
    assert problem == "there is no graph 'alert' in namespace 'tests'"
    (line,) = [each for each in caplog.records if "started no run" in each.message]
    assert line.levelname == "WARNING"
    assert line.message == (
        f"run {work.run_id} of graph {work.graph!r} failed and started no run: {problem}; fix that,"
        " then trigger graph 'alert' with what failed, or retry run"
        f" {work.run_id}: it starts one if it fails again"
    )


async def test_a_run_that_is_about_to_be_started_is_shown(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    deliver = one.service.store.on_deliveries
    one.service.store.on_deliveries = lambda: None
    await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    await work.trigger()
    await work.fail("a", times=1)
    shown = ok(await one.api.native_run(work.run_id))
    (child,) = shown["children"]
    assert (child["graph_name"], child["run_id"], child["status"]) == ("alert", None, None)
    assert (child["problem"], child["origin"], shown["children_count"]) == (None, "failure", 1)
    assert RelatedRun.model_validate(child).word == "about to start"
    deliver()
    assert len(await started(one)) == 1
    (child,) = ok(await one.api.native_run(work.run_id))["children"]
    assert child["status"] == "PENDING"


async def test_with_a_run_its_alerts_are_deleted() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await deploy_alert(manager)
        work = await deploy_work(manager, retry_policy=NO_RETRY)
        await work.trigger()
        await work.fail("a", times=1)
        assert len(await started(manager)) == 1
        store = manager.service.store
        clock.advance(2_000)
        await store.write(discard, 1_000)
        while await store.write(clear):
            pass
        rows = await store.read(lambda view: view.one("SELECT count(*) FROM alerts, runs")[0])
        assert (rows, len(await started(manager))) == (0, 1), "the run that it started has not ended"


@both_engines
async def test_a_run_is_not_deleted_before_its_failure_has_started_another_one(engine: str) -> None:
    clock = SettableClock()
    async with open_two(engine, clock=clock) as (one, other):
        for manager in (one, other):  # as after a crash, and a downtime longer than runs are kept
            manager.service.store.on_deliveries = lambda: None
        await deploy_alert(one)
        work = await deploy_work(one, retry_policy=NO_RETRY)
        await work.trigger()
        await work.fail("a", times=1)
        clock.advance(60_000)
        assert await other.service.store.write(discard, 1) == 0
        assert await handle_due(other.service, Step.ALERT) == 1
        (run,) = await started(other)
        assert run["key"] == f"on_failure:{work.run_id}:1"
        clock.advance(60_000)
        assert await other.service.store.write(discard, 1) == 1


@both_engines
async def test_a_graph_is_not_deleted_before_a_failed_run_has_started_another_one(engine: str) -> None:
    async with open_two(engine) as (one, other):
        waits = trio.Event()
        for manager in (one, other):
            manager.service.store.on_deliveries = lambda: None
        await deploy_alert(one)
        work = await deploy_work(one, retry_policy=NO_RETRY)
        await work.trigger()
        await work.fail("a", times=1)
        one.service.store.on_deliveries = waits.set

        async def delete() -> None:
            assert ok(await one.api.native("DELETE", "graph/work"))["deleted_runs"] == 1
            waits.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(delete)
            await waits.wait()
            assert await handle_due(other.service, Step.ALERT) == 1
        (run,) = await started(other)
        assert run["key"] == f"on_failure:{work.run_id}:1"


async def test_the_run_that_a_failure_starts_is_in_its_trace(two: tuple[Manager, Manager]) -> None:
    one, _ = two
    await deploy_alert(one)
    work = await deploy_work(one, retry_policy=NO_RETRY)
    await work.trigger()
    state = await claim_one(one.api, limits={node_name("a"): 1})
    execution = f"00-{'7' * 32}-{'8' * 16}-01"
    item = item_for(state, outcome="errored", error="no stock", trace=execution)
    assert await report(one.api, item) == ["ok"]
    await started(one)
    assert (await claim_one(one.api, limits={node_name("tell"): 1}))["trace"] == execution
