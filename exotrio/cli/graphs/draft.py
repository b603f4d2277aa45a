"""Graphs as files declare them: JSON as in Exosphere's documentation, or a ``Graph`` in a Python module.

A JSON file holds the body of v0's upsert: ``nodes``, and if need be ``secrets``, ``retry_policy``,
``store_config`` and ``triggers``; also ``name`` (or ``graph_name``). A secret whose value is ``true``, as the
state manager shows it, has no value in the file: ``--secret`` or ``--secrets-file`` must provide it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel, ValidationError

from exotrio._util.json import encode
from exotrio._util.words import one_line, suggestion
from exotrio._wire.graphs import GraphBody, TriggerModel
from exotrio.cli.load import load
from exotrio.cli.terminal.output import print_message
from exotrio.cli.values import STANDARD_INPUT, Unreadable, read_text, shown
from exotrio.client import StateManager
from exotrio.errors import GraphInvalid
from exotrio.graph import (
    ConditionModel,
    Graph,
    GraphNodeModel,
    RetryPolicyModel,
    StoreConfigModel,
    UnitesModel,
)
from exotrio.manager.rules.problems import Problem

JsonPath = tuple[str | int, ...]
"""Keys and indexes, the outermost first: ``("nodes", 0, "inputs")``."""
_SHOWN = frozenset(
    {"name", "graph_name", "namespace", "$schema", "created_at", "updated_at", "validation_status"}
    | {"validation_errors", "scheduled", "next_runs", "paused_at"}
)
"""Fields that the state manager and ``graph show`` add to a graph; they are ignored in a file."""


@dataclass(frozen=True, slots=True)
class FileProblem:
    """One thing that is wrong in a file. A field that is not known, or does not apply, is None.

    Attributes:
        message: One line; it names node and input.
        line: Of a file that cannot be read, or of the code that raised.
        field: Field of the node or the graph; of an input, ``inputs.NAME``.
        severity: ``error``, or ``warning`` for what the state manager ignores, or allows.
    """

    file: str
    message: str
    line: int | None = None
    graph: str | None = None
    node: str | None = None
    field: str | None = None
    severity: str = "error"

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        warning = "warning: " if self.severity == "warning" else ""
        return f"{where}: {warning}{one_line(self.message)}"


@dataclass(slots=True)
class Draft:
    """A graph as a file declares it, and what is wrong with it.

    Attributes:
        body: The declaration; None if the file cannot be read as one.
        problems: Errors and warnings.
        named_secrets: Secrets that the file names without a value.
        raw: What the file holds, if it could be read as JSON.
        namespace: The graph's own, if it is in Python and has one.
    """

    file: str
    name: str | None
    body: GraphBody | None = None
    problems: list[FileProblem] = field(default_factory=list)
    named_secrets: frozenset[str] = frozenset()
    raw: Mapping[str, Any] | None = None
    namespace: str | None = None

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)

    def add_problem(self, path: JsonPath, message: str, *, severity: str = "error") -> None:
        """Add a problem with the value at ``path`` in the JSON of the graph."""
        node, field = None, ".".join(map(str, path)) or None
        if path[:1] == ("nodes",) and len(path) > 1:
            node = self._identifier(path[1])
            field = ".".join(map(str, path[2:])) or None
            where = f"node {node!r}" if node is not None else f"nodes[{path[1]}]"
            message = ", ".join(filter(None, (where, field))) + f": {message}"
        elif field:
            message = f"{field}: {message}"
        self.problems.append(FileProblem(self.file, message, None, self.name, node, field, severity))

    def located(self, problem: Problem, severity: str = "error") -> FileProblem:
        """Return a problem that the rules of the state manager found."""
        return FileProblem(self.file, str(problem), None, self.name, problem.node, problem.field, severity)

    async def declare(self, manager: StateManager, timeout: float = 60.0) -> dict[str, Any]:
        """Create or replace the graph, wait until it is validated, return it; GraphInvalid names the file.

        Fields that the file leaves out are not sent: the state manager has its own defaults.
        """
        assert self.body is not None
        assert self.name is not None
        try:
            return await manager._upsert(self.name, self.body, timeout)
        except GraphInvalid as error:
            problems = [f"{self.file}: {problem}" for problem in error.problems]
            raise GraphInvalid(error.what, problems, where=error.where, fix=error.fix) from error

    def _identifier(self, index: str | int) -> str | None:
        try:
            identifier = self.raw["nodes"][index]["identifier"] if self.raw else None
        except (LookupError, TypeError):  # the file lacks it, or has another type there
            return None
        return identifier if isinstance(identifier, str) else None


def is_json(target: str) -> bool:
    """Whether an argument names a JSON file, or standard input, and not Python."""
    if target == STANDARD_INPUT or target.lower().endswith(".json"):
        return True
    return not target.endswith(".py") and Path(target).is_file()


def draft_of(file: str, graph: Graph) -> Draft:
    """Return a ``Graph`` of a Python file; its fields were checked when it was built."""
    draft = Draft(file, graph.name, GraphBody.of(graph), namespace=graph.namespace)
    draft.problems += [draft.located(Problem.read(line), "warning") for line in graph.warnings()]
    return draft


def read_draft(file: str) -> Draft:
    """Read a JSON file, or standard input for ``-``. Errors become problems of the draft."""
    name = shown(file)
    try:
        if file != STANDARD_INPUT and not Path(file).exists():
            near = map(str, Path(file).parent.glob("*.json"))
            raise Unreadable(f"there is no such file{suggestion(str(Path(file)), near)}")
        value, repeated = _parse(read_text(file))
    except Unreadable as error:
        reason, line = str(error), None
    except json.JSONDecodeError as error:
        reason, line = f"not JSON: {error.msg[:1].lower()}{error.msg[1:]}", error.lineno
    except (ValueError, RecursionError) as error:
        reason, line = f"not JSON: {error}", None
    else:
        if isinstance(value, dict):
            return _draft_of_json(name, value, repeated)
        reason, line = 'a graph is a JSON object: {"nodes": [...], ...}', 1
    return Draft(name, None, problems=[FileProblem(name, reason, line)])


def _parse(text: str) -> tuple[Any, list[str]]:
    """Return the value of a JSON text, and the keys that occur twice in their object; ValueError if it is not
    JSON."""
    repeated: dict[str, None] = {}

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value: dict[str, Any] = {}
        for key, member in pairs:
            if key in value:
                repeated[key] = None
            value[key] = member
        return value

    value = json.loads(text, object_pairs_hook=members)
    encode(value)  # it refuses what Python accepts: NaN, and halves of surrogate pairs
    return value, list(repeated)


def _draft_of_json(file: str, raw: dict[str, Any], repeated: Iterable[str]) -> Draft:
    names = {key: raw[key] for key in ("name", "graph_name") if key in raw}
    bad_names = [key for key, name in names.items() if not (isinstance(name, str) and name.strip())]
    first = next(iter(names), None)
    draft = Draft(file, None if first is None or first in bad_names else names[first], raw=raw)
    for key in repeated:
        draft.add_problem((key,), "is given twice in an object; the last one is used")
    for key in bad_names:
        draft.add_problem((key,), "must be a name in quotes")
    secrets = raw.get("secrets", {})
    if isinstance(secrets, dict):
        draft.named_secrets = frozenset(name for name, value in secrets.items() if value is True)
        secrets = {**secrets, **dict.fromkeys(draft.named_secrets, "")}
    try:
        draft.body = GraphBody.model_validate({**raw, "secrets": secrets})
    except ValidationError as error:
        # Without the values: they may be secret.
        for each in error.errors(include_url=False, include_context=False, include_input=False):
            path = each["loc"][:-1] if each["loc"][-1:] == ("[key]",) else each["loc"]  # of a member's name
            draft.add_problem(path, each["msg"].removeprefix("Value error, "))
    for path, value, model in _objects(raw):
        known = model.model_fields
        for name in value if isinstance(value, dict) else ():
            if name not in known and not (path == () and name in _SHOWN):
                text = f"unknown field, ignored{suggestion(name, known)}"  # usually it is mistyped
                draft.add_problem((*path, name), text, severity="warning")
    return draft


def _objects(raw: dict[str, Any]) -> Iterator[tuple[JsonPath, Any, type[BaseModel]]]:
    """Yield the path, the value and the model of every object that has fields."""
    yield (), raw, GraphBody
    yield ("retry_policy",), raw.get("retry_policy"), RetryPolicyModel
    yield ("store_config",), raw.get("store_config"), StoreConfigModel
    for index, node in enumerate(_as_list(raw.get("nodes"))):
        yield ("nodes", index), node, GraphNodeModel
        if isinstance(node, dict):
            yield ("nodes", index, "unites"), node.get("unites"), UnitesModel
            yield ("nodes", index, "when"), node.get("when"), ConditionModel
            yield ("nodes", index, "retry_policy"), node.get("retry_policy"), RetryPolicyModel
    for index, trigger in enumerate(_as_list(raw.get("triggers"))):
        yield ("triggers", index), trigger, TriggerModel


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def read_complete(target: str, name: str | None, secrets: Mapping[str, str]) -> list[Draft]:
    """Read the graph in a JSON file, or those in a Python file or module, and refuse what cannot be declared.

    ``name`` replaces the name in a JSON file, or selects one of several graphs in Python. ``secrets``
    override those of the file, and need a single graph.
    """
    if is_json(target):
        draft = read_draft(target)
        draft.name = name or draft.name
        return [_complete(draft, secrets)]
    loaded = load(target)
    name = name or loaded.attribute
    graphs = loaded.all_of(Graph) if name is None else []
    if len(graphs) < 2:
        graphs = [loaded.graph(name, option="--name")]
    elif secrets:
        names = ", ".join(graph.name for graph in graphs)
        raise click.UsageError(f"secrets are for one graph, and {target} has {names}: name one with --name")
    # Each before those that name it: a state manager refuses to store a graph that names an unknown one.
    in_order = dict.fromkeys(each.name for graph in graphs for each in (*graph.named_graphs(), graph))
    graphs.sort(key=lambda graph: list(in_order).index(graph.name))
    return [_complete(draft_of(loaded.target, graph), secrets) for graph in graphs]


def _complete(draft: Draft, secrets: Mapping[str, str]) -> Draft:
    """Add secrets to a draft; refuse one that is invalid or incomplete."""
    for problem in draft.problems:
        if problem.severity == "warning":
            print_message(str(problem))
    if not draft.valid or draft.body is None:
        errors = [str(problem) for problem in draft.problems if problem.severity == "error"]
        raise GraphInvalid(f"{draft.file} declares no valid graph", errors)
    if not draft.name:
        raise click.UsageError(
            f'{draft.file} does not name its graph: give --name NAME, or write "name": "..." into it'
        )
    if missing := sorted(draft.named_secrets - secrets.keys()):
        options = " ".join(f"--secret {each}" for each in missing)
        raise click.UsageError(f"{draft.file} names secrets without their values: give {options}")
    draft.body = draft.body.model_copy(update={"secrets": {**draft.body.secrets, **secrets}})
    return draft
