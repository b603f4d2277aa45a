"""Graphs that are built, against the same graphs declared by hand and the rules of the state manager."""

from __future__ import annotations

from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from hypothesis import given, reject
from hypothesis import strategies as st

from exotrio import Graph, GraphInvalid, GraphNodeModel, UnitesModel
from exotrio._wire.graphs import GraphBody
from exotrio.graph.references import AddedNode
from exotrio.manager.rules.template import Template
from tests.property.model import Place, Plan, Ref, When
from tests.property.plans import BRANCH, FIELD, branching_plans, familiar_plans, plans, wire_places


def without_waits(plan: Plan) -> Plan:
    """Return a plan whose places all run nodes."""
    return replace(plan, places=tuple(replace(each, event=(), runs_graph=False) for each in plan.places))


def referred_to(place: Place) -> set[str]:
    return {piece.identifier for text in place.inputs.values() for piece in text if isinstance(piece, Ref)}


def built(plan: Plan, explicit: bool) -> Graph:
    """Build a plan; edges that follow from a reference are left out if they need not be ``explicit``."""
    before: dict[str, list[str]] = {place.identifier: [] for place in plan.places}
    for place in plan.places:
        for child in place.next_nodes:
            before[child].append(place.identifier)
    graph = Graph("g", namespace="ns")
    added: dict[str, AddedNode[Any]] = {}
    # A node on a side branch may be referred to as well; what comes first is added first.
    first = {name: {*before[name], *referred_to(plan[name])} for name in before}
    for place in plan.places:
        siblings = {child for each in before[place.identifier] for child in plan[each].next_nodes}
        if place.otherwise:
            first[place.identifier] |= siblings - {place.identifier}
        if place.when is not None:
            first[place.identifier].add(place.when.ref.identifier)
    try:
        order = [*TopologicalSorter(first).static_order()]
    except CycleError:
        reject()  # Two united nodes read each other's members: only a declaration by hand can say that.
    for name in order:
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
        implied = (
            not explicit and place.when is None and len(before[name]) == 1 and before[name][0] in referred
        )
        added[name] = graph.add(
            f"Node_{name}",
            identifier=name,
            when=None if place.when is None else condition(added[place.when.ref.identifier], place.when),
            otherwise=place.otherwise,
            after=[] if implied else [added[each] for each in before[name]],
            unites=added[place.unites] if place.unites else None,
            strategy="ALL_DONE" if place.strategy == "ALL_DONE" else None,
            inputs=inputs,
        )
    return graph


def condition(node: AddedNode[Any], when: When) -> Any:
    return node[BRANCH].is_in(*when.texts) if when.below is None else node[BRANCH] < when.below


def normal(graph: Graph) -> dict[str, Any]:
    """Return the body by identifier: the order of nodes and of edges is not part of what a graph is."""
    body = GraphBody.of(graph).model_dump(mode="json")
    for node in body["nodes"]:
        node["next_nodes"] = sorted(node["next_nodes"] or ())
        node["inputs"] = {name: text.replace(" ", "") for name, text in node["inputs"].items()}
        if "when" in node:
            node["when"]["of"] = node["when"]["of"].replace(" ", "")
    return {**body, "nodes": {node["identifier"]: node for node in body["nodes"]}}


@given((plans() | familiar_plans() | branching_plans()).map(without_waits), st.booleans())
def test_a_built_graph_is_the_one_that_is_declared_by_hand(plan: Plan, explicit: bool) -> None:
    by_hand = [{"namespace": "ns", **place} for place in wire_places(plan)]
    assert normal(built(plan, explicit)) == normal(Graph("g", by_hand))


def by_hand(graph: Graph, after: list[str], refs: set[str], unites: str | None) -> Graph:
    """Return the graph with one more node, whose edges are what ``Graph.add`` says that they are."""
    nodes = {node.identifier: node.model_copy() for node in graph.nodes}
    above: dict[str, set[str]] = {name: set() for name in nodes}
    for _ in nodes:  # as often as the longest path can need it
        for name, node in nodes.items():
            for child in node.next_nodes or ():
                above[child] |= {name} | above[name]
    sources = {each for each in refs if unites is None or unites in above[each]}
    over = set[str]().union(*(above[each] for each in sources))
    for name in after or sorted(sources - over):
        nodes[name].next_nodes = [*(nodes[name].next_nodes or ()), "last"]
    last = GraphNodeModel(
        node_name="N",
        namespace="ns",
        identifier="last",
        inputs={each: f"${{{{ {each}.outputs.v }}}}" for each in refs},
        unites=None if unites is None else UnitesModel(identifier=unites),
    )
    return Graph("g", [*nodes.values(), last])


def is_valid(graph: Graph) -> bool:
    try:
        Template(GraphBody.of(graph))
    except GraphInvalid:
        return False
    return True


@given((plans() | familiar_plans()).map(without_waits), st.data())
def test_a_node_can_be_added_where_the_state_manager_accepts_it_and_nowhere_else(
    plan: Plan, data: st.DataObject
) -> None:
    graph = built(plan, explicit=True)
    added: dict[str, AddedNode[Any]] = {name: AddedNode(node) for name, node in graph._added.items()}
    # What its references are of, and what it unites, is most often what decides.
    name = st.sampled_from(sorted(added))
    after = data.draw(st.lists(name, max_size=2, unique=True), label="after")
    refs = data.draw(st.sets(name, min_size=0 if after else 1, max_size=2), label="references")
    unites = data.draw(name | st.none(), label="unites")
    expected = by_hand(graph, after, refs, unites)
    try:
        graph.add(
            "N",
            identifier="last",
            after=[added[each] for each in after],
            unites=None if unites is None else added[unites],
            inputs={each: str(added[each].v) for each in refs},
        )
    except GraphInvalid:
        assert not is_valid(expected)
    else:
        assert is_valid(graph)
        assert normal(graph) == normal(expected)
