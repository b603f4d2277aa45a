"""Section 8 with the decisions of section 16: when united nodes run, and with what."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import OK, Flow, Place, fan_graph, fanned
from tests.support.helpers import NO_RETRY, declare, node_name, ok, place, refused

STRATEGIES = ["ALL_SUCCESS", "ALL_DONE"]


def _chain(**united: Any) -> list[Place]:
    """t, whose child b leads to u, which unites t."""
    return [place("t", "b"), place("b", "u"), place("u", unites="t", **united)]


def _nested(outer: str = "ALL_SUCCESS", **inner: Any) -> list[Place]:
    """v unites t within the group of s, which u unites."""
    return [
        *(place("s", "t"), place("t", "b"), place("b", "v")),
        *(place("v", "u", unites="t", **inner), place("u", unites="s", strategy=outer)),
    ]


def _side(strategy: str) -> list[Place]:
    """t, whose child b leads to u and, on a side branch, to c, which leads nowhere."""
    return [place("t", "b", "c"), place("b", "u"), place("c"), place("u", unites="t", strategy=strategy)]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_united_node_runs_once_after_everything_below_its_target(api: Api, strategy: str) -> None:
    flow, branches = await fanned(api, strategy)
    for branch in branches:
        await flow.none_ready("u")
        ok(await api.executed(branch, OK))
    united = await flow.run("u")
    (target,) = await flow.states("t")
    assert (await flow.detail(united))["parents"] == {"t": target["id"]}
    last = await flow.run("z")
    assert list((await flow.detail(last))["parents"].items()) == [("t", target["id"]), ("u", united)]
    await flow.none_ready("u", "z")
    assert (await flow.run_summary())["status"] == "SUCCESS"
    edges = (await flow.shown())["edges"]
    assert {"source": target["id"], "target": united} in edges
    assert sum(edge["target"] == united for edge in edges) == 1


async def test_each_state_of_the_target_has_its_own_united_state(api: Api) -> None:
    flow = await Flow.start(api, *_chain(inputs={"p": "${{t.outputs.v}}"}))
    await flow.run("t", {"v": "0"}, {"v": "1"})
    for state in await flow.take("b", 2):
        ok(await api.executed(state["state_id"], OK))
    united = await flow.take("u", 2)
    assert sorted(state["inputs"]["p"] for state in united) == ["0", "1"]


async def test_the_inputs_of_a_united_node_come_from_its_target_and_above(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("a", "t"),
        place("t", "b"),
        place("b", "u"),
        place("u", unites="t", inputs={"p": "${{a.outputs.v}}/${{t.outputs.v}}/${{store.k}}"}),
        store_config={"default_values": {"k": "stored"}},
    )
    await flow.run("a", {"v": "a"})
    await flow.run("t", {"v": "t"})
    await flow.run("b", {"v": "never"})
    assert await flow.inputs("u") == {"p": "a/t/stored"}


async def test_a_united_node_that_fans_out_is_followed_by_every_sibling(api: Api) -> None:
    flow, branches = await fanned(api)
    for branch in branches:
        ok(await api.executed(branch, OK))
    await flow.run("u", {"v": "0"}, {"v": "1"})
    assert len(await flow.take("z", 2)) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_retried_branch_holds_the_united_node_until_it_ends(api: Api, strategy: str) -> None:
    flow = await Flow.start(api, *_chain(strategy=strategy))
    await flow.run("t")
    ok(await api.errored(await flow.one("b")))
    await flow.none_ready("u")
    await flow.run("b")
    await flow.run("u")
    assert (await flow.statuses())[("u", "SUCCESS")] == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_a_requeued_branch_holds_the_united_node(api: Api, strategy: str) -> None:
    flow, (first, second) = await fanned(api, strategy, size=2)
    ok(await api.executed(first, OK))
    ok(await api.requeue(second, 1))
    await flow.run("c")
    await flow.run("u")


# -- the decision, for every way a group can end

S, E, P, N = "executed", "errored", "pruned", "bad"


@pytest.mark.deviates_from_stock("stock looks only when a direct predecessor succeeds, and PRUNED blocks")
@pytest.mark.parametrize(
    ("ends", "all_success", "all_done"),
    [
        ((S, S), True, True),
        ((S, P), True, True),
        ((P, S), True, True),
        ((P, P), False, True),
        ((S, E), False, True),
        ((E, S), False, True),
        ((P, E), False, True),
        ((E, P), False, True),
        ((E, E), False, True),
        ((N, S), False, True),
        ((S, N), False, True),
        ((N, P), False, True),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_the_decision_table(
    api: Api, strategy: str, ends: tuple[str, str], all_success: bool, all_done: bool
) -> None:
    flow = await Flow.start(
        api,
        place("t", "b"),
        place("b", "c"),
        place("c", "d", "u"),
        place("d", inputs={"p": "${{c.outputs.v}}"}),
        place("u", unites="t", strategy=strategy),
        retry_policy=NO_RETRY,
    )
    await flow.run("t")
    await flow.run("b", {"v": "0"}, {"v": "1"})
    for state, end in zip(await flow.take("c", 2), ends, strict=True):
        state_id = state["state_id"]
        if end == E:
            ok(await api.errored(state_id))
        elif end == P:
            ok(await api.prune(state_id))
        else:
            ok(await api.executed(state_id, OK if end == S else {"v": 5}))
    for _ in range(ends.count(S)):
        await flow.none_ready("u")
        for state in ok(await api.claim([node_name("d")], 1))["states"]:
            ok(await api.executed(state["state_id"], OK))
    fires = all_success if strategy == "ALL_SUCCESS" else all_done
    if fires:
        await flow.run("u")
    await flow.none_ready("u")
    assert (await flow.statuses())[("u", "SUCCESS")] == fires
    failed = E in ends or N in ends
    assert (await flow.run_summary())["status"] == ("FAILED" if failed else "SUCCESS")


@pytest.mark.deviates_from_stock("stock does not look when the last one ends on a side branch")
@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_side_branches_hold_the_united_node_and_release_it(api: Api, strategy: str) -> None:
    flow = await Flow.start(api, *_side(strategy))
    await flow.run("t")
    await flow.run("b")
    await flow.none_ready("u")
    await flow.run("c")
    await flow.run("u")


@pytest.mark.deviates_from_stock("stock does not look when a branch fails")
async def test_a_side_branch_that_fails_blocks_all_success(api: Api) -> None:
    flow = await Flow.start(api, *_side("ALL_SUCCESS"), retry_policy=NO_RETRY)
    await flow.run("t")
    await flow.run("b")
    failed = await flow.fail("c", times=1)
    await flow.none_ready("u")
    ok(await api.manual_retry(failed))
    await flow.none_ready("u")
    await flow.run("c")
    await flow.run("u")
    assert (await flow.run_summary())["status"] == "SUCCESS"


@pytest.mark.deviates_from_stock("stock does not look when a branch fails")
async def test_all_done_runs_although_no_branch_reached_it(api: Api) -> None:
    flow = await Flow.start(api, *_side("ALL_DONE"), retry_policy=NO_RETRY)
    await flow.run("t")
    await flow.fail("b", times=1)
    await flow.none_ready("u")
    await flow.run("c")
    await flow.run("u")


async def test_success_elsewhere_does_not_make_up_for_a_pruned_path(api: Api) -> None:
    flow = await Flow.start(api, *_side("ALL_SUCCESS"))
    await flow.run("t")
    ok(await api.prune(await flow.one("b")))
    await flow.run("c")
    await flow.none_ready("u")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_a_target_that_failed_has_no_united_state(api: Api) -> None:
    flow = await Flow.start(api, *fan_graph("ALL_DONE"), retry_policy=NO_RETRY)
    await flow.fail("t", times=1)
    await flow.none_ready("u")
    assert await flow.statuses() == {("t", "ERRORED"): 1}


# -- several united nodes


@pytest.mark.deviates_from_stock("on stock, creating one blocks the other without a limit")
async def test_united_nodes_of_one_target_do_not_hold_each_other(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b", "c"),
        place("b", "u"),
        place("c", "v"),
        place("u", "x", unites="t"),
        place("v", unites="t"),
        place("x"),
    )
    await flow.run("t")
    await flow.run("b")
    await flow.run("c")
    u = await flow.one("u")
    await flow.run("v")
    ok(await api.executed(u, OK))
    await flow.run("x")
    assert (await flow.run_summary())["status"] == "SUCCESS"


@pytest.mark.deviates_from_stock("decided in section 16")
async def test_a_united_node_that_precedes_another_belongs_to_its_group(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b"),
        place("b", "u", "v"),
        place("u", "x", unites="t"),
        place("x", "v"),
        place("v", unites="t"),
    )
    await flow.run("t")
    await flow.run("b")
    await flow.none_ready("v")
    await flow.run("u")
    await flow.none_ready("v")
    await flow.run("x")
    await flow.run("v")


async def test_an_inner_unite_comes_before_the_outer_one(api: Api) -> None:
    flow = await Flow.start(api, *_nested())
    await flow.run("s")
    await flow.run("t", {"v": "0"}, {"v": "1"})
    for state in await flow.take("b", 2):
        ok(await api.executed(state["state_id"], OK))
    first, second = await flow.take("v", 2)
    await flow.none_ready("u")
    ok(await api.executed(first["state_id"], OK))
    await flow.none_ready("u")
    ok(await api.executed(second["state_id"], OK))
    united = await flow.run("u")
    assert list((await flow.detail(united))["parents"]) == ["s"]


@pytest.mark.deviates_from_stock("stock does not look again")
@pytest.mark.parametrize(("outer", "fires"), [("ALL_SUCCESS", False), ("ALL_DONE", True)])
async def test_an_inner_unite_that_cannot_fire_blocks_all_success_only(
    api: Api, outer: str, fires: bool
) -> None:
    flow = await Flow.start(api, *_nested(outer), retry_policy=NO_RETRY)
    await flow.run("s")
    await flow.run("t")
    failed = await flow.fail("b", times=1)
    if fires:
        await flow.run("u")
    await flow.none_ready("u", "v")
    # A late success lets the inner one run; the outer one runs after it, once more if it ran without it.
    ok(await api.manual_retry(failed))
    await flow.run("b")
    await flow.run("v")
    await flow.run("u")
    await flow.none_ready("u", "v")
    assert (await flow.statuses())[("u", "SUCCESS")] == 1
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_a_united_node_may_itself_be_a_target(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b"),
        place("b", "u"),
        place("u", "c", unites="t"),
        place("c", "v"),
        place("v", unites="u"),
    )
    for identifier in ("t", "b"):
        await flow.run(identifier)
    await flow.run("u", {"v": "0"}, {"v": "1"})
    for state in await flow.take("c", 2):
        ok(await api.executed(state["state_id"], OK))
    assert len(await flow.take("v", 2)) == 2


# -- manual retries


@pytest.mark.deviates_from_stock("on stock the retried united state can vanish")
async def test_a_united_state_retried_by_hand_keeps_its_automatic_retries(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("t", "b"),
        place("b", "u"),
        place("u", "z", unites="t"),
        place("z"),
        retry_policy=NO_RETRY | {"max_retries": 1},
    )
    await flow.run("t")
    await flow.run("b")
    failed = await flow.fail("u", times=2)
    ok(await api.manual_retry(failed))
    failed = await flow.fail("u", times=2)
    assert await flow.status(failed) == "ERRORED"
    ok(await api.manual_retry(failed))
    await flow.run("u")
    await flow.run("z")
    assert (await flow.run_summary())["status"] == "SUCCESS"
    assert (await flow.statuses())[("u", "RETRY_CREATED")] == 4


@pytest.mark.deviates_from_stock("stock marks the predecessor instead")
async def test_a_united_state_whose_inputs_cannot_be_built_is_errored_with_the_reason(api: Api) -> None:
    flow = await Flow.start(api, *_chain(inputs={"p": "${{t.outputs.v}}", "q": "q"}))
    await flow.run("t", {"w": "no v"})
    await flow.run("b")
    await flow.none_ready("u")
    (united,) = await flow.states("u")
    assert united["status"] == "ERRORED"
    assert "v" in united["error"]
    assert (await flow.run_summary())["status"] == "FAILED"
    # Still impossible: refused with the reason, and nothing changes.
    before = await flow.statuses()
    assert refused(await api.manual_retry(united["id"]), 409)
    assert await flow.statuses() == before
    # The node no longer asks for it: rebuilt.
    ok(await api.register([declare(node_name("u"), ["q"])]))
    again = ok(await api.manual_retry(united["id"]))["id"]
    (state,) = await flow.take("u")
    assert (state["state_id"], state["inputs"]) == (again, {"q": "q"})
    ok(await api.executed(again, OK))
    assert (await flow.run_summary())["status"] == "SUCCESS"


@pytest.mark.deviates_from_stock("decided in section 16")
@pytest.mark.parametrize(("outer", "fires"), [("ALL_SUCCESS", False), ("ALL_DONE", True)])
async def test_an_inner_united_state_that_cannot_be_built_counts_as_failed(
    api: Api, outer: str, fires: bool
) -> None:
    flow = await Flow.start(api, *_nested(outer, inputs={"p": "${{t.outputs.v}}"}))
    await flow.run("s")
    await flow.run("t", {})
    await flow.run("b")
    assert (await flow.statuses())[("v", "ERRORED")] == 1
    if fires:
        await flow.run("u")
    await flow.none_ready("u", "v")


async def test_a_group_of_many_members_fires_once(api: Api) -> None:
    flow, branches = await fanned(api, size=40)
    for branch in branches[:-1]:
        ok(await api.executed(branch, OK))
    await flow.none_ready("u")
    ok(await api.executed(branches[-1], OK))
    await flow.run("u")
    assert await flow.statuses() == {
        ("t", "SUCCESS"): 1,
        ("b", "SUCCESS"): 40,
        ("c", "SUCCESS"): 40,
        ("u", "SUCCESS"): 1,
        ("z", "CREATED"): 1,
    }
