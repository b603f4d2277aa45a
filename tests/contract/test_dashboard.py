"""Section 13.2: the requests of the stock dashboard, as it sends them, and the fields each screen reads."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, node_name, ok, place

STATUSES = {
    *("CREATED", "QUEUED", "EXECUTED", "SUCCESS"),
    *("ERRORED", "NEXT_CREATED_ERROR", "RETRY_CREATED", "PRUNED"),
}


class Dashboard:
    """Asks as the dashboard's server does: with a content type on every request, and names as they are."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self._api.request(
            method, path, headers={"Content-Type": "application/json", "Accept": "*/*"}, **options
        )

    async def here(self, method: str, path: str, **options: Any) -> httpx.Response:
        return await self.ask(method, f"/v0/namespace/{self._api.namespace}/{path}", **options)


@pytest.fixture
def dashboard(api: Api) -> Dashboard:
    return Dashboard(api)


async def failed_run(api: Api) -> tuple[Flow, str]:
    """Return a run with a success, a failure and a prune, and the id of the failed state."""
    flow = await Flow.start(
        api, place("a", "b", "c"), place("b", inputs={"p": "x"}), place("c"), retry_policy=NO_RETRY
    )
    await flow.run("a")
    failed = await flow.fail("b", times=1, error="it broke")
    ok(await api.prune(await flow.one("c")))
    return flow, failed


async def test_the_start_offers_the_namespaces(api: Api, dashboard: Dashboard) -> None:
    await Flow.deploy(api, place("a"))
    assert api.namespace in ok(await dashboard.ask("GET", "/v0/namespaces"))["namespaces"]


async def test_the_overview_shows_nodes_and_templates(api: Api, dashboard: Dashboard) -> None:
    await Flow.deploy(api, place("a", inputs={"p": "x"}), secrets={"token": "t"})
    nodes = ok(await dashboard.here("GET", "nodes/"))
    (node,) = nodes["nodes"]
    assert (nodes["count"], node["name"], node["secrets"]) == (1, node_name("a"), ["token"])
    assert node["inputs_schema"]["properties"].keys() == {"p"}
    assert node["inputs_schema"]["required"] == ["p"]
    assert node["outputs_schema"]["properties"].keys() == {"v", "w"}
    graphs = ok(await dashboard.here("GET", "graphs/"))
    (template,) = graphs["templates"]
    assert (graphs["count"], template["name"], template["namespace"]) == (1, "graph", api.namespace)
    assert (len(template["nodes"]), template["validation_status"]) == (1, "VALID")
    assert template["validation_errors"] == []


async def test_a_template_shows_policy_store_and_secrets(api: Api, dashboard: Dashboard) -> None:
    await Flow.deploy(api, place("a", "b"), place("b"), secrets={"token": "t"})
    shown = ok(await dashboard.here("GET", "graph/graph"))
    assert shown["retry_policy"].keys() == {
        *("max_retries", "strategy", "backoff_factor"),
        *("exponent", "max_delay"),
    }
    assert shown["store_config"].keys() == {"required_keys", "default_values"}
    assert list(shown["secrets"]) == ["token"]
    assert shown["created_at"] <= shown["updated_at"]
    assert [(node["identifier"], node["next_nodes"]) for node in shown["nodes"]] == [("a", ["b"]), ("b", [])]


async def test_the_editor_puts_nodes_and_secrets_alone(api: Api, dashboard: Dashboard) -> None:
    body = {"nodes": api.body([place("a")])["nodes"], "secrets": {}}
    assert (await dashboard.here("PUT", "graph/edited", json=body)).is_success


async def test_the_runs_are_listed_with_their_counts(api: Api, dashboard: Dashboard) -> None:
    flow, _ = await failed_run(api)
    await flow.settled()
    shown = ok(await dashboard.here("GET", "runs/1/20"))
    assert (shown["total"], shown["page"], shown["size"]) == (1, 1, 20)
    (run,) = shown["runs"]
    assert run.pop("created_at")
    assert run == {
        "run_id": flow.run_id,
        "graph_name": "graph",
        "status": "FAILED",
        "success_count": 2,
        "pending_count": 0,
        "errored_count": 1,
        "retried_count": 0,
        "total_count": 3,
    }


async def test_the_graph_of_a_run_is_drawn(api: Api, dashboard: Dashboard) -> None:
    flow, failed = await failed_run(api)
    await flow.settled()
    shown = ok(await dashboard.here("GET", f"states/run/{flow.run_id}/graph"))
    assert (shown["graph_name"], shown["node_count"], shown["edge_count"]) == ("graph", 3, 2)
    (root,) = shown["root_states"]
    assert {edge["source"] for edge in shown["edges"]} == {root["id"]}
    assert shown["execution_summary"].keys() == STATUSES
    (node,) = [node for node in shown["nodes"] if node["id"] == failed]
    assert (node["identifier"], node["status"], node["error"]) == ("b", "ERRORED", "it broke")


async def test_a_state_is_shown_and_retried_by_the_button(api: Api, dashboard: Dashboard) -> None:
    flow, failed = await failed_run(api)
    shown = ok(await dashboard.here("GET", f"graph/graph/run/{flow.run_id}/node/{failed}"))
    assert (shown["status"], shown["error"], shown["inputs"]) == ("ERRORED", "it broke", {"p": "x"})
    assert list(shown["parents"]) == ["a"]
    retried = await dashboard.here("POST", f"state/{failed}/manual-retry", json={"fanout_id": str(uuid4())})
    assert ok(retried)["id"] == await flow.one("b")


async def test_a_missing_state_is_passed_on_as_an_error(api: Api, dashboard: Dashboard) -> None:
    response = await dashboard.here("GET", f"graph/graph/run/{uuid4()}/node/{'0' * 24}")
    assert response.status_code == 404
    assert isinstance(response.json()["detail"], str)
