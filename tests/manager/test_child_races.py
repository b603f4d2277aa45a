"""Two state managers start, deliver and cancel the runs of states at one moment: each happens once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from exotrio.manager.engine.due_work import Step
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.due import CHILDREN, handle_due
from tests.support.helpers import NO_RETRY, node_name, ok, place, run_place
from tests.support.manager import Manager
from tests.support.races import (
    Call,
    Pair,
    cancelling,
    check_sound,
    in_both_orders,
    open_pair,
    race,
    reporting,
)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with open_pair() as opened:
        for manager in (opened.first, opened.second):
            manager.service.store.on_deliveries = lambda: None
        yield opened
        await check_sound(opened)


@pytest.fixture
def api(pair: Pair) -> Api:
    return pair.second.remote


async def starting(manager: Manager) -> int:
    handled: int = await handle_due(manager.service, Step.START)
    return handled


def doing(step: Step) -> Call:
    return lambda manager: handle_due(manager.service, step)


async def settle(pair: Pair) -> None:
    """Do all that is noted."""
    while await handle_due(pair.second.service, *CHILDREN):
        pass


async def waiting(api: Api) -> Flow:
    """Start a run whose first place is to run a graph."""
    await api.register_for([place("c"), place("b")])
    await Flow.put(api, "child", api.body([place("c")], outputs={"v": "${{ c.outputs.v }}"}))
    places = [run_place("g", "b", graph="child"), place("b", inputs={"x": "${{ g.outputs.v }}"})]
    flow = await Flow.put(api, "parent", api.body(places, retry_policy=NO_RETRY))
    await flow.trigger()
    return flow


async def running(pair: Pair, api: Api) -> tuple[Flow, str]:
    """Start such a run, and the run that its place wants; return its id, too."""
    flow = await waiting(api)
    assert await starting(pair.second) == 1
    (run_id,) = await children(pair)
    return flow, run_id


async def children(pair: Pair) -> list[str]:
    def of_states(view: View) -> list[str]:
        rows = view.execute("SELECT run_id FROM runs WHERE parent_state IS NOT NULL ORDER BY id")
        return [row["run_id"] for row in rows]

    found: list[str] = await pair.second.service.store.read(of_states)
    return found


async def counts(api: Api, run_id: str) -> dict[str, dict[str, int]]:
    nodes = ok(await api.native_run(run_id))["nodes"]
    return {node["identifier"]: node["counts"] for node in nodes if node["counts"]}


async def executed(api: Api) -> Call:
    """Claim the state of the run that was started; return what reports its success."""
    state = await claim_one(api, limits={node_name("c"): 1})
    return reporting(item_for(state, outcome="executed", outputs=[{"v": "1", "w": ""}]))


@in_both_orders
async def test_a_run_is_started_when_its_state_is_cancelled(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await waiting(api)
    started, cancelled = await race(pair, swapped, starting, cancelling(flow))
    ok(cancelled)
    assert (started, len(await children(pair))) == ((0, 0) if swapped else (1, 1))
    await settle(pair)
    assert await counts(api, flow.run_id) == {"g": {"ERRORED": 1}}
    for run_id in await children(pair):
        assert await counts(api, run_id) == {"c": {"ERRORED": 1}}


@in_both_orders
async def test_two_managers_start_a_run(pair: Pair, api: Api, swapped: bool) -> None:
    flow = await waiting(api)
    assert sorted(await race(pair, swapped, starting, starting)) == [0, 1]
    assert len(await children(pair)) == 1
    assert await counts(api, flow.run_id) == {"g": {"WAITING": 1}}


@in_both_orders
async def test_two_managers_deliver_an_end(pair: Pair, api: Api, swapped: bool) -> None:
    flow, _ = await running(pair, api)
    await (await executed(api))(pair.second)
    assert sorted(await race(pair, swapped, doing(Step.DELIVER), doing(Step.DELIVER))) == [0, 1]
    assert await counts(api, flow.run_id) == {"g": {"SUCCESS": 1}, "b": {"CREATED": 1}}


@in_both_orders
async def test_an_end_is_delivered_when_its_state_is_cancelled(pair: Pair, api: Api, swapped: bool) -> None:
    flow, run_id = await running(pair, api)
    await (await executed(api))(pair.second)
    delivered, cancelled = await race(pair, swapped, doing(Step.DELIVER), cancelling(flow))
    ok(cancelled)
    await settle(pair)
    assert delivered == 1
    ended = {"g": {"SUCCESS": 1}, "b": {"ERRORED": 1}}
    assert await counts(api, flow.run_id) == ({"g": {"ERRORED": 1}} if swapped else ended)
    assert await counts(api, run_id) == {"c": {"SUCCESS": 1}}


@in_both_orders
async def test_a_run_ends_when_it_is_cancelled_with_its_state(pair: Pair, api: Api, swapped: bool) -> None:
    flow, run_id = await running(pair, api)
    report = await executed(api)
    ok(await cancelling(flow)(pair.second))
    (results,), _ = await race(pair, swapped, report, doing(Step.CANCEL))
    assert results == ("stale" if swapped else "ok")
    await settle(pair)
    assert await counts(api, run_id) == {"c": {"ERRORED": 1} if swapped else {"SUCCESS": 1}}
    assert await counts(api, flow.run_id) == {"g": {"ERRORED": 1}}


@in_both_orders
async def test_a_run_is_retried_when_its_end_is_delivered(pair: Pair, api: Api, swapped: bool) -> None:
    flow, run_id = await running(pair, api)
    state = await claim_one(api, limits={node_name("c"): 1})
    await reporting(item_for(state, outcome="errored", error="no", retry=False))(pair.second)

    async def retrying(manager: Manager) -> Any:
        body = {"request_id": str(uuid4())}
        return await manager.remote.native("POST", f"run/{run_id}/retry", json=body)

    delivered, retried = await race(pair, swapped, doing(Step.DELIVER), retrying)
    ok(retried)
    assert delivered == (not swapped)
    await (await executed(api))(pair.second)
    await settle(pair)
    expected = {"g": {"SUCCESS": 1}, "b": {"CREATED": 1}} if swapped else {"g": {"ERRORED": 1}}
    assert await counts(api, flow.run_id) == expected


async def test_a_graph_is_deleted_when_it_is_to_be_run(pair: Pair, api: Api) -> None:
    flow = await waiting(api)
    deleted, _ = await pair.race(lambda manager: manager.remote.delete_graph("child"), starting)
    ok(deleted)
    await settle(pair)
    assert await children(pair) == []
    assert await counts(api, flow.run_id) == {"g": {"ERRORED": 1}}
