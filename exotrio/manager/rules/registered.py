"""What is registered under a node's name, and whether a graph can run with it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

from exotrio._fields.declared import Declared, typed_inputs
from exotrio.graph import split_name
from exotrio.graph.placeholders import OutputRef
from exotrio.manager.rules.branches import WHEN, never_taken
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


Graphs = Mapping[str, Mapping[str, Any]]


def check_registered(
    template: Template, nodes: Mapping[tuple[str, str], Registered], graphs: Graphs
) -> list[Problem]:
    """Return the first problems that keep ``template`` from running with the registered nodes.

    ``nodes`` has what is registered by (namespace, name), ``graphs`` the outputs of each graph that it runs.
    """
    return first_problems(_problems(template, nodes, graphs))


def _problems(
    template: Template, nodes: Mapping[tuple[str, str], Registered], graphs: Graphs
) -> Iterator[Problem]:
    for place in template.places:
        if (place.namespace, place.node_name) not in nodes:
            name, version = split_name(place.node_name)
            of_version = "" if version is None else f" of version {version!r}"
            text = f"{name!r}{of_version} is not registered in namespace {place.namespace!r}"
            yield Problem(text, place.identifier)
    used = {place.index: nodes.get((place.namespace, place.node_name)) for place in template.places}
    for place in template.places:
        if place.wait is not None and (node := used[place.index]) is not None:
            used[place.index] = replace(node, outputs=place.wait.model.outputs)
        elif place.graph is not None and (node := used[place.index]) is not None:
            used[place.index] = replace(node, outputs=graphs[place.graph.name])
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
        of_place = {f"inputs.{name}": pieces for name, pieces in place.inputs.items()}
        of_place |= {f"limits.{name}": pieces for name, pieces in place.limits.items()}
        if place.wait is not None:
            of_place["waits.event"] = place.wait.event
        for field, pieces in of_place.items():
            for piece in pieces:
                if isinstance(piece, OutputRef) and (wrong := _wrong_output(template, used, piece)):
                    yield Problem(wrong, place.identifier, field)
    for identifier, ref in template.refs.items():
        if isinstance(ref, OutputRef) and (wrong := _wrong_output(template, used, ref)):
            yield Problem(wrong, identifier, WHEN)
    for name, texts in template.outputs.items():
        for piece in chain.from_iterable(texts):
            if isinstance(piece, OutputRef) and (wrong := _wrong_output(template, used, piece)):
                yield Problem(wrong, field=f"outputs.{name}")
    if template.refs:

        def schema_of(ref: OutputRef) -> object:
            place = template[ref.identifier]
            source = used[place.index]
            # Outputs of graphs have types that are not known here.
            return None if source is None or place.graph is not None else source.outputs.get(ref.field)

        yield from never_taken(template.body.nodes, template.refs, schema_of)


def _wrong_output(template: Template, used: Mapping[int, Registered | None], ref: OutputRef) -> str | None:
    """Return why a registered node does not have this output, or not as a string."""
    source = used[template[ref.identifier].index]
    if source is None:
        return f"the node of {ref.identifier!r} is not registered"
    if ref.field not in source.outputs:
        return f"{ref.identifier!r} has no output {ref.field!r}"
    if not _is_plain_string(source.outputs[ref.field]):
        return f"output {ref.field!r} of {ref.identifier!r} is not a string"
    return None


def _is_plain_string(schema: object) -> bool:
    # Registration does not check schemas, so anything may stand here.
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return False
    return not {"enum", "const", "format", "anyOf", "oneOf", "allOf"} & schema.keys()
