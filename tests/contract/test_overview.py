"""The overview of a namespace: what waits, what runs, what ended, who is there."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio._wire.overview import Overview
from exotrio._wire.runs import Run
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import HOUR_MS, claim, claim_one
from tests.support.helpers import NO_RETRY, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def overview(api: Api, **query: Any) -> Overview:
    return Overview.model_validate(ok(await api.overview(**query)))


async def test_a_namespace_where_nothing_happened_is_empty(api: Api) -> None:
    shown = await overview(api)
    assert (shown.namespace, shown.running, shown.waiting, shown.errored) == (api.namespace, 0, 0, 0)
    assert (shown.nodes, shown.runtimes, shown.runs, shown.oldest) == ([], [], [], None)
    assert len(shown.throughput.ended) == 60
    assert sum(shown.throughput.ended) == 0


async def test_waiting_running_and_failed_states_are_counted_in_total_and_by_node(api: Api) -> None:
    flow = await Flow.start(
        api, place("a", "b"), place("b", inputs={"v": "${{ a.outputs.v }}"}), retry_policy=NO_RETRY
    )
    await flow.run("a", *({"v": str(n), "w": ""} for n in range(4)))
    bad, later, *_ = await flow.take("b", 4)
    ok(await api.errored(bad["state_id"]))
    ok(await api.requeue(later["state_id"], HOUR_MS))
    await flow.trigger()
    shown = await overview(api)
    assert (shown.running, shown.waiting, shown.errored) == (2, 2, 1)
    assert shown.oldest is not None
    assert shown.oldest.node == node_name("a")
    a, b = shown.nodes
    assert (a.name, a.waiting, a.eligible, a.running) == (node_name("a"), 1, 1, 0)
    assert (b.name, b.waiting, b.eligible, b.running) == (node_name("b"), 1, 0, 2)
    assert shown.runs[0].run_id == flow.run_id
    assert len((await overview(api, runs=1)).runs) == 1
    assert (await overview(api.elsewhere())).running == 0


async def test_runs_that_have_not_ended_come_before_newer_ones_that_have(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    runs = [flow.run_id, *[await flow.trigger() for _ in range(3)]]
    for run in runs[1:3]:
        ok(await api.native("POST", f"run/{run}/cancel"))
    first, second, third, last = runs
    assert [each.run_id for each in (await overview(api)).runs] == [last, first, third, second]
    assert [each.run_id for each in (await overview(api, runs=2)).runs] == [last, first]
    assert (await overview(api, runs=0)).runs == []
    assert (await overview(api.elsewhere())).runs == []


async def test_the_depth_of_each_queue_is_counted_up_to_a_limit(api: Api) -> None:
    assert ok(await api.depth()) == {"nodes": {}}
    await Flow.start(api, place("a", "b"), place("b"), runs=3)
    await claim_one(api, limit=1)
    ok(await api.trigger("graph", start_delay=HOUR_MS))
    assert ok(await api.depth()) == {"nodes": {node_name("a"): 3, node_name("b"): 0}}
    assert ok(await api.depth(limit=2))["nodes"][node_name("a")] == 2
    assert ok(await api.elsewhere().depth()) == {"nodes": {}}


@pytest.mark.parametrize("limit", ["0", "100001", "x"])
async def test_any_other_limit_of_a_depth_is_422(api: Api, limit: str) -> None:
    refused(await api.depth(limit=limit), 422)


async def test_runtimes_are_named_with_what_they_hold_and_what_they_offer(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    began = {"running": True, "buffered_ms": 0}
    held = [{"state_id": state["state_id"], "token": state["lease"]["token"], **began}]
    ok(await api.heartbeat(runtime="Greeter", phase="running", busy=1, workers=4, states=held))
    await api.register_for([place("z")])
    ok(await api.claim([node_name("z")], 1))
    # One of the same id in another namespace is another one.
    elsewhere = api.elsewhere()
    await Flow.start(elsewhere, place("a"))
    await claim_one(elsewhere)
    shown = await overview(api)
    (runtime,) = shown.runtimes
    assert (runtime.worker_id, runtime.runtime, runtime.phase) == ("contract-worker", "Greeter", "running")
    assert (runtime.live, runtime.workers, runtime.busy, runtime.holds) == (True, 4, 1, 1)
    assert (shown.runtime_count, shown.v0_runtimes) == (1, 1)
    assert [node.offered_by for node in shown.nodes] == [["Greeter"], ["a v0 runtime"]]
    # A second process of the same Runtime, and other clients of v0, which cannot be told apart.
    await claim(api, worker_id="second", limit=0)
    ok(await api.heartbeat("second", runtime="Greeter", phase="running", workers=4))
    ok(await api.claim([node_name("z"), node_name("a")], 1))
    shown = await overview(api)
    assert [node.offered_by for node in shown.nodes] == [
        ["Greeter", "Greeter", "a v0 runtime"],
        ["a v0 runtime"],
    ]
    ok(await api.heartbeat("second", runtime="Greeter", phase="stopped"))
    ok(await api.heartbeat(runtime="Greeter", phase="stopped"))
    shown = await overview(api)
    assert [runtime.live for runtime in shown.runtimes] == [False, False]
    assert shown.nodes[0].offered_by == ["a v0 runtime"]


async def test_pruned_states_count_as_successes_and_are_told_apart(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    await flow.run("a", {"v": "1"}, {"v": "2"})
    one, two = await flow.take("b", 2)
    ok(await api.prune(one["state_id"]))
    ok(await api.executed(two["state_id"]))
    (listed,) = (await overview(api)).runs
    run = Run.model_validate(ok(await api.native_run(flow.run_id)))
    for shown in (listed, run):
        assert (shown.success_count, shown.pruned_count, shown.status) == (4, 1, "SUCCESS")


@pytest.mark.parametrize("runs", ["-1", "101", "x"])
async def test_any_other_number_of_runs_is_422(api: Api, runs: str) -> None:
    refused(await api.overview(runs=runs), 422)
