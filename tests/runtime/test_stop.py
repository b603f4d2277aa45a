"""The stop: every way to request it, in which order its steps come, and that it ends whatever happens."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, LifecycleError, Phase, Runtime, Stopping
from exotrio._runtime.outbox_store import OutboxStore
from exotrio._shared import deadlines
from tests.support.doubles import (
    Call,
    Delays,
    Fails,
    NativeServer,
    V0Server,
    reply,
    running,
    runtime,
)


class Quick(BaseNode):
    async def execute(self) -> None:
        await trio.lowlevel.checkpoint()


class Sleeps(BaseNode):
    """Sleeps as many seconds as it is told."""

    class Inputs(BaseModel):
        seconds: str

    async def execute(self) -> None:
        await trio.sleep(float(self.inputs.seconds))


async def test_a_drain_lets_running_nodes_end_and_hands_back_the_buffered_ones_at_once(
    autojump_clock: MockClock,
) -> None:
    server = V0Server()
    server.add("Sleeps", 6, seconds="10")
    rt = runtime(server, Sleeps, workers=2)
    async with trio.open_nursery() as nursery:
        assert await nursery.start(rt.run) is rt
        await server.until(QUEUED=6)
        await trio.sleep(1)
        rt.stop()
        await server.until(lambda: len(server.routes("re-enqueue-after")) == 4)
        assert trio.current_time() < 2
        assert rt.phase is Phase.DRAINING
    assert rt.phase.value == "stopped"
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    assert server.statuses() == {"EXECUTED": 2, "CREATED": 4}
    assert (rt.summary.completed, rt.summary.released, rt.summary.cancelled) == (2, 4, 0)
    assert rt.summary.exit_code == 0


async def test_when_the_grace_is_over_nodes_are_cancelled_and_their_states_handed_back_not_errored(
    autojump_clock: MockClock,
) -> None:
    reasons: list[Stopping] = []

    class Patient(BaseNode):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                reasons.append(self.stopping)
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)

    server = V0Server(Patient=2)
    async with running(server, Patient, shutdown_grace=7) as rt:
        await server.until(QUEUED=2)
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    assert reasons == [Stopping.CANCELLING] * 2
    assert server.statuses() == {"CREATED": 2}
    assert not server.routes("errored")
    assert rt.summary.cancelled == 2


async def test_a_node_sees_that_the_runtime_drains(autojump_clock: MockClock) -> None:
    seen: list[Stopping] = []

    class Looks(BaseNode):
        async def execute(self) -> None:
            seen.append(self.stopping)
            while not self.stopping:  # noqa: ASYNC110 (nodes have no event for it)
                await trio.sleep(1)
            seen.append(self.stopping)

    server = V0Server(Looks=1)
    async with running(server, Looks):
        await server.until(lambda: bool(seen))
    assert seen == [Stopping.NO, Stopping.DRAINING]
    assert server.statuses() == {"EXECUTED": 1}


async def test_a_node_that_returns_although_it_was_cancelled_is_reported_as_executed(
    autojump_clock: MockClock,
) -> None:
    class Stubborn(BaseNode):
        class Outputs(BaseModel):
            text: str

        async def execute(self) -> Any:
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                return self.Outputs(text="done all the same")

    server = V0Server()
    (state,) = server.add("Stubborn")
    async with running(server, Stubborn, grace=0):
        await server.until(QUEUED=1)
    assert server.states[state].result == [{"text": "done all the same"}]


async def test_an_error_after_our_cancel_hands_the_state_back(autojump_clock: MockClock) -> None:
    class Breaks(BaseNode):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("broken by the cancel")

    server = V0Server(Breaks=1)
    async with running(server, Breaks, grace=0) as rt:
        await server.until(QUEUED=1)
    assert server.statuses() == {"CREATED": 1}
    assert rt.summary.cancelled == 1


async def test_a_second_stop_with_less_grace_shortens_the_drain_and_one_with_more_does_not_extend_it(
    autojump_clock: MockClock,
) -> None:
    server = V0Server()
    server.add("Sleeps", seconds="1000")
    async with running(server, Sleeps, grace=100) as rt:
        await server.until(QUEUED=1)
        rt.stop(10)
        await trio.sleep(1)
        rt.stop(2)
    assert trio.current_time() == pytest.approx(3, abs=0.1)


async def test_a_clean_up_that_takes_too_long_is_not_waited_for_with_handing_the_state_back(
    autojump_clock: MockClock,
) -> None:
    class Clings(BaseNode):
        async def execute(self) -> None:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)

    server = V0Server(Clings=1)
    async with running(server, Clings) as rt:
        await server.until(QUEUED=1)
        rt.stop(0)
        await server.until(CREATED=1)
        assert trio.current_time() < 6
    assert not server.routes("executed")  # it was handed back: another runtime may run it
    assert rt.summary.cancelled == 1


async def test_a_stop_before_the_start_is_not_lost_and_a_second_run_is_refused(
    autojump_clock: MockClock,
) -> None:
    server = V0Server(Quick=1)
    rt = runtime(server, Quick)
    rt.stop()
    async with trio.open_nursery() as nursery:
        assert await nursery.start(rt.run) is rt
    assert (rt.phase, rt.summary.exit_code, server.calls) == (Phase.STOPPED, 0, [])
    rt.stop()
    with pytest.raises(LifecycleError, match="started before"):
        await rt.run()


async def test_a_stop_while_the_state_manager_is_away_at_the_start_ends_it_at_once(
    autojump_clock: MockClock,
) -> None:
    server = V0Server()
    server.before = Fails()
    async with running(server, Quick) as rt:
        await server.until(lambda: len(server.calls) > 3)
        assert rt.phase is Phase.STARTING
        before = trio.current_time()
    assert trio.current_time() == before
    assert rt.phase.value == "stopped"
    assert server.registered == []


async def test_a_second_run_is_refused_while_the_first_goes_on(
    autojump_clock: MockClock,
) -> None:
    async with running(V0Server(), Quick, registered=True) as rt:
        with pytest.raises(LifecycleError):
            await rt.run()
        assert rt.phase is Phase.RUNNING


async def test_a_stop_ends_a_long_poll_at_once(autojump_clock: MockClock) -> None:
    server = NativeServer()
    async with running(server, Quick):
        await server.until(lambda: len(server.routes("claim")) == 2)
        await trio.sleep(3)
        before = trio.current_time()
    assert trio.current_time() - before < 0.1


async def test_states_that_a_claim_in_flight_brings_after_the_stop_are_released(
    autojump_clock: MockClock,
) -> None:
    server = V0Server(Quick=3)
    server.after = Delays(("enqueue",), 4)
    async with running(server, Quick) as rt:
        await server.until(QUEUED=3)
    assert server.statuses() == {"CREATED": 3}
    assert rt.summary.released == 3
    assert not server.routes("executed")


async def test_cancelling_the_surrounding_scope_loses_nothing(autojump_clock: MockClock) -> None:
    phases: list[Phase] = []

    class Watches(BaseNode):
        async def execute(self) -> None:
            try:
                await trio.sleep_forever()
            finally:
                phases.append(rt.phase)

    server = V0Server(Watches=6)
    rt = runtime(server, Watches, workers=4)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            await server.until(QUEUED=6)
            scope.cancel()
    assert scope.cancelled_caught
    assert phases == [Phase.CANCELLING] * 4
    assert server.statuses() == {"CREATED": 6}
    assert (rt.summary.cancelled, rt.summary.released) == (4, 2)


async def test_an_exception_of_a_sibling_task_loses_nothing_and_goes_on(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.add("Sleeps", 2, seconds="1000")
    rt = runtime(server, Sleeps)

    async def application() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            await server.until(QUEUED=2)
            raise ValueError("the sibling")

    with pytest.raises(ExceptionGroup) as caught:
        await application()
    assert [type(error) for error in caught.value.exceptions] == [ValueError]
    assert server.statuses() == {"CREATED": 2}


async def test_a_cancel_while_draining_ends_the_drain(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.add("Sleeps", seconds="1000")
    rt = runtime(server, Sleeps, shutdown_grace=500)
    with trio.move_on_after(10):
        async with running(rt, registered=True):
            await server.until(QUEUED=1)
    assert trio.current_time() == pytest.approx(10, abs=0.1)
    assert server.statuses() == {"CREATED": 1}


async def test_the_flush_tries_again_soon_whatever_the_next_answers_ask_for(
    autojump_clock: MockClock,
) -> None:
    server = V0Server()
    server.add("Sleeps", seconds="1")
    flushing: list[float] = []

    async def busy(call: Call) -> httpx.Response | None:
        if call.route != "executed":
            return None
        if rt.phase is Phase.FLUSHING:
            flushing.append(trio.current_time())
            if len(flushing) == 4:
                return None
        return reply(503, **{"Retry-After": "2"})

    server.before = busy
    async with running(server, Sleeps, shutdown_grace=1) as rt:
        await server.until(lambda: len(server.routes("executed")) == 1)
    assert server.statuses() == {"EXECUTED": 1}
    assert rt.summary.completed == 1


async def test_a_stop_uses_the_seconds_in_which_the_state_manager_answers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server = V0Server()
    server.add("Sleeps", seconds="1")
    server.add("Sleeps", seconds="60")
    asked_at: list[float] = []

    async def answers_for_three_seconds(call: Call) -> httpx.Response | None:
        if call.route == "executed" and not 10 <= trio.current_time() - asked_at[0] < 13:
            return reply(503)
        return None

    server.before = answers_for_three_seconds
    async with running(server, Sleeps, shutdown_grace=20):
        await server.until(QUEUED=2)
        asked_at.append(trio.current_time())
    assert server.statuses()["EXECUTED"] == 1


def test_the_steps_of_a_stop_leave_time_before_the_process_is_killed() -> None:
    assert deadlines.max_stop() <= 28.5
    assert inspect.signature(Runtime).parameters["shutdown_grace"].default == deadlines.GRACE
    assert max(deadlines.LAST_HEARTBEAT, 2 * deadlines.ASYNCIO_TASKS) < deadlines.CLOSE


async def test_a_stop_with_every_step_at_its_worst_takes_no_longer_than_the_steps_together(
    autojump_clock: MockClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    begun: list[str] = []

    class Thread(BaseNode):
        def execute(self) -> None:
            begun.append("thread")
            gate.wait()

    class Loop(BaseNode):
        runs_in = "asyncio"

        async def execute(self) -> None:
            begun.append("loop")
            gate.wait()

    class Cleans(BaseNode):
        async def execute(self) -> None:
            begun.append("cleans")
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(deadlines.CLEAN_UP)

    really_close = OutboxStore.close

    def close(store: OutboxStore, *rest: Any) -> None:
        gate.wait()
        really_close(store, *rest)

    monkeypatch.setattr(OutboxStore, "close", close)
    server = NativeServer()
    for name in ("Thread", "Loop", "Cleans"):
        server.add(name)
    rt = runtime(server, Thread, Loop, Cleans, workers=4, outbox=tmp_path / "outbox.db")
    try:
        async with running(rt):
            while len(begun) < 3:  # noqa: ASYNC110 - threads set no events of Trio
                await trio.sleep(0.01)
            server.before = Delays()
            before = trio.current_time()
    finally:
        gate.set()
    taken = trio.current_time() - before
    # What hangs in this test is in process, so that there are no connections to close.
    assert deadlines.max_stop() - deadlines.HANG_UP - 0.1 < taken < deadlines.max_stop() + 0.01
    assert len(rt.summary.left_behind) == 3


async def test_a_plain_node_that_goes_on_after_the_stop_is_not_said_to_have_ended(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    begun, gate = threading.Event(), threading.Event()

    class Thread(BaseNode):
        def execute(self) -> None:
            begun.set()
            gate.wait()

    server = NativeServer(Thread=1)
    rt = runtime(server, Thread)
    try:
        async with running(rt, grace=0):
            while not begun.is_set():  # noqa: ASYNC110 - threads set no events of Trio
                await trio.sleep(0.01)
    finally:
        gate.set()
    assert (server.statuses(), rt.summary.cancelled) == ({"CREATED": 1}, 1)
    assert "it goes on in its thread" in caplog.text
    assert "ended after" not in caplog.text


@pytest.mark.parametrize("how", ["refused", "hanging"])
async def test_with_the_server_down_for_the_whole_stop_it_ends_in_time_and_names_what_stays(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    server = V0Server()
    states = server.add("Sleeps", 3, seconds="1000") + server.add("Sleeps", 1, seconds="2")
    async with running(server, Sleeps, workers=2) as rt:
        await server.until(QUEUED=4)
        await trio.sleep(0.5)
        server.before = Delays() if how == "hanging" else Fails()
        await trio.sleep(0.5)
        before = trio.current_time()
    assert trio.current_time() - before <= deadlines.max_stop()
    assert rt.phase is Phase.STOPPED
    assert rt.summary.exit_code == 75
    assert set(rt.summary.left_behind) == set(states)
    for state in states:
        assert state in caplog.text


async def test_a_claim_whose_answer_never_comes_is_counted_and_the_stop_ends_in_time(
    autojump_clock: MockClock,
) -> None:
    server = V0Server(Quick=3)
    server.after = Delays(("enqueue",))
    async with running(server, Quick, batch_size=5) as rt:
        await server.until(QUEUED=3)
    assert trio.current_time() <= 28.6
    assert rt.summary.lost_claims == 5
    assert rt.summary.exit_code == 75


async def test_a_claim_in_flight_does_not_hold_up_a_cancellation(autojump_clock: MockClock) -> None:
    server = V0Server()
    server.after = Delays(("enqueue",))
    rt = runtime(server, Quick)
    with trio.move_on_after(100) as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(rt.run)
            await server.until(lambda: bool(server.routes("enqueue")))
            scope.cancel()
    assert trio.current_time() <= 8.6
    assert rt.summary.exit_code == 75


async def test_an_idle_runtime_stops_at_once_while_the_server_is_away(autojump_clock: MockClock) -> None:
    server = V0Server()
    async with running(server, Quick, registered=True) as rt:
        server.before = Fails()
        await trio.sleep(100)
        server.before = Delays()
        calls = len(server.calls)
        while len(server.calls) == calls:  # noqa: ASYNC110 (a request that hangs changes nothing)
            await trio.sleep(0.1)
        before = trio.current_time()
    assert trio.current_time() == before
    assert rt.summary.exit_code == 0


async def test_a_late_claim_is_handed_back_at_once_though_every_worker_is_busy(
    autojump_clock: MockClock,
) -> None:
    async def slow(call: Call) -> None:
        if call.route == "enqueue" and server.statuses()["QUEUED"] > 1:
            await trio.sleep(2)

    server = V0Server()
    server.add("Sleeps", seconds="15")
    server.after = slow
    async with running(server, Sleeps, workers=1) as rt:
        await server.until(QUEUED=1)
        server.add("Sleeps", 3, seconds="15")
        await server.until(lambda: server.statuses()["QUEUED"] > 1)
        rt.stop()
        await server.until(CREATED=3)
        assert trio.current_time() < 5


async def test_a_defect_inside_hands_back_what_is_held_and_is_raised_bare(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from exotrio._runtime.planner import ClaimPlanner

    def broken(self: object) -> int:
        if server.statuses()["QUEUED"]:
            raise ZeroDivisionError("a defect")
        return 16

    monkeypatch.setattr(ClaimPlanner, "_room", broken)
    server = V0Server()
    server.add("Sleeps", 6, seconds="1000")
    rt = runtime(server, Sleeps, workers=2)
    with pytest.raises(ZeroDivisionError):
        await rt.run()
    assert server.statuses() == {"CREATED": 6}
    assert rt.phase is Phase.STOPPED


async def test_a_defect_of_the_reporter_is_raised_and_what_it_holds_is_abandoned_and_logged(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from exotrio._runtime.reporter import Reporter

    def broken(*args: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(Reporter, "_take_batch", broken)
    server = V0Server()
    server.add("Sleeps", seconds="0")
    server.add("Sleeps", 3, seconds="1000")
    rt = runtime(server, Sleeps, workers=2)
    with pytest.raises(ZeroDivisionError):
        await rt.run()
    assert rt.summary.abandoned == 4
    assert caplog.text.count("is abandoned, it stays claimed") == 4
    assert "another failure" not in caplog.text


async def test_a_ctrl_c_that_arrives_in_a_node_goes_to_the_application_and_loses_nothing(
    autojump_clock: MockClock,
) -> None:
    class Interrupted(BaseNode):
        async def execute(self) -> None:
            await trio.sleep(1)
            raise KeyboardInterrupt

    server = V0Server(Interrupted=1)
    server.add("Sleeps", 2, seconds="1000")
    with pytest.raises(KeyboardInterrupt):
        await runtime(server, Interrupted, Sleeps).run()
    assert trio.current_time() < 2  # not only once the time for cleaning up is over
    assert server.statuses() == {"CREATED": 3}


@pytest.mark.parametrize("status", [401, 422])
async def test_a_refused_registration_is_final_and_raised_bare(
    autojump_clock: MockClock, status: int
) -> None:
    from exotrio import KeyRefused, RequestRefused

    async def refuses(call: Call) -> httpx.Response | None:
        return reply(status) if call.route == "nodes" and call.body is not None else None

    server = V0Server()
    server.before = refuses
    rt = runtime(server, Quick)
    with pytest.raises(KeyRefused if status == 401 else RequestRefused):
        await rt.run()
    assert rt.phase is Phase.STOPPED
    assert sum(call.body is not None for call in server.routes("nodes")) == 1


async def test_phases_are_entered_in_order_and_each_is_logged(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="exotrio")
    server = V0Server()
    server.add("Sleeps", seconds="1000")
    async with running(server, Sleeps):
        await server.until(QUEUED=1)
    names = [
        r.getMessage().removeprefix("test: ") for r in caplog.records if r.getMessage().startswith("test: ")
    ]
    assert names == ["starting", "running", "draining", "cancelling", "flushing"]
    assert "completed 0, errored attempts 0, released 0, cancelled 1, unknown 0, abandoned 0" in caplog.text


async def test_a_stop_ends_the_search_for_the_run_that_is_worked_on(autojump_clock: MockClock) -> None:
    server = NativeServer()
    rt = runtime(server, Quick)

    async def take_long() -> str:
        searching.set()
        await trio.sleep(300)
        return "a-run"

    searching = trio.Event()
    rt.work_on(take_long)
    async with running(rt):
        await searching.wait()
    assert rt.phase is Phase.STOPPED
    assert trio.current_time() < 60
    assert server.routes("claim") == []
