"""The command: its arguments, the machine, and the table."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import trio

from tests.bench import arena
from tests.bench.arena.cells import CELLS, LONG
from tests.bench.arena.running import Outcome, run
from tests.bench.figures import markdown_table
from tests.bench.places import fresh
from tests.bench.systems import EXOTRIO, OBAN, PGQUEUER, Installed, add_environments_option, install, machine
from tests.support.postgres import Server, new_server

HEADS = (
    "cell",
    "system",
    "jobs/s before, during, after",
    "recovered after",
    "waited, p99 and maximum",
    "stored",
    "refused",
    "ran twice",
    "lost",
    "SIGTERM to exit",
    "",
)
SETTINGS = {"max_connections": "400", "shared_buffers": "256MB", "work_mem": "8MB"}
"""Those of the published runs that differ from PostgreSQL's own."""


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.bench arena",
        description=arena.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument(
        "cells",
        nargs="*",
        metavar="CELL",
        help=f"default: all of {' '.join(CELLS)}, but {' '.join(LONG)}",
    )
    parser.add_argument(
        "--peers", action="store_true", help="also measure PgQueuer and Oban; pip installs them"
    )
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of all times; rates shrink, too, to a quarter at most"
    )
    add_environments_option(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.cells) - CELLS.keys():
        parser.error(f"there is no cell {' '.join(sorted(unknown))}; there are {' '.join(CELLS)}")
    names = options.cells or [name for name in CELLS if name not in LONG]
    with tempfile.TemporaryDirectory() as folder, postgres() as server:
        kinds = [EXOTRIO, PGQUEUER, OBAN] if options.peers else [EXOTRIO]
        systems = install(kinds, options.environments or Path(folder))
        measured = measure(names, systems, server, Path(folder), options.scale)
        rows = ([name, system, *_columns(outcome)] for name, system, outcome in measured)
        for line in markdown_table(HEADS, rows):
            print(line, flush=True)
        labels = "; ".join(system.label for system in systems)
        print(f"\n{machine(server)}; {labels}; scale {options.scale:g}")


@contextmanager
def postgres() -> Iterator[Server]:
    """A separate PostgreSQL server with the settings of the published runs."""
    with closing(new_server()) as server:
        for name, value in SETTINGS.items():
            server.set(name, value)
        server.restart()
        yield server


def measure(
    names: Sequence[str], systems: Sequence[Installed], server: Server, folder: Path, scale: float
) -> Iterator[tuple[str, str, Outcome]]:
    """Yield the outcome of each cell for each system; the systems take turns."""
    for name in names:
        for system in systems:
            print(f"{name}: {system.kind.name}", file=sys.stderr, flush=True)
            database = server.new_database(f"{name.replace('-', '_')}_{system.kind.name}")
            outcome = trio.run(run, CELLS[name], system, database, fresh(folder), scale)
            server.execute(f"DROP DATABASE {database.name} WITH (FORCE)")
            yield name, system.kind.name, outcome


def _columns(outcome: Outcome) -> list[str]:
    recovery = "never" if outcome.recovery is None else f"{outcome.recovery:.1f} s"
    died = f"; {outcome.died} died" if outcome.died else ""
    return [
        ", ".join(f"{rate:,.0f}" for rate in outcome.rates),
        recovery if outcome.disturbed else "",
        f"{outcome.waited:.2g} s, {outcome.max_waited:.2g} s",
        f"{outcome.stored:,}",
        f"{outcome.refused:,}",
        f"{outcome.repeated:,}",
        f"{outcome.lost:,}",
        f"{outcome.exit:.1f} s",
        (", ".join(outcome.problems) or "passed") + died,
    ]
