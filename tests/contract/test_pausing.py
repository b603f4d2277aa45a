"""Paused nodes, whose states wait; and where it says that something waits for one."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, claim_one, executed_item, item_for, results
from tests.support.helpers import node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server cannot pause")


async def pause(api: Api, what: str = f"node/{B}") -> str:
    at = ok(await api.native("POST", f"{what}/pause"))["paused_at"]
    assert isinstance(at, str)
    return at


async def resume(api: Api, what: str = f"node/{B}") -> None:
    assert ok(await api.native("POST", f"{what}/resume")) == {"paused_at": None}


async def claimed(api: Api) -> list[str]:
    """Return the nodes of what both APIs give out, the native one first."""
    native = await claim(api, {A: 10, B: 10})
    through_v0 = ok(await api.claim([A, B], 10))["states"]
    return [state["node_name"] for state in [*native, *through_v0]]


def along(**limits: int) -> dict[str, Any]:
    fields = {"worker_id": "busy", "limits": limits, "limit": 10, "at_once": 10}
    return {"claim": {**fields, "claim_id": str(uuid.uuid4())}}


async def test_no_claim_takes_states_of_a_paused_node_and_every_one_does_when_it_is_resumed(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    await pause(api)
    first = await claim_one(api)
    reply = ok(await api.outcomes(executed_item(first), along(**{A: 10, B: 10})))
    assert (results(reply), reply["states"]) == (["ok"], [])
    await flow.trigger()
    assert await claimed(api) == [A], "others are not held up"
    assert await claim(api, {B: 10}, run_id=first["run_id"]) == []
    await resume(api)
    assert [state["run_id"] for state in await claim(api, {B: 10})] == [first["run_id"]]


async def test_a_long_poll_for_a_paused_node_gets_its_states_when_it_is_resumed(api: Api) -> None:
    flow = await Flow.start(api, place("b"))
    await pause(api)
    taken: list[dict[str, Any]] = []

    async def wait() -> None:
        while not taken:
            taken.extend(await claim(api, {B: 1}, wait_ms=15_000, claim_id=str(uuid.uuid4())))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await api.health()
        await resume(api)
    assert [state["run_id"] for state in taken] == [flow.run_id]


async def test_running_states_of_a_paused_node_go_on_and_their_next_states_wait(api: Api) -> None:
    flow = await Flow.start(api, place("b", "b2"), place("b2", node_name=B), runs=3)
    done, failed, released = await claim(api, {B: 3})
    await pause(api)
    held = [item_for(state, running=True) for state in (done, failed, released)]
    beat = ok(await api.native("POST", "heartbeat", json={"worker_id": "contract-worker", "states": held}))
    assert {item["result"] for item in beat["items"]} == {"ok"}
    reply = ok(
        await api.outcomes(executed_item(done), item_for(failed, outcome="errored", error="retried, later"))
    )
    assert results(reply) == ["ok", "ok"]
    ok(await api.release(states=[item_for(released)]))
    assert await claimed(api) == []
    # Such a run can be cancelled as any other.
    ok(await api.native("POST", f"run/{failed['run_id']}/cancel"))
    await resume(api)
    await flow.take("b", 2)  # both places of the node: what was released, and what follows


async def test_a_node_stays_paused_when_it_is_registered_again_and_only_in_its_namespace(api: Api) -> None:
    flow = await Flow.start(api, place("b"))
    elsewhere = await Flow.start(api.elsewhere(), place("b"))
    since = await pause(api)
    await api.register_for([place("b")], ("v", "w"), ())
    assert await pause(api) == since, "the first time counts"
    await flow.none_ready("b")
    await elsewhere.one("b")


async def test_a_pause_is_shown_where_states_wait_for_the_node(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", "b"), place("b"))
    since = await pause(api)
    run_id = await flow.trigger()
    run = ok(await api.native_run(run_id))
    assert {node["identifier"]: node["paused_at"] for node in run["nodes"]} == {"a": None, "b": None}
    await flow.run("a")
    run = ok(await api.native_run(run_id))
    assert {node["identifier"]: node["paused_at"] for node in run["nodes"]} == {"a": None, "b": since}
    (state,) = await flow.states("b")
    assert ok(await api.history(state["id"]))["paused_at"] == since
    nodes = {node["name"]: node.get("paused_at") for node in ok(await api.nodes())["nodes"]}
    assert (nodes[A], nodes[B]) == (None, since)
    loads = {each["name"]: each for each in ok(await api.native("GET", "overview"))["nodes"]}
    assert (loads[B]["paused_at"], loads[B]["waiting"], loads[B]["eligible"]) == (since, 1, 0)
    assert loads[A]["paused_at"] is None
    await resume(api)
    assert ok(await api.history(state["id"]))["paused_at"] is None
    assert "paused_at" not in ok(await api.nodes())["nodes"][1], "v0 has no such field"


async def test_a_paused_schedule_is_shown_and_its_graph_can_be_triggered(api: Api) -> None:
    cron = [{"type": "CRON", "value": {"expression": "* * * * *"}}]
    flow = await Flow.deploy(api, place("a"), triggers=cron)
    since = await pause(api, f"graph/{flow.graph}")
    ok(await api.put_graph(flow.graph, api.body([place("a")], triggers=cron)), 201)
    (listed,) = ok(await api.graphs())["templates"]
    assert listed["paused_at"] == ok(await api.get_graph(flow.graph))["paused_at"] == since
    await flow.trigger()
    await flow.one("a")
    await resume(api, f"graph/{flow.graph}")
    assert "paused_at" not in ok(await api.get_graph(flow.graph))


@pytest.mark.parametrize("what", ["node/nothing", f"node/{node_name('a')}", "graph/nothing", "graph/graph"])
async def test_an_unknown_node_or_graph_cannot_be_paused(api: Api, what: str) -> None:
    await Flow.deploy(api, place("a"))
    for do in ("pause", "resume"):
        refused(await api.elsewhere().native("POST", f"{what}/{do}"), 404)
