"""Nodes that hold the GIL: what a second process brings, and what it costs to run a node in its own."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import trio

from exotrio import BaseNode, StateManager
from exotrio._execution.executor import Executor
from exotrio._execution.handle import Execution
from exotrio._link.port import Claim
from exotrio._nodes.outcome import Executed
from tests.bench.figures import Plan, Sample
from tests.bench.places import Where, apart, python, until
from tests.bench.work import COMPUTED, NAMESPACE, InProcess, InThread, Step


def processes(plan: Plan) -> Iterator[Sample]:
    """States per second of nodes that compute 20 ms each, with one process and with two."""
    rates = [_rate(plan, count) for count in (1, 2)]
    for count, rate in enumerate(rates, start=1):
        yield Sample(f"nodes of 20 ms in pure Python, --processes {count}", rate, "states/s")
    yield Sample("two processes over one", rates[1] / rates[0], "x", least=1.8)


def _rate(plan: Plan, count: int) -> float:
    command = ["-m", "exotrio", "worker", "tests.bench.worker", "--processes", str(count)]
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


def elsewhere(plan: Plan) -> Iterator[Sample]:
    """What it costs to run one node that does nothing, by place; and the memory of a worker process."""
    yield from trio.run(_elsewhere, plan.triggers)


async def _elsewhere(states: int) -> list[Sample]:
    places: dict[str, type[BaseNode]] = {
        "on the Trio loop": Step,
        "in a thread": InThread,
        "in a process": InProcess,
    }
    executor = Executor(nodes={node.__name__: node for node in places.values()}, fetch_secrets=_no_secrets)
    times: dict[str, list[float]] = {place: [] for place in places}
    for _ in range(states + 1):
        for place, node in places.items():
            begin = time.perf_counter()
            claim = Claim(state_id="s", node_name=node.__name__, identifier="it", inputs={"i": "1"})
            outcome = await executor.run(Execution(claim))
            times[place].append(time.perf_counter() - begin)
            assert isinstance(outcome, Executed), outcome
    assert isinstance(outcome, Executed), outcome
    rollup = _rollup(outcome.outputs[0]["i"])
    await executor.aclose()
    starting = times["in a process"][0]
    medians = {place: statistics.median(each[1:]) for place, each in times.items()}
    return [
        *(Sample(f"a node {place}", seconds * 1e6, "us") for place, seconds in medians.items()),
        Sample("the first node in a process", starting * 1000, "ms"),
        Sample("memory of a worker process, its share (PSS)", _kilobytes("Pss", rollup) / 1024, "MB"),
        Sample("memory of a worker process (RSS)", _kilobytes("Rss", rollup) / 1024, "MB"),
    ]


async def _no_secrets(claim: Claim) -> Mapping[str, str]:
    return {}


def _rollup(pid: str) -> str:
    return Path(f"/proc/{pid}/smaps_rollup").read_text()


def _kilobytes(name: str, rollup: str) -> int:
    found = re.search(rf"^{name}: +(\d+) kB", rollup, re.M)
    assert found is not None
    return int(found[1])
