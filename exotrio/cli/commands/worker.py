"""``python -m exotrio worker``: run a Runtime at a state manager."""

from __future__ import annotations

from contextlib import ExitStack

import click

from exotrio.cli import options
from exotrio.cli.load import load
from exotrio.cli.terminal.logs import configure_logs, log_format_option


@click.command(name="worker")
@click.argument("target", metavar="FILE_OR_MODULE[:ATTR]")
@click.option(
    "--health-port",
    type=options.Port(),
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
@log_format_option
@click.option("-v", "--verbose", count=True, help="Log every poll and state.")
def command(
    target: str, health_port: int | None, health_host: str, health_tasks: bool, log_format: str, verbose: int
) -> int:
    """Run the Runtime in FILE_OR_MODULE until it is stopped.

    The state manager is the one the Runtime names, or EXOSPHERE_STATE_MANAGER_URI and
    EXOSPHERE_API_KEY from the environment or .env.

    SIGTERM or Ctrl-C drains: running nodes may finish within the grace, other claims are released. A
    second one cancels running nodes, a third one exits at once. Exits 0 if everything was delivered or
    released, 75 if something was abandoned.
    """
    configure_logs(verbose=verbose, form=log_format)
    runtime = load(target).runtime()
    if health_tasks:
        runtime.show_tasks()
    with ExitStack() as stack:
        if health_port is not None:
            from exotrio.cli.health_server import health_server  # here, since it imports prometheus_client

            stack.enter_context(health_server(runtime, health_host, health_port, tasks=health_tasks))
        return runtime.start().exit_code
