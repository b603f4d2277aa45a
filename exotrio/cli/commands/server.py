"""``python -m exotrio server``: a state manager on a port."""

from __future__ import annotations

import logging
import resource
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import trio

from exotrio._shared.garbage import rare_collections
from exotrio.cli import options
from exotrio.cli.exit_codes import SUCCESS, bare_errors
from exotrio.cli.program import run_until_stopped
from exotrio.cli.terminal.logs import configure_logs, log_format_option
from exotrio.manager import Limits, serve

logger = logging.getLogger("exotrio.cli")

MAX_CONNECTIONS = 4_000
"""Upper limit, whatever the limit on open files is: an open connection needs up to 40 kB of memory."""


@click.command(name="server")
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address to listen on."
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    type=options.PORT,
    help="Port to listen on; 0: any free one.",
)
@options.database(f"SQLite file, :memory:, or postgresql://USER@HOST/NAME.  {options.WHERE_BY_DEFAULT}")
@click.option(
    "--key-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File that holds the API key. Without it: STATE_MANAGER_SECRET, then EXOSPHERE_API_KEY, then (on "
    "loopback) a generated key kept next to the file of the database, or for a PostgreSQL in .exotrio.",
)
@click.option("--key", metavar="KEY", help="The API key itself. For tests: other users can read arguments.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="Accept this name in the Host header; repeatable.",
)
@click.option(
    "--max-body-mib",
    default=16,
    show_default=True,
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Largest request body, in MiB.",
)
@options.seconds("--grace", 5, "For requests in flight when stopping, and then for the last commit.")
@options.seconds("--lease-ttl", 30, "How long a claim is valid without a heartbeat.")
@click.option(
    "--poison-limit",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="A state is ERRORED once this many runtimes in a row ended while they ran it.",
)
@click.option(
    "--claim-timeout",
    type=options.SECONDS,
    help="How long a v0 claim is valid; longer than any node runs.  [default: no limit]",
)
@click.option(
    "--keep",
    metavar="DURATION",
    type=options.DURATION,
    help="Delete runs that finished longer ago: 30d, 12h, 90m, 45s.  [default: keep all]",
)
@click.option("--v0-only", is_flag=True, help="Do not serve the native API.")
@click.option("--open-metrics", is_flag=True, help="Serve /metrics without the key.")
@click.option(
    "--metrics-port",
    type=options.PORT,
    help="Also serve /metrics and the probes, and nothing else, on this port, without the key.",
)
@log_format_option
@click.option("-v", "--verbose", count=True, help="Log more.")
def command(max_body_mib: int, v0_only: bool, log_format: str, verbose: int, **service: Any) -> int:
    """Run a state manager: v0 for Exosphere runtimes and dashboards, and exotrio's native API.

    Secrets of graphs are encrypted with the key in SECRETS_ENCRYPTION_KEY (32 bytes in base64), or with
    a key that is generated and kept in the same place as the API key. For a PostgreSQL on another machine,
    and off loopback for any, the variable has to be set.

    To replace the key, put a new one before it, separated by a comma: at the next start all secrets are
    encrypted with the first key, in one transaction, and the log says so. Then remove the old key, but
    keep it for earlier backups. Where several state managers share a PostgreSQL, this takes more steps:
    see rotate-secrets.

    It accepts half as many connections as the hard limit on open files allows, at most 4,000; a runtime
    keeps two. Clients that have not sent the key get at most half of them, each for 30 s and one response.
    While three quarters are open, polls are answered at once, even if there is no work.

    SIGTERM or Ctrl-C stops it: requests in flight are answered, then it exits 0. A second signal
    aborts them, a third one exits at once.
    """
    configure_logs(verbose=verbose, form=log_format)
    limits = Limits(max_body=max_body_mib * 1024 * 1024, max_connections=max_connections())

    stopping, everything, serving = trio.Event(), trio.CancelScope(), _Serving()

    async def run() -> int:
        with bare_errors(), everything:
            # The other options have the names of its arguments.
            await serve(limits=limits, native=not v0_only, stopping=stopping, task_status=serving, **service)
        return SUCCESS

    def stop(grace: float | None, why: str) -> None:
        logger.info("%s: stopping" if grace is None else "%s again: aborting requests in flight", why)
        stopping.set()
        if grace is not None or not serving.is_begun:
            everything.cancel()

    with rare_collections():
        return run_until_stopped(run, stop, exiting=lambda: "requests in flight are aborted")


class _Serving:
    """Whether requests are accepted. While the server waits for its database, there are none to finish."""

    is_begun = False

    def started(self, value: object = None) -> None:
        self.is_begun = True


def max_connections() -> int:
    """Raise the limit on open files of this process as far as useful; return the maximum of connections.

    A runtime keeps one connection for its polls and one for its heartbeats.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 2 * MAX_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < files:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            soft = files
    return MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, soft // 2)
