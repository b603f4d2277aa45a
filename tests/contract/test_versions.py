"""Graphs that name a version of the code, whose runs only runtimes of that version execute."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from exotrio.graph import pinned_name
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, executed_item, item_for, report, results
from tests.support.helpers import FAST_RETRY, NO_RETRY, declare, ok, place, refused, run_place

pytestmark = pytest.mark.deviates_from_stock("a stock server does not know versions")
PLACES = [place("a", "b"), place("b", inputs={"x": "${{ a.outputs.v }}"})]


def named(version: str | None, *nodes: str) -> list[str]:
    """Return what a runtime of a version registers and claims."""
    return [*nodes, *(pinned_name(node, version) for node in nodes if version)]


async def register(api: Api, version: str | None, **inputs: list[str]) -> None:
    """Register a and b, with these inputs, as a runtime of a version does."""
    nodes = [
        declare(name, inputs.get(node[-1], ["x"] if node == B else []), ["v", "w"])
        for node in (A, B)
        for name in named(version, node)
    ]
    ok(await api.register(nodes))


async def take(api: Api, version: str | None, limit: int = 10, **options: Any) -> list[dict[str, Any]]:
    return await claim(api, dict.fromkeys(named(version, A, B), limit), limit=limit, **options)


async def deploy(api: Api, version: str | None, name: str = "graph", **fields: Any) -> Flow:
    await register(api, version)
    more = {} if version is None else {"version": version}
    return await Flow.put(api, name, api.body(PLACES, **{"retry_policy": NO_RETRY, **more, **fields}))


def along(**limits: int) -> dict[str, Any]:
    fields = {"worker_id": "busy", "limits": limits, "limit": 10, "at_once": 10}
    return {"claim": {**fields, "claim_id": str(uuid.uuid4())}}


async def test_a_pinned_run_is_claimed_by_its_version_only_to_the_end(api: Api) -> None:
    pinned = await deploy(api, "1", retry_policy=FAST_RETRY)
    await register(api, "2")
    run_id = await pinned.trigger()
    for version in (None, "2"):
        assert await take(api, version) == []
    assert ok(await api.claim([A, B], 10))["states"] == []
    (first,) = await take(api, "1")
    assert await report(api, executed_item(first)) == ["ok"]
    assert await take(api, "2") == []
    (second,) = await take(api, "1")
    # A retry, and a state that is given back.
    assert await report(api, item_for(second, outcome="errored", error="once")) == ["ok"]
    assert await take(api, "2", wait_ms=500) == []
    (again,) = await take(api, "1", wait_ms=5_000)
    assert again["lease"]["attempt"] == 2
    assert results(
        ok(await api.release(states=[{k: item_for(again)[k] for k in ("state_id", "token")}]))
    ) == ["ok"]
    assert await take(api, "2") == []
    (again,) = await take(api, "1")
    assert await report(api, executed_item(again)) == ["ok"]
    assert ok(await api.native_run(run_id))["status"] == "SUCCESS"


async def test_other_runs_are_claimed_by_any_version_and_v0(api: Api) -> None:
    flow = await deploy(api, None)
    await register(api, "1")
    await register(api, "2")
    for _ in range(4):
        await flow.trigger()
    taken = [*await take(api, None, 1), *await take(api, "1", 1), *await take(api, "2", 1)]
    assert [state["node_name"] for state in taken] == [A, A, A]
    assert len(ok(await api.claim([A], 10))["states"]) == 1


async def test_what_follows_is_claimed_in_the_request_that_reports(api: Api) -> None:
    pinned = await deploy(api, "1")
    await register(api, "2")
    await pinned.trigger()
    (first,) = await take(api, "1")
    limits = dict.fromkeys(named("2", A, B), 10)
    assert ok(await api.outcomes(executed_item(first), along(**limits)))["states"] == []
    await pinned.trigger()
    first = next(state for state in await take(api, "1") if state["identifier"] == "a")
    limits = dict.fromkeys(named("1", A, B), 10)
    reply = ok(await api.outcomes(executed_item(first), along(**limits)))
    assert [state["identifier"] for state in reply["states"]] == ["b"]


async def test_pinned_and_other_states_share_the_limit_and_the_turns_of_their_node(api: Api) -> None:
    pinned = await deploy(api, "1")
    other = await deploy(api, None, "other")
    for _ in range(6):
        await pinned.trigger()
    for _ in range(6):
        await other.trigger()
    limits = {A: 2, pinned_name(A, "1"): 2}
    assert len(await claim(api, limits, limit=50)) == 2, "of the node, not of each of its names"
    taken = await take(api, "1", 8)
    assert len(taken) == 8
    assert {state["graph_name"] for state in taken} == {"graph", "other"}


async def test_a_later_registration_leaves_a_pinned_run_its_fields_and_secrets(api: Api) -> None:
    nodes = [declare(name, [], ["v"], ["old"]) for name in named("1", A)]
    ok(await api.register(nodes))
    body = api.body([place("a")], secrets={"old": "1", "new": "2"}, version="1")
    flow = await Flow.put(api, "graph", body)
    await flow.trigger()
    ok(await api.register([declare(name, ["n"], ["m"], ["new"]) for name in named("2", A)]))
    await flow.trigger()
    (first, _) = await take(api, "1")
    secrets = ok(await api.secrets(first["state_id"], first["lease"]["token"]))["secrets"]
    assert secrets == {"old": "1"}
    assert await report(api, executed_item(first, {"v": "1"})) == ["ok"]


async def test_a_graph_is_stored_only_for_a_version_that_is_registered(api: Api) -> None:
    await register(api, "1")
    shown = ok(await api.put_graph("graph", api.body(PLACES, version="2")), 201)
    assert shown["validation_status"] == "INVALID"
    assert any("'2'" in error for error in shown["validation_errors"]), shown["validation_errors"]
    shown = ok(await api.put_graph("graph", api.body(PLACES, version="1")), 201)
    assert (shown["validation_status"], shown["version"]) == ("VALID", "1")
    # As it is shown, it can be stored again, also with another version.
    stored = {key: shown[key] for key in ("nodes", "version")}
    again = ok(await api.put_graph("graph", {"secrets": {}, **stored}), 201)
    assert again["nodes"] == shown["nodes"]
    await register(api, "3")
    again = ok(await api.put_graph("graph", {"secrets": {}, **stored, "version": "3"}), 201)
    assert [node["node_name"] for node in again["nodes"]] == [pinned_name(node, "3") for node in (A, B)]
    assert "'no version'" in refused(
        await api.put_graph("graph", api.body(PLACES, version="no version")), 422
    )


async def test_a_run_keeps_its_version_when_the_graph_gets_another(api: Api) -> None:
    flow = await deploy(api, "1")
    await flow.trigger()
    await deploy(api, "2")
    await flow.trigger()
    assert len(await take(api, "2")) == 1
    assert len(await take(api, "1")) == 1


async def test_a_pause_of_a_node_is_one_of_all_its_versions(api: Api) -> None:
    flow = await deploy(api, "1")
    await flow.trigger()
    ok(await api.native("POST", f"node/{A}/pause"))
    assert await take(api, "1") == []
    later = await deploy(api, "2")
    await later.trigger()
    assert await take(api, "2") == []
    ok(await api.native("POST", f"node/{A}/resume"))
    assert (len(await take(api, "1")), len(await take(api, "2"))) == (1, 1)


async def repin(api: Api, run_id: str, version: str) -> Any:
    return await api.native("POST", f"run/{run_id}/repin", json={"version": version})


@pytest.mark.parametrize("fair_key", [None, "customer"])
async def test_a_run_moves_to_another_version_with_all_that_waits(api: Api, fair_key: str | None) -> None:
    await api.native("PUT", "limit/one", json={"at_most": 1})
    places = [place("a", "b"), place("b", inputs={"x": "${{ a.outputs.v }}"}, limits=[{"name": "one"}])]
    await register(api, "1")
    await Flow.put(api, "graph", api.body(places, version="1", retry_policy=FAST_RETRY))
    run_id = str(uuid.uuid4())
    ok(await api.native_trigger("graph", run_id, **({"fair_key": fair_key} if fair_key else {})))
    (first,) = await take(api, "1")
    assert await report(api, executed_item(first, *[{"v": "x", "w": "w"}] * 3)) == ["ok"]
    (held,) = await take(api, "1")  # two wait for the limit
    await register(api, "2")
    assert ok(await repin(api, run_id, "2")) == {
        "run_id": run_id,
        "version": "2",
        "before": "1",
        "may_not_fit": [],
    }
    # What a runtime holds is ended by it, and its retry runs on the other version.
    assert await report(api, item_for(held, outcome="errored", error="once")) == ["ok"]
    for _ in range(3):
        assert await take(api, "1") == []
        (state,) = await take(api, "2", wait_ms=5_000)
        assert await report(api, executed_item(state)) == ["ok"]
    assert ok(await api.native_run(run_id))["status"] == "SUCCESS"
    assert ok(await repin(api, run_id, "2"))["before"] == "2", "it changes nothing"


async def test_a_run_does_not_move_to_a_version_that_it_does_not_fit(api: Api) -> None:
    flow = await deploy(api, "1")
    run_id = await flow.trigger()
    text = refused(await repin(api, run_id, "9"), 409)
    assert f"the run {run_id} cannot go on with version '9'" in text
    assert "no such class" in text
    await register(api, "2", b=["x", "y"])
    assert "runs of the old code have no 'y'" in refused(await repin(api, run_id, "2"), 409)
    assert await take(api, "2") == []
    (first,) = await take(api, "1")
    assert await report(api, executed_item(first)) == ["ok"]
    # What it is past need not fit.
    nodes = [declare(B, ["x"], ["v"])]
    ok(await api.register([{**node, "name": pinned_name(B, "3")} for node in nodes]))
    assert ok(await repin(api, run_id, "3"))["before"] == "1"
    assert [state["identifier"] for state in await take(api, "3")] == ["b"]


async def test_an_input_that_waits_has_to_fit_the_other_version(api: Api) -> None:
    flow = await deploy(api, "1")
    for value in ("5", "five"):
        run_id = await flow.trigger()
        (first,) = await take(api, "1", run_id=run_id)
        assert await report(api, executed_item(first, {"v": value, "w": ""})) == ["ok"]
    node = declare(B, ["x"], ["v"])
    node["inputs_schema"]["properties"]["x"]["contentSchema"] = {"type": "integer"}
    ok(await api.register([{**node, "name": pinned_name(B, "2")}]))
    answer = ok(await api.native("POST", "version/1/repin", json={"version": "2"}))
    assert len(answer["repinned"]) == len(answer["refused"]) == 1
    assert answer["refused"][0]["run_id"] == flow.run_id
    assert "input 'x' must be a whole number" in answer["refused"][0]["reason"]
    assert "five" not in answer["refused"][0]["reason"]
    assert [state["inputs"] for state in await take(api, "2")] == [{"x": "5"}]


@pytest.mark.parametrize("of", ["a state", "the run"])
async def test_what_is_retried_by_hand_runs_on_the_version_to_which_its_run_moved(api: Api, of: str) -> None:
    flow = await deploy(api, "1")
    run_id = await flow.trigger()
    (first,) = await take(api, "1")
    assert await report(api, item_for(first, outcome="errored", error="for good")) == ["ok"]
    await register(api, "2")
    assert ok(await repin(api, run_id, "2"))["before"] == "1"
    if of == "a state":
        ok(await api.manual_retry(first["state_id"]))
    else:
        ok(await api.retry_run(run_id))
    assert await take(api, "1") == []
    assert [state["identifier"] for state in await take(api, "2")] == ["a"]


async def test_a_state_is_not_retried_on_a_version_that_lacks_its_node(api: Api) -> None:
    flow = await deploy(api, "1")
    run_id = await flow.trigger()
    (first,) = await take(api, "1")
    assert await report(api, item_for(first, outcome="errored", error="for good")) == ["ok"]
    ok(await api.register([declare(pinned_name(B, "2"), ["x"], ["v"])]))
    ok(await repin(api, run_id, "2"))
    text = refused(await api.manual_retry(first["state_id"]), 409)
    assert f"{pinned_name(A, '2')!r} now, which is not registered" in text
    await register(api, "2")
    ok(await api.manual_retry(first["state_id"]))
    assert [state["identifier"] for state in await take(api, "2")] == ["a"]


async def test_a_run_that_is_to_run_another_graph_moves(api: Api) -> None:
    await deploy(api, "1", name="below")
    places = [place("a", "child"), run_place("child", graph="below")]
    flow = await Flow.put(api, "graph", api.body(places, version="1", retry_policy=NO_RETRY))
    run_id = await flow.trigger()
    await register(api, "2")
    assert ok(await repin(api, run_id, "2"))["version"] == "2"


async def test_a_run_of_no_version_gets_one(api: Api) -> None:
    flow = await deploy(api, None)
    run_id = await flow.trigger()
    await register(api, "1")
    assert ok(await repin(api, run_id, "1"))["before"] is None
    assert await take(api, None) == []
    assert len(await take(api, "1")) == 1


async def test_it_is_said_that_no_runtime_of_the_version_is_alive(api: Api) -> None:
    flow = await deploy(api, "1")
    await register(api, "2")
    await flow.trigger()

    async def why() -> Any:
        node = ok(await api.native_run(flow.run_id))["nodes"][0]
        return node["waits_for"] and (node["waits_for"]["kind"], node["waits_for"]["text"])

    ok(await api.heartbeat("two", runtime="r", phase="running", workers=1, version="2"))
    await take(api, "2", worker_id="two")
    text = f"waits: {A}@1 is pinned to version 1; no runtime of that version is alive"
    assert await why() == ("no version", text)
    ok(await api.heartbeat("one", runtime="r", phase="running", workers=1, version="1"))
    await claim(api, dict.fromkeys(named("1", A, B), 0), limit=0, worker_id="one")
    assert await why() is None
