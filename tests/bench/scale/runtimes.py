"""What many runtimes cost, idle and working, and when their state managers are killed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack

import trio

from exotrio import StateManager
from tests.bench.places import Where, python, until, working
from tests.bench.scale.crowd import Crowd
from tests.bench.scale.place import Place, Row, memory, row
from tests.bench.work import KEY, NAMESPACE, ONE
from tests.support.helpers import free_port

REPEATS = 40


class Manager:
    """A state manager that can be killed and started again on its port."""

    def __init__(self, db: str) -> None:
        self._db = db
        self.port = free_port()
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        command = ["-m", "exotrio", "server", "--port", str(self.port), "--key", KEY]
        self.process = self._stack.enter_context(python(command, "--db", self._db))
        until(self.process, "http://")

    def kill(self) -> None:
        self.process.kill()
        self._stack.close()


def runtimes(place: Place, options: argparse.Namespace) -> Iterator[Row]:
    with ExitStack() as stack:
        managers = [Manager(place.db) for _ in range(options.managers)]
        for manager in managers:
            stack.callback(manager.kill)
        yield from trio.run(_crowded, place, managers, options)


async def _crowded(place: Place, managers: list[Manager], options: argparse.Namespace) -> list[Row]:
    rows: list[Row] = []
    crowd = Crowd([each.port for each in managers], options.runtimes)

    async def use(name: str, seconds: float) -> None:
        """Add how much processor time the state managers and PostgreSQL take meanwhile."""
        pids = [each.process.pid for each in managers]
        begin, at = place.cpu_seconds(*pids), time.perf_counter()
        await trio.sleep(seconds)
        share = (place.cpu_seconds(*pids) - begin) / (time.perf_counter() - at)
        rows.append(row(name, [share * 100], "% of a core"))

    where: Where = {"state_manager_uri": f"http://127.0.0.1:{managers[0].port}", "key": KEY}
    async with StateManager(NAMESPACE, **where) as manager, trio.open_nursery() as nursery:
        async with working(where, ONE):
            pass
        await use("with no runtime", options.seconds / 3)
        begin = time.perf_counter()
        nursery.start_soon(crowd.run)
        await crowd.until(lambda: len(crowd.connected) == options.runtimes)
        rows.append(row("until all wait for states", [time.perf_counter() - begin], "s"))
        await trio.sleep(options.seconds)  # until their first requests are over
        await use("idle", options.seconds)
        rows.append(row("memory of a state manager", [memory(each.process.pid) for each in managers], "MiB"))
        first = [await _until_executed(manager, crowd, 1) * 1000 for _ in range(REPEATS)]
        rows.append(row("from a trigger to the outcome, idle", first, "ms"))
        many = [options.runs / await _until_executed(manager, crowd, options.runs) for _ in range(3)]
        rows.append(row(f"{options.runs:,} runs stored at once and executed", many, "runs/s"))
        for each in managers:
            await trio.to_thread.run_sync(each.kill)
        begin = time.perf_counter()
        await crowd.until(lambda: not crowd.connected)
        for each in managers:
            await trio.to_thread.run_sync(each.start)
        await crowd.until(lambda: len(crowd.connected) == options.runtimes)
        rows.append(
            row("kill -9 of all state managers until all wait again", [time.perf_counter() - begin], "s")
        )
        after = await _until_executed(manager, crowd, 1)
        rows.append(row("and then from a trigger to the outcome", [after * 1000], "ms"))
        nursery.cancel_scope.cancel()
    return rows


async def _until_executed(manager: StateManager, crowd: Crowd, runs: int) -> float:
    begin, wanted = time.perf_counter(), crowd.executed + runs
    await manager.trigger_many(ONE.name, [{"i": "1"}] * runs)
    await crowd.until(lambda: crowd.executed >= wanted)
    return time.perf_counter() - begin
