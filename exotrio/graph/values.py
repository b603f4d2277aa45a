"""Whether the inputs and the store of a run fit the inputs that are registered for the nodes of its graph.

Used by the state manager, and by what checks many runs before the first one starts. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from exotrio._fields.declared import Declared, quoted, typed_inputs
from exotrio._fields.models import NoneText
from exotrio._util.words import listed, shortened, suggestion
from exotrio.graph.declaration import MAX_NAME, StoreConfigModel
from exotrio.graph.node_model import GraphNodeModel
from exotrio.graph.placeholders import PlaceholderError, StoreRef, parse_placeholders

MAX_PROBLEM = 500
"""Characters that say what is wrong with a value, which may be long lists of choices or of mistakes."""
MAX_SUGGESTIONS = 10
"""Unknown names for which similar ones are searched, of all runs that are checked together."""


class Place(Protocol):
    """A node of a graph."""

    @property
    def identifier(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def node_name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Any]: ...


InputsByKey = Mapping[str, Sequence[tuple[Place, str]]]
"""Store key to the inputs, as (place, name), that are this key and nothing else."""


@dataclass(frozen=True, kw_only=True)
class ValueCheck:
    """The check of the values of runs of one graph.

    Attributes:
        root: Its first node.
        store_keys: The keys of the store that it declares.
        inputs_by_key: Its inputs that are a key of the store.
        typed_inputs: Returns the registered inputs of a place that do not accept every text.
        quote: Returns a value as messages show it.
    """

    graph: str
    root: Place
    store_keys: Collection[str]
    inputs_by_key: InputsByKey
    typed_inputs: Callable[[Place], Mapping[str, Declared]]
    quote: Callable[[str], str] = quoted
    _suggestions: dict[tuple[str, str], str] = field(default_factory=dict, init=False, repr=False)

    def problems(self, inputs: Mapping[str, str], store: Mapping[str, str]) -> Iterator[str]:
        """Yield what is wrong with the inputs and the store of a trigger."""
        for name, text in inputs.items():
            if name not in self.root.inputs:
                yield self._unknown(self._name_of(self.root), "input", name, self.root.inputs)
            elif isinstance(text, NoneText):
                values = self.typed_inputs(self.root).get(name)
                if values is None or not values.is_optional:
                    what = f"input {name!r} of {self._name_of(self.root)} is None"
                    yield f"{what}, which is not one of its values: leave it out, or give one"
            elif problem := self.problem(self.root, name, text):
                yield f"{problem}; it is {self.quote(text)}"
        for key, text in store.items():
            if key not in self.store_keys:
                yield self._unknown(f"graph {self.graph!r}", "store key", key, self.store_keys)
            wrong = (self.problem(place, name, text) for place, name in self.inputs_by_key.get(key, ()))
            if problem := next(filter(None, wrong), None):
                yield f"store key {key!r} does not fit: {problem}; it is {self.quote(text)}"

    def _unknown(self, owner: str, kind: str, name: str, known: Collection[str]) -> str:
        # A list of runs may have thousands of unknown names, and a transaction waits for these texts.
        if (kind, name) not in self._suggestions and len(self._suggestions) < MAX_SUGGESTIONS:
            self._suggestions[kind, name] = suggestion(name, known)
        hint = self._suggestions.get((kind, name), "")
        return f"{owner} has no {kind} {shortened(name, MAX_NAME)!r}; it has: {listed(known)}{hint}"

    def problem(self, place: Place, name: str, text: str) -> str | None:
        """Return what is wrong with the text of an input; None if it fits, or if its type is not known."""
        values = self.typed_inputs(place).get(name)
        problem = None if values is None else values.problem(text)
        return problem and f"input {name!r} of {self._name_of(place)} {shortened(problem, MAX_PROBLEM)}"

    def _name_of(self, place: Place) -> str:
        return f"{place.identifier!r} in graph {self.graph!r}"


def root_of(nodes: Sequence[GraphNodeModel]) -> GraphNodeModel | None:
    """Return the first node of a graph; None if it has none."""
    followers = {name for node in nodes for name in node.next_nodes or ()}
    return next((node for node in nodes if node.identifier not in followers and node.unites is None), None)


def check_of(
    graph: str,
    nodes: Sequence[GraphNodeModel],
    store: StoreConfigModel,
    schemas: Mapping[tuple[str, str], Mapping[str, Any]],
    quote: Callable[[str], str] = quoted,
) -> ValueCheck | None:
    """Return the check of the values of runs of a graph; None if it has no first node.

    Args:
        schemas: Schemas of inputs by (namespace, node); those of others are not known.
        quote: As in ``ValueCheck``.
    """
    root = root_of(nodes)
    if root is None:
        return None
    known = {node: typed_inputs(schema.get("properties")) for node, schema in schemas.items()}
    return ValueCheck(
        graph=graph,
        root=root,
        store_keys=store.known_keys,
        inputs_by_key=inputs_by_key(nodes),
        typed_inputs=lambda place: known.get((place.namespace, place.node_name), {}),
        quote=quote,
    )


def inputs_by_key(nodes: Sequence[GraphNodeModel]) -> InputsByKey:
    """Return the inputs of a graph that are a key of the store and nothing else."""
    by_key: dict[str, list[tuple[Place, str]]] = {}
    for node in nodes:
        for name, text in node.inputs.items():
            with suppress(PlaceholderError):  # such a graph is refused by the state manager
                pieces = parse_placeholders(text) if isinstance(text, str) else ()
                if len(pieces) == 1 and isinstance(pieces[0], StoreRef):
                    by_key.setdefault(pieces[0].key, []).append((node, name))
    return by_key
