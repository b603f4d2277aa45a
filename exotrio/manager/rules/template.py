"""Graph templates: the rules a graph must obey, and the compiled form the engine works with.

Pure: no database, no clock. Theory of operation:

* A state's **chain** is the list of its ancestors' states. A plain node's state hangs below the
  state that created it; a united node's state hangs below the state ``t`` of its target ``T``, as
  if the branches between them did not exist.
* ``ancestors`` of a place are the identifiers on *every* chain that can lead to it. A placeholder may
  name only these.
* The **group** of a united node U and a state t is every state with t in its chain whose place is
  in U's **region**: what lies below T, without U and what follows it, and without the other
  nodes that unite T (and what follows them) unless they precede U. U also waits for what may still
  bring about a state of that group: for the groups of united nodes in the region. None of these
  waits for U: it unites a place that is below T in a chain, or it unites T, too, and precedes U.
* An edge may have a condition (``branches``), which reads values of the chain. One that is not taken
  creates no state, so no group waits for it. If t itself creates none, its groups are complete at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

from exotrio._fields.declared import Declared, typed_inputs
from exotrio._util.words import shortened
from exotrio._wire.graphs import GraphBody
from exotrio.graph import (
    MAX_NAME,
    GraphNodeModel,
    RetryPolicyModel,
    RunGraphModel,
    UnitesStrategyEnum,
    WaitModel,
    split_name,
)
from exotrio.graph.placeholders import OutputRef, Piece, PlaceholderError, StoreRef, parse_placeholders
from exotrio.graph.values import InputsByKey, inputs_by_key
from exotrio.manager.rules.branches import WHEN, Branches, When, branch_problems
from exotrio.manager.rules.edges import Shape
from exotrio.manager.rules.problems import Problem, refuse

_NO_RETRY = RetryPolicyModel(max_retries=0)


@dataclass(frozen=True, kw_only=True)
class Wait:
    """The event that a place waits for, compiled; ``event`` is its name."""

    model: WaitModel
    event: tuple[Piece, ...]

    @cached_property
    def typed_outputs(self) -> dict[str, Declared]:
        """The outputs that do not accept every text."""
        return typed_inputs(self.model.outputs)

    @cached_property
    def defaults(self) -> dict[str, str]:
        """The texts of outputs that an event need not have."""
        fields = self.model.outputs.items()
        return {name: schema["default"] for name, schema in fields if "default" in schema}

    def may_wait_for(self, name: str) -> bool:
        """Whether an event of this name may be the one: it has the texts around the references, in their
        order."""
        # Not by a pattern: that would try all ways in which the references can share the name, for days.
        at, last = 0, len(self.event) - 1
        for number, piece in enumerate(self.event):
            if isinstance(piece, str):
                ends = len(name) - len(piece) if name.endswith(piece) else -1
                found = ends if number == last else name.find(piece, at)
                if found < at or (number == 0 and found > 0):
                    return False
                at = found + len(piece)
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One node of a graph, compiled.

    Attributes:
        index: Its position in the template; states refer to it by this number.
        raw_inputs: Input name to text, as declared.
        next: Places that follow as plain nodes (not through ``unites``).
        branches: Which of these follow only under conditions; None if none does.
        ancestors: Identifiers on every chain leading here.
        names: Identifiers that its inputs, the keys of its limits, and its condition refer to.
        keys: Store keys that they name.
        target: Whether some place unites this one.
        timeout_ms: Maximum of milliseconds for one execution, or None.
        overrides: Whether that replaces the ``timeout`` of the node's class, instead of the smaller counting.
        retry_policy: Its own one, or that of the graph; none if it runs a graph, whose nodes were retried.
        limits: The names of the limits that its states take part in, each with its key.
        wait: The event that it waits for; None if it waits for none.
        graph: The graph that it runs; None if it runs none.
    """

    index: int
    identifier: str
    node_name: str
    namespace: str
    inputs: Mapping[str, tuple[Piece, ...]]
    raw_inputs: Mapping[str, str]
    next: tuple[int, ...]
    branches: Branches | None
    ancestors: frozenset[str]
    names: frozenset[str]
    keys: frozenset[str]
    target: bool
    timeout_ms: int | None
    overrides: bool
    retry_policy: RetryPolicyModel
    limits: Mapping[str, tuple[Piece, ...]]
    wait: Wait | None = None
    graph: RunGraphModel | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unite:
    """One united node, compiled.

    Attributes:
        place: The united node; ``target`` is the place it unites.
        region: Places whose states belong to its groups.
        waits_for: Places of which no state may be pending: its region, and what the united nodes of that
            wait for, as these may still be created.
        predecessors: Places with an edge to it; a SUCCESS there is a member that reached it.
        aggregated: Places of the region it reads outputs of, as a list over the group.
        rank: Decide groups in this order: inner ones first, since firing one may keep an
            outer group waiting.
    """

    place: int
    target: int
    strategy: UnitesStrategyEnum
    region: frozenset[int]
    waits_for: frozenset[int]
    predecessors: tuple[int, ...]
    aggregated: frozenset[int]
    rank: tuple[int, int]


