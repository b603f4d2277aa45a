"""``python -m tests.bench scale``: its options and its table."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.bench.figures import markdown_table
from tests.bench.scale.fan import fan
from tests.bench.scale.graphs import graphs
from tests.bench.scale.place import empty_place
from tests.bench.scale.rows import rows
from tests.bench.scale.runtimes import runtimes

DESCRIPTION = """How far it goes: ``python -m tests.bench scale rows|graphs|runtimes|fan [--postgres]``.

``rows`` fills a database by SQL with finished and with waiting states, and says what requests, pages, a
start, a backup and retention then cost. ``graphs`` stores many graphs in many namespaces. ``runtimes``
connects many runtimes, idle and working, and kills the state managers under them. ``fan`` lets a
large fan-out fail, retries and cancels it. State managers are separate processes behind TCP; processor time
is theirs and PostgreSQL's.
"""


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench scale",
        description=DESCRIPTION,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("what", choices=["rows", "graphs", "runtimes", "fan"])
    parser.add_argument("--postgres", action="store_true", help="default: SQLite")
    parser.add_argument("--finished", type=int, default=10_000_000, help="states of ended runs, in rows")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="states that can be claimed, in rows")
    parser.add_argument("--graphs", type=int, default=10_000)
    parser.add_argument("--namespaces", type=int, default=1_000)
    parser.add_argument("--runtimes", type=int, default=1_000)
    parser.add_argument("--outputs", type=int, default=200_000, help="of the fan-out")
    parser.add_argument("--seconds", type=float, default=30.0, help="for which idle runtimes are measured")
    parser.add_argument("--runs", type=int, default=5_000, help="stored at once for the runtimes")
    parser.add_argument(
        "--managers", type=int, default=1, help="of the runtimes; more than one on PostgreSQL"
    )
    parser.add_argument("--folder", type=Path, help="for a SQLite database; default: a temporary one")
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        empty_place(Path(folder), on_postgres=options.postgres) as place,
    ):
        measured = {"rows": rows, "graphs": graphs, "runtimes": runtimes, "fan": fan}[options.what](
            place, options
        )
        for line in markdown_table(["", "p50", "largest", "unit"], measured):
            print(line, flush=True)
