"""``python -m exotrio export``: a run as one self-contained HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from exotrio._util.new_file import require_place, write_new
from exotrio.cli import completion, options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.lookup import find_run
from exotrio.cli.terminal.output import print_bytes
from exotrio.client import StateManager

STANDARD_OUTPUT = "-"


@click.command(name="export")
@options.run
@click.argument("file", metavar="[FILE]", required=False, shell_complete=completion.files)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@click.option(
    "--no-values",
    is_flag=True,
    help="Leave out inputs, outputs, the store and what nodes logged.",
)
@connection
def command(run_id: str, file: str | None, overwrite: bool, no_values: bool, connection: Connection) -> None:
    """Save a run as one HTML page: its graph, timeline, counts, errors with their tracebacks and logs, states
    with their values, events and store.

    The page needs no other file, has no script and loads nothing, so it can be mailed or attached to
    a ticket. Of a large run it shows some of the states, failed ones first, and says what is left
    out. Of values and errors, only secrets of the graph are masked.

    RUN is the id of a run, its key, or the first 6 or more characters of its id. It may still be running.
    FILE is - for standard output; without it, the page is written to run-RUN.html, by the first 8 characters.

    JSON: run_id, file, bytes.
    """
    if file == STANDARD_OUTPUT and connection.form == "json":
        raise click.UsageError("standard output gets the page: leave out -o json, or name a file")
    if file is not None and file != STANDARD_OUTPUT:
        require_place(Path(file), overwrite=overwrite, option="--overwrite")

    async def fetch(manager: StateManager) -> tuple[str, bytes]:
        run = await find_run(manager, run_id)
        return run.run_id, await manager.export(run.run_id, values=not no_values)

    whole_id, page = connection.ask(fetch)
    if file == STANDARD_OUTPUT:
        print_bytes(page)
        return
    path = Path(f"run-{whole_id[:8]}.html" if file is None else file)
    require_place(path, overwrite=overwrite, option="--overwrite")
    write_new(path, page, "the page", overwrite=overwrite)
    body = {"run_id": whole_id, "file": str(path), "bytes": len(page)}
    connection.print(body, [f"{path}: {len(page):,} bytes"])
