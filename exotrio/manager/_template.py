"""Graph templates: the rules a graph must obey, and the compiled form the engine works with.

Pure: no database, no clock. Theory of operation:

* A state's **chain** is the list of its ancestors' states. A plain node's state hangs below the
  state that created it; a united node's state hangs below the state ``t`` of its target ``T``, as
  if the branches between them did not exist.
* ``ancestors`` of a place are the identifiers on *every* chain that can lead to it: the only ones
  a placeholder may name.
* The **group** of a united node U and a state t is every state with t in its chain whose place is
  in U's **region**: what lies below T, without U and what follows it, and without the other
  nodes that unite T (and what follows them) unless they precede U.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from exotrio._errors import GraphInvalid
from exotrio._graph import GraphBody, GraphNodeModel, UnitesStrategyEnum


@dataclass(frozen=True, slots=True)
class OutputRef:
    """``${{ identifier.outputs.field }}``"""

    identifier: str
    field: str


@dataclass(frozen=True, slots=True)
class StoreRef:
    """``${{ store.key }}``"""

    key: str


Piece = str | OutputRef | StoreRef


class PlaceholderError(ValueError):
    """A text with ``${{`` that does not follow the grammar."""


def parse_placeholders(text: str) -> tuple[Piece, ...]:
    """Split ``text`` into literal pieces and references.

    There is no escape: every ``${{`` opens a placeholder, which ends at the next ``}}``.

    Raises:
        PlaceholderError: a placeholder is not closed or is neither form.
    """
    literal, *rest = text.split("${{")
    pieces: list[Piece] = [literal] if literal else []
    for part in rest:
        content, closed, literal = part.partition("}}")
        if not closed:
            raise PlaceholderError("'${{' is not closed by '}}'")
        pieces.append(_reference(content))
        if literal:
            pieces.append(literal)
    return tuple(pieces)


def _reference(content: str) -> OutputRef | StoreRef:
    parts = [part.strip() for part in content.split(".")]
    if parts[0] == "store" and (len(parts) == 2 or (len(parts) == 3 and parts[1] == "outputs")):
        return StoreRef(parts[-1])
    if len(parts) == 3 and parts[1] == "outputs":
        return OutputRef(parts[0], parts[2])
    raise PlaceholderError(
        f"'${{{{{content}}}}}' is neither '${{{{ identifier.outputs.field }}}}' nor '${{{{ store.key }}}}'"
    )


@dataclass(frozen=True, slots=True)
class Place:
    """One node of a graph, compiled.

    Attributes:
        index: Its position in the template; states refer to it by this number.
        inputs: Input name to pieces.
        raw_inputs: Input name to text, as declared.
        next: Places that follow as plain nodes (not through ``unites``).
        ancestors: Identifiers on every chain leading here.
        target: Whether some place unites this one.
    """

    index: int
    identifier: str
    node_name: str
    namespace: str
    inputs: Mapping[str, tuple[Piece, ...]]
    raw_inputs: Mapping[str, str]
    next: tuple[int, ...]
    ancestors: frozenset[str]
    target: bool


@dataclass(frozen=True, slots=True)
class Unite:
    """One united node, compiled.

    Attributes:
        place: The united node.
        target: The place it unites.
        region: Places whose states belong to its groups.
        predecessors: Places with an edge to it; a SUCCESS there is a member that reached it.
        aggregated: Places of the region it reads outputs of, as a list over the group.
        rank: Decide groups in this order: inner ones first, since firing one may keep an
            outer group waiting.
    """

    place: int
    target: int
    strategy: UnitesStrategyEnum
    region: frozenset[int]
    predecessors: tuple[int, ...]
    aggregated: frozenset[int]
    rank: tuple[int, int]


class Template:
    """A graph that passed every rule.

    Args:
        body: The declaration; kept, since runs pin it.

    Raises:
        GraphInvalid: a whole-graph rule is broken; ``problems`` names each of the first failing
            group of rules.
    """

    def __init__(self, body: GraphBody) -> None:
        self.body = body
        shape = _Shape(body.nodes)
        shape.check()
        pieces = _check_inputs(body, shape)
        targets = {node.unites.identifier for node in body.nodes if node.unites}
        self.places = tuple(
            Place(
                index=index,
                identifier=node.identifier,
                node_name=node.node_name,
                namespace=node.namespace,
                inputs=pieces[node.identifier],
                raw_inputs=node.inputs,
                next=tuple(
                    shape.index[child] for child in node.next_nodes or () if not shape.nodes[child].unites
                ),
                ancestors=shape.ancestors[node.identifier],
                target=node.identifier in targets,
            )
            for index, node in enumerate(body.nodes)
        )
        self.root = self.places[shape.index[shape.root]]
        self._by_identifier = shape.index
        self.uniters = self._compile_unites(shape)

    def __getitem__(self, identifier: str) -> Place:
        return self.places[self._by_identifier[identifier]]

    def _compile_unites(self, shape: _Shape) -> dict[int, tuple[Unite, ...]]:
        """Map each target's index to what unites it, in the order of deciding."""
        uniters: dict[int, list[Unite]] = {}
        for order, identifier in enumerate(shape.order):
            node = shape.nodes[identifier]
            if node.unites is None:
                continue
            region = shape.region(identifier)
            place = self[identifier]
            target = self[node.unites.identifier]
            uniters.setdefault(target.index, []).append(
                Unite(
                    place=place.index,
                    target=target.index,
                    strategy=node.unites.strategy,
                    region=frozenset(shape.index[member] for member in region),
                    predecessors=tuple(shape.index[name] for name in shape.predecessors[identifier]),
                    aggregated=frozenset(
                        shape.index[piece.identifier]
                        for pieces in place.inputs.values()
                        for piece in pieces
                        if isinstance(piece, OutputRef) and piece.identifier in region
                    ),
                    rank=(-len(target.ancestors), order),
                )
            )
        return {target: tuple(unites) for target, unites in uniters.items()}

    @cached_property
    def aggregated(self) -> dict[int, frozenset[int]]:
        """Target index to the places whose successes must be findable by group."""
        return {
            target: frozenset(index for unite in unites for index in unite.aggregated)
            for target, unites in self.uniters.items()
        }


class _Shape:
    """Edges of a graph and what follows from them, by identifier."""

    def __init__(self, nodes: list[GraphNodeModel]) -> None:
        self.declared = nodes
        self.nodes = {node.identifier: node for node in nodes}
        self.index = {node.identifier: index for index, node in enumerate(nodes)}
        self.predecessors: dict[str, list[str]] = {name: [] for name in self.nodes}
        self.root = ""
        self.order: list[str] = []
        self.ancestors: dict[str, frozenset[str]] = {}
        self.possible_ancestors: dict[str, frozenset[str]] = {}
        # Sets of nodes as bits by index: regions subtract them for every pair of united nodes.
        self._bit = {name: 1 << index for name, index in self.index.items()}
        self._descendants: dict[str, int] = {}

    def check(self) -> None:
        """Check the groups of rules in their order and derive order and ancestors."""
        _refuse("the nodes of the graph do not fit together", self._wrong_names())
        for node in self.declared:
            for child in node.next_nodes or ():
                self.predecessors[child].append(node.identifier)
        _refuse("a united node has a wrong target", self._wrong_targets())
        _refuse("the graph is not connected", self._unconnected())
        _refuse("the graph has a cycle", self._cycles())
        self.order, waiting = _topological(self.nodes, self._dependencies)
        _refuse(
            "the graph is not connected",
            [f"united nodes wait for each other, so none is ever reached: {', '.join(sorted(waiting))}"]
            if waiting
            else [],
        )
        self._derive_ancestors()
        self._derive_descendants()
        _refuse("a united node cannot be reached from its target", self._unreachable_unites())

    def below(self, identifier: str) -> set[str]:
        """Return what follows ``identifier`` along edges, without itself."""
        found: set[str] = set()
        waiting = [identifier]
        while waiting:
            for child in self.nodes[waiting.pop()].next_nodes or ():
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def region(self, united: str) -> frozenset[str]:
        """Return the identifiers whose states make up the groups of ``united``."""
        unites = self.nodes[united].unites
        assert unites is not None
        target = unites.identifier
        region = self._descendants[target] & ~(self._bit[united] | self._descendants[united])
        for other, node in self.nodes.items():
            if other != united and node.unites and node.unites.identifier == target:
                after_other = self._descendants[other]
                if not self._bit[united] & after_other:
                    region &= ~(self._bit[other] | after_other)
        return frozenset(
            name
            for name, bit in self._bit.items()
            if region & bit and target in self.possible_ancestors[name]
        )

    def _dependencies(self, identifier: str) -> list[str]:
        unites = self.nodes[identifier].unites
        return self.predecessors[identifier] + ([unites.identifier] if unites else [])

    def _wrong_names(self) -> list[str]:
        uses = Counter(node.identifier for node in self.declared)
        problems = [f"identifier {name!r} is used {uses[name]} times" for name in uses if uses[name] > 1]
        problems += [
            f"node {node.identifier!r}: next node {child!r} is no identifier of this graph"
            for node in self.declared
            for child in node.next_nodes or ()
            if child not in self.nodes
        ]
        return problems

    def _wrong_targets(self) -> list[str]:
        problems = []
        for node in self.declared:
            if node.unites is None:
                continue
            if node.unites.identifier not in self.nodes:
                problems.append(
                    f"node {node.identifier!r}: unites {node.unites.identifier!r}, which this graph lacks"
                )
            elif node.unites.identifier == node.identifier:
                problems.append(f"node {node.identifier!r} unites itself")
        return problems

    def _unconnected(self) -> list[str]:
        roots = [name for name, node in self.nodes.items() if not self.predecessors[name] and not node.unites]
        if len(roots) != 1:
            named = f": {', '.join(roots)}" if roots else ""
            return [f"a graph has one root, a node that nothing leads to; this one has {len(roots)}{named}"]
        self.root = roots[0]
        reached = self.below(self.root) | {self.root}
        return [
            f"node {name!r} is not reached from the root {self.root!r} by next_nodes"
            for name in self.nodes
            if name not in reached
        ]

    def _cycles(self) -> list[str]:
        _, waiting = _topological(self.nodes, lambda name: self.predecessors[name])
        return (
            [f"node {name!r} lies on a path to itself" for name in self.nodes if name in self.below(name)]
            if waiting
            else []
        )

    def _derive_ancestors(self) -> None:
        for name in self.order:
            node = self.nodes[name]
            above = [node.unites.identifier] if node.unites else self.predecessors[name]
            certain = [self.ancestors[parent] | {parent} for parent in above]
            possible = [self.possible_ancestors[parent] | {parent} for parent in above]
            self.ancestors[name] = frozenset.intersection(*certain) if certain else frozenset()
            self.possible_ancestors[name] = frozenset().union(*possible)

    def _derive_descendants(self) -> None:
        for name in reversed(self.order):
            below = 0
            for child in self.nodes[name].next_nodes or ():
                below |= self._bit[child] | self._descendants[child]
            self._descendants[name] = below

    def _unreachable_unites(self) -> list[str]:
        return [
            f"node {name!r} unites {node.unites.identifier!r}, but its predecessor {parent!r} does not "
            f"always come after {node.unites.identifier!r}: unite an ancestor of every predecessor"
            for name, node in self.nodes.items()
            if node.unites
            for parent in self.predecessors[name]
            if node.unites.identifier not in self.ancestors[parent]
        ]


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        raise GraphInvalid(what, problems)


def _topological(names: Iterable[str], before: Callable[[str], list[str]]) -> tuple[list[str], set[str]]:
    """Return the names in an order that respects ``before``, and those left on cycles."""
    waiting = {name: set(before(name)) for name in names}
    after: dict[str, list[str]] = {name: [] for name in waiting}
    for name, parents in waiting.items():
        for parent in parents:
            after[parent].append(name)
    ready = [name for name, parents in waiting.items() if not parents]
    order: list[str] = []
    while ready:
        name = ready.pop(0)
        order.append(name)
        del waiting[name]
        for child in after[name]:
            waiting[child].discard(name)
            if not waiting[child]:
                ready.append(child)
    return order, set(waiting)


def _check_inputs(body: GraphBody, shape: _Shape) -> dict[str, dict[str, tuple[Piece, ...]]]:
    """Parse every input and check what its placeholders refer to."""
    store_keys = {*body.store_config.required_keys, *body.store_config.default_values}
    problems: list[str] = []
    parsed: dict[str, dict[str, tuple[Piece, ...]]] = {}
    for node in body.nodes:
        allowed = shape.ancestors[node.identifier] | (
            shape.region(node.identifier) if node.unites else frozenset()
        )
        parsed[node.identifier] = {}
        for name, text in node.inputs.items():
            place = f"node {node.identifier!r}, input {name!r}"
            if not isinstance(text, str):
                problems.append(f"{place}: must be a string, not {type(text).__name__}")
                continue
            try:
                pieces = parse_placeholders(text)
            except PlaceholderError as error:
                problems.append(f"{place}: {error}")
                continue
            parsed[node.identifier][name] = pieces
            for piece in pieces:
                if isinstance(piece, OutputRef) and piece.identifier not in allowed:
                    problems.append(
                        f"{place}: {piece.identifier!r} is not before {node.identifier!r} on every path"
                    )
                elif isinstance(piece, StoreRef) and piece.key not in store_keys:
                    problems.append(
                        f"{place}: store key {piece.key!r} is neither in required_keys nor in default_values"
                    )
    _refuse("an input of the graph cannot be built", problems)
    return parsed


@dataclass(frozen=True, slots=True)
class Registered:
    """What a graph needs to know of a registered node.

    Attributes:
        id: The node's number in the database; states refer to it.
        inputs: Input name to its JSON schema.
        outputs: Output name to its JSON schema.
    """

    id: int
    namespace: str
    name: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    secrets: tuple[str, ...]


def check_registered(template: Template, nodes: Mapping[tuple[str, str], Registered]) -> list[str]:
    """Return what keeps ``template`` from running with the registered nodes, empty if nothing does.

    Args:
        template: The graph.
        nodes: (namespace, name) to what is registered, as far as it is.
    """
    problems = [
        f"node {place.identifier!r}: {place.node_name!r} is not registered in namespace {place.namespace!r}"
        for place in template.places
        if (place.namespace, place.node_name) not in nodes
    ]
    used = {place.index: nodes.get((place.namespace, place.node_name)) for place in template.places}
    wanted = {name: node.name for node in used.values() if node for name in node.secrets}
    problems += [
        f"secret {name!r}, which node {wanted[name]!r} needs, is missing in the graph's secrets"
        for name in wanted
        if name not in template.body.secrets
    ]
    for place in template.places:
        node = used[place.index]
        for name, schema in node.inputs.items() if node else ():
            if not _is_plain_string(schema):
                problems.append(f"node {place.identifier!r}: input {name!r} of {node.name!r} is not a string")  # type: ignore[union-attr]
            if name not in place.inputs:
                problems.append(f"node {place.identifier!r}: input {name!r} is missing")
    for place in template.places:
        for name, pieces in place.inputs.items():
            for piece in pieces:
                if isinstance(piece, OutputRef):
                    source = used[template[piece.identifier].index]
                    where = f"node {place.identifier!r}, input {name!r}: "
                    if source is None:
                        problems.append(f"{where}the node of {piece.identifier!r} is not registered")
                    elif piece.field not in source.outputs:
                        problems.append(f"{where}{piece.identifier!r} has no output {piece.field!r}")
                    elif not _is_plain_string(source.outputs[piece.field]):
                        problems.append(
                            f"{where}output {piece.field!r} of {piece.identifier!r} is not a string"
                        )
    return problems


def _is_plain_string(schema: object) -> bool:
    # Registration does not check schemas, so anything may stand here.
    if not isinstance(schema, Mapping) or schema.get("type") != "string":
        return False
    return not {"enum", "const", "format", "anyOf", "oneOf", "allOf"} & schema.keys()
