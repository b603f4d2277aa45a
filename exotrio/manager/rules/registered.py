"""What is registered under a node's name, and whether a graph can run with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from exotrio._fields.declared import Declared, typed_inputs
from exotrio.graph.placeholders import OutputRef
from exotrio.manager.rules.problems import SECRETS, Problem, first_problems
from exotrio.manager.rules.template import Template


@dataclass(frozen=True, kw_only=True)
class Registered:
    """What a graph needs to know of a registered node: inputs and outputs are names with JSON schemas.

    ``required`` names the inputs for which the node has no default; only runs use it. ``digest`` is that of
    its declaration, and ``updated_at`` the time of its last registration.
    """

    id: int
    namespace: str
    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    secrets: tuple[str, ...]
    required: tuple[str, ...] = ()
    digest: str = ""
    updated_at: int = 0

    @cached_property
    def typed_inputs(self) -> dict[str, Declared]:
        """The inputs that do not accept every text."""
        return typed_inputs(self.inputs)


def check_registered(template: Template, nodes: Mapping[tuple[str, str], Registered]) -> list[Problem]:
    """Return the first problems that keep ``template`` from running with the registered nodes.

    ``nodes`` has what is registered by (namespace, name).
    """
    return first_problems(_problems(template, nodes))


def _problems(template: Template, nodes: Mapping[tuple[str, str], Registered]) -> Iterator[Problem]:
    for place in template.places:
        if (place.namespace, place.node_name) not in nodes:
            text = f"{place.node_name!r} is not registered in namespace {place.namespace!r}"
            yield Problem(text, place.identifier)
    used = {place.index: nodes.get((place.namespace, place.node_name)) for place in template.places}
    for place in template.places:
        if place.wait is not None and (node := used[place.index]) is not None:
            used[place.index] = replace(node, outputs=place.wait.model.outputs)
    needed_by = {name: node.name for node in used.values() if node for name in node.secrets}
    for name in needed_by:
        if name not in template.body.secrets:
            yield Problem(f"{name!r}, which node {needed_by[name]!r} needs, is missing", field=SECRETS)
    for place in template.places:
        node = used[place.index]
        for name, schema in node.inputs.items() if node else ():
            where = (place.identifier, f"inputs.{name}")
            if not _is_plain_string(schema):
                yield Problem(f"{place.node_name!r} has an input of this name that is not a string", *where)
            if name not in place.inputs:
                yield Problem("it is missing", *where)
    for place in template.places:
        for name, pieces in place.inputs.items():
            for piece in pieces:
                if isinstance(piece, OutputRef):
                    source = used[template[piece.identifier].index]
                    where = (place.identifier, f"inputs.{name}")
                    if source is None:
                        yield Problem(f"the node of {piece.identifier!r} is not registered", *where)
                    elif piece.field not in source.outputs:
                        yield Problem(f"{piece.identifier!r} has no output {piece.field!r}", *where)
                    elif not _is_plain_string(source.outputs[piece.field]):
                        text = f"output {piece.field!r} of {piece.identifier!r} is not a string"
                        yield Problem(text, *where)


def _is_plain_string(schema: object) -> bool:
    # Registration does not check schemas, so anything may stand here.
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return False
    return not {"enum", "const", "format", "anyOf", "oneOf", "allOf"} & schema.keys()
