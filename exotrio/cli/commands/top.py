"""``python -m exotrio top``: a live view of a namespace."""

from __future__ import annotations

import shutil
import sys

import click

from exotrio.cli import options
from exotrio.cli.connection import Connection, connection
from exotrio.cli.terminal.output import print_json, print_text
from exotrio.client import Overview, StateManager

WIDTH = 120
"""Columns where the output is not a terminal."""
RUNS_ONCE = 10


@click.command(name="top")
@options.seconds("--interval", 2, "Seconds between two updates.", lowest=0.1)
@click.option("--once", is_flag=True, help="Print the current state once, and exit.")
@connection
def command(interval: float, once: bool, connection: Connection) -> None:
    """Show running, waiting and failed states of a namespace, throughput, nodes, runtimes and runs.

    It updates until q or Ctrl-C is pressed, also while the state manager is not reachable. If standard
    output is not a terminal, or if no state manager works on the database, it prints the current state
    once, and exits.

    \b
    DUE      waiting states that may run now, without those for which a limit had no room;
             OLDEST: how long the first of them has been due
    BUFFERED states that runtimes have claimed and not begun: they wait for a worker, or for the
             start of their process; RUNNING: those whose execute runs;
             reporting (in the head, if there are any): those that have ended, and whose outcome is
             not accepted yet
    ENDED/H  attempts that ended in the last hour, and how many of them FAILED, counted up to 5 s ago
    WAITED   95 % of these waited for a runtime for at most about this long: if that is too long,
             start more runtimes; RAN: execute of 50 % and 95 % of them took at most this long
             (≤: of some only the time from claim to end is known, as through v0)
    OFFERED  processes of live runtimes that have the node
    BUSY     workers of a runtime that run a node; FREE: those without a state, while it claims states
    AT RISK  work of its running nodes since their last stored checkpoints, added up; ≥ where it has
             nodes that no heartbeat has named yet

    JSON: namespace, at, running, buffered, reporting, work_at_risk_ms, work_at_risk_is_more, waiting,
    waiting_is_more (there are more), errored, oldest, throughput and run_throughput (by minute; of attempts,
    and of runs), nodes, runtimes, runtime_count, v0_runtimes, runs,
    limits.
    """
    is_live = not once and connection.form != "json" and sys.stdout.isatty()

    async def show(manager: StateManager) -> Overview | None:
        # A database that only this process has open does not change, and keeping it open would stop a `run`.
        if not is_live or connection.is_alone:
            return await manager.overview(runs=RUNS_ONCE)
        from exotrio.cli.top.live import show_live  # here, since only a terminal needs it

        await show_live(manager, connection.where, interval)
        return None

    overview = connection.ask(show)
    if overview is None:
        return
    if connection.form == "json":
        print_json(overview)
        return
    # Here, since --help and -o json do not draw.
    from exotrio.cli.top.screen import Screen, screen_lines

    width = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
    lines = screen_lines(Screen(overview, connection.where), width, None)
    print_text("\n".join(line.plain for line in lines))
