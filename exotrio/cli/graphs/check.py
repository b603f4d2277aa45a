"""Checks graphs by the rules of the state manager, with its own modules and without a database.

Nodes are known from the Runtimes in the Python files that were given. The nodes of a namespace that none of
these Runtimes is in are not known: they are assumed to be whatever the graph needs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from exotrio._nodes.checks import declare, returns_list
from exotrio._runtime.runtime import Runtime
from exotrio._util.words import meant
from exotrio._wire.graphs import GraphBody
from exotrio.cli.graphs.file import Draft, draft_of, is_json, read_draft
from exotrio.cli.graphs.problems import FileProblem
from exotrio.cli.load import load, users_line
from exotrio.errors import ExotrioError, ProblemsError
from exotrio.graph import Graph
from exotrio.graph.placeholders import PlaceholderError, parse_placeholders
from exotrio.manager.rules.problems import Problem, RulesBroken
from exotrio.manager.rules.registered import Registered, check_registered
from exotrio.manager.rules.template import Template

Nodes = Mapping[tuple[str, str], Registered]


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check of a graph found."""

    draft: Draft
    problems: list[FileProblem]
    """Errors and warnings, in the order of their lines."""
    unknown: frozenset[str]
    """Namespaces whose nodes are not known."""

    @property
    def valid(self) -> bool:
        return not any(problem.severity == "error" for problem in self.problems)


def nodes_of(runtimes: Iterable[Runtime]) -> dict[tuple[str, str], Registered]:
    """Return the nodes that these Runtimes would register, by namespace and name."""
    found: dict[tuple[str, str], Registered] = {}
    for runtime in runtimes:
        for node in map(declare, runtime.nodes):
            found[runtime.namespace, node.name] = Registered(
                id=len(found),
                namespace=runtime.namespace,
                name=node.name,
                inputs=node.inputs_schema.get("properties", {}),
                outputs=node.outputs_schema.get("properties", {}),
                secrets=tuple(node.secrets),
            )
    return found


def check_draft(
    draft: Draft,
    nodes: Nodes,
    secrets: Iterable[str] = (),
    fan_outs: Collection[tuple[str, str]] = (),
) -> Checked:
    """Check a graph by every rule.

    Args:
        draft: The graph.
        nodes: The nodes that are known, by namespace and name.
        secrets: Names of those that will be given beside the file.
        fan_outs: Namespace and name of nodes that return a list.
    """
    problems = list(draft.problems)
    unknown: frozenset[str] = frozenset()
    if draft.body is not None:
        given = {**draft.body.secrets, **dict.fromkeys(secrets, "")}
        body = draft.body.model_copy(update={"secrets": given})
        known = {namespace for namespace, _ in nodes}
        unknown = frozenset(node.namespace for node in body.nodes) - known
        broken = dict.fromkeys(_broken_rules(body, nodes, unknown))
        problems += [draft.locator.locate(problem, body.nodes) for problem in broken]
        doubtful = [draft.locator.locate(problem, body.nodes) for problem in _doubtful(body, fan_outs)]
        problems += [replace(problem, severity="warning") for problem in doubtful]
    # Those without a line keep their order, at the end.
    problems.sort(key=lambda problem: (problem.line is None, problem.line or 0))
    return Checked(draft, problems, unknown)


def _broken_rules(body: GraphBody, nodes: Nodes, unknown: frozenset[str]) -> Iterator[Problem]:
    yield from map(Problem, body.excess())
    try:
        template = Template(body)
    except RulesBroken as error:
        yield from error.found
        # Template checks placeholders last; but whether they can be read does not depend on the edges.
        yield from _unreadable_placeholders(body)
        return
    names = {place.identifier: (place.namespace, place.node_name) for place in template.places}
    any_node = partial(Registered, id=-1, inputs={}, outputs=_AnyOutputs(), secrets=())
    unseen = {
        (space, name): any_node(namespace=space, name=name)
        for space, name in names.values()
        if space in unknown
    }
    for problem in check_registered(template, {**nodes, **unseen}):
        if problem.node is not None and problem.field is None:  # it is not registered
            wanted, name = names[problem.node]
            hint = meant(name, [each for namespace, each in nodes if namespace == wanted])
            problem = replace(problem, text=problem.text + hint)
        yield problem


