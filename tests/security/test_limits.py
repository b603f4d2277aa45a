"""Limits of one request: lengths of lists, depth of JSON, sizes of numbers."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Sequence
from itertools import combinations, islice, pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from pydantic import BaseModel, ValidationError

from exotrio import BaseNode, Graph, RetryPolicyModel
from exotrio._httpd import MAX_VALUES, Limits
from exotrio._wire.graphs import MAX_EDGES, MAX_TRIGGERS, GraphBody
from exotrio._wire.native import OutcomeItem
from exotrio._wire.v0 import ExecutedRequest
from exotrio._wire.vocabulary import MAX_BATCH, MAX_OUTPUTS
from exotrio.graph import MAX_NODES
from exotrio.manager.api import bodies
from exotrio.manager.api import json as json_api
from exotrio.manager.api import native as native_api
from exotrio.manager.engine import claims, graphs, outcomes, workers
from exotrio.manager.rules.errors import Unavailable
from exotrio.manager.rules.template import Template
from exotrio.manager.store.transaction import Transaction
from exotrio.testing import run_graph
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, claim_one, executed_item
from tests.support.helpers import UNKNOWN_ID, UNKNOWN_RUN, node_name, ok, place, refused
from tests.support.manager import open_manager

TEST_TIMEOUT = 60.0
HELD = {"state_id": UNKNOWN_ID, "token": "t"}


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    async with open_manager() as manager:
        yield manager.remote


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("outcomes", lambda count: [{**HELD, "outcome": "errored", "error": ""}] * count),
        ("release", lambda count: {"states": [HELD] * count}),
        ("heartbeat", lambda count: {"worker_id": "w", "states": [HELD] * count}),
    ],
)
async def test_a_batch_has_a_maximum_size(api: Api, path: str, body: Any) -> None:
    ok(await api.native("POST", path, json=body(MAX_BATCH)))
    refused(await api.native("POST", path, json=body(MAX_BATCH + 1)), 422)


@pytest.mark.parametrize("native", [True, False])
async def test_a_claim_returns_no_more_than_a_batch(api: Api, native: bool) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    await flow.run("a", *({"v": str(number)} for number in range(MAX_BATCH + 1)))
    if native:
        reply = ok(await api.native_claim({node_name("b"): 10**9}, limit=10**9))
    else:
        reply = ok(await api.claim([node_name("b")], 10**9))
    assert len(reply["states"]) == MAX_BATCH


@pytest.mark.parametrize("native", [True, False])
async def test_a_claim_names_no_more_nodes_than_a_runtime_can_register(api: Api, native: bool) -> None:
    async def claim(count: int) -> httpx.Response:
        names = [f"N{number}" for number in range(count)]
        return await (api.native_claim(dict.fromkeys(names, 1)) if native else api.claim(names, 1))

    ok(await claim(MAX_BATCH))
    assert "at most 1000 items" in refused(await claim(MAX_BATCH + 1), 422)


async def test_a_graph_has_a_maximum_size(api: Api) -> None:
    names = [f"n{number}" for number in range(MAX_NODES + 1)]
    places = [place(name, *following) for name, *following in pairwise(names)]
    assert len(places) == MAX_NODES
    refused(await api.put_graph("large", api.body([*places, place(names[-1])])), 422)


@pytest.mark.parametrize(
    ("method", "path", "form"),
    [
        ("PUT", "nodes", b'{"runtime_name": "r", "nodes": [%s]}'),
        ("PUT", "graph/g", b'{"secrets": {}, "nodes": [%s]}'),
        ("PUT", "graph/g", b'{"secrets": {}, "nodes": [], "triggers": [%s]}'),
        ("PUT", "graph/g", b'{"secrets": {}, "nodes": [{"next_nodes": [%s]}]}'),
        ("PUT", "graph/g", b'{"secrets": {}, "nodes": [], "store_config": {"required_keys": [%s]}}'),
        ("POST", "states/enqueue", b'{"batch_size": 1, "nodes": [%s]}'),
        ("POST", "state/x/executed", b'{"outputs": [%s]}'),
    ],
)
async def test_a_body_with_many_bad_items_makes_a_limited_number_of_problems(
    api: Api, monkeypatch: pytest.MonkeyPatch, method: str, path: str, form: bytes
) -> None:
    made = problems_made(monkeypatch)
    refused(await api.v0(method, path, content=form % b",".join([b"1"] * 50_000)), 422)
    assert made[0] <= 100


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("graph/g/trigger", b'{"inputs": {%s}}'),
        ("graph/g/trigger", b'{"store": {%s}}'),
        ("graph/g", b'{"nodes": [], "secrets": {%s}}'),
        ("graph/g", b'{"nodes": [], "secrets": {}, "store_config": {"default_values": {%s}}}'),
    ],
)
async def test_a_body_with_many_bad_entries_makes_a_limited_number_of_problems(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, form: bytes
) -> None:
    made = problems_made(monkeypatch)
    good, bad = ([b'"%d": %s' % (number, value) for number in range(10_000)] for value in (b'"x"', b"1"))
    method = "POST" if path.endswith("trigger") else "PUT"
    answer = await api.v0(method, path, content=form % b",".join(good[:5_000] + bad[5_000:]))
    refused(answer, 422)
    assert made == [100]
    assert answer.json()["detail"][0]["loc"][-1] == "5000"


@pytest.mark.parametrize(("inputs", "max_problems"), [(1, 100), (500, 200)])
async def test_a_body_with_many_bad_runs_makes_a_limited_number_of_problems(
    api: Api, monkeypatch: pytest.MonkeyPatch, inputs: int, max_problems: int
) -> None:
    made = problems_made(monkeypatch)
    run = {"run_id": UNKNOWN_RUN, "inputs": {str(number): number for number in range(inputs)}}
    refused(await api.trigger_many("g", *[run] * MAX_BATCH), 422)
    assert 100 <= sum(made) <= max_problems
    refused(await api.trigger_many("g", *[{}] * (MAX_BATCH + 1)), 422)
    assert sum(made) <= max_problems


def problems_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of problems of each request that is refused."""
    made: list[int] = []
    items = json_api._items

    def counting(error: ValidationError, *part: str | int, body: bytes = b"") -> list[dict[str, Any]]:
        made.append(error.error_count())
        return items(error, *part, body=body)

    monkeypatch.setattr(json_api, "_items", counting)
    return made


