"""Checkpoints between a runtime and its state manager: when they are sent, and what ends without them."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, CheckpointNotSaved, HandOver, PruneSignal, ReQueueAfterSignal
from exotrio._runtime import checkpoint_queue
from exotrio._shared import deadlines
from exotrio.monitoring import CheckpointStored, Event, StateEnded
from tests.support.doubles import Call, Delays, Fails, NativeServer, V0Server, reply, running, runtime
from tests.support.helpers import eventually


class Steps(BaseNode):
    """Takes ``steps`` of a second, then ends as ``end`` says."""

    class Inputs(BaseModel):
        steps: int
        end: str = "returns"

    class Checkpoint(BaseModel):
        step: int = 0

    begun: list[int] = []

    async def execute(self) -> None:
        for step in range(self.checkpoint.step, self.inputs.steps):
            self.begun.append(step)
            await trio.sleep(1)
            self.checkpoint = self.Checkpoint(step=step + 1)
        match self.inputs.end:
            case "fails":
                raise ValueError
            case "requeues":
                raise ReQueueAfterSignal(timedelta(minutes=1))
            case "prunes":
                raise PruneSignal
            case "hands over":
                raise HandOver


class Saves(BaseNode):
    class Checkpoint(BaseModel):
        step: int = 0

    saved: list[tuple[float, int]] = []

    async def execute(self) -> None:
        for step in range(self.checkpoint.step, 3):
            await self.save_checkpoint(self.Checkpoint(step=step + 1))
            self.saved.append((trio.current_time(), step + 1))


@pytest.fixture(autouse=True)
def fresh() -> None:
    Steps.begun = []
    Saves.saved = []


def sent(server: NativeServer, *routes: str) -> list[tuple[int, str]]:
    """Return the numbers and values of the checkpoints that came by these routes, in order."""
    found = []
    for call in server.routes(*routes):
        states = call.body if isinstance(call.body, list) else call.body.get("states") or []
        found += [item["checkpoint"] for item in states if item.get("checkpoint")]
    return [(each["number"], each["value"]) for each in found]


def text(step: int) -> str:
    return f'{{"step":"{step}"}}'


# -- heartbeats


async def test_the_newest_is_sent_every_few_seconds_and_each_once(autojump_clock: MockClock) -> None:
    server = NativeServer()
    (state_id,) = server.add("Steps", steps="30")
    async with running(server, Steps):
        await server.until(EXECUTED=1)
    numbers = [number for number, _ in sent(server, "heartbeat")]
    assert numbers == sorted(set(numbers))
    assert 5 <= len(numbers) <= 6
    assert server.states[state_id].checkpoint is None


async def test_observers_learn_what_is_stored_and_how_much_work_came_after(autojump_clock: MockClock) -> None:
    server = NativeServer()
    (state_id,) = server.add("Steps", steps="8", end="fails")
    observed, events = runtime(server, Steps), list[Event]()
    observed.observe(events.append)
    async with running(observed):
        await server.until(ERRORED=1)
    stored = [each for each in events if isinstance(each, CheckpointStored)]
    assert {(each.node, each.state_id) for each in stored} == {("Steps", state_id)}
    assert all(0 <= each.age <= 1 for each in stored)
    (ended,) = (each for each in events if isinstance(each, StateEnded))
    assert (ended.duration, ended.at_risk) == pytest.approx((8.0, 0.0), abs=0.01)


async def test_a_value_is_sent_again_until_an_answer_confirms_it(autojump_clock: MockClock) -> None:
    class Once(Steps):
        async def execute(self) -> None:
            self.checkpoint = self.Checkpoint(step=1)
            await trio.sleep(60)

    server = NativeServer()
    server.add("Once", steps="1")
    async with running(server, Once):
        await server.until(QUEUED=1)
        server.after = Fails(("heartbeat",), lambda: reply(503))
        await server.until(lambda: len(sent(server, "heartbeat")) == 2)
        server.after = None
        await server.until(EXECUTED=1)
    assert sent(server, "heartbeat") == [(1, text(1))] * 3


async def test_a_thread_that_sets_a_thousand_values_a_second_costs_as_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class InThread(Steps):
        def execute(self) -> None:  # type: ignore[override]
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                self.checkpoint = self.Checkpoint(step=self.checkpoint.step + 1)
            raise ValueError

    monkeypatch.setattr(checkpoint_queue, "CHECKPOINT_INTERVAL", 0.2)
    server = NativeServer()
    server.add("InThread", steps="1")
    async with running(server, InThread, within=30):
        await server.until(ERRORED=1)
    assert len(sent(server, "heartbeat")) <= 4
    ((number, last),) = sent(server, "outcomes")
    assert (number > 500, last) == (True, text(number))


async def test_many_large_values_come_in_several_heartbeats_at_once(autojump_clock: MockClock) -> None:
    class Large(BaseNode):
        class Checkpoint(BaseModel):
            text: str = ""

        async def execute(self) -> None:
            self.checkpoint = self.Checkpoint(text="x" * 60_000)
            await trio.sleep(30)

    server = NativeServer()
    server.add("Large", 10)
    async with running(server, Large, workers=10):
        await server.until(EXECUTED=10)
    beats = [call for call in server.routes("heartbeat") if call.body["states"]]
    sizes = [sum(bool(item.get("checkpoint")) for item in call.body["states"]) for call in beats]
    assert [size for size in sizes if size] == [4, 4, 2]


async def test_each_of_many_large_values_has_its_turn_although_the_first_change_all_the_time(
    autojump_clock: MockClock,
) -> None:
    class Large(BaseNode):
        class Checkpoint(BaseModel):
            step: int
            text: str

        async def execute(self) -> None:
            for step in range(60):
                self.checkpoint = self.Checkpoint(step=step, text="x" * 60_000)
                await trio.sleep(1)

    server = NativeServer()
    ids = server.add("Large", 20)
    server.before = Delays(("heartbeat",), 1.0)
    async with running(server, Large, workers=20):
        await server.until(EXECUTED=20)
    beats = [call.body["states"] for call in server.routes("heartbeat")]
    times = Counter(item["state_id"] for states in beats for item in states if item.get("checkpoint"))
    assert times.keys() == set(ids)
    assert max(times.values()) - min(times.values()) <= 2


@pytest.mark.parametrize("node", ["Steps", "Saves"])
async def test_leases_are_renewed_although_something_refuses_the_checkpoints(
    node: str, autojump_clock: MockClock
) -> None:
    """As a proxy with a small limit does."""

    async def refuse(call: Call) -> httpx.Response | None:
        states = call.body["states"] if call.route == "heartbeat" else ()
        if any(item.get("checkpoint") for item in states):
            return reply(413)
        renewed.extend(trio.current_time() for _ in states)
        return None

    renewed: list[float] = []
    server = NativeServer()
    server.add(node, 1, steps="60")
    server.before = refuse
    async with running(server, Steps, Saves):
        await trio.sleep(60)
        server.before = None
        await server.until(EXECUTED=1)
    assert max(later - earlier for earlier, later in pairwise(renewed)) < 5


async def test_saving_waits_until_it_is_stored_and_no_warning_says_otherwise(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    server.add("Saves")
    server.before = Delays(("heartbeat",), 0.5)
    async with running(server, Saves):
        await server.until(EXECUTED=1)
    times = [at for at, _ in Saves.saved]
    assert sent(server, "heartbeat") == [(number, text(number)) for number in (1, 2, 3)]
    assert all(0.5 <= later - earlier < 1.1 for earlier, later in pairwise(times))
    assert "not stored" not in caplog.text


async def test_saving_waits_for_a_state_manager_that_is_away(autojump_clock: MockClock) -> None:
    server = NativeServer()
    server.add("Saves")
    async with running(server, Saves, registered=True):
        server.before = failing = Fails(("heartbeat",))
        await trio.sleep(60)
        assert (failing.count > 10, Saves.saved) == (True, [])
        server.before = None
        await server.until(EXECUTED=1)
    assert [step for _, step in Saves.saved] == [1, 2, 3]


async def test_saving_on_asyncio_and_in_a_thread_waits_too() -> None:
    class OnAsyncio(Saves):
        runs_in = "asyncio"

        async def execute(self) -> None:
            await asyncio.sleep(0)
            await self.save_checkpoint(self.Checkpoint(step=1))
            stored.append(server.states[ids[0]].checkpoint)

    class InThread(Saves):
        def execute(self) -> None:  # type: ignore[override]
            self.save_checkpoint_sync(self.Checkpoint(step=2))
            stored.append(server.states[ids[1]].checkpoint)

    stored: list[Any] = []
    server = NativeServer()
    ids = [*server.add("OnAsyncio"), *server.add("InThread")]
    async with running(server, OnAsyncio, InThread, within=20):
        await server.until(EXECUTED=2)
    assert sorted(each["value"] for each in stored) == [text(1), text(2)]


async def test_a_thread_that_waits_is_told_to_end() -> None:
    class InThread(Saves):
        def execute(self) -> None:  # type: ignore[override]
            try:
                self.save_checkpoint_sync(self.Checkpoint(step=1))
            except CheckpointNotSaved as error:
                raised.append(str(error))
                raise

    raised: list[str] = []
    server = NativeServer()
    (state_id,) = server.add("InThread")
    async with running(server, InThread, registered=True, grace=0, within=20):
        server.before = Fails(("heartbeat",))
        await server.until(QUEUED=1)
        await eventually(lambda: _waits(rt=server))
    assert raised == ["InThread waited for its checkpoint to be stored, and should end: cancelling"]
    assert server.states[state_id].checkpoint == {"number": 1, "value": text(1)}, "with the release"


async def _waits(rt: NativeServer) -> None:
    assert len(rt.routes("heartbeat")) > 2


# -- what ends an execution


@pytest.mark.parametrize(
    ("end", "stored"),
    [("returns", None), ("prunes", None), ("fails", 3), ("requeues", 3), ("hands over", 3)],
)
async def test_the_newest_value_comes_with_what_ends_the_execution(
    end: str, stored: int | None, autojump_clock: MockClock
) -> None:
    server = NativeServer()
    server.add("Steps", steps="3", end=end)
    async with running(server, Steps) as rt:
        await server.until(lambda: server.routes("outcomes", "release"))
        rt.stop()
    sent_last = sent(server, "outcomes", "release")
    assert sent_last[:1] == ([] if stored is None else [(3, text(3))])
    assert sent(server, "heartbeat") == []


async def test_a_value_that_is_stored_is_not_sent_again(autojump_clock: MockClock) -> None:
    class Saved(Steps):
        async def execute(self) -> None:
            await self.save_checkpoint(self.Checkpoint(step=1))
            raise ValueError

    server = NativeServer()
    server.add("Saved", steps="1")
    async with running(server, Saved):
        await server.until(ERRORED=1)
    assert sent(server, "heartbeat") == [(1, text(1))]
    assert sent(server, "outcomes") == []


@pytest.mark.parametrize("end", ["fails", "hands over"])
async def test_what_is_refused_with_its_checkpoint_is_sent_without_it(
    end: str, autojump_clock: MockClock
) -> None:
    async def refuse(call: Call) -> httpx.Response | None:
        reports = call.body if call.route == "outcomes" else call.body.get("states") or []
        with_one = call.route in ("outcomes", "release") and any("checkpoint" in each for each in reports)
        return reply(413) if with_one else None

    server = NativeServer()
    server.add("Steps", steps="1", end=end)
    async with running(server, Steps) as rt:
        await server.until(QUEUED=1)
        server.before = refuse
        await server.until(lambda: server.statuses() != {"QUEUED": 1})
        rt.stop()
    assert rt.summary.errored == 1 if end == "fails" else rt.summary.handed_over >= 1
    assert rt.summary.exit_code == 0


async def test_a_node_that_is_cancelled_is_released_with_its_newest_value(autojump_clock: MockClock) -> None:
    class Cleans(Steps):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.checkpoint = self.Checkpoint(step=5)

    server = NativeServer()
    (state_id,) = server.add("Cleans", steps="1")
    async with running(server, Cleans, grace=1) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1)
    assert server.states[state_id].checkpoint == {"number": 1, "value": text(5)}
    assert rt.summary.cancelled == 1


async def test_a_value_that_a_cancelled_node_waited_for_is_released_with_it(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    (state_id,) = server.add("Saves")
    async with running(server, Saves, registered=True, grace=0):
        server.before = Fails(("heartbeat",))
        await server.until(QUEUED=1)
        await trio.sleep(1)
    assert Saves.saved == []
    assert server.states[state_id].checkpoint == {"number": 1, "value": text(1)}


async def test_a_node_hands_over_and_its_runtime_does_not_take_it_again_while_it_drains(
    autojump_clock: MockClock,
) -> None:
    class Hands(Steps):
        async def execute(self) -> None:
            while not self.stopping:  # noqa: ASYNC110
                await trio.sleep(0.1)
            self.checkpoint = self.Checkpoint(step=5)
            raise HandOver

    server = NativeServer()
    (state_id,) = server.add("Hands", steps="1")
    async with running(server, Hands) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1)
        rt.stop()
        at = trio.current_time()
    assert trio.current_time() < at + 1, "a drain that waits for nothing is over at once"
    assert (rt.summary.handed_over, rt.summary.cancelled, rt.summary.exit_code) == (1, 0, 0)
    assert "handed over 1" in str(rt.summary)
    (released,) = server.routes("release")[-1].body["states"]
    assert released["handed_over"] is True
    state = server.states[state_id]
    assert (state.status, state.deliveries, state.checkpoint) == (
        "CREATED",
        1,
        {"number": 1, "value": text(5)},
    )


async def test_a_node_that_always_hands_over_is_not_run_without_a_pause(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = NativeServer()
    server.add("Steps", steps="0", end="hands over")
    async with running(server, Steps) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(9.5)
        rt.stop()
        at = trio.current_time()
    assert 9 <= rt.summary.handed_over <= 11
    assert trio.current_time() < at + 0.5, "a stop waits for none of them"
    assert "was handed over at once, though nothing stops: released in 1.0 s" in caplog.text


async def test_the_next_execution_continues_and_so_do_the_numbers(autojump_clock: MockClock) -> None:
    server = NativeServer()
    (state_id,) = server.add("Steps", steps="30")
    async with running(server, Steps, grace=0):
        await server.until(QUEUED=1)
        await trio.sleep(12.5)
    first = server.states[state_id].checkpoint
    assert first == {"number": 12, "value": text(12)}
    async with running(server, Steps):
        await server.until(EXECUTED=1)
    assert Steps.begun == [*range(13), *range(12, 30)]
    assert [number for number, _ in sent(server, "heartbeat")][-1] > 12


async def test_a_lost_lease_sends_nothing_more(autojump_clock: MockClock) -> None:
    server = NativeServer()
    (state_id,) = server.add("Steps", steps="300")
    async with running(server, Steps, grace=0):
        await server.until(QUEUED=1)
        await trio.sleep(20)
        server.lost = {state_id}
        await trio.sleep(10)
        seen = len(Steps.begun)
        await trio.sleep(10)
        assert len(Steps.begun) == seen, "it was cancelled"
        number = sent(server, "heartbeat")[-1][0]
    assert sent(server, "release", "outcomes") == []
    assert number <= seen


async def test_an_older_execution_does_not_replace_what_another_runtime_stored(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lease was lost, another runtime had the state, and it was claimed again here."""

    class Long(Steps):
        async def execute(self) -> None:
            self.begun.append(self.checkpoint.step)
            self.checkpoint = self.Checkpoint(step=self.checkpoint.step + 1)
            await trio.sleep(60 if self.checkpoint.step == 1 else 0)

    server = NativeServer()
    (state_id,) = server.add("Long", steps="1")
    async with running(server, Long, workers=1, batch_size=2):
        await server.until(lambda: sent(server, "heartbeat"))
        state = server.states[state_id]
        # The answers of heartbeats are lost meanwhile.
        server.before = Fails(("heartbeat",))
        state.status, state.checkpoint = "CREATED", {"number": 9, "value": text(9)}
        server._notify()
        await server.until(lambda: state.deliveries == 2)
        server.before = None
        await server.until(EXECUTED=1)
    assert "another runtime had it, and stored a newer checkpoint" in caplog.text
    assert Long.begun == [0, 9]
    assert sent(server, "release") == []


