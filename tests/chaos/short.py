"""The short form: what the tests run, and what the mutations are to be found by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.outbox import survive
from tests.chaos.plan import Fault, Plan
from tests.chaos.proxy import CUT_NEXT, KINDS
from tests.chaos.scenario import play

EVERYTHING = Plan(
    runs=8,
    faults={
        Fault.WORKER_KILL: 1,
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 2,
        Fault.TERM: 1,
        Fault.HUP: 1,
        Fault.CUT: 1,
        Fault.GATEWAY: 1,
        Fault.FAILING: 2,
        Fault.CLOCK: 2,
        Fault.PAUSE: 2,
        **dict.fromkeys(KINDS, 1),
    },
    processes=2,
    gap=0.8,
    lease_ttl=2.0,
    long=3.0,
    outbox=True,
)
THREE_MANAGERS = replace(
    EVERYTHING,
    runs=8,
    faults={
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 1,
        Fault.SUSPENDED: 1,
        Fault.DATABASE_CRASH: 1,
        Fault.DATABASE_HUNG: 1,
        Fault.SESSION_END: 3,
        Fault.COMMIT_CUT: 3,
        Fault.COMES_DUE: 4,
        Fault.CLOCK: 1,
        Fault.PAUSE: 1,
        **dict.fromkeys(KINDS, 1),
    },
    managers=3,
    processes=2,
)
FAILOVERS = replace(
    THREE_MANAGERS,
    faults={Fault.FAILOVER: 2, Fault.SYNC_FAILOVER: 1, Fault.WORKER_KILL: 1, Fault.SERVER_KILL: 1},
    gap=6.0,
    outbox=False,
)
TERMS_ONLY = Plan(
    runs=4,
    faults={Fault.TERM: 2, Fault.HUP: 1},
    processes=2,
    gap=0.7,
    lease_ttl=3.0,
    long=3.6,
    blocking=False,
)
V0_ONLY = Plan(
    runs=4,
    faults={
        Fault.WORKER_KILL: 1,
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 1,
        Fault.TERM: 1,
        Fault.CUT: 1,
        Fault.GATEWAY: 1,
        Fault.FAILING: 2,
        Fault.CLOCK: 1,
        **dict.fromkeys(KINDS, 1),
        CUT_NEXT: 3,
    },
    v0_only=True,
    processes=2,
    gap=0.8,
    claim_timeout=4.0,
)

RESTORED = Plan(
    runs=8,
    faults={Fault.RESTORE: 3, Fault.CUT: 1, **dict.fromkeys(KINDS, 1)},
    processes=2,
    gap=0.8,
    lease_ttl=6.0,
    long=3.0,
    outbox=True,
)

Case = Callable[[Path, Path | None], Awaitable[list[str]]]
"""Plays in an empty folder, with another copy of the package if one is given; returns what went wrong."""


async def _campaign(plan: Plan, folder: Path, package: Path | None) -> list[str]:
    figures = await campaign(replace(plan, package=package), folder)
    return [f"{problem}\n{figures}" for problem in figures.problems]


async def _outbox(v0_only: bool, folder: Path, package: Path | None) -> list[str]:
    return await survive(folder, v0_only=v0_only, package=package)


async def _outage(name: str, folder: Path, package: Path | None) -> list[str]:
    result = await play(name, True, folder, package)
    return [] if result.good else [str(result)]


NATIVE_FAULTS: dict[str, Case] = {
    "every fault": partial(_campaign, EVERYTHING),
    "every fault, three on PostgreSQL": partial(_campaign, THREE_MANAGERS),
}
OTHERS: dict[str, Case] = {
    "every fault, v0 only": partial(_campaign, V0_ONLY),
    "restored backup": partial(_campaign, RESTORED),
    "outbox": partial(_outbox, False),
}
LONG_ONLY: dict[str, Case] = {
    "SIGTERM only": partial(_campaign, TERMS_ONLY),
    "failovers, three on PostgreSQL": partial(_campaign, FAILOVERS),
    "outbox, v0 only": partial(_outbox, True),
    "outage of 500s, v0 only": partial(_outage, "outage of reports: 500 in JSON"),
}
CASES = {**NATIVE_FAULTS, **OTHERS, **LONG_ONLY}