async def test_a_graph_has_a_maximum_number_of_edges_and_of_triggers(api: Api) -> None:
    def edges(count: int) -> dict[str, Any]:
        names = [f"n{number}" for number in range(150)]
        following: dict[str, list[str]] = {name: [] for name in names}
        for earlier, later in islice(combinations(names, 2), count):
            following[earlier].append(later)
        return api.body(place(name, *children) for name, children in following.items())

    def triggers(count: int) -> dict[str, Any]:
        crons = ({"type": "CRON", "value": {"expression": f"{n % 60} {n // 60} * * *"}} for n in range(count))
        return api.body([place("a")], triggers=list(crons))

    ok(await api.put_graph("g", edges(MAX_EDGES)), 201)
    assert "at most 10,000 edges" in refused(await api.put_graph("g", edges(MAX_EDGES + 1)), 422)
    ok(await api.put_graph("g", triggers(MAX_TRIGGERS)), 201)
    assert "at most 100 items" in refused(await api.put_graph("g", triggers(MAX_TRIGGERS + 1)), 422)


async def test_only_the_last_workers_under_ever_new_names_are_kept(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_WORKERS", 10)
    await api.register_for([place(f"n{number}") for number in range(20)])
    for number in range(20):
        ok(await api.native_claim({}, worker_id=f"w{number}"))
        ok(await api.claim([node_name(f"n{number}")], 1))
    listed = ok(await api.workers())
    assert sorted(worker["worker_id"] for worker in listed["workers"]) == [f"w{n}" for n in range(10, 20)]
    assert len(listed["v0"]) == 10


async def test_a_graph_with_many_problems_names_a_hundred(api: Api) -> None:
    places = [place(f"n{number}", f"absent{number}") for number in range(MAX_NODES)]
    lines = refused(await api.put_graph("g", api.body(places)), 400).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "there are more: only the first 100 are named"


async def test_while_a_graph_is_checked_others_are_served(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    checking, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(body: GraphBody) -> Template:
        token.run_sync_soon(checking.set)
        assert go_on.wait(TEST_TIMEOUT)
        return Template(body)

    monkeypatch.setattr(graphs, "Template", slow)
    async with open_manager(tmp_path / "state.db") as manager, trio.open_nursery() as nursery:
        api = manager.remote

        async def put() -> None:
            ok(await api.put_graph("g", api.body([place("a")])), 201)

        nursery.start_soon(put)
        with trio.fail_after(TEST_TIMEOUT):
            await checking.wait()
            ok(await api.native("POST", "heartbeat", json={"worker_id": "w", "states": []}))
        go_on.set()


@pytest.mark.parametrize("levels", [10, 150, 180, 190, 195, 198, 199, 200, 255, 1_000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
async def test_deeply_nested_data_can_be_read_again_or_is_refused(
    api: Api, levels: int, opening: str, closing: str
) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    nested = opening * levels + "1" + closing * levels
    answer = await api.v0(
        "POST", f"state/{state_id}/prune", content=f'{{"data": {{"x": {nested}}}}}'.encode()
    )
    if answer.status_code == 422:
        assert await flow.status(state_id) == "QUEUED"
        assert levels > 100
    else:
        ok(answer)
        assert ok(await api.history(state_id))["data"].keys() == {"x"}


@pytest.mark.parametrize("number", [2**63, 2**64, 10**30, -1, 0.5, "x", None, True, [], {}])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("claim", lambda number: {"limits": {"N": number}, "limit": 1}),
        ("claim", lambda number: {"limits": {"N": 1}, "limit": number}),
        ("claim", lambda number: {"limits": {}, "limit": 0, "wait_ms": number}),
        ("release", lambda number: {"states": [], "delay_ms": number}),
        ("heartbeat", lambda number: {"busy": number, "buffered": 0}),
        ("heartbeat", lambda number: {"workers": number}),
        ("graph/g/trigger", lambda number: {"run_id": UNKNOWN_ID + "0" * 8, "start_delay": number}),
        ("graph/g/runs", lambda number: {"runs": [{"run_id": UNKNOWN_RUN, "start_delay": number}]}),
    ],
    ids=["limits", "limit", "wait", "delay", "busy", "workers", "start", "starts"],
)
async def test_absurd_numbers_are_not_a_server_error(api: Api, path: str, body: Any, number: Any) -> None:
    answer = await api.native("POST", path, json={"worker_id": "w", "claim_id": "c", **body(number)})
    assert answer.status_code in (200, 404, 422), answer.text
    ok(await api.native("GET", "runs"))


# -- large bodies


def executed_body(count: int, fields: int = 1) -> bytes:
    output = b"{%s}" % b",".join(b'"field_%d":"12345"' % number for number in range(fields))
    return b'{"outputs":[%s]}' % b",".join([output] * count)


@pytest.mark.parametrize(
    ("body", "count"),
    [
        (b"[]", 1),
        (b"[" * 7, 7),
        (b'[1,{"a":2}]', 3),
        (rb'["a,b:[{\"{,", "\\", ",", {"\\\":": ""}]', 5),
        (rb'["\\",",,,,,,,,,,","\\\",,"]', 3),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 1_000])
def test_values_in_a_body_are_counted_and_not_the_marks_in_its_texts(
    monkeypatch: pytest.MonkeyPatch, body: bytes, count: int, piece: int
) -> None:
    assert bodies.count_values(body) >= count
    monkeypatch.setattr(bodies, "PIECE", piece)
    monkeypatch.setattr(bodies, "MAX_VALUES", count)
    assert bodies.count_values(body) == count
    monkeypatch.setattr(bodies, "MAX_VALUES", count - 1)
    assert bodies.count_values(body) == count


def test_the_maximum_number_of_outputs_fits_into_a_body() -> None:
    body = executed_body(MAX_OUTPUTS, fields=4)
    assert len(body) <= Limits().max_body
    assert bodies.count_values(body) <= MAX_VALUES
    assert len(ExecutedRequest.model_validate_json(body).outputs) == MAX_OUTPUTS


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/v0/namespace/tests/state/x/executed", b'{"outputs": [{"a": [%s]}]}'),
        ("/exotrio/v1/namespace/tests/outcomes", b"[%s]"),
        ("/exotrio/v1/namespace/tests/graph/g/runs", b'{"runs": [%s]}'),
        ("/exotrio/v1/namespace/tests/heartbeat", b'{"states": [%s]}'),
    ],
)
@pytest.mark.parametrize("value", [b"{}", b"[[[1]]]", b'{"":1}', b"0"])
async def test_a_body_with_too_many_values_is_refused_before_it_is_parsed(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str, form: bytes, value: bytes
) -> None:
    monkeypatch.setattr(bodies, "MAX_VALUES", 100_000)
    body = form % b",".join([value] * 200_000)
    assert "more than 100,000 values" in refused(await api.request("POST", path, content=body), 413)