async def test_an_outcome_in_the_outbox_has_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(Steps):
        async def execute(self) -> None:
            self.checkpoint = self.Checkpoint(step=1)
            raise ValueError

    monkeypatch.setattr(deadlines, "FLUSH", 0.1)
    server = NativeServer()
    (state_id,) = server.add("Breaks", steps="1")
    outbox = tmp_path / "out.db"
    server.before = Fails(("outcomes",), lambda: reply(503))
    async with running(server, Breaks, outbox=outbox, grace=0, within=30) as rt:
        await server.until(lambda: server.routes("outcomes"))
    assert rt.summary.kept == 1
    server.before = None
    server.calls.clear()
    async with running(server, Breaks, outbox=outbox, within=30):
        await server.until(ERRORED=1)
    assert sent(server, "outcomes") == [(1, text(1))]
    assert server.states[state_id].checkpoint == {"number": 1, "value": text(1)}


# -- a state manager that stores none


async def test_where_nothing_is_stored_a_warning_names_the_nodes_and_nothing_waits(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(BaseNode):
        async def execute(self) -> None: ...

    server = V0Server()
    server.add("Saves")
    with caplog.at_level(logging.WARNING):
        async with running(server, Saves, Steps, Plain):
            await server.until(EXECUTED=1)
    (warning,) = [line for line in caplog.messages if "checkpoints of" in line]
    assert warning.startswith("checkpoints of Saves, Steps are not stored: the state manager at ")
    assert " speaks v0 only; each execution begins without one, and save_checkpoint does not wait" in warning
    assert [step for _, step in Saves.saved] == [1, 2, 3]


async def test_a_node_that_waits_goes_on_when_the_state_manager_becomes_one_that_stores_none(
    autojump_clock: MockClock,
) -> None:
    server = NativeServer()
    server.add("Saves")
    async with running(server, Saves, registered=True):
        server.before = Fails((), lambda: reply(503), times=3)
        server.discovery = reply(404)
        await server.until(EXECUTED=1)
    assert [step for _, step in Saves.saved] == [1, 2, 3]


# -- what costs nothing


async def test_a_runtime_without_checkpoints_sends_no_more_heartbeats(autojump_clock: MockClock) -> None:
    class Plain(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(100)

    counts = []
    for node in (Plain, type("Plain", (Plain,), {"Checkpoint": Steps.Checkpoint})):
        server = NativeServer()
        server.add("Plain")
        async with running(server, node):
            await server.until(EXECUTED=1)
        counts.append(len(server.routes("heartbeat")))
    assert abs(counts[0] - counts[1]) <= 2


# -- the time that is left, and the work at risk


class Left(BaseNode):
    seen: list[float] = []

    async def execute(self) -> None:
        self.seen.append(self.seconds_left)
        try:
            while True:
                await trio.sleep(1)
                self.seen.append(self.seconds_left)
        finally:
            self.seen.append(self.seconds_left)


async def test_the_seconds_that_are_left_follow_the_requests_to_stop(autojump_clock: MockClock) -> None:
    Left.seen = []
    server = NativeServer()
    server.add("Left")
    async with running(server, Left) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1.5)
        assert Left.seen == [math.inf, math.inf]
        rt.stop(10)
        await trio.sleep(1)
        assert Left.seen[-1] == pytest.approx(9.5, abs=0.01)
        rt.stop(3)
        await trio.sleep(1)
        assert Left.seen[-1] == pytest.approx(2.5, abs=0.01)
    assert Left.seen[-1] == pytest.approx(5), "for its clean-up"


async def test_a_timeout_limits_the_seconds_that_are_left(autojump_clock: MockClock) -> None:
    class Limited(Left):
        timeout = 3

    Left.seen = []
    server = NativeServer()
    server.add("Limited")
    async with running(server, Limited) as rt:
        await server.until(QUEUED=1)
        await trio.sleep(1.5)
        rt.stop(60)
        await server.until(ERRORED=1)
    assert Left.seen == pytest.approx([3, 2, 1, 0])


async def test_the_drain_says_how_much_work_is_at_risk(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Plain(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(100)

    server = NativeServer()
    server.add("Plain")
    server.add("Steps", steps="100")
    rt = runtime(server, Plain, Steps)
    with caplog.at_level(logging.INFO):
        async with running(rt, grace=0.5):
            await server.until(QUEUED=2)
            await trio.sleep(30.75)
    assert "; 500 ms at most" in caplog.text
    assert "waiting for 2 nodes, 31.5 s of work at risk: " in caplog.text, "30.75 of Plain, 0.75 of Steps"
