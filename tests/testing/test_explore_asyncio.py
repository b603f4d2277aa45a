"""``explore`` with nodes on asyncio: a loop that a Trio task runs, under virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import anyio
import pytest
import sniffio
from pydantic import BaseModel
from trio.testing import MockClock

from exotrio import BaseNode, Graph
from exotrio.testing import CheckFailed, CrashRun, Exploration, Fault, explore
from tests.support.explored import World, fresh, graph, say, seen, world


class AsyncioNode(BaseNode):
    runs_in = "asyncio"


class Several(AsyncioNode):
    """Its own task waits for two that it started, and one of them for a third through anyio."""

    async def execute(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.child("one"))
            group.create_task(self.through_anyio())
        say("end")

    async def through_anyio(self) -> None:
        assert sniffio.current_async_library() == "asyncio"
        async with anyio.create_task_group() as group:
            group.start_soon(self.child, "two")

    async def child(self, name: str) -> None:
        await anyio.sleep(0.1)
        say(name)
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
        lock = world().kept.setdefault(asyncio.get_running_loop(), asyncio.Lock())
        assert isinstance(lock, asyncio.Lock)
        async with lock:
            await asyncio.sleep(0.01)
            say(f"{self.inputs.face}")


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
        await asyncio.to_thread(say, "in a thread")


async def test_a_node_on_asyncio_may_wait_for_a_thread(autojump_clock: MockClock) -> None:
    logs = await seen(Threaded, Fault.ANSWER_LOST)
    assert list(logs.by_point.values()) == [["in a thread"], ["in a thread"]]


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
        world().kept["generator"] = generator = self.generate()
        await anext(generator)

    async def generate(self) -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            say("closed")

    async def linger(self) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            say("cleaned up")


async def test_what_a_node_left_in_the_loop_ends_with_the_runtime(
    autojump_clock: MockClock,
) -> None:
    logs = await seen(Lingers, Fault.ANSWER_LOST)
    assert len(logs.runs) == 3
    assert all(run.world.log == ["cleaned up", "closed"] for run in logs.runs)
