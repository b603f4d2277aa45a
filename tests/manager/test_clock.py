"""A wall clock that is set: what waits, cron, retention, tallies and claim ids; and the clock of leases."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from exotrio.manager.engine import schedules
from exotrio.manager.store import clock as store_clock
from exotrio.manager.store import tallies
from exotrio.manager.store.clock import WatchedClock, monotonic_clock, set_back
from exotrio.manager.store.transaction import Transaction
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import A, claim, claim_one, item_for
from tests.support.due import discard
from tests.support.helpers import SettableClock, VirtualClock, eventually, ok, place
from tests.support.manager import Manager, open_manager, recount, tallied

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
KEEP_MS = round(30 * DAY * 1000)


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
async def manager(clock: VirtualClock) -> AsyncIterator[Manager]:
    async with open_manager(clock=clock) as opened:
        yield opened


async def start_runs(manager: Manager, count: int, **request: Any) -> Flow:
    flow = await Flow.deploy(manager.api, place("a"))
    for _ in range(count):
        await flow.trigger(**request)
    return flow


async def all_ready(manager: Manager) -> list[str]:
    return [state["state_id"] for state in await claim(manager.api)]


async def run_count(manager: Manager) -> int:
    count = await manager.service.store.read(
        lambda view: view.execute("SELECT count(*) FROM runs").fetchone()
    )
    return int(count[0])


async def test_due_states_stay_due_and_in_order_when_the_clock_is_set_back(
    manager: Manager, clock: VirtualClock, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await start_runs(manager, 1)
    await trio.sleep(1.5 * HOUR)
    await start_runs(manager, 2)
    held = await claim(manager.api, limits={A: 2})
    clock.set(-HOUR)
    await start_runs(manager, 1)
    ok(await manager.api.release(states=[item_for(state) for state in held]))
    ready = await all_ready(manager)
    assert len(ready) == 4
    assert ready == sorted(ready)
    assert ready[0] == held[0]["state_id"]
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "the clock was set back by 1 h; waiting states keep their order and delays"
    ]


@pytest.mark.parametrize("sets", [(-HOUR,), (40 * DAY, -40 * DAY)])
async def test_a_delay_ends_at_most_a_minute_late_when_the_clock_is_set_back(
    manager: Manager, clock: VirtualClock, autojump_clock: MockClock, sets: tuple[float, ...]
) -> None:
    if len(sets) > 1:
        clock.set(sets[0])
        await trio.sleep(MINUTE)
    await start_runs(manager, 1, start_delay=600_000)
    await trio.sleep(301)
    clock.set(sets[-1])
    began = trio.current_time()
    while not await claim(manager.remote, wait_ms=15_000):
        assert trio.current_time() - began < 360
    assert trio.current_time() - began >= 298


async def test_due_states_are_claimable_if_the_clock_was_set_back_between_two_starts(tmp_path: Path) -> None:
    clock, db = SettableClock(), tmp_path / "state.db"
    async with open_manager(db, clock=clock) as manager:
        await start_runs(manager, 1, start_delay=600_000)
        clock.advance(30_000)
        await start_runs(manager, 2)
        clock.advance(30_000)
        await manager.service.store.write(lambda tx: None)
    clock.advance(-3_600_000)
    async with open_manager(db, clock=clock) as manager:
        assert len(await all_ready(manager)) == 2
        clock.advance(539_000)
        assert await all_ready(manager) == []
        clock.advance(2_000)
        assert len(await all_ready(manager)) == 1


async def test_a_step_back_met_by_a_commit_that_fails_is_not_forgotten() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await start_runs(manager, 2)
        clock.advance(-3_600_000)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(WatchedClock, "store", _fail)
            assert (await manager.api.native_claim({A: 10})).status_code == 503
        assert len(await all_ready(manager)) == 2
        await manager.service.store.read(recount)


def _fail(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


async def test_a_time_is_stored_now_and_then_while_nothing_happens(
    manager: Manager, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    stored = set()
    for _ in range(600):
        await trio.sleep(1)
        stored.add(await manager.service.store.read(_latest))
    assert 10 <= len(stored) <= 21
    assert clock() - max(stored) <= MINUTE * 1000


def _latest(view: View) -> int:
    return int(view.execute("SELECT value FROM meta WHERE key = 'clock_latest'").fetchone()[0])


# -- leases


def test_the_clock_of_leases_counts_suspends_where_there_is_one_that_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime_ns", {7: 5_000_000_000}.__getitem__)
    assert monotonic_clock() == 5_000
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    before = time.monotonic()
    assert before * 1000 - 1 <= monotonic_clock() <= time.monotonic() * 1000


# -- cron


async def schedule(manager: Manager, expression: str) -> None:
    triggers = [{"type": "CRON", "value": {"expression": expression}}]
    await Flow.deploy(manager.api, place("a"), triggers=triggers)


async def test_cron_follows_a_clock_that_is_corrected(
    manager: Manager, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    await schedule(manager, "*/10 * * * *")
    await trio.sleep(11 * MINUTE)
    assert await run_count(manager) == 1
    clock.set(40 * DAY)
    await trio.sleep(2 * MINUTE)
    assert await run_count(manager) == 2, "one that was missed"
    clock.set(-40 * DAY)
    await trio.sleep(8 * MINUTE)
    assert await run_count(manager) == 3, "at 20 past"
    clock.set(-15 * MINUTE)
    await trio.sleep(5 * MINUTE)
    assert await run_count(manager) == 4, "at 10 past, a second time"


@pytest.mark.parametrize("engine", ["SQLite", "PostgreSQL"])
async def test_a_schedule_in_a_zone_that_this_machine_does_not_know_does_not_stop_a_clock_that_is_set_back(
    engine: str, db: str
) -> None:
    clock = SettableClock(VirtualClock.START_MS)

    def stored_elsewhere(tx: Transaction) -> None:
        tx.execute("INSERT INTO cron_triggers SELECT id, 'CRON_TZ=Mars/Olympus * * * * *', 1 FROM graphs")

    async with open_manager(db, clock=clock, schedules=False) as manager:
        await schedule(manager, "*/10 * * * *")
        await manager.service.store.write(stored_elsewhere)
        clock.advance(40 * 86_400_000)
        await manager.service.store.write(schedules.fire_schedules)
        clock.advance(-40 * 86_400_000 + 1_000)
        if engine == "SQLite":
            await manager.service.store.write(lambda tx: None)  # each commit compares the clock
        else:
            await manager.service.store.write(lambda tx: set_back(tx, tx.now_ms, 40 * 86_400_000))
        (line,) = await manager.service.store.write(schedules.fire_schedules)
        assert "Mars/Olympus" in line, "due each minute, as before; the other one at 10 past"


async def test_cron_follows_a_clock_that_was_corrected_between_two_starts(tmp_path: Path) -> None:
    clock, db = SettableClock(VirtualClock.START_MS), tmp_path / "state.db"
    async with open_manager(db, clock=clock) as manager:
        await schedule(manager, "*/10 * * * *")
        clock.advance(40 * 86_400_000)
        await manager.service.store.write(lambda tx: None)
        manager.service.scheduler.notify()
        await eventually(lambda: _has_runs(manager, 1))
    clock.advance(-40 * 86_400_000 + 601_000)
    async with open_manager(db, clock=clock) as manager:
        clock.advance(600_000)
        manager.service.scheduler.notify()
        await eventually(lambda: _has_runs(manager, 2))


async def _has_runs(manager: Manager, count: int) -> None:
    assert await run_count(manager) == count


async def test_an_occurrence_does_not_come_twice_when_the_clock_is_set_back_by_seconds(
    manager: Manager, clock: VirtualClock, autojump_clock: MockClock
) -> None:
    await schedule(manager, "*/10 * * * *")
    await trio.sleep(10 * MINUTE + 0.5)
    assert await run_count(manager) == 1
    clock.set(-30)
    await trio.sleep(9 * MINUTE)
    assert await run_count(manager) == 1
    await trio.sleep(MINUTE + 30)
    assert await run_count(manager) == 2


# -- retention


async def finish_run(manager: Manager) -> None:
    flow = await start_runs(manager, 1)
    await flow.run("a")


async def test_a_clock_that_is_wrong_for_minutes_deletes_nothing(autojump_clock: MockClock) -> None:
    clock = VirtualClock()
    async with open_manager(clock=clock, keep_ms=KEEP_MS) as manager:
        await finish_run(manager)
        await trio.sleep(MINUTE)
        await finish_run(manager)
        clock.set(40 * DAY)
        await trio.sleep(10 * MINUTE)
        await finish_run(manager)
        assert await run_count(manager) == 3
        clock.set(-40 * DAY)
        await trio.sleep(10 * MINUTE)
        assert await run_count(manager) == 3


async def test_retention_goes_on_by_the_time_that_went_by_when_the_clock_was_set(
    autojump_clock: MockClock,
) -> None:
    clock = VirtualClock()
    async with open_manager(clock=clock, keep_ms=round(6 * HOUR * 1000)) as manager:
        await finish_run(manager)
        await trio.sleep(2 * HOUR)
        await finish_run(manager)
        clock.set(8 * HOUR)
        await trio.sleep(3.9 * HOUR)
        assert await run_count(manager) == 2
        await trio.sleep(0.3 * HOUR)
        assert await run_count(manager) == 1, "the first is 6 hours old by any clock"
        await trio.sleep(1.6 * HOUR)
        assert await run_count(manager) == 1
        clock.set(-8 * HOUR)
        await trio.sleep(0.4 * HOUR)
        assert await run_count(manager) == 0


async def test_a_clock_that_goes_on_from_where_it_was_set_is_trusted_after_a_day(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 3 * HOUR
    monkeypatch.setattr(store_clock, "DAY_MS", round(1000 * day))
    clock = VirtualClock()
    async with open_manager(clock=clock, keep_ms=KEEP_MS) as manager:
        await finish_run(manager)
        clock.set(40 * DAY)
        await trio.sleep(0.95 * day)
        assert await run_count(manager) == 1
        await trio.sleep(0.25 * day)
        assert await run_count(manager) == 0


async def test_a_clock_that_was_wrong_at_a_start_deletes_nothing(tmp_path: Path) -> None:
    clock, db = SettableClock(), tmp_path / "state.db"

    async def read_page(manager: Manager) -> None:
        assert await manager.service.store.write(discard, KEEP_MS) == 0

    async with open_manager(db, clock=clock) as manager:
        await finish_run(manager)
        await read_page(manager)
    clock.advance(40 * 86_400_000)
    async with open_manager(db, clock=clock) as manager:
        await read_page(manager)
        clock.advance(600_000)
    async with open_manager(db, clock=clock) as manager:
        await read_page(manager)
        clock.advance(-40 * 86_400_000)
        await read_page(manager)
        assert await run_count(manager) == 1


async def test_nights_in_which_nothing_runs_count_from_the_next_day_on() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await finish_run(manager)
        for _ in range(59):
            clock.advance(43_200_000)
            assert await manager.service.store.write(discard, KEEP_MS) == 0
        for _ in range(4):
            clock.advance(43_200_000)
            await manager.service.store.write(discard, KEEP_MS)
        assert await run_count(manager) == 0


# -- tallies


async def test_ended_states_are_counted_by_the_present_clock_after_it_was_set_back() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await finish_run(manager)
        await tallied(manager.service, clock)
        clock.advance(-7_200_000)
        await finish_run(manager)
        await tallied(manager.service, clock)

        def counted(view: View) -> tuple[int, int]:
            node_id = view.execute("SELECT id FROM nodes").fetchone()[0]
            counts = tallies.of_node(view, node_id, 60)
            return counts.statuses.total(), counts.took.total()

        assert await manager.service.store.read(counted) == (1, 1)


# -- claim ids


@pytest.mark.parametrize("step", [40 * 86_400_000, -3_600_000])
async def test_a_claim_id_is_remembered_when_the_clock_is_set(step: int) -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await start_runs(manager, 2)
        held = await claim_one(manager.remote, limits={A: 1}, claim_id="c1")
        clock.advance(step)
        other = await claim(manager.remote, limits={A: 1}, claim_id="c2")
        assert len(other) == 1
        ok(await manager.api.release(states=[item_for(each) for each in other]))
        again = await claim(manager.remote, limits={A: 1}, claim_id="c1")
        assert [state["state_id"] for state in again] == [held["state_id"]]
