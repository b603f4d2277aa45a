"""What a user waits for and what stays behind: imports, an idle worker, the way to the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import trio

from exotrio import StateManager
from exotrio._wire.runs import Run
from tests.bench.figures import Plan, Sample
from tests.bench.places import ROOT, Where, apart, cpu_seconds, python, until
from tests.bench.work import FAN, NAMESPACE

_BASE = "import trio, pydantic, anyio"
_MODEL = f"{_BASE}\nfrom pydantic import BaseModel\nclass Inputs(BaseModel):\n    name: str"
_NODES = "from exotrio import BaseNode, Graph, GraphNodeModel, Runtime\n" + _MODEL.partition("\n")[2]


def imports(plan: Plan) -> Iterator[Sample]:
    """CPU time of imports in fresh interpreters, with bytecode caches."""
    statements = {
        _BASE: _BASE,
        "import exotrio": "import exotrio",
        "the same three and one pydantic model": _MODEL,
        "from exotrio import BaseNode, Graph, ..., and one model": _NODES,
    }
    _import_time(_NODES)  # compiles what has changed
    times = {name: _import_time(statement) for name, statement in statements.items()}
    for name, milliseconds in times.items():
        yield Sample(name, milliseconds, "ms CPU")
    base, ours, model, nodes = times.values()
    yield Sample(f"import exotrio over {_BASE}", ours / base, "x", max_goal=1.1)
    yield Sample("a file of nodes over one pydantic model", nodes / model, "x")


def _import_time(statement: str) -> float:
    unwanted = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    code = f"import time\nbegin = time.process_time()\n{statement}\nprint(time.process_time() - begin)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout) * 1000


def worker(plan: Plan) -> Iterator[Sample]:
    """Memory and CPU of an idle worker process, and how long idle and busy ones take to stop."""
    with apart(plan.folder) as where:
        with python(["-m", "exotrio", "worker", "tests.bench.work"], where=where) as process:
            until(process, "running")
            time.sleep(min(1.0, plan.seconds))
            begin = cpu_seconds(process.pid)
            time.sleep(plan.seconds)
            used = cpu_seconds(process.pid) - begin
            yield Sample("idle worker, CPU", used / plan.seconds * 100, "%", max_goal=0.5)
            yield Sample("idle worker, memory", _memory(process.pid), "MB", max_goal=58)
            yield Sample("SIGTERM to exit, idle worker", _stop(process), "s")
        with python(["-m", "exotrio", "worker", "tests.bench.work"], where=where) as process:
            until(process, "running")
            trio.run(_keep_busy, where, plan.states * 10)
            yield Sample("SIGTERM to exit, busy worker", _stop(process), "s")


async def _keep_busy(where: Where, states: int) -> None:
    """Give the worker far more than it can do meanwhile."""
    async with StateManager(NAMESPACE, **where) as manager:
        await manager.upsert_graph(FAN)
        run = await manager.trigger(FAN.name, inputs={"n": str(states)})
        with trio.CancelScope() as busy:

            def stop_when_busy(run: Run) -> None:
                if run.success_count >= 10:
                    busy.cancel()

            await manager.wait(run["run_id"], poll_interval=0.01, on_progress=stop_when_busy)


def _stop(process: subprocess.Popen[str]) -> float:
    begin = time.perf_counter()
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    process.stderr.read()
    assert process.wait() == 0
    return time.perf_counter() - begin


def _memory(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024
