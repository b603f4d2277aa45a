"""Section 9: automatic and manual retries."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim, executed_item, item_for, report
from tests.support.helpers import (
    FAST_RETRY,
    NO_RETRY,
    UNKNOWN_ID,
    declare,
    eventually,
    node_name,
    ok,
    place,
    refused,
)


@pytest.mark.parametrize("max_retries", [0, 1, 3])
async def test_a_node_is_attempted_once_and_then_max_retries_times(api: Api, max_retries: int) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=FAST_RETRY | {"max_retries": max_retries})
    for left in reversed(range(max_retries + 1)):
        reply = ok(await api.errored(await flow.one("a")))
        assert reply["retry_created"] is (left > 0)
    await flow.none_ready("a")
    expected = {("a", "ERRORED"): 1} | ({("a", "RETRY_CREATED"): max_retries} if max_retries else {})
    assert await flow.statuses() == expected


@pytest.mark.deviates_from_stock("a stock server knows only the policy of the graph")
async def test_a_node_with_a_policy_is_retried_by_it_and_the_others_by_that_of_the_graph(api: Api) -> None:
    once = {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 3_600_000}
    places = [place("a", "b", retry_policy=once), place("b")]
    flow = await Flow.start(api, *places, retry_policy=NO_RETRY, runs=2)
    shown = ok(await api.get_graph("graph"))["nodes"]
    assert [each.get("retry_policy", {}).get("backoff_factor") for each in shown] == [3_600_000, None]
    failed, other = await claim(api, limit=2)
    (reply,) = ok(await api.outcomes(item_for(failed, outcome="errored", error="boom")))["items"]
    assert reply["after_error"] == {"retried": True, "attempts": 2, "delay_ms": 3_600_000, "release": False}
    assert await report(api, executed_item(other)) == ["ok"]
    assert ok(await api.errored(await flow.one("b")))["retry_created"] is False


async def test_a_retry_is_a_new_state_with_the_same_inputs_and_parents(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    parent = await flow.run("a", {"v": "x"})
    failed = await flow.one("b")
    ok(await api.errored(failed, "boom"))
    retried = await flow.one("b")
    assert retried != failed
    old, new = await flow.detail(failed), await flow.detail(retried)
    assert (old["status"], old["error"]) == ("RETRY_CREATED", "boom")
    assert (new["status"], new["error"], new["outputs"]) == ("QUEUED", None, {})
    assert new["inputs"] == old["inputs"] == {"p": "x"}
    assert new["parents"] == old["parents"] == {"a": parent}


async def test_a_retry_that_succeeds_goes_on(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    ok(await api.errored(await flow.one("a")))
    await flow.run("a")
    await flow.run("b")
    assert await flow.statuses() == {("a", "RETRY_CREATED"): 1, ("a", "SUCCESS"): 1, ("b", "SUCCESS"): 1}
    summary = await flow.run_summary()
    assert (summary["status"], summary["retried_count"], summary["success_count"]) == ("SUCCESS", 1, 2)


async def test_a_retry_waits_for_its_delay(api: Api) -> None:
    policy = {"max_retries": 1, "strategy": "FIXED", "backoff_factor": 3_600_000}
    flow = await Flow.start(api, place("a"), retry_policy=policy)
    ok(await api.errored(await flow.one("a")))
    await flow.none_ready("a")
    assert await flow.statuses() == {("a", "RETRY_CREATED"): 1, ("a", "CREATED"): 1}


async def test_the_cap_shortens_the_delay(api: Api) -> None:
    policy = {"max_retries": 1, "strategy": "EXPONENTIAL", "backoff_factor": 3_600_000, "max_delay": 1}
    flow = await Flow.start(api, place("a"), retry_policy=policy)
    ok(await api.errored(await flow.one("a")))
    await flow.one("a")


async def test_siblings_and_their_children_retry_independently(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "0"}, {"v": "1"})
    for _ in range(2):
        for state in await flow.take("b", 2):
            assert ok(await api.errored(state["state_id"]))["retry_created"] is True
    assert sorted(state["inputs"]["p"] for state in await flow.take("b", 2)) == ["0", "1"]
    assert (await flow.statuses())[("b", "RETRY_CREATED")] == 4


# -- manual retry


async def test_a_failed_state_can_be_retried_by_hand_with_new_automatic_retries(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "x"})
    failed = await flow.fail("b", times=3, error="boom")
    reply = ok(await api.manual_retry(failed))
    assert reply["status"] == "CREATED"
    assert reply["id"] != failed
    old, new = await flow.detail(failed), await flow.detail(reply["id"])
    assert (old["status"], old["error"]) == ("RETRY_CREATED", "boom")
    assert (new["inputs"], new["parents"]) == (old["inputs"], old["parents"])
    assert (new["outputs"], new["error"]) == ({}, None)
    assert await flow.one("b") == reply["id"]
    assert ok(await api.errored(reply["id"]))["retry_created"] is True
    await flow.fail("b", times=2)
    assert (await flow.statuses())[("b", "ERRORED")] == 1


async def test_a_pruned_state_can_be_retried_by_hand(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    pruned = await flow.one("a")
    ok(await api.prune(pruned))
    new = ok(await api.manual_retry(pruned))["id"]
    assert await flow.run("a") == new
    await flow.run("b")
    assert await flow.statuses() == {("a", "RETRY_CREATED"): 1, ("a", "SUCCESS"): 1, ("b", "SUCCESS"): 1}


async def test_a_root_retried_by_hand_is_a_second_root(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    failed = await flow.fail("a", times=1)
    new = ok(await api.manual_retry(failed))["id"]
    assert {root["id"] for root in (await flow.shown())["root_states"]} == {failed, new}


async def test_an_empty_fanout_id_is_accepted(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    ok(await api.manual_retry(await flow.fail("a", times=1), ""))


async def test_the_same_fanout_id_twice_is_409(api: Api) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    failed = await flow.fail("a", times=1)
    ok(await api.manual_retry(failed, "again"))
    refused(await api.manual_retry(failed, "again"), 409)
    second = await flow.fail("a", times=1)
    before = await flow.statuses()
    refused(await api.manual_retry(second, "again"), 409)
    assert await flow.statuses() == before
    ok(await api.manual_retry(second, "once more"))


async def test_the_same_fanout_id_may_serve_another_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"), retry_policy=NO_RETRY)
    for _ in range(2):
        await flow.trigger()
        ok(await api.manual_retry(await flow.fail("a", times=1), "same"))
        await flow.run("a")


@pytest.mark.deviates_from_stock("stock retries states in any status")
@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("CREATED", "is CREATED: it waits"),
        ("QUEUED", "is QUEUED: a runtime has it"),
        ("SUCCESS", "start its graph again"),
        ("RETRY_CREATED", "retry its newest attempt"),
        ("replaced", "retry its newest attempt"),
    ],
)
async def test_a_state_that_did_not_fail_cannot_be_retried(api: Api, status: str, why: str) -> None:
    flow = await Flow.start(api, place("a"), retry_policy=FAST_RETRY | {"max_retries": 1})
    (root,) = (await flow.shown())["root_states"]
    state_id = root["id"]
    if status != "CREATED":
        await flow.one("a")
    if status == "SUCCESS":
        ok(await api.executed(state_id, {"v": "x"}))
    if status == "RETRY_CREATED":
        ok(await api.errored(state_id))
    if status == "replaced":
        ok(await api.prune(state_id))
        ok(await api.manual_retry(state_id))
    before = await flow.statuses()
    answer = await api.manual_retry(state_id)
    refused(answer, 409)
    assert why in answer.json()["detail"]
    assert await flow.statuses() == before


async def test_retrying_an_unknown_state_or_in_another_namespace_is_404(api: Api) -> None:
    refused(await api.manual_retry(UNKNOWN_ID), 404)
    flow = await Flow.start(api, place("a"), retry_policy=NO_RETRY)
    failed = await flow.fail("a", times=1)
    refused(await api.elsewhere().manual_retry(failed), 404)
    ok(await api.manual_retry(failed))


# -- manual retry of a state whose next states could not be created


async def _stuck(api: Api) -> tuple[Flow, str]:
    """Return a run whose root has outputs that its child's inputs cannot be built from."""
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    state_id = await flow.run("a", {"v": 5, "w": "kept"})
    assert await flow.status(state_id) == "NEXT_CREATED_ERROR"
    return flow, state_id


