"""Which edges are taken from a state that succeeded, and why; and what is wrong with conditions. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from exotrio._fields.declared import ANY_TEXT, declared
from exotrio.graph import GraphNodeModel
from exotrio.graph.conditions import UNKNOWN, ConditionModel, Fact, contradiction, type_problem
from exotrio.graph.placeholders import OutputRef, StoreRef
from exotrio.manager.rules.edges import Shape
from exotrio.manager.rules.problems import Problem

WHEN = "when"
"""The field of a node that has its condition."""
MAX_CHECKED = 300
"""Edges of a graph of which it is checked whether they are ever taken."""


class ConditionError(Exception):
    """A condition cannot be evaluated; the text says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """The condition of a place: what it compares, and how."""

    identifier: str
    ref: OutputRef | StoreRef
    model: ConditionModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Whether an edge was taken to a place that has a condition, or that is taken otherwise.

    Attributes:
        place: Where it leads.
        condition: Its condition as users write it, or ``otherwise``.
        value: The text that was compared; None for ``otherwise``.
    """

    place: int
    is_taken: bool
    condition: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Branches:
    """The places that follow one, some of them under conditions.

    Attributes:
        when: The conditions of those that have one.
        otherwise: The place of the edge that is taken if none of those is.
        values: The number of values that the conditions compare with.
    """

    when: Mapping[int, When]
    otherwise: int | None
    values: int

    def decide(self, value_of: Callable[[OutputRef | StoreRef], str]) -> list[Decision]:
        """Return which of the edges are taken that are not always taken.

        Args:
            value_of: Returns the text that a condition compares; raises ValueError if there is none.

        Raises:
            ConditionError: a text is missing, or cannot be read as what it is compared with.
        """
        decisions = []
        for place, when in self.when.items():
            try:
                text = value_of(when.ref)
                is_taken = when.model.holds(text)
            except ValueError as error:
                raise ConditionError(f"the condition {when.model} of {when.identifier!r}: {error}") from None
            decisions.append(Decision(place=place, is_taken=is_taken, condition=str(when.model), value=text))
        if self.otherwise is not None:
            none = not any(each.is_taken for each in decisions)
            decisions.append(Decision(place=self.otherwise, is_taken=none, condition="otherwise", value=None))
        return decisions


def branch_problems(shape: Shape) -> Iterator[Problem]:
    """Yield what is wrong with the conditions of a graph, apart from what they refer to."""
    for name, node in shape.nodes.items():
        before = shape.predecessors[name]
        if (node.when is not None or node.otherwise) and not before:
            yield Problem("the first node of a graph always runs", name, WHEN if node.when else None)
        for each in before if node.otherwise else ():
            others = [shape.nodes[other] for other in shape.nodes[each].next_nodes or ()]
            if all(other.when is None for other in others):
                yield Problem(f"otherwise needs another node after {each!r} that has a condition", name)
            first = next(other for other in others if other.otherwise)
            if first is not node:
                yield Problem(f"{first.identifier!r} follows {each!r} otherwise, and only one node can", name)


def never_taken(
    nodes: Sequence[GraphNodeModel],
    refs: Mapping[str, OutputRef | StoreRef],
    schema_of: Callable[[OutputRef], object],
) -> Iterator[Problem]:
    """Yield which conditions compare with what an output never is, and which edges are never taken.

    Args:
        nodes: The nodes of a graph that obeys the rules for edges.
        refs: What the condition of each node compares.
        schema_of: Returns the schema of an output, as it is registered.
    """
    shape = Shape(nodes)
    shape.check()
    types = {name: _type_of(ref, schema_of) for name, ref in refs.items()}
    facts: dict[str, frozenset[Fact]] = {}
    checked = 0

    def fact(name: str, *, holds: bool) -> Fact | None:
        model = shape.nodes[name].when
        return None if model is None else Fact(model, types[name], holds)

    for name in shape.order:
        node = shape.nodes[name]
        if node.when is not None and (problem := type_problem(node.when, types[name])):
            yield Problem(f"{node.when.of} {problem}", name, WHEN)
        if node.unites is not None:
            facts[name] = facts[node.unites.identifier]
            continue
        by_edge = []
        for before in shape.predecessors[name]:
            others = shape.nodes[before].next_nodes if node.otherwise else ()
            known = [fact(other, holds=False) for other in others or ()] + [fact(name, holds=True)]
            by_edge.append(facts[before].union(filter(None, known)))
            if not (node.otherwise or node.when) or checked >= MAX_CHECKED:
                continue
            checked += 1
            if contradictory := contradiction(by_edge[-1]):
                yield Problem(f"it never runs after {before!r}: there is no value with {contradictory}", name)
        facts[name] = frozenset.intersection(*by_edge) if by_edge else frozenset()


def _type_of(ref: OutputRef | StoreRef, schema_of: Callable[[OutputRef], object]) -> object:
    """Return the type of a value, as far as it is registered: any text may be a number, too."""
    values = declared(schema_of(ref)) if isinstance(ref, OutputRef) else ANY_TEXT
    return UNKNOWN if values == ANY_TEXT else values.annotation
