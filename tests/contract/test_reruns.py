"""A manual retry of what a united node has run without: it runs again, with all that follows it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.contract.api import Api
from tests.contract.flow import OK, Flow, fanned
from tests.contract.native import claim, claim_one, executed_item, report
from tests.support.helpers import NO_RETRY, declare, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server keeps the old result")
U, Z = node_name("u"), node_name("z")
LIST: dict[str, Any] = {"inputs": {"p": "${{c.outputs.v}}"}}


async def one_failed(api: Api, *, ended: bool = True) -> tuple[Flow, str]:
    """Return a run of which u, and z if ``ended``, ran without the first of three branches, and that one."""
    flow, branches = await fanned(api, "ALL_DONE", **LIST)
    ok(await api.errored(branches[0], "boom"))
    for number in (1, 2):
        ok(await api.executed(branches[number], {"v": f"c{number}"}))
    if ended:
        assert await listed(flow, "u") == ["c1", "c2"]
        await flow.run("z")
        assert (await flow.run_summary())["status"] == "FAILED"
    return flow, branches[0]


async def listed(flow: Flow, identifier: str, *outputs: dict[str, Any]) -> list[str]:
    """Run a united node, and return the list that it is given."""
    (state,) = await flow.take(identifier)
    ok(await flow.api.executed(state["state_id"], *(outputs or (OK,))))
    values: list[str] = json.loads(state["inputs"]["p"])
    return values


@pytest.mark.parametrize("through", ["v0", "native"])
async def test_a_united_node_and_what_follows_run_again_with_the_new_list(api: Api, through: str) -> None:
    flow, failed = await one_failed(api)
    if through == "v0":
        reply = ok(await api.manual_retry(failed))
        assert reply == {"id": reply["id"], "status": "CREATED"}
    else:
        reply = ok(await api.retry_run(flow.run_id))
        assert (len(reply["retried"]), reply["runs_again"]) == (1, {"u": 1, "z": 1})
    assert (await flow.run_summary())["status"] == "PENDING"
    old = (await flow.statuses())[("u", "RETRY_CREATED")], (await flow.statuses())[("z", "RETRY_CREATED")]
    assert old == (1, 1)
    await flow.none_ready("u", "z")
    await flow.run("c", {"v": "c0"})
    assert await listed(flow, "u") == ["c0", "c1", "c2"]
    await flow.run("z")
    await flow.none_ready("u", "z")
    statuses = await flow.statuses()
    assert [statuses[name, "SUCCESS"] for name in "uz"] == [1, 1]
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_the_history_says_what_was_replaced_and_why(api: Api) -> None:
    flow, failed = await one_failed(api)
    ((united,), (last,)) = await flow.states("u"), await flow.states("z")
    assert ok(await api.history(failed))["runs_again"] == ["u"]
    assert ok(await api.history(last["id"]))["runs_again"] == []
    ok(await api.manual_retry(failed))
    assert ok(await api.history(failed))["runs_again"] == []
    new_branch, new = await flow.run("c"), await flow.run("u")
    for state_id in (united["id"], last["id"]):
        (event,) = ok(await api.history(state_id))["events"]
        assert event["kind"] == "replaced: a state before it was retried"
    attempts = ok(await api.history(new))["attempts"]
    assert [(one["id"], one["status"], one["by_hand"], one["rerun"]) for one in attempts] == [
        (united["id"], "RETRY_CREATED", False, False),
        (new, "SUCCESS", False, True),
    ]
    (waits,) = [state["id"] for state in await flow.states("z") if state["status"] == "CREATED"]
    for state_id in (last["id"], waits):
        attempts = ok(await api.history(state_id))["attempts"]
        assert [one["id"] for one in attempts] == [last["id"], waits], "before it has run"
    new_last = await flow.run("z")
    for state_id in (last["id"], new_last):
        attempts = ok(await api.history(state_id))["attempts"]
        assert [(one["id"], one["rerun"]) for one in attempts] == [(last["id"], False), (new_last, True)]
    assert ok(await api.history(new_branch))["events"] == []
    detail = "it was retried, or a state before it"
    assert detail in refused(await api.manual_retry(last["id"]), 409)


async def test_one_that_waits_or_runs_is_taken_back(api: Api) -> None:
    flow, failed = await one_failed(api, ended=False)
    held = await claim_one(api, limits={U: 5})
    ok(await api.manual_retry(failed))
    item = {"state_id": held["state_id"], "token": held["lease"]["token"]}
    (answer,) = ok(await api.heartbeat(states=[{**item, "running": True}]))["items"]
    assert answer["result"] == "cancelled"
    assert await report(api, executed_item(held)) == ["stale"]
    assert await flow.status(held["state_id"]) == "RETRY_CREATED"
    await flow.none_ready("z")
    # The branch fails again, and again it runs without it.
    await flow.fail("c", times=1)
    again = ok(await api.retry_run(flow.run_id))
    assert again["runs_again"] == {"u": 1}
    assert await claim(api, limits={U: 5}) == []
    await flow.run("c", {"v": "c0"})
    assert await listed(flow, "u") == ["c0", "c1", "c2"]


async def test_failures_after_it_are_replaced_and_not_retried(api: Api) -> None:
    flow, failed = await one_failed(api, ended=False)
    await flow.run("u", {"v": "0"}, {"v": "1"})
    after = [state["state_id"] for state in await flow.take("z", 2)]
    ok(await api.executed(after[0]))
    ok(await api.errored(after[1]))
    request_id = str(uuid4())
    reply = ok(await api.retry_run(flow.run_id, request_id))
    assert [one["state_id"] for one in reply["retried"]] == [failed]
    assert reply["runs_again"] == {"u": 2, "z": 2}
    assert ok(await api.retry_run(flow.run_id, request_id)) == reply
    await flow.run("c")
    await flow.run("u")
    await flow.run("z")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_several_retries_at_once_are_one_replacement(api: Api) -> None:
    flow, branches = await fanned(api, "ALL_DONE", **LIST)
    for branch in branches:
        ok(await api.errored(branch))
    assert await listed(flow, "u") == []
    reply = ok(await api.retry_run(flow.run_id))
    assert (len(reply["retried"]), reply["runs_again"]) == (3, {"u": 1, "z": 1})
    for state in await flow.take("c", 3):
        await flow.none_ready("u")
        ok(await api.executed(state["state_id"], OK))
    assert await listed(flow, "u") == ["x"] * 3
    assert ok(await api.runs(1, 1))["runs"][0]["pending_count"] == 1


NESTED = (
    place("s", "t"),
    place("t", "b"),
    place("b", "v"),
    place("v", "w", unites="t", strategy="ALL_DONE", inputs={"p": "${{b.outputs.v}}"}),
    place("w", "u", "x"),
    place("x", "y"),
    place("y", unites="v", strategy="ALL_DONE"),
    place("u", unites="s", strategy="ALL_DONE", inputs={"p": "${{v.outputs.v}}"}),
)


async def test_outer_groups_and_united_nodes_below_run_again_and_other_groups_do_not(api: Api) -> None:
    flow = await Flow.start(api, *NESTED, retry_policy=NO_RETRY)
    await flow.run("s")
    await flow.run("t", {"v": "0"}, {"v": "1"})
    one, two = [state["state_id"] for state in await flow.take("b", 2)]
    ok(await api.errored(one))
    assert await listed(flow, "v", {"v": "old"}, {"v": "further"}) == []
    ok(await api.executed(two, {"v": "1"}))
    assert await listed(flow, "v", {"v": "kept"}) == ["1"]
    for identifier, count in (("w", 3), ("x", 3), ("y", 3)):
        for state in await flow.take(identifier, count):
            ok(await api.executed(state["state_id"], OK))
    assert sorted(await listed(flow, "u")) == ["further", "kept", "old"]
    reply = ok(await api.retry_run(flow.run_id))
    assert reply["runs_again"] == {"v": 2, "w": 2, "x": 2, "y": 2, "u": 1}
    await flow.run("b", {"v": "0"})
    # It has fewer outputs now: none of the further ones may stay in the list of the outer one.
    assert await listed(flow, "v", {"v": "new"}) == ["0"]
    for identifier in ("w", "x", "y"):
        await flow.none_ready("u")
        await flow.run(identifier)
    assert sorted(await listed(flow, "u")) == ["kept", "new"]
    await flow.none_ready("u", "v", "y")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_one_below_that_still_waits_for_its_group_does_not_run_with_what_was_replaced(api: Api) -> None:
    flow = await Flow.start(api, *NESTED, retry_policy=NO_RETRY)
    await flow.run("s")
    await flow.run("t")
    failed = await flow.fail("b", times=1)
    await flow.run("v")
    await flow.run("w")
    ok(await api.manual_retry(failed))
    await flow.none_ready("x", "y", "u")
    for identifier in ("b", "v", "w", "x", "y"):
        await flow.run(identifier)
    assert await listed(flow, "u") == ["v"]
    assert (await flow.run_summary())["status"] == "SUCCESS"


CROSSED = (
    place("s", "t", "m"),
    place("t", "a"),
    place("a", "v", "x"),
    place("m", "o"),
    place("o", "x", unites="s", strategy="ALL_DONE"),
    place("x"),
    place("v", "u", unites="t", strategy="ALL_DONE", inputs={"p": "${{x.outputs.v}}"}),
    place("u", unites="s", strategy="ALL_DONE", inputs={"p": "${{v.outputs.v}}"}),
)
"""x is of the groups of v, but not of those of u, since x follows o, too. o and u unite the same state."""


async def test_what_unites_the_output_of_one_that_runs_again_does_so_too(api: Api) -> None:
    flow = await Flow.start(api, *CROSSED, retry_policy=NO_RETRY)
    for identifier in ("s", "t", "m", "a"):
        await flow.run(identifier)
    failed = await flow.fail("x", times=1)
    assert await listed(flow, "v", {"v": "without x"}) == []
    await flow.run("o")
    await flow.run("x")
    assert await listed(flow, "u") == ["without x"]
    assert sorted(ok(await api.history(failed))["runs_again"]) == ["o", "u", "v"]
    reply = ok(await api.retry_run(flow.run_id))
    assert reply["runs_again"] == {"o": 1, "x": 1, "v": 1, "u": 1}
    await flow.none_ready("o", "v", "u")
    await flow.run("x")
    await flow.none_ready("o", "u")
    assert await listed(flow, "v", {"v": "with x"}) == ["x"]
    await flow.run("o")
    await flow.run("x")
    assert await listed(flow, "u") == ["with x"]
    await flow.none_ready("o", "v", "u", "x")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_one_waits_for_the_groups_of_those_whose_output_it_unites(api: Api) -> None:
    flow = await Flow.start(api, *CROSSED, retry_policy=NO_RETRY)
    for identifier in ("s", "t", "m", "a"):
        await flow.run(identifier)
    await flow.none_ready("o", "u", "v")
    await flow.run("x")
    await flow.run("v")
    await flow.run("o")
    await flow.run("x")
    assert await listed(flow, "u") == ["v"]


async def test_one_that_was_retried_itself_runs_again_with_its_automatic_retries(api: Api) -> None:
    flow, failed = await one_failed(api, ended=False)
    ok(await api.manual_retry(await flow.fail("u", times=1)))
    await flow.run("u")
    ok(await api.manual_retry(failed))
    await flow.run("c", {"v": "c0"})
    assert await listed(flow, "u") == ["c0", "c1", "c2"]
    (_, _, new) = await flow.states("u")
    assert len(ok(await api.history(new["id"]))["attempts"]) == 3


async def test_one_that_is_not_complete_again_has_no_result_and_says_why(api: Api) -> None:
    flow, branches = await fanned(api)
    ok(await api.prune(branches[0]))
    for branch in branches[1:]:
        ok(await api.executed(branch, OK))
    await flow.run("u")
    await flow.run("z")
    ok(await api.manual_retry(branches[0]))
    await flow.fail("c", times=1)
    await flow.none_ready("u", "z")
    assert (await flow.run_summary())["status"] == "FAILED"
    nodes = ok(await api.native_run(flow.run_id))["nodes"]
    assert {node["identifier"]: node["not_reached"] for node in nodes if node["not_reached"]} == {
        "u": "unites t if all of its group succeed, of which 1 failed (c)",
        "z": "follows u, which was not reached either",
    }


async def test_further_outputs_are_told_from_executions_also_when_they_are_replaced(api: Api) -> None:
    async def further() -> int:
        nodes = ok(await api.native("GET", f"run/{flow.run_id}"))["nodes"]
        return next(int(node["further"]) for node in nodes if node["identifier"] == "u")

    flow, _ = await one_failed(api, ended=False)
    assert await further() == 0
    await listed(flow, "u", *[OK] * 4)
    assert await further() == 3, "it ran once"
    ok(await api.retry_run(flow.run_id))
    assert await further() == 0
    await flow.run("c")
    await listed(flow, "u", OK, OK)
    assert await further() == 1


async def test_a_further_output_is_one_too_after_what_follows_it_is_created_by_a_retry(api: Api) -> None:
    flow = await Flow.start(
        api, place("b", "c"), place("c", inputs={"p": "${{b.outputs.v}}"}), retry_policy=NO_RETRY
    )
    await flow.run("b", {"w": "lacks v"}, {"w": "lacks v"}, OK)
    ok(await api.register([declare(node_name("c"), [], ["v"])]))
    ok(await api.retry_run(flow.run_id))
    node, _ = ok(await api.native_run(flow.run_id))["nodes"]
    assert node["counts"] == {"SUCCESS": 3, "RETRY_CREATED": 2}
    assert node["further"] == 2, "it ran once"
