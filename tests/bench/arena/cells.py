"""The cells: how much work, on how many replicas, and what happens to them.

Durations, rates, numbers of workers and replicas are those of hardbyte's postgresql-job-queue-benchmarking,
of the sweep of 2026-05-09.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from tests.bench.arena import faults
from tests.bench.arena.faults import Field

Fault = Callable[[Field], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Cell:
    """One scenario. All times are in seconds, before they are scaled.

    Attributes:
        fault: What happens during the middle phase.
        rate: Jobs per second that are submitted at each replica.
        depth: Jobs that are kept waiting or running, in place of a rate.
        workers: Maximum number of jobs at once in each replica.
        load: What the rate is multiplied by during the middle phase.
        warm_up, before, during, after: The phases.
    """

    fault: Fault = faults.nothing
    rate: float = 0.0
    depth: int = 0
    workers: int = 32
    replicas: int = 1
    load: float = 1.0
    warm_up: float = 30.0
    before: float = 60.0
    during: float = 60.0
    after: float = 60.0


def _peak(workers: int) -> Cell:
    return Cell(depth=4_000, workers=workers, before=60, during=60, after=60)


CELLS: dict[str, Cell] = {
    "peak-4": _peak(4),
    "peak-16": _peak(16),
    "peak-64": _peak(64),
    "peak-128": _peak(128),
    "restart": Cell(faults.restart, rate=600),
    "backend-kills": Cell(faults.backend_kills, rate=600),
    "idle-connections": Cell(faults.idle_connections, rate=600),
    "replica-lost": Cell(faults.replica_lost, rate=300, replicas=2, during=60, after=120),
    "replica-kills": Cell(faults.replica_kills, rate=300, replicas=2, during=120),
    "idle-transaction": Cell(faults.idle_transaction, rate=800, during=240, after=180),
    "load": Cell(rate=800, load=1.5, during=240, after=120),
    "readers": Cell(faults.readers, rate=800, during=240, after=120),
    "burst": Cell(rate=1_200, load=1.5, workers=64, during=300, after=240),
    "soak": Cell(depth=2_000, workers=128, before=600, during=20_400, after=600),
}
LONG = {"soak"}
"""Cells that run only if they are named."""
