"""``exotrio.testing.explore``: what each fault does, what is said of it, and what it refuses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import ClassVar

import pytest
import trio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, ConfigurationError, Graph, RequestRefused
from exotrio._execution import loop_watch
from exotrio.testing import CheckFailed, CrashRun, Exploration, Fault, Moment, RunStatus, explore
from exotrio.testing._case import MOMENT
from tests.support.explored import Logs, World, fresh, graph, say, seen, world


class Work(BaseNode):
    """Waits once, and says whatever happens to it."""

    library: ClassVar[ModuleType] = trio

    async def execute(self) -> None:
        say("begin")
        world().begun.set()
        try:
            await self.library.sleep(0.1)
            say("on")
        except BaseException as error:
            say(type(error).__name__)
            raise
        finally:
            say("finally")
        say("end")


class WorkOnAsyncio(Work):
    runs_in = "asyncio"
    library: ClassVar[ModuleType] = asyncio


on_both_loops = pytest.mark.parametrize("node", [Work, WorkOnAsyncio])
WHOLE = ["begin", "on", "finally", "end"]


@on_both_loops
async def test_each_fault_at_each_moment_does_what_the_table_says(
    node: type[Work], autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    logs = await seen(node)
    cancelled = "Cancelled" if node is Work else "CancelledError"
    # Of three kills and a suspension. What was killed logs nothing of its end.
    assert caplog.text.count("1 lease ended without an outcome") == 4
    assert caplog.text.count("the answer was lost") == 1
    assert "release" not in caplog.text
    assert logs.by_point == {
        "None": WHOLE,
        "work was killed before it began": WHOLE,
        "work was stopped before it began": WHOLE,
        "work was killed at its await 1": ["begin", *WHOLE],
        "work was stopped at its await 1": ["begin", cancelled, "finally", *WHOLE],
        # When it goes on its sleep is over. It learns that its lease is lost when it has ended.
        "work lost its lease at its await 1": ["begin", *WHOLE, "on", "finally", "end"],
        "work was killed after it ended, before its report": WHOLE * 2,
        "work was stopped after it ended, before its report": WHOLE,
        "the answer to the report of work was lost": WHOLE,
    }
    assert all(run.status is RunStatus.SUCCESS for run in logs.runs)
    assert [run.begun["work"] for run in logs.runs if run.point is None] == [1, 1]
    assert sum(run.begun["work"] for run in logs.runs) == 2 + 2 * 1 + 3 * 2 + 2 + 1 + 1
    at = [str(run.point) for run in logs.runs if run.point and run.point.place.moment is Moment.AWAIT]
    assert all(" await 1 (test_explore.py:" in point and "in execute)" in point for point in at)


@on_both_loops
async def test_killed_code_is_cancelled_after_the_check_and_before_the_next_setup(
    node: type[Work], autojump_clock: MockClock
) -> None:
    logs: list[list[str]] = []

    def setup() -> World:
        assert world().log.count("begin") == world().log.count("finally")
        logs.append(fresh().log)
        return world()

    def check(run: CrashRun[World]) -> None:
        say("checked")

    await explore(graph(node), [node], setup=setup, check=check, faults=[Fault.KILLED])
    end = ["on", "finally", "end"] if node is Work else ["CancelledError", "finally"]
    assert logs[3] == ["begin", *WHOLE, "checked", *end]
    assert logs[4] == [*WHOLE, *WHOLE, "checked"]


class Several(BaseNode):
    """Its own task waits for two that it started, one of which is shielded."""

    async def execute(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.child, "one", 0.1, False)
            nursery.start_soon(self.child, "two", 0.3, True)
        say("end")

    async def child(self, name: str, pause: float, shield: bool) -> None:
        try:
            with trio.CancelScope(shield=shield):
                await trio.sleep(pause)
                await trio.sleep(pause)
            say(name)
        finally:
            say(f"{name} is over")


async def test_tasks_that_a_node_started_have_points_and_are_killed_with_it(
    autojump_clock: MockClock,
) -> None:
    logs = await seen(Several, Fault.KILLED, Fault.STOPPED)
    points = [run.point for run in logs.runs if run.point and run.point.fault is Fault.KILLED]
    # The end of the nursery, and two for each child.
    assert sum(point.place.moment is Moment.AWAIT for point in points) == 5
    assert all("test_explore.py" in str(point) for point in points if point.place.moment is Moment.AWAIT)
    whole = ["one", "one is over", "two", "two is over", "end"]
    killed = [log for point, log in logs.by_point.items() if "killed" in point]
    assert killed == [whole] * 5 + [["one", "one is over", *whole], [*whole, *whole]]
    stopped = logs.by_point["work was stopped at its await 1"]
    assert stopped == ["one is over", "two", "two is over", *whole]


class Polite(Work):
    async def execute(self) -> None:
        await self.library.sleep(0.1)
        say(self.stopping.value or "goes on")


class PoliteOnAsyncio(WorkOnAsyncio):
    execute = Polite.execute


@pytest.mark.parametrize("node", [Polite, PoliteOnAsyncio])
async def test_a_drain_is_tried_at_nodes_that_read_stopping(
    node: type[Work], autojump_clock: MockClock
) -> None:
    drained = (await seen(node, Fault.DRAINED)).by_point
    assert drained == {
        "None": ["goes on"],
        "work was asked to stop at its await 1": ["draining"],
    }
    assert list((await seen(Work, Fault.DRAINED)).by_point) == ["None"]


class Plain(BaseNode):
    def execute(self) -> None:
        say("plain")


async def test_a_plain_node_runs_on_the_loop_and_is_killed_before_and_after_it(
    autojump_clock: MockClock,
) -> None:
    logs = Logs()
    result = await explore(graph(Plain), [Plain], setup=fresh, check=logs, faults=[Fault.KILLED])
    assert list(logs.by_point.values()) == [["plain"], ["plain"], ["plain", "plain"]]
    assert str(result) == "tried 2 of 2 points; nothing struck within work, without an await"


# -- what is said


def ran_once(run: CrashRun[World]) -> None:
    assert run.world.log.count("on") == 1


async def test_every_failure_is_named_with_its_node_its_point_and_its_number(
    autojump_clock: MockClock,
) -> None:
    with pytest.raises(CheckFailed) as caught:
        await explore(graph(Work), [Work], setup=fresh, check=ran_once)
    head, lease, end = str(caught.value).splitlines()
    assert head == "2 faults broke the check; tried 8 of 8 points; replay one with only=NUMBER:"
    assert lease.startswith("  5: work lost its lease at its await 1 (test_explore.py:")
    assert ", in execute) (work ran twice): AssertionError: assert 2 == 1" in lease
    assert end.startswith("  6: work was killed after it ended, before its report (work ran twice): Assert")
    assert caught.value.__cause__ is caught.value.exploration.failures[0].error


async def test_one_point_is_replayed_by_its_number_and_raises_what_the_check_raises(
    autojump_clock: MockClock,
) -> None:
    logs = Logs()

    async def check(run: CrashRun[World]) -> None:
        logs(run)
        await trio.lowlevel.checkpoint()
        if run.point is not None:
            pytest.fail("it broke")  # which raises no Exception

    with pytest.raises(pytest.fail.Exception, match="it broke") as caught:
        await explore(graph(Work), [Work], setup=fresh, check=check, only=6)
    assert [str(run.point) for run in logs.runs] == [
        "None",
        "work was killed after it ended, before its report",
    ]
    (note,) = caught.value.__notes__
    assert note.startswith("explore: point 6: work was killed after it ended")
    with pytest.raises(ConfigurationError, match="no point 9: they are numbered from 1 to 8"):
        await explore(graph(Work), [Work], setup=fresh, check=Logs(), only=9)


class Forever(BaseNode):
    """Waits for a lock that is not released when it is killed."""

    async def execute(self) -> None:
        while "locked" in world().log:  # noqa: ASYNC110  (as one does that asks a database)
            await trio.sleep(10)
        say("locked")
        await trio.sleep(0.1)
        world().log.remove("locked")


async def test_a_run_that_does_not_end_is_a_failure_that_says_what_waits(autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed, match=r"did not end in 60\.\d+ s: work is QUEUED$"):
        await explore(graph(Forever), [Forever], setup=fresh, check=Logs(), faults=[Fault.KILLED], timeout=60)


class Long(BaseNode):
    async def execute(self) -> None:
        await trio.sleep(40)


async def test_a_run_with_a_fault_may_take_twice_as_long(autojump_clock: MockClock) -> None:
    result = await explore(graph(Long), [Long], setup=fresh, check=Logs(), faults=[Fault.KILLED], timeout=60)
    assert len(result.tried) == 3


class Stubborn(BaseNode):
    """Does not let itself be cancelled."""

    async def execute(self) -> None:
        while "done" not in world().log:
            with suppress(BaseException):
                await trio.sleep(0.1)
                say("done")


async def test_a_node_that_ignores_cancellation_is_named(autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed) as caught:
        await explore(graph(Stubborn), [Stubborn], setup=fresh, check=Logs())
    (failure,) = caught.value.exploration.failures
    assert "work was stopped at its await 1" in str(failure)
    assert "work continues however often it is cancelled: test_explore.py:" in str(failure)


class Roll(BaseNode):
    class Outputs(BaseModel):
        n: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(n=str(n)) for n in range(random.randrange(3, 6))]


class Toss(BaseNode):
    class Inputs(BaseModel):
        n: str

    async def execute(self) -> None:
        for _ in range(random.randrange(1, 4)):
            await trio.lowlevel.checkpoint()


FAN_OUT = Graph("tosses", namespace="ns")
FAN_OUT.add(Toss, n=FAN_OUT.add(Roll).n)


async def toss(check: Callable[[CrashRun[None]], object] = bool, **options: int) -> Exploration:
    faults = [Fault.STOPPED]
    return await explore(FAN_OUT, [Roll, Toss], check=check, faults=faults, **options)  # type: ignore[arg-type]


async def test_the_same_seed_gives_the_same_points(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_watch, "INTERVAL", 0.0005)  # as if all took long, on a busy machine
    random.seed(5)
    before = random.getstate()
    first = await toss(seed=3, max_points=2)
    assert random.getstate() == before
    random.seed(6)
    async with trio.open_nursery() as nursery:
        for _ in range(7):
            nursery.start_soon(trio.lowlevel.checkpoint)  # Trio draws in which order they run
    second = await toss(seed=3, max_points=2)
    assert first == second
    assert len(first.points) > 8
    assert max(point.place.execution for point in first.points) > 1
    assert str(first).startswith(f"tried 2 of {len(first.points)} points;")
    numbers = [point.number for point in first.tried]
    assert numbers == sorted(numbers)


class Sleeps(BaseNode):
    """Sleeps for each of these seconds."""

    class Inputs(BaseModel):
        seconds: list[float]

    async def execute(self) -> None:
        for each in self.inputs.seconds:
            await trio.sleep(each)


class Plan(BaseNode):
    class Outputs(BaseModel):
        seconds: list[float]

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(seconds=each) for each in ([0.1] * 5, [0.5], [0.2, 0.3], [0.3, 0.2])]


async def test_nodes_that_wake_at_the_same_moment_do_so_in_each_run(autojump_clock: MockClock) -> None:
    sleeps = Graph("sleeps", namespace="ns")
    sleeps.add(Sleeps, seconds=sleeps.add(Plan).seconds)
    result = await explore(sleeps, [Plan, Sleeps], check=bool, faults=[Fault.ANSWER_LOST])
    assert not result.missed
    assert len(result.tried) == 5


async def test_it_ends_after_the_maximum_of_failures(autojump_clock: MockClock) -> None:
    def check(run: CrashRun[None]) -> None:
        assert run.point is None

    with pytest.raises(CheckFailed) as caught:
        await toss(check, max_failures=2)
    assert len(caught.value.exploration.failures) == len(caught.value.exploration.tried) == 2


# -- what it refuses


async def test_it_refuses_a_real_clock() -> None:
    with pytest.raises(ConfigurationError, match="autojump_clock"):
        await explore(graph(Work), [Work], check=ran_once)


async def test_it_refuses_a_clock_that_does_not_jump(mock_clock: MockClock) -> None:
    with pytest.raises(ConfigurationError, match="autojump_clock"):
        await explore(graph(Work), [Work], check=ran_once)


async def test_it_refuses_what_cannot_be_run(autojump_clock: MockClock) -> None:
    with pytest.raises(ConfigurationError, match="dict"):
        await explore(graph(Work), [dict], check=ran_once)  # type: ignore[list-item]
    with pytest.raises(RequestRefused, match="no input 'speed'; it has: none"):
        await explore(graph(Work), [Work], check=ran_once, inputs={"speed": "high"})

    async def fresh_later() -> None: ...

    with pytest.raises(ConfigurationError, match="setup is an async def"):
        await explore(graph(Work), [Work], check=ran_once, setup=fresh_later)  # type: ignore[misc]


async def test_a_check_that_fails_without_a_fault_is_reported(autojump_clock: MockClock) -> None:
    def check(run: CrashRun[World]) -> None:
        raise ValueError("always")

    with pytest.raises(
        CheckFailed, match="fails even without a fault:\n  without any fault: ValueError: always"
    ):
        await explore(graph(Work), [Work], setup=fresh, check=check)


async def test_state_that_setup_keeps_is_noticed(autojump_clock: MockClock) -> None:
    fresh()
    with pytest.raises(CheckFailed, match="not the second time: setup must make all fresh"):
        await explore(graph(Work), [Work], setup=world, check=ran_once)
    fresh()
    with pytest.raises(
        ConfigurationError, match=r"first came work at its await 1 .*, the second time work after"
    ):
        await explore(graph(Once), [Once], check=lambda run: None)


class Once(BaseNode):
    """Does its work only if it is not done."""

    async def execute(self) -> None:
        if not world().log:
            await trio.sleep(0.1)
        say("done")


@pytest.mark.parametrize(
    ("fault", "number"), [(Fault.KILLED, 2), (Fault.STOPPED, 2), (Fault.SUSPENDED, 1)], ids=str
)
async def test_an_exploration_can_be_cancelled_while_its_node_is_held(
    fault: Fault, number: int, autojump_clock: MockClock
) -> None:
    async def cancel_when_struck() -> None:
        await world().begun.wait()
        await trio.sleep(MOMENT / 2)
        scope.cancel()

    def setup() -> World:
        made.append(fresh())
        if len(made) == 2:  # after a run without a fault
            nursery.start_soon(cancel_when_struck)
        return made[-1]

    made: list[World] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            await explore(graph(Work), [Work], setup=setup, check=Logs(), faults=[fault], only=number)
    assert scope.cancelled_caught
    assert made[-1].log == ["begin", "Cancelled", "finally"]
