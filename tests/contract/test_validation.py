"""Section 4: which graphs are refused, by which group of rules, and which are stored as INVALID."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.helpers import declare, eventually, node_name, ok, place, refused

Place = dict[str, Any]


async def _put(api: Api, *places: Place, **fields: Any) -> Any:
    """Register the places' nodes, put the graph and return the response."""
    await api.register_for([p for p in places if isinstance(p.get("inputs"), dict)])
    return await api.put_graph("g", api.body(places, **fields))


async def _validity(api: Api, *places: Place, **fields: Any) -> tuple[str, list[str]]:
    """Put the graph, which has to pass groups A to F, and return what group G found."""
    ok(await api.put_graph("g", api.body(places, **fields)), 201)

    async def decided() -> Any:
        shown = ok(await api.get_graph("g"))
        assert shown["validation_status"] != "PENDING"
        return shown

    shown = await eventually(decided)
    return shown["validation_status"], shown["validation_errors"]


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
    "every node in a cycle": ([place("a", "b"), place("b", "a")], "0"),
    "a cycle off the root": ([place("a"), place("b", "c"), place("c", "b")], ""),
    "united node without an edge": ([place("a", "b"), place("b"), place("u", unites="a")], "u"),
    "united nodes that wait for each other": (
        [place("a", "b"), place("b", "u", "v"), place("u", unites="v"), place("v", unites="u")],
        "",
    ),
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
    detail = refused(await _put(api, *places), 400)
    assert named in detail
    assert ok(await api.graphs())["count"] == 0


@pytest.mark.parametrize("value", [1, 1.5, None, True, [], {}])
async def test_an_input_that_is_no_string_is_400(api: Api, value: Any) -> None:
    refused(await _put(api, place("a", inputs={"p": value})), 400)


async def test_an_empty_secret_name_is_400(api: Api) -> None:
    refused(await _put(api, place("a"), secrets={"": "x"}), 400)


async def test_a_blank_graph_name_is_refused(api: Api) -> None:
    refused(await api.put_graph(" ", api.body([place("a")])), 400, 422)


async def test_every_repeated_identifier_is_named(api: Api) -> None:
    places = [place("a"), place("dup1"), place("dup1"), place("dup2"), place("dup2")]
    detail = refused(await _put(api, *places), 400)
    assert "dup1" in detail
    assert "dup2" in detail


async def test_every_unknown_next_node_is_named(api: Api) -> None:
    detail = refused(await _put(api, place("a", "b", "ghost1"), place("b", "ghost2")), 400)
    assert "ghost1" in detail
    assert "ghost2" in detail


async def test_every_message_of_the_failing_group_is_given(api: Api) -> None:
    inputs = {"p": "${{ghost1.outputs.v}}", "q": "${{store.missing}}", "r": "${{oops"}
    detail = refused(await _put(api, place("a", "b"), place("b", inputs=inputs)), 400)
    assert "ghost1" in detail
    assert "missing" in detail
    assert "oops" in detail or "r" in detail


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
    assert absent not in refused(await _put(api, *places), 400)


async def test_the_shape_is_checked_before_the_whole_graph(api: Api) -> None:
    body = api.body([place("a", "ghost"), place("store")])
    assert (await api.put_graph("g", body)).status_code == 422


# -- 4.2: placeholders