@pytest.mark.deviates_from_stock("stock runs the node again")
async def test_retrying_a_failed_creation_creates_from_the_stored_outputs_without_running_the_node(
    api: Api,
) -> None:
    flow, stuck = await _stuck(api)
    # Its next node no longer asks for the input that could not be built.
    ok(await api.register([declare(node_name("b"))]))
    reply = ok(await api.manual_retry(stuck))
    assert ok(await api.claim([node_name("a")], 16))["states"] == []
    (child,) = await flow.take("b")
    assert child["inputs"] == {}
    statuses = await flow.statuses()
    assert statuses[("a", "SUCCESS")] == 1
    assert statuses[("a", "NEXT_CREATED_ERROR")] == 0
    succeeded = await flow.detail(reply["id"])
    assert (succeeded["status"], succeeded["outputs"]) == ("SUCCESS", {"v": 5, "w": "kept"})
    assert (await flow.detail(child["state_id"]))["parents"] == {"a": reply["id"]}
    ok(await api.executed(child["state_id"], {"v": "x"}))
    assert (await flow.run_summary())["status"] == "SUCCESS"
    refused(await api.manual_retry(reply["id"]), 409)


@pytest.mark.deviates_from_stock("stock runs the node again")
async def test_retrying_a_creation_that_still_fails_leaves_one_failure_and_no_children(api: Api) -> None:
    flow, stuck = await _stuck(api)
    response = await api.manual_retry(stuck)
    assert response.status_code in {200, 409}, response.text
    await flow.none_ready("a", "b")
    statuses = await flow.statuses()
    assert statuses[("a", "NEXT_CREATED_ERROR")] == 1
    assert statuses[("b", "CREATED")] == 0
    assert (await flow.run_summary())["status"] == "FAILED"


@pytest.mark.deviates_from_stock("stock fails the whole batch and runs the node again")
async def test_retrying_one_failed_sibling_leaves_the_others_alone(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "0"}, {"v": 1}, {"v": 2})
    ok(await api.register([declare(node_name("b"))]))
    stuck = await flow.states("a", "NEXT_CREATED_ERROR")
    assert len(stuck) == 2
    ok(await api.manual_retry(stuck[0]["id"]))
    statuses = await flow.statuses()
    assert statuses[("a", "SUCCESS")] == 2
    assert statuses[("a", "NEXT_CREATED_ERROR")] == 1
    assert statuses[("b", "CREATED")] == 2


async def test_children_of_the_old_state_are_not_touched(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b", "c"), place("b"), place("c"), retry_policy=NO_RETRY)
    await flow.run("a")
    running = await flow.one("b")
    ok(await api.manual_retry(await flow.fail("c", times=1)))
    assert await flow.status(running) == "QUEUED"
    ok(await api.executed(running))

    async def retried() -> Any:
        return await flow.run("c")

    await eventually(retried)
    assert (await flow.run_summary())["status"] == "SUCCESS"
