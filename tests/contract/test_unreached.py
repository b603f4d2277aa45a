"""Why a node of a run has no state: what it follows or unites, and what became of that."""

from __future__ import annotations

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, ok, place

pytestmark = pytest.mark.deviates_from_stock("a stock server does not say")
ALL_SUCCESS = {"identifier": "a", "strategy": "ALL_SUCCESS"}


async def reasons(flow: Flow) -> dict[str, str]:
    nodes = ok(await flow.api.native_run(flow.run_id))["nodes"]
    return {node["identifier"]: node["not_reached"] for node in nodes if node["not_reached"] is not None}


async def start(api: Api, unites: dict[str, str] | None = None) -> Flow:
    """Start a run of ``a -> b -> c``, with ``u`` after them, which unites ``a``."""
    return await Flow.start(
        api,
        place("a", "b"),
        place("b", "c"),
        place("c", "u"),
        {**place("u"), "unites": unites or {"identifier": "a", "strategy": "ALL_DONE"}},
        retry_policy=NO_RETRY,
    )


async def test_a_node_that_may_still_be_reached_has_no_reason(api: Api) -> None:
    flow = await start(api)
    assert await reasons(flow) == {}
    await flow.run("a")
    assert await reasons(flow) == {}
    await flow.run("b")
    await flow.run("c")
    await flow.run("u")
    assert await reasons(flow) == {}


async def test_a_node_after_a_failure_says_how_many_failed_and_is_reached_after_a_retry(api: Api) -> None:
    flow = await start(api, ALL_SUCCESS)
    await flow.run("a", {"v": "1"}, {"v": "2"})
    one, two = [state["state_id"] for state in await flow.take("b", 2)]
    ok(await api.errored(one))
    assert await reasons(flow) == {}, "the other one goes on"
    ok(await api.prune(two, {}))
    assert await reasons(flow) == {
        "c": "follows b, of which 1 errored, 1 was pruned",
        "u": "unites a if all of its group succeed, of which 1 failed (b)",
    }
    ok(await api.manual_retry(one))
    assert await reasons(flow) == {}


async def test_a_branch_that_was_not_taken_says_which_value_it_was_compared_with(api: Api) -> None:
    when = {"of": "${{ a.outputs.v }}", "operator": "==", "value": "x"}
    places = [place("a", "b", "c"), place("b", "d", when=when), place("c", otherwise=True), place("d")]
    flow = await Flow.start(api, *places)
    assert await reasons(flow) == {}
    await flow.run("a", {"v": "y"})
    assert await reasons(flow) == {
        "b": "follows a, and a.v == \"x\" was not true: it was 'y'",
        "d": "follows b, which was not reached either",
    }
    await flow.trigger()
    await flow.run("a", {"v": "x"}, {"v": "x"})
    assert await reasons(flow) == {"c": "follows a, and another branch was taken"}


async def test_an_unreachable_node_has_a_reason_while_the_rest_goes_on(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("a", "b", "d"),
        place("b", "c"),
        place("c", "u"),
        place("d", "e"),
        place("e", "u", "z"),
        {**place("u"), "unites": ALL_SUCCESS},
        {**place("z"), "unites": {"identifier": "a", "strategy": "ALL_DONE"}},
        retry_policy=NO_RETRY,
    )
    await flow.run("a")
    await flow.fail("b", times=1)
    assert await reasons(flow) == {
        "c": "follows b, of which 1 errored",
        "u": "unites a if all of its group succeed, of which 1 failed (b)",
    }


async def test_a_united_node_that_no_member_reached_says_how_they_ended(api: Api) -> None:
    flow = await start(api, ALL_SUCCESS)
    await flow.run("a")
    ok(await api.prune(await flow.one("b"), {}))
    assert await reasons(flow) == {
        "c": "follows b, of which 1 was pruned",
        "u": "unites a, and nothing reached it: c, which was not reached either",
    }


async def test_nothing_follows_a_root_that_failed_or_a_run_that_was_cancelled(api: Api) -> None:
    flow = await start(api)
    await flow.fail("a", times=1)
    expected = {
        "b": "follows a, of which 1 errored",
        "c": "follows b, which was not reached either",
        "u": "unites a, of which 1 errored",
    }
    assert await reasons(flow) == expected
    await flow.trigger()
    await flow.run("a")
    ok(await api.native("POST", f"run/{flow.run_id}/cancel"))
    assert await reasons(flow) == {
        "c": "follows b, of which 1 errored or cancelled",
        "u": "unites a, and the run was cancelled",
    }


async def test_an_output_that_the_next_node_lacks_is_named_as_the_reason(api: Api) -> None:
    flow = await Flow.start(
        api, place("a", "b"), place("b", inputs={"v": "${{ a.outputs.v }}"}), retry_policy=NO_RETRY
    )
    await flow.run("a", {"w": "1"})
    assert await reasons(flow) == {"b": "follows a, of which 1 could not create the next states"}
