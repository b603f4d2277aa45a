"""Section 4.4: graphs against the registered nodes, which makes them VALID or INVALID."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow, validity
from tests.support.helpers import declare, node_name, ok, place

Place = dict[str, Any]


async def check_invalid(api: Api, *places: Place, named: list[str], **fields: Any) -> None:
    """Check that a graph is INVALID, and that its errors name each of these."""
    status, errors = await validity(api, *places, **fields)
    assert status == "INVALID"
    assert [each for each in named if not any(each in error for error in errors)] == []


# -- 4.4: against the registered nodes


async def test_a_graph_that_fits_its_registered_nodes_is_valid(api: Api) -> None:
    ok(await api.register([declare("Head", ["p"], ["v"]), declare("Tail", ["q"], [], ["token"])]))
    places = [
        place("a", "b", node_name="Head", inputs={"p": "x"}),
        place("b", node_name="Tail", inputs={"q": "${{a.outputs.v}}"}),
    ]
    assert await validity(api, *places, secrets={"token": "x", "spare": "y"}) == ("VALID", [])


@pytest.mark.parametrize("registered_in", [None, "elsewhere"])
async def test_a_node_that_is_not_registered_in_its_namespace_makes_the_graph_invalid(
    api: Api, registered_in: str | None
) -> None:
    if registered_in:
        await api.elsewhere().register_for([place("a")])
    await check_invalid(api, place("a"), named=[node_name("a")])


async def test_a_missing_secret_makes_the_graph_invalid(api: Api) -> None:
    await api.register_for([place("a")], secrets=["token", "other"])
    await check_invalid(api, place("a"), secrets={"other": "x"}, named=["token"])


PROPERTIES: list[tuple[dict[str, Any], str]] = [
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
]
UNTYPED_OUTPUT = pytest.mark.deviates_from_stock("stock lets outputs without a type be referenced")


@pytest.mark.parametrize(("property_schema", "expected"), [*PROPERTIES, ({}, "INVALID")], ids=str)
async def test_only_plain_strings_are_inputs(
    api: Api, property_schema: dict[str, Any], expected: str
) -> None:
    ok(await api.register([declare("In", {"p": property_schema})]))
    assert (await validity(api, place("a", node_name="In", inputs={"p": "x"})))[0] == expected


@pytest.mark.parametrize(
    ("property_schema", "expected"),
    [*PROPERTIES, pytest.param({}, "INVALID", marks=UNTYPED_OUTPUT)],
    ids=str,
)
async def test_only_plain_strings_are_referenced_outputs(
    api: Api, property_schema: dict[str, Any], expected: str
) -> None:
    nodes = [declare("Out", [], {"f": property_schema, "plain": {"type": "string"}}), declare("Ref", ["p"])]
    ok(await api.register(nodes))
    head = place("a", "b", node_name="Out")
    reference = place("b", node_name="Ref", inputs={"p": "${{a.outputs.f}}"})
    assert (await validity(api, head, reference))[0] == expected
    other = place("b", node_name="Ref", inputs={"p": "${{a.outputs.plain}}"})
    assert (await validity(api, head, other))[0] == "VALID"


async def test_every_input_of_the_schema_is_required_even_with_a_default(api: Api) -> None:
    optional = declare("Opt", {"p": {"type": "string", "default": "x"}})
    optional["inputs_schema"]["required"] = []
    ok(await api.register([optional]))
    await check_invalid(api, place("a", node_name="Opt"), named=["p"])


async def test_inputs_that_the_schema_does_not_know_are_accepted(api: Api) -> None:
    ok(await api.register([declare("Bare")]))
    status, _ = await validity(api, place("a", node_name="Bare", inputs={"extra": "x"}))
    assert status == "VALID"


@pytest.mark.parametrize("known_input", [True, False])
async def test_a_reference_to_an_undeclared_output_makes_the_graph_invalid(
    api: Api, known_input: bool
) -> None:
    ok(await api.register([declare("Head", [], ["v"]), declare("Tail", ["p"] if known_input else [])]))
    head = place("a", "b", node_name="Head")
    tail = place("b", node_name="Tail", inputs={"p": "${{a.outputs.nowhere}}"})
    await check_invalid(api, head, tail, named=["nowhere"])


async def test_all_errors_are_collected(api: Api) -> None:
    ok(await api.register([declare("Head", ["needed"], ["v"], ["token"])]))
    places = [place("a", "b", node_name="Head"), place("b", inputs={"p": "${{a.outputs.nowhere}}"})]
    await check_invalid(api, *places, named=["token", "needed", node_name("b")])


async def test_registering_later_does_not_validate_stored_graphs_again(api: Api) -> None:
    flow = await Flow.deploy(api, place("a"))
    ok(await api.register([declare(node_name("a"), ["new_input"])]))
    assert ok(await api.get_graph(flow.graph))["validation_status"] == "VALID"
    ok(await api.trigger(flow.graph))
