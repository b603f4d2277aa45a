"""The rules of the state manager, applied to a file: its own modules, without a database.

Nodes are known from the Runtimes of the Python files that were given. A namespace that none of them
is in may be served by anybody, so its nodes are taken to be whatever the graph needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exotrio._nodes.checks import declare
from exotrio._runtime.runtime import Runtime
from exotrio._wire.graphs import GraphBody
from exotrio.cli.graphs.file import Draft
from exotrio.cli.graphs.problems import Problem
from exotrio.cli.terminal.words import meant
from exotrio.errors import GraphInvalid
from exotrio.manager.rules.placeholders import PlaceholderError, parse_placeholders
from exotrio.manager.rules.registered import Registered, check_registered
from exotrio.manager.rules.template import Template

Nodes = Mapping[tuple[str, str], Registered]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found.

    Attributes:
        problems: Errors and warnings, in the order of their lines.
        unknown: Namespaces whose nodes could not be looked up.
    """

    draft: Draft
    problems: list[Problem]
    unknown: frozenset[str]

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def nodes_of(runtimes: Iterable[Runtime]) -> dict[tuple[str, str], Registered]:
    """Return what would be registered by these Runtimes, by namespace and name."""
    found: dict[tuple[str, str], Registered] = {}
    for runtime in runtimes:
        for node in map(declare, runtime.nodes):
            found[runtime.namespace, node.name] = Registered(
                id=len(found),
                namespace=runtime.namespace,
                name=node.name,
                inputs=node.inputs_schema.get("properties", {}),
                outputs=node.outputs_schema.get("properties", {}),
                secrets=tuple(node.secrets),
            )
    return found


def check_draft(draft: Draft, nodes: Nodes, secrets: Iterable[str] = ()) -> Checked:
    """Check a graph by every rule.

    Args:
        draft: The graph.
        nodes: The nodes that are known.
        secrets: Names of secrets that will be given beside the file.
    """
    problems = list(draft.problems)
    unknown: frozenset[str] = frozenset()
    if draft.body is not None:
        given = {**draft.body.secrets, **dict.fromkeys(secrets, "")}
        body = draft.body.model_copy(update={"secrets": given})
        known = {namespace for namespace, _ in nodes}
        unknown = frozenset(node.namespace for node in body.nodes) - known
        told = dict.fromkeys(_broken_rules(body, nodes, unknown))
        problems += [draft.locator.told(text, body.nodes) for text in told]
    # Those without a line keep their order, at the end.
    problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
    return Checked(draft, problems, unknown)


def _broken_rules(body: GraphBody, nodes: Nodes, unknown: frozenset[str]) -> Iterator[str]:
    yield from body.excess()
    try:
        template = Template(body)
    except GraphInvalid as error:
        yield from error.problems
        # Placeholders come last there; that one cannot be read does not depend on the edges.
        yield from _unreadable_placeholders(body)
        return
    used = {(place.namespace, place.node_name) for place in template.places}
    unseen = {key: _unseen(*key) for key in used if key[0] in unknown}
    hints = {}
    for place in template.places:
        near = [name for namespace, name in nodes if namespace == place.namespace]
        missing = f"{place.node_name!r} is not registered in namespace {place.namespace!r}"
        hints[f"node {place.identifier!r}: {missing}"] = meant(place.node_name, near)
    for text in map(str, check_registered(template, {**nodes, **unseen})):
        yield text + hints.get(text, "")


def _unreadable_placeholders(body: GraphBody) -> Iterator[str]:
    for node in body.nodes:
        for name, text in node.inputs.items():
            try:
                parse_placeholders(text) if isinstance(text, str) else None
            except PlaceholderError as error:
                yield f"node {node.identifier!r}, input {name!r}: {error}"


class _AnyOutputs(dict[str, Any]):
    """Stands for the outputs of a node that was not seen: whatever is asked for is there, as text."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> dict[str, str]:
        return {"type": "string"}


def _unseen(namespace: str, name: str) -> Registered:
    return Registered(id=-1, namespace=namespace, name=name, inputs={}, outputs=_AnyOutputs(), secrets=())
