"""Section 4.1: which graphs are refused, and by which group of rules."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import put
from tests.support.helpers import ok, place, refused

Place = dict[str, Any]


# -- group A: the shape of the body


SHAPES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "secrets absent": lambda body: body.pop("secrets"),
    "secrets null": lambda body: body.update(secrets=None),
    "secret no string": lambda body: body.update(secrets={"s": 1}),
    "nodes absent": lambda body: body.pop("nodes"),
    "nodes no list": lambda body: body.update(nodes={}),
    "node no object": lambda body: body.update(nodes=["a"]),
    "node_name absent": lambda body: body["nodes"][0].pop("node_name"),
    "node_name blank": lambda body: body["nodes"][0].update(node_name="  "),
    "namespace absent": lambda body: body["nodes"][0].pop("namespace"),
    "identifier absent": lambda body: body["nodes"][0].pop("identifier"),
    "identifier blank": lambda body: body["nodes"][0].update(identifier=" \t"),
    "identifier store": lambda body: body["nodes"][0].update(identifier="store"),
    "identifier store after trimming": lambda body: body["nodes"][0].update(identifier=" store "),
    "identifier no string": lambda body: body["nodes"][0].update(identifier=1),
    "inputs absent": lambda body: body["nodes"][0].pop("inputs"),
    "inputs no object": lambda body: body["nodes"][0].update(inputs=[]),
    "next_nodes no list": lambda body: body["nodes"][0].update(next_nodes="b"),
    "next_nodes blank": lambda body: body["nodes"][0].update(next_nodes=["b", " "]),
    "next_nodes repeated": lambda body: body["nodes"][0].update(next_nodes=["b", "b"]),
    "next_nodes repeated after trimming": lambda body: body["nodes"][0].update(next_nodes=["b", " b"]),
    "unites blank": lambda body: body["nodes"][1].update(unites={"identifier": " "}),
    "unites without identifier": lambda body: body["nodes"][1].update(unites={"strategy": "ALL_DONE"}),
    "unites strategy unknown": lambda body: body["nodes"][1].update(
        unites={"identifier": "a", "strategy": "ANY"}
    ),
    "required key blank": lambda body: body.update(store_config={"required_keys": [" "]}),
    "required key dotted": lambda body: body.update(store_config={"required_keys": ["a.b"]}),
    "required key repeated": lambda body: body.update(store_config={"required_keys": ["a", "a"]}),
    "default key blank": lambda body: body.update(store_config={"default_values": {" ": "x"}}),
    "default key dotted": lambda body: body.update(store_config={"default_values": {"a.b": "x"}}),
    "default no string": lambda body: body.update(store_config={"default_values": {"a": 1}}),
    "max_retries negative": lambda body: body.update(retry_policy={"max_retries": -1}),
    "backoff_factor zero": lambda body: body.update(retry_policy={"backoff_factor": 0}),
    "backoff_factor no int": lambda body: body.update(retry_policy={"backoff_factor": 1.5}),
    "exponent zero": lambda body: body.update(retry_policy={"exponent": 0}),
    "max_delay zero": lambda body: body.update(retry_policy={"max_delay": 0}),
    "strategy unknown": lambda body: body.update(retry_policy={"strategy": "QUADRATIC"}),
    "trigger type": lambda body: body.update(
        triggers=[{"type": "HOOK", "value": {"expression": "* * * * *"}}]
    ),
    "trigger without expression": lambda body: body.update(triggers=[{"type": "CRON", "value": {}}]),
    "trigger expression invalid": lambda body: body.update(
        triggers=[{"type": "CRON", "value": {"expression": "not cron"}}]
    ),
}


@pytest.mark.parametrize("broken", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.before_the_store
async def test_a_body_of_the_wrong_shape_is_422(api: Api, broken: Callable[[dict[str, Any]], Any]) -> None:
    body = api.body([place("a", "b"), place("b")])
    broken(body)
    response = await api.put_graph("g", body)
    assert response.status_code == 422, response.text
    assert ok(await api.graphs())["count"] == 0


@pytest.mark.parametrize(
    "policy",
    [
        {"max_retries": 0},
        {"max_retries": "4"},
        {"max_delay": None},
        {"max_delay": 1},
        {"backoff_factor": 2.0},
        *({"strategy": f"{shape}{jitter}"} for shape in ("EXPONENTIAL", "LINEAR", "FIXED") for jitter in (
            "", "_FULL_JITTER", "_EQUAL_JITTER",
        )),
    ],
    ids=str,
)  # fmt: skip
async def test_every_retry_policy_in_range_is_accepted(api: Api, policy: dict[str, Any]) -> None:
    reply = ok(await api.put_graph("g", api.body([place("a")], retry_policy=policy)), 201)
    for field, value in policy.items():
        assert reply["retry_policy"][field] == (4 if value == "4" else value)


# -- groups B to F: rules of the whole graph


REFUSED: dict[str, tuple[list[Place], str]] = {
    # B
    "identifier repeated": ([place("a", "b"), place("b"), place("b")], "b"),
    "identifier repeated after trimming": ([place("a", "b"), place("b"), place(" b ")], "b"),
    "next node unknown": ([place("a", "ghost")], "ghost"),
    # C
    "unites nothing known": ([place("a", "b"), place("b", "u"), place("u", unites="ghost")], "ghost"),
    "unites itself": ([place("a", "b"), place("b", "u"), place("u", unites="u")], "u"),
    # D
    "no node": ([], "0"),
    "two roots": ([place("a", "c"), place("b", "c"), place("c")], "2"),
    "every node in a cycle": ([place("a", "b"), place("b", "a")], ""),  # stock: of no root
    "a cycle off the root": ([place("a"), place("b", "c"), place("c", "b")], ""),
    "united node without an edge": ([place("a", "b"), place("b"), place("u", unites="a")], "u"),
    "only a united node": ([place("u", unites="u")], ""),
    # E
    "a node on its own path": ([place("a", "b"), place("b", "c"), place("c", "b")], "b"),
    # F
    "reference to nothing known": (
        [place("a", "b"), place("b", inputs={"p": "${{ghost.outputs.v}}"})],
        "ghost",
    ),
    "reference to itself": ([place("a", "b"), place("b", inputs={"p": "${{b.outputs.v}}"})], "b"),
    "reference to a descendant": ([place("a", "b", inputs={"p": "${{b.outputs.v}}"}), place("b")], "b"),
    "reference to a sibling": (
        [place("a", "b", "c"), place("b"), place("c", inputs={"p": "${{b.outputs.v}}"})],
        "b",
    ),
    "store key undeclared": ([place("a", inputs={"p": "${{store.k}}"})], "k"),
}


@pytest.mark.parametrize(("places", "named"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_graph_that_breaks_a_whole_graph_rule_is_400(
    api: Api, places: list[Place], named: str
) -> None:
    detail = refused(await put(api, *places), 400)
    assert named in detail
    assert ok(await api.graphs())["count"] == 0


@pytest.mark.deviates_from_stock("stock accepts united nodes that wait for themselves through another")
async def test_united_nodes_that_wait_for_each_other_are_refused(api: Api) -> None:
    places = [place("a", "b"), place("b", "u", "v"), place("u", unites="v"), place("v", unites="u")]
    detail = refused(await put(api, *places), 400)
    assert "united nodes wait for each other, so none is ever reached: u, v" in detail


@pytest.mark.parametrize("value", [1, 1.5, None, True, [], {}])
async def test_an_input_that_is_no_string_is_400(api: Api, value: Any) -> None:
    refused(await put(api, place("a", inputs={"p": value})), 400)
    assert ok(await api.graphs())["count"] == 0
    ok(await put(api, place("a", inputs={"p": str(value)})), 201)


async def test_an_empty_secret_name_is_400(api: Api) -> None:
    refused(await put(api, place("a"), secrets={"": "x"}), 400)


async def test_a_blank_graph_name_is_refused(api: Api) -> None:
    refused(await api.put_graph(" ", api.body([place("a")])), 400, 422)


MANY: dict[str, tuple[list[Place], list[str]]] = {
    "identifiers repeated": (
        [place(name) for name in ("a", "dup1", "dup1", "dup2", "dup2")],
        ["dup1", "dup2"],
    ),
    "next nodes unknown": ([place("a", "b", "ghost1"), place("b", "ghost2")], ["ghost1", "ghost2"]),
    "references and keys": (
        [
            place("a", "b"),
            place("b", inputs={"p": "${{ghost.outputs.v}}", "q": "${{store.missing}}", "r": "${{o"}),
        ],
        ["ghost", "missing", "r"],
    ),
}


@pytest.mark.parametrize(("places", "named"), MANY.values(), ids=MANY)
async def test_every_message_of_the_failing_group_is_in_the_answer(
    api: Api, places: list[Place], named: list[str]
) -> None:
    detail = refused(await put(api, *places), 400)
    assert [each for each in named if each not in detail] == []


@pytest.mark.parametrize(
    ("places", "absent"),
    [
        # B hides C, C hides D, D hides F.
        ([place("a", "ghost"), place("u", unites="nowhere")], "nowhere"),
        ([place("a"), place("root2"), place("u", unites="nowhere")], "root2"),
        ([place("a"), place("b"), place("c", inputs={"p": "${{phantom.outputs.v}}"})], "phantom"),
    ],
)
async def test_only_the_first_failing_group_is_reported(api: Api, places: list[Place], absent: str) -> None:
    detail = refused(await put(api, *places), 400)
    # After each message, stock's library quotes what it was given.
    messages = re.sub(r"\[type=\w+, input_value=.*?, input_type=\w+\]", "", detail, flags=re.DOTALL)
    assert absent not in messages


async def test_the_shape_is_checked_before_the_whole_graph(api: Api) -> None:
    body = api.body([place("a", "ghost"), place("store")])
    assert (await api.put_graph("g", body)).status_code == 422
