"""The API says why states wait."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import HOUR_MS, A, claim, claim_one, item_for, report
from tests.support.helpers import ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")
RETRIED = {"max_retries": 1, "backoff_factor": HOUR_MS}


async def why(flow: Flow, identifier: str = "a") -> dict[str, Any]:
    """Return why the last state of a place waits; its history, the list and the run must say the same."""
    run = ok(await flow.api.native_run(flow.run_id))
    (of_run,) = [node["waits_for"] for node in run["nodes"] if node["identifier"] == identifier]
    last, *_ = ok(await flow.api.states(run=flow.run_id, graph=flow.graph, identifier=identifier))["states"]
    assert ok(await flow.api.history(last["id"]))["waits_for"] == last["waits_for"] == of_run
    return dict(of_run or {})


async def test_it_is_said_why_a_state_waits_wherever_it_is_shown(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=RETRIED)
    reason = await why(flow)
    assert reason == {
        "kind": "not offered",
        "namespace": api.namespace,
        "node": A,
        "at": None,
        "event": None,
        "since": None,
        "run_id": None,
        "graph": None,
        "runs": 0,
        "workers": 0,
        "limit": None,
        "text": f"waits: no runtime offers {A}; start one that has it",
    }
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1))
    await claim(api, limit=0, worker_id="w")
    assert await why(flow) == {}, "it is about to be claimed"
    paused = ok(await api.native("POST", f"node/{A}/pause"))["paused_at"]
    reason = await why(flow)
    assert (reason["kind"], reason["at"]) == ("paused", paused)
    assert reason["text"] == f"waits: node {A} is paused since {paused}"
    ok(await api.native("POST", f"node/{A}/resume"))
    state = await claim_one(api, worker_id="w")
    assert await why(flow) == {}, "it does not wait"
    ok(await api.heartbeat("w", runtime="r", phase="running", workers=1, states=[item_for(state)]))
    other = await Flow.start(api, place("a"), graph="other")
    reason = await why(other)
    assert (reason["kind"], reason["workers"]) == ("busy", 1)
    assert reason["text"] == f"waits for a free worker: all 1 that can run {A} are busy"
    ok(await api.heartbeat("w", runtime="r", phase="draining", workers=1))
    assert (await why(other))["text"] == f"waits: all runtimes that offer {A} drain"
    await report(api, item_for(state, outcome="errored", error="it broke"))
    reason = await why(flow)
    assert reason["kind"] == "later"
    assert reason["text"] == f"waits: {A} is due at {reason['at']}"


async def test_a_runtime_that_works_on_one_run_offers_its_nodes_to_that_run_only(api: Api) -> None:
    one = await Flow.start(api, place("a"))
    other = await Flow.start(api, place("a"), graph="other")
    await claim(api, limit=0, worker_id="w", run_id=one.run_id)
    assert await why(one) == {}
    reason = await why(other)
    assert reason["kind"] == "other runs"
    assert reason["text"] == (
        f"waits: the runtimes that offer {A} only work on other runs; start one that does not"
    )
    (load,) = ok(await api.overview())["nodes"]
    assert load["offered_by"] == [f"w (only for run {one.run_id[:8]})"]
    assert (load["waiting"], load["unserved"]) == (2, 1)
    (runtime,) = ok(await api.workers())["workers"]
    assert (runtime["nodes"], runtime["run_id"]) == ([A], one.run_id)
    await claim_one(api, worker_id="w", limit=1, run_id=one.run_id)
    (load,) = ok(await api.overview())["nodes"]
    assert (load["waiting"], load["unserved"]) == (1, 1)
    await claim(api, limit=0, worker_id="all")
    assert await why(other) == {}
    (load,) = ok(await api.overview())["nodes"]
    assert (load["offered_by"], load["unserved"]) == (["all", f"w (only for run {one.run_id[:8]})"], 0)
