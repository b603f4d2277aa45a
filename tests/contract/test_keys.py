"""Runs by a business key: with the same key for the same graph, the same run, through each API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim
from tests.support.helpers import ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server ignores keys")

Trigger = Callable[..., Awaitable[tuple[str, bool]]]
LIMIT = 256


async def by_v0(api: Api, graph: str, **run: Any) -> tuple[str, bool]:
    reply = ok(await api.v0("POST", f"graph/{graph}/trigger", json=run))
    return reply["run_id"], reply["created"]


async def by_native(api: Api, graph: str, **run: Any) -> tuple[str, bool]:
    reply = ok(await api.native("POST", f"graph/{graph}/trigger", json=run))
    return reply["run_id"], reply["created"]


async def in_a_list(api: Api, graph: str, **run: Any) -> tuple[str, bool]:
    reply = ok(await api.trigger_many(graph, {"run_id": str(uuid4())}, run))
    return reply["run_ids"][1], reply["created"][1]


each_api = pytest.mark.parametrize("trigger", [by_v0, by_native, in_a_list])


@each_api
async def test_the_same_key_is_the_same_run(api: Api, trigger: Trigger) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": ""}), store_config={"default_values": {"k": ""}})
    run = {"inputs": {"p": "x"}, "store": {"k": "v"}, "key": "order/17 \N{SNOWMAN}"}
    run_id, created = await trigger(api, flow.graph, **run)
    assert created
    # Another delay is no other run: who asks again asks later.
    assert await by_native(api, flow.graph, **run, start_delay=5) == (run_id, False)
    assert await trigger(api, flow.graph, **run) == (run_id, False)
    assert [state["run_id"] for state in await claim(api) if state["inputs"]["p"]] == [run_id]
    assert ok(await api.native_run(run_id))["key"] == run["key"]
    listed = ok(await api.native("GET", "runs", params={"key": run["key"]}))["runs"]
    assert [(each["run_id"], each["key"]) for each in listed] == [(run_id, run["key"])]


@each_api
async def test_a_key_with_other_values_is_refused_and_names_the_run_that_has_it(
    api: Api, trigger: Trigger
) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": ""}))
    run_id, _ = await by_v0(api, flow.graph, inputs={"p": "a secret"}, key="k")
    for other in ({"inputs": {"p": "changed"}}, {}, {"inputs": {"p": "a secret"}, "store": {"k": "v"}}):
        with pytest.raises(AssertionError, match=f"'k' belongs to the run {run_id}.*separate key") as caught:
            await trigger(api, flow.graph, **other, key="k")
        assert "a secret" not in str(caught.value)
    refused(await api.v0("POST", f"graph/{flow.graph}/trigger", json={"key": "k"}), 409)
    # Nothing of such a list is started.
    assert ok(await api.runs())["total"] == 1


async def test_a_key_belongs_to_one_graph_and_its_run_keeps_it_after_its_end(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    other = await Flow.deploy(api.elsewhere(), place("a"))
    third = await Flow.deploy(api, place("a"), graph="third")
    first = await by_v0(api, flow.graph, key="k")
    ids = [first, await by_v0(other.api, other.graph, key="k"), await by_v0(api, third.graph, key="k")]
    assert all(created for _, created in ids)
    assert len(set(ids)) == 3
    ok(await api.native("POST", f"run/{first[0]}/cancel"))
    ok(await api.put_graph(flow.graph, api.body([place("nothing")])), 201)  # invalid by now
    assert await by_v0(api, flow.graph, key="k") == (first[0], False)


async def test_a_key_that_comes_twice_in_a_list_begins_one_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": ""}))
    one, other = {"key": "k", "inputs": {"p": "1"}}, {"run_id": str(uuid4())}
    reply = ok(await api.trigger_many(flow.graph, one, other, one))
    first, second, again = reply["run_ids"]
    assert (first == again != second, reply["created"]) == (True, [True, True, False])
    detail = (await api.trigger_many(flow.graph, {"key": "new"}, {**one, "inputs": {}})).json()["detail"]
    assert [item["loc"] for item in detail] == [["body", "runs", 1]]
    assert ok(await api.runs())["total"] == 2


@pytest.mark.parametrize("key", ["", " k", "k\n", "a\0b", "a\x7fb", "x" * (LIMIT + 1), 5])
async def test_a_key_of_another_form_is_422_and_points_at_it(api: Api, key: Any) -> None:
    for path in ("v0", "exotrio/v1"):
        route = f"/{path}/namespace/{api.namespace}/graph/g/trigger"
        reply = await api.request("POST", route, json={"key": key})
        refused(reply, 422)
        assert reply.json()["detail"][0]["loc"] == ["body", "key"]


async def test_a_request_has_an_id_or_a_key(api: Api) -> None:
    for run in ({}, {"key": "k", "run_id": str(uuid4())}):
        reply = await api.native("POST", "graph/g/trigger", json=run)
        refused(reply, 422)
        (item,) = reply.json()["detail"]
        assert item["loc"] == ["body", "run_id"]
        assert "give a run_id or a key, and not both" in item["msg"]
    flow = await Flow.deploy(api, place("a"))
    max_length = "k" * LIMIT
    assert (await by_native(api, flow.graph, key=max_length))[1]
