"""What stays in the database of checkpoints."""

from __future__ import annotations

from typing import Any

import pytest

from exotrio.manager.engine.runs import find_run
from exotrio.manager.queries.run import failed_with_checkpoint
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import claim_one, item_for, report
from tests.support.due import clear, discard
from tests.support.helpers import SettableClock, ok, place
from tests.support.manager import Manager, open_manager


def saved(number: int) -> dict[str, Any]:
    return {"checkpoint": {"number": number, "value": f'{{"row": "{number}"}}'}}


async def with_checkpoint(manager: Manager, **settings: Any) -> dict[str, Any]:
    """Return a claimed state that has a checkpoint."""
    await Flow.start(manager.api, place("a"), **settings)
    state = await claim_one(manager.api)
    ok(await manager.api.heartbeat(states=[item_for(state, **saved(5))]))
    return state


def rows(view: View) -> list[int]:
    return [row["state"] for row in view.execute("SELECT state FROM checkpoints")]


@pytest.mark.parametrize(
    "outcome", [{"outcome": "executed", "outputs": []}, {"outcome": "pruned", "data": {}}]
)
async def test_nothing_stays_of_the_checkpoint_of_a_state_that_succeeded_or_was_pruned(
    manager: Manager, outcome: dict[str, Any]
) -> None:
    state = await with_checkpoint(manager)
    assert len(await manager.service.store.read(rows)) == 1
    assert await report(manager.api, item_for(state, **outcome, **saved(6))) == ["ok"]
    assert await manager.service.store.read(rows) == []


async def test_the_checkpoint_of_a_failed_state_goes_with_its_run() -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        state = await with_checkpoint(manager, retry_policy={"max_retries": 0})
        assert await report(manager.api, item_for(state, outcome="errored", error="x")) == ["ok"]
        read = manager.service.store.read
        run = await read(find_run, manager.api.namespace, state["run_id"])
        assert await read(failed_with_checkpoint, run) == 1
        assert len(await read(rows)) == 1
        assert await manager.service.store.write(discard, -1) == 1
        while await manager.service.store.write(clear):
            pass
        assert await read(rows) == []
