"""Sections 2.10 to 2.12 and 3: runs, their counts and status, the run graph, and one state in full."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import FAST_RETRY, NO_RETRY, UNKNOWN_ID, node_name, ok, place, refused

UNKNOWN_RUN = "7b0d1f9e-0000-4000-8000-000000000000"
STATUSES = {
    "CREATED",
    "QUEUED",
    "EXECUTED",
    "SUCCESS",
    "ERRORED",
    "NEXT_CREATED_ERROR",
    "RETRY_CREATED",
    "PRUNED",
}


TIMES = ("created_at", "updated_at")


def _is_recent(text: str) -> bool:
    moment = datetime.fromisoformat(text)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return abs(datetime.now(UTC) - moment) < timedelta(minutes=5)


# -- runs


async def test_a_namespace_without_runs_lists_none(api: Api) -> None:
    assert ok(await api.runs(1, 20)) == {
        "namespace": api.namespace,
        "total": 0,
        "page": 1,
        "size": 20,
        "runs": [],
    }


async def test_a_run_is_listed_with_all_its_fields(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    summary = await flow.run_summary()
    assert _is_recent(summary.pop("created_at"))
    assert summary == {
        "run_id": flow.run_id,
        "graph_name": "graph",
        "success_count": 0,
        "pending_count": 1,
        "errored_count": 0,
        "retried_count": 0,
        "total_count": 1,
        "status": "PENDING",
    }


async def test_runs_are_listed_newest_first_page_by_page(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    started = []
    for _ in range(5):
        started.append(await flow.trigger())
        await trio.sleep(0.003)
    pages = [ok(await api.runs(page, 2)) for page in (1, 2, 3, 4)]
    assert [page["total"] for page in pages] == [5, 5, 5, 5]
    assert [(page["page"], page["size"]) for page in pages] == [(1, 2), (2, 2), (3, 2), (4, 2)]
    assert [run["run_id"] for page in pages for run in page["runs"]] == started[::-1]


async def test_runs_are_those_of_graphs_of_the_namespace(api: Api) -> None:
    await Flow.start(api, place("a"))
    assert ok(await api.elsewhere().runs())["total"] == 0


BELOW_ONE = pytest.mark.deviates_from_stock("stock fails or reads 0 as no limit")


@pytest.mark.parametrize(
    ("page", "size"),
    [
        *[("x", 1), (1, "x"), ("1.5", 1), (1, "1.5")],
        *[pytest.param(*each, marks=BELOW_ONE) for each in ((0, 1), (-1, 1), (1, 0), (1, -5))],
    ],
)
async def test_a_page_that_is_no_whole_number_from_one_on_is_422(api: Api, page: Any, size: Any) -> None:
    assert (await api.runs(page, size)).status_code == 422


@pytest.mark.deviates_from_stock("stock has no largest page")
async def test_a_page_has_up_to_a_thousand_runs_and_names_that_size(api: Api) -> None:
    await Flow.start(api, place("a"))
    reply = ok(await api.runs(1, 10**9))
    assert (reply["total"], reply["size"], len(reply["runs"])) == (1, 1000, 1)
    assert ok(await api.runs(2, 10**9))["runs"] == []


@pytest.mark.deviates_from_stock("stock gives local times without a zone")
async def test_times_are_in_utc_with_a_z(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    (state,) = await flow.take("a")
    detail = await flow.detail(state["state_id"])
    shown = ok(await api.get_graph("graph"))
    times = [state["created_at"], detail["created_at"], detail["updated_at"], shown["updated_at"]]
    for time in [
        *times,
        (await flow.run_summary())["created_at"],
        ok(await api.nodes())["nodes"][0]["updated_at"],
    ]:
        assert time.endswith("Z")
        assert _is_recent(time)


# What happens to each of three siblings, and the counts that follow: success, pending, errored, retried.
COUNTS: list[tuple[list[str], tuple[int, int, int, int], str]] = [
    (["CREATED", "CREATED", "CREATED"], (1, 3, 0, 0), "PENDING"),
    (["QUEUED", "SUCCESS", "SUCCESS"], (3, 1, 0, 0), "PENDING"),
    (["SUCCESS", "SUCCESS", "SUCCESS"], (4, 0, 0, 0), "SUCCESS"),
    (["PRUNED", "SUCCESS", "PRUNED"], (4, 0, 0, 0), "SUCCESS"),
    (["PRUNED", "PRUNED", "PRUNED"], (4, 0, 0, 0), "SUCCESS"),
    (["ERRORED", "SUCCESS", "PRUNED"], (3, 0, 1, 0), "FAILED"),
    (["ERRORED", "QUEUED", "PRUNED"], (2, 1, 1, 0), "PENDING"),
    (["RETRIED", "SUCCESS", "SUCCESS"], (3, 1, 0, 1), "PENDING"),
    (["ERRORED", "ERRORED", "ERRORED"], (1, 0, 3, 0), "FAILED"),
    (["RETRIED", "ERRORED", "PRUNED"], (2, 1, 1, 1), "PENDING"),
]


@pytest.mark.parametrize(("becoming", "counts", "status"), COUNTS, ids=["-".join(row[0]) for row in COUNTS])
async def test_counts_and_status_of_a_run(
    api: Api, becoming: list[str], counts: tuple[int, int, int, int], status: str
) -> None:
    flow = await Flow.start(
        api, place("a", "b", "c", "d"), place("b"), place("c"), place("d"), retry_policy=NO_RETRY
    )
    await flow.run("a")
    for identifier, becomes in zip("bcd", becoming, strict=True):
        if becomes == "CREATED":
            continue
        state_id = await flow.one(identifier)
        if becomes == "SUCCESS":
            ok(await api.executed(state_id))
        elif becomes == "PRUNED":
            ok(await api.prune(state_id))
        elif becomes in {"ERRORED", "RETRIED"}:
            ok(await api.errored(state_id))
        if becomes == "RETRIED":
            ok(await api.manual_retry(state_id))
    run = await flow.run_summary()
    counted = tuple(run[f"{kind}_count"] for kind in ("success", "pending", "errored", "retried"))
    assert (counted, run["total_count"], run["status"]) == (counts, sum(counts), status)


async def test_a_failed_creation_counts_as_an_error(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {})
    run = await flow.run_summary()
    assert (run["errored_count"], run["total_count"], run["status"]) == (1, 1, "FAILED")


# -- the run graph


async def test_the_graph_of_an_unknown_run_is_empty(api: Api) -> None:
    reply = ok(await api.run_graph(UNKNOWN_RUN))
    assert set(reply.pop("execution_summary").values()) == {0}
    assert reply == {
        "root_states": [],
        "graph_name": "",
        "nodes": [],
        "edges": [],
        "node_count": 0,
        "edge_count": 0,
    }


async def test_the_graph_of_a_run_shows_states_edges_and_a_summary(api: Api) -> None:
    flow = await Flow.start(
        api, place("a", "b"), place("b", "c"), place("c"), retry_policy=FAST_RETRY | {"max_retries": 1}
    )
    a = await flow.run("a")
    failed = await flow.one("b")
    ok(await api.errored(failed, "boom"))
    b = await flow.run("b")
    (c,) = await flow.states("c")
    shown = await flow.shown()
    assert shown["graph_name"] == "graph"
    assert (shown["node_count"], shown["edge_count"]) == (4, 3)
    by_id = {node["id"]: node for node in shown["nodes"]}
    assert by_id[failed] == {
        "id": failed,
        "node_name": node_name("b"),
        "identifier": "b",
        "status": "RETRY_CREATED",
        "error": "boom",
    }
    assert by_id[b]["error"] is None
    assert shown["root_states"] == [by_id[a]]
    edges = {(edge["source"], edge["target"]) for edge in shown["edges"]}
    assert edges == {(a, failed), (a, b), (b, c["id"])}
    assert set(shown["execution_summary"]) == STATUSES
    summary = {status: count for status, count in shown["execution_summary"].items() if count}
    assert summary == {"SUCCESS": 2, "RETRY_CREATED": 1, "CREATED": 1}


async def test_a_run_is_not_shown_in_another_namespace(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    assert ok(await api.elsewhere().run_graph(flow.run_id))["nodes"] == []


# -- one state


async def test_a_state_is_shown_in_full(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "<${{a.outputs.v}}>"}))
    a = await flow.run("a", {"v": "x"})
    b = await flow.run("b", {"v": "y", "extra": {"deep": [1, None]}})
    await flow.settled()
    detail = await flow.detail(b)
    assert _is_recent(detail.pop("created_at"))
    assert _is_recent(detail.pop("updated_at"))
    assert detail == {
        "id": b,
        "node_name": node_name("b"),
        "identifier": "b",
        "graph_name": "graph",
        "run_id": flow.run_id,
        "status": "SUCCESS",
        "inputs": {"p": "<x>"},
        "outputs": {"v": "y", "extra": {"deep": [1, None]}},
        "error": None,
        "parents": {"a": a},
    }


async def test_a_state_is_404_unless_every_part_of_its_path_matches(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    (root,) = (await flow.shown())["root_states"]
    await Flow.start(api, place("a"), graph="other")
    refused(await api.state("other", flow.run_id, root["id"]), 404)
    refused(await api.state("nothing", flow.run_id, root["id"]), 404)
    refused(await api.state("graph", UNKNOWN_RUN, root["id"]), 404)
    refused(await api.state("graph", flow.run_id, UNKNOWN_ID), 404)
    refused(await api.elsewhere().state("graph", flow.run_id, root["id"]), 404)
    ok(await api.state("graph", flow.run_id, root["id"]))


async def test_the_data_of_a_prune_is_shown_nowhere(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    ok(await api.prune(state_id, {"marker": "pruned-data-4711"}))
    for response in (
        await api.run_graph(flow.run_id),
        await api.state("graph", flow.run_id, state_id),
        await api.runs(),
    ):
        assert "pruned-data-4711" not in response.text
