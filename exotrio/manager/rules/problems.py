"""What is wrong with a graph, as values: which node, which field, and why. Pure.

Over HTTP, and in ``GraphInvalid``, a problem is one line of text, which ``str`` writes and ``read`` reads. No
other module knows its form.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from exotrio.errors import GraphInvalid

MAX_PROBLEMS = 100
"""Problems of one graph that are named: a large one can have millions."""
SECRETS, ON_FAILURE = "secrets", "on_failure"

_QUOTED = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LINE = re.compile(rf"node {_QUOTED}(?:, (?:(input|limit|wait) {_QUOTED}|(when)))?: (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a graph: why, at which node, and at which field, if it is about one.

    The field is ``inputs.NAME``, ``limits.NAME``, ``waits.event`` or ``when`` of the node, or ``secrets`` or
    ``on_failure`` of the graph.
    """

    text: str
    node: str | None = None
    field: str | None = None

    def __str__(self) -> str:
        if self.node is None:
            return f"{self.field}: {self.text}" if self.field else self.text
        if self.field is None:
            return f"node {self.node!r}: {self.text}"
        what, dot, name = self.field.partition("s.")
        if not dot:
            return f"node {self.node!r}, {self.field}: {self.text}"
        return f"node {self.node!r}, {what} {name!r}: {self.text}"

    @classmethod
    def read(cls, line: str) -> Problem:
        """Return the problem that ``str`` wrote as this line; of any other line, one of the whole graph."""
        for field in (SECRETS, ON_FAILURE):
            if line.startswith(f"{field}: "):
                return cls(line.removeprefix(f"{field}: "), field=field)
        if (match := _LINE.fullmatch(line)) is None:
            return cls(line)
        node, what, name, other, text = match.groups()
        of_node = other if name is None else f"{what}s.{ast.literal_eval(name)}"
        return cls(text, ast.literal_eval(node), of_node)


def first_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Return as many problems as are named, and one that says so if there are more."""
    rest = iter(problems)
    first = list(islice(rest, MAX_PROBLEMS))
    if next(rest, None) is not None:
        first.append(Problem(f"there are more: only the first {MAX_PROBLEMS} are named"))
    return first


class RulesBroken(GraphInvalid):
    """A graph breaks rules; ``found`` has the problems as values."""

    def __init__(self, what: str, problems: list[Problem]) -> None:
        super().__init__(what, [str(problem) for problem in problems])
        self.found = problems


def refuse(what: str, problems: Iterable[Problem]) -> None:
    if first := first_problems(problems):
        raise RulesBroken(what, first)
