"""Fan-outs that are joined once: how long, and how their cost grows."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.places import in_process, working
from tests.bench.work import UNITED


def joined(plan: Plan) -> Iterator[Sample]:
    """A fan-out and its join in process, at default settings."""
    size = plan.fans[0]

    async def measure() -> float:
        async with in_process(plan.folder) as where, working(where, UNITED) as manager:
            begin = time.perf_counter()
            await _run(manager, size)
            return time.perf_counter() - begin

    yield Sample(f"fan-out of {size:,} and join, in process", trio.run(measure), "s", max_goal=0.5)


def growth(plan: Plan) -> Iterator[Sample]:
    """CPU time per state of fan-outs of several sizes (batch 64), each until it ran about the same number."""
    total = max(plan.fans[-1] // 5, 1)

    async def measure(size: int) -> float:
        async with in_process(plan.folder) as where, working(where, UNITED, batch_size=64) as manager:
            times = max(1, total // size)
            begin = time.process_time()
            for _ in range(times):
                await _run(manager, size)
            return (time.process_time() - begin) / (times * size) * 1e6

    costs = {}
    for size in plan.fans:
        costs[size] = trio.run(measure, size)
        yield Sample(f"CPU per state, fan-out of {size:,} with a join", costs[size], "us")
    first, last = plan.fans[0], plan.fans[-1]
    name = f"CPU per state, fan-out of {last:,} over {first:,}"
    yield Sample(name, costs[last] / costs[first], "x", max_goal=1.3)


async def _run(manager: StateManager, size: int) -> None:
    run = await manager.trigger(UNITED.name, inputs={"i": str(size)})
    assert (await manager.wait(run["run_id"], poll_interval=0.02)).status == "SUCCESS"
