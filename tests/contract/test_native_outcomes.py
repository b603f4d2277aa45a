"""Design section 4: batches of outcomes and their tokens, and what v0 may do with their states."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import (
    HOUR_MS,
    OK,
    A,
    claim,
    claim_again,
    claim_one,
    executed_item,
    item_for,
    report,
)
from tests.support.helpers import FAST_RETRY, NO_RETRY, UNKNOWN_ID, eventually, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


# -- outcomes


async def test_every_kind_of_outcome_in_one_batch(api: Api) -> None:
    await Flow.start(api, place("a"), retry_policy=NO_RETRY, runs=4)
    states = await claim(api)
    items = [
        executed_item(states[0]),
        item_for(states[1], outcome="errored", error="boom"),
        item_for(states[2], outcome="pruned", data={"why": "x"}),
        item_for(states[3], outcome="requeued", delay_ms=HOUR_MS),
    ]
    assert await report(api, *items) == ["ok"] * 4
    expected = ["SUCCESS", "ERRORED", "PRUNED", "CREATED"]
    for state, status in zip(states, expected, strict=True):
        detail = ok(await api.state("graph", state["run_id"], state["state_id"]))
        assert detail["status"] == status


async def test_the_answer_to_an_error_says_what_follows(api: Api) -> None:
    policy = {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 2}
    flow = await Flow.start(api, place("a"), retry_policy=policy)

    async def after_error(state: dict[str, Any]) -> dict[str, Any] | None:
        reply = ok(await api.outcomes(item_for(state, outcome="errored", error="boom")))
        after: dict[str, Any] | None = reply["items"][0]["after_error"]
        return after

    state = await claim_one(api)
    assert await after_error(state) == {"retried": True, "attempts": 2, "delay_ms": 2, "release": False}
    assert await after_error(state) == {"retried": True, "attempts": 2, "delay_ms": None, "release": False}, (
        "sent again"
    )
    state = await eventually(lambda: claim_again(api))
    assert await after_error(state) == {"retried": False, "attempts": 2, "delay_ms": None, "release": False}
    assert (await flow.statuses())["a", "ERRORED"] == 1


async def test_an_error_that_is_not_to_be_retried_ends_its_state_and_can_be_retried_by_hand(api: Api) -> None:
    await Flow.start(api, place("a"), retry_policy=FAST_RETRY, runs=2)
    fields: list[dict[str, Any]] = [{"retry": False}, {"unknown": 1}]
    for state, more in zip(await claim(api), fields, strict=True):
        item = item_for(state, outcome="errored", error="declined", **more)
        assert await report(api, item) == ["ok"]
        assert await report(api, item) == ["duplicate"]
    # The other one is retried; a field that this version does not know changes nothing.
    (other,) = await claim(api, wait_ms=15_000)
    assert other["lease"]["attempt"] == 2
    failed = next(s for s in ok(await api.states(status="ERRORED"))["states"])
    assert failed["error"] == "declined"
    assert ok(await api.native_run(failed["run_id"]))["status"] == "FAILED"
    ok(await api.manual_retry(failed["id"]))
    (again,) = await claim(api)
    assert await report(api, item_for(again, outcome="errored", error="x")) == ["ok"]
    assert [state["lease"]["attempt"] for state in await claim(api, wait_ms=15_000)] == [2]


async def test_v0_cannot_keep_an_error_from_being_retried(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    body = {"error": "declined", "retry": False}
    assert (
        ok(await api.v0("POST", f"state/{await flow.one('a')}/errored", json=body))["retry_created"] is True
    )


async def test_an_empty_batch_is_accepted(api: Api) -> None:
    assert ok(await api.outcomes()) == {"items": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "executed", "outputs": [OK, {"v": "2"}]},
        {"outcome": "executed", "outputs": []},
        {"outcome": "errored", "error": "boom"},
        {"outcome": "errored", "error": "a NUL: \0"},
        {"outcome": "pruned", "data": {"why": 1}},
        {"outcome": "requeued", "delay_ms": HOUR_MS},
    ],
    ids=lambda fields: fields["outcome"],
)
async def test_a_repeated_outcome_is_a_duplicate_and_changes_nothing(
    api: Api, fields: dict[str, Any]
) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await claim_one(api)
    assert await report(api, item_for(state, **fields)) == ["ok"]
    before = await flow.statuses()
    assert await report(api, item_for(state, **fields)) == ["duplicate"]
    assert await report(api, item_for(state, **fields), item_for(state, **fields)) == ["duplicate"] * 2
    assert await flow.statuses() == before


async def test_the_same_outcome_twice_in_one_batch_is_recorded_once(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state = await claim_one(api)
    assert await report(api, executed_item(state), executed_item(state)) == ["ok", "duplicate"]
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "CREATED"): 1}


async def test_another_outcome_after_the_first_is_stale(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    state = await claim_one(api)
    assert await report(api, executed_item(state)) == ["ok"]
    assert await report(api, item_for(state, outcome="errored", error="late")) == ["stale"]
    assert await flow.statuses() == {("a", "SUCCESS"): 1}


async def test_a_token_is_stale_after_release_and_another_claim(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    first = await claim_one(api)
    ok(await api.release(states=[item_for(first)]))
    second = await claim_one(api)
    assert second["state_id"] == first["state_id"]
    assert second["lease"]["token"] != first["lease"]["token"]
    assert await report(api, executed_item(first)) == ["stale"]
    assert await flow.status(second["state_id"]) == "QUEUED"
    assert await report(api, executed_item(second)) == ["ok"]
    assert await report(api, executed_item(first)) == ["stale"]


async def test_a_token_is_stale_after_requeue_and_another_claim(api: Api) -> None:
    await Flow.start(api, place("a"))
    first = await claim_one(api)
    assert await report(api, item_for(first, outcome="requeued", delay_ms=1)) == ["ok"]

    async def again() -> dict[str, Any]:
        return await claim_again(api)

    second = await eventually(again)
    assert second["state_id"] == first["state_id"]
    assert await report(api, executed_item(first), executed_item(second)) == ["stale", "ok"]


async def test_a_wrong_token_is_stale(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    forged = {**executed_item(state), "token": "forged"}
    assert await report(api, forged, {**forged, "token": ""}) == ["stale", "stale"]
    assert await flow.status(state["state_id"]) == "QUEUED"


async def test_a_state_that_does_not_exist_here_is_unknown(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    item = executed_item(state)
    assert await report(api, {**item, "state_id": UNKNOWN_ID}, {**item, "state_id": "x"}) == ["unknown"] * 2
    assert await report(api.elsewhere(), item) == ["unknown"]
    assert await report(api, item) == ["ok"]


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
    await Flow.start(api, place("a"), runs=3)
    first, second, third = await claim(api)
    assert await report(api, executed_item(first), item_for(second, **broken), executed_item(third)) == [
        "ok",
        "invalid",
        "ok",
    ]
    detail = ok(await api.state("graph", second["run_id"], second["state_id"]))
    assert detail["status"] == "QUEUED"
    assert await report(api, executed_item(second)) == ["ok"]


@pytest.mark.parametrize(
    "content", [b"", b"null", b"{}", b'{"items": []}', b'"x"', b"{", b"[" * 100_000, b"\xff"], ids=range(8)
)
async def test_a_batch_that_is_no_list_is_422(api: Api, content: bytes) -> None:
    refused(await api.native("POST", "outcomes", content=content), 422)


async def test_an_attempt_counts_retries_and_deliveries_count_claims_without_outcome(api: Api) -> None:
    await Flow.start(api, place("a"))
    state = await claim_one(api)
    assert await report(api, item_for(state, outcome="errored", error="x")) == ["ok"]
    retry = await eventually(lambda: claim_again(api))
    assert (retry["lease"]["attempt"], retry["lease"]["deliveries"]) == (2, 0)
    assert retry["state_id"] != state["state_id"]


# -- next to v0


@pytest.mark.parametrize("outcome", ["executed", "errored", "prune", "requeue"])
async def test_a_v0_outcome_for_a_state_under_a_lease_is_400(api: Api, outcome: str) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    state_id = state["state_id"]
    reports: dict[str, Callable[[str], Awaitable[httpx.Response]]] = {
        "executed": api.executed,
        "errored": api.errored,
        "prune": api.prune,
        "requeue": api.requeue,
    }
    refused(await reports[outcome](state_id), 400)
    assert await flow.status(state_id) == "QUEUED"
    assert await report(api, executed_item(state)) == ["ok"]


async def test_a_state_is_claimed_through_one_api(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    await flow.one("a")
    assert await claim(api) == []
    await flow.trigger()
    await claim_one(api)
    assert ok(await api.claim([A], 16))["states"] == []


async def test_a_token_is_stale_once_v0_claimed_the_released_state(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state = await claim_one(api)
    ok(await api.release(states=[item_for(state)]))
    assert await flow.one("a") == state["state_id"]
    assert await report(api, executed_item(state)) == ["stale"]
    ok(await api.executed(state["state_id"], OK))


async def test_secrets_under_a_lease_are_for_its_holder(api: Api) -> None:
    await Flow.start(api, place("a"), secrets={"token": "hunter2"})
    first = await claim_one(api)
    state_id, token = first["state_id"], first["lease"]["token"]
    assert ok(await api.secrets(state_id, token)) == {"secrets": {"token": "hunter2"}}
    ok(await api.release(states=[item_for(first)]))
    second = await claim_one(api)
    for other in (None, "forged", token):
        response = await api.secrets(state_id, other)
        refused(response, 400, 403, 404, 409)
        assert "hunter2" not in response.text
    ok(await api.secrets(state_id, second["lease"]["token"]))
    assert await report(api, executed_item(second)) == ["ok"]
    refused(await api.secrets(state_id, second["lease"]["token"]), 400, 403, 404, 409)


# -- trigger and run


async def test_a_native_trigger_may_be_repeated(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"p": "x"}))
    run_id = str(uuid.uuid4())
    first = ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"}))
    assert first == {"status": "CREATED", "run_id": run_id, "created": True}
    again = {**first, "created": False}
    assert ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"})) == again
    assert ok(await api.runs())["total"] == 1
    assert (await claim_one(api))["inputs"] == {"p": "mine"}
    assert ok(await api.native_trigger(flow.graph, run_id, inputs={"p": "mine"})) == again
    assert await claim(api) == []


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
    assert run.pop("finished_at") == run.pop("cancelled_at") == run.pop("key") is None
    assert (run.pop("duration_ms"), run.pop("idle_ms"), run.pop("missing")) == (None, 0, ["1 of 2 b failed"])
    assert (run.pop("priority"), run.pop("weight"), run.pop("fair_key")) == ("normal", 1.0, None)
    assert run.pop("started_by") in ("root", "in process")
    assert (run.pop("pruned_count"), run.pop("for_event_count"), run.pop("for_run_count")) == (0, 0, 0)
    assert (run.pop("origin"), run.pop("parent_run_id"), run.pop("parent")) == ("api", None, None)
    assert (run.pop("children"), run.pop("children_count"), run.pop("changing")) == ([], 0, [])
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
