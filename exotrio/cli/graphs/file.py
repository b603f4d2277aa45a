"""Graphs as files declare them: JSON as in Exosphere's documentation, or a ``Graph`` in a Python module.

A JSON file holds the body of v0's upsert: ``nodes``, and if need be ``secrets``, ``retry_policy``,
``store_config`` and ``triggers``; also ``name`` (or ``graph_name``). A secret whose value is ``true``,
as the state manager shows it, is only named there: its value has to be given beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from exotrio._wire.graphs import GraphBody, TriggerModel
from exotrio.cli.graphs.json_source import Place, Source, read_json
from exotrio.cli.graphs.problems import FileProblem, Locator
from exotrio.cli.load import Loaded
from exotrio.cli.terminal.words import meant
from exotrio.cli.values import STANDARD_INPUT, Unreadable, read_text, shown
from exotrio.graph import Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, UnitesModel

_SHOWN = frozenset(
    {"name", "graph_name", "namespace", "$schema", "created_at", "updated_at", "validation_status"}
    | {"validation_errors", "next_runs"}
)
"""Further fields of a graph as the state manager and ``graph show`` print it; they are ignored."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A graph as a file declares it.

    Attributes:
        file: The file or module, as it was given.
        name: Its name, if the file has one.
        body: The declaration, or None if the file cannot be read as one.
        problems: What is wrong with its fields, and what is ignored.
        named_secrets: Secrets that the file only names.
        locator: Finds the lines of further problems.
    """

    file: str
    name: str | None
    body: GraphBody | None
    locator: Locator
    problems: list[FileProblem] = field(default_factory=list)
    named_secrets: frozenset[str] = frozenset()


def is_json(target: str) -> bool:
    """Whether an argument names a JSON file, or standard input, and not Python."""
    if target == STANDARD_INPUT or target.lower().endswith(".json"):
        return True
    return not target.endswith(".py") and Path(target).is_file()


def drafts_of(loaded: Loaded) -> list[Draft]:
    """Return every graph at the top level of a module."""
    return [draft_of(loaded, graph) for graph in loaded.graphs()]


def draft_of(loaded: Loaded, graph: Graph) -> Draft:
    """Return a ``Graph``; its fields were checked when it was built."""
    return Draft(loaded.target, graph.name, GraphBody.of(graph), Locator(loaded.target, graph.name))


def read_draft(file: str) -> Draft:
    """Read a JSON file, or standard input for ``-``. Whatever is wrong with it is among the problems."""
    try:
        source = read_json(_text(file))
    except json.JSONDecodeError as error:
        return _nothing(file, f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.lineno)
    except Unreadable as error:
        return _nothing(file, str(error))
    if not isinstance(source.value, dict):
        return _nothing(file, 'a graph is a JSON object: {"nodes": [...], ...}', 1)
    return _Reader(shown(file), source).draft()


def _text(file: str) -> str:
    if file != STANDARD_INPUT and not Path(file).exists():
        near = map(str, Path(file).parent.glob("*.json"))
        raise Unreadable(f"there is no such file{meant(str(Path(file)), near)}")
    return read_text(file)


def _nothing(file: str, why: str, line: int | None = None) -> Draft:
    name = shown(file)
    return Draft(name, None, None, Locator(name), [FileProblem(name, why, line)])


class _Reader:
    def __init__(self, file: str, source: Source) -> None:
        self._source = source
        self._raw: dict[str, Any] = source.value
        name = next((self._raw[key] for key in ("name", "graph_name") if key in self._raw), None)
        self._name = name if isinstance(name, str) and name.strip() else None
        self._locator = Locator(file, self._name, source, self._raw)

    def draft(self) -> Draft:
        at = self._locator.at
        problems = [at(place, "is given twice; the last one is used") for place in self._source.repeated]
        problems += [
            at((key,), "must be a name in quotes")
            for key in ("name", "graph_name")
            if key in self._raw and not (isinstance(self._raw[key], str) and self._raw[key].strip())
        ]
        secrets = self._raw.get("secrets", {})
        named_secrets = (
            [name for name, value in secrets.items() if value is True] if _is_object(secrets) else []
        )
        body = None
        try:
            fields = {**self._raw, "secrets": secrets}
            if named_secrets:
                fields["secrets"] = {**secrets, **dict.fromkeys(named_secrets, "")}
            body = GraphBody.model_validate(fields)
        except ValidationError as error:
            problems += self._locator.invalid(error)
        problems += self._unknown()
        return Draft(self._locator.file, self._name, body, self._locator, problems, frozenset(named_secrets))

    def _unknown(self) -> list[FileProblem]:
        """Return a warning for every unknown field; most often it is mistyped."""
        return [
            self._locator.at(
                (*place, name),
                f"unknown field, ignored{meant(name, known)}",
                severity="warning",
            )
            for place, found, known in self._objects()
            if _is_object(found)
            for name in found
            if name not in known and not (place == () and name in _SHOWN)
        ]

    def _objects(self) -> Iterator[tuple[Place, Any, Mapping[str, Any]]]:
        def fields(model: type[BaseModel]) -> Mapping[str, Any]:
            return model.model_fields

        yield (), self._raw, fields(GraphBody)
        yield ("retry_policy",), self._raw.get("retry_policy"), fields(RetryPolicyModel)
        yield ("store_config",), self._raw.get("store_config"), fields(StoreConfigModel)
        for index, node in enumerate(_as_list(self._raw.get("nodes"))):
            yield ("nodes", index), node, fields(GraphNodeModel)
            if _is_object(node):
                yield ("nodes", index, "unites"), node.get("unites"), fields(UnitesModel)
        for index, trigger in enumerate(_as_list(self._raw.get("triggers"))):
            yield ("triggers", index), trigger, fields(TriggerModel)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
