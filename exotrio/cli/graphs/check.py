"""Checks graphs by the rules of the state manager, with its own modules and without a database.

Nodes are known from the Runtimes in the Python files. In a namespace without such a Runtime, every node that
a graph names is assumed to exist, with any inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from exotrio import Runtime
from exotrio._nodes.checks import declare, returns_list
from exotrio._util.words import listed, suggestion
from exotrio._wire.graphs import GraphBody
from exotrio._wire.limits import limit_text
from exotrio.cli.graphs.draft import Draft, FileProblem, draft_of, is_json, read_draft
from exotrio.cli.load import load, users_line
from exotrio.errors import ExotrioError, GraphInvalid, ProblemsError
from exotrio.graph import WITHOUT_RUNTIME, Graph, LimitModel
from exotrio.graph.placeholders import PlaceholderError, parse_placeholders
from exotrio.manager.rules.problems import Problem, RulesBroken
from exotrio.manager.rules.registered import Registered, check_registered
from exotrio.manager.rules.template import Template

Nodes = Mapping[tuple[str, str], Registered]


def nodes_of(runtimes: Iterable[Runtime]) -> dict[tuple[str, str], Registered]:
    """Return the nodes that these Runtimes would register, by namespace and name."""
    nodes: dict[tuple[str, str], Registered] = {}
    for runtime in runtimes:
        for node in map(declare, runtime.nodes):
            nodes[runtime.namespace, node.name] = Registered(
                id=len(nodes),
                namespace=runtime.namespace,
                name=node.name,
                inputs=node.inputs_schema.get("properties", {}),
                outputs=node.outputs_schema.get("properties", {}),
                secrets=tuple(node.secrets),
            )
    return nodes


def check_draft(
    draft: Draft,
    nodes: Nodes,
    secrets: Iterable[str] = (),
    fan_outs: Collection[tuple[str, str]] = (),
) -> None:
    """Check a graph by every rule, and add what is wrong to its problems.

    Args:
        nodes: The nodes that are known, by namespace and name.
        secrets: Names of secrets that are not in the file, but will be given when it is applied.
        fan_outs: Namespace and name of nodes that return a list.
    """
    if draft.body is not None:
        names = {**draft.body.secrets, **dict.fromkeys(secrets, "")}
        body = draft.body.model_copy(update={"secrets": names})
        draft.problems += map(draft.located, dict.fromkeys(_broken_rules(body, nodes)))
        draft.problems += [draft.located(problem, "warning") for problem in _doubtful(body, fan_outs)]


def _broken_rules(body: GraphBody, nodes: Nodes) -> Iterator[Problem]:
    yield from map(Problem.read, body.problems())
    try:
        template = Template(body)
    except RulesBroken as error:
        yield from error.found
        # Template checks placeholders last; but whether they can be read does not depend on the edges.
        yield from _unreadable_placeholders(body)
        return
    known_namespaces = {namespace for namespace, _ in nodes}
    names = {node.identifier: (node.namespace, node.node_name) for node in template.places}
    any_node = partial(Registered, id=-1, inputs={}, outputs=_AnyOutputs(), secrets=())
    assumed = {
        (namespace, name): any_node(namespace=namespace, name=name)
        for namespace, name in names.values()
        if namespace not in known_namespaces or name in WITHOUT_RUNTIME
    }
    # A graph that uses none of a Runtime's nodes, but some of their names, has another namespace by mistake:
    # nothing else would be found in it, since the nodes of its namespace are assumed.
    used = {namespace for namespace, _ in names.values()}
    for identifier, (namespace, name) in names.items():
        others = [known for known, of_same in nodes if of_same == name and known not in used]
        if namespace not in known_namespaces and others:
            text = f"{name!r} is not of namespace {namespace!r}, but of {listed(map(repr, others))},"
            yield Problem(f"{text} where a Runtime has it", identifier)
    for problem in check_registered(
        template, {**nodes, **assumed}, dict.fromkeys(template.graphs, _AnyOutputs())
    ):
        if problem.node is not None and problem.field is None:  # it is not registered
            namespace, name = names[problem.node]
            hint = suggestion(name, [known for space, known in nodes if space == namespace])
            problem = replace(problem, text=problem.text + hint)
        yield problem


def _doubtful(body: GraphBody, fan_outs: Collection[tuple[str, str]]) -> Iterator[Problem]:
    """Yield what the rules allow although users seldom intend it."""
    declared = [limit.name for limit in body.limits]
    for node in body.nodes:
        for limit in node.limits:
            if limit.name not in declared and (hint := suggestion(limit.name, declared)):
                text = f"the graph does not declare it, so it has to exist in the namespace{hint}"
                yield Problem(text, node.identifier, f"limits.{limit.name}")
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


@dataclass(slots=True)
class Report:
    """The graphs of several files, the files that could not be read, and those that have no graph."""

    drafts: list[Draft] = field(default_factory=list)
    broken: list[FileProblem] = field(default_factory=list)
    without_graphs: list[str] = field(default_factory=list)
    runtimes: list[Runtime] = field(default_factory=list)
    unknown_namespaces: set[str] = field(default_factory=set)
    """Namespaces whose nodes were not checked, since no file has a Runtime in them."""

    @property
    def valid(self) -> bool:
        return not self.broken and all(draft.valid for draft in self.drafts)

    @property
    def problems(self) -> list[FileProblem]:
        return [*self.broken, *(problem for draft in self.drafts for problem in draft.problems)]

    def as_json(self) -> dict[str, Any]:
        return {
            "valid": self.valid,
            "graphs": [
                {"file": draft.file, "graph": draft.name, "valid": draft.valid} for draft in self.drafts
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def as_lines(self) -> list[str]:
        lines = [str(problem) for problem in self.problems]
        for draft in self.drafts:
            name = f"graph {draft.name}" if draft.name else "the graph"
            lines.append(f"{draft.file}: {name} is {'valid' if draft.valid else 'invalid'}")
        return lines + [f"{file}: no graph" for file in self.without_graphs]


def check_files(targets: Sequence[str], secrets: Sequence[str] = ()) -> Report:
    """Check the graphs of all files, with the nodes that the Python files among them define."""
    report = Report()
    for target in targets:
        if is_json(target):
            draft = read_draft(target)
            if draft.raw is None:
                report.broken += draft.problems
            else:
                report.drafts.append(draft)
            continue
        try:
            loaded = load(target)
        except ExotrioError as error:
            report.broken += _load_problems(target, error)
            continue
        graphs = loaded.all_of(Graph)
        report.drafts += [draft_of(loaded.target, graph) for graph in graphs]
        report.runtimes += loaded.all_of(Runtime)
        if not graphs:
            report.without_graphs.append(target)
    nodes = nodes_of(report.runtimes)
    fan_outs = {
        (runtime.namespace, node.__name__)
        for runtime in report.runtimes
        for node in runtime.nodes
        if returns_list(node)
    }
    for draft in report.drafts:
        check_draft(draft, nodes, secrets, fan_outs)
        used = () if draft.body is None else draft.body.nodes
        report.unknown_namespaces |= {node.namespace for node in used} - {namespace for namespace, _ in nodes}
    _compare_limits(report.drafts)
    return report


def _compare_limits(drafts: Iterable[Draft]) -> None:
    """Warn of graphs that declare a limit of a namespace otherwise than one before them."""
    known: dict[tuple[str, str], tuple[Draft, LimitModel]] = {}
    for draft in drafts:
        if (body := draft.body) is None:
            continue
        for limit in body.limits:
            for namespace in dict.fromkeys(node.namespace for node in body.nodes):
                other, same = known.setdefault((namespace, limit.name), (draft, limit))
                if same != limit:
                    text = f"{limit_text(limit)}, and graph {other.name} declares {limit_text(same)}: the one"
                    problem = Problem(f"{text} that is applied last counts", None, f"limits.{limit.name}")
                    draft.problems.append(draft.located(problem, "warning"))
                    break


def _load_problems(target: str, error: ExotrioError) -> list[FileProblem]:
    user_line = users_line(error.__cause__) if error.__cause__ else None
    in_target = user_line and user_line[0].endswith(target.rpartition(":")[0] or target)
    line = user_line[1] if user_line and in_target else None
    what = error.what.removeprefix(f"{target} ")
    problems = error.problems if isinstance(error, ProblemsError) else ()
    if isinstance(error, GraphInvalid) and error.fix and not problems:
        what += f"; {error.fix}"
    return [FileProblem(target, f"{what}: {problem}", line) for problem in problems] or [
        FileProblem(target, what, line)
    ]
