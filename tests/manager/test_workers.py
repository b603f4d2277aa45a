"""Runtimes that were heard of: what is kept of them, for how long, and that every state manager knows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, StateManager
from exotrio._wire.overview import RuntimeList
from exotrio.manager.engine.leases import expire
from exotrio.manager.engine.workers import (
    CLAIM_KEPT_FOR_MS,
    FORGOTTEN_AFTER_MS,
    STOPPED_FORGOTTEN_AFTER_MS,
)
from exotrio.manager.queries.runtimes import progress_of, runtimes_of
from exotrio.manager.store.transaction import Transaction
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import claim_one, executed_item, item_for, report
from tests.support.doubles import running
from tests.support.helpers import SettableClock, eventually, node_name, ok, place, refused
from tests.support.manager import ENGINES, Manager, open_manager, open_two


async def runtimes(api: Api) -> RuntimeList:
    return RuntimeList.model_validate(ok(await api.workers()))


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_command_given_at_one_state_manager_reaches_a_runtime_at_another(engine: str) -> None:
    beat: dict[str, Any] = {"phase": "running", "shows_tasks": True}
    async with open_two(engine) as (manager, second):
        ok(await manager.api.heartbeat("w", **beat))
        ok(await second.api.worker("POST", "w", "drain"))
        ok(await second.api.worker("POST", "w", "tasks"))
        assert ok(await manager.api.heartbeat("w", **beat))["commands"] == ["drain", "tasks"]
        sent = ok(await manager.api.heartbeat("w", phase="draining", shows_tasks=True, tasks="main"))
        assert sent["commands"] == []
        assert ok(await second.api.worker("GET", "w", "tasks"))["tasks"] == "main"
        (shown,) = (await runtimes(second.api)).workers
        assert (shown.phase, shown.asked_to_drain) == ("draining", False)


async def test_the_last_heartbeat_of_a_runtime_is_kept_without_its_checkpoints(manager: Manager) -> None:
    checkpoint = {"number": 1, "value": '{"row": "large"}'}
    state = {"state_id": "f" * 24, "token": "t", "progress": {"text": "kept"}, "checkpoint": checkpoint}
    ok(await manager.api.heartbeat("w", states=[state]))
    kept = await manager.service.store.read(lambda view: str(view.one("SELECT beat FROM workers")["beat"]))
    assert "kept" in kept
    assert "large" not in kept


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_runtime_offers_all_nodes_that_it_claims_at_several_state_managers(engine: str) -> None:
    async with open_two(engine) as (manager, second):
        await manager.api.register_for([place("a"), place("b")])
        for each, name in ((manager, "a"), (second, "b")):
            ok(await each.api.native_claim({node_name(name): 1}, worker_id="w"))
            ok(await each.api.claim([node_name(name)], 1))
        for each in (manager, second):
            listed = await runtimes(each.api)
            assert [worker.nodes for worker in listed.workers] == [[node_name("a"), node_name("b")]]
            assert sorted(runtime.nodes for runtime in listed.v0) == [[node_name("a")], [node_name("b")]]


@pytest.mark.parametrize("native", [True, False])
async def test_a_runtime_that_claims_again_and_again_is_written_every_ten_seconds_only(native: bool) -> None:
    monotonic = SettableClock()
    async with open_manager(monotonic=monotonic) as manager:
        api, store = manager.api, manager.service.store
        await api.register_for([place("a"), place("b")])

        async def written_by_claim(*names: str) -> int:
            before = store.written
            if native:
                ok(await api.native_claim({node_name(name): 1 for name in names}, worker_id="w"))
            else:
                ok(await api.claim([node_name(name) for name in names], 1))
            return store.written - before

        assert await written_by_claim("a", "unknown") > 0
        monotonic.advance(CLAIM_KEPT_FOR_MS - 1)
        assert await written_by_claim("a", "unknown") == 0
        assert (await written_by_claim("a") == 0) == native, "a node at its limit is left out of a claim"
        assert await written_by_claim("a", "b") > 0
        monotonic.advance(CLAIM_KEPT_FOR_MS)
        assert await written_by_claim("a", "b") > 0


async def test_a_runtime_is_forgotten_ten_minutes_after_it_fell_silent_or_one_after_it_stopped() -> None:
    monotonic = SettableClock()
    async with open_manager(monotonic=monotonic) as manager:
        api, store = manager.api, manager.service.store
        await api.register_for([place("a")])
        ok(await api.claim([node_name("a")], 1))
        ok(await api.heartbeat("silent", phase="running"))
        ok(await api.heartbeat("stopped", phase="stopped"))

        async def known() -> list[str]:
            listed = await runtimes(api)
            named = [f"{worker.worker_id}, {'live' if worker.live else 'not'}" for worker in listed.workers]
            return named + ["v0"] * len(listed.v0)

        monotonic.advance(STOPPED_FORGOTTEN_AFTER_MS - 1)
        assert await known() == ["silent, live", "stopped, not", "v0"]
        monotonic.advance(1)
        assert await known() == ["silent, not", "stopped, not", "v0"]
        monotonic.advance(1)
        assert await known() == ["silent, not", "v0"]
        refused(await api.worker("GET", "stopped", "tasks"), 404)
        monotonic.advance(FORGOTTEN_AFTER_MS)
        assert await known() == []
        ok(await api.heartbeat("new"))
        left = await store.read(
            lambda view: [
                *view.execute("SELECT worker_id FROM workers UNION ALL SELECT nodes FROM v0_runtimes")
            ]
        )
        assert [row[0] for row in left] == ["new"], "the rows are deleted, too"


async def test_after_a_restart_only_runtimes_with_a_request_since_are_known(tmp_path: Path) -> None:
    """The clock of ages begins again with the machine."""
    for now in (5_000_000, 0):
        async with open_manager(tmp_path / "state.db", monotonic=SettableClock(now)) as manager:
            assert (await runtimes(manager.api)).workers == []
            ok(await manager.api.heartbeat("w"))
            assert len((await runtimes(manager.api)).workers) == 1


@pytest.mark.parametrize("engine", ENGINES)
async def test_progress_is_that_of_the_execution_that_runs_and_not_of_one_that_was_lost(engine: str) -> None:
    async with open_two(engine) as (manager, second):
        store, monotonic = manager.service.store, manager.service.monotonic
        await Flow.start(manager.remote, place("a"))
        namespace = manager.remote.namespace

        async def shown() -> list[float | None]:
            listed = await second.service.store.read_with_deadline(
                lambda view: progress_of(view, runtimes_of(view, namespace))
            )
            assert set(listed) <= {state["state_id"]}
            return [each.fraction for each in listed.values()]

        async def says(worker_id: str, **state: Any) -> None:
            ok(await manager.remote.heartbeat(worker_id, phase="running", states=[state]))

        state = await claim_one(manager.remote, worker_id="z")
        await says("z", **item_for(state, running=True, buffered_ms=0, progress={"fraction": 0.9}))
        assert await shown() == [0.9]
        terms = manager.service.terms
        overdue = monotonic() + terms.lease_ttl_ms
        assert await store.write(expire, overdue, terms) == 1
        assert await shown() == []
        state = await claim_one(manager.remote, worker_id="a")
        assert await shown() == [], "nothing is known of the new execution"
        await says("a", **item_for(state, running=True, buffered_ms=0))
        assert await shown() == [], "it sets none"
        await says("a", **item_for(state, running=True, buffered_ms=0, progress={"fraction": 0.1}))
        assert await shown() == [0.1]
        assert await report(manager.remote, executed_item(state)) == ["ok"]
        assert await shown() == []


class Greet(BaseNode):
    class Inputs(BaseModel):
        name: str

    async def execute(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "loss", ["DELETE FROM nodes", "UPDATE nodes SET inputs_schema = '{}', updated_at = updated_at - 60000"]
)
async def test_a_registration_that_the_database_lost_is_made_again(
    autojump_clock: MockClock, loss: str
) -> None:
    def go_back(tx: Transaction) -> None:
        tx.execute(loss)
        tx.catalog.forget_registered()

    async def inputs() -> list[str]:
        return [name for node in await client.nodes() for name in node.inputs_schema.get("properties", {})]

    async def is_registered() -> None:
        assert await inputs() == ["name"]

    async with open_manager() as manager:
        transport = manager.api.client._transport
        client = StateManager("ns", transport=transport)
        async with running(transport, Greet, registered=True):
            await is_registered()
            await manager.service.store.write(go_back)
            assert await inputs() == []
            await eventually(is_registered, within=60)
