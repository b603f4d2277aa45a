"""``explore`` with nodes on asyncio: a loop that a Trio task runs, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import anyio
import pytest
import sniffio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph
from exotrio.testing import CheckFailed, CrashRun, Exploration, Fault, Moment, RunStatus, explore

WHOLE = ["begin", "on", "finally", "end"]


@dataclass
class World:
    """What outlives a runtime. The lock is bound to one asyncio loop."""

    log: list[str] = field(default_factory=list)
    left: AsyncGenerator[int, None] | None = None
    locks: dict[asyncio.AbstractEventLoop, asyncio.Lock] = field(default_factory=dict)

    @property
    def lock(self) -> asyncio.Lock:
        """That of the running loop; nodes of one runtime share it."""
        return self.locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())


world = World()


def fresh() -> World:
    global world
    world = World()
    return world


class AsyncioNode(BaseNode):
    runs_in = "asyncio"


class Work(AsyncioNode):
    """Waits once, and says whatever happens to it."""

    async def execute(self) -> None:
        world.log.append("begin")
        try:
            await asyncio.sleep(0.1)
            world.log.append("on")
        except BaseException as error:
            world.log.append(type(error).__name__)
            raise
        finally:
            world.log.append("finally")
        world.log.append("end")


def graph(node: type[BaseNode] = Work) -> Graph:
    only = Graph("g", namespace="ns")
    only.add(node, identifier="work")
    return only


@dataclass
class Logs:
    """A check that never fails, and keeps what it saw."""

    by_point: dict[str, list[str]] = field(default_factory=dict)
    runs: list[CrashRun[World]] = field(default_factory=list)

    def __call__(self, run: CrashRun[World]) -> None:
        self.by_point[str(run.point).partition(" (")[0]] = list(run.world.log)
        self.runs.append(run)


async def seen(node: type[BaseNode] = Work, *faults: Fault) -> Logs:
    logs = Logs()
    await explore(graph(node), [node], setup=fresh, check=logs, faults=faults or tuple(Fault))
    return logs


async def test_each_fault_does_to_a_node_on_asyncio_what_it_does_on_trio(autojump_clock: MockClock) -> None:
    logs = await seen()
    assert logs.by_point == {
        "None": WHOLE,
        "work was killed before it began": WHOLE,
        "work was stopped before it began": WHOLE,
        "work was killed at its await 1": ["begin", *WHOLE],
        "work was stopped at its await 1": ["begin", "CancelledError", "finally", *WHOLE],
        "work lost its lease at its await 1": ["begin", *WHOLE, "on", "finally", "end"],
        "work was killed after it ended, before its report": WHOLE * 2,
        "work was stopped after it ended, before its report": WHOLE,
        "the answer to the report of work was lost": WHOLE,
    }
    assert all(run.status is RunStatus.SUCCESS for run in logs.runs)
    at = [str(run.point) for run in logs.runs if run.point and run.point.place.moment is Moment.AWAIT]
    assert all(" await 1 (test_explore_asyncio.py:" in point and "in execute)" in point for point in at)


async def test_killed_code_is_cancelled_after_the_check(autojump_clock: MockClock) -> None:
    logs: list[list[str]] = []

    def setup() -> World:
        logs.append(fresh().log)
        return world

    def check(run: CrashRun[World]) -> None:
        run.world.log.append("checked")

    await explore(graph(), [Work], setup=setup, check=check, faults=[Fault.KILLED])
    assert logs[3] == ["begin", *WHOLE, "checked", "CancelledError", "finally"]


class Several(AsyncioNode):
    """Its own task waits for two that it started, and one of them for a third through anyio."""

    async def execute(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.child("one"))
            group.create_task(self.through_anyio())
        world.log.append("end")

    async def through_anyio(self) -> None:
        assert sniffio.current_async_library() == "asyncio"
        async with anyio.create_task_group() as group:
            group.start_soon(self.child, "two")

    async def child(self, name: str) -> None:
        await anyio.sleep(0.1)
        world.log.append(name)
        await anyio.sleep(0.1)


async def test_tasks_that_a_node_started_on_asyncio_have_points_and_are_killed_with_it(
    autojump_clock: MockClock,
) -> None:
    logs = await seen(Several, Fault.KILLED)
    whole = ["one", "two", "end"]
    killed = [log for point, log in logs.by_point.items() if "await" in point]
    # Both children continue in the same step of the loop: if one is killed then, so is the other.
    assert killed == [whole] * 4 + [["one", *whole], ["one", "two", *whole]]


class Roll(BaseNode):
    class Outputs(BaseModel):
        face: int

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(face=face) for face in range(2)]


class Toss(AsyncioNode):
    class Inputs(BaseModel):
        face: int

    async def execute(self) -> None:
        async with world.lock:
            await asyncio.sleep(0.01)
            world.log.append(f"{self.inputs.face}")


async def test_nodes_of_one_runtime_share_its_loop_and_the_points_stay_the_same(
    autojump_clock: MockClock,
) -> None:
    fan = Graph("g", namespace="ns")
    roll = fan.add(Roll)
    fan.add(Toss, face=roll.face)

    def check(run: CrashRun[World]) -> None:
        assert sorted(set(run.world.log)) == ["0", "1"]

    async def explored() -> Exploration:
        return await explore(
            fan, [Roll, Toss], setup=fresh, check=check, faults=[Fault.STOPPED], max_points=3
        )

    first, second = await explored(), await explored()
    assert first == second
    assert len(first.tried) == 3
    assert max(point.place.nth for point in first.points) == 2, "one waits for the lock of the other"


class Threaded(AsyncioNode):
    async def execute(self) -> None:
        await asyncio.to_thread(world.log.append, "in a thread")


async def test_a_node_on_asyncio_may_wait_for_a_thread(autojump_clock: MockClock) -> None:
    logs = await seen(Threaded, Fault.ANSWER_LOST)
    assert list(logs.by_point.values()) == [["in a thread"], ["in a thread"]]


class Polite(AsyncioNode):
    async def execute(self) -> None:
        await asyncio.sleep(0.1)
        world.log.append(self.stopping.value or "goes on")


async def test_a_drain_is_tried_at_nodes_on_asyncio_that_read_stopping(autojump_clock: MockClock) -> None:
    drained = (await seen(Polite, Fault.DRAINED)).by_point
    assert drained == {"None": ["goes on"], "work was asked to stop at its await 1": ["draining"]}


class Stubborn(AsyncioNode):
    async def execute(self) -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            while True:  # noqa: ASYNC110
                await asyncio.sleep(0)


async def test_a_node_on_asyncio_that_ignores_its_cancellation_is_named(autojump_clock: MockClock) -> None:
    with pytest.raises(CheckFailed, match="work continues however often it is cancelled"):
        await explore(graph(Stubborn), [Stubborn], setup=fresh, check=bool, faults=[Fault.STOPPED])


class Lingers(AsyncioNode):
    async def execute(self) -> None:
        self.left = asyncio.create_task(self.linger())
        world.left = self.generate()
        await anext(world.left)

    async def generate(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            world.log.append("closed")

    async def linger(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            world.log.append("cleaned up")


async def test_what_a_node_left_in_the_loop_ends_with_the_runtime(
    autojump_clock: MockClock,
) -> None:
    logs = await seen(Lingers, Fault.ANSWER_LOST)
    assert len(logs.runs) == 3
    assert all(run.world.log == ["cleaned up", "closed"] for run in logs.runs)
