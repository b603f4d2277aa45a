"""How runs ended, compared with runs in which nothing happened. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from exotrio._util.words import listed, shortened
from exotrio._wire.vocabulary import RunStatus

MAX_SHOWN = 60
"""Characters of an output in a message."""

Outputs = Sequence[Mapping[str, Any]]
"""Outputs of the states of one node of a graph, in any order."""
Fields = frozenset[tuple[str, str]]
"""Fields of outputs by the node of the graph. A field without a name stands for all of that node's outputs,
whose number differs."""


class Version(StrEnum):
    """The code whose results a run has."""

    OLD = "old"
    NEW = "new"
    MIXED = "mixed"
    """Each output is one that the old code or the new one makes."""

    @property
    def outputs(self) -> str:
        """Of what it has outputs, as in "outputs of the old code"."""
        return "both" if self is Version.MIXED else f"{self} code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a run ended.

    Attributes:
        outputs: Node of the graph to the outputs of its states that succeeded, in any order.
        error: The first error, if it failed.
    """

    status: RunStatus
    outputs: Mapping[str, Outputs]
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usual:
    """How the graph ends if nothing happens.

    Attributes:
        ending: With the code that begins the runs.
        successor: With the code that takes over, if that is another one, and can run the graph.
        unsteady: Fields that differ from run to run anyway.
    """

    ending: Ending
    successor: Ending | None = None
    unsteady: Fields = frozenset()

    @classmethod
    def without_outputs(cls, ending: Ending) -> Self:
        """Return what compares only how runs end: what the successor makes of this graph is not known."""
        return cls(ending=ending, unsteady=Fields((node, "") for node in ending.outputs))

    @property
    def changed(self) -> Fields:
        """The fields in which the results of the successor differ."""
        if self.successor is None:
            return frozenset()
        return differing_fields(self.ending, self.successor) - self.unsteady

    def compare(self, run: Ending) -> tuple[Version | None, list[str]]:
        """Return whose results a run has; None, and one line for each difference, if it has those of neither.

        Unsteady fields are not compared.
        """
        if run.status not in {self.ending.status, (self.successor or self.ending).status}:
            return None, [f"the run ended as {run.status.value}{f': {run.error}' if run.error else ''}"]
        old = self._differences(self.ending, run)
        if not old and run.status is self.ending.status:
            return Version.OLD, []
        if self.successor is None:
            return None, [f"{what} instead of {usual}" for what, usual in old.values()]
        new = self._differences(self.successor, run)
        if not new and run.status is self.successor.status:
            return Version.NEW, []
        problems = []
        for node in [each for each in old if each in new]:
            if _is_mixed(*(self._steady(node, each) for each in (self.ending, self.successor, run))):
                continue
            (what, usual), (other, later) = old[node], new[node]
            if what != other:
                usual += f" (old code); {other} instead of {later} (new code)"
            elif usual != later:
                usual += f" (old code) or {later} (new code)"
            problems.append(f"{what} instead of {usual}")
        return (None if problems else Version.MIXED), problems

    def _differences(self, expected: Ending, run: Ending) -> dict[str, tuple[str, str]]:
        """Return by node of the graph, which is that of the old code, what differs, and what is expected."""
        found = {
            node: _difference(node, self._steady(node, expected), self._steady(node, run))
            for node in self.ending.outputs
        }
        return {node: each for node, each in found.items() if each is not None}

    def _steady(self, node: str, ending: Ending) -> Outputs:
        """Return the outputs of a node without what is unsteady."""
        ignored = {name for of, name in self.unsteady if of == node}
        if "" in ignored:
            return ()
        rows = ending.outputs.get(node, ())
        return [{name: value for name, value in row.items() if name not in ignored} for row in rows]


def differing_fields(one: Ending, other: Ending) -> Fields:
    """Return the fields whose values differ between two runs."""
    fields: set[tuple[str, str]] = set()
    for node, outputs in one.outputs.items():
        others = other.outputs.get(node, ())
        if len(others) != len(outputs):
            fields.add((node, ""))
        else:
            fields |= {(node, name) for name in _names(outputs, others) if _changed(name, outputs, others)}
    return frozenset(fields)


def shown_fields(fields: Fields) -> str:
    """Return fields of outputs as a text."""
    return listed(sorted(f"{node}.{name}" if name else f"all of {node}" for node, name in fields))


def _difference(node: str, expected: Outputs, outputs: Outputs) -> tuple[str, str] | None:
    """Return how outputs of a node differ, as what there is, and what is expected; None if they do not."""
    if len(outputs) != len(expected):
        return f"{node} has {len(outputs)} outputs", str(len(expected))
    for name in _names(expected, outputs):
        if changed := _changed(name, expected, outputs):
            return f"{node}.{name} is {changed[0]}", changed[1]
    gone, came = _only_in_one(expected, outputs)
    return (f"an output of {node} is {came[0]}", gone[0]) if came else None


def _changed(name: str, before: Outputs, after: Outputs) -> tuple[str, str] | None:
    """Return a value of a field that is only in ``after``, and one that is only in ``before``."""
    gone, came = _only_in_one(*([row.get(name) for row in rows] for rows in (before, after)))
    return (came[0], gone[0]) if came else None


def _is_mixed(old: Outputs, new: Outputs, outputs: Outputs) -> bool:
    """Whether each output is one of ``old`` or one of ``new``, and there are as many as of one of them."""
    rest = _counted(outputs) - _counted(old)
    return len(outputs) in (len(old), len(new)) and rest <= _counted(new)


def _names(*outputs: Outputs) -> list[str]:
    return list(dict.fromkeys(name for rows in outputs for row in rows for name in row))


def _counted(values: Iterable[Any]) -> Counter[str]:
    return Counter(json.dumps(each, sort_keys=True) for each in values)


def _only_in_one(before: Sequence[Any], after: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Return what is only in ``before`` and what is only in ``after``, in any order, for messages."""
    ones, others = _counted(before), _counted(after)
    return [_shown(each) for each in ones - others], [_shown(each) for each in others - ones]


def _shown(text: str) -> str:
    return shortened(repr(json.loads(text)), MAX_SHOWN)
