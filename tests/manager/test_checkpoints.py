"""What stays in the database of checkpoints, also next to state managers of the version before, which know
none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest

from exotrio.manager.engine.checkpoints import CheckpointChanges
from exotrio.manager.engine.retention import clear, discard
from exotrio.manager.engine.runs import find_run
from exotrio.manager.queries.run import failed_with_checkpoint
from exotrio.manager.store.view import View
from tests.contract.flow import Flow
from tests.contract.native import claim_one, executed_item, item_for, report
from tests.support.helpers import FAST_RETRY, SettableClock, ok, place
from tests.support.manager import Manager, open_manager


def saved(number: int) -> dict[str, Any]:
    return {"checkpoint": {"number": number, "value": f'{{"row": "{number}"}}'}}


@contextmanager
def version_before() -> Iterator[None]:
    """Let a state manager change no checkpoint."""
    with mock.patch.object(CheckpointChanges, "apply", return_value={}):
        yield


async def with_checkpoint(manager: Manager, *places: dict[str, Any]) -> dict[str, Any]:
    """Return a claimed state that has a checkpoint."""
    outputs = ("v", "missing")
    await Flow.start(manager.api, *places or [place("a")], outputs=outputs, retry_policy=FAST_RETRY)
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


async def test_a_state_that_one_retried_starts_from_zero(manager: Manager) -> None:
    state = await with_checkpoint(manager)
    with version_before():
        assert await report(manager.api, item_for(state, outcome="errored", error="x", **saved(6))) == ["ok"]
    again = await claim_one(manager.api, wait_ms=5_000)
    assert "checkpoint" not in again
    (reply,) = ok(await manager.api.heartbeat(states=[item_for(again, **saved(1))]))["items"]
    assert reply["checkpoint"] == 1


@pytest.mark.parametrize("outcome", ["executed", "not followed", "pruned"])
async def test_what_one_left_of_a_success_is_not_shown_nor_used_and_goes_with_the_run(outcome: str) -> None:
    clock = SettableClock()
    async with open_manager(clock=clock) as manager:
        follows = [place("a", "b"), place("b", inputs={"p": "${{a.outputs.missing}}"})]
        state = await with_checkpoint(manager, *follows if outcome == "not followed" else ())
        pruned = item_for(state, outcome="pruned", data={})
        item = pruned if outcome == "pruned" else executed_item(state, {"v": "x"})
        with version_before():
            assert await report(manager.api, item) == ["ok"]
        assert ok(await manager.api.history(state["state_id"]))["checkpoint"] is None
        read = manager.service.store.read
        run = await read(find_run, manager.api.namespace, state["run_id"])
        assert await read(failed_with_checkpoint, run) == 0
        assert len(await read(rows)) == 1
        if outcome == "pruned":
            ok(await manager.api.manual_retry(state["state_id"]))
            assert "checkpoint" not in await claim_one(manager.api)
            return
        assert await manager.service.store.write(discard, -1) == 1
        while await manager.service.store.write(clear):
            pass
        assert await manager.service.store.read(rows) == []
