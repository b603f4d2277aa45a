"""Nodes that were added to a graph, and which come before which: what one follows, and may refer to.

Nodes are added after those that they follow, so all of this is final when one is added, and a problem is
raised at its line. ``manager/rules/edges`` derives the same from a complete graph. There are two orders:
along edges (``above``), and along the chain of a state (``certain``, ``possible``), on which a united node
stands directly below the node that it unites.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from exotrio._fields.models import names_of
from exotrio._util.words import listed
from exotrio.graph.conditions import Condition, Fact, contradiction
from exotrio.graph.node_model import GraphNodeModel


@dataclass(kw_only=True, eq=False)
class GraphNode:
    """A node that is added to a graph.

    Attributes:
        model: Its declaration.
        outputs_model: The Outputs of its class; None if that is not known.
        outputs: Name of each output to its type; None if it is not known what they are.
        before: The nodes from which an edge leads to it.
        above: Identifiers of the nodes from which edges lead to it, also through others.
        certain: Identifiers of the nodes that every chain to it has.
        possible: Identifiers of the nodes that some chain to it has.
        condition: The condition under which the edges to it are taken.
        is_certain_to_run: Whether it runs whatever the nodes before it return.
        next: The nodes to which an edge leads from it, added since.
        facts: What is known wherever it runs.
        doubts: What is allowed of its inputs, but seldom intended, by their names.
    """

    model: GraphNodeModel
    outputs_model: type[BaseModel] | None
    unites: GraphNode | None
    before: Sequence[GraphNode]
    condition: Condition | None = None
    next: list[GraphNode] = field(init=False, default_factory=list)
    outputs: Mapping[str, Any] | None = None
    doubts: Mapping[str, str] = field(default_factory=dict)
    facts: frozenset[Fact] = field(init=False)
    is_certain_to_run: bool = field(init=False)
    above: frozenset[str] = field(init=False)
    certain: frozenset[str] = field(init=False)
    possible: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if (model := self.outputs_model) is not None:
            self.outputs = {name: info.annotation for name, info in names_of(model).items()}
        is_conditional = self.condition is not None or self.model.otherwise
        self.is_certain_to_run = not is_conditional and (
            not self.before or any(each.is_certain_to_run for each in self.before)
        )
        self.above = frozenset[str]().union(*({*each.above, each.identifier} for each in self.before))
        chains = self.before if self.unites is None else [self.unites]
        certain = [each.certain | {each.identifier} for each in chains]
        self.certain = frozenset.intersection(*certain) if certain else frozenset()
        self.possible = frozenset[str]().union(*({*each.possible, each.identifier} for each in chains))
        facts = [each.facts if self.unites else self.facts_after(each) for each in chains]
        self.facts = frozenset.intersection(*facts) if facts else frozenset()

    @property
    def identifier(self) -> str:
        return self.model.identifier

    @property
    def fact(self) -> Fact | None:
        """What is known where an edge to it was taken."""
        condition = self.condition
        return None if condition is None else Fact(condition.model, condition.annotation, True)

    def facts_after(self, before: GraphNode) -> frozenset[Fact]:
        """Return what is known if an edge from a node to this one is taken."""
        if self.model.otherwise:
            others = [each.fact for each in before.next if each is not self and each.fact]
            return before.facts.union(Fact(each.model, each.annotation, False) for each in others)
        return before.facts | {self.fact} if self.fact else before.facts

    def branch_problems(self) -> Iterator[str]:
        """Yield what is wrong with its condition, or with what it has ``otherwise=True`` for."""
        is_conditional = self.condition is not None or self.model.otherwise
        if is_conditional and not self.before:
            yield "the first node always runs: when= and otherwise= are for nodes that follow others"
        if self.condition is not None and self.model.otherwise:
            yield "when and otherwise: give one of them"
        for each in self.before if is_conditional else ():
            other = next((other.identifier for other in each.next if other.model.otherwise), None)
            if other is not None and self.model.otherwise:
                yield f"{other!r} follows {each.identifier!r} otherwise, and only one node can"
            elif other is not None:
                yield f"{other!r} follows {each.identifier!r} otherwise: add it after all nodes with when="
            elif self.model.otherwise and all(each.condition is None for each in each.next):
                yield f"otherwise= needs another node after {each.identifier!r}, added before it, with when="
            elif facts := contradiction(self.facts_after(each)):
                yield f"it never runs after {each.identifier!r}: there is no value with {facts}"

    def problems(self, root: str | None) -> Iterator[str]:
        """Yield why the node cannot stand here; ``root`` is the identifier of the graph's root."""
        if not self.before and self.unites is not None:
            target = self.unites.identifier
            yield f"it unites {target!r}, but follows no node: give after= the ends of its branches"
        elif not self.before and root is not None:
            yield (
                f"it follows no node, as only the first one, {root!r}, may: "
                "refer to an output of the node before it, or give after="
            )
        for each in self.before:
            if self.unites is not None and self.unites.identifier not in each.certain:
                target = self.unites.identifier
                yield (
                    f"it unites {target!r}, but follows {each.identifier!r}, which does not always come"
                    f" after {target!r}: unite a node that is before all that it follows"
                )

    def problem_of(self, source: GraphNode, many: bool | None, nodes: Collection[GraphNode]) -> str | None:
        """Return why the node cannot refer to outputs of ``source``; None if it can.

        Args:
            source: The node that has the outputs.
            many: Whether the reference is to a list; None if it does not say.
        """
        name = source.identifier
        if name in self.certain:
            if many:
                united = "; or, to run once for all of them, give unites= a node before the fan-out"
                return (
                    f"it runs once for each state of {name!r}, so it gets one value, not a list: leave out"
                    f" .every{united if source.before else ''}"
                )
            return None
        if self._gathers(source, nodes):
            if many is False:
                return f"it gets a list, with a value for each state of {name!r} that it unites: write .every"
            return None
        if self.unites is not None:
            return f"{name!r} is neither before nor among what it unites below {self.unites.identifier!r}"
        if source not in self.before:
            return f"{name!r} is not before it on every path"
        others = listed(each.identifier for each in self.before if each is not source)
        return (
            f"{name!r} is not before it on every path: it follows {others} too, and runs once after each; "
            "to run once after all, give unites= a node that is before them"
        )

    def _gathers(self, source: GraphNode, nodes: Collection[GraphNode]) -> bool:
        """Return whether this node gets all outputs of ``source`` within its group, as a list."""
        target = self.unites
        if target is None or target.identifier not in source.possible:
            return False
        # Other nodes that unite the same one are not of the group, nor are the nodes after them.
        return not any(
            other.unites is target
            and other.identifier not in self.above
            and (other is source or other.identifier in source.above)
            for other in nodes
        )


def followed(
    unites: GraphNode | None, after: Sequence[GraphNode], sources: Sequence[GraphNode]
) -> Sequence[GraphNode]:
    """Return the nodes from which an edge leads to a new one.

    They are those that it is added ``after``; by default the last of those whose outputs it refers to, since
    the others come before them. The node that it unites, and those before that, are not among them, since
    branches are between.
    """
    if after:
        return after
    if unites is not None:
        sources = [each for each in sources if unites.identifier in each.above]
    above = frozenset[str]().union(*(each.above for each in sources))
    return [each for each in sources if each.identifier not in above]