async def test_an_outcome_has_a_maximum_number_of_outputs(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api, limits={A: 1})
    too_many = executed_body(MAX_OUTPUTS + 1)
    answer = await api.v0("POST", f"state/{state['state_id']}/executed", content=too_many)
    assert f"at most {MAX_OUTPUTS} items" in refused(answer, 422)
    item = b'[{"state_id":"%s","token":"%s","outcome":"executed",%s]' % (
        state["state_id"].encode(),
        state["lease"]["token"].encode(),
        too_many[1:],
    )
    (recorded,) = ok(await api.native("POST", "outcomes", content=item))["items"]
    assert recorded["result"] == "invalid"
    assert f"at most {MAX_OUTPUTS} items" in recorded["detail"]


class Many(BaseNode):
    class Outputs(BaseModel):
        v: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(v="")] * (MAX_OUTPUTS + 1)


async def test_a_node_that_returns_too_many_outputs_fails_with_the_reason() -> None:
    graph = Graph("many", namespace="n", retry_policy=RetryPolicyModel(max_retries=0))
    graph.add(Many)
    run = await run_graph(graph, [Many])
    (error,) = run.errors
    assert "the state manager refused what the node returned" in error
    assert f"at most {MAX_OUTPUTS} items" in error


@pytest.mark.parametrize("along", [False, True])
async def test_outcomes_with_many_outputs_together_are_recorded_in_steps(
    api: Api, monkeypatch: pytest.MonkeyPatch, along: bool
) -> None:
    steps: list[int] = []

    def count(module: Any, name: str) -> None:
        record = getattr(module, name)

        def counted(tx: Transaction, namespace: str, items: Sequence[OutcomeItem], owner: str | None) -> Any:
            steps.append(len(items))
            return record(tx, namespace, items, owner)

        monkeypatch.setattr(module, name, counted)

    monkeypatch.setattr(native_api, "MAX_OUTPUTS", 5)
    count(outcomes, "record_batch")
    count(claims, "record_and_keep")
    await Flow.start(api, place("a"), runs=6)
    counts = (2, 2, 2, 6, 1, 4)
    items: list[dict[str, Any]] = [
        executed_item(state, *[{"v": "1"}] * count)
        for state, count in zip(await claim(api, {A: 6}), counts, strict=True)
    ]
    items.insert(1, {"unknown": True})
    if along:
        items.append({"claim": {"worker_id": "w", "claim_id": "c", "limits": {}, "limit": 0, "at_once": 0}})
    replies = ok(await api.native("POST", "outcomes", json=items))["items"]
    assert [each["result"] for each in replies] == ["ok", "invalid", *["ok"] * 5]
    assert [each["state_id"] for each in replies] == [each.get("state_id", "") for each in items[:7]]
    assert steps == [2, 1, 1, 2]


