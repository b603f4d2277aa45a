"""What is wrong with a graph, and in which line of the JSON text that declares it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError

from exotrio._util.terminal_text import one_line
from exotrio.graph import GraphNodeModel
from exotrio.manager.rules.problems import Problem

Place = tuple[str | int, ...]
"""Keys and indexes from the outside in: ``("nodes", 0, "inputs")``."""

MAX_DEPTH = 100
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[][{},:]|[^][{},:"\s]+')


@dataclass(frozen=True, slots=True)
class Source:
    """A JSON text that was read."""

    value: Any
    lines: Mapping[Place, int]
    """Place of each value to the line (from 1) on which it, or its key, begins."""
    repeated: tuple[Place, ...]
    """Keys that stand twice in their object; the last one counts."""

    def line(self, place: Place) -> int | None:
        """Return the line of a place, or of what is around it if it is not there."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place)


def read_json(text: str) -> Source:
    """Read a JSON text; ``json.JSONDecodeError`` says in which line it is not JSON."""
    try:
        # Whether it is JSON at all. Single values that are not are refused below, with their lines.
        json.loads(text, parse_constant=str, parse_int=str)
    except RecursionError:
        raise json.JSONDecodeError("Nested too deeply", text, 0) from None
    lines: dict[Place, int] = {}
    repeated: list[Place] = []
    place: list[str | int] = []
    keys: list[set[str]] = []  # of each object or array around
    expects_key = False
    line, counted = 1, 0
    for found in _TOKEN.finditer(text):
        token, start = found[0], found.start()
        line, counted = line + text.count("\n", counted, start), start
        if token == ":":
            continue
        if token == ",":
            last = place[-1]
            expects_key = isinstance(last, str)
            place[-1] = last if isinstance(last, str) else last + 1
        elif token in ("]", "}"):
            expects_key = False
            place.pop()
            keys.pop()
        elif expects_key:
            expects_key = False
            place[-1] = key = _scalar(token, text, start)
            if key in keys[-1]:
                repeated.append(tuple(place))
            keys[-1].add(key)
            lines[tuple(place)] = line
        else:
            if not place or isinstance(place[-1], int):
                lines[tuple(place)] = line
            if token in ("[", "{"):
                expects_key = token == "{"
                place.append("" if expects_key else 0)
                keys.append(set())
                if len(place) > MAX_DEPTH:
                    raise json.JSONDecodeError("Nested too deeply", text, start)
            else:
                _scalar(token, text, start)
    return Source(json.loads(text), lines, tuple(repeated))


def _scalar(token: str, text: str, start: int) -> Any:
    """Return the value of a string, number or word, or raise the error for its place."""
    if token.startswith('"') and "\\" not in token:
        return token[1:-1]
    try:
        value = json.loads(token, parse_constant=_refuse_constant)
        if isinstance(value, str):
            value.encode()
    except UnicodeEncodeError:
        raise json.JSONDecodeError("Half of a surrogate pair is not text", text, start) from None
    except ValueError as error:  # NaN, and numbers of more digits than Python converts
        raise json.JSONDecodeError(str(error), text, start) from None
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class FileProblem:
    """One thing that is wrong in a file. What is not known, or not about one, is None."""

    file: str
    message: str
    """In one line; it names node and input."""
    line: int | None = None
    graph: str | None = None
    node: str | None = None
    field: str | None = None
    """Field of the node or the graph; of an input, ``inputs.NAME``."""
    severity: str = "error"
    """``error``, or ``warning`` for what the state manager ignores."""

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        warning = "warning: " if self.severity == "warning" else ""
        return f"{place}: {warning}{one_line(self.message)}"


@dataclass(frozen=True, slots=True)
class Locator:
    """Finds the place of a problem in a file, and in its text if the file is JSON."""

    file: str
    graph: str | None = None
    source: Source | None = None

    def at(self, place: Place, message: str, *, severity: str = "error") -> FileProblem:
        """Return a problem with what is at ``place`` in the graph."""
        node, field = None, ".".join(map(str, place)) or None
        if place[:1] == ("nodes",) and len(place) > 1:
            node = self._identifier(place[1])
            field = ".".join(map(str, place[2:])) or None
            named = f"node {node!r}" if node is not None else f"nodes[{place[1]}]"
            message = ", ".join(filter(None, (named, field))) + f": {message}"
        elif field:
            message = f"{field}: {message}"
        line = self.source.line(place) if self.source else None
        return FileProblem(self.file, message, line, self.graph, node, field, severity)

    def locate(self, problem: Problem, nodes: Sequence[GraphNodeModel]) -> FileProblem:
        """Return a problem that the rules of the state manager name."""
        place: Place = ()
        if problem.node is None and problem.field is not None:
            place = (problem.field,)
        for index, declared in enumerate(nodes):
            # The last of several nodes with one identifier: the one that is too many.
            if declared.identifier == problem.node:
                place = ("nodes", index, *(problem.field.split(".", 1) if problem.field else ()))
        line = None
        if self.source is not None and place:
            # A field of the graph that is not in the file has no line, not the one of the graph.
            line = self.source.lines.get(place) if len(place) == 1 else self.source.line(place)
        return FileProblem(self.file, str(problem), line, self.graph, problem.node, problem.field)

    def invalid(self, error: ValidationError) -> list[FileProblem]:
        """Return every problem that pydantic found, without the values: they may be secret."""
        problems = []
        for found in error.errors(include_url=False, include_context=False, include_input=False):
            loc = found["loc"]
            place = loc[:-1] if loc[-1:] == ("[key]",) else loc  # for the name of an entry
            problems.append(self.at(place, found["msg"].removeprefix("Value error, ")))
        return problems

    def _identifier(self, index: str | int) -> str | None:
        try:
            found = self.source.value["nodes"][index]["identifier"] if self.source else None
        except (LookupError, TypeError):  # it is about what is not there, or is of another type
            return None
        return found if isinstance(found, str) else None
