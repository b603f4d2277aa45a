"""``python -m exotrio dev``: a file with its state manager and dashboard, until it is stopped.

It starts a run only on request, since a run may have effects, and every restart would start another one:
``--trigger``, or any option that describes a run, starts one run, once.
"""

from __future__ import annotations

import click

from exotrio.cli import options
from exotrio.cli.program import run_until_stopped
from exotrio.cli.terminal.logs import configure_logs

PORTS = (*range(8000, 8020), 0)
"""Tried in this order without --port: the port of all examples, the next ones, any free one."""


@click.command(name="dev")
@options.target
@click.option("--reload", is_flag=True, help="Load the code again when it changes.")
@click.option("--open", "open_browser", is_flag=True, help="Open the dashboard in a browser, signed in.")
@click.option(
    "--trigger", "triggers", is_flag=True, help="Start a run at once. So does any option about a run."
)
@click.option("--graph", metavar="NAME", help="The Graph to start a run of, if the code has several.")
@options.run_values
@options.secrets
@options.run_key()
@click.option(
    "--port",
    type=options.PORT,
    help="Port of 127.0.0.1 to serve on; 0: any free one.  [default: 8000, or the next that is free]",
)
@options.database(
    "Database of the state manager: a SQLite file, :memory:, or postgresql://USER@HOST/NAME.  "
    + options.WHERE_BY_DEFAULT
)
@click.option("-v", "--verbose", count=True, help="Log what happens; -vv also logs every poll and state.")
def command(
    target: str,
    reload: bool,
    open_browser: bool,
    triggers: bool,
    graph: str | None,
    inputs: dict[str, str],
    store: dict[str, str],
    secrets: dict[str, str],
    run_key: str | None,
    port: int | None,
    db: str | None,
    verbose: int,
) -> int:
    """Run the Runtime in FILE_OR_MODULE with a state manager and its dashboard, until Ctrl-C.

    The state manager is served on 127.0.0.1. Every Graph in the file is declared, so that runs of it
    can be started from the dashboard, or with the command that is printed. Secrets given here are added to
    those of each Graph, or replace them.

    With --reload it watches the file and the modules of yours that it imports. When one changes, the
    runtime drains, then the new code is loaded in a new process; the state manager and open pages stay.
    Errors in the code are printed; dev then waits until the code is fixed.

    Ctrl-C drains: running nodes may finish, nothing is lost. A second one cancels them, a third one
    exits at once. Exits 0 if everything was delivered or released, 75 if something was abandoned.
    """
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    # Imported here, since --help needs no state manager.
    from exotrio.cli.dev.announcer import FirstRun
    from exotrio.cli.dev.session import Session

    starts = triggers or graph or inputs or store or run_key
    session = Session(
        target=target,
        db=db,
        ports=PORTS if port is None else (port,),
        open_browser=open_browser,
        reload=reload,
        first_run=FirstRun(graph, inputs, store, run_key) if starts else None,
        secrets=secrets,
        verbose=verbose,
    )
    return run_until_stopped(session.main, session.stop, exiting=session.exiting)