def _doubtful(body: GraphBody, fan_outs: Collection[tuple[str, str]]) -> Iterator[Problem]:
    """Yield what the rules allow, but is seldom meant."""
    by_identifier = {node.identifier: node for node in body.nodes}
    for node in body.nodes:
        target = by_identifier.get(node.unites.identifier) if node.unites else None
        if target is not None and (target.namespace, target.node_name) in fan_outs:
            yield Problem(
                f"it unites {target.identifier!r}, which returns a list, so it runs once for each of these "
                f"outputs: to have it run once for all, unite a node before {target.identifier!r}",
                node.identifier,
            )


def _unreadable_placeholders(body: GraphBody) -> Iterator[Problem]:
    for node in body.nodes:
        for name, text in node.inputs.items():
            try:
                parse_placeholders(text) if isinstance(text, str) else None
            except PlaceholderError as error:
                yield Problem(str(error), node.identifier, f"inputs.{name}")


class _AnyOutputs(dict[str, Any]):
    """The outputs of a node that is not known: every name is one, and a string."""

    def __contains__(self, name: object) -> bool:
        return True

    def __missing__(self, name: str) -> dict[str, str]:
        return {"type": "string"}


@dataclass(frozen=True, slots=True)
class Report:
    """The graphs of several files, and the files that could not be read."""

    checked: list[Checked] = field(default_factory=list)
    broken: list[FileProblem] = field(default_factory=list)
    without_graphs: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        return not self.broken and all(each.valid for each in self.checked)

    def as_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "graphs": [
                {"file": each.draft.file, "graph": each.draft.name, "valid": each.valid}
                for each in self.checked
            ],
            "problems": [asdict(problem) for problem in self._problems()],
        }

    def as_lines(self) -> list[str]:
        lines = [str(problem) for problem in self._problems()]
        for each in self.checked:
            name = f"graph {each.draft.name}" if each.draft.name else "the graph"
            lines.append(f"{each.draft.file}: {name} is {'valid' if each.valid else 'invalid'}")
        lines += [f"{file}: no graph" for file in self.without_graphs]
        return lines

    def not_checked(self) -> Iterator[str]:
        """Yield a message about what was not checked."""
        unknown = sorted(frozenset().union(*(each.unknown for each in self.checked)))
        if unknown:
            yield (
                f"not checked: the nodes of namespace {', '.join(map(repr, unknown))}; "
                "name the Python file of their Runtime too"
            )

    def _problems(self) -> Iterator[FileProblem]:
        yield from self.broken
        for each in self.checked:
            yield from each.problems


def check_files(targets: Sequence[str], secrets: Sequence[str] = ()) -> Report:
    """Check the graphs of all files, with the nodes that the Python files among them define."""
    drafts: list[Draft] = []
    runtimes: list[Runtime] = []
    report = Report()
    for target in targets:
        if is_json(target):
            draft = read_draft(target)
            if draft.body is None and draft.locator.source is None:
                report.broken.extend(draft.problems)
            else:
                drafts.append(draft)
            continue
        try:
            loaded = load(target)
        except ExotrioError as error:
            report.broken.extend(_broken(target, error))
            continue
        graphs = loaded.all_of(Graph)
        drafts += [draft_of(loaded, graph) for graph in graphs]
        runtimes += loaded.all_of(Runtime)
        if not graphs:
            report.without_graphs.append(target)
    nodes = nodes_of(runtimes)
    fan_outs = {
        (runtime.namespace, node.__name__)
        for runtime in runtimes
        for node in runtime.nodes
        if returns_list(node)
    }
    report.checked.extend(check_draft(draft, nodes, secrets, fan_outs) for draft in drafts)
    return report


def _broken(target: str, error: ExotrioError) -> list[FileProblem]:
    place = users_line(error.__cause__) if error.__cause__ else None
    line = place[1] if place and place[0].endswith(target.rpartition(":")[0] or target) else None
    what = error.what.removeprefix(f"{target} ")
    problems = error.problems if isinstance(error, ProblemsError) else ()
    return [FileProblem(target, f"{what}: {problem}", line) for problem in problems] or [
        FileProblem(target, what, line)
    ]
