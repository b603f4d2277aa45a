"""Branches: which edges with conditions are taken, and what joins and retries make of those that are not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import OK, Flow, validity
from tests.contract.native import claim, executed_item, report
from tests.support.helpers import FAST_RETRY, NO_RETRY, declare, node_name, ok, place, refused

pytestmark = pytest.mark.deviates_from_stock("a stock server knows no conditions, and takes all edges")


def when(of: str, operator: str, value: object) -> dict[str, Any]:
    return {"of": f"${{{{ {of} }}}}", "operator": operator, "value": value}


def is_x(identifier: str) -> dict[str, Any]:
    return when(f"{identifier}.outputs.v", "==", "x")


@pytest.mark.parametrize(
    ("text", "operator", "value", "taken"),
    [
        ("x", "==", "x", True),
        ("X", "==", "x", False),
        ("5", "==", "5.0", False),
        ("x", "!=", "x", False),
        ("x", "!=", "", True),
        ("", "==", "", True),
        ("null", "==", "null", True),
        ("null", "==", None, True),
        ("", "==", None, False),
        ("x", "!=", None, True),
        ("true", "==", True, True),
        ("false", "==", True, False),
        ("false", "==", False, True),
        ("True", "==", True, True),
        ("null", "==", True, False),
        ("null", "==", False, False),
        ("null", "!=", False, True),
        ("5", "==", 5, True),
        ("5.0", "==", 5, True),
        ("5e0", "in", [4, 5], True),
        ("5", "==", 5.5, False),
        ("null", "==", 5, False),
        ("null", "!=", 5, True),
        ("9007199254740993", "==", 9007199254740992, False),
        ("10", "<", 9, False),
        ("10", ">", 9, True),
        ("9", "<=", 9, True),
        ("9", ">=", 9, True),
        ("9", ">", 9, False),
        ("9", "<", 9, False),
        ("NaN", "<", 9, False),
        ("NaN", "!=", 9, True),
        ("Infinity", ">", 9, True),
        ("b", "in", ["a", "b"], True),
        ("c", "in", ["a", "b", None], False),
        ("null", "in", ["a", None], True),
        ("yellow", "==", True, "it is neither true nor false"),
        ("5", "==", True, "it is neither true nor false"),
        ("x", "==", 5, "it is not a number"),
        ("x", "<", 5, "it is not a number"),
        ("null", "<", 5, "it is not a number"),
        ("", "<", 5, "it is not a number"),
        ("9" * 4_300, ">", 5, True),
        ("9" * 4_301, ">", 5, "it is not a number: it has more than 4,300 characters"),
        ("true", "==", 1, "it is not a number"),
    ],
)
async def test_a_text_is_read_as_what_it_is_compared_with(
    api: Api, text: str, operator: str, value: object, taken: bool | str
) -> None:
    places = [place("a", "b", "c"), place("b", when=when("a.outputs.v", operator, value)), place("c")]
    flow = await Flow.start(api, *places, retry_policy=NO_RETRY)
    state = await flow.run("a", {"v": text, "w": "w"})
    statuses = await flow.statuses()
    if isinstance(taken, str):
        assert statuses == {("a", "NEXT_CREATED_ERROR"): 1}, "all next states or none"
        error = (await flow.detail(state))["error"]
        assert error.startswith("cannot create the next state: the condition a.v ")
        assert error.endswith(f" of 'b': {taken}")
        return
    assert statuses == {("a", "SUCCESS"): 1, ("c", "CREATED"): 1} | ({("b", "CREATED"): 1} if taken else {})


async def test_a_missing_output_is_an_error_which_a_retry_by_hand_tries_again(api: Api) -> None:
    places = [place("a", "b"), place("b", when=is_x("a"))]
    flow = await Flow.start(api, *places, retry_policy=NO_RETRY)
    state = await flow.run("a", {"w": "w"})
    assert (await flow.detail(state))["error"] == (
        "cannot create the next state: the condition a.v == \"x\" of 'b': 'a' gave no output 'v'"
    )
    ok(await api.manual_retry(state))
    assert await flow.statuses() == {("a", "RETRY_CREATED"): 1, ("a", "NEXT_CREATED_ERROR"): 1}


async def test_otherwise_is_taken_exactly_if_no_condition_is_met(api: Api) -> None:
    places = [
        place("a", "b", "c", "d", "e"),
        place("b", when=is_x("a")),
        place("c", when=when("a.outputs.v", "in", ["x", "y"])),
        place("d", otherwise=True),
        place("e"),
    ]
    flow = await Flow.start(api, *places)
    for text, taken in (("x", "bce"), ("y", "ce"), ("z", "de")):
        await flow.run("a", {"v": text})
        assert await flow.statuses() == {("a", "SUCCESS"): 1} | {(name, "CREATED"): 1 for name in taken}
        for name in taken:
            await flow.run(name)
        assert (await flow.run_summary())["status"] == "SUCCESS"
        await flow.trigger()


async def test_conditions_read_outputs_of_ancestors_and_keys_of_the_store(api: Api) -> None:
    places = [
        place("a", "b"),
        place("b", "c", "d"),
        place("c", when=is_x("a")),
        place("d", when=when("store.mode", "==", "fast")),
    ]
    store = {"required_keys": [], "default_values": {"mode": "slow"}}
    flow = await Flow.start(api, *places, store_config=store)
    await flow.run("a", {"v": "x"})
    await flow.run("b", {"v": "other"})
    assert (await flow.statuses())["c", "CREATED"] == 1
    assert (await flow.statuses())["d", "CREATED"] == 0
    await flow.trigger(store={"mode": "fast"})
    await flow.run("a", {"v": "other"})
    await flow.run("b", {"v": "x"})
    assert await flow.statuses() == {("a", "SUCCESS"): 1, ("b", "SUCCESS"): 1, ("d", "CREATED"): 1}


async def test_a_run_in_which_no_branch_is_taken_ends_as_a_success(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", "c", when=is_x("a")), place("c"))
    await flow.run("a", {"v": "no"})
    assert await flow.statuses() == {("a", "SUCCESS"): 1}
    assert (await flow.run_summary())["status"] == "SUCCESS"


# -- joins


def diamond(strategy: str, *, straight: bool = False) -> list[dict[str, Any]]:
    """t, and below it the branches b and c, which u joins; s is between them and t, unless ``straight``."""
    source = "t" if straight else "s"
    places = [
        place("b", "u", when=when(f"{source}.outputs.v", "in", ["b", "both"])),
        place("c", "u", when=when(f"{source}.outputs.v", "in", ["c", "both"])),
        place("u", unites="t", strategy=strategy, inputs={"p": "${{ b.outputs.v }}"}),
    ]
    before = [place("t", "b", "c")] if straight else [place("t", "s"), place("s", "b", "c")]
    return before + places


@pytest.mark.parametrize("straight", [True, False])
@pytest.mark.parametrize("strategy", ["ALL_SUCCESS", "ALL_DONE"])
async def test_a_join_runs_if_a_branch_arrived_and_waits_for_none_that_was_not_taken(
    api: Api, strategy: str, straight: bool
) -> None:
    flow = await Flow.deploy(api, *diamond(strategy, straight=straight))
    for text, branches in (("b", "b"), ("c", "c"), ("both", "bc"), ("none", "")):
        await flow.trigger()
        await flow.run("t", {"v": text})
        if not straight:
            await flow.run("s", {"v": text})
        for name in branches:
            await flow.none_ready("u")
            await flow.run(name)
        if branches or strategy == "ALL_DONE":
            (united,) = await flow.take("u")
            assert united["inputs"] == {"p": '["b"]' if "b" in branches else "[]"}
            ok(await api.executed(united["state_id"], OK))
        await flow.none_ready("u", "b", "c")
        assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_a_branch_that_failed_keeps_the_join_from_running_although_another_arrived(api: Api) -> None:
    flow = await Flow.start(api, *diamond("ALL_SUCCESS"), retry_policy=NO_RETRY)
    await flow.run("t")
    await flow.run("s", {"v": "both"})
    await flow.run("c")
    failed = await flow.fail("b", 1)
    await flow.none_ready("u")
    ok(await api.manual_retry(failed))
    await flow.run("b")
    await flow.run("u")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_each_item_of_a_fan_out_takes_its_own_branch(api: Api) -> None:
    places = [
        place("t", "a"),
        place("a", "b", "c"),
        place("b", "u", when=is_x("a")),
        place("c", "u", otherwise=True),
        place("u", unites="t", inputs={"p": "${{ b.outputs.v }} ${{ c.outputs.v }}"}),
    ]
    flow = await Flow.start(api, *places)
    await flow.run("t")
    await flow.run("a", {"v": "x"}, {"v": "y"}, {"v": "x"})
    assert (await flow.statuses())["b", "CREATED"] == 2
    for state in await flow.take("b", 2):
        await flow.none_ready("u")
        ok(await api.executed(state["state_id"], {"v": "b"}))
    await flow.run("c", {"v": "c"})
    assert await flow.inputs("u") == {"p": '["b","b"] ["c"]'}


async def test_a_fan_out_within_a_branch_is_joined_if_the_branch_is_taken(api: Api) -> None:
    places = [
        place("t", "a", "e"),
        place("a", "b", when=is_x("t")),
        place("b", "u"),
        place("e", "u"),
        place("u", unites="t", inputs={"p": "${{ b.outputs.v }}"}),
    ]
    flow = await Flow.start(api, *places, runs=2)
    first, second = await claim(api, limit=2, limits={node_name("t"): 2})
    assert (
        await report(api, executed_item(first, {"v": "x"}), executed_item(second, {"v": "y"})) == ["ok"] * 2
    )
    await flow.run("a", {"v": "1"}, {"v": "2"})
    for state in await flow.take("b", 2):
        ok(await api.executed(state["state_id"], {"v": "b"}))
    for state in await flow.take("e", 2):
        ok(await api.executed(state["state_id"], OK))
    joined = sorted(state["inputs"]["p"] for state in await flow.take("u", 2))
    assert joined == ['["b","b"]', "[]"]


async def test_an_outer_join_does_not_wait_for_an_inner_one_that_never_runs(api: Api) -> None:
    places = [
        place("t", "a", "e"),
        place("a", "b"),
        place("b", "i", when=is_x("a")),
        place("i", "u", unites="a"),
        place("e", "u"),
        place("u", unites="t"),
    ]
    flow = await Flow.start(api, *places)
    await flow.run("t")
    await flow.run("a", {"v": "no"})
    await flow.none_ready("u")
    await flow.run("e")
    await flow.run("u")
    assert (await flow.run_summary())["status"] == "SUCCESS"


async def test_a_join_that_runs_again_may_take_the_other_branch(api: Api) -> None:
    places = [
        place("t", "a", "e"),
        place("a", "u"),
        place("e", "u"),
        place("u", "b", "c", unites="t", strategy="ALL_DONE"),
        place("b", "d", when=is_x("u")),
        place("c", "d", otherwise=True),
        place("d"),
    ]
    flow = await Flow.start(api, *places, retry_policy=NO_RETRY)
    await flow.run("t")
    failed = await flow.fail("a", 1)
    await flow.run("e")
    await flow.run("u", {"v": "x"})
    await flow.run("b")
    await flow.run("d")
    ok(await api.manual_retry(failed))
    await flow.run("a")
    await flow.run("u", {"v": "y"})
    await flow.none_ready("b")
    await flow.run("c")
    await flow.run("d")
    statuses = await flow.statuses()
    assert {name: statuses[name, "RETRY_CREATED"] for name in "bcd"} == {"b": 1, "c": 0, "d": 1}
    assert {name: statuses[name, "SUCCESS"] for name in "bcd"} == {"b": 0, "c": 1, "d": 1}


async def test_a_retried_or_pruned_state_decides_with_the_outputs_of_its_last_attempt(api: Api) -> None:
    places = [place("a", "b", "c"), place("b", when=is_x("a")), place("c", otherwise=True)]
    flow = await Flow.start(api, *places, retry_policy=FAST_RETRY)
    ok(await api.errored(await flow.one("a")))
    pruned = await flow.one("a")
    ok(await api.prune(pruned, {}))
    await flow.none_ready("b", "c")
    ok(await api.manual_retry(pruned))
    await flow.run("a", {"v": "x"})
    await flow.none_ready("c")
    await flow.run("b")


async def test_the_history_of_a_state_says_which_branches_were_taken_and_why(api: Api) -> None:
    places = [place("a", "b", "c", "d"), place("b", when=is_x("a")), place("c", otherwise=True), place("d")]
    flow = await Flow.start(api, *places)
    source = await flow.run("a", {"v": "x"})
    history = ok(await api.history(source))
    assert history["condition"] is None
    met = {"identifier": "b", "taken": True, "condition": 'a.v == "x"', "value": "x"}
    assert history["branches"] == [
        met,
        {"identifier": "c", "taken": False, "condition": "otherwise", "value": None},
    ]
    history = ok(await api.history(await flow.run("b")))
    assert (history["condition"], history["branches"]) == (met, [])
    assert ok(await api.history(await flow.run("d")))["condition"] is None


# -- what is refused


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"when": {"of": "kind", "operator": "==", "value": 1}}, "'kind' is not one reference, as in"),
        ({"when": {"of": "${{ a.outputs.v }} ", "operator": "==", "value": 1}}, "is not one reference"),
        ({"when": {"of": "${{ a.outputs }}", "operator": "==", "value": 1}}, "is not one reference"),
        ({"when": when("c.outputs.v", "==", 1)}, "'c' is not before 'b' on every path"),
        ({"when": when("store.k", "==", 1)}, "store key 'k' is neither in"),
        ({"otherwise": True}, "otherwise needs another node after 'a' that has a condition"),
    ],
)
async def test_a_wrong_condition_is_refused_with_its_node(
    api: Api, fields: dict[str, Any], text: str
) -> None:
    places = [place("a", "b", "c"), place("b", **fields), place("c")]
    await api.register_for(places)
    problem = refused(await api.put_graph("g", api.body(places)), 400)
    assert problem.startswith("node 'b'")
    assert text in problem


@pytest.mark.parametrize(
    "fields",
    [
        {"when": when("a.outputs.v", "~", "x")},
        {"when": when("a.outputs.v", "in", "x")},
        {"when": when("a.outputs.v", "in", [])},
        {"when": when("a.outputs.v", "==", ["x"])},
        {"when": when("a.outputs.v", "<", "x")},
        {"when": when("a.outputs.v", "<", True)},
        {"when": when("a.outputs.v", "<", None)},
        {"when": when("a.outputs.v", "<", 10**400)},
        {"when": when("a.outputs.v", "in", [1, -(10**400)])},
        {"when": when("a.outputs.v", "in", ["x", 1])},
        {"when": when("a.outputs.v", "==", {"x": 1})},
        {"when": is_x("a"), "otherwise": True},
        {"when": is_x("a"), "unites": {"identifier": "a"}},
        {"otherwise": True, "unites": {"identifier": "a"}},
    ],
)
async def test_a_condition_of_another_form_is_refused(api: Api, fields: dict[str, Any]) -> None:
    refused(await api.put_graph("g", api.body([place("a", "b"), place("b", **fields)])), 422)


async def test_the_first_node_and_a_second_otherwise_are_refused(api: Api) -> None:
    places = [place("a", "b", "c", "d"), place("b", when=is_x("a")), place("c", otherwise=True)]
    text = refused(await api.put_graph("g", api.body([*places, place("d", otherwise=True)])), 400)
    assert "node 'd': 'c' follows 'a' otherwise, and only one node can" in text
    first = [place("a", "b", when=when("store.k", "==", 1)), place("b")]
    store = {"required_keys": ["k"], "default_values": {}}
    text = refused(await api.put_graph("g", api.body(first, store_config=store)), 400)
    assert "node 'a', when: the first node of a graph always runs" in text


async def test_a_value_that_an_output_never_has_and_a_branch_never_taken_make_a_graph_invalid(
    api: Api,
) -> None:
    kinds = {"type": "string", "contentSchema": {"enum": ["book", "map"], "type": "string"}}
    source = declare(node_name("a"), outputs={"v": kinds})
    ok(await api.register([source]))
    others = [place("c", when=when("a.outputs.v", "==", "map")), place("d", otherwise=True)]
    await api.register_for([*others, place("b")])
    for value, problem in (
        ("bok", "node 'b', when: ${{ a.outputs.v }} is never 'bok': it is one of book, map"),
        ("book", "node 'd': it never runs after 'a': there is no value with not (a.v == \"book\"), not"),
    ):
        places = [place("a", "b", "c", "d"), place("b", when=when("a.outputs.v", "==", value)), *others]
        status, problems = await validity(api, *places)
        assert status == "INVALID"
        assert problems[0].startswith(problem), problems


async def test_a_graph_with_branches_is_shown_as_it_was_stored(api: Api) -> None:
    places = [place("a", "b", "c"), place("b", when=is_x("a")), place("c", otherwise=True)]
    flow = await Flow.deploy(api, *places)
    shown = ok(await api.get_graph(flow.graph))["nodes"]
    assert [(each.get("when"), each.get("otherwise")) for each in shown] == [
        (None, None),
        (is_x("a"), None),
        (None, True),
    ]
