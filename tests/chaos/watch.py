"""A long campaign is watched: each minute what it uses, and how long requests take.

The first state manager and the first worker are spared from faults, so that what they leak shows. In the end
each quantity is flat, or it rises: the straight line through the last half of its values rises by more than
``RELEVANT`` of their mean, and by more than ``CERTAIN`` standard errors of that. Anything else is noise. Of
less than ``MIN_VALUES`` in the last half nothing is said, and of memory of less than ``MIN_OF_MEMORY``: in
the first hour the caches of a process fill. A write-ahead log only has to stay below ``MAX_LOG``: its files
are as large as they ever had to be, and PostgreSQL keeps more, up to ``max_wal_size``.
"""

from __future__ import annotations

import csv
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
import trio

from tests.chaos.graph import NAMESPACE
from tests.support.helpers import open_client
from tests.support.postgres import Database
from tests.support.processes import KEY

RELEVANT = 0.05
CERTAIN = 3.0
MIN_VALUES = 15
MIN_OF_MEMORY = 55
MAX_LOG = {"SQLite": 64, "PostgreSQL": 1024 + 64}
"""MiB."""
LOG = "write-ahead log, MiB"
_MEMORY = ", MiB"
PROBE_TIMEOUT = 10.0
PAGES = ("overview", "runs?size=50")
MEBI = 1024 * 1024
_NATIVE = f"/exotrio/v1/namespace/{NAMESPACE}"
_SIZES = "SELECT pg_database_size(current_database()), (SELECT sum(size) FROM pg_ls_waldir())"


@dataclass(slots=True, kw_only=True)
class Watch:
    """Records what a campaign uses.

    Attributes:
        folder: Where the campaign keeps its database; ``minutes.csv`` gets a line each minute.
        uri: Of the first state manager.
        pids: Returns the processes to watch, by name.
        executions: Returns how many executions have begun. The database keeps them all.
        database: On PostgreSQL. None: a file in the folder.
        interval: Seconds between two records.
        probe_interval: Seconds between two claims whose time is measured, and between two pages.
        minutes: The records: numbers by the name of a quantity.
    """

    folder: Path
    uri: str
    pids: Callable[[], Mapping[str, int]]
    executions: Callable[[], int]
    database: Database | None = None
    interval: float = 60.0
    probe_interval: float = 0.25
    minutes: list[dict[str, float]] = field(default_factory=list)
    _claims: list[float] = field(default_factory=list)
    _pages: list[float] = field(default_factory=list)

    async def run(self) -> None:
        """Record until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._probe)
            began = trio.current_time()
            while True:
                await trio.sleep(self.interval)
                await self._record(trio.current_time() - began)

    async def _probe(self) -> None:
        """Claim, and read what pages show, again and again. No run has the id of the claims."""
        async with open_client(url=self.uri, key=KEY) as client:
            number = 0
            while True:
                await trio.sleep(self.probe_interval)
                number += 1
                claim = {"worker_id": "probe", "limits": {"Step": 1}, "limit": 1, "claim_id": str(uuid4())}
                await _timed(self._claims, client, "claim", {**claim, "run_id": str(uuid4())})
                await _timed(self._pages, client, PAGES[number % len(PAGES)])

    async def _record(self, after: float) -> None:
        minute = {"minute": round(after / 60, 2), "executions": float(self.executions())}
        for name, pid in self.pids().items():
            minute[name + _MEMORY] = _memory(pid) / MEBI
            minute[f"{name}, descriptors"] = float(len(os.listdir(f"/proc/{pid}/fd")))
        try:
            size, wal = await trio.to_thread.run_sync(self._sizes)
        except psycopg.OperationalError:  # it has crashed a moment ago
            size = wal = math.nan
        minute["database, bytes for each execution"] = size / max(1.0, minute["executions"])
        minute[LOG] = wal / MEBI
        for name, times in (("claim, p99 ms", self._claims), ("page, p99 ms", self._pages)):
            minute[name] = 1000 * _p99(times)
            times.clear()
        self.minutes.append(minute)
        with (self.folder / "minutes.csv").open("a", newline="") as file:
            writer = csv.DictWriter(file, list(minute))
            if len(self.minutes) == 1:
                writer.writeheader()
            writer.writerow({name: f"{value:.6g}" for name, value in minute.items()})

    def log_problems(self) -> list[str]:
        engine = "SQLite" if self.database is None else "PostgreSQL"
        largest = max((minute[LOG] for minute in self.minutes), default=0.0)
        return [f"the write-ahead log has {largest:.0f} MiB"] if largest > MAX_LOG[engine] else []

    def _sizes(self) -> tuple[float, float]:
        if self.database is not None:
            ((size, wal),) = self.database.execute(_SIZES)
            return float(size), float(wal)
        wal_file = self.folder / "state.db-wal"
        wal = wal_file.stat().st_size if wal_file.exists() else 0
        return float((self.folder / "state.db").stat().st_size), float(wal)


async def _timed(times: list[float], client: httpx.AsyncClient, path: str, body: object = None) -> None:
    began = time.monotonic()
    try:
        method = "GET" if body is None else "POST"
        answer = await client.request(method, f"{_NATIVE}/{path}", json=body, timeout=PROBE_TIMEOUT)
        answer.raise_for_status()
    except httpx.HTTPError:
        return  # a fault of the database; the campaign says if anything was lost
    times.append(time.monotonic() - began)


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def _p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[98] if len(times) > 1 else math.nan


@dataclass(frozen=True, slots=True)
class Trend:
    """How a quantity changed over the last half of a campaign.

    Attributes:
        values: How many there are in the last half.
        mean: Of these.
        growth: Of the straight line through them, from the first to the last.
        error: Standard error of that.
        min_values: Of fewer than these nothing is said.
    """

    values: int
    mean: float
    growth: float
    error: float
    min_values: int

    @property
    def rises(self) -> bool:
        is_noise = self.growth <= max(RELEVANT * abs(self.mean), CERTAIN * self.error)
        return self.values >= self.min_values and not is_noise

    def __str__(self) -> str:
        verdict = "RISES" if self.rises else "flat" if self.values >= self.min_values else "too short"
        return f"{verdict}: mean {self.mean:.4g}, {self.growth:+.3g} in the last half (± {self.error:.2g})"


def trend(values: Sequence[float], min_values: int = MIN_VALUES) -> Trend | None:
    """Return the trend of the last half of some values, taken at equal intervals; None of less than three."""
    half = [value for value in values[len(values) // 2 :] if not math.isnan(value)]
    if len(half) < 3:
        return None
    times = range(len(half))
    slope, start = statistics.linear_regression(times, half)
    squares = sum((value - start - slope * at) ** 2 for at, value in zip(times, half, strict=True))
    middle = statistics.fmean(times)
    error = math.sqrt(squares / (len(half) - 2) / sum((at - middle) ** 2 for at in times))
    span = len(half) - 1
    return Trend(len(half), statistics.fmean(half), slope * span, error * span, min_values)


def verdicts(minutes: Sequence[Mapping[str, float]]) -> dict[str, Trend | None]:
    """Return the trend of each quantity."""
    names = [name for name in (minutes[0] if minutes else ()) if name not in ("minute", "executions", LOG)]
    return {
        name: trend(
            [minute[name] for minute in minutes], MIN_OF_MEMORY if name.endswith(_MEMORY) else MIN_VALUES
        )
        for name in names
    }
