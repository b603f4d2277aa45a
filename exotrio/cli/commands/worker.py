"""``python -m exotrio worker``: run a Runtime at a state manager."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext

import click

from exotrio._http.endpoint import ambient_endpoint
from exotrio._runtime.entry import run_blocking
from exotrio.cli import options
from exotrio.cli.exit_codes import exit_code_after
from exotrio.cli.folder import DATABASE, served_here
from exotrio.cli.program import CalledAs, run_until_stopped
from exotrio.cli.terminal.logs import configure_logs, log_format_option


@click.command(name="worker")
@options.target
@click.option(
    "--processes",
    metavar="N",
    type=click.IntRange(0, 1024),
    help="Run it in N processes, for nodes that compute; 0: one for each core that may be used. The Runtime's"
    " workers and batch_size are for each process, and so is its outbox.  [default: in this process]",
)
@click.option(
    "--grace",
    type=options.Seconds(),
    help="How long running nodes may go on after a first signal.  [default: the Runtime's shutdown_grace]",
)
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
@click.option("--child", nargs=3, type=int, hidden=True)  # what --processes starts
def command(
    target: str,
    processes: int | None,
    grace: float | None,
    health_port: int | None,
    health_host: str,
    health_tasks: bool,
    log_format: str,
    verbose: int,
    child: tuple[int, int, int] | None,
) -> int:
    """Run the Runtime in FILE_OR_MODULE until it is stopped.

    The state manager is the one that the Runtime names, or else that of EXOSPHERE_STATE_MANAGER_URI and
    EXOSPHERE_API_KEY in the environment or .env, or else the one that serves .exotrio/state.db here.

    SIGTERM or Ctrl-C drains: running nodes may finish within the grace, other claims are released. A
    second one cancels running nodes, a third one exits at once. Exits 0 if everything was delivered or
    released, 75 if something was abandoned.

    With --processes, signals, grace and exit code are for all processes together, and so is the health port:
    /readyz is 200 while one is ready, /metrics are sums. A process that dies is replaced. A process that
    drains alone, after `runtimes drain` or a signal to it, is not.
    """
    configure_logs(verbose=verbose, form=log_format, process=child[0] if child else None)
    if child is not None:
        # Imported here, as below, since a single process needs none of it.
        from exotrio.cli.processes.work import work

        number, count, descriptor = child
        with _server_of_folder():
            return work(
                target,
                number=number,
                count=count,
                descriptor=descriptor,
                grace=grace,
                observed=health_port is not None,
                tasks=health_tasks,
            )
    if processes is not None:
        # As above.
        from exotrio._util.cores import usable_cores
        from exotrio.cli.processes.supervisor import Supervisor

        arguments = ["--log-format", log_format, *["-v"] * verbose]
        if grace is not None:
            arguments += ["--grace", str(grace)]
        if health_port is not None:
            arguments += ["--health-port", str(health_port)]  # a child does not serve it, but reports
        if health_tasks:
            arguments += ["--health-tasks"]
        supervisor = Supervisor(
            count=processes or usable_cores(),
            arguments=[*arguments, "--", target],
            health=None if health_port is None else (health_host, health_port),
            shows_tasks=health_tasks,
        )
        return run_until_stopped(supervisor.main, supervisor.stop, exiting=supervisor.exiting)
    from exotrio.cli.load import load  # here, since the parent of several processes never loads the file

    runtime = load(target).runtime()
    runtime.adjust(shutdown_grace=grace, exit_code=exit_code_after)
    if runtime.outbox is not None:
        from exotrio.cli.processes.outboxes import warn_of_absent  # here, since it imports sqlite3

        warn_of_absent(runtime.outbox)
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
