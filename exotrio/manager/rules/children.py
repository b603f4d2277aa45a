"""Whether places that run graphs fit these graphs, and which inputs and store their runs get. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from exotrio._util.words import shortened
from exotrio.graph import MAX_NAME
from exotrio.graph.children import given_problems
from exotrio.manager.rules.edges import Shape
from exotrio.manager.rules.problems import Problem
from exotrio.manager.rules.template import Place, Template


def child_problems(name: str, template: Template, graphs: Mapping[str, Template]) -> Iterator[Problem]:
    """Yield what keeps places of a graph from running other graphs; ``graphs`` has those that are stored."""
    for place in template.places:
        if place.graph is None:
            continue
        if place.graph.name == name:
            yield from _given_problems(place, template)
        elif (child := graphs.get(place.graph.name)) is None:
            shown = shortened(place.graph.name, MAX_NAME)
            yield Problem(
                f"there is no graph {shown!r} in this namespace: store that first", place.identifier
            )
        else:
            yield from _given_problems(place, child)
    if name in template.graphs:
        shape = Shape(template.body.nodes)
        shape.check()
        certain = _certain(shape)
        for place in template.places:
            if place.graph is not None and place.graph.name == name and place.identifier in certain:
                text = "the graph would run itself without an end: give a condition to it, or before it"
                yield Problem(text, place.identifier)


def divided(given: Mapping[str, str], child: Template) -> tuple[dict[str, str], dict[str, str]]:
    """Return which of the values that a run is given are inputs of its first node, and its store."""
    keys = child.body.store_config.known_keys
    store = {name: text for name, text in given.items() if name in keys}
    return {name: text for name, text in given.items() if name not in keys}, store


def _given_problems(place: Place, child: Template) -> Iterator[Problem]:
    assert place.graph is not None
    store, inputs = child.body.store_config, child.root.inputs
    for text, name in given_problems(place.graph.name, store, inputs, place.inputs):
        yield Problem(text, place.identifier, name and f"inputs.{shortened(name, MAX_NAME)}")


def _certain(shape: Shape) -> set[str]:
    """Return the nodes that run whatever the nodes before them return."""
    certain: set[str] = set()
    for name in shape.order:
        node, before = shape.nodes[name], shape.predecessors[name]
        if node.when is None and not node.otherwise and (not before or any(one in certain for one in before)):
            certain.add(name)
    return certain
