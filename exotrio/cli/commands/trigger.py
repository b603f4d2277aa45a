"""``python -m exotrio trigger``: start a run of a graph."""

from __future__ import annotations

import click

from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.runs.remote import follow, start_run
from exotrio.cli.terminal.output import print_json, print_message, print_text
from exotrio.cli.values import merged
from exotrio.client import StateManager


@click.command(name="trigger")
@click.argument("graph")
@options.inputs
@options.inputs_file
@options.store
@click.option(
    "--start-delay",
    default=0.0,
    type=options.Seconds(),
    help="Seconds until the first node may run.  [default: 0]",
)
@click.option("--follow", "following", is_flag=True, help="Show the run's progress, then its result.")
@connection
def command(
    graph: str,
    inputs: dict[str, str],
    inputs_file: dict[str, str],
    store: dict[str, str],
    start_delay: float,
    following: bool,
    connection: Connection,
) -> int:
    """Start a run of GRAPH and print its id.

    Give private values in a file or on standard input: other users can read arguments.

    With --follow it exits 0 if the run succeeded and 1 if it failed; Ctrl-C leaves the run alone.

    JSON: run_id, graph, status. With --follow the result, as of `run`; the id comes first on
    standard error.
    """
    given = merged(inputs, inputs_file, "-i", "--inputs-file")

    async def start(manager: StateManager) -> str:
        reply = await start_run(manager, graph, given, store, start_delay=start_delay)
        run_id: str = reply["run_id"]
        if connection.form == "table":
            print_text(run_id)
        elif following:
            print_message(f"run {run_id} of graph {graph!r}")
        else:
            print_json({"run_id": run_id, "graph": graph, "status": reply["status"]})
        return run_id

    if following:
        return follow(connection, start)
    connection.ask(start)
    return 0
