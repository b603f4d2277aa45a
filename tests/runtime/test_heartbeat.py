"""Heartbeats: what is held stays held, what is lost ends, what was cancelled stops, commands are obeyed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any, cast

import anyio.to_thread
import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import (
    BaseNode,
    Graph,
    ManagerUnavailable,
    NotFound,
    Phase,
    RequestRefused,
    RetryPolicyModel,
    Runtime,
    StateManager,
    Stopping,
)
from exotrio._link.port import Claim, HeartbeatAnswer, Link
from exotrio._runtime.heartbeat import SECOND_AFTER, HeartbeatSender, heartbeat
from exotrio._runtime.ledger import Ledger, seconds_asleep
from exotrio._runtime.receipt import StopRecord
from exotrio._runtime.stop import Stop
from exotrio._runtime.worker import MAX_ALONE_WAIT
from exotrio._wire.heartbeats import HeartbeatRequest, HeartbeatState
from exotrio._wire.vocabulary import HeartbeatResult, RunStatus, StateStatus
from exotrio.manager import embedded
from tests.support.doubles import Call, Delays, Fails, NativeServer, V0Server, reply, running, runtime


class Waits(BaseNode):
    """Waits until it is cancelled, or ``gate`` opens. Says how it ended."""

    gate: trio.Event
    begun: int
    ended: list[str]

    async def execute(self) -> None:
        type(self).begun += 1
        try:
            await self.gate.wait()
        finally:
            self.ended.append(self.stopping.value or "returned")


class Guarded(BaseNode):
    """Has secrets, which are fetched before it begins."""

    class Secrets(BaseModel):
        key: str = ""

    begun: int

    async def execute(self) -> None:
        type(self).begun += 1


@pytest.fixture(autouse=True)
def fresh() -> None:
    Guarded.begun = 0
    Waits.gate = trio.Event()
    Waits.begun = 0
    Waits.ended = []


def beats(server: NativeServer) -> list[Call]:
    return server.routes("heartbeat")


def beaten(server: NativeServer) -> set[str]:
    """Return the states the last heartbeat was about."""
    return {item["state_id"] for item in beats(server)[-1].body["states"]}


def released(server: NativeServer) -> list[str]:
    return [item["state_id"] for call in server.routes("release") for item in call.body["states"] or []]


# -- the content


async def test_a_heartbeat_names_all_that_is_held_and_how_the_runtime_is(autojump_clock: MockClock) -> None:
    server = NativeServer()
    ids = server.add("Waits", 5)
    async with running(server, Waits, workers=2) as rt:
        await server.until(lambda: bool(beats(server)) and len(beaten(server)) == 5)
        body = beats(server)[-1].body
        assert (body["runtime"], body["phase"]) == ("test", "running")
        assert [body[part] for part in ("busy", "buffered", "reporting")] == [2, 3, 0]
        assert {item["state_id"]: item["running"] for item in body["states"]} == {
            state_id: position < 2 for position, state_id in enumerate(ids)
        }
        assert body["nodes"] == {"Waits": "() -> ()"}
        claim = server.routes("claim")[0].body
        assert body["worker_id"] == claim["worker_id"]
        Waits.gate.set()
    assert rt.summary.completed + rt.summary.released == 5


async def test_leases_are_renewed_until_the_last_outcome_is_delivered(autojump_clock: MockClock) -> None:
    server = NativeServer()
    (state_id,) = server.add("Waits")
    async with running(server, Waits) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1)
        server.before = Fails(("outcomes",), lambda: reply(503))
        Waits.gate.set()
        rt.stop()
        await server.until(lambda: len(server.routes("outcomes")) > 3)
        assert rt.phase is Phase.DRAINING
        seen = len(beats(server))
        await server.until(lambda: len(beats(server)) > seen + 3)
        assert beaten(server) == {state_id}
        body = beats(server)[-1].body
        assert body["phase"] == "draining"
        assert [body[part] for part in ("busy", "buffered", "reporting")] == [0, 0, 1]
        (ended,) = body["states"]
        assert (ended["running"], ended["buffered_ms"], ended["ran_ms"]) == (False, 0, 1_000)
        server.before = None
    assert server.statuses() == {"EXECUTED": 1}
    assert rt.summary.exit_code == 0


async def test_a_drain_and_the_end_are_sent_at_once(autojump_clock: MockClock) -> None:
    server = NativeServer(Waits=1)
    async with running(server, Waits) as rt:
        await server.until(lambda: bool(beats(server)) and len(beaten(server)) == 1)
        began = trio.current_time()
        rt.stop()
        await server.until(lambda: beats(server)[-1].body["phase"] == "draining")
        assert trio.current_time() - began < 0.1
        assert len(beaten(server)) == 1
        Waits.gate.set()
    last = beats(server)[-1].body
    assert (last["phase"], last["busy"], last["states"]) == ("stopped", 0, [])
    assert trio.current_time() - began < 0.2


async def test_a_last_heartbeat_that_hangs_is_abandoned_soon(autojump_clock: MockClock) -> None:
    server = NativeServer()

    async def hangs(call: Call) -> None:
        if call.route == "heartbeat" and call.body["phase"] == "stopped":
            await trio.sleep_forever()

    server.before = hangs
    async with running(server, Waits):
        await server.until(lambda: bool(beats(server)))
        began = trio.current_time()
    assert beats(server)[-1].body["phase"] == "stopped"
    assert trio.current_time() - began < 0.5


@pytest.mark.parametrize("route", ["claim", "outcomes"])
async def test_after_an_outage_an_answered_heartbeat_has_claims_and_outcomes_repeated(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server = NativeServer()
    if route == "outcomes":
        server.add("Waits")
    async with running(server, Waits):
        await trio.sleep(1)
        server.before = Fails(("claim", "outcomes", "heartbeat"))
        Waits.gate.set()
        await trio.sleep(60)
        tried = len(server.routes(route))
        await server.until(lambda: len(server.routes(route)) > tried)
        await trio.sleep(0.1)
        server.before, over = None, trio.current_time()
        if route == "claim":
            server.add("Waits")
        await server.until(EXECUTED=1)
        assert trio.current_time() < over + 5  # not after the 10 s of a pause


async def test_an_outcome_that_fails_is_not_repeated_with_each_of_many_heartbeats(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saves(BaseNode):
        class Checkpoint(BaseModel):
            step: int = 0

        async def execute(self) -> None:
            for step in range(100):
                await trio.sleep(0.1)
                await self.save_checkpoint(self.Checkpoint(step=step))

    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server = NativeServer()
    server.add("Saves")
    server.add("Waits")
    server.before = fails = Fails(("outcomes",))
    Waits.gate.set()
    async with running(server, Saves, Waits):
        await trio.sleep(9)
        assert len(beats(server)) > 50
        assert fails.count < 15
        server.before = None


async def test_states_that_are_being_released_are_not_renewed(autojump_clock: MockClock) -> None:
    server = NativeServer()
    ids = server.add("Waits", 3)
    async with running(server, Waits, workers=1) as rt:
        await server.until(QUEUED=3)
        await trio.sleep(1)
        server.before = Fails(("release",), lambda: reply(503))
        rt.stop()
        seen = len(beats(server))
        await server.until(lambda: len(beats(server)) > seen + 1)
        assert beaten(server) == {ids[0]}
        server.before = None
        Waits.gate.set()
    assert server.statuses() == {"EXECUTED": 1, "CREATED": 2}


async def test_more_states_than_fit_one_request_go_in_several(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("exotrio._link.native.MAX_BATCH", 3)
    server = NativeServer()
    ids = server.add("Waits", 7)
    server.lost = {ids[6]}
    async with running(server, Waits, workers=1) as rt:
        await server.until(lambda: rt.summary.lost_leases == 1)
        assert [len(call.body["states"]) for call in beats(server)[-3:]] == [3, 3, 1]
        Waits.gate.set()


async def test_v0_servers_hear_no_heartbeats(autojump_clock: MockClock) -> None:
    server = V0Server(Waits=1)
    async with running(server, Waits):
        await trio.sleep(100)
        Waits.gate.set()
    assert not server.routes("heartbeat")
    assert server.statuses() == {"EXECUTED": 1}


async def test_heartbeats_begin_when_the_server_is_replaced_by_one_with_leases(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.discovery = reply(404)
    (state_id,) = server.add("Waits")
    async with running(server, Waits):
        await server.until(QUEUED=1)
        server.before = Fails(("enqueue",), lambda: reply(502), times=1)
        server.discovery = NativeServer.discovery
        await server.until(lambda: len(beats(server)) > 1)
        assert not beaten(server), "what was claimed without a lease has none to renew"
        assert server.states[state_id].status == "QUEUED"
        Waits.gate.set()


# -- lost leases


async def test_a_lost_lease_cancels_the_node_and_nothing_is_released(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    lost, kept = server.add("Waits", 2)
    async with running(server, Waits) as rt:
        await server.until(QUEUED=2)
        await trio.sleep(3)
        server.lost = {lost}
        await server.until(lambda: rt.summary.lost_leases == 1)
        assert Waits.ended == [Stopping.LEASE_LOST.value]
        await server.until(lambda: beaten(server) == {kept})
        Waits.gate.set()
    assert Waits.ended == ["lease lost", "returned"]
    assert not released(server)
    assert [item["state_id"] for call in server.routes("outcomes") for item in call.body] == [kept]
    assert (rt.summary.completed, rt.summary.cancelled, rt.summary.dropped) == (1, 0, 0)
    assert rt.summary.exit_code == 0
    assert "lost leases 1" in str(rt.summary)
    assert f"state {lost} (Waits as it) is cancelled: its lease is lost" in caplog.text


async def test_the_outcome_of_a_node_whose_lease_was_lost_is_still_sent(
    autojump_clock: MockClock,
) -> None:
    class Stubborn(BaseNode):
        async def execute(self) -> None:
            with trio.CancelScope(shield=True):
                await Waits.gate.wait()

    server = NativeServer()
    ids = server.add("Stubborn", 2)
    server.lost = set(ids)
    async with running(server, Stubborn) as rt:
        await server.until(lambda: bool(beats(server)) and len(beaten(server)) == 2)
        server.states[ids[1]].deliveries += 1  # another worker has this one by now
        await trio.sleep(3)
        Waits.gate.set()
        await server.until(lambda: len(server.routes("outcomes")) > 0)
    assert [server.states[state_id].status for state_id in ids] == ["EXECUTED", "QUEUED"]
    assert (rt.summary.completed, rt.summary.dropped, rt.summary.lost_leases) == (1, 1, 0)


async def test_an_error_of_a_node_that_lost_its_lease_is_not_reported(autojump_clock: MockClock) -> None:
    class Breaks(BaseNode):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("while it was cancelled")

    server = NativeServer()
    server.lost = set(server.add("Breaks"))
    async with running(server, Breaks) as rt:
        await server.until(lambda: rt.summary.lost_leases == 1)
    assert not server.routes("outcomes")
    assert not released(server)


async def test_a_buffered_state_that_is_lost_is_never_begun(autojump_clock: MockClock) -> None:
    server = NativeServer()
    first, *rest = server.add("Waits", 4)
    server.lost = set(rest)
    async with running(server, Waits, workers=1) as rt:
        await server.until(lambda: rt.summary.lost_leases == 3)
        Waits.gate.set()
        await server.until(lambda: server.states[first].status == "EXECUTED")
    assert Waits.ended == ["returned"]
    assert not released(server)


async def test_lost_buffered_states_make_room_once_a_worker_passes_them_over(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer(Waits=1)
    async with running(server, Waits, workers=1, batch_size=4) as rt:
        await server.until(QUEUED=1)
        server.lost |= set(server.add("Waits", 2))
        await server.until(lambda: rt.summary.lost_leases == 2)
        others = server.add("Waits", 2)
        await trio.sleep(60)
        assert {server.states[other].status for other in others} == {"CREATED"}, "no worker could run them"
        Waits.gate.set()
        await server.until(lambda: all(server.states[other].status == "EXECUTED" for other in others))
    assert Waits.ended == ["returned"] * 3


async def test_a_plain_node_in_a_thread_can_see_that_its_lease_is_lost() -> None:
    class Steps(BaseNode):
        def execute(self) -> None:
            while not self.stopping:
                anyio.from_thread.run(trio.sleep, 0.01)
            Waits.ended.append(self.stopping.value)

    server = NativeServer()
    server.lost = set(server.add("Steps"))
    async with running(server, Steps, within=60):
        await server.until(lambda: bool(server.routes("outcomes")))
    assert Waits.ended == ["lease lost"]


# -- leases that are over as far as this side knows


async def test_a_buffered_state_whose_lease_is_over_waits_for_the_state_manager_to_renew_it(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    first, second, third = server.add("Waits", 3)
    async with running(server, Waits, workers=1) as rt:
        await server.until(QUEUED=3)
        server.before = Fails(("heartbeat",), lambda: httpx.ConnectError("away"))
        await trio.sleep(61)
        Waits.gate.set()
        await server.until(lambda: server.states[first].status == "EXECUTED")
        await trio.sleep(10)
        assert Waits.ended == ["returned"], "the one that ran went on; the others were not begun"
        assert f"state {second} (Waits as it) waits for a heartbeat" in caplog.text
        server.lost = {second}
        server.before = None
        await server.until(lambda: server.states[third].status == "EXECUTED")
    assert Waits.ended == ["returned"] * 2
    assert (rt.summary.completed, rt.summary.lost_leases, rt.summary.released) == (2, 1, 0)


async def test_a_drain_hands_back_what_waits_for_its_lease(autojump_clock: MockClock) -> None:
    server = NativeServer(Waits=3)
    async with running(server, Waits, workers=1) as rt:
        await server.until(QUEUED=3)
        server.before = Fails(("heartbeat",), lambda: reply(503))
        await trio.sleep(61)
        Waits.gate.set()
        await server.until(EXECUTED=1)
        await trio.sleep(1)
    assert server.statuses() == {"EXECUTED": 1, "CREATED": 2}
    assert rt.summary.exit_code == 0


async def test_a_claim_that_took_long_is_renewed_at_once(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.ttl = 2.4  # so that beats are 0.8 s apart
    async with running(server, Waits) as rt:
        await server.until(lambda: len(beats(server)) > 0)
        (state_id,) = server.add("Waits")
        server.after = Delays(("claim",), 2)
        await rt._ledger.until(lambda: rt._ledger.leased() != [])
        claimed = trio.current_time()
        await server.until(lambda: beaten(server) == {state_id})
        assert trio.current_time() - claimed < 0.05
        Waits.gate.set()


async def test_no_worker_waits_for_a_lease_that_the_state_manager_cannot_renew_any_more(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer(Waits=3)
    async with running(server, Waits, workers=1) as rt:
        await server.until(QUEUED=3)
        await trio.sleep(1)
        server.discovery = reply(404)
        server.before = Fails(("claim", "heartbeat", "release", "outcomes"), lambda: reply(404))
        await trio.sleep(61)
        Waits.gate.set()
        (last,) = server.add("Waits")
        await server.until(lambda: server.states[last].status == "EXECUTED")
    assert rt.summary.lost_leases == 2
    assert Waits.ended == ["returned"] * 2


# -- states whose workers were lost


async def test_a_state_to_be_announced_begins_once_a_heartbeat_has_said_that_it_runs(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    suspect, usual = server.add("Waits", 2)
    server.states[suspect].announce = True
    server.before = Fails(("heartbeat",), lambda: reply(503))
    async with running(server, Waits):
        await server.until(QUEUED=2)
        await trio.sleep(30)
        assert Waits.begun == 1, "only the usual one"
        server.before = None
        seen = len(beats(server))
        await server.until(lambda: len(beats(server)) > seen)
        await trio.sleep(0.01)
        assert Waits.begun == 2
        stated = {item["state_id"]: item["running"] for item in beats(server)[seen].body["states"]}
        assert stated == {suspect: True, usual: True}
        Waits.gate.set()


async def test_a_state_that_was_announced_is_announced_again_if_it_is_claimed_again(
    autojump_clock: MockClock,
) -> None:
    """The announcement was for the lease before."""
    server = NativeServer()
    (suspect,) = server.add("Guarded")
    server.states[suspect].announce = True
    server.before = Delays(("secrets",), 10)
    async with running(server, Guarded):
        await server.until(lambda: [beat for beat in beats(server) if beat.body["states"]])
        await trio.sleep(1)  # its answer has arrived
        server.states[suspect].status = "CREATED"
        server.add("Another")  # wakes the claim that waits
        await server.until(lambda: server.states[suspect].deliveries == 2)
        server.before = Fails(("heartbeat",), lambda: reply(503))
        await trio.sleep(60)
        assert Guarded.begun == 0
        server.before = None
        await server.until(lambda: server.states[suspect].status == "EXECUTED")
    assert Guarded.begun == 1


async def test_a_node_does_not_begin_if_its_lease_ended_while_its_secrets_were_fetched(
    autojump_clock: MockClock,
) -> None:
    """Another runtime may have the state: only the answer to a heartbeat tells."""
    server = NativeServer(Guarded=1)
    server.ttl = 10

    async def before(call: Call) -> Any:
        if call.route == "secrets":
            await trio.sleep(20)
        return reply(503) if call.route == "heartbeat" and trio.current_time() < healthy_at else None

    healthy_at = trio.current_time() + 40
    server.before = before
    async with running(server, Guarded):
        await trio.sleep(39)
        assert Guarded.begun == 0
        await server.until(EXECUTED=1)
    assert trio.current_time() >= healthy_at


async def test_announcing_takes_one_heartbeat_at_once_and_the_begin_another_and_nothing_else_needs_one(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    rt = runtime(server, Waits)
    Waits.gate.set()
    async with running(rt):
        await server.until(lambda: len(beats(server)) > 0)
        await trio.sleep(0.5)
        began, seen = trio.current_time(), len(beats(server))
        usual = server.add("Waits", 3)
        await server.until(lambda: all(server.states[one].status == "EXECUTED" for one in usual))
        assert len(beats(server)) == seen
        (suspect,) = server.add("Waits")
        server.states[suspect].announce = True
        await server.until(lambda: server.states[suspect].status == "EXECUTED")
        assert len(beats(server)) == seen + 2
        assert trio.current_time() - began < 0.1


async def test_a_node_that_begins_while_a_heartbeat_on_its_way_says_otherwise_is_told_by_another_at_once(
    autojump_clock: MockClock,
) -> None:
    fetched, begun = trio.Event(), trio.Event()

    class Begins(Guarded):
        async def execute(self) -> None:
            begun.set()
            await Waits.gate.wait()

    async def before(call: Call) -> None:
        if call.route == "secrets":
            await fetched.wait()
        if call.route == "heartbeat" and any(item["running"] for item in call.body["states"]):
            fetched.set()
            await begun.wait()

    server = NativeServer(Begins=1)
    server.before = before
    async with running(server, Begins):
        await begun.wait()
        began, seen = trio.current_time(), len(beats(server))
        await server.until(lambda: len(beats(server)) > seen)
        assert [item["buffered_ms"] for item in beats(server)[seen - 1].body["states"]] == [None]
        assert [item["buffered_ms"] for item in beats(server)[seen].body["states"]] != [None]
        assert trio.current_time() - began < 0.1
        Waits.gate.set()


async def test_nothing_is_announced_to_a_state_manager_that_has_no_leases_any_more(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    (suspect,) = server.add("Waits")
    server.states[suspect].announce = True
    server.before = Fails(("heartbeat",), lambda: reply(503))
    async with running(server, Waits):
        await server.until(QUEUED=1)
        await trio.sleep(1)
        assert Waits.begun == 0
        server.discovery = reply(404)
        server.before = Fails(("claim", "heartbeat", "release", "outcomes"), lambda: reply(404))
        await trio.sleep(30)
        assert Waits.begun == 1
        Waits.gate.set()


class Together(BaseNode):
    """Notes what runs at the same time."""

    now: set[str]
    seen: list[set[str]]

    class Inputs(BaseModel):
        name: str
        seconds: float = 1.0
        fails: bool = False

    async def execute(self) -> None:
        self.now.add(self.inputs.name)
        self.seen.append(set(self.now))
        await trio.sleep(self.inputs.seconds)
        self.now.discard(self.inputs.name)
        if self.inputs.fails:
            raise ValueError("as asked for")


def add_together(server: NativeServer, *names: str, alone: str = "", **inputs: Any) -> None:
    Together.now, Together.seen = set(), []
    for name in names:
        (state_id,) = server.add("Together", name=name, **inputs)
        server.states[state_id].alone = name in alone


@pytest.mark.parametrize(("fails", "end"), [("false", "EXECUTED"), ("true", "ERRORED")])
async def test_a_state_that_may_be_poison_runs_while_no_other_does(
    autojump_clock: MockClock, fails: str, end: str
) -> None:
    server = NativeServer()
    add_together(server, *"abCDefg", alone="CD", fails=fails)
    async with running(server, Together, workers=4):
        await server.until(lambda: server.statuses()[end] == 7)
    assert sorted(map(sorted, (seen for seen in Together.seen if seen & {"C", "D"}))) == [["C"], ["D"]]
    assert max(map(len, Together.seen)) > 1, "the others run at the same time"


@pytest.mark.parametrize(("recorded_after", "begun_after"), [(10, 10), (300, MAX_ALONE_WAIT)])
async def test_a_state_that_may_be_poison_waits_for_outcomes_on_their_way_for_a_limited_time(
    autojump_clock: MockClock, recorded_after: float, begun_after: float
) -> None:
    """If it ended the process, they would be lost, and their states would count as suspects once more."""
    server, on_its_way = NativeServer(), trio.Event()

    async def record_late(call: Call) -> None:
        if call.route == "outcomes":
            on_its_way.set()
            await trio.sleep(recorded_after)

    server.before = record_late
    add_together(server, "a")
    async with running(server, Together, workers=2):
        await on_its_way.wait()
        (suspect,) = server.add("Together", name="B")
        server.states[suspect].alone = True
        await trio.sleep(begun_after - 1)
        assert server.states[suspect].status == "QUEUED", "it is claimed, and waits here"
        assert Together.seen == [{"a"}]
        await trio.sleep(2)
        assert Together.seen == [{"a"}, {"B"}]


async def test_a_state_that_is_to_run_alone_and_the_others_wait_for_each_other_for_a_bounded_time(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    add_together(server, *"aBcD", alone="BD", seconds="200")
    began = trio.current_time()
    async with running(server, Together, workers=4, shutdown_grace=300):
        await server.until(lambda: len(Together.seen) == 3)
        assert trio.current_time() - began < 121
        await server.until(EXECUTED=4)
    assert not any({"B", "D"} <= seen for seen in Together.seen), "never two suspects at once"


@pytest.mark.parametrize("batch_size", [1, 16])
async def test_a_state_that_runs_alone_for_long_and_those_that_wait_for_its_end_leave_workers_to_the_others(
    autojump_clock: MockClock, batch_size: int
) -> None:
    server = NativeServer()
    add_together(server, *"ABCD", alone="ABCD", seconds="300")
    began = trio.current_time()
    async with running(server, Together, workers=4, batch_size=batch_size) as rt:
        usual = [state_id for each in range(40) for state_id in server.add("Together", name=f"{each}")]
        await server.until(lambda: all(server.states[each].status == "EXECUTED" for each in usual))
        assert trio.current_time() - began < 100
        await trio.sleep(300)
        assert len(Together.now) == 1, "the next one"
        before = rt.summary.released  # those that had waited for the first one
        assert before <= batch_size
    assert (rt.summary.cancelled, rt.summary.released - before) == (1, 2)


async def test_a_drain_hands_back_what_waits_to_run_alone_and_what_waits_for_it(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    add_together(server, *"aBcD", alone="BD")
    async with running(server, Together, workers=4) as rt:
        await server.until(QUEUED=4)
        await trio.sleep(0.1)
    begun = len(Together.seen)  # one alone, or the others, whichever the workers took first
    assert 1 <= begun <= 2
    assert server.statuses() == {"EXECUTED": begun, "CREATED": 4 - begun}
    assert (rt.summary.completed, rt.summary.released) == (begun, 4 - begun)


# -- a suspended machine


async def test_after_a_suspend_nothing_is_begun_before_the_state_manager_has_renewed_its_lease(
    autojump_clock: MockClock,
) -> None:
    """Trio's clock does not run meanwhile, but leases do."""
    server = NativeServer()
    _, lost, kept = server.add("Waits", 3)
    async with running(server, Waits, workers=1) as rt:
        await server.until(lambda: server.statuses()["QUEUED"] == 3 and len(beats(server)) > 1)
        server.lost = {lost}
        asleep = rt._ledger.asleep()
        rt._ledger.asleep = lambda: asleep + 100
        began = trio.current_time()
        Waits.gate.set()
        await server.until(lambda: server.states[kept].status == "EXECUTED")
        assert trio.current_time() - began < 0.1, "it is asked for at once, not with the next heartbeat"
    assert Waits.begun == 2
    assert (rt.summary.completed, rt.summary.lost_leases) == (2, 1)