class Template:
    """A graph that passed every rule. The declaration is kept, since runs pin it.

    Raises:
        RulesBroken: with each problem of the first group of rules that fails.
    """

    def __init__(self, body: GraphBody) -> None:
        self.body = body
        shape = Shape(body.nodes)
        shape.check()
        texts: dict[str, dict[str, dict[str, tuple[Piece, ...]]]] = {}
        self.refs: dict[str, OutputRef | StoreRef] = {}
        """What the conditions of nodes compare."""
        refuse("an input of the graph cannot be built", _parse_texts(body, shape, texts, self.refs))
        refuse("a branch of the graph is wrong", branch_problems(shape))
        self.outputs: dict[str, tuple[tuple[Piece, ...], ...]] = {}
        """The values of each output, of which the first that can be built counts."""
        refuse("an output of the graph cannot be built", self._parse_outputs(shape))
        self.graphs: frozenset[str] = frozenset(node.graph.name for node in body.nodes if node.graph)
        """The graphs that it runs."""
        targets = {node.unites.identifier for node in body.nodes if node.unites}
        used = {
            name: [*_pieces(*texts[name].values()), *filter(None, [self.refs.get(name)])]
            for name in shape.nodes
        }
        self.places: tuple[Place, ...] = tuple(
            Place(
                index=index,
                identifier=node.identifier,
                node_name=node.node_name,
                namespace=node.namespace,
                inputs=texts[node.identifier]["inputs"],
                raw_inputs=node.inputs,
                next=tuple(
                    shape.index[child] for child in node.next_nodes or () if not shape.nodes[child].unites
                ),
                branches=self._branches(shape, node),
                ancestors=shape.ancestors[node.identifier],
                names=frozenset(
                    ref.identifier for ref in used[node.identifier] if isinstance(ref, OutputRef)
                ),
                keys=frozenset(ref.key for ref in used[node.identifier] if isinstance(ref, StoreRef)),
                target=node.identifier in targets,
                timeout_ms=_timeout_ms(node),
                overrides=node.timeout is not None,
                retry_policy=node.retry_policy or (body.retry_policy if node.graph is None else _NO_RETRY),
                limits=texts[node.identifier]["limits"],
                wait=(
                    None
                    if node.wait is None
                    else Wait(model=node.wait, event=texts[node.identifier]["waits"]["event"])
                ),
                graph=node.graph,
            )
            for index, node in enumerate(body.nodes)
        )
        self.root: Place = self.places[shape.index[shape.root]]
        self._by_identifier = shape.index
        self.before: dict[int, list[int]] = {
            shape.index[name]: [shape.index[each] for each in before]
            for name, before in shape.predecessors.items()
        }
        """The places with an edge to each place."""
        self.uniters: dict[int, tuple[Unite, ...]] = self._compile_unites(shape)

    def __getitem__(self, identifier: str) -> Place:
        return self.places[self._by_identifier[identifier]]

    def _parse_outputs(self, shape: Shape) -> Iterator[Problem]:
        store_keys = self.body.store_config.known_keys
        for name, texts in self.body.outputs.items():
            place = (None, f"outputs.{shortened(name, MAX_NAME)}")
            parsed = []
            for text in texts:
                try:
                    parsed.append(parse_placeholders(text))
                except PlaceholderError as error:
                    yield Problem(str(error), *place)
                    continue
                for piece in parsed[-1]:
                    if isinstance(piece, OutputRef) and piece.identifier not in shape.nodes:
                        yield Problem(f"there is no node {shortened(piece.identifier, MAX_NAME)!r}", *place)
                    elif isinstance(piece, StoreRef) and piece.key not in store_keys:
                        yield Problem(f"there is no store key {shortened(piece.key, MAX_NAME)!r}", *place)
            self.outputs[name] = tuple(parsed)

    def _branches(self, shape: Shape, node: GraphNodeModel) -> Branches | None:
        """Return which nodes follow a node under conditions."""
        followers = [shape.nodes[name] for name in node.next_nodes or ()]
        when = {
            shape.index[each.identifier]: When(
                identifier=each.identifier, ref=self.refs[each.identifier], model=each.when
            )
            for each in followers
            if each.when is not None
        }
        if not when:
            return None
        otherwise = [shape.index[each.identifier] for each in followers if each.otherwise]
        values = sum(len(each.model.values) for each in when.values())
        return Branches(when, otherwise[0] if otherwise else None, values)

    def _compile_unites(self, shape: Shape) -> dict[int, tuple[Unite, ...]]:
        """Map each target's index to what unites it, in the order of deciding."""
        uniters: dict[int, list[Unite]] = {}
        regions = {
            shape.index[name]: frozenset(shape.index[member] for member in shape.region(name))
            for name, node in shape.nodes.items()
            if node.unites
        }
        for order, identifier in enumerate(shape.order):
            node = shape.nodes[identifier]
            if node.unites is None:
                continue
            place = self[identifier]
            region = regions[place.index]
            target = self[node.unites.identifier]
            uniters.setdefault(target.index, []).append(
                Unite(
                    place=place.index,
                    target=target.index,
                    strategy=node.unites.strategy,
                    region=region,
                    waits_for=_waits_for(place.index, regions),
                    predecessors=tuple(shape.index[name] for name in shape.predecessors[identifier]),
                    aggregated=frozenset(
                        shape.index[piece.identifier]
                        for piece in _pieces(place.inputs)
                        if isinstance(piece, OutputRef) and shape.index[piece.identifier] in region
                    ),
                    rank=(-len(target.ancestors), order),
                )
            )
        return {target: tuple(unites) for target, unites in uniters.items()}

    @cached_property
    def version(self) -> str | None:
        """The version of the code that its runs need; None for any. As its places name it: an earlier state
        manager does not store it elsewhere."""
        versions = (split_name(place.node_name)[1] for place in self.places)
        return next(filter(None, versions), None)

    @cached_property
    def inputs_by_key(self) -> InputsByKey:
        """Store key to the inputs that are this key and nothing else."""
        return inputs_by_key(self.body.nodes)

    @cached_property
    def aggregated(self) -> dict[int, frozenset[int]]:
        """Target index to the places whose successes must be findable by group."""
        return {
            target: frozenset(index for unite in unites for index in unite.aggregated)
            for target, unites in self.uniters.items()
        }


