"""Heartbeats of runtimes inside a state manager on PostgreSQL: what they hold has no deadline to renew."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
import trio

from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.helpers import ok, place
from tests.support.manager import Manager, open_manager
from tests.support.postgres import Database, database
from tests.support.stores import until


@dataclass(frozen=True)
class Held:
    """A state that a runtime holds in process, and a session of another client of the database."""

    manager: Manager
    state: dict[str, Any]
    other: psycopg.Connection[Any]
    database: Database


@pytest.fixture
async def held() -> AsyncIterator[Held]:
    with database() as used, psycopg.connect(used.url) as other:
        async with open_manager(used.url) as manager:
            await Flow.start(manager.api, place("a"))
            yield Held(manager, await claim_one(manager.api), other, used)


async def beat(api: Api, state: dict[str, Any], *, running: bool, **fields: Any) -> str:
    """Return what a heartbeat about a state learns of it."""
    (item,) = ok(await api.heartbeat("w", states=[item_for(state, running=running, **fields)]))["items"]
    result: str = item["result"]
    return result


async def test_a_heartbeat_in_process_does_not_wait_for_states_that_another_transaction_has_locked(
    held: Held,
) -> None:
    assert await beat(held.manager.api, held.state, running=True) == "ok"
    held.other.execute("SELECT seq FROM states FOR UPDATE")
    assert await beat(held.manager.api, held.state, running=True) == "ok"
    held.other.rollback()
    ended: dict[str, Any] = {"running": False, "buffered_ms": 0, "ran_ms": 5}
    assert await beat(held.manager.api, held.state, **ended) == "ok"
    held.other.execute("SELECT seq FROM states FOR UPDATE")
    assert await beat(held.manager.api, held.state, **ended) == "ok", "it said that before"
    held.other.rollback()


async def test_a_heartbeat_in_process_does_not_mark_the_claim_of_another_runtime_as_running(
    held: Held,
) -> None:
    def has_begun(view: View) -> bool:
        return bool(view.one("SELECT begun FROM states")["begun"])

    # The claim of another runtime, which is about to be committed.
    held.other.execute("UPDATE states SET token = 'another'")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def check_late_heartbeat() -> None:
            assert await beat(held.manager.api, held.state, running=True) == "lost"

        await until(held.database.blocked)
        held.other.commit()
    assert not await held.manager.service.store.read(has_begun)


async def test_a_heartbeat_in_process_stores_no_checkpoint_of_the_claim_of_another_runtime(
    held: Held,
) -> None:
    def stored(view: View) -> list[int]:
        return [row["number"] for row in view.execute("SELECT number FROM checkpoints")]

    def checkpoint(number: int) -> dict[str, Any]:
        return {"checkpoint": {"number": number, "value": '{"row": "1"}'}}

    store = held.manager.service.store
    assert await beat(held.manager.api, held.state, running=True, **checkpoint(1)) == "ok"
    assert await beat(held.manager.api, held.state, running=True, **checkpoint(2)) == "ok"
    assert await store.read(stored) == [2]
    held.other.execute("UPDATE states SET token = 'another'")
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def check_late_heartbeat() -> None:
            assert await beat(held.manager.api, held.state, running=True, **checkpoint(3)) == "lost"

        await until(held.database.blocked)
        held.other.commit()
    assert await store.read(stored) == [2]
