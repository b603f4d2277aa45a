"""``python -m exotrio graph``: declare, show and check graphs."""

from __future__ import annotations

from itertools import chain

import click

from exotrio._util.times import iso_time
from exotrio._util.words import plural
from exotrio._wire.graphs import GraphReply
from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import INVALID, SUCCESS
from exotrio.cli.graphs.apply import read_application
from exotrio.cli.graphs.report import check_files
from exotrio.cli.graphs.view import cron_lines, graph_as_json, graph_as_lines, headline
from exotrio.cli.groups import Commands
from exotrio.cli.lookup.resources import find_graph
from exotrio.cli.terminal.output import print_as, print_message, table
from exotrio.cli.values import merged
from exotrio.client import GraphInfo, StateManager


@click.group(name="graph", cls=Commands)
def command() -> None:
    """Declare, show and check graphs.

    A FILE is a JSON file with the graph as in Exosphere's documentation, or Python with a Graph.
    """


@command.command(name="apply")
@click.argument("target", metavar="FILE_OR_MODULE")
@click.option("--name", metavar="NAME", help="Name of the graph, or which one of several in a Python file.")
@options.secrets
@options.secrets_file
@click.option(
    "--timeout",
    default=60,
    show_default=True,
    type=options.Seconds(),
    help="How long to wait for the validation.",
)
@options.output
@connection
def apply(
    target: str,
    name: str | None,
    secrets: dict[str, str],
    secrets_file: dict[str, str],
    timeout: float,
    output: str,
    connection: Connection,
) -> int:
    """Create or replace a graph, and wait until it is validated.

    FILE_OR_MODULE is a JSON file (- for standard input) or Python with a Graph. Secrets given here
    override those in the file; the graph keeps no others. Runs that have begun keep the graph they
    began with.

    JSON: as `graph show`.
    """
    given = merged(secrets, secrets_file, "--secret", "--secrets-file")
    application = read_application(target, name, given)

    async def upsert(manager: StateManager) -> GraphReply:
        await application.upsert(manager, timeout)
        return await find_graph(manager, application.name)

    graph = connection.ask(upsert)
    named = (application.name, connection.namespace, graph)
    print_as(output, graph_as_json(*named), [headline(*named), *cron_lines(graph)])
    return SUCCESS


@command.command(name="ls")
@options.output
@connection
def ls(output: str, connection: Connection) -> int:
    """List the graphs of a namespace.

    JSON: namespace and graphs, each as of `graph show`.
    """
    graphs = connection.ask(StateManager.graphs)
    namespace = connection.namespace
    shown = [graph_as_json(graph.name, namespace, graph) for graph in graphs]
    heads = ("graph", "status", "nodes", "problems", "cron", "updated")
    count = f"{plural(len(graphs), 'graph')} in namespace {namespace}"
    body = {"namespace": namespace, "graphs": shown}
    print_as(output, body, chain(table(heads, map(_row, graphs)), [count]))
    if not graphs and output != "json":
        print_message("declare one with: python -m exotrio graph apply FILE")
    return SUCCESS


@command.command(name="show")
@click.argument("graph")
@options.output
@connection
def show(graph: str, output: str, connection: Connection) -> int:
    """Show a graph: its nodes and their next nodes, secrets by name, cron times, and problems.

    JSON: the graph as the API shows it, with name, namespace, and next_runs by cron expression.
    `graph apply` accepts it; give the secrets, of which it has only the names, with --secret.
    """
    found = connection.ask(lambda manager: find_graph(manager, graph))
    named = (graph, connection.namespace, found)
    print_as(output, graph_as_json(*named), graph_as_lines(*named))
    return SUCCESS


@command.command(name="check")
@click.argument("targets", metavar="FILE_OR_MODULE...", nargs=-1, required=True)
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="A secret that `apply` will get; repeatable.",
)
@options.output
def check(targets: tuple[str, ...], secrets: tuple[str, ...], output: str) -> int:
    """Check graphs by the rules of the state manager, without one, and print every problem.

    Each FILE_OR_MODULE is a JSON file (- for standard input) or Python, which is imported. Nodes are
    known from the Runtimes in the Python files, for the graphs of all files; nodes of other namespaces
    are not checked. Exits 3 if a graph is invalid.

    JSON: valid, graphs (file, graph, valid) and problems (file, line, graph, node, field, severity,
    message).
    """
    report = check_files(targets, [secret.partition("=")[0] for secret in secrets])
    print_as(output, report.as_json(), report.as_lines())
    for text in report.not_checked():
        print_message(text)
    return SUCCESS if report.valid else INVALID


def _row(graph: GraphInfo) -> tuple[str, ...]:
    counts = (len(graph.nodes), len(graph.validation_errors))
    cron = ", ".join(trigger.value.expression for trigger in graph.triggers)
    return (graph.name, graph.validation_status.value, *map(str, counts), cron, iso_time(graph.updated_at))
