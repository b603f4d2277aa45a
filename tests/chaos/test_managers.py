"""Real processes under every fault: three state managers on one PostgreSQL, and two workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.campaign import survive
from tests.chaos.plan import EVERY_FAULT, Fault
from tests.chaos.proxy import KINDS

pytestmark = pytest.mark.chaos

FAULTS: dict[str, int] = {
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
}


async def test_nothing_is_lost_with_three_state_managers(tmp_path: Path) -> None:
    await survive(replace(EVERY_FAULT, faults=FAULTS, managers=3), tmp_path)


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
