"""Places that run a graph: what ``Graph.add`` checks of the other graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from exotrio._util.words import listed, suggestion
from exotrio.graph.conditions import UNKNOWN
from exotrio.graph.node_model import GraphNodeModel, RunGraphModel
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
    root = root_of(nodes)
    if root is None:
        return
    known = list(dict.fromkeys((*child.store_config.known_keys, *root.inputs)))
    for name in given:
        if name not in known:
            hint = suggestion(name, known) or f": it takes {listed(known)}"
            yield f"neither the store of graph {child.name!r} nor its first node has {name!r}{hint}"
    for key in child.store_config.required_keys:
        if key not in given:
            yield f"store key {key!r} of graph {child.name!r} is missing"


def runs_graph(child: GraphParts, max_rounds: object) -> RunGraphModel:
    """Return what the place declares; raise ValidationError if ``max_rounds`` is not a number of rounds."""
    return RunGraphModel.model_validate({"name": child.name, "max_rounds": max_rounds})
