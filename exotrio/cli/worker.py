"""``python -m exotrio worker``: the nodes of one Runtime against a state manager."""

from __future__ import annotations

import click

from exotrio.cli._load import load
from exotrio.cli._logs import configure_logs


@click.command(name="worker")
@click.argument("target", metavar="FILE_OR_MODULE[:ATTR]")
@click.option("-v", "--verbose", count=True, help="Log every poll and state.")
def command(target: str, verbose: int) -> int:
    """Run the Runtime in FILE_OR_MODULE until it is stopped.

    The state manager is the one the Runtime names, or EXOSPHERE_STATE_MANAGER_URI and
    EXOSPHERE_API_KEY from the environment or .env.

    SIGTERM or Ctrl-C drains: running nodes may finish within the grace, everything else is handed
    back. A second one cancels running nodes, a third one exits at once. Exits 0 if everything was
    delivered or handed back, 75 if something is left behind.
    """
    configure_logs(verbose=verbose)
    runtime = load(target).runtime()
    runtime.adopt()
    return runtime.start().exit_code
