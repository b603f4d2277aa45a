"""``python -m exotrio trigger``: start runs of a graph."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import click

from exotrio._wire.vocabulary import Priority, check_key
from exotrio.cli import completion, options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.exit_codes import SUCCESS
from exotrio.cli.runs.each import RunsOfFile
from exotrio.cli.runs.remote import follow, is_new, start_run
from exotrio.cli.terminal.output import print_message
from exotrio.client import StateManager


def _fair_key(text: str) -> str:
    try:
        return check_key(text)
    except ValueError as error:
        raise ValueError(f"the fair key {error}") from None


@click.command(name="trigger")
@options.graph
@options.run_values
@options.run_key()
@click.option(
    "--start-delay",
    default=0.0,
    type=options.SECONDS,
    help="Seconds until the first node may run.  [default: 0]",
)
@click.option(
    "--priority",
    type=click.Choice([each.value for each in Priority]),
    default=Priority.NORMAL.value,
    help="Claim its states before, or after, those of other runs.  [default: normal]",
)
@click.option(
    "--weight",
    type=options.WEIGHT,
    default=1.0,
    help="Its share among runs of its priority, 0.01 to 100.  [default: 1]",
)
@click.option(
    "--fair-key",
    type=options.Parsed("text", _fair_key),
    metavar="TEXT",
    help="Runs with the same text share as one run.",
)
@click.option("--follow", "following", is_flag=True, help="Show the run's progress, then its result.")
@options.timeout
@click.option(
    "--each",
    "file",
    metavar="FILE",
    shell_complete=completion.files,
    help='Start a run for each line of a file: {"inputs": {...}, "store": {...}, "key": TEXT}, where '
    'each part may be left out; "run_id": UUID may replace the key; - for standard input.',
)
@click.option(
    "--batch",
    type=click.UUID,
    help="Make the id of a run from this id and the number of its line, if the line has no id and no key: "
    "repeating the command then starts no run twice.  [default: a new id]",
)
@connection
def command(
    graph: str,
    inputs: dict[str, str],
    store: dict[str, str],
    start_delay: float,
    following: bool,
    timeout: float | None,
    file: str | None,
    run_key: str | None,
    batch: UUID | None,
    connection: Connection,
    **in_order: Any,  # priority, weight, fair_key
) -> int:
    """Start a run of GRAPH and print its id; with --each many runs, and print their ids.

    If GRAPH already has a run with the same --run-key, none is started, and the id of that run is printed,
    with a message on standard error. It is an error if that run has other inputs or another store.

    Values that do not fit the types that the runtimes registered are refused before a run starts (exit code
    2).

    Give private values in a file or on standard input: other users can read arguments.

    With --follow it exits 0 if the run succeeded, 1 if it failed, and 130 if Ctrl-C or --timeout ended this
    command, not the run. If the state manager gives no usable answer for a minute, it exits 4, and prints how
    to follow the run again.

    With --each, all lines are checked before the first run is started, and the other options are defaults
    for the lines. If it is interrupted, it prints how to continue without starting a run twice.

    JSON: run_id, graph, status, created (false if the run existed). With --follow the result, as in `run`;
    the id is printed first on standard error. With --each: graph, run_ids in the order of the lines.
    """
    if timeout is not None and not following:
        raise click.UsageError("--timeout belongs to --follow")
    if file is not None:
        if following:
            raise click.UsageError("--follow is for one run: with --each, see `runs ls` and `runs watch`")
        if run_key is not None:
            raise click.UsageError('--run-key is for one run: with --each, give a "key" in the lines')
        return RunsOfFile(
            connection=connection,
            graph=graph,
            file=file,
            inputs=inputs,
            store=store,
            start_delay=start_delay,
            batch=batch,
            in_order=in_order,
        ).start()
    if batch is not None:
        raise click.UsageError("--batch is for the runs of --each")

    async def start(manager: StateManager) -> str:
        reply = await start_run(
            manager, graph, inputs, store, start_delay=start_delay, key=run_key, **in_order
        )
        run_id: str = reply["run_id"]
        if following and connection.form == "json":
            print_message(f"run {run_id} of graph {graph!r}")
        else:
            shown = {"run_id": run_id, "graph": graph, "status": reply["status"], "created": is_new(reply)}
            connection.print(shown, [run_id])
        if connection.is_alone and not following:
            print_message(connection.how_to_execute(run_id))
        return run_id

    if following:
        return follow(connection, start, timeout)
    connection.ask(start)
    return SUCCESS
