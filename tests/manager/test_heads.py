"""Claims on PostgreSQL that do not search what was claimed long ago."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import trio

from exotrio.manager.store import heads
from exotrio.manager.store.heads import START, Heads
from exotrio.manager.store.postgres import waiting as postgres_waiting
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.contract.native import B, claim, claim_one, item_for, results
from tests.support.helpers import ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import database
from tests.support.statements import noted

PAUSE = 3_600.0


@pytest.fixture
def heads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each search begin where the last one found something, from the first one on, for an hour."""
    monkeypatch.setattr(heads, "LONG", 0)
    monkeypatch.setattr(heads, "LONG_ONES", 1)
    monkeypatch.setattr(heads, "SHARE", 1_000_000_000)
    monkeypatch.setattr(heads, "MAX_PAUSE", PAUSE)
    monkeypatch.setattr(heads, "COMMIT_TIME", 0)


def set_clock(tx: Transaction, clock: Callable[[], float]) -> None:
    tx.heads._clock = clock


async def claimed(manager: Manager) -> dict[str, Any]:
    """Claim one state of b."""
    return await claim_one(manager.api, limits={B: 1}, limit=1)


async def release(manager: Manager, state: dict[str, Any]) -> None:
    assert results(ok(await manager.api.release(states=[item_for(state)]))) == ["ok"]


async def test_what_comes_back_from_before_is_claimed_in_its_place_here_and_later_elsewhere(
    heads_at_once: None,
) -> None:
    passed, ticks = 0.0, count()
    with database() as used:
        async with open_manager(used.url) as one, open_manager(used.url) as other:
            # Each search takes a millisecond.
            await one.service.store.write(set_clock, lambda: passed + next(ticks) / 1_000)
            flow = await Flow.start(one.api, place("f", "b"), place("b"))
            await flow.run("f", *[{"v": str(number)} for number in range(4)])
            first = await claimed(one)
            second = await claimed(other)
            await release(other, first)
            again = await claimed(other)
            assert again["state_id"] == first["state_id"], "what comes back here is in its place"
            await release(one, second)
            assert (await claimed(one))["state_id"] == second["state_id"]
            await release(other, again)
            others = [await claimed(one) for _ in range(2)]
            assert first["state_id"] not in {state["state_id"] for state in others}
            assert await claim(one.api, {B: 1}) == []
            passed += PAUSE
            assert (await claimed(one))["state_id"] == first["state_id"]


async def test_a_claim_that_finds_nothing_does_not_search_all_and_one_that_waits_does_when_that_is_due(
    heads_at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing else wakes a claim.
    monkeypatch.setattr(postgres_waiting, "MIN_POLL", PAUSE)
    monkeypatch.setattr(postgres_waiting, "MAX_POLL", PAUSE)
    with database() as used:
        async with open_manager(used.url) as one, open_manager(used.url) as other:
            flow = await Flow.start(one.api, place("f", "b"), place("b"))
            await flow.run("f", {"v": "1"}, {"v": "2"})
            first = await claimed(other)
            await claimed(one)
            await release(other, first)
            with noted(one.service.store) as statements:
                assert await claim(one.api, {B: 1}) == []
            assert len([sql for sql in statements if "(priority, turn, seq) >=" in sql]) == 1
            await one.service.store.write(set_clock, lambda: time.monotonic() + PAUSE - 0.2)
            with trio.fail_after(10):  # at the end of its wait it would search all anyway
                (again,) = await claim(one.api, {B: 1}, wait_ms=15_000)
            assert again["state_id"] == first["state_id"]


def test_an_empty_search_is_followed_by_one_from_where_the_search_before_found_something() -> None:
    known = Heads(lambda: 0.0)
    known.record(1, (0, 5, 6), heads.LONG)
    for _ in range(heads.LONG_ONES):
        known.record(1, None, heads.LONG)
    assert known.of(1) == (0, 5, 6)
    assert known.due_in(1) == max(heads.COMMIT_TIME, heads.SHARE * heads.LONG)
    assert known.due_in(2) == math.inf


def test_a_search_begins_before_what_the_last_full_search_may_have_missed() -> None:
    known = Heads(lambda: 0.0)
    for number in range(heads.LONG_ONES):
        known.record(1, (0, number, 1), heads.LONG)
    # A transaction that was not committed then may have created a state before the last position.
    assert known.of(1) == (0, heads.LONG_ONES - 2, 1)


def test_after_several_long_searches_one_begins_at_the_first_state_of_the_last() -> None:
    now = 0.0
    known = Heads(lambda: now)
    for _ in range(heads.LONG_ONES):
        assert known.of(1) == START
        known.record(1, (0, 5, 6), heads.LONG)
    assert known.of(1) == (0, 5, 6)
    assert known.of(2) == START
    now += max(heads.COMMIT_TIME, heads.SHARE * heads.LONG)
    assert known.of(1) == START, "all is searched again, in a part of the time"
    known.record(1, (0, 7, 8), 1.0)
    now += 0.99 * heads.MAX_PAUSE
    assert known.of(1) == (0, 5, 6)
    known.forget(1)
    assert known.of(1) == START
    known.record(1, (0, 7, 8), heads.LONG)
    assert known.of(1) == START


def test_a_search_that_was_short_ends_it() -> None:
    known = Heads(lambda: 0.0)
    for _ in range(heads.LONG_ONES):
        known.record(1, (0, 5, 6), heads.LONG)
    known.record(1, (0, 5, 6), heads.LONG / 2)
    assert known.of(1) == START
