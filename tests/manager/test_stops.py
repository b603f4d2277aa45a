"""Receipts: how a runtime stopped, by its own account, or how it vanished, by that of the state manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph, Runtime, StateManager
from exotrio._util.times import from_unix_ms, parse_duration
from exotrio._wire.stops import StopList, StopReport
from exotrio.client import StopReceipt
from exotrio.errors import ConfigurationError
from exotrio.manager import embedded
from exotrio.manager.api.metrics import ManagerMetrics
from exotrio.manager.engine import leases, managers, stops, workers
from exotrio.manager.engine.leases import Terms, end_leases, expire
from exotrio.manager.engine.retention import trim_records
from exotrio.manager.store.effects import Effects
from exotrio.manager.store.view import View
from tests.contract.api import Api
from tests.contract.flow import Flow
from tests.contract.native import A, claim, executed_item, item_for, report
from tests.support.helpers import SettableClock, ok, place
from tests.support.manager import ENGINES, Manager, open_manager, open_two

SECOND = 1_000
TERMS = Terms(lease_ttl_ms=60_000)
WALL = 1_800_000_000_000


# -- what a runtime says


class Sleeps(BaseNode):
    class Inputs(BaseModel):
        seconds: float

    async def execute(self) -> None:
        try:
            await trio.sleep(self.inputs.seconds)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(2 if self.stopping == "cancelling" else 0)


graph = Graph("sleep", namespace="tests")
graph.add(Sleeps, seconds=1)


async def test_a_stop_leaves_a_receipt_that_says_when_why_how_long_and_what_it_cost(
    autojump_clock: MockClock,
) -> None:
    async with (
        embedded(":memory:") as transport,
        StateManager("tests", transport=transport) as manager,
        trio.open_nursery() as nursery,
    ):
        runtime = Runtime("tests", "r", [Sleeps], transport=transport, workers=3, batch_size=8)
        await nursery.start(runtime.run)
        await manager.upsert_graph(graph)
        for seconds in (8, 30, 40, 50):
            await manager.trigger("sleep", {"seconds": str(seconds)})
        await trio.sleep(5)
        runtime.stop(20, why="SIGTERM")
        await trio.sleep(10)
        runtime.stop(0, why="SIGINT")
        await trio.sleep(10)
        (receipt,) = (await manager.stops()).receipts
    assert (receipt.worker_id, receipt.runtime, receipt.vanished) == (runtime.worker_id, "r", False)
    assert receipt.reason == "SIGTERM, then SIGINT"
    assert (receipt.drain, receipt.clean_up, receipt.flush) == pytest.approx((10, 2, 0), abs=0.01)
    assert receipt.took == pytest.approx(12, abs=0.01)
    assert receipt.phases == "drain 10.0 s, clean-up 2.0 s"
    late = receipt.model_copy(update={"took": 12.5})
    assert late.phases == "drain 10.0 s, clean-up 2.0 s, rest 500 ms", "they add up"
    assert (receipt.finished, receipt.handed_over, receipt.cut, receipt.undelivered) == (1, 0, 2, 0)
    abandoned = receipt.model_copy(update={"cut": 0, "work_lost": 0.0, "abandoned": 2})
    assert StopList(receipts=[abandoned]).total.text().endswith(" 0 cut; 2 states undelivered")
    assert receipt.work_lost == pytest.approx(2 * (5 + 10 + 2), abs=0.1)
    assert receipt.exit_code is None, "the process goes on"
    assert runtime.summary.released == 1


# -- what the state manager knows


@dataclass
class Lab:
    """A state manager whose clocks are set, and runtimes in other processes, for which the test speaks."""

    manager: Manager
    clock: SettableClock

    @property
    def api(self) -> Api:
        return self.manager.remote

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(round(seconds * SECOND))

    async def beat(
        self, worker: str = "w", *states: dict[str, Any], phase: str = "running", **more: Any
    ) -> None:
        ok(await self.api.heartbeat(worker, runtime="r", phase=phase, states=list(states), **more))

    async def sweep(self) -> None:
        """Do what a state manager does every few seconds."""
        await self.manager.service.store.write(expire, self.clock(), TERMS)

    async def receipts(self) -> list[StopReceipt]:
        answer = ok(await self.api.native("GET", "stops"))
        return [StopReceipt.model_validate(each) for each in answer["receipts"]]


@asynccontextmanager
async def lab(db: str | Path = ":memory:", now: int = WALL) -> AsyncIterator[Lab]:
    clock = SettableClock(now)
    async with open_manager(db, clock=clock, monotonic=clock, terms=TERMS) as manager:
        yield Lab(manager, clock)


def runs(state: dict[str, Any], buffered: float = 0.0) -> dict[str, Any]:
    return {**item_for(state), "running": True, "buffered_ms": round(buffered * SECOND)}


async def begin(lab: Lab, count: int = 1, worker: str = "w") -> list[dict[str, Any]]:
    """Claim so many states, and say by a heartbeat that they run, each two seconds after its claim."""
    await Flow.start(lab.api, place("a"), runs=count)
    states: list[dict[str, Any]] = ok(await lab.api.native_claim({A: count}, worker_id=worker))["states"]
    lab.pass_time(2)
    await lab.beat(worker, *(runs(state, 2) for state in states))
    return states


async def test_a_runtime_that_vanishes_gets_a_receipt_with_the_work_that_its_heartbeats_told() -> None:
    async with lab() as at:
        committed: list[Effects] = []
        at.manager.service.store.on_commit = lambda writes, effects: committed.extend(effects)
        first, second, third = await begin(at, 3)
        at.pass_time(20)
        await at.beat("w", runs(first, 2), runs(second, 2), runs(third, 2))
        last = at.clock()
        assert await report(at.api, executed_item(second)) == ["ok"]
        at.pass_time(59)
        await at.sweep()
        assert await at.receipts() == []
        at.pass_time(1)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.worker_id, receipt.runtime, receipt.reason) == ("w", "r", "vanished")
        assert receipt.ended_at == from_unix_ms(last)
        assert (receipt.began_at, receipt.took, receipt.phases) == (None, None, "")
        assert (receipt.cut, receipt.work_lost) == (2, 40.0), "the outcome of one was accepted"
        assert receipt.lost == "≥40.0 s", "what they did after the last heartbeat is not known"
        assert "2 cut; at least 40.0 s of work lost;" in StopList(receipts=[receipt]).total.text()
        at.pass_time(5)
        await at.sweep()
        assert await at.receipts() == [receipt]
        assert [each.stops for each in committed if each.stops] == [[("tests", receipt)]], "counted once"
        assert await claim(at.api, {A: 3}), "its states can be claimed"


async def test_claims_after_the_last_heartbeat_hide_nothing() -> None:
    async with lab() as at:
        await begin(at)
        at.pass_time(15)
        await claim(at.api, {A: 1}, worker_id="w")
        at.pass_time(45)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.cut, receipt.work_lost) == (1, 0.0)
        assert receipt.lost == "≥0 ms", "a heartbeat named the node"
        assert " 1 cut; how much work was lost is not known;" in StopList(receipts=[receipt]).total.text()


async def test_what_a_vanished_runtime_may_have_run_without_telling_is_not_said_to_be_unharmed() -> None:
    async with lab() as at:
        await Flow.start(at.api, place("a"), runs=4)
        await at.beat("w", workers=2)
        await claim(at.api, {A: 4}, worker_id="w", announces=True)
        at.pass_time(60)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.cut, receipt.perhaps_cut, receipt.cut_in_words) == (0, 2, "0 to 2"), (
            "it has 2 workers"
        )
        assert receipt.lost == "not known"
        assert "0 to 2 cut; work lost not known;" in StopList(receipts=[receipt]).total.text()
        await at.beat("v", workers=2)
        first, *_ = await claim(at.api, {A: 4}, worker_id="v", announces=True)
        await at.beat("v", runs(first), workers=2)
        at.pass_time(60)
        await at.sweep()
        (receipt, _) = await at.receipts()
        assert (receipt.cut, receipt.perhaps_cut) == (1, 1)
        await at.beat("u", workers=2)
        one, two, *_ = await claim(at.api, {A: 4}, worker_id="u", announces=True)
        at.pass_time(5)
        await at.beat("u", {**runs(one), "buffered_ms": None}, {**runs(two), "ran_ms": 3_000}, workers=2)
        at.pass_time(60)
        await at.sweep()
        (receipt, *_) = await at.receipts()
        assert receipt.cut_in_words == "1 to 3", "one has ended, so that both workers may run another"
        assert receipt.work_lost == 3.0


async def test_of_many_vanished_runtimes_those_are_first_whose_states_are_taken_back_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stops, "MAX_VANISHED", 1)
    monkeypatch.setattr(leases, "MAX_STATES_PER_SWEEP", 1)
    async with lab() as at:
        (state,) = await begin(at, worker="first")
        await begin(at, worker="second")
        at.pass_time(5)
        await at.beat("first", runs(state, 2))
        at.pass_time(60)
        for _ in range(2):
            await at.sweep()
        cut = {receipt.worker_id: receipt.cut for receipt in await at.receipts()}
        assert cut == {"first": 1, "second": 1}


async def test_what_a_checkpoint_keeps_is_not_lost() -> None:
    async with lab() as at:
        (state,) = await begin(at)
        at.pass_time(18)
        await at.beat("w", {**runs(state, 2), "checkpoint": {"number": 1, "value": "{}"}})
        at.pass_time(2)
        await at.beat("w", runs(state, 2))
        at.pass_time(60)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.cut, receipt.work_lost) == (1, 2.0)


async def test_a_runtime_that_is_killed_while_it_stops_has_said_when_and_why_the_stop_began() -> None:
    async with lab() as at:
        (state,) = await begin(at)
        at.pass_time(3)
        said = {"why": "SIGTERM", "took_ms": 1_000, "drain_ms": 1_000, "finished": 2}
        await at.beat("w", runs(state, 2), phase="draining", stop=said)
        at.pass_time(60)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.reason, receipt.phases) == ("SIGTERM, then vanished", "drain 1.0 s")
        assert receipt.began_at == receipt.ended_at - timedelta(seconds=1)
        assert (receipt.finished, receipt.cut, receipt.work_lost) == (2, 1, 3.0)


@pytest.mark.parametrize("by_claim", [False, True])
async def test_the_receipt_of_a_runtime_that_is_heard_of_again_is_removed(by_claim: bool) -> None:
    async with lab() as at:
        await begin(at)
        at.pass_time(61)
        await at.sweep()
        assert [receipt.vanished for receipt in await at.receipts()] == [True]
        if by_claim:
            await claim(at.api, {A: 1}, worker_id="w")
        else:
            await at.beat("w")
        assert await at.receipts() == []
        await at.beat("w", phase="stopped", stop={"why": "SIGTERM", "took_ms": 5, "exit_code": 75})
        at.pass_time(100)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.reason, receipt.vanished, receipt.exit_code) == ("SIGTERM", False, 75)


async def test_a_runtime_of_an_earlier_version_gets_a_receipt_with_what_the_state_manager_knows() -> None:
    async with lab() as at:
        for worker in ("old", "drained"):
            await at.beat(worker)
        ok(await at.api.worker("POST", "drained", "drain"))
        for worker in ("old", "drained"):
            for phase in ("running", "draining", "stopped"):
                await at.beat(worker, phase=phase)
        reasons = {receipt.worker_id: receipt.reason for receipt in await at.receipts()}
        assert reasons == {"old": "", "drained": "a drain from the API"}


@pytest.mark.parametrize(
    "stop",
    [
        {"took_ms": "long", "finished": -1},
        {"took_ms": 10**400},
        {"took_ms": 10**18},
        {"work_lost_ms": -1},
        {"finished": 10**4000},
        {"exit_code": 2**63},
    ],
    ids=["not a number", "too long for a float", "before the year 1", "negative", "too many", "no exit code"],
)
async def test_a_report_that_cannot_be_right_costs_no_lease_and_is_not_kept(stop: dict[str, Any]) -> None:
    async with lab() as at:
        metrics = ManagerMetrics(at.manager.service.store)
        (state,) = await begin(at)
        await at.beat("w", runs(state, 2), phase="draining", stop=stop)
        at.pass_time(59)
        await at.sweep()
        assert await report(at.api, executed_item(state)) == ["ok"]
        await at.beat("w", phase="stopped", stop=stop)
        (receipt,) = await at.receipts()
        assert {name: getattr(receipt, name) for name in StopReport.model_fields} == dict(StopReport())
        assert b'work_lost_seconds_total{end="stopped",namespace="tests"} 0.0' in await metrics.render()


async def test_a_stop_counts_once_though_heartbeats_are_repeated_or_late() -> None:
    async with lab() as at:
        committed: list[Effects] = []
        at.manager.service.store.on_commit = lambda writes, effects: committed.extend(effects)
        await at.beat("w")
        for phase in ("stopped", "stopped", "running"):
            await at.beat("w", phase=phase, stop={"why": "SIGTERM", "took_ms": 5})
        at.pass_time(61)
        await at.sweep()
        (receipt,) = await at.receipts()
        assert (receipt.reason, receipt.vanished) == ("SIGTERM", False)
        assert [stop for each in committed for stop in each.stops] == [("tests", receipt)]


async def test_time_in_which_no_state_manager_worked_ends_no_runtime() -> None:
    async with lab() as at:
        await begin(at)
        at.pass_time(300)
        sweep = partial(managers.sweep, last=at.clock() - 300 * SECOND)
        await at.manager.service.store.write(sweep, "m", at.clock(), TERMS)
        await at.sweep()
        assert await at.receipts() == []
        at.pass_time(60)
        await at.sweep()
        assert len(await at.receipts()) == 1


async def test_after_a_restart_runtimes_have_the_term_of_a_lease_to_be_heard_of(tmp_path: Path) -> None:
    db = tmp_path / "state.db"
    async with lab(db) as at:
        (state,) = await begin(at)
        at.pass_time(10)
        await at.beat("w", runs(state, 2))
        await at.beat("lives")
        ok(await at.manager.api.heartbeat("inside", runtime="run", phase="running"))
        last = at.clock()
    async with lab(db, last) as at:
        await at.sweep()
        (inside,) = await at.receipts()
        assert (inside.worker_id, inside.reason) == ("inside", "vanished"), "it was in the process that ended"
        at.pass_time(59)
        await at.beat("lives")
        at.pass_time(2)
        await at.sweep()
        receipt = (await at.receipts())[0]
        assert (receipt.worker_id, receipt.ended_at) == ("w", from_unix_ms(last))
        assert (receipt.cut, receipt.work_lost) == (1, 10.0)
        assert len(await at.receipts()) == 2


@pytest.mark.parametrize("engine", ENGINES)
async def test_several_state_managers_write_and_count_one_receipt(engine: str) -> None:
    async with open_two(engine) as pair:
        first, second = (each.service for each in pair)
        committed: list[Effects] = []
        for service in (first, second):
            service.store.on_commit = lambda writes, effects: committed.extend(effects)
        api = pair[0].remote
        await Flow.start(api, place("a"))
        state = ok(await api.native_claim({A: 1}, worker_id="w"))["states"][0]
        ok(await api.heartbeat("w", runtime="r", phase="running", states=[runs(state)]))
        later = first.monotonic() + 61 * SECOND
        async with trio.open_nursery() as nursery:
            for service in (first, second, first, second):
                nursery.start_soon(service.store.write, expire, later, TERMS)
        for each in pair:
            (receipt,) = ok(await each.remote.native("GET", "stops"))["receipts"]
            assert (receipt["vanished"], receipt["cut"]) == (True, 1)
        assert len([stop for each in committed for stop in each.stops]) == 1, "counted once"


@pytest.mark.parametrize("engine", ENGINES)
async def test_leases_end_early_unless_a_later_heartbeat_came_to_any_state_manager(engine: str) -> None:
    async with open_two(engine) as pair:
        first, second = pair
        store, term = first.service.store, first.service.terms.lease_ttl_ms
        await Flow.start(first.remote, place("a"), runs=2)
        held = ok(await first.remote.native_claim({A: 2}, worker_id="w"))["states"]

        async def beat_at(manager: Manager) -> int:
            ok(
                await manager.remote.heartbeat(
                    "w", runtime="r", phase="running", states=list(map(runs, held))
                )
            )
            return next(iter(await store.read(leases_of)))

        def leases_of(view: View) -> list[int]:
            rows = view.execute(
                "SELECT lease_until FROM workers WHERE lease_until IS NOT NULL UNION"
                " SELECT lease_until FROM states WHERE status = 'QUEUED'"
            )
            return sorted(row["lease_until"] for row in rows)

        async def close(renewed_until: int) -> int:
            at = first.service.monotonic() + term // 2
            await store.write(end_leases, "tests", "w", at, renewed_until=renewed_until)
            return at

        before = await beat_at(first)
        await trio.sleep(0.01)
        now = await beat_at(second)
        await close(before)
        assert await store.read(leases_of) == [now], "it was heard of at the other one"
        at = await close(now)
        assert await store.read(leases_of) == [at], "of the runtime and of both states"
        renewed = await beat_at(second)
        assert await store.read(leases_of) == [renewed]
        ok(await first.remote.heartbeat("other", phase="stopped"))
        await store.write(end_leases, "tests", "other", 0, renewed_until=renewed)
        assert await store.read(leases_of) == [renewed], "another one's, which has said that it stopped"
        at = await close(renewed)
        for service in (first.service, second.service):
            await service.store.write(expire, at, service.terms)
        assert await store.read(leases_of) == []
        receipts = ok(await second.remote.native("GET", "stops"))["receipts"]
        assert [receipt["cut"] for receipt in receipts if receipt["worker_id"] == "w"] == [2]
        runtimes = ok(await first.remote.native("GET", "workers"))["workers"]
        assert not any(runtime["live"] for runtime in runtimes)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_vanished_runtime_gets_its_receipt_though_clients_claim_under_ever_new_names(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MAX_WORKERS", 2)
    async with open_two(engine) as (manager, _):
        ok(await manager.remote.heartbeat("vanished", runtime="r", phase="running"))
        for number in range(4):
            ok(await manager.remote.native_claim({}, worker_id=f"w{number}"))
        listed = ok(await manager.remote.workers())["workers"]
        assert sorted(each["worker_id"] for each in listed) == ["vanished", "w2", "w3"]
        later = manager.service.monotonic() + 61 * SECOND
        await manager.service.store.write(expire, later, TERMS)
        (receipt,) = ok(await manager.remote.native("GET", "stops"))["receipts"]
        assert (receipt["worker_id"], receipt["vanished"]) == ("vanished", True)


async def test_a_runtime_whose_process_has_ended_leaves_a_receipt_at_once() -> None:
    async with lab() as at:
        (state,) = await begin(at)
        at.pass_time(4)
        await at.beat("w", runs(state, 2))
        await at.manager.service.store.write(workers.forget, "tests", "w", at.clock())
        (receipt,) = await at.receipts()
        assert (receipt.vanished, receipt.cut, receipt.work_lost) == (True, 1, 4.0)


async def test_receipts_are_kept_as_long_as_runs_and_of_a_number_of_them_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stops, "MAX_STOPS", 5)
    async with lab() as at:
        for number in range(8):
            at.pass_time(10)
            await at.beat(f"w{number}", phase="stopped", stop={"why": "SIGTERM", "took_ms": 1})
        assert [receipt.worker_id for receipt in await at.receipts()] == ["w7", "w6", "w5", "w4", "w3"]
        await at.manager.service.store.write(trim_records, 25 * SECOND)
        assert [receipt.worker_id for receipt in await at.receipts()] == ["w7", "w6", "w5"]
        async with StateManager("tests", transport=at.manager.api.client._transport) as client:
            listed = await client.stops(within=15)
            assert [receipt.worker_id for receipt in listed.receipts] == ["w7", "w6"]
            assert len((await client.stops(within=parse_duration("36500d"))).receipts) == 3
            assert (
                await StateManager("other", transport=at.manager.api.client._transport).stops()
            ).receipts == []
            for within in (0, -1, float("inf"), float("nan")):
                with pytest.raises(ConfigurationError, match="within"):
                    await client.stops(within=within)
