"""Places that run a graph: what ``Graph.add`` checks of the other graph."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from exotrio._util.words import listed, shortened, suggestion
from exotrio.graph.conditions import UNKNOWN
from exotrio.graph.declaration import MAX_NAME, StoreConfigModel
from exotrio.graph.node_model import GraphNodeModel
from exotrio.graph.parts import GraphParts
from exotrio.graph.values import root_of


def outputs_of(child: GraphParts, nodes: Sequence[GraphNodeModel]) -> Mapping[str, Any] | None:
    """Return the types of the outputs of a graph; None if only its name is known."""
    return {name: child._types.get(name, UNKNOWN) for name in child.outputs} if nodes else None


def input_problems(
    child: GraphParts, nodes: Sequence[GraphNodeModel], given: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong with the names of what a graph is given: keys of its store, and inputs of its first
    node. Of one without nodes only the name is known."""
    if (root := root_of(nodes)) is not None:
        for problem, _ in given_problems(child.name, child.store_config, root.inputs, given):
            yield problem


def given_problems(
    child: str, store: StoreConfigModel, inputs: Iterable[str], given: Collection[str]
) -> Iterator[tuple[str, str | None]]:
    """Yield what is wrong with the names that a graph is given, each with the wrong name; None if one is
    missing. ``store`` and ``inputs`` are what it takes: its store, and the inputs of its first node."""
    known = list(dict.fromkeys((*store.known_keys, *inputs)))
    for name in given:
        if name not in known:
            hint = suggestion(name, known) or f": it takes {listed(known)}"
            shown = shortened(name, MAX_NAME)
            yield f"neither the store of graph {child!r} nor its first node has {shown!r}{hint}", name
    for key in store.required_keys:
        if key not in given:
            yield f"store key {key!r} of graph {child!r} is missing", None