def places_ahead(template: Template, pending: Iterable[int]) -> tuple[set[str], set[str]]:
    """Return the identifiers at which a run has states that have not ended, and those that may get more."""
    nodes = template.body.nodes
    children = {node.identifier: node.next_nodes or () for node in nodes}
    now = {nodes[index].identifier for index in pending}
    below: set[str] = set()
    waiting = [*now]
    while waiting:
        new = set(children[waiting.pop()]) - below
        below |= new
        waiting += new
    return now, below


def _timeout_ms(node: GraphNodeModel) -> int | None:
    if node.timeout is not None:
        return max(1, round(node.timeout * 1000))
    return None if node.timeout_minutes is None else node.timeout_minutes * 60_000


def _waits_for(united: int, regions: Mapping[int, frozenset[int]]) -> frozenset[int]:
    """Return the region of a united node, with those of the united nodes in it, and so on."""
    found: frozenset[int] = frozenset()
    waiting = {united}
    while waiting:
        region = regions[waiting.pop()]
        if not region <= found:
            waiting |= regions.keys() & (region - found)
            found |= region
    return found


def _pieces(*texts: Mapping[str, tuple[Piece, ...]]) -> Iterator[Piece]:
    return chain.from_iterable(pieces for each in texts for pieces in each.values())


def _parse_texts(
    body: GraphBody,
    shape: Shape,
    parsed: dict[str, dict[str, dict[str, tuple[Piece, ...]]]],
    refs: dict[str, OutputRef | StoreRef],
) -> Iterator[Problem]:
    """Parse the texts of every node into ``parsed``, and what conditions compare into ``refs``; check what
    their placeholders refer to; yield the problems."""
    store_keys = body.store_config.known_keys
    for node in body.nodes:
        above = shape.ancestors[node.identifier]
        region = shape.region(node.identifier) if node.unites else frozenset()
        of_node = parsed[node.identifier] = {"inputs": {}, "limits": {}, "waits": {}}
        for field, texts, allowed in (
            ("inputs", node.inputs, above | region),
            ("limits", {limit.name: limit.key for limit in node.limits}, above),
            ("waits", {} if node.wait is None else {"event": node.wait.event}, above),
        ):
            for name, text in texts.items():
                place = (node.identifier, f"{field}.{shortened(name, MAX_NAME)}")
                if not isinstance(text, str):
                    yield Problem(f"must be a string, not {type(text).__name__}", *place)
                    continue
                try:
                    pieces = parse_placeholders(text)
                except PlaceholderError as error:
                    yield Problem(str(error), *place)
                    continue
                of_node[field][name] = pieces
                yield from _unknown_refs(pieces, allowed, store_keys, *place)
        if node.when is not None:
            place = (node.identifier, WHEN)
            try:
                (ref,) = parse_placeholders(node.when.of)
                if isinstance(ref, str):
                    raise PlaceholderError
            except ValueError:  # also if it has another number of parts
                of = shortened(node.when.of, MAX_NAME)
                yield Problem(
                    f"{of!r} is not one reference, as in ${{{{ identifier.outputs.field }}}}", *place
                )
                continue
            refs[node.identifier] = ref
            yield from _unknown_refs([ref], above, store_keys, *place)


def _unknown_refs(
    pieces: Iterable[Piece], allowed: Collection[str], store_keys: Collection[str], node: str, field: str
) -> Iterator[Problem]:
    """Yield which of these references have no value."""
    for piece in pieces:
        if isinstance(piece, OutputRef) and piece.identifier not in allowed:
            named = shortened(piece.identifier, MAX_NAME)
            yield Problem(f"{named!r} is not before {node!r} on every path", node, field)
        elif isinstance(piece, StoreRef) and piece.key not in store_keys:
            key = shortened(piece.key, MAX_NAME)
            yield Problem(f"store key {key!r} is neither in required_keys nor in default_values", node, field)
