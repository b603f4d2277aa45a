"""A state that is held here and claimed again: by a v0 claim that repeats it, or after its lease was lost.
Nothing is begun a second time; what is there goes on under the new claim. Unless it is another state, whose
id a database that went back in time assigned again: then nothing of what is there is sent any more."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ReQueueAfterSignal
from exotrio._link.port import Claim
from exotrio._nodes.outcome import Executed
from exotrio._runtime.held_claim import Stage
from exotrio._runtime.ledger import Ledger
from tests.support.doubles import Call, Fails, NativeServer, V0Server, reply, running

OUTCOME = ("outcomes", "executed")


class Waits(BaseNode):
    gate: trio.Event
    begun: int
    running: int
    most_at_once: int

    async def execute(self) -> None:
        kind = type(self)
        kind.begun += 1
        kind.running += 1
        kind.most_at_once = max(kind.most_at_once, kind.running)
        try:
            await kind.gate.wait()
        finally:
            kind.running -= 1


class Again(BaseNode):
    begun = 0

    async def execute(self) -> None:
        Again.begun += 1
        if Again.begun == 1:
            raise ReQueueAfterSignal(timedelta(milliseconds=1))


@pytest.fixture(params=[V0Server, NativeServer])
def server(request: pytest.FixtureRequest) -> V0Server:
    return request.param()


@pytest.fixture(autouse=True)
def fresh() -> None:
    Waits.gate = trio.Event()
    Waits.begun = Waits.running = Waits.most_at_once = Again.begun = 0


async def give_again(server: V0Server, state_id: str) -> None:
    """Have the server hand a state out a second time, as when its lease is over there."""
    deliveries = server.states[state_id].deliveries
    server.states[state_id].status = "CREATED"
    server.add("Another")  # wakes a claim that waits
    await server.until(lambda: server.states[state_id].deliveries > deliveries)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_node_that_runs_goes_on_under_the_new_claim(
    autojump_clock: MockClock, server: V0Server, caplog: pytest.LogCaptureFixture
) -> None:
    (state_id,) = server.add("Waits")
    async with running(server, Waits) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(0.1)
        await give_again(server, state_id)
        await trio.sleep(3)
        if isinstance(server, NativeServer):
            [beaten] = server.routes("heartbeat")[-1].body["states"]
            assert beaten["token"] == f"{state_id}-2"
        Waits.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Waits.begun == 1
    assert (rt.summary.completed, rt.summary.dropped, rt.summary.exit_code) == (1, 0, 0)
    assert f"state {state_id} was claimed while it is still held here" in caplog.text


async def test_a_state_that_waits_for_a_worker_is_run_once(
    autojump_clock: MockClock, server: V0Server
) -> None:
    _, second = server.add("Waits", 2)
    async with running(server, Waits, workers=1) as rt:
        await server.until(QUEUED=2)
        await trio.sleep(0.1)
        await give_again(server, second)
        Waits.gate.set()
        await server.until(EXECUTED=2)
        await trio.sleep(5)
    assert Waits.begun == 2
    assert (rt.summary.completed, rt.summary.dropped) == (2, 0)


async def test_a_finished_result_is_delivered_under_the_new_claim(
    autojump_clock: MockClock, server: V0Server
) -> None:
    (state_id,) = server.add("Waits")
    async with running(server, Waits) as rt:
        await server.until(QUEUED=1)
        server.before = Fails(OUTCOME, lambda: reply(503))
        Waits.gate.set()
        await trio.sleep(3)
        await give_again(server, state_id)
        server.before = None
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Waits.begun == 1
    assert (rt.summary.completed, rt.summary.dropped, rt.summary.exit_code) == (1, 0, 0)


async def test_a_result_refused_under_the_old_claim_is_sent_again_under_the_new_one(
    autojump_clock: MockClock, server: V0Server
) -> None:
    """The answer to its delivery, that the lease is lost, comes after the new claim."""
    (state_id,) = server.add("Waits")

    async def claimed_again_meanwhile(call: Call) -> None:
        if call.route in OUTCOME and server.states[state_id].deliveries == 1:
            server.states[state_id].status = "CREATED"

    async def late(call: Call) -> None:
        if call.route in OUTCOME and server.states[state_id].deliveries == 1:
            await give_again(server, state_id)

    server.before, server.after = claimed_again_meanwhile, late
    async with running(server, Waits) as rt:
        await server.until(QUEUED=1)
        Waits.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Waits.begun == 1
    assert (rt.summary.completed, rt.summary.dropped, rt.summary.exit_code) == (1, 0, 0)


async def test_a_heartbeat_about_the_old_lease_does_not_end_what_goes_on_under_the_new_one(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    (state_id,) = server.add("Waits")

    async def lost(call: Call) -> None:
        if call.route == "heartbeat" and call.body["states"] and server.states[state_id].deliveries == 1:
            server.lost = {state_id}

    async def late(call: Call) -> None:
        if call.route == "heartbeat" and server.lost:
            server.lost = set()
            await give_again(server, state_id)

    server.before, server.after = lost, late
    async with running(server, Waits) as rt:
        await server.until(lambda: server.states[state_id].deliveries == 2)
        await trio.sleep(3)
        Waits.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Waits.begun == 1
    assert (rt.summary.completed, rt.summary.lost_leases) == (1, 0)


class Slow(Waits):
    async def execute(self) -> None:
        try:
            await super().execute()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(4)


async def test_a_node_that_was_cancelled_for_the_old_lease_ends_before_the_state_is_begun_again(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    (state_id,) = server.add("Slow")
    async with running(server, Slow) as rt:
        await server.until(QUEUED=1)
        server.lost = {state_id}
        await trio.sleep(2)
        server.lost = set()
        Slow.gate = trio.Event()
        await give_again(server, state_id)
        await server.until(lambda: server.states[state_id].deliveries == 3)
        Slow.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert (Slow.begun, Slow.most_at_once) == (2, 1)
    assert rt.summary.completed == 1


async def test_a_released_state_begins_again_even_if_the_claim_overtakes_the_answer(
    autojump_clock: MockClock, server: V0Server
) -> None:
    (state_id,) = server.add("Again")

    async def late(call: Call) -> None:
        if call.route in ("outcomes", "re-enqueue-after") and server.states[state_id].deliveries == 1:
            await give_again(server, state_id)

    server.after = late
    async with running(server, Again) as rt:
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Again.begun == 2
    assert (rt.summary.requeued, rt.summary.completed, rt.summary.exit_code) == (1, 1, 0)


async def test_there_are_pauses_between_claims_at_a_server_that_repeats_its_claims(
    autojump_clock: MockClock, server: V0Server
) -> None:
    (state_id,) = server.add("Waits")

    async def repeat(call: Call) -> None:
        if call.route in ("claim", "enqueue"):
            server.states[state_id].status = "CREATED"
            assert len(server.routes("claim", "enqueue")) < 30

    server.before = repeat
    async with running(server, Waits, batch_size=1, poll_interval=1):
        await trio.sleep(20)
        server.before = None
        server.states[state_id].status = "QUEUED"
        Waits.gate.set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    assert Waits.begun == 1


async def test_the_books_stay_right_when_a_claim_is_taken_over() -> None:
    ledger = Ledger()
    held = ledger.add(Claim("s", "N", "it", {}, token="1", lease=60), 0.0)
    assert held is not None
    assert ledger.add(Claim("s", "N", "it", {}, token="2"), 0.0) is None
    assert (held.claim.token, ledger.lapsed(held)) == ("2", False)
    assert (ledger.count(*Stage), ledger.active("N")) == (1, 1)
    assert ledger.finish(held, Executed([]))
    assert ledger.add(Claim("s", "N", "it", {}, token="3"), 0.0) is None
    ledger.end(held, held.delivered_ending)
    assert (ledger.count(*Stage), ledger.active("N"), ledger.empty) == (0, 0, True)
    assert ledger.add(Claim("s", "N", "it", {}, token="4"), 0.0) is not None


async def test_an_outcome_of_an_earlier_process_is_delivered_under_a_claim_that_repeats_its_state() -> None:
    ledger = Ledger()
    held = ledger.restore(Claim("s", "N", "it", {}, token="1"), Executed([]))
    assert ledger.add(Claim("s", "N", "it", {"a": "b"}, token="2", lease=60), ledger.now()) is None
    assert (held.claim.token, held.stage, ledger.active("N")) == ("2", Stage.DONE, 0)
    ledger.end(held, held.delivered_ending)
    assert ledger.empty


# -- another state with the same id


class Numbered(BaseNode):
    """Returns how many were begun with it, and its input, even if it is cancelled meanwhile."""

    begun = 0
    gates: defaultdict[int, trio.Event]

    class Inputs(BaseModel):
        n: str

    class Outputs(BaseModel):
        by: str

    async def execute(self) -> Outputs:
        Numbered.begun += 1
        number = Numbered.begun
        with trio.move_on_after(300, shield=True):
            await Numbered.gates[number].wait()
        return self.Outputs(by=f"{number} of {self.inputs.n}")


OTHERS = pytest.mark.parametrize(
    ("server", "changes"),
    [
        (V0Server, {"inputs": {"n": "other"}}),
        (NativeServer, {"inputs": {"n": "other"}}),
        (NativeServer, {"run_id": "other"}),
        (NativeServer, {"attempt": 2}),
    ],
    indirect=["server"],
)


@pytest.fixture(autouse=True)
def fresh_gates(fresh: None) -> None:
    Numbered.begun, Numbered.gates = 0, defaultdict(trio.Event)


async def give_other(server: V0Server, state_id: str, changes: dict[str, Any]) -> None:
    """Have the server hand out another state with the same id, even with the same token."""
    server.states[state_id] = replace(server.states[state_id], status="CREATED", deliveries=0, **changes)
    await give_again(server, state_id)


def results(server: V0Server) -> dict[str, Any]:
    return {each.id: (each.status, each.result) for each in server.states.values() if each.result}


@OTHERS
async def test_a_node_that_runs_is_not_taken_for_another_state_with_its_id(
    autojump_clock: MockClock, server: V0Server, changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    (state_id,) = server.add("Numbered", n="one")
    async with running(server, Numbered) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(0.1)
        await give_other(server, state_id, changes)
        await trio.sleep(3)
        assert Numbered.begun == 2
        Numbered.gates[1].set()
        await trio.sleep(3)
        assert results(server) == {}
        Numbered.gates[2].set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    of = server.states[state_id].inputs["n"]
    assert results(server) == {state_id: ("EXECUTED", [{"by": f"2 of {of}"}])}
    assert (rt.summary.completed, rt.summary.lost_leases, rt.summary.exit_code) == (1, 1, 0)
    assert f"state {state_id} (Numbered as it) is cancelled: its lease is lost" in caplog.text


@OTHERS
async def test_a_finished_result_is_not_delivered_for_another_state_with_its_id(
    autojump_clock: MockClock, server: V0Server, changes: dict[str, Any]
) -> None:
    (state_id,) = server.add("Numbered", n="one")
    async with running(server, Numbered) as rt:
        await server.until(QUEUED=1)
        server.before = Fails(OUTCOME, lambda: reply(503))
        Numbered.gates[1].set()
        await trio.sleep(3)
        await give_other(server, state_id, changes)
        server.before = None
        await trio.sleep(60)
        assert (Numbered.begun, results(server)) == (2, {})
        Numbered.gates[2].set()
        await server.until(lambda: server.states[state_id].status == "EXECUTED")
    of = server.states[state_id].inputs["n"]
    assert results(server) == {state_id: ("EXECUTED", [{"by": f"2 of {of}"}])}
    assert (rt.summary.completed, rt.summary.dropped, rt.summary.exit_code) == (1, 1, 0)


@OTHERS
async def test_a_state_that_waits_for_a_worker_gives_way_to_another_one_with_its_id(
    autojump_clock: MockClock, server: V0Server, changes: dict[str, Any]
) -> None:
    _, second = server.add("Numbered", 2, n="one")
    async with running(server, Numbered, workers=1) as rt:
        await server.until(QUEUED=2)
        await trio.sleep(0.1)
        await give_other(server, second, changes)
        Numbered.gates[1].set()
        Numbered.gates[2].set()
        await server.until(EXECUTED=2)
        await trio.sleep(5)
    of = server.states[second].inputs["n"]
    assert results(server)[second] == ("EXECUTED", [{"by": f"2 of {of}"}])
    assert (Numbered.begun, rt.summary.completed, rt.summary.lost_leases) == (2, 2, 1)


def test_what_one_of_two_claims_lacks_does_not_tell_them_apart() -> None:
    ledger = Ledger()
    native = Claim("s", "N", "it", {"a": "b"}, run_id="r", attempt=1, token="1")
    held = ledger.restore(replace(native, inputs={}), Executed([]))
    assert held.is_of(native)
    assert held.is_of(Claim("s", "N", "it", {"a": "b"}))
    for other in ({"run_id": "q"}, {"attempt": 2}, {"identifier": "at"}, {"node_name": "M"}):
        assert not held.is_of(replace(native, **other)), other
