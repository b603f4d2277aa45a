"""Outcomes followed by a claim: one request that reports, and claims what can be claimed then."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, claim_one, executed_item, item_for, results
from tests.support.helpers import ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


def along(limits: dict[str, int], *, limit: int = 10, at_once: int = 10, **more: Any) -> dict[str, Any]:
    """Return the last item of a list of outcomes."""
    fields = {"worker_id": "busy", "limits": limits, "limit": limit, "at_once": at_once}
    return {"claim": {**fields, "claim_id": str(uuid.uuid4()), **more}}


async def test_next_states_are_claimed_with_the_report_that_creates_them(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    first = await claim_one(api)
    reply = ok(await api.outcomes(executed_item(first), along({A: 10, B: 10})))
    assert results(reply) == ["ok"]
    [second] = reply["states"]
    assert (second["node_name"], second["run_id"]) == (B, flow.run_id)
    assert await flow.status(second["state_id"]) == "QUEUED"
    reply = ok(await api.outcomes(executed_item(second), along({A: 10, B: 10})))
    assert (results(reply), reply["states"]) == (["ok"], [])
    assert ok(await api.native_run(flow.run_id))["status"] == "SUCCESS"


async def test_the_oldest_is_claimed_first_and_no_more_than_fits(api: Api) -> None:
    flow = await Flow.deploy(api, place("a", "a2"), place("a2", node_name=A))
    runs = [await flow.trigger() for _ in range(4)]
    [first] = await claim(api, {A: 1})
    reply = ok(await api.outcomes(executed_item(first), along({A: 2, B: 5}, limit=5)))
    # Not what follows ``first``, which is younger.
    assert [(state["run_id"], state["identifier"]) for state in reply["states"]] == [
        (runs[1], "a"),
        (runs[2], "a"),
    ]


async def test_outcomes_that_are_refused_do_not_cost_the_claim_nor_the_claim_them(api: Api) -> None:
    await Flow.start(api, place("a"), runs=2)
    [state] = await claim(api, {A: 1})
    stale = {**executed_item(state), "token": "another"}
    reply = ok(await api.outcomes({"outcome": "unknown"}, stale, along({A: 1})))
    assert results(reply) == ["invalid", "stale"]
    assert len(reply["states"]) == 1
    reply = ok(await api.outcomes(executed_item(state), {"claim": {"limit": -1}}))
    assert (results(reply), reply.get("states", [])) == (["ok", "invalid"], [])


async def test_a_list_with_only_a_claim_is_a_claim(api: Api) -> None:
    await Flow.start(api, place("a"))
    reply = ok(await api.outcomes(along({A: 1})))
    assert (reply["items"], len(reply["states"])) == ([], 1)


async def test_states_of_a_lost_answer_are_released_by_the_claim_id(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    first = await claim_one(api)
    claim_id = str(uuid.uuid4())
    [second] = ok(await api.outcomes(executed_item(first), along({B: 1}, claim_id=claim_id)))["states"]
    assert results(ok(await api.release(claim_id=claim_id))) == ["ok"]
    assert await flow.status(second["state_id"]) == "CREATED"


async def test_a_claim_id_that_was_released_before_takes_nothing_but_outcomes_count(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    first = await claim_one(api)
    claim_id = str(uuid.uuid4())
    ok(await api.release(claim_id=claim_id))
    reply = ok(await api.outcomes(executed_item(first), along({B: 1}, claim_id=claim_id)))
    assert (results(reply), reply["states"]) == (["ok"], [])
    assert await flow.status(first["state_id"]) == "SUCCESS"
    assert len(await claim(api, {B: 1})) == 1


async def test_a_claim_with_a_report_can_be_limited_to_one_run(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    first_run, second_run = await flow.trigger(), await flow.trigger()
    [state] = await claim(api, {A: 1}, run_id=second_run)
    unknown = str(uuid.uuid4())
    reply = ok(
        await api.outcomes(item_for(state, outcome="requeued", delay_ms=1), along({A: 9}, run_id=unknown))
    )
    assert reply["states"] == []
    reply = ok(await api.outcomes(along({A: 9}, run_id=first_run)))
    assert [each["run_id"] for each in reply["states"]] == [first_run]
