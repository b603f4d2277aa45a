"""What waiting for events costs: claims and sweeps next to states that wait; from an event to the node."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from uuid import uuid4

import httpx
import trio

from exotrio import Graph, StateManager
from exotrio.manager import open_service
from exotrio.manager.app import create_api
from exotrio.manager.engine.managers import sweep
from exotrio.manager.inside import InsideTransport
from tests.bench.figures import Plan, Sample
from tests.bench.latency import PAUSE, percentile
from tests.bench.limits import BATCH, turn
from tests.bench.machine import NO_TLS
from tests.bench.places import fresh, in_process, working
from tests.bench.work import FAN, NAMESPACE, ONE, PARENT, STEP, Fan, Mark, Text, awaited, marks
from tests.support.postgres import database

ENGINES = "SQLite", "PostgreSQL"
WAITING = 100_000
SWEEPS = 50
CHILDREN = 500
CHILD_RUNS = 5
MANY = Graph("many", namespace=NAMESPACE)
_fan = MANY.add(Fan, n="0")
MANY.wait(f"go-{_fan.i}", Text)
PLACED = Graph("placed", namespace=NAMESPACE)
PLACED.add(STEP, i=PLACED.add(Fan, n="0").i)
WAIT = Graph("wait", namespace=NAMESPACE)
WAIT.add(Mark, i=WAIT.wait("go", Text).i)


def waiting(plan: Plan) -> Iterator[Sample]:
    """CPU of claims and sweeps next to states that wait, on both engines; the time from an event to its node,
    next to that from a trigger."""
    many = min(WAITING, plan.histories[-1])
    for engine in ENGINES:
        costs = {}
        for count in (0, many):
            with _new_database(plan, engine) as db:
                costs[count] = trio.run(_next_to, plan, db, count)
        for index, what in enumerate((f"claim and report {BATCH}", "sweep")):
            none, some = costs[0][index], costs[many][index]
            yield Sample(f"{what}, none waits for an event, {engine}", none, "ms CPU")
            yield Sample(f"{what}, {many:,} wait for events, {engine}", some, "ms CPU")
            name = f"{what}, {many:,} over none that wait for events, {engine}"
            yield Sample(name, some / none, "x", max_goal=1.1)
        with _new_database(plan, engine) as db:
            yield from trio.run(_children, db, engine, min(CHILDREN, plan.histories[-1]))
    yield from trio.run(partial(_latency, plan))


@contextmanager
def _new_database(plan: Plan, engine: str) -> Iterator[str]:
    if engine == "SQLite":
        yield str(fresh(plan.folder) / "state.db")
    else:
        with database() as used:
            yield used.url


async def _next_to(plan: Plan, db: str, count: int) -> tuple[float, float]:
    """Return the milliseconds of a claim and a report, and of a sweep, while so many states wait."""
    async with open_service(db, schedules=False) as service:
        transport = InsideTransport(create_api(service))
        async with working({"transport": transport}, FAN, MANY, batch_size=64) as manager:
            if count:
                run = (await manager.trigger(MANY.name, inputs={"n": str(count)}))["run_id"]
                while (await manager.status(run)).nodes[1].counts.get("WAITING") != count:  # noqa: ASYNC110
                    await trio.sleep(0.1)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench", verify=NO_TLS) as client:
            run_body = {"run_id": str(uuid4()), "inputs": {"n": "1"}}
            reply = await client.post(f"/exotrio/v1/namespace/{NAMESPACE}/graph/fan/trigger", json=run_body)
            reply.raise_for_status()
            await turn(client, "fan", {"Fan": 1}, [{"i": "x"}] * plan.claims * BATCH)
            turns = [await turn(client, str(number), {"Step": BATCH}, []) for number in range(plan.claims)]
        sweeps = []
        for _ in range(SWEEPS):
            now, begin = service.monotonic(), time.process_time()
            # As the only state manager, or as the one whose turn it is.
            last = None if service.store.is_shared else now
            await service.store.write(sweep, service.manager, now, service.terms, last)
            sweeps.append(time.process_time() - begin)
    return statistics.median(turns) * 1000, statistics.median(sweeps) * 1000


async def _latency(plan: Plan) -> list[Sample]:
    """From a trigger, and from an event, to the node, by turns."""
    seconds: dict[str, list[float]] = {"trigger": [], "event": []}
    cpu: dict[str, list[float]] = {"trigger": [], "event": []}
    async with in_process(plan.folder) as where, working(where, ONE, WAIT) as manager:
        for number in range(plan.triggers + 3):
            for what in seconds:
                run = (await manager.trigger(WAIT.name))["run_id"] if what == "event" else ""
                await trio.sleep(random.uniform(0, 2 * PAUSE))
                took, used = await _one(manager, run)
                if number >= 3:
                    seconds[what].append(took)
                    cpu[what].append(used)
    p50 = {what: percentile(each, 50) for what, each in seconds.items()}
    used_ms = {what: statistics.median(each) * 1000 for what, each in cpu.items()}
    return [
        *(Sample(f"{what} to execute, in process, p50", p50[what], "ms") for what in p50),
        Sample("event over trigger to execute, p50", p50["event"] / p50["trigger"], "x", max_goal=1.25),
        *(Sample(f"{what} to execute, in process", used_ms[what], "ms CPU") for what in used_ms),
        Sample("event over trigger to execute, CPU", used_ms["event"] / used_ms["trigger"], "x"),
    ]


async def _children(db: str, engine: str, size: int) -> list[Sample]:
    """CPU of a child with one state, called by a node or run by a place, by turns with a state of a fan-out.

    On PostgreSQL without that of its server.
    """
    cpu: dict[str, list[float]] = {"fan": [], "parent": [], "placed": []}
    async with open_service(db, schedules=False) as service:
        where = {"transport": InsideTransport(create_api(service))}
        async with working(where, STEP, FAN, PARENT, PLACED, batch_size=64) as manager:
            for number in range(CHILD_RUNS + 1):
                for graph, used in cpu.items():
                    begin = time.process_time()
                    run = await manager.trigger(graph, inputs={"n": str(size)})
                    await manager.wait(run["run_id"])
                    if number:
                        used.append((time.process_time() - begin) / size * 1000)
    state, call, place = (statistics.median(each) for each in cpu.values())
    return [
        Sample(f"a state of a fan-out, in process, {engine}", state, "ms CPU"),
        Sample(f"a child that a node calls, in process, {engine}", call, "ms CPU"),
        Sample(f"a child that a place runs, with the place, in process, {engine}", place, "ms CPU"),
        *(
            Sample(
                f"a child that a {what} over a state, {engine}",
                statistics.median(one / other for one, other in zip(cpu[graph], cpu["fan"], strict=True)),
                "x",
                max_goal=2.0,
            )
            for what, graph in (("node calls", "parent"), ("place runs", "placed"))
        ),
    ]


async def _one(manager: StateManager, run: str) -> tuple[float, float]:
    """Send an event to a run, or trigger one; return the seconds until its node begins, and those of CPU."""
    tag = f"{random.random()}"
    awaited[tag] = (trio.Event(), 1)
    begin, used = time.perf_counter(), time.process_time()
    if run:
        await manager.send(run, "go", {"i": tag})
    else:
        await manager.trigger(ONE.name, inputs={"i": tag})
    await awaited[tag][0].wait()
    return marks[tag][0] - begin, time.process_time() - used
