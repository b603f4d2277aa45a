"""Runs a system through a cell."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import trio

from tests.bench.arena.cells import Cell
from tests.bench.arena.faults import Field, nothing
from tests.bench.arena.journal import Journals
from tests.bench.arena.replicas import EXIT, Replicas
from tests.bench.systems import Installed
from tests.support.postgres import Database

TICK = 0.025
"""Seconds between two orders to submit jobs."""
CHECK = 0.5
"""Seconds between two looks at the replicas, or at their journals at the end."""
MIN_RATE_SCALE = 0.25
"""Rates shrink with the times, but no further: below, no system would have anything to do."""
DRAIN = 90.0
"""Seconds for what is left at the end, for a lease that has to end for instance."""
WINDOW = 2.0
MIN_WINDOW = 0.2
"""Seconds over which a rate is taken when its recovery is looked for; the former is scaled."""


@dataclass(frozen=True)
class Outcome:
    """What a system did in a cell.

    Attributes:
        disturbed: Whether the middle phase had a fault, or a higher load.
        rates: Jobs per second before, during and after it.
        waited: Seconds a job waited before it began, p99, during the fault and after it.
        max_waited: The same of the one that waited longest, also of those that began later.
        recovery: Seconds after the fault until jobs end at 90 % of the rate before it; None if never.
        stored, refused: Jobs that the system acknowledged, and that it did not.
        done: Jobs that ran at least once.
        repeated: Further executions of them.
        lost: Jobs that were acknowledged and did not run until ``DRAIN`` after the end.
        exit: Seconds from SIGTERM to the end of the last replica.
        died: Replicas that ended by themselves.
    """

    disturbed: bool
    rates: tuple[float, float, float]
    waited: float
    max_waited: float
    recovery: float | None
    stored: int
    refused: int
    done: int
    repeated: int
    lost: int
    exit: float
    died: int

    @property
    def problems(self) -> list[str]:
        """Why the cell is not passed; nothing if it is."""
        return [
            *([f"{self.lost:,} lost"] if self.lost else []),
            *(["no recovery"] if self.disturbed and self.recovery is None else []),
            *([f"exit {self.exit:.1f} s"] if self.exit > EXIT else []),
        ]


async def run(cell: Cell, system: Installed, database: Database, folder: Path, scale: float) -> Outcome:
    """Run a cell at an empty database and an empty folder."""
    await trio.to_thread.run_sync(system.prepare, database.tcp_url)
    options = ("--workers", str(cell.workers), "--tuned")
    replicas = Replicas(system, database.tcp_url, folder, options)
    try:
        for number in range(cell.replicas):
            await replicas.start(number)
        times = await _phases(cell, replicas, database, scale)
        journals = Journals(folder)
        with trio.move_on_after(DRAIN):
            while journals.lost or not replicas.journals <= journals.closed:
                await replicas.check()
                await replicas.close_inputs()
                await trio.sleep(CHECK)
                journals.read()
        await replicas.stop()
    finally:
        await replicas.kill_all()
    journals.read()
    before, during, after = (journals.rate(begin, end) for begin, end in pairwise(times))
    _, begin, end, last = times
    return Outcome(
        disturbed=cell.fault is not nothing or cell.load != 1,
        rates=(before, during, after),
        waited=journals.waited(begin, last),
        max_waited=journals.max_waited,
        recovery=journals.recovery(end, last, before, max(WINDOW * scale, MIN_WINDOW)),
        stored=len(journals.stored),
        refused=journals.refused,
        done=len(journals.done),
        repeated=journals.repeated,
        lost=journals.lost,
        exit=max(replicas.exits),
        died=replicas.died,
    )


async def _phases(
    cell: Cell, replicas: Replicas, database: Database, scale: float
) -> tuple[float, float, float, float]:
    """Go through the phases; return when the one before the fault began, and when each ended."""
    seconds = cell.during * scale
    field = Field(database, replicas, replicas.system.kind.table, seconds, scale)
    load = Load(replicas, cell.rate * max(scale, MIN_RATE_SCALE))
    async with trio.open_nursery() as nursery:
        if cell.depth:
            await replicas.send(f"DEPTH {cell.depth}")
        nursery.start_soon(load.submit)
        nursery.start_soon(_keep_running, replicas)
        await trio.sleep(cell.warm_up * scale)
        times = [time.monotonic()]
        await trio.sleep(cell.before * scale)
        times.append(time.monotonic())
        async with cell.fault(field):
            load.factor = cell.load
            await trio.sleep(seconds)
            load.factor = 1.0
        times.append(time.monotonic())
        await trio.sleep(cell.after * scale)
        times.append(time.monotonic())
        nursery.cancel_scope.cancel()
    return times[0], times[1], times[2], times[3]


class Load:
    """Orders jobs at a rate, by the time that has really passed."""

    def __init__(self, replicas: Replicas, rate: float) -> None:
        self.factor = 1.0
        self._replicas = replicas
        self._rate = rate

    async def submit(self) -> None:
        due, last = 0.0, time.monotonic()
        while True:
            await trio.sleep(TICK)
            now = time.monotonic()
            due += self._rate * self.factor * (now - last)
            last = now
            if due >= 1:
                await self._replicas.send(f"ENQUEUE {int(due)}")
                due -= int(due)


async def _keep_running(replicas: Replicas) -> None:
    while True:
        await trio.sleep(CHECK)
        await replicas.check()
