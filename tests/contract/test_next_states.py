"""Section 7: which states follow an executed one, with which inputs, and what fails."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.support.helpers import NO_RETRY, declare, node_name, ok, place, refused

STRING = {"type": "string"}


async def test_every_next_node_gets_a_state_for_every_sibling(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b", "c"), place("b"), place("c"))
    root = await flow.run("a", {"v": "0"}, {"v": "1"}, {"v": "2"})
    siblings = {state["id"] for state in await flow.states("a")}
    assert root in siblings
    for identifier in ("b", "c"):
        children = await flow.states(identifier)
        assert {child["parents"]["a"] for child in children} == siblings
        assert len(children) == 3


@pytest.mark.deviates_from_stock("stock creates them in the background, and shows EXECUTED until then")
async def test_next_states_exist_before_the_outcome_is_acknowledged(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", "u"), place("u", unites="a"))
    for identifier in ("a", "b"):
        (state,) = ok(await api.claim([node_name(identifier)], 5))["states"]
        ok(await api.executed(state["state_id"], {"v": "x"}))
        assert (await flow.shown())["execution_summary"]["EXECUTED"] == 0
    assert len(ok(await api.claim([node_name("u")], 5))["states"]) == 1


async def test_parents_list_every_ancestor_oldest_first(api: Api) -> None:
    flow = await Flow.start(api, place("z", "m"), place("m", "a"), place("a", "b"), place("b"))
    chain = [await flow.run(identifier) for identifier in ("z", "m", "a", "b")]
    parents = (await flow.detail(chain[-1]))["parents"]
    assert list(parents.items()) == list(zip(("z", "m", "a"), chain, strict=False))


@pytest.mark.parametrize("siblings", [2, 12])
async def test_later_nodes_read_the_ancestors_of_their_chain(api: Api, siblings: int) -> None:
    flow = await Flow.start(
        api,
        place("a", "b"),
        place("b", "c"),
        place("c", inputs={"p": "${{a.outputs.v}}/${{b.outputs.v}}/${{ b . outputs . w }}"}),
    )
    await flow.run("a", *({"v": str(number)} for number in range(siblings)))
    for state in await flow.take("b", siblings):
        sibling = (await flow.detail(state["state_id"]))["parents"]["a"]
        number = (await flow.detail(sibling))["outputs"]["v"]
        ok(await api.executed(state["state_id"], {"v": f"b{number}", "w": "w"}))
    inputs = {state["inputs"]["p"] for state in await flow.take("c", siblings)}
    assert inputs == {f"{number}/b{number}/w" for number in range(siblings)}


@pytest.mark.parametrize(
    "value",
    ["", "${{a.outputs.w}}", "}}", "${{", "quote \" ' \\ \n", "ünïcode 名 \U0001f600", "\x01", "0" * 5000],
)
@pytest.mark.stored_values
async def test_values_are_inserted_as_they_are(api: Api, value: str) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "[${{a.outputs.v}}]"}))
    await flow.run("a", {"v": value, "w": "never"})
    assert await flow.inputs("b") == {"p": f"[{value}]"}


async def test_inputs_that_the_schema_lacks_and_that_cannot_be_built_are_dropped_below_the_root(
    api: Api,
) -> None:
    ok(await api.register([declare(node_name("a")), declare(node_name("b"), ["p"])]))
    places = [place("a", "b"), place("b", inputs={"p": "kept", "extra": "${{a.outputs.v}}"})]
    flow = await Flow.put(api, "graph", api.body(places))
    await flow.trigger()
    await flow.run("a", {"no": "v here, which is no problem"})
    assert await flow.inputs("b") == {"p": "kept"}


@pytest.mark.deviates_from_stock("stock builds what is registered last, whatever the graph of the run names")
async def test_registering_a_node_again_changes_no_input_that_a_graph_names(api: Api) -> None:
    optional = declare(node_name("b"), {"p": STRING, "mode": {**STRING, "default": "fast"}})
    optional["inputs_schema"]["required"] = ["p"]
    ok(await api.register([declare(node_name("a")), optional]))
    places = [place("a", "b"), place("b", inputs={"p": "x", "mode": "${{a.outputs.v}}"})]
    flow = await Flow.put(api, "graph", api.body(places))
    ok(await api.register([declare(node_name("b"), ["p"])]))  # by a runtime that is older
    await flow.trigger()
    await flow.run("a", {"v": "slow"})
    assert await flow.inputs("b") == {"p": "x", "mode": "slow"}


@pytest.mark.deviates_from_stock("stock fails the creation")
async def test_an_input_that_the_schema_gained_since_is_left_to_a_node_with_a_default(api: Api) -> None:
    flow = await Flow.deploy(
        api, place("t", "b"), place("b", "u", inputs={"p": "x"}), place("u", unites="t", inputs={"p": "y"})
    )
    for node in ("b", "u"):
        newer = declare(node_name(node), {"p": STRING, "mode": {**STRING, "default": "fast"}})
        newer["inputs_schema"]["required"] = ["p"]
        ok(await api.register([newer]))
    await flow.trigger()
    await flow.run("t")
    (state,) = await flow.take("b")
    assert state["inputs"] == {"p": "x"}
    ok(await api.executed(state["state_id"], {"v": "1"}))
    assert await flow.inputs("u") == {"p": "y"}


async def test_a_diamond_runs_its_end_once_for_each_path(api: Api) -> None:
    flow = await Flow.start(
        api,
        place("a", "b", "c"),
        place("b", "d"),
        place("c", "d"),
        place("d", inputs={"p": "${{a.outputs.v}}"}),
    )
    root = await flow.run("a", {"v": "x"})
    b, c = await flow.run("b"), await flow.run("c")
    chains = [list((await flow.detail(s["state_id"]))["parents"].items()) for s in await flow.take("d", 2)]
    assert sorted(chains) == [[("a", root), ("b", b)], [("a", root), ("c", c)]]


# -- outputs that do not fit


BAD: dict[str, Any] = {
    "missing": {"w": "x"},
    "empty": {},
    "null": {"v": None},
    "number": {"v": 5},
    "bool": {"v": True},
    "list": {"v": ["x"]},
    "object": {"v": {}},
    "other case": {"V": "x"},
}


@pytest.mark.parametrize("output", BAD.values(), ids=BAD.keys())
async def test_an_output_that_is_missing_or_no_string_fails_the_creation(
    api: Api, output: dict[str, Any]
) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    state_id = await flow.run("a", output)
    assert await flow.status(state_id) == "NEXT_CREATED_ERROR"
    detail = await flow.detail(state_id)
    assert detail["outputs"] == output
    assert "v" in detail["error"]
    await flow.none_ready("a", "b")
    assert await flow.statuses() == {("a", "NEXT_CREATED_ERROR"): 1}
    assert (await flow.run_summary())["status"] == "FAILED"


@pytest.mark.parametrize("output", BAD.values(), ids=BAD.keys())
@pytest.mark.stored_values
async def test_an_unreferenced_output_may_be_anything(api: Api, output: dict[str, Any]) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b"))
    state_id = await flow.run("a", output)
    await flow.one("b")
    assert (await flow.detail(state_id))["outputs"] == output


@pytest.mark.deviates_from_stock("stock fails every sibling")
async def test_one_bad_sibling_fails_alone(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "${{a.outputs.v}}"}))
    await flow.run("a", {"v": "0"}, {"w": "bad"}, {"v": "2"})
    assert await flow.statuses() == {
        ("a", "SUCCESS"): 2,
        ("a", "NEXT_CREATED_ERROR"): 1,
        ("b", "CREATED"): 2,
    }
    assert sorted(state["inputs"]["p"] for state in await flow.take("b", 2)) == ["0", "2"]


@pytest.mark.parametrize("order", [("b", "c"), ("c", "b")])
async def test_next_states_of_one_sibling_are_created_all_or_none(api: Api, order: tuple[str, str]) -> None:
    flow = await Flow.start(api, place("a", *order), place("b", inputs={"p": "${{a.outputs.v}}"}), place("c"))
    await flow.run("a", {"w": "no v"})
    await flow.none_ready("b", "c")
    assert await flow.statuses() == {("a", "NEXT_CREATED_ERROR"): 1}


async def test_an_ancestor_without_the_field_fails_the_creation(api: Api) -> None:
    flow = await Flow.start(
        api, place("a", "b"), place("b", "c"), place("c", inputs={"p": "${{a.outputs.v}}"})
    )
    await flow.run("a", {})
    state_id = await flow.run("b")
    assert await flow.status(state_id) == "NEXT_CREATED_ERROR"


async def test_an_input_that_the_schema_gained_since_fails_the_creation(api: Api) -> None:
    flow = await Flow.start(api, place("a", "b"), place("b", inputs={"p": "x"}))
    ok(await api.register([declare(node_name("b"), ["p", "gained"])]))
    state_id = await flow.run("a")
    assert await flow.status(state_id) == "NEXT_CREATED_ERROR"
    assert "gained" in (await flow.detail(state_id))["error"]


# -- several namespaces


async def _across(api: Api, **fields: Any) -> tuple[Flow, Api]:
    """Return a run whose second node is in another namespace, where it can be claimed."""
    other = api.elsewhere()
    places = (
        place("a", "b"),
        place("b", "c", namespace=other.namespace, inputs={"p": "${{a.outputs.v}}${{store.k}}"}),
        place("c", inputs={"p": "${{b.outputs.v}}"}),
    )
    flow = await Flow.start(api, *places, store_config={"default_values": {"k": "!"}}, **fields)
    await flow.run("a", {"v": "x"})
    return flow, other


@pytest.mark.deviates_from_stock("stock accepts such graphs and cannot run them")
async def test_a_graph_runs_across_namespaces(api: Api) -> None:
    flow, other = await _across(api)
    await flow.none_ready("b")
    (state,) = await flow.take("b", api=other)
    assert state["inputs"] == {"p": "x!"}
    ok(await other.executed(state["state_id"], {"v": "back"}))
    (last,) = await flow.take("c")
    assert last["inputs"] == {"p": "back"}
    ok(await api.executed(last["state_id"], {"v": "x"}))
    summary = await flow.run_summary()
    assert (summary["status"], summary["total_count"]) == ("SUCCESS", 3)


@pytest.mark.deviates_from_stock("stock answers 404 and leaves the state QUEUED")
async def test_a_state_in_another_namespace_fails_and_retries_there(api: Api) -> None:
    flow, other = await _across(api, retry_policy=NO_RETRY | {"max_retries": 1})
    for retried in (True, False):
        (state,) = await flow.take("b", api=other)
        assert ok(await other.errored(state["state_id"]))["retry_created"] is retried
    assert (await flow.run_summary())["status"] == "FAILED"


@pytest.mark.deviates_from_stock("outcomes belong to the namespace of the state's node")
async def test_an_outcome_for_such_a_state_in_the_namespace_of_the_graph_is_404(api: Api) -> None:
    flow, other = await _across(api)
    (state,) = await flow.take("b", api=other)
    for response in (
        await api.executed(state["state_id"], {"v": "x"}),
        await api.errored(state["state_id"]),
        await api.prune(state["state_id"]),
        await api.requeue(state["state_id"], 1),
    ):
        assert response.status_code == 404


@pytest.mark.deviates_from_stock("stock cannot run such graphs")
async def test_a_run_is_shown_whole_in_its_namespace_and_in_another_one_the_states_of_its_nodes(
    api: Api,
) -> None:
    flow, other = await _across(api)
    here = ok(await api.run_graph(flow.run_id))
    there = ok(await other.run_graph(flow.run_id))
    a, b = here["nodes"]
    assert (a["identifier"], b["identifier"], there["nodes"]) == ("a", "b", [b])
    assert here["edges"] == [{"source": a["id"], "target": b["id"]}]
    assert (there["edges"], there["root_states"]) == ([], [])
    assert ok(await api.runs())["runs"][0]["total_count"] == 2
    refused(await other.state(flow.graph, flow.run_id, a["id"]), 404)
    for each in (api, other):
        assert ok(await each.state(flow.graph, flow.run_id, b["id"]))["inputs"] == {"p": "x!"}
