"""Work at risk: what the running nodes have worked since their last stored checkpoints."""

from __future__ import annotations

from typing import Any

from exotrio.client import Overview, RuntimeList
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for
from tests.support.helpers import SettableClock, ok, place
from tests.support.manager import Manager, open_manager

CHECKPOINT = {"checkpoint": {"number": 1, "value": "{}"}}


async def beats(manager: Manager, worker_id: str, *states: dict[str, Any]) -> None:
    ok(
        await manager.remote.heartbeat(
            worker_id, workers=2, states=[{**state, "running": True} for state in states]
        )
    )


async def at_risk(manager: Manager) -> tuple[float | None, dict[str, float | None]]:
    """Return the work at risk of the namespace and of each runtime."""
    overview = Overview.model_validate(ok(await manager.remote.overview()))
    assert sum(node.work_at_risk or 0 for node in overview.nodes) == overview.work_at_risk
    listed = RuntimeList.model_validate(ok(await manager.remote.workers()))
    of_runtimes = {runtime.worker_id: runtime.work_at_risk for runtime in listed.workers}
    assert of_runtimes == {runtime.worker_id: runtime.work_at_risk for runtime in overview.runtimes}
    return overview.work_at_risk, of_runtimes


async def is_more(manager: Manager) -> tuple[bool, dict[str, bool]]:
    """Return whether the work at risk of the namespace, and of each runtime, is more than is known."""
    overview = Overview.model_validate(ok(await manager.remote.overview()))
    assert [node.work_at_risk_is_more for node in overview.nodes] == [overview.work_at_risk_is_more]
    of_runtimes = {runtime.worker_id: runtime.work_at_risk_is_more for runtime in overview.runtimes}
    for runtime in overview.runtimes:
        assert runtime.at_risk.startswith("≥") is runtime.work_at_risk_is_more
    return overview.work_at_risk_is_more, of_runtimes


async def test_it_is_counted_since_the_begin_or_the_last_checkpoint_of_each_running_state() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        await Flow.start(manager.remote, place("a"), runs=3)
        for worker_id in ("w1", "w2"):
            await beats(manager, worker_id)
        first, second = [
            item_for(await claim_one(manager.remote, worker_id="w1", announces=True, limit=1))
            for _ in range(2)
        ]
        waits = item_for(await claim_one(manager.remote, worker_id="w2", announces=True, limit=1))
        assert await at_risk(manager) == (0, {"w1": 0, "w2": 0})
        assert await is_more(manager) == (True, {"w1": True, "w2": True}), "it is not known when they began"
        await beats(manager, "w1", {**first, "buffered_ms": 0}, {**second, "buffered_ms": 0})
        assert await is_more(manager) == (True, {"w1": False, "w2": True})
        await beats(manager, "w2", waits)
        assert await is_more(manager) == (False, {"w1": False, "w2": False}), "its process is starting"
        ok(await manager.remote.heartbeat("w2", states=[waits]))
        assert await is_more(manager) == (False, {"w1": False, "w2": False}), "the other one is buffered"
        clock.advance(20_000)
        assert await at_risk(manager) == (40, {"w1": 40, "w2": 0})
        await beats(manager, "w1", {**first, **CHECKPOINT}, second)
        clock.advance(3_000)
        assert await at_risk(manager) == (26, {"w1": 26, "w2": 0})
        # Another execution begins: the checkpoint of the one before does not count for it.
        ok(await manager.remote.release(states=[first]))
        clock.advance(1_000)
        again = item_for(await claim_one(manager.remote, worker_id="w2", announces=True, limit=1))
        clock.advance(1_000)
        await beats(manager, "w2", {**again, "buffered_ms": 0})
        clock.advance(5_000)
        assert await at_risk(manager) == (36, {"w1": 30, "w2": 6})
