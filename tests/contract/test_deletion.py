"""Deleting a graph, with its runs and whatever else is its own."""

from __future__ import annotations

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, executed_item, report
from tests.support.helpers import node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("nothing can be deleted at a stock server")

DAILY = [{"type": "CRON", "value": {"expression": "@daily"}}]


async def test_a_deleted_graph_is_gone_with_its_runs_and_nothing_else_is(api: Api) -> None:
    flow = await Flow.start(api, place("a"), secrets={"token": "s3cret"}, triggers=DAILY)
    state_id = await flow.run("a")
    other = Flow(api, "other")
    ok(await api.put_graph("other", api.body([place("a")], secrets={"token": "other"})), 201)
    await other.trigger()
    await other.run("a")

    answer = ok(await api.delete_graph(flow.graph))
    assert answer == {
        "namespace": api.namespace,
        "graph_name": flow.graph,
        "deleted_runs": 1,
        "cancelled_runs": 0,
    }
    for response in (
        await api.get_graph(flow.graph),
        await api.delete_graph(flow.graph),
        await api.trigger(flow.graph),
        await api.cancel_triggers(flow.graph),
        await api.native_run(flow.run_id),
        await api.retry_run(flow.run_id),
        await api.history(state_id),
        await api.manual_retry(state_id),
    ):
        refused(response, 404)
    assert [each["name"] for each in ok(await api.graphs())["templates"]] == ["other"]
    assert [each["run_id"] for each in ok(await api.runs())["runs"]] == [other.run_id]
    assert ok(await api.nodes())["count"] == 1

    shown = ok(await api.put_graph(flow.graph, api.body([place("a")])), 201)
    assert shown["secrets"] == {}, "a new graph of that name has none of the old one"
    await other.trigger()
    await other.run("a")


async def test_a_graph_with_runs_that_have_not_ended_is_not_deleted_and_keeps_everything(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), triggers=DAILY)
    before = ok(await api.get_graph(flow.graph))
    await flow.run("a")
    answer = await api.delete_graph(flow.graph)
    refused(answer, 409)
    assert flow.run_id in answer.json()["detail"]
    assert "cancel_runs" in answer.json()["detail"]
    assert ok(await api.get_graph(flow.graph)) == before
    await flow.run("b")
    ok(await api.delete_graph(flow.graph))


async def test_deleting_a_graph_with_cancel_runs_cancels_runs_that_have_not_ended(api: Api) -> None:
    flow = await Flow.start(api, place("a"), runs=3)
    (held,) = await claim(api, {A: 1}, limit=1)
    answer = ok(await api.delete_graph(flow.graph, cancel_runs="true"))
    assert (answer["deleted_runs"], answer["cancelled_runs"]) == (3, 3)
    assert ok(await api.claim([node_name("a")]))["states"] == []
    assert await report(api, executed_item(held)) == ["unknown"]
    assert ok(await api.runs())["total"] == 0


@pytest.mark.before_the_store
async def test_cancel_runs_is_true_or_false(api: Api) -> None:
    refused(await api.delete_graph("g", cancel_runs="perhaps"), 422)
    refused(await api.delete_graph("g", cancel_runs="true"), 404)
