"""Nodes that hold the GIL: what a second process brings."""

from __future__ import annotations

import time
from collections.abc import Iterator

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, apart, python, until
from tests.bench.work import COMPUTED, NAMESPACE


def processes(plan: Plan) -> Iterator[Sample]:
    """States per second of nodes that compute 20 ms each, with one process and with two."""
    rates = [_rate(plan, count) for count in (1, 2)]
    for count, rate in enumerate(rates, start=1):
        yield Sample(f"nodes of 20 ms in pure Python, --processes {count}", rate, "states/s")
    yield Sample("two processes over one", rates[1] / rates[0], "x", min_goal=1.8)


def _rate(plan: Plan, count: int) -> float:
    command = ["-m", "exotrio", "worker", "tests.bench.work", "--processes", str(count)]
    with apart(plan.folder) as where, python(command, where=where) as process:
        for _ in range(count):
            until(process, "works as")
        return trio.run(_measure, where, plan.states // 4)


async def _measure(where: Where, states: int) -> float:
    async with StateManager(NAMESPACE, **where) as manager:
        await manager.upsert_graph(COMPUTED)
        begin = time.perf_counter()
        run = await manager.trigger(COMPUTED.name, inputs={"n": str(states)})
        # Rarely, since the cores are for the nodes.
        await manager.wait(run["run_id"], poll_interval=0.1)
        return states / (time.perf_counter() - begin)
