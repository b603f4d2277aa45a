"""What limits cost: states that name one next to states that name none, and claims next to many that wait."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import httpx
import trio

from exotrio import Graph
from exotrio.manager import embedded
from tests.bench.figures import Plan, Sample
from tests.bench.history import executed, timed
from tests.bench.machine import NO_TLS
from tests.bench.places import fresh, working
from tests.bench.throughput import fan_out
from tests.bench.work import FAN
from tests.support.postgres import database

LIMITS = {
    "no limit": (None, ""),
    "one limit, with room": (1_000, ""),
    "one limit of 8": (8, ""),
    "one limit, 100 keys": (1_000, "${{ fan.outputs.i }}"),
    "4 of each of many keys": (4, "${{ fan.outputs.i }}"),
}
"""By what is measured: states at once, and the key of each state."""
MAX_COST = 1.25
WAITING = 100_000
BATCH = 16


def limits(plan: Plan) -> Iterator[Sample]:
    """CPU per state of a fan-out in process, on both engines, and the claims of a node of which many wait."""
    for engine in ("SQLite", "PostgreSQL"):
        costs = {}
        for what, (at_most, key) in LIMITS.items():
            with ExitStack() as stack:
                db = str(fresh(plan.folder) / "state.db")
                if engine == "PostgreSQL":
                    db = stack.enter_context(database()).url
                costs[what] = trio.run(_cost, db, _graph(at_most, key), plan.states)
            yield Sample(f"CPU per state, {what}, {engine}", costs[what], "us")
        for what in list(costs)[1:]:
            ratio = costs[what] / costs["no limit"]
            yield Sample(f"{what}, over no limit, {engine}", ratio, "x", max_goal=MAX_COST)
    none, many = trio.run(_claims, plan, 0), trio.run(_claims, plan, WAITING)
    yield Sample(f"claim and report {BATCH} of a node, none waits for a limit", none, "ms CPU")
    yield Sample(f"claim and report {BATCH} of a node, {WAITING:,} wait for a limit", many, "ms CPU")
    yield Sample(f"claim and report, {WAITING:,} wait for a limit over none", many / none, "x", max_goal=1.1)


def _graph(at_most: int | None, key: str, name: str = FAN.name) -> Graph:
    """Return a fan-out whose states name a limit."""
    if at_most is None:
        return FAN.model_copy(update={"name": name})
    first, step = FAN.nodes
    limit = {"name": f"limit of {name}", "key": key}
    step = type(step).model_validate({**step.model_dump(), "limits": [limit]})
    return Graph(name, [first, step], limits=[{"name": limit["name"], "at_most": at_most}])


async def _cost(db: str, graph: Graph, states: int) -> float:
    """Return the microseconds of this process for one state: of runtime and state manager."""
    async with embedded(db) as transport, working({"transport": transport}, graph, batch_size=64) as manager:
        await fan_out(manager, 100)
        begin = time.process_time()
        await fan_out(manager, states)
        return (time.process_time() - begin) / states * 1e6


async def _claims(plan: Plan, waiting: int) -> float:
    """Return the milliseconds for a claim and a report of states without a limit, while others of their node
    wait for one."""
    stopped = _graph(0, "", "stopped")
    async with embedded(fresh(plan.folder) / "state.db") as transport:
        async with working({"transport": transport}, FAN, stopped, batch_size=64) as manager:
            if waiting:
                await manager.trigger(stopped.name, inputs={"n": str(waiting)})
        client = httpx.AsyncClient(transport=transport, base_url="http://bench", verify=NO_TLS)
        async with client:
            claim = partial(timed, client, "claim")
            turns: list[float] = []
            claimed = 0
            for turn in range(plan.claims):
                times: list[float] = []
                body = {
                    "worker_id": "bench",
                    "limits": {"Step": BATCH},
                    "limit": BATCH,
                    "claim_id": str(turn),
                }
                states = (await claim(body, times))["states"]
                claimed += len(states)
                await timed(client, "outcomes", [executed(state, []) for state in states], times)
                turns.append(sum(times))
        return statistics.median(turns) * 1000
