"""Which nodes that were added to a graph come before which: what a further one follows, and may refer to.

Nodes are added after those that they follow, so all of this is known for good when one is added, and can be
told at its line. ``manager/rules/edges`` derives the same from a graph that is whole. There are two orders:
along edges (``above``), and along the chain of a state (``certain``, ``possible``), on which a united node
stands directly below the node that it unites.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from exotrio._util.words import listed
from exotrio.graph.declaration import GraphNodeModel


@dataclass(kw_only=True, eq=False)
class Placed:
    """A node that was added.

    Attributes:
        model: Its declaration.
        outputs: Name of each output to its type; None if its class is not known.
        certain: Identifiers of the nodes that every chain to it has.
        possible: Those that some chain to it has.
        above: Those from which edges lead to it.
    """

    model: GraphNodeModel
    outputs: Mapping[str, Any] | None
    certain: frozenset[str] = frozenset()
    possible: frozenset[str] = frozenset()
    above: frozenset[str] = frozenset()

    @property
    def identifier(self) -> str:
        return self.model.identifier


@dataclass(kw_only=True)
class Order:
    """What a node that is being added follows."""

    identifier: str
    unites: Placed | None
    before: Sequence[Placed]
    """Those from which an edge leads to it."""

    def __post_init__(self) -> None:
        self.above: frozenset[str] = frozenset[str]().union(
            *({*each.above, each.identifier} for each in self.before)
        )
        chains = self.before if self.unites is None else [self.unites]
        certain = [each.certain | {each.identifier} for each in chains]
        self.certain: frozenset[str] = frozenset.intersection(*certain) if certain else frozenset()
        self.possible: frozenset[str] = frozenset[str]().union(
            *({*each.possible, each.identifier} for each in chains)
        )

    def gathers(self, source: Placed, placed: Collection[Placed]) -> bool:
        """Return whether this node gets all outputs of ``source`` within its group, as a list."""
        if self.unites is None:
            return False
        target = self.unites.identifier
        if target not in source.possible:
            return False
        # Other nodes that unite the same one are not of the group, nor is what follows them.
        return not any(
            other.model.unites is not None
            and other.model.unites.identifier == target
            and other.identifier not in self.above
            and (other is source or other.identifier in source.above)
            for other in placed
        )

    def problems(self, first: str | None) -> Iterator[str]:
        """Yield why the node cannot stand here; ``first`` is the identifier of the graph's root."""
        if not self.before and self.unites is not None:
            target = self.unites.identifier
            yield f"it unites {target!r}, but follows no node: give after= the ends of its branches"
        elif not self.before and first is not None:
            yield (
                f"it follows no node, as only the first one, {first!r}, may: "
                "refer to an output of the node before it, or give after="
            )
        for each in self.before:
            if self.unites is not None and self.unites.identifier not in each.certain:
                target = self.unites.identifier
                yield (
                    f"it unites {target!r}, but follows {each.identifier!r}, which does not always come"
                    f" after {target!r}: unite a node that is before all that it follows"
                )

    def problem_of(self, source: Placed, many: bool | None, placed: Collection[Placed]) -> str | None:
        """Return why outputs of ``source`` cannot be referred to; None if they can.

        Args:
            source: The node they are of.
            many: Whether a list is asked for; None if the reference does not say.
            placed: All nodes that were added.
        """
        name = source.identifier
        if name in self.certain:
            if many:
                return f"it has one state of {name!r} before it, not a list: leave out .every"
            return None
        if self.gathers(source, placed):
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


def followed(unites: Placed | None, after: Sequence[Placed], sources: Sequence[Placed]) -> Sequence[Placed]:
    """Return the nodes from which an edge leads to a new one.

    Those that it is added ``after``; by default the last of those whose outputs it refers to: the others come
    before them. What it unites, and what is before that, is not among these, since branches are between.
    """
    if after:
        return after
    if unites is not None:
        sources = [each for each in sources if unites.identifier in each.above]
    above = frozenset[str]().union(*(each.above for each in sources))
    return [each for each in sources if each.identifier not in above]
