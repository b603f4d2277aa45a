"""Limits while two state managers work at the same moment on one PostgreSQL; claims that wait for room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import trio
from trio.testing import MockClock

from exotrio.manager.engine.leases import Terms, expire
from exotrio.manager.store.postgres import waiting as postgres_waiting
from tests.contract.flow import Flow
from tests.contract.native import A, B, claim, executed_item, item_for, report, until_polling, waiting_claim
from tests.support.helpers import node_name, ok, place, virtual_ms
from tests.support.manager import Manager, open_manager
from tests.support.races import Pair, open_pair

LONG = 600.0


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with open_pair() as opened:
        yield opened


async def start(manager: Manager, runs: int, at_most: int = 1, nodes: str = "a", **fields: int) -> None:
    """Start runs of a graph for each node; all states share a limit."""
    limits = [{"name": "service", "at_most": at_most, **fields}]
    for node in nodes:
        await Flow.start(
            manager.api,
            place(node, limits=[{"name": "service"}]),
            graph=node,
            limits=limits,
            runs=0,
        )
        # So that a claim that is held up does not write that a runtime asks for this node.
        assert await claim(manager.api, {node_name(node): 1}) == []
        assert await claim(manager.remote, {node_name(node): 1}) == []
        for _ in range(runs):
            ok(await manager.api.trigger(node))


async def held(manager: Manager) -> int:
    row = await manager.service.store.read(
        lambda view: view.row("SELECT count(*) FROM states WHERE status = 'QUEUED'")
    )
    assert row is not None
    return int(row[0])


async def test_two_claims_at_once_do_not_take_the_same_room(pair: Pair) -> None:
    await start(pair.first, runs=3, at_most=2, nodes="ab")

    async def claim_a(manager: Manager) -> list[dict[str, Any]]:
        return await claim(manager.api, {A: 2}, limit=2)

    async def claim_b(manager: Manager) -> list[dict[str, Any]]:
        return await claim(manager.api, {B: 2}, limit=2)

    first, second = await pair.race(claim_a, claim_b)
    assert (len(first), len(second)) == (2, 0)


async def test_a_claim_and_a_heartbeat_that_regains_a_lease_do_not_take_the_same_room(pair: Pair) -> None:
    await start(pair.first, runs=1, nodes="ab")
    [late] = await claim(pair.first.remote)
    await pair.first.service.store.write(expire, 10**15, Terms())

    async def claim_b(manager: Manager) -> list[dict[str, Any]]:
        return await claim(manager.api, {B: 1})

    async def beat(manager: Manager) -> None:
        ok(await manager.remote.heartbeat(states=[item_for(late)]))

    states, _ = await pair.race(claim_b, beat)
    assert len(states) == await held(pair.second) == 1


@pytest.mark.parametrize("how", ["then claims", "with a claim", "while one waits"])
async def test_room_that_is_made_while_a_claim_puts_a_state_aside_is_found(pair: Pair, how: str) -> None:
    await start(pair.first, runs=2)
    [state] = await claim(pair.first.api, limit=1)

    async def put_aside(manager: Manager) -> list[dict[str, Any]]:
        return await claim(manager.api)

    async def report_and_claim(manager: Manager) -> list[dict[str, Any]]:
        if how == "with a claim":
            busy = {"worker_id": "busy", "claim_id": "c", "limits": {A: 1}, "limit": 1, "at_once": 1}
            reply = ok(await manager.api.outcomes(executed_item(state), {"claim": busy}))
            return [*reply["states"]]
        states: list[dict[str, Any]] = []

        async def wait() -> None:
            states.extend(await claim(manager.api, wait_ms=500, worker_id="waits"))

        async with trio.open_nursery() as nursery:
            if how == "while one waits":
                nursery.start_soon(wait)
                await until_polling(manager.api, "waits")
            await report(manager.api, executed_item(state))
            if how == "then claims":
                states += await claim(manager.api)
        return states

    aside, found = await pair.race(put_aside, report_and_claim)
    aside += found or await claim(pair.second.api)
    assert len(aside) == 1


@pytest.mark.parametrize("end", ["executed", "released", "cancelled"])
async def test_a_claim_that_waits_at_another_state_manager_is_woken_when_a_hold_ends(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    monkeypatch.setattr(postgres_waiting, "MIN_POLL", LONG)
    monkeypatch.setattr(postgres_waiting, "MAX_POLL", LONG)
    async with open_pair() as pair:
        first, second = pair.first, pair.second
        await start(first, runs=1, nodes="ab")
        # Otherwise the claim looks again by itself, as the limit of its node is new.
        await first.service.store.write(lambda tx: tx.execute("DELETE FROM slots").rowcount)
        [state] = await claim(first.api)
        async with waiting_claim(second.api, {B: 1}) as waiting:
            if end == "executed":
                await report(first.api, executed_item(state))
            elif end == "released":
                ok(await first.api.release(states=[item_for(state)], delay_ms=3_600_000))
            else:
                ok(await first.api.native("POST", f"run/{state['run_id']}/cancel"))
                ok(await first.api.release(states=[item_for(state)]))
        assert [each["identifier"] for each in waiting] == ["b"]


async def test_a_claim_that_waits_for_a_rate_is_woken_when_a_start_is_possible(
    autojump_clock: MockClock,
) -> None:
    async with open_manager(clock=virtual_ms) as manager:
        limits = [{"name": "service", "starts": 2, "period_ms": 60_000}]
        await Flow.start(manager.api, place("a", limits=[{"name": "service"}]), limits=limits, runs=5)
        times: list[float] = []
        began = trio.current_time()
        while len(times) < 5:
            states = await claim(manager.api, {node_name("a"): 1}, wait_ms=15_000)
            times += [trio.current_time() - began] * len(states)
            await report(manager.api, *map(executed_item, states))
        assert times == pytest.approx([0, 0, 61, 61, 122], abs=1.1)


async def test_a_claim_does_not_wait_for_a_check_that_another_transaction_writes(pair: Pair) -> None:
    await start(pair.first, runs=2)
    [state] = await claim(pair.first.api, limit=1)
    assert await claim(pair.first.api) == []
    await report(pair.first.api, executed_item(state))
    claims: list[list[dict[str, Any]]] = []
    finished = trio.Event()

    async def ask() -> None:
        claims.append(await claim(pair.second.api))
        finished.set()

    with psycopg.connect(pair.database.url) as other:
        assert other.execute("SELECT 1 FROM slots WHERE check_at = 0 FOR UPDATE").fetchall() != []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            with trio.move_on_after(10):
                await finished.wait()
            other.rollback()
    assert claims == [[]]
    assert len(await claim(pair.second.api)) == 1


async def test_a_claim_that_waits_learns_when_to_look_again_for_a_state_that_was_locked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgres_waiting, "MIN_POLL", LONG)
    monkeypatch.setattr(postgres_waiting, "MAX_POLL", LONG)
    async with open_pair() as pair:
        first, second = pair.first, pair.second
        await start(first, runs=1, nodes="ab")
        await first.service.store.write(lambda tx: tx.execute("DELETE FROM slots").rowcount)
        [state] = await claim(first.api)
        async with waiting_claim(second.api, {B: 1}) as waiting:
            with psycopg.connect(pair.database.url) as other:
                locked = other.execute("SELECT 1 FROM states WHERE status = 'CREATED' FOR UPDATE")
                assert len(locked.fetchall()) == 1
                busy = {"worker_id": "busy", "claim_id": "c", "limits": {A: 1}, "limit": 1, "at_once": 1}
                reply = ok(await first.api.outcomes(executed_item(state), {"claim": busy}))
                assert reply["states"] == []
        assert len(waiting) == 1
