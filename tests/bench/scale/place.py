"""A database on either engine, and what the processes on it use."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from tests.bench.places import cpu_seconds, server
from tests.support.postgres import Database, database


class Place:
    """An empty database on either engine, and what its processes used.

    Attributes:
        db: What ``server --db`` gets.
        postgres: The server, if it is PostgreSQL.
    """

    def __init__(self, db: str, postgres: Database | None) -> None:
        self.db = db
        self.postgres = postgres

    @contextmanager
    def connect(self) -> Iterator[Callable[..., Any]]:
        """A connection that commits each statement; the block gets what executes one."""
        if self.postgres is not None:
            with psycopg.connect(self.db, autocommit=True) as connection:
                yield connection.execute
        else:
            with closing(sqlite3.connect(self.db, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")
                yield connection.execute

    def bytes(self) -> int:
        if self.postgres is None:
            return sum(path.stat().st_size for path in Path(self.db).parent.iterdir())
        with self.connect() as execute:
            size: int = execute("SELECT pg_database_size(current_database())").fetchone()[0]
            return size

    def cpu_seconds(self, *managers: int) -> float:
        """Return the CPU seconds so far of state managers and of PostgreSQL with its sessions."""
        pids = [*managers]
        if self.postgres is not None:
            first = self.postgres.server.pid
            children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
            pids += [first, *map(int, children)]
        return sum(map(cpu_seconds, pids))


@contextmanager
def empty_place(folder: Path, *, on_postgres: bool) -> Iterator[Place]:
    if not on_postgres:
        yield Place(str(folder / "state.db"), None)
        return
    with database() as empty:
        yield Place(empty.url, empty)


Row = list[str]


def row(name: str, values: list[float], unit: str) -> Row:
    return [name, f"{statistics.median(values):,.3g}", f"{max(values):,.3g}" if len(values) > 1 else "", unit]


def memory(pid: int) -> float:
    """Return the MiB of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def start_seconds(place: Place) -> float:
    begin = time.perf_counter()
    with server(place.db):
        return time.perf_counter() - begin
