"""The short form: what the tests run, and what the mutations are to be found by."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.chaos.campaign import campaign
from tests.chaos.outbox import survive
from tests.chaos.plan import (
    CLOCK,
    COMES_DUE,
    COMMIT_CUT,
    CUT,
    DATABASE_CRASH,
    GATEWAY,
    HUP,
    PAUSE,
    SERVER_KILL,
    SESSION_END,
    SUSPENDED,
    TERM,
    WORKER_KILL,
    ZOMBIE,
    Plan,
)
from tests.chaos.proxy import CUT_NEXT, KINDS

EVERYTHING = Plan(
    runs=6,
    faults={
        WORKER_KILL: 1,
        SERVER_KILL: 1,
        ZOMBIE: 2,
        TERM: 1,
        HUP: 1,
        CUT: 1,
        GATEWAY: 1,
        CLOCK: 2,
        PAUSE: 4,
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
    runs=6,
    faults={
        SERVER_KILL: 1,
        ZOMBIE: 1,
        SUSPENDED: 1,
        DATABASE_CRASH: 1,
        SESSION_END: 3,
        COMMIT_CUT: 3,
        COMES_DUE: 4,
        CLOCK: 1,
        PAUSE: 1,
        **dict.fromkeys(KINDS, 1),
    },
    managers=3,
    processes=2,
)
TERMS_ONLY = Plan(
    runs=4,
    faults={TERM: 2, HUP: 1},
    processes=2,
    gap=0.7,
    lease_ttl=3.0,
    long=3.6,
    blocking=False,
)
V0_ONLY = Plan(
    runs=4,
    faults={
        WORKER_KILL: 1,
        SERVER_KILL: 1,
        ZOMBIE: 1,
        TERM: 1,
        CUT: 1,
        GATEWAY: 1,
        CLOCK: 1,
        **dict.fromkeys(KINDS, 1),
        CUT_NEXT: 3,
    },
    v0_only=True,
    processes=2,
    gap=0.8,
    claim_timeout=4.0,
)

Case = Callable[[Path, Path | None], Awaitable[list[str]]]
"""Plays in an empty folder, with another copy of the package if one is given; returns what went wrong."""


async def _campaign(plan: Plan, folder: Path, package: Path | None) -> list[str]:
    figures = await campaign(replace(plan, package=package), folder)
    return [f"{problem}\n{figures}" for problem in figures.problems]


async def _outbox(v0_only: bool, folder: Path, package: Path | None) -> list[str]:
    return await survive(folder, v0_only=v0_only, package=package)


NATIVE_FAULTS: dict[str, Case] = {
    "every fault": partial(_campaign, EVERYTHING),
    "every fault, three on PostgreSQL": partial(_campaign, THREE_MANAGERS),
}
OTHERS: dict[str, Case] = {
    "every fault, v0 only": partial(_campaign, V0_ONLY),
    "outbox": partial(_outbox, False),
}
LONG_ONLY: dict[str, Case] = {
    "SIGTERM only": partial(_campaign, TERMS_ONLY),
    "outbox, v0 only": partial(_outbox, True),
}
CASES = {**NATIVE_FAULTS, **OTHERS, **LONG_ONLY}