async def test_a_suspend_during_a_claim_counts_against_its_leases(autojump_clock: MockClock) -> None:
    server = NativeServer()
    rt = runtime(server, Waits)

    async def suspend(call: Call) -> None:
        if call.route == "claim" and server.statuses()["QUEUED"]:
            server.after = None
            server.lost = set(server.states)
            asleep = rt._ledger.asleep()
            rt._ledger.asleep = lambda: asleep + 100

    server.after = suspend
    async with running(rt):
        server.add("Waits")
        await server.until(lambda: rt.summary.lost_leases == 1)
    assert Waits.begun == 0


def test_the_time_asleep_is_what_the_boot_clock_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "CLOCK_BOOTTIME", 7, raising=False)
    monkeypatch.setattr(time, "clock_gettime", {7: time.monotonic() + 3600}.__getitem__)
    assert seconds_asleep() == pytest.approx(3600, abs=10)
    monkeypatch.delattr(time, "CLOCK_BOOTTIME")
    assert seconds_asleep() == 0


# -- failures of the heartbeat


@pytest.mark.parametrize(
    "failure", [reply(503), reply(503, **{"Retry-After": "90"}), reply(404), reply(422)], ids=str
)
async def test_a_failed_heartbeat_is_repeated_well_before_the_lease_is_over(
    autojump_clock: MockClock, failure: httpx.Response
) -> None:
    """However often it fails: every quarter of the time between two heartbeats, or at least as often as
    those if the server asks for it."""
    server = NativeServer(Waits=1)
    async with running(server, Waits):
        await server.until(QUEUED=1)
        seen = len(beats(server))
        began = trio.current_time()
        server.before = Fails(("heartbeat",), lambda: failure, times=20)
        await server.until(lambda: len(beats(server)) > seen + 20)
        has_retry_after = "Retry-After" in failure.headers
        assert trio.current_time() - began <= 1.1 + 20 * (1 if has_retry_after else 0.25)
        Waits.gate.set()


