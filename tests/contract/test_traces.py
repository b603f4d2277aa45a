"""Trace contexts travel with a run: what a claim says of them, and what is stored. As text."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import OK, B, claim, claim_one, executed_item, item_for, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, node_name, ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server has no native API")


def context(number: int) -> str:
    return f"00-{'a' * 32}-{number:016x}-01"


TRIGGER = context(999)
C = node_name("c")


async def traced(api: Api, *places: dict[str, Any], **fields: Any) -> Flow:
    flow = await Flow.deploy(api, *places, **fields)
    flow.run_id = str(uuid4())
    ok(await api.native_trigger("graph", flow.run_id, trace=TRIGGER))
    return flow


async def ends(api: Api, state: dict[str, Any], number: int | None, *outputs: dict[str, Any]) -> None:
    trace = {} if number is None else {"trace": context(number)}
    assert await report(api, {**executed_item(state, *outputs), **trace}) == ["ok"]


def trace_of(state: dict[str, Any]) -> list[int]:
    """Return the numbers of the contexts that a claim tells: the parent, then the links."""
    return [int(each.split("-")[2], 16) for each in state.get("trace", "").split()]


async def test_a_claim_names_the_execution_that_created_the_state(api: Api) -> None:
    await traced(api, place("a", "b"), place("b", "c"), place("c"))
    a = await claim_one(api)
    assert a["trace"] == TRIGGER
    await ends(api, a, 1, OK, OK)
    first, second = await claim(api, {B: 10})
    assert trace_of(first) == trace_of(second) == [1]
    await ends(api, first, 2)
    # A runtime that does not trace leaves no gap; nor does one that speaks v0.
    await ends(api, second, None)
    assert sorted(trace_of(state) for state in await claim(api, {C: 10})) == [[1], [2]]


async def test_a_retry_has_the_parent_of_the_first_attempt_and_links_to_those_before(api: Api) -> None:
    await traced(api, place("a"), retry_policy=FAST_RETRY)
    for number, expected in enumerate([[999], [999, 1], [999, 1, 2]], 1):
        state = await claim_one(api, wait_ms=5_000)
        assert trace_of(state) == expected
        item = item_for(state, outcome="errored", error="boom", trace=context(number))
        assert await report(api, item) == ["ok"]
    ok(await api.manual_retry(state["state_id"]))
    assert trace_of(await claim_one(api)) == [3], "by hand: below the attempt that failed"


async def test_a_released_or_requeued_state_is_linked_to_its_earlier_executions(api: Api) -> None:
    await traced(api, place("a"))
    state = await claim_one(api)
    ok(await api.release(states=[item_for(state, trace=context(1))]))
    state = await claim_one(api)
    assert trace_of(state) == [999, 1]
    ok(await api.release(states=[item_for(state)]))  # it had not begun
    for number in range(2, 13):
        state = await claim_one(api, wait_ms=5_000)
        assert trace_of(state) == [999, *range(1, number)][:1] + [*range(1, number)][-8:]
        item = item_for(state, outcome="requeued", delay_ms=1, trace=context(number))
        assert await report(api, item) == ["ok"]


async def test_a_run_whose_trigger_is_not_traced_has_one_trace_from_its_first_execution_on(api: Api) -> None:
    await Flow.start(api, place("a", "b"), place("b"), retry_policy=FAST_RETRY)
    state = await claim_one(api)
    assert "trace" not in state
    item = item_for(state, outcome="errored", error="boom", trace=context(1))
    assert await report(api, item) == ["ok"]
    state = await claim_one(api, wait_ms=5_000)
    assert trace_of(state) == [1]
    await ends(api, state, 2)
    assert trace_of(await claim_one(api, limits={B: 1})) == [2]


async def test_a_united_execution_has_the_target_as_parent_and_links_to_what_completed_it(api: Api) -> None:
    united = place("c", unites="a", strategy="ALL_DONE")
    await traced(api, place("a", "b"), place("b", "c"), united, retry_policy=NO_RETRY)
    await ends(api, await claim_one(api), 1, OK)
    (b,) = await claim(api, {B: 10})
    item = item_for(b, outcome="errored", error="boom", trace=context(2))
    assert await report(api, item) == ["ok"]
    (c,) = await claim(api, {C: 10})
    assert trace_of(c) == [1, 2]


async def test_a_repeated_claim_has_the_same_trace(api: Api) -> None:
    await traced(api, place("a"))
    claim_id = str(uuid4())
    for _ in range(2):
        assert [trace_of(state) for state in await claim(api, claim_id=claim_id)] == [[999]]


async def test_runs_of_a_list_have_their_traces(api: Api) -> None:
    await Flow.deploy(api, place("a"))
    runs = [{"run_id": str(uuid4()), "trace": context(n)} for n in (1, 2)]
    ok(await api.trigger_many("graph", *runs))
    assert sorted(trace_of(state) for state in await claim(api)) == [[1], [2]]


async def test_a_malformed_trace_context_is_refused(api: Api) -> None:
    await traced(api, place("a"))
    state = await claim_one(api)
    for text in ("", "00-1-2-01", context(1) + " " + context(2), context(1).upper()):
        assert await report(api, {**executed_item(state), "trace": text}) == ["invalid"]
        reply = await api.native_trigger("graph", str(uuid4()), trace=text)
        assert reply.status_code == 422
