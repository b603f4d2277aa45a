"""What is wrong with a graph, and where that is in the file that declares it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from exotrio._util.terminal_text import one_line
from exotrio.cli.graphs.json_source import Place, Source
from exotrio.graph import GraphNodeModel
from exotrio.manager.rules.problems import Problem


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