async def test_a_runtime_whose_key_is_refused_says_so_again_and_again_but_asks_seldom(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer(Waits=1)
    async with running(server, Waits) as rt:
        await server.until(QUEUED=1)
        seen = len(beats(server))
        server.before = Fails(("heartbeat",), lambda: reply(401, {"detail": "the key 'r' expired"}))
        for _ in range(300):
            await trio.sleep(0.3)
            rt._ledger.heartbeat_due.set()
        sent = len(beats(server)) - seen
        assert sent <= 300, "in process, heartbeats are sent each second, and pauses are random below that"
        refusals = [each for each in caplog.records if "the heartbeat fails" in each.getMessage()]
        assert all("the key 'r' expired" in each.getMessage() for each in refusals)
        warnings = [each for each in refusals if each.levelname == "WARNING"]
        assert len(warnings) == 1 + sent // 12
        Waits.gate.set()
    assert "did not confirm that this runtime has stopped" in caplog.text


async def test_a_heartbeat_that_hangs_does_not_delay_the_stop(autojump_clock: MockClock) -> None:
    server = NativeServer(Waits=1)
    server.before = Delays(("heartbeat",))
    Waits.gate.set()
    async with running(server, Waits):
        await server.until(EXECUTED=1)
        began = trio.current_time()
    assert trio.current_time() - began < 0.1
    assert "stopped" not in {beat.body["phase"] for beat in beats(server)}, "no answer could come"


async def test_an_answer_about_other_states_is_no_answer(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer(Waits=2)

    async def mixes_up(call: Call) -> httpx.Response | None:
        if call.route == "heartbeat" and call.body["states"]:
            return reply(200, {"items": [{"state_id": "another", "result": "lost"}]})
        return None

    server.before = mixes_up
    async with running(server, Waits) as rt:
        await server.until(lambda: len(beats(server)) > 3)
        Waits.gate.set()
        await server.until(EXECUTED=2)
    assert rt.summary.completed == 2
    assert "the heartbeat fails" in caplog.text


# -- registering again


@pytest.mark.parametrize("way", ["heartbeat", "claim"])
@pytest.mark.parametrize("status", [200, 422])
async def test_nodes_that_the_state_manager_lacks_are_registered_again_but_not_all_the_time(
    autojump_clock: MockClock, way: str, status: int
) -> None:
    server = NativeServer()

    def registrations() -> int:
        return sum(call.body is not None for call in server.routes("nodes"))

    async def lacks_them(call: Call) -> httpx.Response | None:
        if call.route == "claim" and way == "claim":
            return reply(200, {"states": [], "register": True})
        return reply(status) if call.route == "nodes" and status != 200 else None

    async with running(server, Waits) as rt:
        await server.until(lambda: server.routes("claim"))
        assert registrations() == 1
        server.before = lacks_them
        server.commands = ["register"] if way == "heartbeat" else []
        await trio.sleep(100)
        assert 5 <= registrations() <= 12
        server.before, server.commands = None, []
        Waits.gate.set()
        server.add("Waits")
        await server.until(EXECUTED=1)
    assert rt.summary.completed == 1


# -- the thread


class Apart:
    """A link whose heartbeats do what a test wants; also the runtime's."""

    is_native = True
    registered_for = 0.0

    def __init__(self, answer: Callable[[HeartbeatRequest], HeartbeatAnswer]) -> None:
        self._answer = answer
        self.threads: set[str] = set()

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer:
        self.threads.add(threading.current_thread().name)
        await trio.lowlevel.checkpoint()
        return self._answer(heartbeat.model_copy(update={"states": list(states)}))

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def beating(link: Any, ledger: Ledger, stop: Stop) -> AsyncIterator[None]:
    """Send heartbeats while the block runs."""
    send = partial(
        heartbeat,
        link=link,
        open_own_link=lambda: link,
        options=runtime(V0Server(), Waits, shutdown_grace=7)._options,
        ledger=ledger,
        stop=stop,
        phase=lambda: Phase.RUNNING,
        record=StopRecord(stop=stop, ledger=ledger, now=trio.current_time),
    )
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield
            nursery.cancel_scope.cancel()


async def test_the_thread_sends_while_the_loop_is_blocked_and_answers_are_handled_afterwards() -> None:
    blocked, answered = threading.Event(), threading.Semaphore(0)

    def answer(heartbeat: HeartbeatRequest) -> HeartbeatAnswer:
        if not blocked.is_set():
            return HeartbeatAnswer((HeartbeatResult.OK,) * 2, 0.05, frozenset())
        answered.release()
        return HeartbeatAnswer(
            (HeartbeatResult.OK, HeartbeatResult.LOST)[: len(heartbeat.states)], 0.05, frozenset()
        )

    link, ledger = Apart(answer), Ledger()
    kept, lost = [
        ledger.add(Claim(name, "Waits", "it", {}, token=name, lease=60), ledger.now())
        for name in ("kept", "lost")
    ]
    assert kept is not None
    assert lost is not None
    async with beating(link, ledger, Stop()):
        while not link.threads:
            await trio.lowlevel.checkpoint()
        blocked.set()
        for _ in range(5):
            assert answered.acquire(timeout=60), "the loop is blocked here"
        assert lost in ledger
        await ledger.until(lambda: lost not in ledger and not ledger.lapsed(kept))
        assert kept.lease_until < ledger.now() + 0.06
    assert link.threads == {"exotrio heartbeat"}
    assert ledger.summary(0).lost_leases == 1


class Away(Apart):
    """A link whose state manager cannot be reached for 15 s from a moment on."""

    def __init__(self, since: float) -> None:
        super().__init__(lambda _: HeartbeatAnswer((), 30.0, frozenset()))
        self.since = trio.current_time() + since
        self.renewed: list[float] = []

    async def heartbeat(
        self, heartbeat: HeartbeatRequest, states: Sequence[HeartbeatState], *, timeout: float
    ) -> HeartbeatAnswer:
        sent = trio.current_time()
        if self.since <= sent < self.since + 15:
            await trio.sleep(timeout)
            raise ManagerUnavailable("no answer came")
        self.renewed.append(sent)
        return await super().heartbeat(heartbeat, states, timeout=timeout)


@pytest.mark.parametrize("since", range(12, 24))
async def test_a_network_that_is_away_for_15_s_costs_no_lease_at_any_moment(
    autojump_clock: MockClock, since: int
) -> None:
    link = Away(since)
    sender = HeartbeatSender(
        runtime_link=cast(Link, link),
        link=cast(Link, link),
        ledger=Ledger(),
        deliver=lambda *_: None,
        clock=trio.current_time,
        options=runtime(V0Server(), Waits)._options,
        phase=lambda: Phase.RUNNING,
        tasks=None,
        record=StopRecord(stop=Stop(), ledger=Ledger(), now=trio.current_time),
    )
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await trio.sleep(60)
        sender.end()
    renewed = [at - began for at in link.renewed]
    assert renewed[:2] == pytest.approx([0, SECOND_AFTER]), "the second one shows that the connection is kept"
    *usual, longest = sorted(later - at for at, later in pairwise(renewed))
    assert longest < 30
    assert max(usual) <= 10, "commands reach a runtime within this time"


async def test_a_suspend_while_the_thread_waits_for_an_answer_counts_as_age() -> None:
    asleep = 0.0

    def answer(heartbeat: HeartbeatRequest) -> HeartbeatAnswer:
        nonlocal asleep
        asleep = 100.0 if len(sent) == 0 else asleep
        sent.append(heartbeat)
        return HeartbeatAnswer((HeartbeatResult.OK,), 60.0, frozenset())

    sent: list[HeartbeatRequest] = []
    link, ledger = Apart(answer), Ledger(asleep=lambda: asleep)
    held = ledger.add(Claim("s", "Waits", "it", {}, token="t", lease=600), ledger.now())
    assert held is not None
    before = held.lease_until
    async with beating(link, ledger, Stop()):
        await ledger.until(lambda: held.lease_until != before)
        assert ledger.lapsed(held), "it was renewed for 60 s, 100 s ago"
        ledger.heartbeat_due.set()
        await ledger.until(lambda: not ledger.lapsed(held))


async def test_the_thread_sends_a_last_heartbeat() -> None:
    sent: list[str] = []
    beaten = threading.Event()

    def answer(heartbeat: HeartbeatRequest) -> HeartbeatAnswer:
        sent.append(heartbeat.phase)
        beaten.set()
        return HeartbeatAnswer((), 60.0, frozenset())

    async with beating(Apart(answer), Ledger(), Stop()):
        assert await trio.to_thread.run_sync(beaten.wait, 60)
    assert sent == ["running", "stopped"]


async def test_a_thread_that_hangs_does_not_delay_the_end_and_its_late_answer_does_no_harm() -> None:
    entered, leave = threading.Event(), threading.Event()

    def answer(heartbeat: HeartbeatRequest) -> HeartbeatAnswer:
        entered.set()
        assert leave.wait(100)
        return HeartbeatAnswer((), 60.0, frozenset({"drain"}))

    stop = Stop()
    try:
        async with beating(Apart(answer), Ledger(), stop):
            assert await trio.to_thread.run_sync(entered.wait, 60)
    finally:
        leave.set()


async def test_a_defect_in_the_thread_stops_the_runtime_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(heartbeat: HeartbeatRequest) -> HeartbeatAnswer:
        raise ZeroDivisionError

    stop = Stop()
    async with beating(Apart(answer), Ledger(), stop):
        await stop.arrived.wait()
    assert isinstance(stop.failure, ZeroDivisionError)
    assert "the heartbeat failed" in caplog.text


# -- commands and cancelled runs


async def test_the_command_drain_stops_the_runtime_within_its_grace(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer(Waits=3)
    rt = runtime(server, Waits, workers=1, shutdown_grace=7)
    with caplog.at_level(logging.WARNING):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rt.run)
            await server.until(lambda: Waits.begun == 1)
            server.commands = ["drain", "something newer"]
            began = trio.current_time()
    assert 7 <= trio.current_time() - began < 9
    assert server.statuses() == {"CREATED": 3}
    assert rt.summary.exit_code == 0
    assert caplog.text.count("asks this runtime to drain") == 1


async def test_the_nodes_of_a_cancelled_run_are_cancelled_and_their_states_dropped(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Returns(BaseNode):
        async def execute(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(5)
            Waits.ended.append(self.stopping.value)

    server = NativeServer()
    ids = server.add("Waits", 2)
    ids += server.add("Returns")
    ids += server.add("Waits", 2)
    async with running(server, Waits, Returns, workers=3) as rt:
        await server.until(QUEUED=5)
        server.cancelled = set(ids)
        await server.until(lambda: rt.summary.run_cancelled == 5)
    assert sorted(Waits.ended) == ["run cancelled"] * 3
    assert not server.routes("outcomes")
    assert not released(server)
    assert rt.summary.exit_code == 0
    assert "its run r was cancelled" in caplog.text


# -- together with our state manager, in process


async def test_cancelling_a_run_cancels_its_running_node_and_leaves_nothing_queued(
    autojump_clock: MockClock,
) -> None:
    clock = lambda: int(trio.current_time() * 1000)  # noqa: E731
    async with embedded(":memory:", clock=clock) as transport:
        rt = Runtime("ns", "test", [Waits], transport=transport, workers=1)
        async with running(rt, registered=True), StateManager("ns", transport=transport) as manager:
            graph = Graph("g", namespace="ns", retry_policy=RetryPolicyModel(max_retries=3, backoff_factor=1))
            graph.add(Waits, identifier="second", after=graph.add(Waits, identifier="first"))
            await manager.upsert_graph(graph)
            runs = [(await manager.trigger("g"))["run_id"] for _ in range(2)]
            await rt._ledger.until(lambda: rt._ledger.leased() != [])
            began = trio.current_time()
            run = await manager.cancel(runs[0])
            assert run.status is RunStatus.FAILED
            assert await manager.cancel(runs[0]) == run
            await rt._ledger.until(lambda: rt.summary.run_cancelled == 1)
            assert trio.current_time() - began < 2
            Waits.gate.set()
            assert (await manager.wait(runs[1])).status is RunStatus.SUCCESS
            run = await manager.status(runs[0])
            assert [node.counts for node in run.nodes] == [{StateStatus.ERRORED: 1}, {}]
            with pytest.raises(RequestRefused, match="already ended") as refused:
                await manager.cancel(runs[1])
            assert refused.value.status == 409
            with pytest.raises(NotFound):
                await manager.cancel("no-such-run")
    assert Waits.ended == ["run cancelled", "returned", "returned"]
    assert rt.summary.completed == 2
