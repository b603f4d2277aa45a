"""Claims on PostgreSQL that do not search what was claimed long ago."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.manager.store import heads
from exotrio.manager.store.heads import START, Heads
from tests.contract.flow import Flow
from tests.contract.native import B, claim_one, item_for, results
from tests.support.helpers import ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import database


async def claimed(manager: Manager) -> dict[str, Any]:
    """Claim one state of b."""
    return await claim_one(manager.api, limits={B: 1}, limit=1)


async def release(manager: Manager, state: dict[str, Any]) -> None:
    assert results(ok(await manager.api.release(states=[item_for(state)]))) == ["ok"]


async def test_what_comes_back_from_before_is_claimed_in_its_place_here_and_at_last_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heads, "LONG", 0)
    monkeypatch.setattr(heads, "LONG_ONES", 1)
    monkeypatch.setattr(heads, "SHARE", 1_000_000)
    monkeypatch.setattr(heads, "MAX_PAUSE", 3_600)
    with database() as used:
        async with open_manager(used.url) as one, open_manager(used.url) as other:
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
            others = [await claimed(one) for _ in range(3)]
            assert [state["state_id"] == first["state_id"] for state in others] == [False, False, True]


def test_a_search_begins_where_the_last_one_found_something_if_several_were_long() -> None:
    now = 0.0
    known = Heads(lambda: now)
    for _ in range(heads.LONG_ONES):
        assert known.of(1) == START
        known.searched(1, (5, 6), heads.LONG)
    assert known.of(1) == (5, 6)
    assert known.of(2) == START
    now += heads.SHARE * heads.LONG
    assert known.of(1) == START, "all is searched again, in a part of the time"
    known.searched(1, (7, 8), 1.0)
    now += 0.99 * heads.MAX_PAUSE
    assert known.of(1) == (7, 8)
    known.forget(1)
    assert known.of(1) == START
    known.searched(1, (7, 8), heads.LONG)
    assert known.of(1) == START


def test_a_search_that_was_short_ends_it() -> None:
    known = Heads(lambda: 0.0)
    for _ in range(heads.LONG_ONES):
        known.searched(1, (5, 6), heads.LONG)
    known.searched(1, (5, 6), heads.LONG / 2)
    assert known.of(1) == START
