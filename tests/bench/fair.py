"""How long a small run takes next to a large one, over how long it takes alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.latency import percentile
from tests.bench.places import in_process, working
from tests.bench.work import FAN

SMALL = 8
"""States of the small run."""
PAUSE = 0.01
"""Seconds between two looks at a run, and between two small runs."""


def fair(plan: Plan) -> Iterator[Sample]:
    """One small run after the other, in process: alone, then while a large one is under way."""

    async def measure() -> tuple[list[float], list[float]]:
        async with in_process(plan.folder) as where, working(where, FAN) as manager:
            alone = [await _run(manager, SMALL) for _ in range(max(2, plan.triggers // 10))]
            large = await _trigger(manager, 8 * plan.states)
            next_to_it = [await _run(manager, SMALL)]
            while (await manager.status(large)).status == "PENDING":
                next_to_it.append(await _run(manager, SMALL))
        return alone, next_to_it if len(next_to_it) > 1 else next_to_it * 2

    alone, next_to_it = trio.run(measure)
    for percent in (50, 99):
        times = percentile(alone, percent), percentile(next_to_it, percent)
        for where, took in zip(("alone", "next to a large one"), times, strict=True):
            yield Sample(f"a run of {SMALL} states {where}, p{percent}", took, "ms")
        yield Sample(
            f"a run of {SMALL} states, next to a large one over alone, p{percent}", times[1] / times[0], "x"
        )


async def _trigger(manager: StateManager, states: int) -> str:
    run_id: str = (await manager.trigger(FAN.name, inputs={"n": str(states)}))["run_id"]
    return run_id


async def _run(manager: StateManager, states: int) -> float:
    """Return the seconds that a run takes."""
    begin = time.perf_counter()
    await manager.wait(await _trigger(manager, states), poll_interval=PAUSE)
    return time.perf_counter() - begin
