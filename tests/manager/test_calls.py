"""Runs that nodes call: each is started once, and the node runs again with what came of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from exotrio._wire.vocabulary import MAX_CALL_BYTES, MAX_CALLS
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim, claim_one, executed_item, item_for, report
from tests.support.due import clear, discard
from tests.support.helpers import FAST_RETRY, NO_RETRY, eventually, node_name, ok, place
from tests.support.manager import Manager, both_engines, open_two, recount

C = node_name("c")
CHILD = [place("c", inputs={"x": "${{ store.k }}", "y": "-"})]
BOTH = {B: 10, C: 10}


@pytest.fixture
async def two(engine: str) -> AsyncIterator[tuple[Manager, Manager]]:
    async with open_two(engine) as (one, other):
        yield one, other
        await one.service.store.write(recount)


@pytest.fixture
def api(two: tuple[Manager, Manager]) -> Api:
    return two[0].api


async def parent(api: Api, **fields: Any) -> tuple[Flow, dict[str, Any]]:
    """Store a graph to call, start a run of another one, and return its state, claimed."""
    await api.register_for(CHILD)
    await Flow.put(
        api,
        "child",
        api.body(
            CHILD,
            store_config={"required_keys": ["k"]},
            outputs={"v": "${{ c.outputs.v }}"},
            retry_policy=NO_RETRY,
        ),
    )
    flow = await Flow.start(api, place("b"), **{"retry_policy": NO_RETRY, **fields})
    return flow, await claim_one(api, limits={B: 1})


def call(key: str, graph: str = "child", **inputs: str) -> dict[str, Any]:
    return {"id": key, "graph": graph, "inputs": inputs or {"k": key}}


def calling(state: dict[str, Any], *calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return item_for(state, outcome="calling", calls=list(calls), **fields)


async def children(api: Api, count: int) -> list[dict[str, Any]]:
    """Claim that many states of children, by their input."""
    found: list[dict[str, Any]] = []

    async def all_of_them() -> None:
        found.extend(await claim(api, limits={C: 100}))
        assert len(found) >= count

    await eventually(all_of_them)
    assert len(found) == count
    return sorted(found, key=lambda state: state["inputs"]["x"])


async def again(api: Api) -> dict[str, Any]:
    """Return the state of the parent, claimed again."""
    found: list[dict[str, Any]] = []

    async def claimed() -> None:
        found.extend(await claim(api, limits={B: 1}))
        assert found

    await eventually(claimed)
    return found[0]


def runs(view: View) -> int:
    return int(view.one("SELECT count(*) AS count FROM runs WHERE parent_state IS NOT NULL")["count"])


async def test_a_node_gets_the_outputs_of_all_its_children_once_all_have_ended(
    two: tuple[Manager, Manager], api: Api
) -> None:
    flow, state = await parent(api)
    assert "children" not in state
    assert await report(api, calling(state, call("one"), call("two", k="2", y="given"))) == ["ok"]
    one, other = await children(two[1].api, 2)
    assert (one["inputs"], other["inputs"]) == ({"x": "2", "y": "given"}, {"x": "one", "y": "-"})
    nodes = ok(await api.native_run(flow.run_id))["nodes"]
    assert nodes[0]["counts"] == {"WAITING": 1}
    await report(api, executed_item(one, {"v": "second", "w": ""}))
    await trio.testing.wait_all_tasks_blocked()
    assert await claim(api, limits={B: 1}) == []
    await report(two[1].api, executed_item(other, {"v": "first", "w": ""}))
    state = await again(api)
    assert state["lease"]["attempt"] == 1
    assert {key: child["outputs"] for key, child in state["children"].items()} == {
        "one": {"v": "first"},
        "two": {"v": "second"},
    }
    assert {child["run_id"] for child in state["children"].values()} == {one["run_id"], other["run_id"]}
    await report(api, executed_item(state))
    assert ok(await api.native_run(flow.run_id))["status"] == "SUCCESS"


async def test_children_are_started_once_and_their_results_stay_from_round_to_round(
    two: tuple[Manager, Manager], api: Api
) -> None:
    _, state = await parent(api)
    item = calling(state, call("one"))
    assert await report(api, item) == ["ok"]
    assert await report(two[1].api, item) == ["duplicate"]
    (one,) = await children(api, 1)
    await report(api, executed_item(one))
    state = await again(api)
    # A runtime that did not get the results: nothing is started again, and nothing is waited for.
    assert await report(api, calling(state, call("one"))) == ["ok"]
    state = await again(api)
    assert await report(api, calling(state, call("two"))) == ["ok"]
    (two_,) = await children(api, 1)
    await report(api, executed_item(two_))
    state = await again(two[1].api)
    assert state["children"].keys() == {"one", "two"}
    assert await two[0].service.store.read(runs) == 2


async def test_a_call_that_cannot_be_started_is_an_error_of_that_child(api: Api) -> None:
    _, state = await parent(api)
    calls = [call("a", "missing"), call("b", z="1"), call("c", k="1", z="2"), call("d")]
    await report(api, calling(state, *calls))
    (child,) = await children(api, 1)
    await report(api, item_for(child, outcome="errored", error="broken"))
    results = (await again(api))["children"]
    errors = {key: child["error"] for key, child in results.items()}
    assert errors["a"] == "graph 'missing' cannot be run: it does not exist"
    assert "the store lacks required keys: k" in errors["b"] or "k" in errors["b"]
    assert "z" in errors["c"]
    assert errors["d"] == f"run {child['run_id']} of graph 'child' failed: c: broken"


async def test_a_state_whose_calls_all_fail_to_start_is_claimed_again(api: Api) -> None:
    _, state = await parent(api)
    await report(api, calling(state, call("a", "missing")))
    assert (await again(api))["children"]["a"]["outputs"] is None


@pytest.mark.parametrize("by_hand", [False, True])
@both_engines
async def test_a_retry_keeps_the_children_that_succeeded(
    two: tuple[Manager, Manager], api: Api, by_hand: bool
) -> None:
    flow, state = await parent(api, retry_policy=NO_RETRY if by_hand else FAST_RETRY)
    await report(api, calling(state, call("good"), call("bad"), checkpoint={"number": 1, "value": "{}"}))
    bad, good = await children(api, 2)
    await report(api, executed_item(good), item_for(bad, outcome="errored", error="broken"))
    state = await again(api)
    assert state["children"]["bad"]["error"]
    await report(api, item_for(state, outcome="errored", error="ChildFailed"))
    if by_hand:
        ok(await api.retry_run(flow.run_id))
    retried = await again(api)
    assert retried["state_id"] != state["state_id"]
    assert {key: child["outputs"] for key, child in retried["children"].items()} == {"good": {"v": "x"}}
    await report(api, calling(retried, call("bad")))
    (bad,) = await children(api, 1)
    await report(api, executed_item(bad))
    assert (await again(api))["children"].keys() == {"good", "bad"}
    assert await two[0].service.store.read(runs) == 3


async def test_a_retry_from_the_beginning_calls_all_again(api: Api) -> None:
    flow, state = await parent(api)
    await report(api, calling(state, call("one")))
    (one,) = await children(api, 1)
    await report(api, executed_item(one))
    await report(api, item_for(await again(api), outcome="errored", error="e"))
    ok(await api.retry_run(flow.run_id, from_beginning=True))
    assert "children" not in await again(api)


@both_engines
async def test_a_cancelled_run_cancels_its_children(two: tuple[Manager, Manager], api: Api) -> None:
    flow, state = await parent(api)
    await report(api, calling(state, call("one"), call("two")))
    await children(api, 2)
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))

    async def cancelled() -> None:
        pending = await two[0].service.store.read(
            lambda view: view.one("SELECT count(*) AS count FROM runs WHERE cancelled_at IS NULL")["count"]
        )
        assert pending == 0

    await eventually(cancelled)


@both_engines
async def test_a_claim_for_one_run_takes_states_of_its_children(api: Api) -> None:
    flow, state = await parent(api)
    other = await Flow.start(api, place("b"))
    await report(api, calling(state, call("one"), call("two")))
    found: list[dict[str, Any]] = []
    # The first claim may wait before the children begin.
    while len(found) < 2:
        found += await claim(api, limits=BOTH, run_id=flow.run_id, wait_ms=5_000)
    assert {each["node_name"] for each in found} == {C}
    await report(api, *map(executed_item, found))
    (state,) = await claim(api, limits=BOTH, run_id=flow.run_id, wait_ms=5_000)
    assert (state["run_id"], state["children"].keys()) == (flow.run_id, {"one", "two"})
    assert len(await claim(api, limits={B: 1}, run_id=other.run_id)) == 1


@both_engines
async def test_many_children_are_started_in_steps(two: tuple[Manager, Manager], api: Api) -> None:
    _, state = await parent(api)
    await report(api, calling(state, *(call(f"{number:03}") for number in range(250))))
    states = await children(api, 250)
    for start in range(0, 250, 50):
        await report(api, *map(executed_item, states[start : start + 50]))
    assert len((await again(api))["children"]) == 250
    assert await two[0].service.store.read(runs) == 250


async def test_the_number_of_children_and_the_size_of_their_inputs_are_limited(api: Api) -> None:
    _, state = await parent(api)
    many = [call(str(number)) for number in range(MAX_CALLS + 1)]
    assert await report(api, calling(state, *many)) == ["invalid"]
    assert await report(api, calling(state, call("a", k="x" * MAX_CALL_BYTES))) == ["invalid"]
    assert await report(api, calling(state)) == ["invalid"]
    assert await report(api, calling(state, *(call(str(n), "missing") for n in range(MAX_CALLS)))) == ["ok"]
    state = await again(api)
    assert len(state["children"]) == MAX_CALLS
    reply = ok(await api.outcomes(calling(state, call("one more"))))["items"][0]
    assert (reply["result"], reply["detail"]) == ("invalid", "a state calls at most 1,000 children")
    assert await report(api, executed_item(state)) == ["ok"]


@both_engines
async def test_the_calls_of_a_run_are_deleted_with_it(two: tuple[Manager, Manager], api: Api) -> None:
    _, state = await parent(api)
    await report(api, calling(state, *(call(str(number), "missing") for number in range(150))))
    await report(api, executed_item(await again(api)))
    store = two[0].service.store
    assert await store.write(discard, -1) == 1
    while await store.write(clear):
        pass
    assert await store.read(lambda view: view.row("SELECT 1 FROM calls")) is None
    assert await store.read(lambda view: view.row("SELECT 1 FROM states")) is None


async def test_outputs_that_are_too_large_together_are_the_error_of_a_child(api: Api) -> None:
    _, state = await parent(api)
    await report(api, calling(state, call("1"), call("2")))
    one, other = await children(api, 2)
    large = {"v": "x" * (MAX_CALL_BYTES // 2), "w": ""}
    await report(api, executed_item(one, large), executed_item(other, large))
    results = (await again(api))["children"].values()
    (error,) = [child["error"] for child in results if child["outputs"] is None]
    assert error == "its outputs have 524,296 bytes; all children of a state may have 1,048,576 together"
