"""Sections 2.8, 2.9, 3, 6 and 10: claiming, and what each outcome does to the claimed state."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest
import trio

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, UNKNOWN_ID, eventually, node_name, ok, place, refused

HOUR_MS = 3_600_000


# -- claiming


async def test_a_claim_answers_what_a_runtime_needs(api: Api) -> None:
    flow = await Flow.start(api, place("a", inputs={"p": "x"}))
    reply = ok(await api.claim([node_name("a")], 16))
    (state,) = reply["states"]
    assert (reply["count"], reply["namespace"], reply["status"]) == (1, api.namespace, "QUEUED")
    datetime.fromisoformat(state["created_at"])
    assert state["node_name"] == node_name("a")
    assert (state["identifier"], state["inputs"]) == ("a", {"p": "x"})
    assert await flow.status(state["state_id"]) == "QUEUED"


async def test_an_empty_claim_still_says_queued(api: Api) -> None:
    reply = ok(await api.claim(["Unknown"], 16))
    assert reply == {"count": 0, "namespace": api.namespace, "status": "QUEUED", "states": []}


@pytest.mark.parametrize("batch_size", [0, -1, -100])
async def test_a_batch_size_below_one_claims_nothing(api: Api, batch_size: int) -> None:
    flow = await Flow.start(api, place("a"))
    assert ok(await api.claim([node_name("a")], batch_size))["states"] == []
    await flow.one("a")


async def test_a_claim_takes_no_more_than_its_batch(api: Api) -> None:
    await Flow.start(api, place("a"), runs=5)
    sizes = [len(ok(await api.claim([node_name("a")], 2))["states"]) for _ in range(4)]
    assert sizes == [2, 2, 1, 0]


async def test_a_claim_takes_only_the_nodes_it_names(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    assert ok(await api.claim([], 16))["states"] == []
    assert ok(await api.claim(["Node_b", "node_a", "Node_"], 16))["states"] == []
    await flow.one("a")


async def test_one_claim_mixes_nodes_graphs_and_runs(api: Api) -> None:
    one = await Flow.start(api, place("a"), graph="one")
    two = await Flow.start(api, place("b"), graph="two")
    await two.trigger()
    assert one.run_id != two.run_id
    reply = ok(await api.claim([node_name("a"), node_name("b"), node_name("a")], 16))
    assert sorted(state["identifier"] for state in reply["states"]) == ["a", "b", "b"]


async def test_a_claim_stays_in_its_namespace(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    assert ok(await api.elsewhere().claim([node_name("a")], 16))["states"] == []
    await flow.one("a")


async def test_a_state_goes_to_one_of_many_claimers(api: Api) -> None:
    await Flow.start(api, place("a"), runs=12)
    taken: list[str] = []

    async def claimer() -> None:
        for _ in range(6):
            states = ok(await api.claim([node_name("a")], 3))["states"]
            taken.extend(state["state_id"] for state in states)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(claimer)
    assert len(taken) == len(set(taken)) == 12


@pytest.mark.deviates_from_stock("stock leaves the order open")
async def test_states_are_claimed_in_the_order_they_came_due(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", inputs={"n": ""}))
    # Far enough apart that a slow machine, which takes its time for a trigger, does not turn them round.
    for number, delay in enumerate((1000, 500, 0)):
        await flow.trigger(inputs={"n": str(number)}, start_delay=delay)

    await trio.sleep(1.05)
    (first,) = ok(await api.claim([node_name("a")], 1))["states"]
    rest = ok(await api.claim([node_name("a")], 16))["states"]
    assert [state["inputs"]["n"] for state in (first, *rest)] == ["2", "1", "0"]


# -- executed


async def test_executed_makes_the_state_a_success(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    assert ok(await api.executed(state_id, {"v": "x", "n": 1})) == {"status": "EXECUTED"}
    assert await flow.status(state_id) == "SUCCESS"
    detail = await flow.detail(state_id)
    assert (detail["outputs"], detail["error"]) == ({"v": "x", "n": 1}, None)


async def test_executed_with_several_outputs_makes_siblings(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", "c", inputs={"p": "in"}), place("c"))
    parent = await flow.run("a")
    state_id = await flow.one("b")
    ok(await api.executed(state_id, {"v": "0"}, {"v": "1"}, {"v": "2"}))
    siblings = await flow.states("b")
    assert sorted(sibling["outputs"]["v"] for sibling in siblings) == ["0", "1", "2"]
    assert (await flow.detail(state_id))["outputs"] == {"v": "0"}
    for sibling in siblings:
        assert (sibling["status"], sibling["inputs"]) == ("SUCCESS", {"p": "in"})
        assert (sibling["parents"], sibling["node_name"]) == ({"a": parent}, node_name("b"))
    assert len(await flow.take("c", 3)) == 3


async def test_executed_without_outputs_goes_on_with_none(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state_id = await flow.one("a")
    ok(await api.executed(state_id))
    await flow.one("b")
    assert (await flow.detail(state_id))["outputs"] == {}


# -- outcomes and their guards


async def _report(api: Api, outcome: str, state_id: str) -> Any:
    if outcome == "executed":
        return await api.executed(state_id, {"v": "x"})
    if outcome == "errored":
        return await api.errored(state_id)
    if outcome == "prune":
        return await api.prune(state_id, {"why": "x"})
    return await api.requeue(state_id, HOUR_MS)


OUTCOMES = ["executed", "errored", "prune", "requeue"]


@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_an_outcome_for_an_unknown_state_is_404(api: Api, outcome: str) -> None:
    refused(await _report(api, outcome, UNKNOWN_ID), 404)


@pytest.mark.parametrize(
    "outcome",
    [
        *OUTCOMES[:3],
        pytest.param("requeue", marks=pytest.mark.deviates_from_stock("stock has no guard on re-enqueue")),
    ],
)
async def test_an_outcome_for_an_unclaimed_state_is_400(api: Api, outcome: str) -> None:
    flow = await Flow.start(api, place("a"))
    (root,) = (await flow.shown())["root_states"]
    refused(await _report(api, outcome, root["id"]), 400)
    assert await flow.statuses() == {("a", "CREATED"): 1}


@pytest.mark.deviates_from_stock("stock ignores the namespace of outcomes")
@pytest.mark.parametrize("outcome", OUTCOMES)
async def test_an_outcome_in_another_namespace_is_404(api: Api, outcome: str) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    refused(await _report(api.elsewhere(), outcome, state_id), 404)
    assert await flow.status(state_id) == "QUEUED"


ENDED = {"executed": "SUCCESS", "errored": "ERRORED", "prune": "PRUNED", "requeue": "CREATED"}


@pytest.mark.parametrize("second", OUTCOMES)
@pytest.mark.parametrize("first", OUTCOMES)
@pytest.mark.deviates_from_stock("repeated signals are 200, requeue is guarded")
async def test_a_second_outcome_never_changes_the_first(api: Api, first: str, second: str) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
    state_id = await flow.one("a")
    ok(await _report(api, first, state_id))
    before = await flow.statuses()
    assert await flow.status(state_id) == ENDED[first]
    response = await _report(api, second, state_id)
    if first == second and first in {"prune", "requeue"}:
        ok(response)
    else:
        refused(response, 400)
    assert await flow.statuses() == before
    detail = await flow.detail(state_id)
    assert (detail["error"] is None) is (first != "errored")
    assert detail["outputs"] == ({"v": "x"} if first == "executed" else {})


@pytest.mark.deviates_from_stock("stock reads, checks and saves apart: several of them count")
async def test_two_outcomes_at_once_are_recorded_once(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state_id = await flow.one("a")
    answers: list[int] = []

    async def report(number: int) -> None:
        outputs = {"v": str(number)}
        answers.append((await api.executed(state_id, outputs)).status_code)

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(report, number)
    assert sorted(answers) == [200, 400, 400, 400, 400, 400]
    await flow.one("b")
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "QUEUED"): 1}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("executed", {}),
        ("executed", {"outputs": None}),
        ("executed", {"outputs": {"v": "x"}}),
        ("executed", {"outputs": ["x"]}),
        ("errored", {}),
        ("errored", {"error": None}),
        ("prune", {}),
        ("prune", {"data": None}),
        ("prune", {"data": []}),
        ("re-enqueue-after", {}),
        ("re-enqueue-after", {"enqueue_after": 0}),
        ("re-enqueue-after", {"enqueue_after": -5}),
        ("manual-retry", {}),
    ],
)
async def test_an_outcome_of_the_wrong_shape_is_422_and_changes_nothing(
    api: Api, route: str, body: dict[str, Any]
) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    assert (await api.v0("POST", f"state/{state_id}/{route}", json=body)).status_code == 422
    assert await flow.status(state_id) == "QUEUED"


# -- prune


async def test_pruning_ends_the_branch_and_answers_the_time_it_came_due_unchanged(api: Api) -> None:
    before = int(time.time() * 1000)
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state_id = await flow.one("a")
    reply = ok(await api.prune(state_id, {"reason": {"deep": [1]}}))
    assert reply["status"] == "PRUNED"
    assert type(reply["enqueue_after"]) is int
    assert abs(reply["enqueue_after"] - before) < 60_000
    await flow.none_ready("a", "b")
    assert await flow.statuses() == {("a", "PRUNED"): 1}
    assert (await flow.run_summary())["status"] == "SUCCESS"


@pytest.mark.deviates_from_stock("stock answers 400, which stops its own runtime")
async def test_repeating_a_prune_is_accepted_only_with_the_same_data(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    first = ok(await api.prune(state_id, {"x": 1, "y": {"z": None}}))
    assert ok(await api.prune(state_id, {"y": {"z": None}, "x": 1})) == first
    refused(await api.prune(state_id, {"x": 2}), 400)
    refused(await api.prune(state_id), 400)


# -- re-enqueue


async def test_a_requeued_state_waits_and_keeps_its_id(api: Api) -> None:
    flow = await Flow.start(api, place("a", inputs={"p": "x"}))
    state_id = await flow.one("a")
    before = int(time.time() * 1000)
    reply = ok(await api.requeue(state_id, HOUR_MS))
    assert reply["status"] == "CREATED"
    assert abs(reply["enqueue_after"] - before - HOUR_MS) < 60_000
    await flow.none_ready("a")
    assert await flow.statuses() == {("a", "CREATED"): 1}


async def test_a_requeued_state_can_be_claimed_again_when_due(api: Api) -> None:
    flow = await Flow.start(api, place("a", inputs={"p": "x"}))
    state_id = await flow.one("a")
    ok(await api.requeue(state_id, 5))
    (state,) = await flow.take("a")
    assert (state["state_id"], state["inputs"]) == (state_id, {"p": "x"})
    ok(await api.executed(state_id, {"v": "x"}))
    assert await flow.statuses() == {("a", "SUCCESS"): 1}


async def test_requeueing_uses_no_retries(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    for _ in range(5):
        ok(await api.requeue(await flow.one("a"), 1))
    ok(await api.errored(await flow.one("a")))
    ok(await api.errored(await flow.one("a")))
    assert ok(await api.errored(await flow.one("a")))["retry_created"] is False


@pytest.mark.deviates_from_stock("stock shifts the time again")
async def test_repeating_a_requeue_while_it_waits_changes_nothing(api: Api) -> None:
    flow = await Flow.start(api, place("a"))
    state_id = await flow.one("a")
    first = ok(await api.requeue(state_id, HOUR_MS))
    assert ok(await api.requeue(state_id, HOUR_MS)) == first
    await flow.none_ready("a")


# -- errored


async def test_errored_answers_errored_and_whether_a_retry_follows(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY | {"max_retries": 1})
    assert ok(await api.errored(await flow.one("a"), "boom")) == {"status": "ERRORED", "retry_created": True}
    assert ok(await api.errored(await flow.one("a"), "")) == {"status": "ERRORED", "retry_created": False}
    failed, last = await flow.states("a", "RETRY_CREATED") + await flow.states("a", "ERRORED")
    assert (failed["error"], last["error"]) == ("boom", "")


async def test_a_failed_state_has_no_children(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"), retry_policy=NO_RETRY)
    ok(await api.errored(await flow.one("a")))
    await flow.none_ready("a", "b")
    assert await flow.statuses() == {("a", "ERRORED"): 1}
    assert await eventually(flow.run_summary)
    assert (await flow.run_summary())["status"] == "FAILED"
