"""``python -m exotrio graph``: declare, show, check and delete graphs."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from exotrio._util.cron import local_time, next_occurrence_ms, occurrences, parts_of
from exotrio._util.times import iso_time, moment_ms, timestamp
from exotrio._util.words import listed, plural
from exotrio._wire.graphs import GraphBody, GraphReply
from exotrio._wire.vocabulary import Priority
from exotrio.cli import completion, options
from exotrio.cli.connection import Connection, connection, named_options, resolve
from exotrio.cli.exit_codes import FAILED, INVALID, SUCCESS
from exotrio.cli.graphs.against_runs import compare_with_runs, lines_of
from exotrio.cli.graphs.check import check_files
from exotrio.cli.graphs.draft import read_complete
from exotrio.cli.graphs.limits import changes_of_limits, limits_of, lines_of_limits
from exotrio.cli.groups import Commands
from exotrio.cli.lookup import about, find_graph, read_graph
from exotrio.cli.terminal.logs import show_warnings
from exotrio.cli.terminal.output import pairs, print_as, print_message
from exotrio.client import GraphInfo, LimitInfo, StateManager
from exotrio.graph import GraphNodeModel, RetryPolicyModel

NEXT_RUNS = 3
"""How many future times are printed for each cron trigger."""


@click.group(name="graph", cls=Commands)
def command() -> None:
    """Declare, show, check and delete graphs; pause and resume their schedules.

    A FILE is a JSON file with the graph as in Exosphere's documentation, or Python with a Graph.
    """


@command.command(name="apply")
@click.argument("target", metavar="FILE_OR_MODULE", shell_complete=completion.files)
@click.option(
    "--name",
    metavar="NAME",
    help="Name for the graph of a JSON file, or which graph of a Python file.",
)
@options.secrets
@options.seconds("--timeout", 60, "How long to wait for the validation.")
@connection
def apply(
    target: str,
    name: str | None,
    secrets: dict[str, str],
    timeout: float,
    connection: Connection,
) -> None:
    """Create or replace a graph, or all graphs of a Python file, and wait until they are validated.

    FILE_OR_MODULE is a JSON file (- for standard input) or Python with a Graph. Secrets given here
    override those in the file; the graph keeps no others. Runs that have begun keep the graph they
    began with. Without a namespace, it is that of the Graph in Python.

    JSON: as in `graph show`; for several graphs as in `graph ls`.
    """
    drafts = read_complete(target, name, secrets)
    applied: list[tuple[str, GraphReply]] = []
    if not connection.namespace and (own := {draft.namespace for draft in drafts if draft.namespace}):
        if len(own) > 1:
            raise click.UsageError(f"the graphs have the namespaces {listed(sorted(own))}: give one with -n")
        (connection.namespace,) = own

    async def declare(manager: StateManager) -> None:
        for draft in drafts:
            name, body = draft.name or "", draft.body
            before = await limits_of(manager, body)
            stored = read_graph(name, await draft.declare(manager, timeout))
            declared = () if body is None else body.limits
            for line in changes_of_limits(name, declared, before, await limits_of(manager, body)):
                print_message(line)
            # Read only if need be: the key may store graphs and not read them.
            if body is None or _settings(stored) != _settings(body):
                stored = await find_graph(manager, name)
            applied.append((name, stored))

    try:
        connection.ask(declare)
    finally:
        if 0 < len(applied) < len(drafts):
            print_message(f"applied before that: {', '.join(name for name, _ in applied)}")
    named = [(name, connection.namespace, graph) for name, graph in applied]
    graphs = [_as_json(*each) for each in named]
    body = graphs[0] if len(graphs) == 1 else {"namespace": connection.namespace, "graphs": graphs}
    connection.print(body, (line for each in named for line in (_headline(*each), *_cron_lines(each[2]))))


@command.command(name="ls")
@connection
def ls(connection: Connection) -> None:
    """List the graphs of a namespace.

    JSON: namespace and graphs, each as in `graph show`.
    """
    graphs = connection.ask(StateManager.graphs)
    connection.print_list(
        ("graph", "status", "nodes", "problems", "cron", "updated"),
        [_row(graph) for graph in graphs],
        f"{plural(len(graphs), 'graph')} in namespace {connection.namespace}",
        hint="declare one with: python -m exotrio graph apply FILE",
        graphs=[_as_json(graph.name, connection.namespace, graph) for graph in graphs],
    )


@command.command(name="show")
@options.graph
@connection
def show(graph: str, connection: Connection) -> None:
    """Show a graph: its nodes and their next nodes, secrets by name, cron times, and problems.

    JSON: the graph as the API shows it, with name, namespace, and next_runs by cron expression, which
    begins with CRON_TZ=ZONE if it is not in UTC. `graph apply` accepts it; give the secrets with --secret,
    since only their names are shown.
    """

    async def read(manager: StateManager) -> tuple[GraphReply, dict[str, LimitInfo] | None]:
        reply = await find_graph(manager, graph)
        return reply, await limits_of(manager, reply)

    reply, limits = connection.ask(read)
    named = (graph, connection.namespace, reply)
    connection.print(_as_json(*named), _as_lines(*named, limits))


@command.command(name="delete")
@options.graph
@click.option("--cancel-runs", is_flag=True, help="Cancel its runs that have not ended.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@connection
def delete(graph: str, cancel_runs: bool, yes: bool, connection: Connection) -> None:
    """Delete a graph with its runs and their history, its triggers and its secrets.

    A graph with runs that have not ended is deleted only with --cancel-runs. A state manager that speaks only
    v0 cannot delete graphs.

    JSON: namespace, graph_name, deleted_runs and cancelled_runs.
    """
    connection.ask(lambda manager: find_graph(manager, graph))  # it may choose the namespace
    what = f"graph {graph} of namespace {connection.namespace}"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"{what} would be deleted with all its runs: give --yes to do that")
        click.confirm(f"Delete {what} with all its runs and their history?", abort=True, err=True)
    deleted = connection.ask(
        lambda manager: about(manager, "graph", graph, manager.delete_graph(graph, cancel_runs=cancel_runs))
    )
    cancelled = f", {deleted.cancelled_runs:,} of them cancelled" if deleted.cancelled_runs else ""
    line = f"{what} deleted with {plural(deleted.deleted_runs, 'run')}{cancelled}"
    connection.print(deleted, [line])


@command.command(name="pause")
@options.graph
@connection
def pause(graph: str, connection: Connection) -> None:
    """Pause the schedule of GRAPH: its cron triggers start no runs. Runs can be started in other ways.

    It stays paused when the graph is applied again. Runs for times that pass meanwhile are not made up.

    JSON: namespace, graph, paused_at.
    """
    paused_at = connection.ask(lambda manager: about(manager, "graph", graph, manager.pause_schedule(graph)))
    connection.print_pause("graph", graph, paused_at)


@command.command(name="resume")
@options.graph
@connection
def resume(graph: str, connection: Connection) -> None:
    """Resume the schedule of GRAPH: its cron triggers start runs again, at their next times.

    JSON: namespace, graph, paused_at (null).
    """
    connection.ask(lambda manager: about(manager, "graph", graph, manager.resume_schedule(graph)))
    connection.print_pause("graph", graph, None)


@command.command(name="check")
@click.argument(
    "targets", metavar="FILE_OR_MODULE...", nargs=-1, required=True, shell_complete=completion.files
)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A secret that `apply` will be given; repeatable.",
)
@click.option(
    "--against-runs",
    is_flag=True,
    help="Also compare the nodes with the runs in flight of a state manager; exit 1 if one would break.",
)
@options.output
@named_options
def check(
    targets: tuple[str, ...], secrets: tuple[str, ...], against_runs: bool, output: str, **named: Any
) -> int:
    """Check graphs by the state manager's rules, without a state manager, and print every problem.

    Each FILE_OR_MODULE is a JSON file (- for standard input) or Python, which is imported. Nodes are
    known from the Runtimes in all the Python files; nodes of namespaces without a Runtime are not
    checked. Exits 3 if a graph is invalid. Warnings, as of a str output for an input that is a list, do not
    count.

    With --against-runs, the nodes of the Runtimes are compared with those that are registered, for what
    each run in flight still has ahead, and with the inputs of its states that wait. Nothing is changed.
    Before a state manager has such runs, `rehearse --successor` finds what new code breaks.

    JSON: valid, graphs (file, graph, valid) and problems (file, line, graph, node, field, severity,
    message). With --against-runs also: against_runs with broken (namespace, graph, change, run_ids, runs),
    runs, checked, is_more; a change has node, field, old, new, what, fix, certain, places.
    """
    names = [secret.partition("=")[0] for secret in secrets]
    report = check_files(targets, names)
    body, lines, breaks = report.as_json(), report.as_lines(), False
    if against_runs and report.valid:
        show_warnings()
        manager = resolve(**named)
        compared = compare_with_runs(manager, report, names)
        body["against_runs"] = compared
        lines += lines_of(compared, manager.namespace)
        breaks = compared.runs > 0
    print_as(output, body, lines)
    if report.valid and report.unknown_namespaces:
        namespaces = ", ".join(map(repr, sorted(report.unknown_namespaces)))
        print_message(
            f"not checked: the nodes of namespace {namespaces}; name the Python file of their Runtime too"
        )
    if breaks:
        print_message("see how such runs end: python -m exotrio rehearse OLD_FILE --successor NEW_FILE")
        return FAILED
    return SUCCESS if report.valid else INVALID


def _settings(graph: GraphBody | GraphReply) -> list[dict[str, Any]]:
    """Return what the stock state manager does not always answer as it is stored."""
    return [graph.retry_policy.model_dump(), graph.store_config.model_dump()]


def _row(graph: GraphInfo) -> tuple[str, ...]:
    counts = (len(graph.nodes), len(graph.validation_errors))
    cron = ", ".join(map(_cron, graph.schedules)) + " (paused)" * (graph.paused_at is not None)
    return (graph.name, graph.validation_status.value, *map(str, counts), cron, iso_time(graph.updated_at))


def _as_json(name: str, namespace: str, graph: GraphReply) -> dict[str, Any]:
    """Return a graph as v0 returns it, with its name and the next times of its triggers."""
    return {
        "name": name,
        "namespace": namespace,
        **graph.model_dump(mode="json", exclude={"id", "name", "namespace", "scheduled"}),
        "next_runs": {
            each: [timestamp(at, "seconds") for at in _next_times(graph, each)] for each in graph.schedules
        },
    }


def _as_lines(name: str, namespace: str, graph: GraphReply, limits: dict[str, LimitInfo] | None) -> list[str]:
    """Return the lines for a graph: nodes with their next nodes, settings, and every problem."""
    lines = [_headline(name, namespace, graph), f"updated: {iso_time(graph.updated_at)}", "nodes:"]
    for node in graph.nodes:
        lines += _node(node, namespace)
    lines.append(f"secrets: {', '.join(graph.secrets) or 'none'}")
    lines.append(f"retry policy: {_policy(graph.retry_policy)}")
    lines += lines_of_limits(graph, limits)
    if graph.version is not None:
        lines.append(f"version: runs are executed by runtimes of version {graph.version} only")
    if graph.on_failure is not None:
        lines.append(f"when a run ends with errors: starts a run of graph {graph.on_failure}")
    store = graph.store_config
    if store.required_keys:
        lines.append(f"store, required: {', '.join(store.required_keys)}")
    if store.default_values:
        lines.append("store, defaults:")
        lines += pairs(store.default_values, "  ")
    lines += _cron_lines(graph)
    if graph.validation_errors:
        lines += ["problems:", *(f"  - {problem}" for problem in graph.validation_errors)]
    return lines


def _headline(name: str, namespace: str, graph: GraphReply) -> str:
    """Return one line about a graph."""
    status, nodes = graph.validation_status.value, plural(len(graph.nodes), "node")
    return f"graph {name} of namespace {namespace}: {status}, {nodes}"


def _cron_lines(graph: GraphReply) -> list[str]:
    """Return a line for each cron trigger, with its next times, and one if these are paused."""
    paused = [f"schedule: paused since {iso_time(graph.paused_at)}"] if graph.paused_at else []
    return paused + [
        f"cron: {_cron(each)}{_priority(priority)}  {_next_line(graph, each)}"
        for each, priority in graph.schedules.items()
    ]


def _cron(schedule: str) -> str:
    expression, zone = parts_of(schedule)
    return expression if zone == "UTC" else f"{expression} {zone}"


def _priority(priority: Priority) -> str:
    return "" if priority == Priority.NORMAL else f", priority {priority}"


def _next_line(graph: GraphReply, schedule: str) -> str:
    zone = parts_of(schedule)[1]
    times = [
        timestamp(each, "seconds") + ("" if zone == "UTC" else f" ({local_time(each, zone)})")
        for each in _next_times(graph, schedule)
    ]
    if times:
        return f"next {', '.join(times)}"
    return "next never" if _next_after_now(schedule) is None else "cancelled; `graph apply` begins it again"


def _next_times(graph: GraphReply, schedule: str) -> list[int]:
    """Return the next times of a schedule in Unix milliseconds; fewer if there are no more."""
    if graph.scheduled is None:
        return occurrences(schedule, _next_after_now(schedule), NEXT_RUNS)
    first = graph.scheduled.get(schedule)
    return occurrences(schedule, None if first is None else moment_ms(first), NEXT_RUNS)


def _next_after_now(schedule: str) -> int | None:
    return next_occurrence_ms(schedule, int(time.time() * 1000))


def _node(node: GraphNodeModel, namespace: str) -> list[str]:
    kind = node.node_name if node.namespace == namespace else f"{node.node_name} of {node.namespace}"
    head = f"  {node.identifier} ({kind})"
    if node.timeout_minutes is not None:
        head += f" within {node.timeout_minutes} min"
    if node.timeout is not None:
        head += f" within {node.timeout:g} s"
    if node.retry_policy is not None:
        head += f" retried: {_policy(node.retry_policy)};"
    if node.when is not None:
        head += f" when {node.when}"
    if node.otherwise:
        head += " otherwise"
    if node.limits:
        head += f" limited by {', '.join(limit.name for limit in node.limits)}"
    if node.unites:
        head += f" unites {node.unites.identifier} ({node.unites.strategy.value})"
    if node.next_nodes:
        head += f" -> {', '.join(node.next_nodes)}"
    return [head, *pairs(node.inputs, "    ")]


def _policy(policy: RetryPolicyModel) -> str:
    if policy.max_retries == 0:
        return "no retries"
    cap = "" if policy.max_delay is None else f", at most {policy.max_delay} ms"
    exponent = f", exponent {policy.exponent}" if policy.strategy.value.startswith("EXPONENTIAL") else ""
    backoff = f"backoff {policy.backoff_factor} ms{exponent}{cap}"
    return f"{policy.strategy.value}, {policy.max_retries} retries, {backoff}"
