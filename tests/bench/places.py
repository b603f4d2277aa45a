"""Where a state manager runs: in this process, or in another one behind TCP."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from exotrio import Graph, Runtime, StateManager
from exotrio.manager import embedded, serve
from tests.bench.work import KEY, NAMESPACE, NODES

ROOT = Path(__file__).parent.parent.parent

Where = dict[str, Any]
"""Arguments that lead a StateManager or a Runtime to a state manager."""


def fresh(folder: Path) -> Path:
    """Return a separate folder for one database."""
    return Path(tempfile.mkdtemp(dir=folder))


@asynccontextmanager
async def in_process(folder: Path) -> AsyncIterator[Where]:
    """A state manager in this process, reached without a socket."""
    async with embedded(fresh(folder) / "state.db") as transport:
        yield {"transport": transport}


@asynccontextmanager
async def in_background(folder: Path, *, native: bool = True) -> AsyncIterator[Where]:
    """A state manager behind TCP, but in the loop of this process."""
    async with trio.open_nursery() as nursery:

        async def start(task_status: trio.TaskStatus[list[str]]) -> None:
            await serve(
                port=0, db=fresh(folder) / "state.db", key=KEY, native=native, task_status=task_status
            )

        urls: list[str] = await nursery.start(start)
        yield {"state_manager_uri": urls[0], "key": KEY}
        nursery.cancel_scope.cancel()


@contextmanager
def apart(folder: Path, *options: str) -> Iterator[Where]:
    """``python -m exotrio server`` in a separate process."""
    with server(str(fresh(folder) / "state.db"), *options) as (where, _):
        yield where


@contextmanager
def server(db: str, *options: str) -> Iterator[tuple[Where, int]]:
    """``python -m exotrio server`` on a database; the block gets its process id, too."""
    command = ["-m", "exotrio", "server", "--port", "0", "--key", KEY, *options]
    with python(command, "--db", db) as process:
        yield {"state_manager_uri": until(process, "http://").split()[-1], "key": KEY}, process.pid


@contextmanager
def python(command: list[str], *more: str, where: Where | None = None) -> Iterator[subprocess.Popen[str]]:
    """A Python process that ends with the block."""
    environment = dict(os.environ)
    if where is not None:
        environment |= environment_of(where)
    with subprocess.Popen(
        [sys.executable, *command, *more], stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            assert process.stderr is not None
            process.stderr.read()


def environment_of(where: Where) -> dict[str, str]:
    return {"EXOSPHERE_STATE_MANAGER_URI": where["state_manager_uri"], "EXOSPHERE_API_KEY": where["key"]}


def until(process: subprocess.Popen[str], text: str) -> str:
    """Return the line of a process's log that contains ``text``."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the process ended without {text!r}")


@asynccontextmanager
async def working(where: Where, *graphs: Graph, **options: Any) -> AsyncIterator[StateManager]:
    """A runtime with all nodes, in this process; the block gets a client, with the graphs declared."""
    async with StateManager(NAMESPACE, **where) as manager, trio.open_nursery() as nursery:
        runtime = Runtime(NAMESPACE, "bench", list(NODES), **where, **options)
        await nursery.start(runtime.run)
        for graph in graphs:
            await manager.upsert_graph(graph)
        yield manager
        runtime.stop()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, of threads that ended, too."""
    # CLOCK_PROCESS_CPUTIME_ID of another process (clock_getcpuclockid): /proc counts in hundredths.
    return time.clock_gettime(8 * ~pid + 2)
