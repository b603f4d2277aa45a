"""Graphs as files declare them: JSON as in Exosphere's documentation, or a ``Graph`` in a Python module.

A JSON file holds the body of v0's upsert: ``nodes``, and if need be ``secrets``, ``retry_policy``,
``store_config`` and ``triggers``; also ``name`` (or ``graph_name``). A secret whose value is ``true``,
as the state manager shows it, is only named there: its value has to be given beside the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ValidationError

from exotrio._util.words import meant
from exotrio._wire.graphs import GraphBody, TriggerModel
from exotrio.cli.graphs.problems import FileProblem, Locator, Place, Source, read_json
from exotrio.cli.load import Loaded, load
from exotrio.cli.terminal.output import print_message
from exotrio.cli.values import STANDARD_INPUT, Unreadable, read_text, shown
from exotrio.client import StateManager
from exotrio.errors import GraphInvalid
from exotrio.graph import CronTrigger, Graph, GraphNodeModel, RetryPolicyModel, StoreConfigModel, UnitesModel
from exotrio.manager.rules.problems import Problem

_SHOWN = frozenset(
    {"name", "graph_name", "namespace", "$schema", "created_at", "updated_at", "validation_status"}
    | {"validation_errors", "scheduled", "next_runs", "paused_at"}
)
"""Further fields of a graph as the state manager and ``graph show`` print it; they are ignored."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A graph as a file declares it."""

    locator: Locator
    """Knows the file, and finds the lines of further problems."""
    body: GraphBody | None = field(repr=False)
    """The declaration, or None if the file cannot be read as one."""
    problems: list[FileProblem] = field(default_factory=list)
    """What is wrong with its fields, and what is ignored."""
    named_secrets: frozenset[str] = frozenset()
    """Secrets that the file only names."""

    @property
    def file(self) -> str:
        return self.locator.file

    @property
    def name(self) -> str | None:
        return self.locator.graph

    async def declare(self, manager: StateManager, timeout: float) -> None:
        """Create or replace the graph, and wait for its validation; GraphInvalid has lines of the file."""
        assert self.body is not None
        assert self.name is not None
        body, given = self.body, self.body.model_fields_set
        try:
            # What the file leaves out is not sent: the defaults are the state manager's.
            await manager.upsert_graph(
                self.name,
                graph_nodes=body.nodes,
                secrets=body.secrets,
                retry_policy=body.retry_policy if "retry_policy" in given else None,
                store_config=body.store_config if "store_config" in given else None,
                triggers=[
                    CronTrigger(expression=each.value.expression, timezone=each.value.timezone or "UTC")
                    for each in body.triggers
                ]
                or None,
                validation_timeout=timeout,
            )
        except GraphInvalid as error:
            problems = [str(self.locator.locate(Problem.read(text), body.nodes)) for text in error.problems]
            raise GraphInvalid(error.what, problems, where=error.where, fix=error.fix) from error


def is_json(target: str) -> bool:
    """Whether an argument names a JSON file, or standard input, and not Python."""
    if target == STANDARD_INPUT or target.lower().endswith(".json"):
        return True
    return not target.endswith(".py") and Path(target).is_file()


def draft_of(loaded: Loaded, graph: Graph) -> Draft:
    """Return a ``Graph``; its fields were checked when it was built."""
    return Draft(Locator(loaded.target, graph.name), GraphBody.of(graph))


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
    return _draft_of_json(shown(file), source)


def _text(file: str) -> str:
    if file != STANDARD_INPUT and not Path(file).exists():
        near = map(str, Path(file).parent.glob("*.json"))
        raise Unreadable(f"there is no such file{meant(str(Path(file)), near)}")
    return read_text(file)


def _nothing(file: str, why: str, line: int | None = None) -> Draft:
    return Draft(Locator(shown(file)), None, [FileProblem(shown(file), why, line)])


