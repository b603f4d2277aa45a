"""Design section 4: the native API beside v0 - leases, tokens, claim ids, batches, repeatable triggers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.helpers import NO_RETRY, UNKNOWN_ID, eventually, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")

A = node_name("a")
B = node_name("b")
HOUR_MS = 3_600_000
OK = {"v": "x", "w": "w"}


def _executed(state: dict[str, Any], *outputs: dict[str, Any]) -> dict[str, Any]:
    return _item(state, outcome="executed", outputs=list(outputs or (OK,)))


def _item(state: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"state_id": state["state_id"], "token": state["lease"]["token"], **fields}


async def _claim(api: Api, limits: dict[str, int] | None = None, **options: Any) -> list[dict[str, Any]]:
    states: list[dict[str, Any]] = ok(await api.native_claim(limits or {A: 10}, **options))["states"]
    return states


async def _one(api: Api, **options: Any) -> dict[str, Any]:
    (state,) = await _claim(api, **options)
    return state


def _results(reply: dict[str, Any]) -> list[str]:
    return [item["result"] for item in reply["items"]]


async def _report(api: Api, *items: dict[str, Any]) -> list[str]:
    reply = ok(await api.outcomes(*items))
    assert [item["state_id"] for item in reply["items"]] == [item["state_id"] for item in items]
    return _results(reply)


# -- discovery


async def test_discovery_answers_a_version_and_capabilities(api: Api) -> None:
    reply = ok(await api.discover())
    assert isinstance(reply["version"], str)
    assert reply["version"]
    assert isinstance(reply["capabilities"], list)
    assert {"leases", "batch", "long_poll"} <= set(reply["capabilities"])


async def test_an_unknown_native_route_is_a_json_404(api: Api) -> None:
    refused(await api.native("POST", "nothing", json={}), 404)
    refused(await api.request("GET", "/exotrio/v2"), 404)


# -- claiming


async def test_a_claim_answers_states_with_leases(api: Api) -> None:
    flow = await Flow.start(api, place("a", inputs={"p": "x"}))
    state = await _one(api)
    lease = state.pop("lease")
    assert state.pop("created_at")
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

    assert sizes(await _claim(api, {A: 1, B: 2})) == (1, 2)
    assert sizes(await _claim(api, {A: 0, B: 1})) == (0, 1)
    assert len(await _claim(api, {A: 10, B: 10}, limit=2)) == 2
    assert await _claim(api, {A: 10, B: 10}, limit=0) == []
    assert len(await _claim(api, {A: 10, B: 10})) == 2
    assert await _claim(api, {A: 10, B: 10}) == []


async def test_a_claim_takes_only_the_nodes_it_names_in_its_namespace(api: Api) -> None:
    await Flow.start(api, place("a"))
    assert await _claim(api, {B: 5}) == []
    assert await _claim(api.elsewhere(), {A: 5}) == []
    await _one(api)


async def test_the_same_claim_id_returns_the_states_still_held(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    for _ in range(3):
        await flow.trigger()
    claim_id = str(uuid.uuid4())
    first = await _claim(api, {A: 2}, claim_id=claim_id)
    again = await _claim(api, {A: 2}, claim_id=claim_id)
    assert [(s["state_id"], s["lease"]["token"]) for s in again] == [
        (s["state_id"], s["lease"]["token"]) for s in first
    ]
    assert await _report(api, _executed(first[0])) == ["ok"]
    (held,) = await _claim(api, {A: 2}, claim_id=claim_id)
    assert held["state_id"] == first[1]["state_id"]
    assert await _report(api, _executed(first[1])) == ["ok"]
    assert await _claim(api, {A: 2}, claim_id=claim_id) == []
    assert len(await _claim(api)) == 1


async def test_a_claim_that_found_nothing_may_be_repeated_without_harm(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    claim_id = str(uuid.uuid4())
    assert await _claim(api, claim_id=claim_id) == []
    assert await _claim(api, claim_id=claim_id) == []


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
    with trio.fail_after(10):
        await _one(api, wait_ms=15_000)


async def test_a_long_poll_without_work_ends_empty(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    with trio.fail_after(10):
        assert await _claim(api, wait_ms=30) == []


@pytest.mark.parametrize("event", ["trigger", "next state", "requeue", "retry", "release", "delay"])
async def test_a_long_poll_returns_as_soon_as_a_state_appears(api: Api, event: str) -> None:
    flow = await Flow.deploy(api, place("a", "b"), place("b"), retry_policy=NO_RETRY | {"max_retries": 1})
    claimed: list[dict[str, Any]] = []
    wanted = B if event == "next state" else A
    held: dict[str, Any] = {}
    if event in {"next state", "requeue", "retry", "release"}:
        await flow.trigger()
        held = await _one(api)

    async def poll() -> None:
        claimed.extend(await _claim(api, {wanted: 1}, wait_ms=15_000))

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poll)
            # Long enough for the poll to be waiting, in nearly every run: else it answers at once.
            await trio.sleep(0.03)
            if event == "trigger":
                await flow.trigger()
            elif event == "delay":
                await flow.trigger(start_delay=30)
            elif event == "next state":
                assert await _report(api, _executed(held)) == ["ok"]
            elif event == "requeue":
                assert await _report(api, _item(held, outcome="requeued", delay_ms=10)) == ["ok"]
            elif event == "retry":
                assert await _report(api, _item(held, outcome="errored", error="x")) == ["ok"]
            else:
                ok(await api.release(states=[_item(held)]))
    assert len(claimed) == 1


async def test_of_two_long_polls_one_gets_the_state(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    sizes: list[int] = []

    async def poll() -> None:
        sizes.append(len(await _claim(api, wait_ms=400)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        nursery.start_soon(poll)
        await trio.sleep(0.02)
        await flow.trigger()
    assert sorted(sizes) == [0, 1]


# -- outcomes


async def test_every_kind_of_outcome_in_one_batch(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), retry_policy=NO_RETRY)
    for _ in range(4):
        await flow.trigger()
    states = await _claim(api)
    items = [
        _executed(states[0]),
        _item(states[1], outcome="errored", error="boom"),
        _item(states[2], outcome="pruned", data={"why": "x"}),
        _item(states[3], outcome="requeued", delay_ms=HOUR_MS),
    ]
    assert await _report(api, *items) == ["ok"] * 4
    expected = ["SUCCESS", "ERRORED", "PRUNED", "CREATED"]
    for state, status in zip(states, expected, strict=True):
        detail = ok(await api.state("graph", state["run_id"], state["state_id"]))
        assert detail["status"] == status


async def test_an_empty_batch_is_accepted(api: Api) -> None:
    assert ok(await api.outcomes()) == {"items": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "executed", "outputs": [OK, {"v": "2"}]},
        {"outcome": "executed", "outputs": []},
        {"outcome": "errored", "error": "boom"},
        {"outcome": "pruned", "data": {"why": 1}},
        {"outcome": "requeued", "delay_ms": HOUR_MS},
    ],
    ids=lambda fields: fields["outcome"],
)
async def test_a_repeated_outcome_is_a_duplicate_and_changes_nothing(
    api: Api, fields: dict[str, Any]
) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await _one(api)
    assert await _report(api, _item(state, **fields)) == ["ok"]
    before = await flow.statuses()
    assert await _report(api, _item(state, **fields)) == ["duplicate"]
    assert await _report(api, _item(state, **fields), _item(state, **fields)) == ["duplicate"] * 2
    assert await flow.statuses() == before


async def test_the_same_outcome_twice_in_one_batch_is_recorded_once(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await _one(api)
    assert await _report(api, _executed(state), _executed(state)) == ["ok", "duplicate"]
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "CREATED"): 1}


async def test_another_outcome_after_the_first_is_stale(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    state = await _one(api)
    assert await _report(api, _executed(state)) == ["ok"]
    assert await _report(api, _item(state, outcome="errored", error="late")) == ["stale"]
    assert await flow.statuses() == {("a", "SUCCESS"): 1}


async def test_a_token_is_stale_after_release_and_another_claim(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    first = await _one(api)
    ok(await api.release(states=[_item(first)]))
    second = await _one(api)
    assert second["state_id"] == first["state_id"]
    assert second["lease"]["token"] != first["lease"]["token"]
    assert await _report(api, _executed(first)) == ["stale"]
    assert await flow.status(second["state_id"]) == "QUEUED"
    assert await _report(api, _executed(second)) == ["ok"]
    assert await _report(api, _executed(first)) == ["stale"]


async def test_a_token_is_stale_after_requeue_and_another_claim(api: Api) -> None:
    await Flow.start(api, place("a"))
    first = await _one(api)
    assert await _report(api, _item(first, outcome="requeued", delay_ms=1)) == ["ok"]

    async def again() -> dict[str, Any]:
        return await _reclaimed(api)

    second = await eventually(again)
    assert second["state_id"] == first["state_id"]
    assert await _report(api, _executed(first), _executed(second)) == ["stale", "ok"]


async def _reclaimed(api: Api) -> dict[str, Any]:
    states = await _claim(api)
    assert states
    return states[0]


async def test_a_wrong_token_is_stale(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await _one(api)
    forged = {**_executed(state), "token": "forged"}
    assert await _report(api, forged, {**forged, "token": ""}) == ["stale", "stale"]
    assert await flow.status(state["state_id"]) == "QUEUED"


async def test_a_state_that_does_not_exist_here_is_unknown(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await _one(api)
    item = _executed(state)
    assert await _report(api, {**item, "state_id": UNKNOWN_ID}, {**item, "state_id": "x"}) == ["unknown"] * 2
    assert await _report(api.elsewhere(), item) == ["unknown"]
    assert await _report(api, item) == ["ok"]


@pytest.mark.parametrize(
    "broken",
    [
        {"outcome": "executed"},
        {"outcome": "executed", "outputs": ["x"]},
        {"outcome": "errored", "error": 5},
        {"outcome": "pruned", "data": None},
        {"outcome": "requeued", "delay_ms": 0},
        {"outcome": "vanished"},
        {},
    ],
    ids=str,
)
async def test_an_invalid_item_does_not_refuse_the_rest_of_the_batch(
    api: Api, broken: dict[str, Any]
) -> None:
    flow = await Flow.deploy(api, place("a"))
    for _ in range(3):
        await flow.trigger()
    first, second, third = await _claim(api)
    assert await _report(api, _executed(first), _item(second, **broken), _executed(third)) == [
        "ok",
        "invalid",
        "ok",
    ]
    detail = ok(await api.state("graph", second["run_id"], second["state_id"]))
    assert detail["status"] == "QUEUED"
    assert await _report(api, _executed(second)) == ["ok"]


@pytest.mark.parametrize("body", [{}, {"items": []}, "x", None])
async def test_a_batch_that_is_no_list_is_422(api: Api, body: Any) -> None:
    assert (await api.native("POST", "outcomes", json=body)).status_code == 422


async def test_an_attempt_counts_retries_and_deliveries_count_claims_without_outcome(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await _one(api)
    assert await _report(api, _item(state, outcome="errored", error="x")) == ["ok"]
    retry = await eventually(lambda: _reclaimed(api))
    assert (retry["lease"]["attempt"], retry["lease"]["deliveries"]) == (2, 0)
    assert retry["state_id"] != state["state_id"]


async def test_outcomes_drive_a_run_with_fan_out_and_unite(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", "u"), place("u", unites="a"))
    assert await _report(api, _executed(await _one(api))) == ["ok"]
    assert await _report(api, _executed(await _one(api, limits={B: 1}), {"v": "0"}, {"v": "1"})) == ["ok"]
    assert await _report(api, _executed(await _one(api, limits={node_name("u"): 5}))) == ["ok"]
    assert (await flow.run_summary())["status"] == "SUCCESS"


# -- release


async def test_a_released_state_is_free_at_once_and_uses_no_retry(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    for _ in range(4):
        state = await _one(api)
        assert _results(ok(await api.release(states=[_item(state)]))) == ["ok"]
        assert await flow.status(state["state_id"]) == "CREATED"
    assert state["lease"]["attempt"] == 1
    assert await flow.statuses() == {("a", "CREATED"): 1}


async def test_a_release_may_delay(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await _one(api)
    assert _results(ok(await api.release(states=[_item(state)], delay_ms=HOUR_MS))) == ["ok"]
    assert await _claim(api) == []
    assert await flow.status(state["state_id"]) == "CREATED"


async def test_a_release_answers_for_every_state(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    for _ in range(3):
        await flow.trigger()
    held, done, forged = await _claim(api)
    assert await _report(api, _executed(done)) == ["ok"]
    items = [
        _item(held),
        _item(done),
        {"state_id": forged["state_id"], "token": "forged"},
        {"state_id": UNKNOWN_ID, "token": "x"},
    ]
    reply = ok(await api.release(states=items))
    assert [item["state_id"] for item in reply["items"]] == [item["state_id"] for item in items]
    assert _results(reply) == ["ok", "stale", "stale", "unknown"]
    (free,) = await _claim(api)
    assert free["state_id"] == held["state_id"]


async def test_releasing_a_claim_id_frees_what_is_held_and_voids_the_id(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    for _ in range(3):
        await flow.trigger()
    claim_id = str(uuid.uuid4())
    states = await _claim(api, {A: 2}, claim_id=claim_id)
    assert await _report(api, _executed(states[0])) == ["ok"]
    ok(await api.release(claim_id=claim_id))
    assert await _claim(api, claim_id=claim_id) == []
    assert await _report(api, _executed(states[0])) == ["duplicate"]
    assert len(await _claim(api)) == 2


async def test_releasing_an_unknown_claim_id_voids_it(api: Api) -> None:
    await Flow.start(api, place("a"))
    claim_id = str(uuid.uuid4())
    ok(await api.release(claim_id=claim_id))
    assert await _claim(api, claim_id=claim_id) == []
    assert await _claim(api, claim_id=claim_id, wait_ms=20) == []
    await _one(api)


async def test_releasing_a_claim_id_ends_its_long_poll_empty(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    claim_id = str(uuid.uuid4())
    claimed: list[dict[str, Any]] = []

    async def poll() -> None:
        claimed.extend(await _claim(api, claim_id=claim_id, wait_ms=300))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(0.03)
        ok(await api.release(claim_id=claim_id))
        await flow.trigger()
    assert claimed == []
    await _one(api)


# -- beside v0


@pytest.mark.parametrize("outcome", ["executed", "errored", "prune", "requeue"])
async def test_a_v0_outcome_for_a_state_under_a_lease_is_400(api: Api, outcome: str) -> None:
    flow = await Flow.start(api, place("a"))
    state = await _one(api)
    state_id = state["state_id"]
    reports: dict[str, Callable[[str], Awaitable[httpx.Response]]] = {
        "executed": api.executed,
        "errored": api.errored,
        "prune": api.prune,
        "requeue": api.requeue,
    }
    refused(await reports[outcome](state_id), 400)
    assert await flow.status(state_id) == "QUEUED"
    assert await _report(api, _executed(state)) == ["ok"]


async def test_a_state_goes_either_to_v0_or_to_native(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    await flow.one("a")
    assert await _claim(api) == []
    await flow.trigger()
    await _one(api)
    assert ok(await api.claim([A], 16))["states"] == []


async def test_a_token_is_stale_once_v0_claimed_the_released_state(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await _one(api)
    ok(await api.release(states=[_item(state)]))
    assert await flow.one("a") == state["state_id"]
    assert await _report(api, _executed(state)) == ["stale"]
    ok(await api.executed(state["state_id"], OK))


async def test_secrets_under_a_lease_are_for_its_holder(api: Api) -> None:
    await Flow.start(api, place("a"), secrets={"token": "hunter2"})
    first = await _one(api)
    state_id, token = first["state_id"], first["lease"]["token"]
    assert ok(await api.secrets(state_id, token)) == {"secrets": {"token": "hunter2"}}
    ok(await api.release(states=[_item(first)]))
    second = await _one(api)
    for other in (None, "forged", token):
        response = await api.secrets(state_id, other)
        refused(response, 400, 403, 404, 409)
        assert "hunter2" not in response.text
    ok(await api.secrets(state_id, second["lease"]["token"]))
    assert await _report(api, _executed(second)) == ["ok"]
    refused(await api.secrets(state_id, second["lease"]["token"]), 400, 403, 404, 409)


# -- trigger and run


async def test_a_native_trigger_may_be_repeated(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": "x"}))
    run_id = str(uuid.uuid4())
    first = ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"}))
    assert first == {"status": "CREATED", "run_id": run_id}
    assert ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"})) == first
    assert ok(await api.runs())["total"] == 1
    assert (await _one(api))["inputs"] == {"p": "mine"}
    assert ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"})) == first
    assert await _claim(api) == []


async def test_a_native_trigger_checks_what_v0_checks(api: Api) -> None:
    run_id = str(uuid.uuid4())
    refused(await api.native_trigger("nothing", run_id), 404)
    ok(await api.put_graph("invalid", api.body([place("nowhere")])), 201)
    refused(await api.native_trigger("invalid", run_id), 400)
    await Flow.deploy(api, place("a"), store_config={"required_keys": ["k"]})
    refused(await api.native_trigger("graph", run_id), 400)
    ok(await api.native_trigger("graph", run_id, store={"k": "x"}))


@pytest.mark.parametrize("run_id", ["", "x", "not-a-uuid", None, 5])
async def test_the_run_id_of_a_native_trigger_is_a_uuid(api: Api, run_id: Any) -> None:
    flow = await Flow.deploy(api, place("a"))
    assert (await api.native_trigger(flow.graph, run_id)).status_code == 422


async def test_a_run_is_shown_with_counts_for_each_place(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b", "c"), place("b"), place("c"), retry_policy=NO_RETRY)
    await flow.run("a", {"v": "0"}, {"v": "1"})
    first, _ = await flow.take("b", 2)
    ok(await api.errored(first["state_id"]))
    run = ok(await api.native_run(flow.run_id))
    nodes = run.pop("nodes")
    assert run == await flow.run_summary()
    assert [(node["identifier"], node["node_name"]) for node in nodes] == [
        (identifier, node_name(identifier)) for identifier in ("a", "b", "c")
    ]
    counts = [{status: n for status, n in node["counts"].items() if n} for node in nodes]
    assert counts == [{"SUCCESS": 2}, {"ERRORED": 1, "QUEUED": 1}, {"CREATED": 2}]


async def test_an_unknown_run_is_404(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    refused(await api.native_run(str(uuid.uuid4())), 404)
    refused(await api.elsewhere().native_run(flow.run_id), 404)
