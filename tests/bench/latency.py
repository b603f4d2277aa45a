"""From a trigger to the node, and from the first node of a chain to the last."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, apart, in_process, working
from tests.bench.work import CHAIN, ONE, awaited, marks

PAUSE = 0.01
"""Mean seconds between two triggers on an idle runtime, so that it is waiting again by then."""


def process(plan: Plan) -> Iterator[Sample]:
    """In process."""

    async def measure() -> list[Sample]:
        async with in_process(plan.folder) as where:
            return await _all(where, plan, "in process", first=3, chain=10)

    yield from trio.run(measure)


def tcp(plan: Plan) -> Iterator[Sample]:
    """Over TCP, native; runtime and client in this process, the server in another one."""
    with apart(plan.folder) as where:
        yield from trio.run(partial(_all, where, plan, "TCP, native", first=5, chain=20))


async def _all(where: Where, plan: Plan, name: str, *, first: float, chain: float) -> list[Sample]:
    async with working(where, ONE, CHAIN) as manager:
        await idle_seconds(manager, 3)
        idle = await idle_seconds(manager, plan.triggers)
        loaded = await _loaded(manager, plan.triggers, plan.rate)
        chains = [await chain_seconds(manager, name) for _ in range(plan.triggers // 4)]
    goals: dict[int, Any] = {50: {"max_goal": first}}
    return [
        *(
            Sample(f"trigger to execute, {name}, idle, p{p}", percentile(idle, p), "ms", **goals.get(p, {}))
            for p in _PS
        ),
        *(
            Sample(f"trigger to execute, {name}, {plan.rate:g} runs/s, p{p}", percentile(loaded, p), "ms")
            for p in _PS
        ),
        Sample(
            f"chain of 5, {name}, trigger to last node, p50", percentile([c[1] for c in chains], 50), "ms"
        ),
        Sample(
            f"chain of 5, {name}, until wait returns, p50",
            percentile([c[2] for c in chains], 50),
            "ms",
            max_goal=chain,
        ),
    ]


_PS = (50, 95, 99)


def percentile(seconds: list[float], percent: int) -> float:
    """Return a percentile in milliseconds."""
    if len(seconds) < 2:
        return seconds[0] * 1000
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1] * 1000


async def idle_seconds(manager: StateManager, count: int) -> list[float]:
    """Seconds from a trigger to its node, one run after the other."""
    seconds = []
    for _ in range(count):
        tag = f"{random.random()}"
        awaited[tag] = (trio.Event(), 1)
        begin = time.perf_counter()
        await manager.trigger(ONE.name, inputs={"i": tag})
        await awaited[tag][0].wait()
        seconds.append(marks[tag][0] - begin)
        await trio.sleep(random.uniform(0, 2 * PAUSE))
    return seconds


async def _loaded(manager: StateManager, count: int, rate: float) -> list[float]:
    """Seconds from when a trigger was due to its node, at a rate that does not wait for answers."""
    seconds: list[float] = []

    async def one(due: float) -> None:
        tag = f"{random.random()}"
        awaited[tag] = (trio.Event(), 1)
        await manager.trigger(ONE.name, inputs={"i": tag})
        await awaited[tag][0].wait()
        seconds.append(marks[tag][0] - due)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            due = start + number / rate
            await trio.sleep(due - time.perf_counter() if due > time.perf_counter() else 0)
            nursery.start_soon(one, due)
    return seconds


async def chain_seconds(manager: StateManager, name: str) -> tuple[float, float, float]:
    """Seconds from the first node to the last, from the trigger to the last, until the run is seen to end."""
    tag = f"{name} {random.random()}"
    awaited[tag] = (trio.Event(), 5)
    begin = time.perf_counter()
    run = await manager.trigger(CHAIN.name, inputs={"i": tag})
    await manager.wait(run["run_id"])
    end = time.perf_counter()
    return marks[tag][-1] - marks[tag][0], marks[tag][-1] - begin, end - begin
