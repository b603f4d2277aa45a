"""Starting runs over TCP: many before a runtime runs them, and some while it does."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, apart, working
from tests.bench.work import NAMESPACE, ONE, awaited

AT_ONCE = 32
"""Tasks that trigger."""


def starting(plan: Plan) -> Iterator[Sample]:
    """Runs per second: stored by lists and one by one, and executed after they were triggered, and while."""
    with apart(plan.folder) as where:
        rate = trio.run(_executed, where, plan.live_runs)
        name = f"{plan.live_runs:,} one-node runs over TCP, triggered {AT_ONCE} at once while they run"
        yield Sample(name, rate, "runs/s")
        stored, tag = f"{plan.stored:,} one-node runs stored over TCP", f"{random.random()}"
        many = trio.run(_stored, where, plan.stored, tag)
        yield Sample(f"{stored}, trigger_many", many, "runs/s", min_goal=20_000)
        name = f"{plan.stored:,} one-node runs triggered before, drained over TCP, batch 64"
        yield Sample(name, trio.run(_drained, where, plan.stored, tag), "runs/s")
        one_by_one = trio.run(_stored_one_by_one, where, plan.stored)
        yield Sample(f"{stored}, trigger, {AT_ONCE} at once", one_by_one, "runs/s")


async def _executed(where: Where, count: int) -> float:
    async with working(where, ONE) as manager:
        tag, done = f"{random.random()}", trio.Event()
        awaited[tag] = (done, count)
        begin = time.perf_counter()
        await _one_by_one(manager, count, tag)
        await done.wait()
        return count / (time.perf_counter() - begin)


async def _stored(where: Where, count: int, tag: str) -> float:
    async with StateManager(NAMESPACE, **where) as manager:
        begin = time.perf_counter()
        await manager.trigger_many(ONE.name, ({"i": tag} for _ in range(count)))
        return count / (time.perf_counter() - begin)


async def _drained(where: Where, count: int, tag: str) -> float:
    """Run what ``_stored`` has stored."""
    done = trio.Event()
    awaited[tag] = (done, count)
    begin = time.perf_counter()
    async with working(where, ONE, batch_size=64):
        await done.wait()
        return count / (time.perf_counter() - begin)


async def _stored_one_by_one(where: Where, count: int) -> float:
    async with StateManager(NAMESPACE, **where) as manager:
        begin = time.perf_counter()
        await _one_by_one(manager, count, "stored")
        return count / (time.perf_counter() - begin)


async def _one_by_one(manager: StateManager, count: int, tag: str) -> None:
    numbers = iter(range(count))

    async def trigger() -> None:
        for _ in numbers:
            await manager.trigger(ONE.name, inputs={"i": tag})

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(trigger)
