"""Graphs that are built, against the same graphs declared by hand and the rules of the state manager."""

from __future__ import annotations

from graphlib import TopologicalSorter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from exotrio import Graph, GraphInvalid, GraphNodeModel, UnitesModel
from exotrio._wire.graphs import GraphBody
from exotrio.graph.references import AddedNode
from exotrio.manager.rules.template import Template
from tests.property.model import Place, Plan, Ref
from tests.property.plans import FIELD, familiar_plans, plans, wire_places

Steps = list[tuple[set[int], set[int], int | None]]
"""For each node the earlier ones that it is added after and that it refers to, and one that it unites."""


def referred_to(place: Place) -> set[str]:
    return {piece.identifier for text in place.inputs.values() for piece in text if isinstance(piece, Ref)}


def built(plan: Plan, explicit: bool) -> Graph:
    """Build a plan; edges that follow from a reference are left out if they need not be ``explicit``."""
    before: dict[str, list[str]] = {place.identifier: [] for place in plan.places}
    for place in plan.places:
        for child in place.next_nodes:
            before[child].append(place.identifier)
    graph = Graph("g", namespace="ns")
    added: dict[str, AddedNode] = {}
    # A node on a side branch may be referred to as well; what comes first is added first.
    first = {name: {*before[name], *referred_to(plan[name])} for name in before}
    for name in TopologicalSorter(first).static_order():
        place = plan[name]
        referred = referred_to(place)
        inputs: dict[str, object] = {
            field: "".join(
                piece if isinstance(piece, str) else f"{added[piece.identifier][piece.field]}"
                for piece in text
            )
            for field, text in place.inputs.items()
        }
        if "g" in inputs:
            (piece,) = place.inputs["g"]
            assert isinstance(piece, Ref)
            inputs["g"] = added[piece.identifier].every[FIELD]
        # Of several, one may come before another.
        implied = not explicit and len(before[name]) == 1 and before[name][0] in referred
        added[name] = graph.add(
            f"Node_{name}",
            identifier=name,
            after=[] if implied else [added[each] for each in before[name]],
            unites=added[place.unites] if place.unites else None,
            strategy="ALL_DONE" if place.strategy == "ALL_DONE" else None,
            inputs=inputs,
        )
    return graph


def normal(graph: Graph) -> dict[str, Any]:
    """Return the body by identifier: the order of nodes and of edges is not part of what a graph is."""
    body = GraphBody.of(graph).model_dump(mode="json")
    for node in body["nodes"]:
        node["next_nodes"] = sorted(node["next_nodes"] or ())
        node["inputs"] = {name: text.replace(" ", "") for name, text in node["inputs"].items()}
    return {**body, "nodes": {node["identifier"]: node for node in body["nodes"]}}


@given(plans() | familiar_plans(), st.booleans())
def test_a_built_graph_is_the_one_that_is_declared_by_hand(plan: Plan, explicit: bool) -> None:
    by_hand = [{"namespace": "ns", **place} for place in wire_places(plan)]
    assert normal(built(plan, explicit)) == normal(Graph("g", by_hand))


@st.composite
def steps(draw: st.DrawFn) -> Steps:
    some = []
    for number in range(1, draw(st.integers(2, 8))):
        earlier = st.integers(0, number - 1)
        few = st.sets(earlier, max_size=2)
        some.append((draw(few), draw(few), draw(st.none() | earlier)))
    return some


def by_hand(
    nodes: list[GraphNodeModel], number: int, after: set[int], refs: set[int], unites: int | None
) -> Graph:
    """Return the graph of ``nodes`` with one more, whose edges are what the guide says that they are."""
    nodes = [node.model_copy() for node in nodes]
    above: list[set[int]] = []
    for each in range(number):
        direct = {other for other in range(each) if f"n{each}" in (nodes[other].next_nodes or ())}
        above.append(direct.union(*(above[other] for other in direct)))
    sources = refs if unites is None else {each for each in refs if unites in above[each]}
    over = set[int]().union(*(above[each] for each in sources))
    for each in after or sources - over:
        nodes[each].next_nodes = [*(nodes[each].next_nodes or ()), f"n{number}"]
    nodes.append(
        GraphNodeModel(
            node_name="N",
            namespace="ns",
            identifier=f"n{number}",
            inputs={f"r{each}": f"${{{{ n{each}.outputs.v }}}}" for each in refs},
            unites=None if unites is None else UnitesModel(identifier=f"n{unites}"),
        )
    )
    return Graph("g", nodes)


def is_valid(graph: Graph) -> bool:
    try:
        Template(GraphBody.of(graph))
    except GraphInvalid:
        return False
    return True


@given(steps())
def test_a_node_can_be_added_where_the_state_manager_accepts_it_and_nowhere_else(some: Steps) -> None:
    graph = Graph("g", namespace="ns")
    added = [graph.add("N", identifier="n0")]
    for drawn in some:
        number = len(added)  # those that were refused have no number
        after, refs = ({each % number for each in numbers} for numbers in drawn[:2])
        unites = None if drawn[2] is None else drawn[2] % number
        wanted = by_hand(graph.nodes, number, after, refs, unites)
        try:
            node = graph.add(
                "N",
                identifier=f"n{number}",
                after=[added[each] for each in after],
                unites=None if unites is None else added[unites],
                inputs={f"r{each}": f"{added[each].v}" for each in refs},
            )
        except GraphInvalid:
            assert not is_valid(wanted)
            continue
        added.append(node)
        assert is_valid(graph)
        assert normal(graph) == normal(wanted)
