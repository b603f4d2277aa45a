"""Lists of states and of runs: what they can be narrowed to, and that pages neither overlap nor leave out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


async def fanned(api: Api, graph: str = "graph") -> Flow:
    """Return a run with one success, one failure, and one state to claim."""
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY, graph=graph)
    await flow.run("a", {"v": "0"}, {"v": "1"})
    first, _ = await flow.take("b", 2)
    ok(await api.errored(first["state_id"], "it broke here" + "x" * 600))
    return flow


async def ids(api: Api, **query: Any) -> list[str]:
    return [state["id"] for state in ok(await api.states(**query))["states"]]


async def pages(ask: Callable[..., Awaitable[httpx.Response]], what: str, **query: Any) -> list[list[Any]]:
    listed = []
    while True:
        page = ok(await ask(**query))
        listed.append(page[what])
        if page["next"] is None:
            return listed
        query["before"] = page["next"]


async def test_states_come_newest_first_with_what_a_list_needs(api: Api) -> None:
    flow = await fanned(api)
    shown = [node["id"] for node in (await flow.shown())["nodes"]]
    assert await ids(api) == shown[::-1]
    (failed,) = ok(await api.states(status="ERRORED"))["states"]
    assert failed["identifier"] == "b"
    assert (failed["node_name"], failed["graph_name"], failed["run_id"]) == (
        node_name("b"), flow.graph, flow.run_id,
    )  # fmt: skip
    assert len(failed["error"]) == 500
    assert failed["error"].startswith("it broke here")
    assert failed["created_at"] <= failed["finished_at"]


async def test_states_can_be_narrowed_by_everything_at_once(api: Api) -> None:
    one, other = await fanned(api), await fanned(api, graph="other")
    assert len(await ids(api)) == 8
    assert len(await ids(api, run=one.run_id)) == len(await ids(api, graph="other")) == 4
    assert len(await ids(api, node=node_name("b"))) == 4
    assert len(await ids(api, graph="graph", identifier="a")) == 2
    assert len(await ids(api, run=other.run_id, identifier="b", status="QUEUED")) == 1
    assert len(await ids(api, status=["QUEUED", "ERRORED"])) == 4
    assert await ids(api, run=one.run_id, graph="other") == []
    assert await ids(api, run=one.run_id, identifier="c") == []
    assert await ids(api.elsewhere()) == []


async def test_states_are_listed_by_identifier_in_every_version_of_their_graph(api: Api) -> None:
    await Flow.start(api, place("a", "b"), place("b"))
    await Flow.start(api, place("z", "a"), place("a"))
    assert len(await ids(api, graph="graph", identifier="a")) == 1
    assert len(await ids(api, graph="graph", identifier="z")) == 1


@pytest.mark.parametrize("limit", [1, 3, 8, 9])
async def test_pages_of_states_neither_overlap_nor_leave_out(api: Api, limit: int) -> None:
    await fanned(api)
    await fanned(api)
    listed = await pages(api.states, "states", limit=limit)
    assert [len(page) for page in listed[:-1]] == [limit] * (len(listed) - 1)
    assert [state["id"] for page in listed for state in page] == await ids(api)
    assert listed[-1], "no empty page at the end"


async def test_a_new_state_between_two_pages_shifts_nothing(api: Api) -> None:
    flow = await fanned(api)
    before = await ids(api)
    first = ok(await api.states(limit=2))
    await flow.trigger()
    rest = await ids(api, before=first["next"])
    assert [state["id"] for state in first["states"]] + rest == before


async def test_the_states_of_a_run_are_listed_in_its_namespace_and_in_those_of_their_nodes(api: Api) -> None:
    far = api.elsewhere()
    flow = await Flow.start(api, place("a", "b"), place("b", namespace=far.namespace))
    await flow.run("a")
    b, a = await ids(api, run=flow.run_id)
    assert await ids(api) == await ids(api, graph=flow.graph) == [b, a]
    assert await ids(far) == await ids(far, run=flow.run_id) == [b]
    assert ok(await api.history(b))["identifier"] == "b"
    refused(await far.history(a), 404)
    refused(await api.elsewhere().states(run=flow.run_id), 404)


@pytest.mark.parametrize("query", [{"run": str(uuid4())}, {"graph": "nope"}, {"node": "nope"}])
async def test_an_unknown_run_graph_or_node_is_404(api: Api, query: dict[str, str]) -> None:
    await fanned(api)
    refused(await api.states(**query), 404)
    if "graph" in query:
        refused(await api.find_runs(**query), 404)
    refused(await api.find_runs(parent=str(uuid4())), 404)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 1_001},
        {"limit": "many"},
        {"status": "BROKEN"},
        {"status": ["QUEUED", ""]},
        {"identifier": "a"},
        {"before": "x"},
        {"before": "x" * 100},
        {"before": UNKNOWN_ID},  # it would be of another database
    ],
)
async def test_a_malformed_query_for_states_is_422(api: Api, query: dict[str, Any]) -> None:
    assert refused(await api.states(**query), 422)


# -- runs


async def test_runs_come_newest_first_as_v0_counts_them(api: Api) -> None:
    for _ in range(3):
        await fanned(api)
    listed = ok(await api.find_runs())["runs"]
    native: dict[str, Any] = {
        "pruned_count": 0,
        "for_event_count": 0,
        "for_run_count": 0,
        "finished_at": None,
        "cancelled_at": None,
        "key": None,
        "idle_ms": 0,
        "duration_ms": None,
    }
    native |= {"priority": "normal", "weight": 1.0, "fair_key": None}
    assert [{name: run.pop(name) for name in native} for run in listed] == [native] * 3
    assert {run.pop("started_by") for run in listed} <= {"root", "in process"}
    assert {(run.pop("origin"), run.pop("parent_run_id")) for run in listed} == {("api", None)}
    assert listed == ok(await api.runs())["runs"]


async def test_runs_can_be_narrowed_by_graph_status_and_time(api: Api) -> None:
    await fanned(api)
    success = await Flow.start(api, place("c"), graph="other", retry_policy=NO_RETRY)
    await success.run("c")
    failed = await Flow.start(api, place("c"), graph="other", retry_policy=NO_RETRY)
    await failed.fail("c", times=1)
    cancelled = await Flow.start(api, place("c"), graph="other")
    ok(await api.native("POST", f"run/{cancelled.run_id}/cancel"))

    async def listed(**query: Any) -> list[str]:
        return [run["run_id"] for run in ok(await api.find_runs(**query))["runs"]]

    assert len(await listed(graph="other")) == 3
    assert await listed(status="SUCCESS") == [success.run_id]
    assert await listed(status="FAILED", graph="other") == [cancelled.run_id, failed.run_id]
    assert len(await listed(status="PENDING")) == 1
    (latest, *_) = ok(await api.find_runs())["runs"]
    assert latest["run_id"] in await listed(since=latest["created_at"])
    assert await listed(since="2999-01-01T00:00:00+02:00") == []
    assert latest["finished_at"] == latest["cancelled_at"] is not None


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pages_of_runs_neither_overlap_nor_leave_out(api: Api, limit: int) -> None:
    flow = await Flow.deploy(api, place("a"))
    made = [await flow.trigger() for _ in range(5)]
    listed = await pages(api.find_runs, "runs", limit=limit)
    assert [run["run_id"] for page in listed for run in page] == made[::-1]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"status": "CREATED"},
        {"since": "yesterday"},
        {"since": "2026-01-01T00:00:00"},
        {"before": "x"},
        {"before": "1.-2"},
        {"before": "9" * 30 + ".1"},
    ],
)
async def test_a_malformed_query_for_runs_is_422(api: Api, query: dict[str, Any]) -> None:
    assert refused(await api.find_runs(**query), 422)


async def test_states_come_with_their_outputs_in_pages_of_bounded_size(api: Api) -> None:
    await fanned(api)
    assert "outputs" not in ok(await api.states())["states"][0]
    shown = ok(await api.states(outputs="true"))["states"]
    assert [state["outputs"] for state in shown if state["identifier"] == "a"] == [{"v": "1"}, {"v": "0"}]
    assert [state["outputs"] for state in shown if state["identifier"] == "b"] == [{}, {}]
    large = await Flow.start(api, place("c", "d"), place("d"))
    await large.run("c", *({"v": str(n) * 2_500_000, "w": "w"} for n in range(3)))
    listed = await pages(api.states, "states", run=large.run_id, identifier="c", outputs="true")
    assert [state["outputs"]["v"][0] for page in listed for state in page] == ["2", "1", "0"]
    assert max(map(len, listed)) == 1
