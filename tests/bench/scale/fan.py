"""What one large fan-out costs: it is created, fails, is retried and is cancelled."""

from __future__ import annotations

import argparse
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import trio

from exotrio import BaseNode, Graph, NoRetry, Runtime, StateManager
from tests.bench.places import Where, server
from tests.bench.scale.place import Place, Row, memory, row
from tests.bench.work import NAMESPACE, Fan, Text

PROBE_INTERVAL = 0.2
begun = trio.Event()
"""Set when the first state of the fan-out runs."""


class Fail(BaseNode):
    Inputs = Text

    async def execute(self) -> None:
        begun.set()
        raise NoRetry("as it is told")


GRAPH = Graph("failing", namespace=NAMESPACE)
fanned = GRAPH.add(Fan, n="1")
GRAPH.add(Fail, i=fanned.i)
OTHER = Graph("other", namespace=NAMESPACE)
OTHER.add(Fan, n="1")


def fan(place: Place, options: argparse.Namespace) -> Iterator[Row]:
    with server(place.db) as (where, pid):
        yield from trio.run(_fan, where, options.outputs)
        yield row("memory of the state manager", [memory(pid)], "MiB")


async def _fan(where: Where, outputs: int) -> list[Row]:
    rows: list[Row] = []
    async with StateManager(NAMESPACE, **where) as manager, trio.open_nursery() as nursery:
        await nursery.start(Runtime(NAMESPACE, "bench", [Fan, Fail], batch_size=64, **where).run)
        await manager.upsert_graph(GRAPH)
        await manager.upsert_graph(OTHER)
        run_id = (await manager.trigger(GRAPH.name, inputs={"n": str(outputs)}))["run_id"]
        begin = time.perf_counter()
        await begun.wait()
        seconds = time.perf_counter() - begin
        rows.append(row(f"from the trigger until one of {outputs:,} states runs", [seconds], "s"))
        await manager.wait(run_id)
        rate = outputs / (time.perf_counter() - begin)
        rows.append(row("from the trigger until all have failed", [rate], "states/s"))
        await _change(rows, "retry of all", manager, partial(_retry, manager, run_id))
        await _change(rows, "cancel", manager, partial(manager.cancel, run_id))
        nursery.cancel_scope.cancel()
    return rows


async def _retry(manager: StateManager, run_id: str) -> None:
    """Retry a run, and wait until the last portion of its states is retried."""
    reply = await manager.retry_run(run_id)
    while True:
        if (await manager.status(run_id)).retried_count >= len(reply.retried) + reply.others:
            return
        await trio.sleep(PROBE_INTERVAL)


async def _change(
    rows: list[Row], name: str, manager: StateManager, change: Callable[[], Awaitable[object]]
) -> None:
    """Add how long a change of the run takes, and requests of another client meanwhile."""
    probes: list[float] = []

    async def probe() -> None:
        while True:
            begin = time.perf_counter()
            await manager.trigger(OTHER.name, inputs={"n": "1"})
            probes.append((time.perf_counter() - begin) * 1000)
            await trio.sleep(PROBE_INTERVAL)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(probe)
        begin = time.perf_counter()
        await change()
        rows.append(row(name, [time.perf_counter() - begin], "s"))
        nursery.cancel_scope.cancel()
    rows.append(row(f"a trigger during that ({len(probes)})", probes or [0.0], "ms"))