@pytest.mark.parametrize("large", [True, False])
async def test_a_large_body_is_parsed_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    threads = set()

    def parse(body: bytes, model: Any) -> Any:
        threads.add(threading.get_ident())
        return json_api.parse_model(body, model)

    monkeypatch.setattr(bodies, "parse_model", parse)
    async with open_manager(tmp_path / "state.db") as manager:
        error = "x" * (bodies.LARGE if large else bodies.LARGE // 2)
        refused(await manager.remote.v0("POST", f"state/{UNKNOWN_ID}/errored", json={"error": error}), 404)
    assert (threads == {threading.get_ident()}) != large


async def test_the_values_of_a_large_body_are_reserved_before_it_is_parsed(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserved: list[int] = []

    async def refuse(scope: object, count: int) -> None:
        reserved.append(count)
        raise Unavailable("no room")

    monkeypatch.setattr(bodies, "LARGE", 100)
    monkeypatch.setattr(bodies, "reserve_values", refuse)
    large = {"inputs": {f"name-{number}": "x" * 100 for number in range(30)}}
    refused(await api.v0("POST", "graph/absent/trigger", json=large), 503)
    refused(await api.v0("POST", "graph/absent/trigger", json={}), 404)
    assert len(reserved) == 1
    assert 30 <= reserved[0] <= 40
