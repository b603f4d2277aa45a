"""Design section 4: discovery, claims, claim ids, long polls and releases."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import (
    HOUR_MS,
    A,
    B,
    claim,
    claim_one,
    executed_item,
    item_for,
    report,
    results,
    until_polling,
)
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, declare, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


# -- discovery


async def test_discovery_answers_a_version_and_capabilities(api: Api) -> None:
    reply = ok(await api.discover())
    assert isinstance(reply["version"], str)
    assert reply["version"]
    assert isinstance(reply["capabilities"], list)
    assert {"leases", "batch", "long_poll", "checkpoints", "limits", "order"} <= set(reply["capabilities"])


async def test_an_unknown_native_route_is_a_json_404(api: Api) -> None:
    refused(await api.native("POST", "nothing", json={}), 404)
    refused(await api.request("GET", "/exotrio/v2"), 404)


# -- claiming


async def test_a_claim_does_not_wait_for_a_node_that_is_not_registered_and_says_so(api: Api) -> None:
    with trio.fail_after(10):  # below the wait
        for nodes in ({"Lost": 1}, {"Lost": 1, A: 1}):
            assert ok(await api.native_claim(nodes, wait_ms=15_000)) == {"states": [], "register": True}
            await Flow.deploy(api, place("a"))
        ok(await api.register([declare("Lost")]))
    assert ok(await api.native_claim({"Lost": 1, A: 1})) == {"states": []}


async def test_a_claim_answers_states_with_leases(api: Api) -> None:
    flow = await Flow.start(api, place("a", inputs={"p": "x"}))
    state = await claim_one(api)
    lease = state.pop("lease")
    assert state.pop("created_at")
    assert state.pop("waited_ms") >= 0
    state_id = state.pop("state_id")
    assert state == {
        "node_name": A,
        "identifier": "a",
        "graph_name": "graph",
        "run_id": flow.run_id,
        "inputs": {"p": "x"},
    }
    assert isinstance(lease["token"], str)
    assert lease["token"]
    assert lease["ttl_ms"] is None or 0 < lease["ttl_ms"] <= 24 * HOUR_MS
    assert (lease["attempt"], lease["deliveries"]) == (1, 0)
    assert await flow.status(state_id) == "QUEUED"


async def test_limits_hold_for_each_node_and_the_limit_for_all(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), graph="one")
    other = await Flow.deploy(api, place("b"), graph="two")
    for _ in range(4):
        await flow.trigger()
        await other.trigger()

    def sizes(states: list[dict[str, Any]]) -> tuple[int, int]:
        names = [state["node_name"] for state in states]
        return names.count(A), names.count(B)

    assert sizes(await claim(api, {A: 1, B: 2})) == (1, 2)
    assert sizes(await claim(api, {A: 0, B: 1})) == (0, 1)
    assert len(await claim(api, {A: 10, B: 10}, limit=2)) == 2
    assert await claim(api, {A: 10, B: 10}, limit=0) == []
    assert len(await claim(api, {A: 10, B: 10})) == 2
    assert await claim(api, {A: 10, B: 10}) == []


async def test_a_claim_takes_only_the_nodes_it_names_in_its_namespace(api: Api) -> None:
    await Flow.start(api, place("a"))
    assert await claim(api, {B: 5}) == []
    assert await claim(api.elsewhere(), {A: 5}) == []
    await claim_one(api)


async def test_the_same_claim_id_returns_the_states_still_held(api: Api) -> None:
    await Flow.start(api, place("a"), runs=3)
    claim_id = str(uuid.uuid4())
    first = await claim(api, {A: 2}, claim_id=claim_id)
    again = await claim(api, {A: 2}, claim_id=claim_id)
    assert [(s["state_id"], s["lease"]["token"]) for s in again] == [
        (s["state_id"], s["lease"]["token"]) for s in first
    ]
    assert await report(api, executed_item(first[0])) == ["ok"]
    (held,) = await claim(api, {A: 2}, claim_id=claim_id)
    assert held["state_id"] == first[1]["state_id"]
    assert await report(api, executed_item(first[1])) == ["ok"]
    assert await claim(api, {A: 2}, claim_id=claim_id) == []
    assert len(await claim(api)) == 1


async def test_an_empty_claim_may_be_repeated(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    claim_id = str(uuid.uuid4())
    assert await claim(api, claim_id=claim_id) == []
    assert await claim(api, claim_id=claim_id) == []


@pytest.mark.parametrize(
    "change",
    [
        {"worker_id": None},
        {"worker_id": ""},
        {"claim_id": ""},
        {"claim_id": None},
        {"limit": -1},
        {"limits": {A: -1}},
        {"limits": []},
        {"wait_ms": -1},
        {"wait_ms": 15_001},
    ],
    ids=str,
)
async def test_a_claim_of_the_wrong_shape_is_422(api: Api, change: dict[str, Any]) -> None:
    body = {"worker_id": "w", "limits": {A: 1}, "limit": 1, "wait_ms": 0, "claim_id": "c"} | change
    assert (await api.native("POST", "claim", json=body)).status_code == 422


# -- long poll


async def test_a_long_poll_answers_at_once_if_a_state_is_there(api: Api) -> None:
    await Flow.start(api, place("a"))
    with trio.fail_after(14):
        await claim_one(api, wait_ms=15_000)


async def test_a_long_poll_without_work_ends_empty(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    with trio.fail_after(14):
        assert await claim(api, wait_ms=30) == []


APPEARS: dict[str, Callable[[Api, Flow, dict[str, Any]], Awaitable[Any]]] = {
    "trigger": lambda api, flow, held: flow.trigger(),
    "delay": lambda api, flow, held: flow.trigger(start_delay=30),
    "next state": lambda api, flow, held: report(api, executed_item(held)),
    "unite": lambda api, flow, held: report(api, executed_item(held)),
    "requeue": lambda api, flow, held: report(api, item_for(held, outcome="requeued", delay_ms=10)),
    "retry": lambda api, flow, held: report(api, item_for(held, outcome="errored", error="x")),
    "retry by hand": lambda api, flow, held: api.manual_retry(held["state_id"]),
    "release": lambda api, flow, held: api.release(states=[item_for(held)]),
}


@pytest.mark.parametrize("event", APPEARS)
async def test_a_long_poll_returns_as_soon_as_a_state_appears(api: Api, event: str) -> None:
    places = place("a", "b"), place("b", "u"), place("u", unites="a")
    flow = await Flow.deploy(api, *places, retry_policy=NO_RETRY | {"max_retries": 1})
    claimed: list[dict[str, Any]] = []
    node = {"next state": B, "unite": node_name("u")}.get(event, A)
    held: dict[str, Any] = {}
    if event not in {"trigger", "delay"}:
        await flow.trigger()
        held = await claim_one(api)
    if event == "unite":
        assert await report(api, executed_item(held)) == ["ok"]
        held = await claim_one(api, limits={B: 1})
    if event == "retry by hand":
        assert await report(api, item_for(held, outcome="pruned", data={})) == ["ok"]

    async def poll() -> None:
        claimed.extend(await claim(api, {node: 1}, wait_ms=15_000, worker_id="poller"))

    with trio.fail_after(14):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await until_polling(api, "poller")
            await APPEARS[event](api, flow, held)
    assert len(claimed) == 1


async def test_one_of_two_long_polls_gets_the_state(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    sizes: dict[str, int] = {}
    answered = trio.Event()

    async def poll(name: str) -> None:
        sizes[name] = len(await claim(api, wait_ms=15_000, worker_id=name, claim_id=name))
        answered.set()

    names = [str(uuid.uuid4()) for _ in range(2)]
    with trio.fail_after(14):
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(poll, name)
            await until_polling(api, *names)
            await flow.trigger()
            await answered.wait()
            for other in set(names) - sizes.keys():
                ok(await api.release(claim_id=other))
                await flow.trigger()  # wakes it, to find that it takes nothing any more
    assert sorted(sizes.values()) == [0, 1]


# -- release


async def test_a_released_state_is_free_at_once_and_uses_no_retry(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    for _ in range(4):
        state = await claim_one(api)
        assert results(ok(await api.release(states=[item_for(state)]))) == ["ok"]
        assert await flow.status(state["state_id"]) == "CREATED"
    assert state["lease"]["attempt"] == 1
    assert await flow.statuses() == {("a", "CREATED"): 1}


async def test_a_release_may_delay(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert results(ok(await api.release(states=[item_for(state)], delay_ms=HOUR_MS))) == ["ok"]
    assert await claim(api) == []
    assert await flow.status(state["state_id"]) == "CREATED"


async def test_a_release_answers_for_every_state(api: Api) -> None:
    await Flow.start(api, place("a"), runs=3)
    held, done, forged = await claim(api)
    assert await report(api, executed_item(done)) == ["ok"]
    items = [
        item_for(held),
        item_for(done),
        {"state_id": forged["state_id"], "token": "forged"},
        {"state_id": UNKNOWN_ID, "token": "x"},
    ]
    reply = ok(await api.release(states=items))
    assert [item["state_id"] for item in reply["items"]] == [item["state_id"] for item in items]
    assert results(reply) == ["ok", "stale", "stale", "unknown"]
    (free,) = await claim(api)
    assert free["state_id"] == held["state_id"]


async def test_releasing_a_claim_id_frees_what_is_held_and_voids_the_id(api: Api) -> None:
    await Flow.start(api, place("a"), runs=3)
    claim_id = str(uuid.uuid4())
    states = await claim(api, {A: 2}, claim_id=claim_id)
    assert await report(api, executed_item(states[0])) == ["ok"]
    ok(await api.release(claim_id=claim_id))
    assert await claim(api, claim_id=claim_id) == []
    assert await report(api, executed_item(states[0])) == ["duplicate"]
    assert len(await claim(api)) == 2


async def test_releasing_an_unknown_claim_id_voids_it(api: Api) -> None:
    await Flow.start(api, place("a"))
    claim_id = str(uuid.uuid4())
    ok(await api.release(claim_id=claim_id))
    assert await claim(api, claim_id=claim_id) == []
    assert await claim(api, claim_id=claim_id, wait_ms=20) == []
    await claim_one(api)


async def test_releasing_a_claim_id_ends_its_long_poll_empty(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    claim_id = str(uuid.uuid4())
    claimed: list[dict[str, Any]] = []

    async def poll() -> None:
        claimed.extend(await claim(api, claim_id=claim_id, wait_ms=15_000, worker_id="poller"))

    with trio.fail_after(14):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            await until_polling(api, "poller")
            ok(await api.release(claim_id=claim_id))
            await flow.trigger()
    assert claimed == []
    await claim_one(api)


async def test_a_claim_says_whether_the_limit_of_the_graph_replaces_that_of_the_class(api: Api) -> None:
    await Flow.start(api, place("a", timeout=90.5))
    state = await claim_one(api)
    assert (state["timeout_ms"], state["timeout_overrides"]) == (90_500, True)


async def test_a_claim_says_for_how_long_the_graph_lets_a_node_run(api: Api) -> None:
    nodes = [{**place("a", "b"), "timeout_minutes": 90}, place("b")]
    await api.register_for(nodes)
    shown = ok(await api.put_graph("g", api.body(nodes)), 201)
    assert [each.get("timeout_minutes", "not shown") for each in shown["nodes"]] == [90, "not shown"]
    for _ in range(2):
        ok(await api.trigger("g"))
    (state,) = await claim(api, limit=1)
    assert state["timeout_ms"] == 90 * 60_000
    (through_v0,) = ok(await api.claim([node_name("a")]))["states"]
    assert "timeout_ms" not in through_v0
    assert await report(api, executed_item(state)) == ["ok"]
    assert "timeout_ms" not in await claim_one(api, limits={node_name("b"): 1})
    for fields in (
        {"timeout": 0},
        {"timeout": "NaN"},
        {"timeout": 1e12},
        {"timeout": 5, "timeout_minutes": 1},
        {"retry_policy": {"max_retries": -1}},
    ):
        refused(await api.put_graph("g", api.body([place("a", **fields)])), 422)
    for minutes in (0, -1, 1.5, "x", 10**9):
        body = api.body([{**place("a"), "timeout_minutes": minutes}])
        refused(await api.put_graph("g", body), 422)
