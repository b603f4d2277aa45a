"""The edges of a graph: the rules for them, and which nodes precede and follow which. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter

from exotrio._util.words import listed
from exotrio.graph import GraphNodeModel
from exotrio.manager.rules.problems import Problem, refuse


class Shape:
    """Edges of a graph and what follows from them, by identifier."""

    def __init__(self, nodes: Sequence[GraphNodeModel]) -> None:
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
        refuse("the nodes of the graph do not fit together", self._wrong_names())
        for node in self.declared:
            for child in node.next_nodes or ():
                self.predecessors[child].append(node.identifier)
        refuse("a united node has a wrong target", self._wrong_targets())
        # Before the check for a root: a graph that is one cycle has none.
        refuse("the graph has a cycle", self._cycles())
        refuse("the graph is not connected", self._unconnected())
        dependencies = {
            name: self.predecessors[name] + ([node.unites.identifier] if node.unites else [])
            for name, node in self.nodes.items()
        }
        self.order, waiting = _topological(dependencies)
        if waiting:
            text = f"united nodes wait for each other, so none is ever reached: {listed(sorted(waiting))}"
            refuse("the graph is not connected", [Problem(text)])
        self._derive_ancestors()
        self._derive_descendants()
        refuse("a united node cannot be reached from its target", self._unreachable_unites())

    def below(self, identifier: str) -> set[str]:
        """Return what follows ``identifier`` along edges, without itself."""
        below: set[str] = set()
        waiting = [identifier]
        while waiting:
            for child in self.nodes[waiting.pop()].next_nodes or ():
                if child not in below:
                    below.add(child)
                    waiting.append(child)
        return below

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

    def _wrong_names(self) -> Iterator[Problem]:
        uses = Counter(node.identifier for node in self.declared)
        for name, count in uses.items():
            if count > 1:
                yield Problem(f"its identifier is used {count} times", name)
        for node in self.declared:
            for child in node.next_nodes or ():
                if child not in self.nodes:
                    yield Problem(f"next node {child!r} is not an identifier of this graph", node.identifier)

    def _wrong_targets(self) -> Iterator[Problem]:
        for node in self.declared:
            if node.unites is None:
                continue
            if node.unites.identifier not in self.nodes:
                yield Problem(f"unites {node.unites.identifier!r}, which this graph lacks", node.identifier)
            elif node.unites.identifier == node.identifier:
                yield Problem("unites itself", node.identifier)

    def _unconnected(self) -> list[Problem]:
        roots = [name for name, node in self.nodes.items() if not self.predecessors[name] and not node.unites]
        if len(roots) != 1:
            named = f": {listed(roots)}" if roots else ""
            text = "a graph has one root, a node that nothing leads to; this one has"
            return [Problem(f"{text} {len(roots)}{named}")]
        self.root = roots[0]
        reached = self.below(self.root) | {self.root}
        return [
            Problem(f"is not reached from the root {self.root!r} by next_nodes", name)
            for name in self.nodes
            if name not in reached
        ]

    def _cycles(self) -> Iterator[Problem]:
        _, waiting = _topological(self.predecessors)
        for name in self.nodes:
            if name in waiting and (way := self._way_back(name)):
                yield Problem(f"is on a cycle: {listed(way, separator=' -> ')}", name)

    def _way_back(self, identifier: str) -> list[str]:
        """Return a shortest way along edges from ``identifier`` to itself, with both ends."""
        came_from: dict[str, str] = {}
        waiting = deque([identifier])
        while waiting:
            name = waiting.popleft()
            for child in self.nodes[name].next_nodes or ():
                if child == identifier:
                    way = [child, name]
                    while way[-1] != identifier:
                        way.append(came_from[way[-1]])
                    return way[::-1]
                if child not in came_from:
                    came_from[child] = name
                    waiting.append(child)
        return []

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

    def _unreachable_unites(self) -> Iterator[Problem]:
        return (
            Problem(
                f"unites {node.unites.identifier!r}, but its predecessor {parent!r} does not always come"
                f" after {node.unites.identifier!r}: unite an ancestor of every predecessor",
                name,
            )
            for name, node in self.nodes.items()
            if node.unites
            for parent in self.predecessors[name]
            if node.unites.identifier not in self.ancestors[parent]
        )


def _topological(before: Mapping[str, list[str]]) -> tuple[list[str], set[str]]:
    """Return names in an order in which each follows those ``before`` it, and the names on cycles."""
    sorter = TopologicalSorter[str]()
    for name in before:  # first, so that equals keep their order
        sorter.add(name)
    for name, those in before.items():
        sorter.add(name, *those)
    order: list[str] = []
    with suppress(CycleError):  # nodes that are not on a cycle are sorted nevertheless
        sorter.prepare()
    while ready := sorter.get_ready():
        order += ready
        sorter.done(*ready)
    return order, set(before).difference(order)
