"""What limits cost: states that name one next to states that name none, and claims next to many that wait."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import trio

from exotrio import Graph, GraphNodeModel, LimitModel, StateManager
from exotrio.manager import embedded
from tests.bench.figures import Plan, Sample
from tests.bench.history import executed, timed
from tests.bench.machine import NO_TLS
from tests.bench.places import cpu_seconds, fresh, working
from tests.bench.throughput import fan_out
from tests.bench.work import FAN, NAMESPACE
from tests.support.postgres import Database, database

BATCH = 16
LIMITS = {
    "no limit": (None, "", BATCH),
    "a limit with room": (1_000, "", BATCH),
    "a limit, a key of each state": (1, "${{ fan.outputs.i }}", BATCH),
    "no limit, batch 4": (None, "", 4),
    "a limit of 4, all wait": (4, "", BATCH),
}
"""By what is measured: states at once, the key of each state, and the size of batches."""
COMPARED = {
    "no limit": "no limit",
    "a limit with room": "no limit",
    "a limit, a key of each state": "no limit",
    "a limit of 4, all wait": "no limit, batch 4",
}
"""And next to what; the first pair says how far a ratio goes without a cause."""
TURNS = 5
WAITING = 100_000
ENGINES = "SQLite", "PostgreSQL"


def limits(plan: Plan) -> Iterator[Sample]:
    """CPU per state of a fan-out in process, on both engines; and of claims while many states wait."""
    for engine in ENGINES:
        for what, base in COMPARED.items():
            with _database(plan, engine) as one, _database(plan, engine) as other:
                pairs = trio.run(_compare, [(what, one), (base, other)], plan.states // 2)
            name = f"CPU per state, {what}, {engine}"
            yield Sample(name, statistics.median(cost for cost, _ in pairs), "us")
            ratio = statistics.median(cost / next_to for cost, next_to in pairs)
            yield Sample(f"{name}, over {base}", ratio, "x", max_goal=1.25)
    waiting = min(WAITING, plan.histories[-1])
    for engine in ENGINES:
        what, turns = f"claim and report {BATCH} of a node, {engine}", []
        for count in (0, waiting):
            with _database(plan, engine) as (db, used):
                turns.append(trio.run(_claims, db, used, plan, count))
        none, many = turns
        yield Sample(f"{what}, none waits for a limit", none, "ms CPU")
        yield Sample(f"{what}, {waiting:,} wait for a limit", many, "ms CPU")
        yield Sample(f"{what}, {waiting:,} over none that wait", many / none, "x", max_goal=1.1)


@contextmanager
def _database(plan: Plan, engine: str) -> Iterator[tuple[str, Database | None]]:
    """Give the block the place of a new database, and on PostgreSQL the database."""
    if engine == "SQLite":
        yield str(fresh(plan.folder) / "state.db"), None
    else:
        with database() as used:
            yield used.url, used


def _graph(at_most: int | None, key: str, name: str = FAN.name) -> Graph:
    """Return a fan-out whose states name a limit."""
    first, step = FAN.nodes
    if at_most is None:
        return Graph(name, [first, step])
    limit = LimitModel(name=f"limit of {name}", at_most=at_most)
    of_key = {"key": key} if key else {}
    named = {**step.model_dump(), "limits": [{"name": limit.name, **of_key}]}
    return Graph(name, [first, GraphNodeModel.model_validate(named)], limits=[limit])


async def _compare(
    arms: list[tuple[str, tuple[str, Database | None]]], states: int
) -> list[tuple[float, ...]]:
    """Return the microseconds of processor time that a state costs in each arm, by turns."""
    async with AsyncExitStack() as live:
        managers = []
        for what, (db, used) in arms:
            at_most, key, batch = LIMITS[what]
            where = {"transport": await live.enter_async_context(embedded(db))}
            worker = working(where, _graph(at_most, key), batch_size=batch)
            manager = await live.enter_async_context(worker)
            await fan_out(manager, batch)
            managers.append((manager, used))
        return [tuple([await _cost(*arm, states) for arm in managers]) for _ in range(TURNS)]


async def _cost(manager: StateManager, used: Database | None, states: int) -> float:
    """Return what one state costs runtime, state manager and database."""
    begin = _seconds(used)
    await fan_out(manager, states)
    return (_seconds(used) - begin) / states * 1e6


def _seconds(used: Database | None) -> float:
    """Return the CPU seconds so far of this process, and of PostgreSQL with its sessions."""
    if used is None:
        return time.process_time()
    first = used.server.pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return time.process_time() + sum(map(cpu_seconds, (first, *map(int, children))))


async def _claims(db: str, used: Database | None, plan: Plan, waiting: int) -> float:
    """Return the milliseconds of a claim and a report of states without a limit, while others of their node
    wait for one."""
    stopped = _graph(0, "", "stopped")
    async with embedded(db) as transport:
        async with working({"transport": transport}, FAN, stopped, batch_size=64) as manager:
            if waiting:
                await manager.trigger(stopped.name, inputs={"n": str(waiting)})
            while (await manager.limit("limit of stopped")).waiting < waiting:  # noqa: ASYNC110
                await trio.sleep(0.1)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", verify=NO_TLS) as client:
            run = {"run_id": str(uuid4()), "inputs": {"n": "1"}}
            reply = await client.post(f"/exotrio/v1/namespace/{NAMESPACE}/graph/fan/trigger", json=run)
            reply.raise_for_status()
            await turn(client, "fan", {"Fan": 1}, [{"i": "x"}] * plan.claims * BATCH)
            turns = []
            for number in range(plan.claims):
                begin = _seconds(used)
                await turn(client, str(number), {"Step": BATCH}, [])
                turns.append(_seconds(used) - begin)
    return statistics.median(turns) * 1000


async def turn(
    client: httpx.AsyncClient, claim_id: str, counts: dict[str, int], outputs: list[dict[str, str]]
) -> float:
    """Claim states and report them; return the CPU seconds."""
    times: list[float] = []
    body = {"worker_id": "bench", "limits": counts, "limit": BATCH, "claim_id": claim_id}
    states = (await timed(client, "claim", body, times))["states"]
    assert len(states) == sum(counts.values())
    await timed(client, "outcomes", [executed(state, outputs) for state in states], times)
    return sum(times)
