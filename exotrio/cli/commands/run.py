"""``python -m exotrio run``: one run of a graph, from its trigger to its result."""

from __future__ import annotations

import logging
import sys

import click

from exotrio.cli import options
from exotrio.cli.load import load
from exotrio.cli.program import run_until_stopped
from exotrio.cli.runs.local import LocalRun
from exotrio.cli.terminal.logs import JSON, configure_logs, log_format_option
from exotrio.cli.terminal.progress import progress_for
from exotrio.graph import Graph


@click.command(name="run")
@options.target
@click.option("--graph", "graph_name", metavar="NAME", help="The Graph to run, if the module has several.")
@options.run_values
@options.secrets
@options.run_key()
@options.database(
    "Database of the embedded state manager: a SQLite file, :memory:, or postgresql://USER@HOST/NAME.  "
    + options.WHERE_BY_DEFAULT
)
@options.name("--resume", kind="run", help="Continue this run instead of starting one.")
@click.option(
    "--serve",
    "port",
    is_flag=False,
    flag_value=0,
    type=options.PORT,
    metavar="[PORT]",
    help="Serve the embedded state manager, and its dashboard, on 127.0.0.1 during the run; without PORT on "
    "any free port. Give it after FILE.",
)
@click.option(
    "--wait",
    "waits",
    is_flag=True,
    help="Stay while everything that is left of the run waits for events, as --serve does.",
)
@options.output
@log_format_option
@click.option("-v", "--verbose", count=True, help="Log what happens; -vv also logs every poll and state.")
def command(
    target: str,
    graph_name: str | None,
    inputs: dict[str, str],
    store: dict[str, str],
    secrets: dict[str, str],
    run_key: str | None,
    db: str | None,
    resume: str | None,
    port: int | None,
    waits: bool,
    output: str,
    log_format: str,
    verbose: int,
) -> int:
    """Run the Graph in FILE_OR_MODULE with the Runtime in it, and print its result.

    The state manager is embedded and keeps everything in its database; if
    EXOSPHERE_STATE_MANAGER_URI is set and --db is not given, that state manager is used. Only states of
    this run are executed; over v0, which cannot select the states of a run, states of other runs are too.
    Progress goes to standard error, the result to standard output; what nodes print goes to standard error,
    too, if the result is JSON.

    Secrets given here are added to those of the Graph, or replace them. An embedded state manager also gets
    the other Graphs of FILE_OR_MODULE that its Runtime can run, since nodes may call them; states of these
    runs are executed, too.

    If the graph already has a run with the same --run-key, that run is continued, or its result is printed.
    It is an error if that run has other inputs or another store.

    Ctrl-C drains: running nodes may finish, nothing is lost, and the command that continues the
    run is printed. Exits 0 if the run succeeded, 1 if it failed, 130 if it was interrupted. If everything
    that is left of it waits for events, it prints what for, with the commands that send these and then
    continue the run, and exits 8.

    JSON: run_id, graph, key, status, seconds (its duration), waited, buffered and ran (averages of its states
    in seconds, or null), nodes (counts by status), missing (what the result lacks since states failed),
    outputs (up to 20 of the last nodes: identifier, outputs), outputs_left (how many more there are), errors
    (up to 20: identifier, state_id, error), errors_left.
    """
    if resume and (graph_name or inputs or store or secrets or run_key):
        what = "--graph, --run-key, -i, --inputs-file, --store or --secret"
        raise click.UsageError(f"--resume continues a run as it is: it takes no {what}")
    as_json = log_format == JSON
    # The JSON log has the progress and the messages, so it must not be silent.
    quiet = verbose == 0 and not as_json
    configure_logs(verbose=max(0, verbose - 1), quiet=quiet, form=log_format)
    if quiet:
        worker = logging.getLogger("exotrio.worker")
        worker.addFilter(_is_not_in_result)
        click.get_current_context().call_on_close(lambda: worker.removeFilter(_is_not_in_result))
    loaded = load(target)
    runtime, graph = loaded.runtime(), None if resume else loaded.graph(graph_name)
    if graph is not None:
        graph = graph.model_copy(update={"secrets": {**graph.secrets, **secrets}})
    others = [
        each.model_copy(update={"secrets": {**each.secrets, **secrets}}) for each in loaded.all_of(Graph)
    ]
    run = LocalRun(
        target=target,
        runtime=runtime,
        graph=graph,
        others=others,
        inputs=inputs,
        store=store,
        key=run_key,
        db=db,
        resume=resume,
        output=output,
        port=port,
        # A person may send the event on a page that is served.
        waits=waits or port is not None,
        progress=progress_for(runtime, verbose=bool(verbose), logged=as_json),
        private=not as_json and sys.stderr.isatty(),
    )
    for warning in [] if graph is None else graph.warnings():
        run.progress.print_message(f"warning: {warning}")
    return run_until_stopped(
        run.main, run.stop, exiting=run.exiting, at_once=lambda grace, why: runtime.stop(grace, why=why)
    )


def _is_not_in_result(record: logging.LogRecord) -> bool:
    """Whether a line is not about the last attempt at a state of this run, whose error the result has.

    Over v0, which does not say of which run a state is, it may be of another one.
    """
    return not (getattr(record, "final", False) and hasattr(record, "run"))
