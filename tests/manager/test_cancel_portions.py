"""Large runs that are cancelled, or moved to another version: in portions, while no state is claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from exotrio.graph import pinned_name
from exotrio.manager.engine import moves, runs
from exotrio.manager.engine.due_work import Step, due_work
from tests.contract.flow import Flow
from tests.contract.native import B, claim, item_for, report
from tests.contract.sharing import fan_out, runs_of_claim
from tests.support.due import handle_due, unfinished
from tests.support.helpers import NO_RETRY, declare, ok, place, refused
from tests.support.manager import Manager, both_engines, open_two, recount

Two = tuple[Manager, Manager]


@pytest.fixture
async def two(engine: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Two]:
    """Two state managers that cancel or move 10 states at once, and no more of them by themselves."""
    monkeypatch.setattr(moves, "PORTION", 10)
    monkeypatch.setattr(runs, "PORTION", 10)
    monkeypatch.setattr("exotrio.manager.background.go_on", lambda tx, runs: 0)
    b = place("b", inputs={"x": "${{ f.outputs.v }}"}, limits=[{"name": "few"}])
    async with open_two(engine) as both:
        ok(await both[0].api.native("PUT", "limit/few", json={"at_most": 40}))
        await Flow.deploy(both[0].api, place("f", "b"), b, retry_policy=NO_RETRY)
        yield both


async def go_on(manager: Manager) -> int:
    """Do the rest; return in how many transactions. The stored numbers are right after each."""
    portions = 0
    while await handle_due(manager.service, Step.GO_ON):
        await manager.service.store.write(recount)
        portions += 1
    assert not await manager.service.store.read(due_work)
    return portions


async def shown(manager: Manager, run_id: str) -> tuple[str, list[str], dict[str, int]]:
    """Return the status of a run, what goes on with it, and how many states of b it has by status."""
    run: dict[str, Any] = ok(await manager.api.native_run(run_id))
    return run["status"], run["changing"], run["nodes"][1]["counts"]


@pytest.mark.parametrize("held_ones", [30, 40], ids=["", "others wait for a limit"])
@both_engines
async def test_no_state_of_a_large_run_is_claimed_once_it_is_cancelled(two: Two, held_ones: int) -> None:
    one, other = two
    large, small = await fan_out(one.api, 60, priority="high"), await fan_out(one.api, 5)
    held = await claim(one.api, {B: 100}, limit=30 if held_ones == 30 else 100)
    assert len(held) == held_ones
    ok(await one.api.native("POST", f"run/{large}/cancel"))
    assert len(await one.service.store.read(unfinished)) == 1
    of_large = [state for state in held if state["run_id"] == large]
    status, changing, counts = await shown(other, large)
    assert (status, changing) == ("PENDING", ["being cancelled"])
    assert counts["ERRORED"] >= len(of_large), "what is held ends first: its runtimes have to learn it"
    refused(await other.api.native("POST", f"run/{large}/events", json={"name": "e", "value": {}}), 409)
    await one.api.release(states=[item_for(state) for state in held])
    assert await runs_of_claim(other.api, 2) == {small: 2}, "what comes behind those that are passed over"
    assert await runs_of_claim(other.api, 100) == {small: 3}
    assert await go_on(other) > 1
    assert await shown(one, large) == ("FAILED", [], {"ERRORED": 60})
    run = ok(await one.api.native_run(large))
    assert run["cancelled_at"] <= run["finished_at"]
    refused(await one.api.retry_run(large), 409)


@both_engines
async def test_what_an_outcome_creates_in_a_run_that_is_being_cancelled_is_cancelled(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    run_id = await fan_out(one.api, 30)
    held = await claim(one.api, {B: 25}, limit=25)
    # As if they had been claimed while the run was cancelled, by another state manager.
    monkeypatch.setattr(runs, "HELD", "SELECT seq FROM states WHERE run = ? AND seq < 0")
    ok(await one.api.native("POST", f"run/{run_id}/cancel"))
    last = held[-1]
    assert await report(other.api, item_for(last, outcome="executed", outputs=[{"v": "", "w": ""}])) == ["ok"]
    await go_on(other)
    assert await shown(one, run_id) == ("FAILED", [], {"ERRORED": 29, "SUCCESS": 1})
    assert not await one.service.store.read(unfinished)


@both_engines
async def test_a_large_run_that_moves_to_another_version_is_claimed_once_all_of_it_has_moved(
    two: Two,
) -> None:
    one, other = two
    run_id = await fan_out(one.api, 30)
    new = pinned_name(B, "2")
    ok(await one.api.register([declare(new, [], ["v", "w"])]))
    ok(await one.api.native("POST", f"run/{run_id}/repin", json={"version": "2"}))
    assert await shown(other, run_id) == ("PENDING", ["moving to another version"], {"CREATED": 30})
    for node in (B, new):
        assert not await claim(other.api, {node: 40}, limit=40)
    assert await go_on(other) == 3
    assert not await claim(other.api, {B: 40}, limit=40)
    assert len(await claim(other.api, {new: 40}, limit=40)) == 30
