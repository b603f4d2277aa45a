"""``python -m exotrio worker``: run a Runtime at a state manager."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import click

from exotrio._http.endpoint import ambient_endpoint
from exotrio._runtime.entry import run_blocking
from exotrio.cli import options
from exotrio.cli.exit_codes import exit_code_after
from exotrio.cli.folder import DATABASE, served_here
from exotrio.cli.load import load
from exotrio.cli.program import CalledAs
from exotrio.cli.terminal.logs import configure_logs, log_format_option


@click.command(name="worker")
@options.target
@click.option(
    "--grace",
    type=options.SECONDS,
    help="How long running nodes may go on after a first signal.  [default: the Runtime's shutdown_grace]",
)
@click.option(
    "--code-version",
    metavar="VERSION",
    type=options.CODE_VERSION,
    help="The version of the code, for runs of graphs that name one.  [default: that of the Runtime]",
)
@click.option(
    "--health-port",
    type=options.PORT,
    help="Serve /livez, /readyz and /metrics on this port; 0: any free one.  [default: do not]",
)
@click.option(
    "--health-host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address to serve --health-port on.",
)
@click.option(
    "--health-tasks",
    is_flag=True,
    help="Show where each task waits (lines of code, no values): at /tasks, and to the state manager.",
)
@click.option(
    "--until-drained",
    is_flag=True,
    help="Execute only runs that are pinned to the version, and exit once nothing needs it any more.",
)
@click.option("--and-unpinned", is_flag=True, help="With --until-drained: execute other runs, too.")
@log_format_option
@click.option("-v", "--verbose", count=True, help="Log every poll and state.")
def command(
    target: str,
    grace: float | None,
    code_version: str | None,
    until_drained: bool,
    and_unpinned: bool,
    health_port: int | None,
    health_host: str,
    health_tasks: bool,
    log_format: str,
    verbose: int,
) -> int:
    """Run the Runtime in FILE_OR_MODULE until it is stopped.

    The state manager is the one that the Runtime names, or else that of EXOSPHERE_STATE_MANAGER_URI and
    EXOSPHERE_API_KEY in the environment or .env, or else the one that serves .exotrio/state.db here.

    SIGTERM or Ctrl-C drains: running nodes may finish within the grace, other claims are released. A
    second one cancels running nodes, a third one exits at once. Exits 0 if everything was delivered or
    released, 75 if something was abandoned.

    With --until-drained, the exit code is 0 once no run in flight, no state and no graph needs the version
    of the Runtime any more; before the first graph of the version is stored, it waits for that.
    """
    if and_unpinned and not until_drained:
        raise click.UsageError("--and-unpinned belongs to --until-drained")
    configure_logs(verbose=verbose, form=log_format)
    runtime = load(target).runtime()
    runtime.adjust(shutdown_grace=grace, exit_code=exit_code_after, version=code_version)
    if until_drained:
        runtime.adjust(until_drained=True, pinned_only=not and_unpinned)
    if health_tasks:
        runtime.show_tasks()
    with ExitStack() as stack:
        stack.enter_context(_server_of_folder())
        if health_port is not None:
            from exotrio.cli.health_server import health_server  # here, since it imports prometheus_client

            stack.enter_context(health_server(runtime, health_host, health_port, tasks=health_tasks))
        return run_blocking(
            runtime.run,
            lambda grace, why: runtime.stop(grace, why=why),
            ends_process=click.get_current_context().find_object(CalledAs) == CalledAs(process=True),
        ).exit_code


def _server_of_folder() -> AbstractContextManager[None]:
    """Let a Runtime that names no state manager find the one that serves the database of this folder."""
    if not DATABASE.is_file():
        return nullcontext()
    served = served_here()
    return nullcontext() if served is None else ambient_endpoint(served, is_last_resort=True)
