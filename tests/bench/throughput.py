"""States per second: a fan-out with one child each, only executed states counted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.machine import requests, sqlite_rate
from tests.bench.places import apart, in_background, in_process, working
from tests.bench.work import FAN


async def fan_out(manager: StateManager, states: int) -> float:
    """Return states per second."""
    begin = time.perf_counter()
    await manager.trigger(FAN.name, inputs={"n": str(states)})
    # Not wait: from a v0 server it fetches every state of the run, time and again.
    while (await manager.runs(1, 1)).runs[0].status == "PENDING":  # noqa: ASYNC110
        await trio.sleep(0.02)
    return (states + 1) / (time.perf_counter() - begin)


def process(plan: Plan) -> Iterator[Sample]:
    """In process, with default settings and with a batch size of 64."""

    async def measure(batch: int) -> float:
        async with in_process(plan.folder) as where, working(where, FAN, batch_size=batch) as manager:
            return await fan_out(manager, plan.states)

    for batch, min_goal in ((16, 2_500), (64, 4_000)):
        raw = f"SQLite alone, {batch} states a commit"
        yield Sample(raw, sqlite_rate(plan, batch), "states/s")
        name = f"states in process, batch {batch}"
        yield Sample(name, trio.run(measure, batch), "states/s", min_goal=min_goal, limit=raw)


def tcp(plan: Plan) -> Iterator[Sample]:
    """Over TCP, native."""

    async def together(batch: int) -> float:
        async with in_background(plan.folder) as where, working(where, FAN, batch_size=batch) as manager:
            return await fan_out(manager, plan.states)

    with apart(plan.folder) as where:
        yield from requests(where, "native", plan)
        for batch, min_goal in ((16, None), (64, 2_500)):
            name = f"states over TCP, native, batch {batch}, 2 processes"
            rate = trio.run(_over, where, batch, plan)
            yield Sample(
                name, rate, "states/s", min_goal=min_goal, limit=f"SQLite alone, {batch} states a commit"
            )
    yield Sample("states over TCP, native, batch 64, 1 process", trio.run(together, 64), "states/s")


def v0(plan: Plan) -> Iterator[Sample]:
    """Over TCP, a server that speaks only v0: one request per outcome."""

    async def together() -> float:
        options = {"poll_interval": plan.poll_interval}
        async with (
            in_background(plan.folder, native=False) as where,
            working(where, FAN, **options) as manager,
        ):
            return await fan_out(manager, plan.states // 3)

    with apart(plan.folder, "--v0-only") as where:
        yield from requests(where, "v0", plan)
        rate = trio.run(_over, where, 16, plan, 3)
        limit = "claim, one bare socket (v0)"
        yield Sample("states over TCP, v0, batch 16, 2 processes", rate, "states/s", limit=limit)
    yield Sample("states over TCP, v0, batch 16, 1 process", trio.run(together), "states/s")


async def _over(where: dict[str, Any], batch: int, plan: Plan, part: int = 1) -> float:
    async with working(where, FAN, batch_size=batch, poll_interval=plan.poll_interval) as manager:
        return await fan_out(manager, plan.states // part)