REFERENCES: dict[str, tuple[str, bool]] = {
    "no placeholder": ("plain $ { } {{ text", True),
    "empty": ("", True),
    "reference": ("${{a.outputs.v}}", True),
    "spaces around parts": ("${{  a . outputs . v  }}", True),
    "tab and newline around parts": ("${{\ta\n.outputs.v}}", True),
    "text around": ("pre ${{a.outputs.v}} post", True),
    "two": ("${{a.outputs.v}}${{a.outputs.w}}", True),
    "the same twice": ("${{a.outputs.v}}-${{a.outputs.v}}", True),
    "stray close": ("}} ${{a.outputs.v}} }}", True),
    "third close brace is literal": ("${{a.outputs.v}}}", True),
    "store": ("${{store.k}}", True),
    "store default": ("${{ store . d }}", True),
    "store with outputs": ("${{store.outputs.k}}", True),
    "unclosed": ("${{a.outputs.v", False),
    "half closed": ("${{a.outputs.v}", False),
    "nested": ("${{ ${{a.outputs.v}} }}", False),
    "second unclosed": ("${{a.outputs.v}} ${{", False),
    "one part": ("${{a}}", False),
    "no part": ("${{}}", False),
    "two parts": ("${{a.outputs}}", False),
    "four parts": ("${{a.outputs.v.x}}", False),
    "middle not outputs": ("${{a.inputs.v}}", False),
    "middle in another case": ("${{a.Outputs.v}}", False),
    "store in another case": ("${{Store.k}}", False),
    "store with four parts": ("${{store.outputs.k.x}}", False),
    "store key unknown": ("${{store.nothing}}", False),
    "store key empty": ("${{store.}}", False),
    "identifier in another case": ("${{A.outputs.v}}", False),
    "identifier empty": ("${{.outputs.v}}", False),
}


@pytest.mark.parametrize(("text", "accepted"), REFERENCES.values(), ids=REFERENCES.keys())
async def test_the_placeholder_grammar(api: Api, text: str, accepted: bool) -> None:
    store = {"required_keys": ["k"], "default_values": {"d": "x"}}
    response = await _put(api, place("a", "b"), place("b", inputs={"p": text}), store_config=store)
    if accepted:
        ok(response, 201)
    else:
        refused(response, 400)


async def test_an_empty_field_passes_the_grammar_and_fails_later(api: Api) -> None:
    places = [place("a", "b"), place("b", inputs={"p": "${{a.outputs.}}"})]
    await api.register_for(places)
    assert (await _validity(api, *places))[0] == "INVALID"


# -- 4.3: who may reference whom


CHAIN = [place("a", "b"), place("b", "c"), place("c", "u"), place("u", "z", unites="a"), place("z")]
DIAMOND = [place("a", "b", "c"), place("b", "d"), place("c", "d"), place("d", "e"), place("e")]
NESTED = [
    place("s", "t"),
    place("t", "b"),
    place("b", "c", "v"),
    place("v", "d", unites="t"),
    place("c"),
    place("d", "u"),
    place("u", unites="s"),
]
TWO_UNITERS = [
    place("t", "b"),
    place("b", "u", "v"),
    place("u", unites="t"),
    place("v", "after_v", unites="t"),
    place("after_v"),
]


def _with(places: list[Place], identifier: str, referenced: str) -> list[Place]:
    reference = {"p": f"${{{{{referenced}.outputs.v}}}}"}
    return [p | {"inputs": reference} if p["identifier"] == identifier else p for p in places]


