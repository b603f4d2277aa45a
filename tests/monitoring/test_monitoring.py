"""Events, metrics, health checks and the task tree of a runtime inside an application."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from prometheus_client import REGISTRY, CollectorRegistry
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ConfigurationError, LifecycleError, Phase
from exotrio._runtime import task_tree
from exotrio.monitoring import (
    Event,
    Health,
    LeaseLost,
    Polled,
    Requested,
    RuntimeMetrics,
    StateEnded,
)
from tests.support.doubles import Delays, Fails, NativeServer, V0Server, reply, running, runtime
from tests.support.scrapes import labels_in, values_in


class Sleeps(BaseNode):
    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        precious = f"value of {self.inputs.seconds}"
        await trio.sleep(float(self.inputs.seconds))
        assert precious


class Guarded(BaseNode):
    class Secrets(BaseModel):
        key: str = ""

    async def execute(self) -> None:
        await trio.sleep(1)


class Errs(BaseNode):
    async def execute(self) -> None:
        raise ValueError("no")


class Blocks(BaseNode):
    """Blocks the loop until ``leave`` is set."""

    entered = threading.Event()
    leave = threading.Event()

    async def execute(self) -> None:
        self.entered.set()
        assert self.leave.wait(100)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    Blocks.entered, Blocks.leave = threading.Event(), threading.Event()
    yield
    Blocks.leave.set()


def values(metrics: RuntimeMetrics) -> dict[str, float]:
    """Return what a scrape shows, as ``name{label="value"}`` to value."""
    return values_in(metrics.render()[0].decode())


# -- events


async def test_an_observer_gets_claims_requests_and_every_state_that_is_no_longer_held(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Sleeps", 3, seconds="2")
    server.add("Errs")
    rt = runtime(server, Sleeps, Errs, workers=2)
    events: list[Event] = []
    rt.observe(events.append)
    async with running(rt, grace=0, registered=True):
        await server.until(EXECUTED=2)
    durations = [e for e in events if isinstance(e, StateEnded) and e.duration]
    ended: list[Any] = sorted((e.node, e.outcome, e.duration) for e in durations)
    assert ended[-2:] == [
        ("Sleeps", "completed", pytest.approx(2)),
        ("Sleeps", "completed", pytest.approx(2)),
    ]
    assert len([event for event in events if isinstance(event, StateEnded)]) == 4
    assert Polled("states") in events
    requests = {(event.op, event.code) for event in events if isinstance(event, Requested)}
    assert {("discover", 200), ("register", 200), ("claim", 200), ("outcomes", 200)} <= requests


async def test_an_observer_that_fails_costs_no_outcome_and_is_not_called_again(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    server.add("Sleeps", 5, seconds="1")
    rt = runtime(server, Sleeps)
    failed_at: list[Event] = []
    others: list[Event] = []

    def broken(event: Event) -> None:
        if isinstance(event, StateEnded):
            failed_at.append(event)
            raise ZeroDivisionError

    rt.observe(broken)
    rt.observe(others.append)
    async with running(rt, registered=True):
        await server.until(EXECUTED=5)
    assert rt.summary.completed == 5
    assert len(failed_at) == 1
    assert len([event for event in others if isinstance(event, StateEnded)]) == 5
    assert caplog.text.count("an observer failed at StateEnded") == 1


async def test_a_lost_lease_is_an_event(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.lost = set(server.add("Sleeps", seconds="100"))
    rt = runtime(server, Sleeps)
    metrics = RuntimeMetrics(rt)
    events: list[Event] = []
    rt.observe(events.append)
    async with running(rt, registered=True):
        await trio.sleep(5)
    assert events.count(LeaseLost("Sleeps")) == 1
    assert values(metrics)["exotrio_leases_lost_total"] == 1


async def test_a_runtime_that_was_started_cannot_be_observed_any_more(autojump_clock: MockClock) -> None:
    rt = runtime(V0Server(), Sleeps)
    rt.stop()
    await rt.run()
    for too_late in (
        lambda: rt.observe(print),
        lambda: RuntimeMetrics(rt),
        lambda: Health(rt),
        rt.show_tasks,
    ):
        with pytest.raises(LifecycleError, match="from its start"):
            too_late()


# -- metrics


async def test_a_state_whose_node_has_not_begun_yet_keeps_no_worker_busy(autojump_clock: MockClock) -> None:
    server = NativeServer(Guarded=3)
    server.before = Delays(("secrets",), 10)
    rt = runtime(server, Guarded, workers=2)
    metrics = RuntimeMetrics(rt)
    async with running(rt):
        await server.until(QUEUED=3)
        await trio.sleep(1)
        fetching = values(metrics)
        await server.until(EXECUTED=3)
    assert (fetching["exotrio_workers_busy"], fetching["exotrio_buffered_states"]) == (0, 3)


async def test_metrics_show_how_the_runtime_is_and_what_became_of_its_states(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer(Errs=1)
    rt = runtime(server, Sleeps, Errs, workers=2)
    metrics = RuntimeMetrics(rt)
    assert values(metrics)['exotrio_phase{phase="new"}'] == 1
    assert values(metrics)['exotrio_states_total{node="Sleeps",outcome="errored"}'] == 0
    async with running(rt, grace=0, registered=True):
        await server.until(ERRORED=1)
        server.add("Sleeps", 5, seconds="9")
        await server.until(QUEUED=5)
        await trio.sleep(1)
        server.before = Fails(("outcomes",), lambda: reply(503))
        busy = values(metrics)
        await trio.sleep(8.5)
        waiting = values(metrics)
        server.before = None
    assert busy["exotrio_workers"] == busy["exotrio_workers_busy"] == 2
    assert busy["exotrio_buffered_states"] == 3
    assert busy['exotrio_phase{phase="running"}'] == 1
    assert busy['exotrio_phase{phase="new"}'] == 0
    assert waiting["exotrio_outcomes_pending"] == 2
    end = values(metrics)
    assert end['exotrio_phase{phase="stopped"}'] == 1
    assert end["exotrio_outcomes_pending"] == end["exotrio_workers_busy"] == 0
    assert end['exotrio_states_total{node="Errs",outcome="errored"}'] == 1
    assert end['exotrio_states_total{node="Sleeps",outcome="completed"}'] == rt.summary.completed == 2
    assert end["exotrio_released_total"] == rt.summary.released + rt.summary.cancelled == 3
    assert end['exotrio_state_duration_seconds_sum{node="Sleeps"}'] >= 18
    assert end['exotrio_state_waited_seconds_sum{node="Sleeps"}'] == 4 * 0.25, "of those that ran"
    assert end['exotrio_manager_request_duration_seconds_count{code="503",op="outcomes"}'] >= 1
    assert end['exotrio_polls_total{result="states"}'] >= 1


async def test_the_names_and_labels_of_metrics_are_stable(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.add("Sleeps", 1, seconds="0")
    rt = runtime(server, Sleeps)
    metrics = RuntimeMetrics(rt)
    async with running(rt, registered=True):
        await server.until(EXECUTED=1)
    assert labels_in(metrics.render()[0].decode()) == {
        "exotrio_states_total": {"node", "outcome"},
        "exotrio_state_duration_seconds": {"node"},
        "exotrio_state_buffered_seconds": {"node"},
        "exotrio_state_waited_seconds": {"node"},
        "exotrio_workers": set(),
        "exotrio_workers_busy": set(),
        "exotrio_buffered_states": set(),
        "exotrio_polls_total": {"result"},
        "exotrio_manager_request_duration_seconds": {"op", "code"},
        "exotrio_outcomes_pending": set(),
        "exotrio_leases_lost_total": set(),
        "exotrio_released_total": set(),
        "exotrio_loop_lag_seconds": set(),
        "exotrio_phase": {"phase"},
        "exotrio_build_info": {"version", "python", "namespace", "runtime"},
    }


async def test_no_label_has_the_id_of_a_state_or_a_run_and_the_global_registry_stays_as_it_was(
    autojump_clock: MockClock,
) -> None:
    before = {metric.name for metric in REGISTRY.collect()}
    for server in (NativeServer(), V0Server()):
        ids = server.add("Sleeps", 3, seconds="0")
        server.secrets = {"s": "x"}
        rt = runtime(server, Sleeps)
        metrics = RuntimeMetrics(rt)
        async with running(rt, registered=True):
            await server.until(lambda server=server: server.statuses()["EXECUTED"] == 3)  # type: ignore[misc]
        text = metrics.render()[0].decode()
        assert not [state_id for state_id in ids if state_id in text]
    assert {metric.name for metric in REGISTRY.collect()} == before


def test_two_runtimes_need_two_registries() -> None:
    registry = CollectorRegistry()
    RuntimeMetrics(runtime(V0Server(), Sleeps), registry=registry)
    with pytest.raises(ConfigurationError, match="separate registry"):
        RuntimeMetrics(runtime(V0Server(), Sleeps), registry=registry)


# -- health


async def test_a_runtime_is_ready_from_its_registration_to_the_first_moment_of_its_drain(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Sleeps", seconds="5")
    server.before = Fails(("nodes",), lambda: reply(503))
    rt = runtime(server, Sleeps)
    health = Health(rt, clock=trio.current_time)
    assert health.ready() == "new: its nodes are not registered yet"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rt.run)
        await trio.sleep(100)
        assert health.ready() == "starting: its nodes are not registered yet"
        assert health.alive() == "", "a state manager that is away is no reason for a restart"
        server.before = None
        await server.until(QUEUED=1)
        await trio.sleep(1)
        assert health.ready() == ""
        rt.stop()
        assert rt.phase is Phase.RUNNING
        assert health.ready() == "a stop was requested"
        await trio.sleep(1)
        assert (health.ready(), health.alive()) == ("draining", "")
    assert health.ready() == "stopped"


async def test_claims_that_fail_for_long_end_the_readiness_and_a_good_one_brings_it_back(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    rt = runtime(server, Sleeps)
    health = Health(rt, clock=trio.current_time)
    async with running(rt, registered=True):
        await trio.sleep(60)
        server.before = Fails(("claim", "discovery"), lambda: reply(503))
        await trio.sleep(20)
        assert health.ready() == "", "a restart of the state manager takes a while"
        await trio.sleep(60)
        assert "claims fail; the last one that succeeded was" in health.ready()
        server.before = None
        await trio.sleep(30)
        assert health.ready() == ""


async def test_a_runtime_whose_workers_are_all_busy_is_ready_although_it_claims_nothing(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Sleeps", 3, seconds="3000")
    rt = runtime(server, Sleeps, workers=1, batch_size=2)
    health = Health(rt, clock=trio.current_time)
    async with running(rt, grace=0, registered=True):
        await server.until(QUEUED=2)
        claims = len(server.routes("claim"))
        await trio.sleep(1000)
        assert len(server.routes("claim")) == claims
        assert health.ready() == ""


async def test_a_runtime_that_gets_its_states_with_its_reports_is_ready_though_its_last_claim_failed(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    for seconds in ("20", "21"):
        server.add("Sleeps", seconds=seconds)
    rt = runtime(server, Sleeps, workers=2, batch_size=4)
    health, metrics = Health(rt, clock=trio.current_time), RuntimeMetrics(rt)
    async with running(rt, grace=0, registered=True):
        await server.until(QUEUED=2)
        # The claim that waits comes back empty; the one after it fails, and puts the next one off.
        server.before = Fails(("claim",), lambda: reply(503, **{"Retry-After": "60"}), times=1)
        await trio.sleep(18)
        server.add("Sleeps", 400, seconds="1")
        await trio.sleep(100)
        assert health.ready() == ""
    assert values(metrics)['exotrio_polls_total{result="states"}'] > 50


async def test_outcomes_that_cannot_be_delivered_end_the_readiness(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.add("Sleeps", seconds="1")
    server.before = Fails(("outcomes",), lambda: reply(401))
    rt = runtime(server, Sleeps)
    health = Health(rt, clock=trio.current_time)
    async with running(rt, registered=True):
        await trio.sleep(5)
        assert health.ready() == "the state manager refuses the key"
        server.before = None
        await trio.sleep(60)
        assert health.ready() == ""


async def test_a_blocked_loop_is_seen_from_another_thread_while_it_is_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("exotrio.monitoring.MAX_LAG", 0.1)
    monkeypatch.setattr(task_tree, "BLOCKED_AFTER", 0.05)
    server = NativeServer()
    rt = runtime(server, Blocks)
    health, metrics = Health(rt), RuntimeMetrics(rt)
    seen: list[tuple[str, str, float, str]] = []

    def watch() -> None:
        try:
            assert Blocks.entered.wait(60)
            give_up = time.monotonic() + 60
            while not health.alive() and time.monotonic() < give_up:
                time.sleep(0.01)
            tree = trio.run(rt.tasks)
            seen.append((health.alive(), health.ready(), values(metrics)["exotrio_loop_lag_seconds"], tree))
        finally:
            Blocks.leave.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    with trio.fail_after(60):
        async with running(rt, registered=True):
            server.add("Blocks")
            await server.until(EXECUTED=1)
        await trio.to_thread.run_sync(watcher.join)
    ((alive, ready, lag, tree),) = seen
    assert "node code blocks it" in alive
    assert ready == alive or "node code blocks it" in ready
    assert lag > 0.1
    assert "the loop did not answer" in tree
    assert "Blocks.execute (" in tree
    assert health.alive() == "", "a runtime that has ended is not measured"


def test_a_stop_that_the_blocked_loop_cannot_hear_yet_ends_the_readiness() -> None:
    server = NativeServer(Blocks=1)
    rt = runtime(server, Blocks)
    health = Health(rt)
    runner = threading.Thread(target=rt.start)
    runner.start()
    try:
        assert Blocks.entered.wait(60)
        assert health.ready() == ""
        rt.stop()
        assert health.ready() == "a stop was requested"
    finally:
        Blocks.leave.set()
        runner.join(60)


# -- the task tree


async def test_the_task_tree_shows_where_each_task_waits_and_no_values(autojump_clock: MockClock) -> None:
    class Children(BaseNode):
        async def execute(self) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, 1000, name="child \x1b[31m\n of mine")
                await Sleeps_.execute(self)  # type: ignore[arg-type]

    class Sleeps_(BaseNode):
        async def execute(self) -> None:
            secret_value = "precious-4711"
            await trio.sleep(1000)
            assert secret_value

    server = NativeServer(Children=1)
    rt = runtime(server, Children, workers=2)
    assert await rt.tasks() == "the runtime does not run"
    async with running(rt, grace=0, registered=True):
        await server.until(QUEUED=1)
        await trio.sleep(1)
        tree = await rt.tasks()
    lines = tree.splitlines()
    assert lines[0] == "test"
    assert {"  heartbeat", "  poll", "  reporter", "  work"} <= set(lines)
    assert "    Children" in lines, "a node is a task below its worker"
    assert "      child ?[31m? of mine" in lines, "and a task of the node hangs below that"
    assert any("Children.execute (tests/monitoring/test_monitoring.py:" in line for line in lines)
    assert any("Sleeps_.execute (tests/monitoring/test_monitoring.py:" in line for line in lines)
    assert "precious" not in tree
    assert await rt.tasks() == "the runtime does not run"


async def test_a_tree_of_any_size_is_cut_to_what_a_heartbeat_takes(autojump_clock: MockClock) -> None:
    async def deep(levels: int) -> None:
        if levels:
            await deep(levels - 1)
        else:
            await trio.sleep_forever()

    class Wide(BaseNode):
        async def execute(self) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(deep, 100)

    server = NativeServer(Wide=1)
    async with running(server, Wide, grace=0, registered=True) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1)
        tree = await rt.tasks()
    assert len(tree) <= 64 * 1024
    assert tree.endswith("... cut")


@pytest.mark.parametrize("shown", [True, False])
async def test_the_state_manager_gets_the_tree_once_it_asks_and_only_if_it_may(
    autojump_clock: MockClock, shown: bool
) -> None:
    server = NativeServer()
    server.add("Sleeps", seconds="1000")
    rt = runtime(server, Sleeps)
    if shown:
        rt.show_tasks()
    async with running(rt, grace=0, registered=True):
        await server.until(QUEUED=1)
        await trio.sleep(5)
        beats = server.routes("heartbeat")
        assert {(beat.body["shows_tasks"], beat.body["tasks"]) for beat in beats} == {(shown, None)}
        server.commands = ["tasks"]
        await server.until(lambda: len(server.routes("heartbeat")) > len(beats) + 1)
        server.commands = []
        await trio.sleep(5)
        trees = [beat.body["tasks"] for beat in server.routes("heartbeat") if beat.body["tasks"]]
    assert (len(trees) > 0) is shown
    assert all("Sleeps.execute (" in tree for tree in trees)
