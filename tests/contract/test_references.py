"""Sections 4.2 and 4.3: the placeholder grammar, and who may reference and unite whom."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.api import Api
from tests.contract.flow import Flow, put, validity
from tests.support.helpers import ok, place, refused

Place = dict[str, Any]


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
    response = await put(api, place("a", "b"), place("b", inputs={"p": text}), store_config=store)
    if accepted:
        ok(response, 201)
    else:
        refused(response, 400)


async def test_an_empty_field_passes_the_grammar_and_fails_later(api: Api) -> None:
    places = [place("a", "b"), place("b", inputs={"p": "${{a.outputs.}}"})]
    await api.register_for(places)
    assert (await validity(api, *places))[0] == "INVALID"


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
    ok(await put(api, *_with(places, identifier, referenced)), 201)


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
    ok(await put(api, *_with(places, identifier, referenced)), 201)


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
    assert referenced in refused(await put(api, *_with(places, identifier, referenced)), 400)


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
    refused(await put(api, *places), 400)


async def test_the_order_of_next_nodes_does_not_matter(api: Api) -> None:
    nodes = [place("b", "u"), place("u", "z", unites="t"), place("z"), place("t", "c", "b"), place("c", "b")]
    for following in (["t"], ["t", "x"], ["x", "t"]):
        ok(await put(api, place("a", *following), *nodes, *([place("x")] if "x" in following else [])), 201)


@pytest.mark.parametrize("places", [CHAIN, DIAMOND, NESTED, TWO_UNITERS])
async def test_graphs_in_any_order_of_nodes_are_accepted(api: Api, places: list[Place]) -> None:
    await Flow.deploy(api, *places)
    await Flow.deploy(api, *reversed(places))
