"""A claim with outcomes while other runtimes wait: in one state manager, on both engines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from exotrio._wire.native import ExecutedItem
from exotrio.manager.engine.claims import record_and_claim
from exotrio.manager.store.transaction import Transaction
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, executed_item
from tests.support.helpers import ok, place
from tests.support.manager import Manager, open_manager
from tests.support.stores import new_database, until


@pytest.fixture(params=["memory", "file", "postgres"])
async def manager(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Manager]:
    with ExitStack() as stack:
        async with open_manager(new_database(request.param, tmp_path, stack)) as opened:
            yield opened


async def test_while_another_runtime_waits_a_busy_one_gets_what_can_begin_at_once(manager: Manager) -> None:
    assert await shares(manager, at_once=1, waits="idle") == (1, 3)


async def test_its_own_claim_that_waits_does_not_count_as_another(manager: Manager) -> None:
    assert await shares(manager, at_once=1, waits="busy") == (4, 0)


@pytest.mark.parametrize("limit", [1, 2])
async def test_states_that_are_left_are_announced_and_no_others(manager: Manager, limit: int) -> None:
    flow = await Flow.deploy(manager.api, place("a", "b"), place("b"))
    await flow.trigger()
    [state] = await claim(manager.api, {A: 1})
    outcome = ExecutedItem(
        state_id=state["state_id"], token=state["lease"]["token"], outputs=[{"v": "1"}, {"v": "2"}]
    )

    def announced(tx: Transaction) -> bool:
        claimer = partial(manager.service.claimer, local=False, worker="busy", claim_id="c")
        _, effects = record_and_claim(tx, "tests", [outcome], {B: limit}, limit, claimer)
        return tx.node_id("tests", B) in effects.topics()

    assert await manager.service.store.write(announced) is (limit < 2)


async def shares(manager: Manager, at_once: int, waits: str) -> tuple[int, int]:
    """Report four states while a runtime waits, and claim with that; return what each of the two gets."""
    api, waiting = manager.api, manager.service.waiting
    got: list[dict[str, Any]] = []

    async def wait() -> None:
        got.extend(await claim(api, {B: 10}, wait_ms=15_000, worker_id=waits))

    await Flow.start(api, place("a", "b"), place("b"), runs=4)
    states = await claim(api, {A: 4})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await until(lambda: waiting.has_others("tests", "other", [B]))
        request = {"worker_id": "busy", "limits": {B: 10}, "limit": 10, "at_once": at_once, "claim_id": "c"}
        reply = ok(await api.outcomes(*(executed_item(state) for state in states), {"claim": request}))
        if len(reply["states"]) < 4:
            await until(lambda: got)
        nursery.cancel_scope.cancel()
    assert not waiting.has_others("tests", "other", [B])
    return len(reply["states"]), len(got)