@pytest.mark.parametrize(
    ("places", "identifier", "referenced"),
    [
        (CHAIN, "b", "a"),
        (CHAIN, "c", "a"),
        (CHAIN, "c", "b"),
        (CHAIN, "u", "a"),
        (CHAIN, "z", "a"),
        (DIAMOND, "d", "a"),
        (DIAMOND, "e", "a"),
        (DIAMOND, "e", "d"),
        (NESTED, "v", "s"),
        (NESTED, "v", "t"),
        (NESTED, "u", "s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_node_may_reference_its_ancestors(
    api: Api, places: list[Place], identifier: str, referenced: str
) -> None:
    ok(await _put(api, *_with(places, identifier, referenced)), 201)


@pytest.mark.deviates_from_stock("stock forgets the united node for its descendants, and allows no branch")
@pytest.mark.parametrize(
    ("places", "identifier", "referenced"),
    [
        (CHAIN, "z", "u"),
        (NESTED, "d", "v"),
        (CHAIN, "u", "b"),
        (CHAIN, "u", "c"),
        (NESTED, "v", "b"),
        (NESTED, "v", "c"),
        (NESTED, "u", "t"),
        (NESTED, "u", "c"),
        (NESTED, "u", "v"),
        (NESTED, "u", "d"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_united_nodes_may_reference_their_branches_and_are_referenced_by_their_descendants(
    api: Api, places: list[Place], identifier: str, referenced: str
) -> None:
    ok(await _put(api, *_with(places, identifier, referenced)), 201)


@pytest.mark.deviates_from_stock("stock accepts graphs that must fail at run time")
@pytest.mark.parametrize(
    ("places", "identifier", "referenced"),
    [
        (DIAMOND, "d", "b"),
        (DIAMOND, "d", "c"),
        (DIAMOND, "e", "b"),
        (CHAIN, "z", "b"),
        (CHAIN, "z", "c"),
        (NESTED, "d", "b"),
        (TWO_UNITERS, "u", "v"),
        (TWO_UNITERS, "u", "after_v"),
        (TWO_UNITERS, "v", "after_v"),
        (TWO_UNITERS, "v", "u"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_node_may_not_reference_what_is_not_on_every_path(
    api: Api, places: list[Place], identifier: str, referenced: str
) -> None:
    assert referenced in refused(await _put(api, *_with(places, identifier, referenced)), 400)


@pytest.mark.deviates_from_stock("stock accepts graphs that must fail at run time")
@pytest.mark.parametrize(
    "places",
    [
        # U is a child of its target.
        [place("t", "u"), place("u", unites="t")],
        [place("t", "b", "u"), place("b", "u"), place("u", unites="t")],
        # The target is on one of two paths only.
        [place("a", "t", "c"), place("t", "b"), place("b", "u"), place("c", "u"), place("u", unites="t")],
        [
            *(place("a", "t", "c"), place("t", "d"), place("c", "d")),
            *(place("d", "u"), place("u", unites="t")),
        ],
        # The target is a sibling, or comes later.
        [place("a", "t", "b"), place("t"), place("b", "u"), place("u", unites="t")],
        [place("a", "b"), place("b", "u"), place("u", "t", unites="t"), place("t")],
        # A unite above ended the target's chain.
        [
            *(place("s", "t"), place("t", "b"), place("b", "v"), place("v", "c", unites="s")),
            *(place("c", "u"), place("u", unites="t")),
        ],
    ],
    ids=["child", "child and grandchild", "one path", "one path above", "sibling", "later", "united above"],
)
async def test_the_target_of_a_unite_must_precede_every_predecessor(api: Api, places: list[Place]) -> None:
    refused(await _put(api, *places), 400)


@pytest.mark.deviates_from_stock("stock reports a node reached before its target as disconnected")
async def test_the_order_of_next_nodes_does_not_matter(api: Api) -> None:
    nodes = [place("b", "u"), place("u", "z", unites="t"), place("z"), place("t", "c", "b"), place("c", "b")]
    for following in (["t"], ["t", "x"], ["x", "t"]):
        ok(await _put(api, place("a", *following), *nodes, *([place("x")] if "x" in following else [])), 201)


@pytest.mark.parametrize("places", [CHAIN, DIAMOND, NESTED, TWO_UNITERS])
async def test_graphs_in_any_order_of_nodes_are_accepted(api: Api, places: list[Place]) -> None:
    await Flow.deploy(api, *places)
    await Flow.deploy(api, *reversed(places))


# -- 4.4: against the registered nodes


async def test_a_graph_that_fits_its_registered_nodes_is_valid(api: Api) -> None:
    ok(await api.register([declare("Head", ["p"], ["v"]), declare("Tail", ["q"], [], ["token"])]))
    places = [
        place("a", "b", node_name="Head", inputs={"p": "x"}),
        place("b", node_name="Tail", inputs={"q": "${{a.outputs.v}}"}),
    ]
    assert await _validity(api, *places, secrets={"token": "x", "spare": "y"}) == ("VALID", [])


@pytest.mark.parametrize("registered_in", [None, "elsewhere"])
async def test_a_node_that_is_not_registered_in_its_namespace_makes_the_graph_invalid(
    api: Api, registered_in: str | None
) -> None:
    if registered_in:
        await api.elsewhere().register_for([place("a")])
    status, errors = await _validity(api, place("a"))
    assert status == "INVALID"
    assert any(node_name("a") in error for error in errors)


async def test_a_missing_secret_makes_the_graph_invalid(api: Api) -> None:
    await api.register_for([place("a")], secrets=["token", "other"])
    status, errors = await _validity(api, place("a"), secrets={"other": "x"})
    assert status == "INVALID"
    assert any("token" in error for error in errors)


@pytest.mark.parametrize(
    ("property_schema", "expected"),
    [
        ({"type": "string"}, "VALID"),
        ({"type": "string", "minLength": 1, "maxLength": 9, "pattern": "^x", "description": "d"}, "VALID"),
        ({"type": "string", "title": "P", "default": "x", "examples": ["x"]}, "VALID"),
        ({"type": "integer"}, "INVALID"),
        ({"type": "boolean"}, "INVALID"),
        ({"type": "array", "items": {"type": "string"}}, "INVALID"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "INVALID"),
        ({"type": ["string", "null"]}, "INVALID"),
        ({"type": "string", "enum": ["x"]}, "INVALID"),
        ({"type": "string", "const": "x"}, "INVALID"),
        ({"type": "string", "format": "date-time"}, "INVALID"),
        ({}, "INVALID"),
    ],
    ids=str,
)
async def test_only_plain_strings_are_inputs_and_referenced_outputs(
    api: Api, property_schema: dict[str, Any], expected: str
) -> None:
    ok(await api.register([declare("In", {"p": property_schema})]))
    assert (await _validity(api, place("a", node_name="In", inputs={"p": "x"})))[0] == expected
    nodes = [declare("Out", [], {"f": property_schema, "plain": {"type": "string"}}), declare("Ref", ["p"])]
    ok(await api.register(nodes))
    head = place("a", "b", node_name="Out")
    reference = place("b", node_name="Ref", inputs={"p": "${{a.outputs.f}}"})
    assert (await _validity(api, head, reference))[0] == expected
    other = place("b", node_name="Ref", inputs={"p": "${{a.outputs.plain}}"})
    assert (await _validity(api, head, other))[0] == "VALID"


async def test_every_input_of_the_schema_must_be_given_even_with_a_default(api: Api) -> None:
    optional = declare("Opt", {"p": {"type": "string", "default": "x"}})
    optional["inputs_schema"]["required"] = []
    ok(await api.register([optional]))
    status, errors = await _validity(api, place("a", node_name="Opt"))
    assert status == "INVALID"
    assert any("p" in error for error in errors)


async def test_inputs_that_the_schema_does_not_know_are_accepted(api: Api) -> None:
    ok(await api.register([declare("Bare")]))
    status, _ = await _validity(api, place("a", node_name="Bare", inputs={"extra": "x"}))
    assert status == "VALID"


@pytest.mark.parametrize("known_input", [True, False])
async def test_a_reference_to_an_output_nobody_declares_makes_the_graph_invalid(
    api: Api, known_input: bool
) -> None:
    ok(await api.register([declare("Head", [], ["v"]), declare("Tail", ["p"] if known_input else [])]))
    head = place("a", "b", node_name="Head")
    tail = place("b", node_name="Tail", inputs={"p": "${{a.outputs.nowhere}}"})
    status, errors = await _validity(api, head, tail)
    assert status == "INVALID"
    assert any("nowhere" in error for error in errors)


async def test_all_errors_are_collected(api: Api) -> None:
    ok(await api.register([declare("Head", ["needed"], ["v"], ["token"])]))
    places = [place("a", "b", node_name="Head"), place("b", inputs={"p": "${{a.outputs.nowhere}}"})]
    status, errors = await _validity(api, *places)
    assert status == "INVALID"
    for named in ("token", "needed", node_name("b")):
        assert any(named in error for error in errors), named


async def test_registering_later_does_not_validate_stored_graphs_again(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    ok(await api.register([declare(node_name("a"), ["new_input"])]))
    assert ok(await api.get_graph(flow.graph))["validation_status"] == "VALID"
    ok(await api.trigger(flow.graph))
