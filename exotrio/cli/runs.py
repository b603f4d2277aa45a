"""``python -m exotrio runs``: look at the runs of a namespace, and cancel one."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from io import StringIO
from typing import Any, TypeVar

import click
import trio

from exotrio._client import StateManager
from exotrio._wire import StateStatus
from exotrio._wire_native import NativeRun
from exotrio._wire_v0 import RunSummary
from exotrio.cli import _output
from exotrio.cli._exit import bare_errors

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def _common(function: F) -> F:
    """Add the options that every subcommand has."""
    options = (
        click.option("-n", "--namespace", required=True, help="Namespace of the runs."),
        click.option("--uri", help="The state manager.  [default: EXOSPHERE_STATE_MANAGER_URI]"),
        click.option(
            "-o",
            "--output",
            type=click.Choice(["text", "json"]),
            default="text",
            help="Form of what is printed.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.group(name="runs")
def command() -> None:
    """Look at the runs of a namespace, and cancel one.

    The state manager is EXOSPHERE_STATE_MANAGER_URI with the key EXOSPHERE_API_KEY, from the
    environment or .env.
    """


@command.command(name="ls")
@_common
@click.option("--page", default=1, show_default=True, type=click.IntRange(1), help="Which page.")
@click.option("--size", default=20, show_default=True, type=click.IntRange(1, 1000), help="Runs per page.")
def ls(namespace: str, uri: str | None, output: str, page: int, size: int) -> int:
    """List runs, newest first."""
    reply = _ask(namespace, uri, lambda manager: manager.runs(page, size))
    if output == "json":
        _print_json(reply.model_dump(mode="json"))
        return 0
    rows = [_row(run) for run in reply.runs]
    lines = [_table(("run", "graph", "status", "done", "failed", "open", "created"), rows)] if rows else []
    shown = f"{len(rows)} of {reply.total}" if len(rows) != reply.total else str(reply.total)
    _output.result("\n".join([*lines, f"{shown} runs in namespace {namespace}"]), sys.stdout)
    return 0


@command.command(name="show")
@click.argument("run_id", metavar="RUN")
@_common
def show(run_id: str, namespace: str, uri: str | None, output: str) -> int:
    """Show how far a run is, place by place."""
    _print_run(_ask(namespace, uri, lambda manager: manager.status(run_id)), output)
    return 0


@command.command(name="cancel")
@click.argument("run_id", metavar="RUN")
@_common
def cancel(run_id: str, namespace: str, uri: str | None, output: str) -> int:
    """Cancel a run: what waits is ended, running nodes are cancelled, nothing follows.

    Workers hear of it with their next heartbeat. Cancelling a run again changes nothing.
    """
    _print_run(_ask(namespace, uri, lambda manager: manager.cancel(run_id)), output)
    return 0


def _ask(namespace: str, uri: str | None, question: Callable[[StateManager], Awaitable[T]]) -> T:
    async def main() -> T:
        async with StateManager(namespace, uri) as manager:
            return await question(manager)

    with bare_errors():
        return trio.run(main)


def _print_run(run: NativeRun, output: str) -> None:
    if output == "json":
        _print_json(run.model_dump(mode="json"))
        return
    used = [status for status in StateStatus if any(node.counts.get(status) for node in run.nodes)]
    rows = [
        (node.identifier, node.node_name, *(str(node.counts.get(status, 0)) for status in used))
        for node in run.nodes
    ]
    head = f"run {run.run_id} of graph {run.graph_name}: {run.status.value}"
    _output.result(f"{head}\n{_table(('place', 'node', *used), rows)}", sys.stdout)


def _print_json(body: Any) -> None:
    _output.result(json.dumps(body, indent=2), sys.stdout)


def _row(run: RunSummary) -> tuple[str, ...]:
    counts = (run.success_count, run.errored_count, run.pending_count)
    return (run.run_id, run.graph_name, run.status.value, *map(str, counts), run.created_at)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for head in heads:
        table.add_column(head, no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))  # as text: names may look like rich's markup
    # As wide as it needs to be: an id that was cut is of no use to anybody, least of all to a pipe.
    console = Console(file=StringIO(), width=10_000, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