def _draft_of_json(file: str, source: Source) -> Draft:
    raw: dict[str, Any] = source.value
    named = {key: raw[key] for key in ("name", "graph_name") if key in raw}
    bad_names = [key for key, name in named.items() if not (isinstance(name, str) and name.strip())]
    first = next(iter(named), None)
    locator = Locator(file, None if first is None or first in bad_names else named[first], source)
    problems = [locator.at(place, "is given twice; the last one is used") for place in source.repeated]
    problems += [locator.at((key,), "must be a name in quotes") for key in bad_names]
    secrets, named_secrets = raw.get("secrets", {}), frozenset[str]()
    if isinstance(secrets, dict):
        named_secrets = frozenset(name for name, value in secrets.items() if value is True)
        secrets = {**secrets, **dict.fromkeys(named_secrets, "")}
    body = None
    try:
        body = GraphBody.model_validate({**raw, "secrets": secrets})
    except ValidationError as error:
        problems += locator.invalid(error)
    return Draft(locator, body, [*problems, *_unknown(raw, locator)], named_secrets)


def _unknown(raw: dict[str, Any], locator: Locator) -> Iterator[FileProblem]:
    """Yield a warning for every unknown field; most often it is mistyped."""
    for place, found, model in _objects(raw):
        known = model.model_fields
        for name in found if isinstance(found, dict) else ():
            if name not in known and not (place == () and name in _SHOWN):
                text = f"unknown field, ignored{meant(name, known)}"
                yield locator.at((*place, name), text, severity="warning")


def _objects(raw: dict[str, Any]) -> Iterator[tuple[Place, Any, type[BaseModel]]]:
    """Yield the place, the value and the model of all that has fields."""
    yield (), raw, GraphBody
    yield ("retry_policy",), raw.get("retry_policy"), RetryPolicyModel
    yield ("store_config",), raw.get("store_config"), StoreConfigModel
    for index, node in enumerate(_as_list(raw.get("nodes"))):
        yield ("nodes", index), node, GraphNodeModel
        if isinstance(node, dict):
            yield ("nodes", index, "unites"), node.get("unites"), UnitesModel
    for index, trigger in enumerate(_as_list(raw.get("triggers"))):
        yield ("triggers", index), trigger, TriggerModel


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read_complete(target: str, name: str | None, secrets: Mapping[str, str]) -> list[Draft]:
    """Read the graph in a JSON file, or those in a Python file or module, and refuse what cannot be declared.

    ``name`` replaces the file's, or says which of several in Python; ``secrets`` override the file's, of one
    graph.
    """
    if is_json(target):
        return [_complete(read_draft(target), name, secrets)]
    loaded = load(target)
    name = name or loaded.attribute
    graphs = loaded.all_of(Graph) if name is None else []
    if len(graphs) < 2:
        graphs = [loaded.graph(name, option="--name")]
    elif secrets:
        names = ", ".join(graph.name for graph in graphs)
        raise click.UsageError(f"secrets are for one graph, and {target} has {names}: name one with --name")
    return [_complete(draft_of(loaded, graph), None, secrets) for graph in graphs]


def _complete(draft: Draft, name: str | None, secrets: Mapping[str, str]) -> Draft:
    errors = [str(problem) for problem in draft.problems if problem.severity == "error"]
    for problem in draft.problems:
        if problem.severity == "warning":
            print_message(str(problem))
    if errors or draft.body is None:
        raise GraphInvalid(f"{draft.file} declares no valid graph", errors)
    name = name or draft.name
    if not name:
        raise click.UsageError(
            f'{draft.file} does not name its graph: give --name NAME, or write "name": "..." into it'
        )
    missing = sorted(draft.named_secrets - secrets.keys())
    if missing:
        wanted = " ".join(f"--secret {each}" for each in missing)
        raise click.UsageError(f"{draft.file} names secrets without their values: give {wanted}")
    body = draft.body.model_copy(update={"secrets": {**draft.body.secrets, **secrets}})
    return replace(draft, locator=replace(draft.locator, graph=name), body=body)
