"""The order in which states are claimed."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import B, claim, item_for, report
from tests.support.helpers import FAST_RETRY, eventually, place


async def fan_out(api: Api, states: int, **request: Any) -> str:
    """Trigger a run with so many states of b, and return its id."""
    flow = Flow(api, "graph")
    await flow.trigger(**request)
    await flow.run("f", *[{"v": str(number)} for number in range(states)])
    return flow.run_id


async def deploy(api: Api, **fields: Any) -> None:
    await Flow.deploy(api, place("f", "b"), place("b"), **fields)


async def runs_of_claim(api: Api, limit: int) -> Counter[str]:
    """Claim states of b, and count them by run."""
    return Counter(state["run_id"] for state in await claim(api, {B: limit}, limit=limit))


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
