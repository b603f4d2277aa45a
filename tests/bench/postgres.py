"""PostgreSQL and SQLite, both over TCP and in one round: throughput, latency, and who uses the processor.

PostgreSQL, the state managers and this process, which has the runtimes, share the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import trio

from exotrio import StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.latency import chain_seconds, idle_seconds, percentile
from tests.bench.places import Where, apart, cpu_seconds, server, working
from tests.bench.throughput import fan_out
from tests.bench.work import CHAIN, FAN, ONE
from tests.support.postgres import Database, database


def postgres(plan: Plan) -> Iterator[Sample]:
    """States per second with one manager and with two, and from a trigger to its node."""
    rates: dict[str, float] = {}
    for batch in (16, 64):
        with apart(plan.folder) as where:
            rates["SQLite"] = trio.run(_rate, [where], batch, plan.states)
        with database() as empty, server(empty.url) as (where, pid):
            begin = _cpu(empty, pid)
            rates["one"] = trio.run(_rate, [where], batch, plan.states)
            used = [after - before for after, before in zip(_cpu(empty, pid), begin, strict=True)]
        with database() as empty, ExitStack() as stack:
            managers = [stack.enter_context(server(empty.url))[0] for _ in range(2)]
            rates["two"] = trio.run(_rate, managers, batch, plan.states)
        on = f"batch {batch}"
        yield Sample(f"states over TCP, SQLite, {on}", rates["SQLite"], "states/s")
        yield Sample(f"states over TCP, PostgreSQL, one manager, {on}", rates["one"], "states/s")
        yield Sample(f"states over TCP, PostgreSQL, two managers, {on}", rates["two"], "states/s")
        yield Sample(f"PostgreSQL over SQLite, {on}", rates["one"] / rates["SQLite"], "x", min_goal=0.7)
        yield Sample(f"two managers over one, {on}", rates["two"] / rates["one"], "x", min_goal=1.0)
        for name, seconds in zip(("PostgreSQL", "manager", "runtime"), used, strict=True):
            yield Sample(f"CPU per state of {name}, {on}", seconds / plan.states * 1e6, "us")
    with apart(plan.folder) as where:
        first, chain = trio.run(_latencies, where, plan)
    with database() as empty, server(empty.url) as (where, _):
        first_there, chain_there = trio.run(_latencies, where, plan)
    yield Sample("trigger to execute, PostgreSQL, p50", first_there, "ms")
    yield Sample("chain of 5, PostgreSQL, trigger to last node, p50", chain_there, "ms")
    yield Sample("trigger to execute, PostgreSQL over SQLite", first_there / first, "x", max_goal=2)
    yield Sample("chain of 5, PostgreSQL over SQLite", chain_there / chain, "x", max_goal=2)


async def _rate(managers: Sequence[Where], batch: int, states: int) -> float:
    """Return the states per second of two runtimes, which share the managers out."""
    async with AsyncExitStack() as stack:
        for where in (managers[0], managers[-1]):
            manager: StateManager = await stack.enter_async_context(working(where, FAN, batch_size=batch))
        return await fan_out(manager, states)


async def _latencies(where: Where, plan: Plan) -> tuple[float, float]:
    """Return the milliseconds from a trigger to its node, and through a chain, p50 each."""
    async with working(where, ONE, CHAIN) as manager:
        await idle_seconds(manager, 3)
        first = await idle_seconds(manager, plan.triggers)
        chains = [(await chain_seconds(manager, "postgres"))[1] for _ in range(plan.triggers // 4)]
    return percentile(first, 50), percentile(chains, 50)


def _cpu(used: Database, manager: int) -> list[float]:
    """Return the CPU seconds so far of PostgreSQL with its sessions, of a manager, and of this process."""
    first = used.server.pid
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    return [sum(map(cpu_seconds, (first, *map(int, children)))), cpu_seconds(manager), time.process_time()]
