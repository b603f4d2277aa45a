"""Real processes under every fault: a state manager on a file, or three on one PostgreSQL, and two workers.

``python -m tests.chaos`` is the long form.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.campaign import survive
from tests.chaos.plan import BY_USERS, EVERY_FAULT, Fault, Plan
from tests.chaos.proxy import CUT_NEXT, KINDS

pytestmark = pytest.mark.chaos


async def test_nothing_is_lost_under_every_fault(tmp_path: Path) -> None:
    await survive(EVERY_FAULT, tmp_path)


async def test_nothing_is_lost_over_v0(tmp_path: Path) -> None:
    faults: dict[str, int] = {
        Fault.WORKER_KILL: 1,
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 1,
        Fault.TERM: 1,
        Fault.CUT: 1,
        Fault.GATEWAY: 1,
        Fault.FAILING: 1,
        Fault.CLOCK: 1,
        **dict.fromkeys(KINDS, 1),
        CUT_NEXT: 3,
    }
    plan = Plan(runs=4, faults=faults, v0_only=True, seed=1, processes=2, gap=0.8, claim_timeout=4.0)
    await survive(plan, tmp_path)


@pytest.mark.long_form
async def test_a_restored_backup_stores_no_outcome_for_another_state(tmp_path: Path) -> None:
    faults: dict[str, int] = {Fault.RESTORE: 3, Fault.CUT: 1, **dict.fromkeys(KINDS, 1)}
    plan = Plan(runs=8, faults=faults, processes=2, gap=0.8, lease_ttl=6.0, long=3.0, outbox=True)
    await survive(plan, tmp_path)


@pytest.mark.long_form
async def test_nothing_is_repeated_when_only_stop_signals_are_sent(tmp_path: Path) -> None:
    faults: dict[str, int] = {Fault.TERM: 2, Fault.HUP: 1}
    plan = Plan(runs=4, faults=faults, processes=2, gap=0.7, lease_ttl=3.0, long=3.6, blocking=False)
    await survive(plan, tmp_path)


async def test_nothing_is_lost_with_three_state_managers(tmp_path: Path) -> None:
    faults: dict[str, int] = {
        Fault.SERVER_KILL: 1,
        Fault.ZOMBIE: 1,
        Fault.SUSPENDED: 1,
        Fault.DATABASE_CRASH: 1,
        Fault.DATABASE_HUNG: 1,
        Fault.SESSION_END: 3,
        Fault.COMMIT_CUT: 3,
        Fault.SCHEDULE_DUE: 4,
        Fault.CLOCK: 1,
        Fault.PAUSE: 1,
        **dict.fromkeys(KINDS, 1),
        **dict.fromkeys(BY_USERS, 1),
    }
    await survive(replace(EVERY_FAULT, faults=faults, managers=3), tmp_path)


@pytest.mark.long_form
async def test_a_failover_loses_only_what_the_standby_had_not_received(tmp_path: Path) -> None:
    faults: dict[str, int] = {
        Fault.FAILOVER: 2,
        Fault.SYNC_FAILOVER: 1,
        Fault.WORKER_KILL: 1,
        Fault.SERVER_KILL: 1,
    }
    plan = replace(EVERY_FAULT, faults=faults, managers=3, gap=6.0, outbox=False)
    await survive(plan, tmp_path)
