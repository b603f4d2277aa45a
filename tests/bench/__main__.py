"""Benchmarks: ``python -m tests.bench [--states N] [--runs N] [--batch N] [NAME ...]``.

Each figure is the median of several runs with its range. Machines differ and are noisy: compare
figures of one run with each other, not with those of another day.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from pydantic import BaseModel

from exotrio import BaseNode, Graph, GraphNodeModel, Runtime, StateManager
from exotrio.manager import embedded

NAMESPACE = "bench"
KEY = "benchmark"


class Fan(BaseNode):
    class Inputs(BaseModel):
        n: str

    class Outputs(BaseModel):
        i: str

    async def execute(self) -> list[Outputs]:
        return [self.Outputs(i=str(i)) for i in range(int(self.inputs.n))]


class Step(BaseNode):
    class Inputs(BaseModel):
        i: str

    class Outputs(BaseModel):
        i: str

    async def execute(self) -> Outputs:
        return self.Outputs(i=self.inputs.i)


def _place(node: str, inputs: dict[str, str], *after: str) -> GraphNodeModel:
    return GraphNodeModel(
        node_name=node, namespace=NAMESPACE, identifier=node.lower(), inputs=inputs, next_nodes=list(after)
    )


GRAPH = Graph("fan", nodes=[_place("Fan", {"n": "1"}, "step"), _place("Step", {"i": "${{ fan.outputs.i }}"})])


async def fan_out(states: int, batch: int, link: Any, **where: Any) -> float:
    """Return executed states per second for a fan-out of ``states`` with one child each."""
    async with StateManager(NAMESPACE, **where) as manager, trio.open_nursery() as nursery:
        runtime = Runtime(NAMESPACE, "bench", [Fan, Step], batch_size=batch, link=link, **where)
        await nursery.start(runtime.run)
        await manager.upsert_graph(GRAPH)
        begin = time.perf_counter()
        run = await manager.trigger("fan", inputs={"n": str(states)})
        await manager.wait(run["run_id"], poll_interval=0.02)
        took = time.perf_counter() - begin
        runtime.stop()
    return (states + 1) / took


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run ``python -m exotrio server`` and give its URL."""
    command = [sys.executable, "-m", "exotrio", "server", "--port", "0", "--key", KEY]
    command += ["--db", str(folder / "server.db")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            yield line[line.index("http://") :].strip()
        finally:
            process.terminate()
            process.stderr.read()


@asynccontextmanager
async def finished(folder: Path, states: int) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client of an embedded manager that has ``states`` finished states and many ready ones."""
    async with (
        embedded(folder / "history.db") as transport,
        httpx.AsyncClient(transport=transport, base_url="http://bench") as client,
    ):
        nodes = [
            {"name": name, "inputs_schema": _schema(field), "outputs_schema": _schema("i"), "secrets": []}
            for name, field in (("Fan", "n"), ("Step", "i"))
        ]
        await client.put(f"/v0/namespace/{NAMESPACE}/nodes/", json={"runtime_name": "bench", "nodes": nodes})
        async with StateManager(NAMESPACE, transport=transport) as manager:
            await manager.upsert_graph(GRAPH)
            run = await manager.trigger("fan")
            runtime = Runtime(NAMESPACE, "bench", [Fan, Step], batch_size=256, transport=transport)
            async with trio.open_nursery() as nursery:
                await nursery.start(runtime.run)
                left = states
                while left > 0:
                    run = await manager.trigger("fan", inputs={"n": str(min(left, 50_000))})
                    await manager.wait(run["run_id"])
                    left -= 50_000
                runtime.stop()
            await manager.trigger("fan", inputs={"n": "4000"})
            await _execute_fan(client, 4000)
        yield client


def _schema(field: str) -> dict[str, Any]:
    return {"type": "object", "properties": {field: {"type": "string"}}}


async def _execute_fan(client: httpx.AsyncClient, n: int) -> None:
    claimed = await client.post(
        f"/v0/namespace/{NAMESPACE}/states/enqueue", json={"nodes": ["Fan"], "batch_size": 1}
    )
    state = claimed.json()["states"][0]["state_id"]
    outputs = [{"i": str(i)} for i in range(n)]
    await client.post(f"/v0/namespace/{NAMESPACE}/state/{state}/executed", json={"outputs": outputs})


async def claim_cost(folder: Path, states: int) -> float:
    """Return milliseconds for claiming 16 states beside ``states`` finished ones."""
    times = []
    async with finished(folder, states) as client:
        for _ in range(200):
            begin = time.perf_counter()
            reply = await client.post(
                f"/v0/namespace/{NAMESPACE}/states/enqueue", json={"nodes": ["Step"], "batch_size": 16}
            )
            times.append(time.perf_counter() - begin)
            assert reply.json()["count"] == 16
    return statistics.median(times) * 1000


def import_time(statement: str) -> float:
    """Return milliseconds a fresh interpreter takes for an import, less its bare start."""

    def once(code: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - begin

    pairs = [(once(statement), once("pass")) for _ in range(7)]
    return statistics.median(with_it - bare for with_it, bare in pairs) * 1000


def idle_memory() -> float:
    """Return MB of resident memory of a worker that waits for work."""
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        environment = {**os.environ, "EXOSPHERE_STATE_MANAGER_URI": url, "EXOSPHERE_API_KEY": KEY}
        command = [sys.executable, "-m", "exotrio", "worker", "tests.bench.idle"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            while "running" not in process.stderr.readline():
                pass
            time.sleep(2)
            status = Path(f"/proc/{process.pid}/status").read_text()
            process.terminate()
            process.stderr.read()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def show(name: str, unit: str, measure: Callable[[], float], runs: int) -> None:
    values = sorted(measure() for _ in range(runs))
    middle = statistics.median(values)
    print(
        f"{name:<44} {middle:>9,.1f} {unit:<9} ({values[0]:,.1f} to {values[-1]:,.1f}, {runs} runs)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="process tcp v0 claim import memory; default: all")
    parser.add_argument("--states", type=int, default=3_000, help="size of the fan-out")
    parser.add_argument("--batch", type=int, default=16, help="batch_size of the runtime")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    def wanted(name: str) -> bool:
        return not options.names or name in options.names

    def in_process() -> float:
        async def run() -> float:
            with tempfile.TemporaryDirectory() as folder:
                async with embedded(Path(folder) / "state.db") as transport:
                    return await fan_out(options.states, options.batch, "auto", transport=transport)

        return trio.run(run)

    def over_tcp(link: str) -> float:
        with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:

            async def run() -> float:
                return await fan_out(options.states, options.batch, link, state_manager_uri=url, key=KEY)

            return trio.run(run)

    def claim(states: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            return trio.run(claim_cost, Path(folder), states)

    if wanted("process"):
        show(f"in process, batch {options.batch}", "states/s", in_process, options.runs)
    if wanted("tcp"):
        show(f"TCP, native, batch {options.batch}", "states/s", lambda: over_tcp("native"), options.runs)
    if wanted("v0"):
        show(f"TCP, v0, batch {options.batch}", "states/s", lambda: over_tcp("v0"), options.runs)
    if wanted("claim"):
        for states in (1_000, 100_000):
            show(f"claim of 16 beside {states:,} finished", "ms", lambda n=states: claim(n), 1)
    if wanted("import"):
        for statement in ("import trio, pydantic, anyio", "import exotrio"):
            show(statement, "ms", lambda code=statement: import_time(code), options.runs)
    if wanted("memory"):
        show("idle worker, resident", "MB", idle_memory, 1)


if __name__ == "__main__":
    main()
