"""The order in which states are claimed."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim, item_for, report
from tests.contract.sharing import fan_out, runs_of_claim
from tests.contract.target import Target
from tests.support.helpers import FAST_RETRY, NO_RETRY, eventually, ok, place


async def deploy(api: Api, **fields: Any) -> None:
    await Flow.deploy(api, place("f", "b"), place("b"), **fields)


async def test_a_run_that_begins_during_a_large_one_gets_its_first_state_in_the_next_batch(api: Api) -> None:
    await deploy(api)
    large = await fan_out(api, 100)
    assert await runs_of_claim(api, 10) == {large: 10}
    small = await fan_out(api, 3)
    assert await runs_of_claim(api, 6) == {large: 3, small: 3}


async def test_runs_share_a_node_however_many_states_each_has(api: Api) -> None:
    await deploy(api)
    runs = [await fan_out(api, states) for states in (40, 20, 20)]
    assert await runs_of_claim(api, 30) == dict.fromkeys(runs, 10)
    assert await runs_of_claim(api, 50) == {runs[0]: 30, runs[1]: 10, runs[2]: 10}


async def test_a_retry_does_not_go_to_the_end_of_a_long_queue(api: Api) -> None:
    await deploy(api, retry_policy=FAST_RETRY)
    await fan_out(api, 30)
    (failed,) = await claim(api, {B: 1}, limit=1)
    assert await report(api, item_for(failed, outcome="errored", error="no")) == ["ok"]
    attempts: list[int] = []

    async def retried() -> None:
        attempts.extend(state["lease"]["attempt"] for state in await claim(api, {B: 1}, limit=1))
        assert 2 in attempts

    await eventually(retried)
    assert len(attempts) < 30


async def test_a_released_state_is_claimed_next(api: Api) -> None:
    await deploy(api)
    await fan_out(api, 10)
    first, *_ = await claim(api, {B: 5}, limit=5)
    await api.release(states=[item_for(first)])
    (again,) = await claim(api, {B: 1}, limit=1)
    assert again["state_id"] == first["state_id"]


async def test_no_state_is_claimed_while_one_of_a_higher_priority_waits(api: Api) -> None:
    await deploy(api)
    low, normal, high = [await fan_out(api, 5, priority=each) for each in ("low", "normal", "high")]
    assert await runs_of_claim(api, 7) == {high: 5, normal: 2}
    urgent = await fan_out(api, 3, priority="high")
    assert await runs_of_claim(api, 7) == {urgent: 3, normal: 3, low: 1}


async def test_a_changed_priority_moves_the_states_that_wait_and_holds_for_those_that_come_back(
    api: Api,
) -> None:
    await deploy(api)
    first, second = await fan_out(api, 10), await fan_out(api, 10)
    held = await claim(api, {B: 4}, limit=4)
    assert {state["run_id"] for state in held} == {first, second}
    shown = ok(await api.native("POST", f"run/{second}/priority", json={"priority": "low"}))
    assert shown["priority"] == "low"
    await api.release(states=[item_for(state) for state in held])
    assert await runs_of_claim(api, 10) == {first: 10}
    # Among those of its priority it shares as before.
    third = await fan_out(api, 10, priority="low")
    # Those that came back are the first.
    counted = await runs_of_claim(api, 10)
    assert counted[second] in (5, 6)
    assert counted[third] == 10 - counted[second]


async def test_a_retry_has_the_priority_of_its_run(api: Api) -> None:
    await deploy(api, retry_policy=NO_RETRY)
    run_id = await fan_out(api, 1, priority="high")
    (state,) = await claim(api, {B: 1})
    assert await report(api, item_for(state, outcome="errored", error="no")) == ["ok"]
    await fan_out(api, 3)
    ok(await api.retry_run(run_id))
    assert await runs_of_claim(api, 1) == {run_id: 1}


async def test_a_run_of_weight_3_gets_three_states_for_each_of_another(api: Api) -> None:
    await deploy(api)
    heavy, other = await fan_out(api, 40, weight=3), await fan_out(api, 40)
    counted = await runs_of_claim(api, 20)
    assert counted[heavy] in (15, 16)
    assert counted[other] == 20 - counted[heavy]


# With another state manager a run that is started after a second may begin one turn later.


async def test_runs_with_one_fairness_key_share_as_one_run(api: Api, target: Target) -> None:
    await deploy(api)
    runs = [await fan_out(api, 20, fair_key="customer 17") for _ in range(3)]
    other = await fan_out(api, 20)
    counted = await runs_of_claim(api, 20)
    assert abs(counted[other] - 10) <= len(target.others)
    assert counted[other] + sum(counted[run] for run in runs) == 20


async def test_a_cancelled_run_costs_its_fairness_key_no_turns(api: Api, target: Target) -> None:
    await deploy(api)
    cancelled = await fan_out(api, 40, fair_key="customer 17")
    ok(await api.native("POST", f"run/{cancelled}/cancel"))
    others = [await fan_out(api, 20), await fan_out(api, 20, fair_key="customer 17")]
    counted = await runs_of_claim(api, 10)
    assert set(counted) == set(others)
    assert abs(counted[others[0]] - 5) <= len(target.others)


async def test_a_claim_through_v0_takes_the_same_states_and_shows_the_oldest_first(api: Api) -> None:
    await deploy(api)
    _, normal, high = [await fan_out(api, 1, priority=each) for each in ("low", "normal", "high")]
    states = ok(await api.claim([B], 2))["states"]
    runs = [ok(await api.history(state["state_id"]))["run_id"] for state in states]
    assert runs == [normal, high]


async def test_a_run_shows_in_which_order_its_states_come_and_v0_does_not(api: Api) -> None:
    await deploy(api)
    run_id = await fan_out(api, 1, priority="low", weight=0.25, fair_key="k")
    shown = ok(await api.native_run(run_id))
    assert (shown["priority"], shown["weight"], shown["fair_key"]) == ("low", 0.25, "k")
    (listed,) = [run for run in ok(await api.runs())["runs"] if run["run_id"] == run_id]
    assert not {"priority", "weight", "fair_key"} & listed.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [("priority", "urgent"), ("weight", 0), ("weight", 101), ("fair_key", ""), ("fair_key", "x" * 257)],
)
async def test_a_mistake_in_the_order_of_a_run_is_refused(api: Api, name: str, value: Any) -> None:
    await deploy(api)
    refused = await api.native_trigger("graph", str(uuid4()), **{name: value})
    assert refused.status_code == 422
    assert name in refused.text
