"""States that wait for events, as lists, counts and histories show them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, claim_one, item_for, results
from tests.contract.target import Target
from tests.support.helpers import node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server knows no events")

HOUR_MS = 3_600_000


def wait_place(api: Api, *next_nodes: str, event: str = "approved", **fields: Any) -> dict[str, Any]:
    """Return a place that waits for an event."""
    outputs = {"ok": {"type": "string", "contentSchema": {"type": "boolean"}}}
    return {
        "node_name": "wait for event",
        "namespace": api.namespace,
        "identifier": "wait",
        "inputs": {},
        "next_nodes": list(next_nodes),
        "wait": {"event": event, "outputs": outputs, "timeout_ms": HOUR_MS, **fields},
    }


async def send(api: Api, run: str, name: str = "approved", **value: str) -> dict[str, Any]:
    body = {"name": name, "value": value}
    sent: dict[str, Any] = ok(await api.native("POST", f"run/{run}/events", json=body))
    return sent


async def listed(api: Api, *statuses: str) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = ok(await api.states(status=statuses))["states"]
    return states


async def test_a_state_that_waits_says_for_what_since_when_and_until_when(api: Api) -> None:
    flow = await Flow.start(api, wait_place(api))
    (state,) = await listed(api)
    assert state["status"] == "WAITING"
    reason = state["waits_for"]
    assert (reason["kind"], reason["event"]) == ("event", "approved")
    assert reason["since"] == state["created_at"]
    assert reason["text"] == f"waits for event approved since {reason['since']}, until {reason['at']}"
    assert state["waited_ms"] is None, "it waits for no runtime"
    history = ok(await api.history(state["id"]))
    assert (history["status"], history["waits_for"]) == ("WAITING", reason)
    run = ok(await api.native_run(flow.run_id))
    assert run["nodes"][0]["counts"] == {"WAITING": 1}
    assert run["nodes"][0]["waits_for"] == reason
    assert ok(await api.state(flow.graph, flow.run_id, state["id"]))["status"] == "CREATED", "through v0"


async def test_waiting_states_are_listed_apart_from_those_that_wait_to_be_claimed(api: Api) -> None:
    await Flow.start(api, wait_place(api))
    await Flow.start(api, place("a"), graph="other")
    for statuses, expected in (
        (("WAITING",), {"WAITING"}),
        (("CREATED",), {"CREATED"}),
        (("CREATED", "WAITING"), {"CREATED", "WAITING"}),
    ):
        assert {state["status"] for state in await listed(api, *statuses)} == expected


async def test_waiting_states_are_no_backlog(api: Api) -> None:
    await Flow.start(api, wait_place(api), runs=3)
    await Flow.start(api, place("a"), graph="other")
    overview = ok(await api.overview())
    assert (overview["waiting"], overview["for_event"]) == (1, 3)
    assert [node["name"] for node in overview["nodes"]] == [node_name("a")]
    assert ok(await api.depth())["nodes"] == {node_name("a"): 1}
    assert [node["name"] for node in ok(await api.nodes())["nodes"]] == [node_name("a")]


async def test_a_run_of_which_all_that_is_left_waits_is_told_apart(api: Api) -> None:
    flow = await Flow.start(api, place("a", "wait", "b"), wait_place(api), place("b"))

    async def numbers() -> tuple[int, int]:
        (run,) = ok(await api.find_runs())["runs"]
        shown = ok(await api.native_run(run["run_id"]))
        assert shown["for_event_count"] == run["for_event_count"]
        return run["pending_count"], run["for_event_count"]

    assert await numbers() == (1, 0)
    await flow.run("a")
    assert await numbers() == (2, 1)
    await flow.run("b")
    assert await numbers() == (1, 1)


async def test_a_node_that_waits_is_no_backlog_and_continues_in_its_state(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    waits = item_for(state, outcome="waiting", event="done", timeout_ms=HOUR_MS)
    assert results(ok(await api.outcomes(waits))) == ["ok"]
    (shown,) = await listed(api, "WAITING")
    assert shown["waits_for"]["event"] == "done"
    assert ok(await api.depth())["nodes"] == {node_name("a"): 0}
    (node,) = ok(await api.overview())["nodes"]
    assert (node["waiting"], node["for_event"], node["unserved"]) == (0, 1, 0)
    assert await claim(api) == []
    assert (await send(api, flow.run_id, "done"))["woken"] == 1
    assert (await claim_one(api))["state_id"] == state["state_id"]


async def test_time_spent_waiting_for_an_event_is_not_waiting_for_a_runtime(api: Api) -> None:
    flow = await Flow.start(api, wait_place(api, "b"), place("b"))
    await send(api, flow.run_id, ok="true")
    states = {state["identifier"]: state for state in await listed(api)}
    assert states["wait"]["status"] == "SUCCESS"
    assert states["wait"]["waited_ms"] is None
    assert states["wait"]["for_event_ms"] >= 0
    assert states["wait"]["ran_ms"] is None
    assert states["b"]["for_event_ms"] is None


async def test_a_trace_goes_on_after_a_place_that_waited(api: Api) -> None:
    flow = await Flow.deploy(api, wait_place(api, "b"), place("b"))
    run = str(uuid4())
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    ok(await api.native_trigger(flow.graph, run, trace=trace))
    await send(api, run, ok="true")
    (state,) = await claim(api, {node_name("b"): 1})
    assert state["trace"] == trace


async def test_a_run_that_waits_can_be_cancelled_and_takes_no_event_after_that(api: Api) -> None:
    flow = await Flow.start(api, wait_place(api, "b"), place("b"))
    run = ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    assert (run["status"], run["pending_count"], run["for_event_count"]) == ("FAILED", 0, 0)
    late = {"name": "approved", "value": {"ok": "true"}}
    assert "has ended" in refused(await api.native("POST", f"run/{flow.run_id}/events", json=late), 409)
    assert await listed(api, "WAITING") == []


async def test_a_link_works_at_every_state_manager_on_the_database(api: Api, keyed: Target) -> None:
    flow = await Flow.start(api, wait_place(api, "b"), place("b"))
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"name": "approved", "value": {"ok": "true"}, "until": until}
    for _ in range(len(keyed.others) + 1):  # each answers one of them
        link = ok(await api.native("POST", f"run/{flow.run_id}/event-link", json=body))["path"]
        assert (await api.request("GET", link)).status_code == 200
        assert (await api.request("GET", f"{link}A")).status_code == 404
    for _ in range(2):
        assert "This was sent" in (await api.request("POST", link)).text
    assert len(await claim(api, {node_name("b"): 10})) == 1
