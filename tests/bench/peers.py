"""``python -m tests.bench peers [SYSTEM ...] [--runs N] [--scale S]``: exotrio and systems like it, compared.

Each system does the same work by the same code (``tests.bench.adapters``), in its own environment and one
process, next to its database on the same machine; the systems take turns in every round. Where a figure has
two parts, the first one is with the settings that the system has by default, the second one with those that
its documentation offers for throughput.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.bench import peers as this_module
from tests.bench.arena.journal import Journals
from tests.bench.arena.replicas import Replicas
from tests.bench.figures import markdown_table
from tests.bench.places import ROOT, fresh, server
from tests.bench.systems import (
    DBOS,
    EXOTRIO,
    OBAN,
    PGQUEUER,
    STREAQ,
    Installed,
    Kind,
    add_environments_option,
    environment,
    install,
    machine,
    valkey,
)
from tests.support.postgres import Database, Server, new_server

ROUND = 600.0
"""Seconds for the figures of one system in one round."""
KILL_WORK, KILL_WORKERS, KILL_JOBS = 1.0, 8, 24
"""A killed process had jobs of 1 s, eight at once, 24 in all: it had done eight, and was in eight more."""
KILL_LIMIT = 90.0
"""Seconds to wait for the jobs of a killed process."""
HEADS = (
    "",
    "plain jobs/s",
    "fan-out of {wide:,} joined, units/s",
    "idle start p50",
    "chain of 5 p50",
    "fan-out of {fan:,} and join",
    "stored in bulk, jobs/s",
    "kill -9: done after",
)

Figures = dict[str, float | None]
Place = Callable[[Installed, Server, Path], AbstractContextManager[str]]
"""Gives the block the address of an empty store."""


@contextmanager
def file(system: Installed, postgres: Server, folder: Path) -> Iterator[str]:
    yield str(fresh(folder) / "state.db")


@contextmanager
def database(system: Installed, postgres: Server, folder: Path) -> Iterator[str]:
    with _database(postgres) as created:
        yield created.tcp_url


@contextmanager
def served_file(system: Installed, postgres: Server, folder: Path) -> Iterator[str]:
    with file(system, postgres, folder) as path, server(path) as (where, _):
        yield where["state_manager_uri"]


@contextmanager
def served_database(system: Installed, postgres: Server, folder: Path) -> Iterator[str]:
    # Through the socket: a command refuses a URL with a password, which other users could read.
    with _database(postgres) as created, server(created.url) as (where, _):
        yield where["state_manager_uri"]


@contextmanager
def _database(postgres: Server) -> Iterator[Database]:
    created = postgres.new_database(f"peers_{secrets.token_hex(8)}")
    yield created
    postgres.execute(f"DROP DATABASE {created.name} WITH (FORCE)")


@contextmanager
def stream(system: Installed, postgres: Server, folder: Path) -> Iterator[str]:
    with valkey(system, fresh(folder)) as url:
        yield url


@dataclass(frozen=True)
class Row:
    """A system at one kind of store.

    Attributes:
        title: With {version}.
        part: Of all sizes: a slow system gets less to do.
        tunable: Whether it has other settings for throughput.
    """

    title: str
    kind: Kind
    place: Place
    part: float = 1.0
    tunable: bool = True


ROWS = {
    "process": Row("exotrio {version} in process, SQLite", EXOTRIO, file),
    "tcp": Row("exotrio {version}, TCP, SQLite", EXOTRIO, served_file),
    "tcp-postgres": Row("exotrio {version}, TCP, PostgreSQL", EXOTRIO, served_database),
    "pgqueuer": Row("PgQueuer {version} (no results)", PGQUEUER, database),
    "oban": Row("Oban {version}", OBAN, database),
    "streaq": Row("streaQ {version} (Valkey; no results in the join)", STREAQ, stream),
    "dbos": Row("DBOS {version}", DBOS, database, part=0.1, tunable=False),
}


@dataclass
class Measured:
    """All rounds of a row.

    Attributes:
        kill: Seconds until the jobs of a killed process were done, or None: it took too long.
    """

    row: Row
    system: Installed
    default: list[Figures] = field(default_factory=list)
    tuned: list[Figures] = field(default_factory=list)
    kill: float | None = None

    def cells(self) -> list[str]:
        kill = f"{self.kill:.1f} s" if self.kill is not None else f"> {KILL_LIMIT:.0f} s"
        return [
            self.row.title.format(version=self.system.version),
            self._both("plain", "{:,.0f}"),
            self._both("wide", "{:,.0f}"),
            f"{self._both('idle', '{:.1f}')} ms",
            f"{self._both('chain', '{:.1f}')} ms",
            f"{self._both('fan', '{:.2f}')} s",
            self._one(self.default, "stored", "{:,.0f}"),
            kill,
        ]

    def _both(self, name: str, form: str) -> str:
        sides = [self._one(rounds, name, form) for rounds in (self.default, self.tuned) if rounds]
        return " / ".join(sides)

    def _one(self, rounds: list[Figures], name: str, form: str) -> str:
        values = [figures[name] for figures in rounds]
        known = [value for value in values if value is not None]
        return form.format(statistics.median(known)) if len(known) == len(values) else "too slow"


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        "python -m tests.bench peers",
        description=this_module.__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=f"default: all of {' '.join(ROWS)}")
    parser.add_argument("--runs", type=int, default=3, help="rounds; the kill happens once")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of jobs")
    add_environments_option(parser)
    options = parser.parse_args(arguments)
    if unknown := set(options.systems) - ROWS.keys():
        parser.error(f"there is no system {' '.join(sorted(unknown))}; there are {' '.join(ROWS)}")
    rows = [ROWS[name] for name in options.systems or ROWS]
    with tempfile.TemporaryDirectory() as name, closing(new_server()) as postgres:
        folder = Path(name)
        kinds = dict.fromkeys(row.kind for row in rows)
        systems = install(kinds, options.environments or folder)
        installed = {system.kind: system for system in systems}
        table = [Measured(row, installed[row.kind]) for row in rows if row.kind in installed]
        measure(table, postgres, folder, options.runs, options.scale)
        sizes = {"wide": round(5_000 * options.scale), "fan": round(1_000 * options.scale)}
        heads = [head.format(**sizes) for head in HEADS]
        for line in markdown_table(heads, (measured.cells() for measured in table)):
            print(line)
        labels = "; ".join(dict.fromkeys(measured.system.label for measured in table))
        print(f"\n{machine(postgres)}; {labels}; rounds: {options.runs}")


def measure(table: list[Measured], postgres: Server, folder: Path, runs: int, scale: float) -> None:
    """Fill a table in."""
    for number in range(runs):
        for measured in table:
            print(
                f"round {number + 1} of {runs}: {measured.row.title.format(version='')}",
                file=sys.stderr,
                flush=True,
            )
            measured.default.append(_figures(measured, postgres, folder, scale))
            if measured.row.tunable:
                measured.tuned.append(_figures(measured, postgres, folder, scale, "--tuned"))
    print("kill -9, all at once", file=sys.stderr, flush=True)
    trio.run(_kill_each, table, postgres, folder)


def _figures(measured: Measured, postgres: Server, folder: Path, scale: float, *options: str) -> Figures:
    system, row = measured.system, measured.row
    with row.place(system, postgres, folder) as address:
        system.prepare(address)
        command = system.command("figures", address, "--scale", str(scale * row.part), *options)
        done = subprocess.run(
            command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=ROUND
        )
    if done.returncode:
        raise RuntimeError(f"{row.title} cannot be measured: {done.stderr[-2_000:]}")
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


async def _kill_each(table: list[Measured], postgres: Server, folder: Path) -> None:
    """Kill a process of each system: most of the time they only wait."""

    async def kill(measured: Measured) -> None:
        with measured.row.place(measured.system, postgres, folder) as address:
            await trio.to_thread.run_sync(measured.system.prepare, address)
            measured.kill = await _kill(measured.system, address, fresh(folder))

    async with trio.open_nursery() as nursery:
        for measured in table:
            nursery.start_soon(kill, measured)


async def _kill(system: Installed, address: str, folder: Path) -> float | None:
    """Kill a process that runs jobs, start another one, and return the seconds until all jobs are done."""
    options = ("--workers", str(KILL_WORKERS), "--work", str(KILL_WORK))
    replicas, journals = Replicas(system, address, folder, options), Journals(folder)
    try:
        await replicas.start(0)
        await replicas.send(f"ENQUEUE {KILL_JOBS}")
        with trio.fail_after(KILL_LIMIT):
            while len(journals.done) < KILL_WORKERS:
                await trio.sleep(0.01)
                journals.read()
        await trio.sleep(KILL_WORK / 2)
        begin = trio.current_time()
        await replicas.kill(0)
        await replicas.start(0)
        with trio.move_on_after(KILL_LIMIT - (trio.current_time() - begin)):
            while journals.lost:
                await trio.sleep(0.05)
                journals.read()
            return trio.current_time() - begin
        return None
    finally:
        await replicas.kill_all()
