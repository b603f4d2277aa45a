"""What a stop costs long work: in exotrio with and without checkpoints and, with ``--peers``, elsewhere.

The work takes a minute, in steps of 0.1 s. A worker does it; at a random moment it gets SIGTERM, and when it
has ended, another one goes on. This happens ten times, all at once, since the steps only sleep; every system
gets the same moments. What was done is read from the journal that the work itself writes.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from exotrio import BaseNode, Graph, StateManager
from tests.bench.figures import Plan, Sample
from tests.bench.places import ROOT, Where, apart, environment_of, fresh
from tests.bench.stop_exotrio import WithCheckpoints, WithoutCheckpoints
from tests.bench.stop_work import JOURNAL, STEP, STEPS, Journal
from tests.support.environments import make_environment
from tests.support.postgres import database

DBOS = ("dbos==3.4.0",)
PROCRASTINATE = ("procrastinate==3.10.0", "psycopg[binary]==3.3.9")
GRACE = "20"
"""Seconds that Procrastinate gives to running jobs: as many as exotrio gives to nodes by default."""
KILLED_AFTER = 30.0
"""Seconds after SIGTERM until Kubernetes, for example, kills a process."""
START = 180.0
"""Seconds a worker may take to start, and to find its work."""
SEED = 25


@dataclass(frozen=True)
class Job:
    """One piece of work, to be done by one system.

    Attributes:
        worker: The command of a worker.
        environment: For it.
        submit: Called after the first worker has started.
        prepare: Commands that run before that.
    """

    worker: list[str]
    environment: dict[str, str]
    submit: Callable[[], Awaitable[object]]
    prepare: tuple[list[str], ...] = ()


@dataclass(frozen=True)
class Stop:
    """What became of a piece of work whose worker was stopped.

    Attributes:
        to_exit: Seconds from SIGTERM to the end of the process.
        killed: Whether the process had to be killed.
    """

    to_exit: float
    killed: bool
    journal: Journal


def stop(plan: Plan) -> Iterator[Sample]:
    """Seconds to exit, seconds of work repeated, executions cut, and seconds lost in all."""
    with apart(plan.folder) as where:
        for name, node in (("with", WithCheckpoints), ("without", WithoutCheckpoints)):
            jobs = [_of_exotrio(node, where, f"{name}-{number}") for number in range(plan.stops)]
            yield from _measure(plan, f"exotrio {name} checkpoints", jobs)
    if not plan.peers:
        return
    for packages, job in ((DBOS, _of_dbos), (PROCRASTINATE, _of_procrastinate)):
        python = make_environment(fresh(plan.folder), *packages)
        with ExitStack() as stack:
            urls = [stack.enter_context(database()).tcp_url for _ in range(plan.stops)]
            yield from _measure(plan, packages[0], [job(python, url) for url in urls])


def _of_exotrio(node: type[BaseNode], where: Where, namespace: str) -> Job:
    async def submit() -> None:
        graph = Graph("long", namespace=namespace)
        graph.add(node)
        async with StateManager(namespace, **where) as manager:
            # The worker registers its nodes.
            while not await manager.nodes():  # noqa: ASYNC110
                await trio.sleep(0.02)
            await manager.upsert_graph(graph)
            await manager.trigger(graph.name)

    command = [sys.executable, "-m", "exotrio", "worker", "tests.bench.stop_exotrio"]
    return Job(command, {"STOP_NAMESPACE": namespace, **environment_of(where)}, submit)


def _of_dbos(python: str, url: str) -> Job:
    script = str(Path(__file__).with_name("stop_dbos.py"))
    environment = {"STOP_DATABASE": url}
    submit = partial(_run, [python, script, "submit"], environment)
    migrate = [str(Path(python).with_name("dbos")), "migrate", "--sys-db-url", url]
    return Job([python, script, "work"], environment, submit, prepare=(migrate,))


def _of_procrastinate(python: str, url: str) -> Job:
    command = [python, "-m", "procrastinate", "--app=tests.bench.stop_procrastinate.app"]
    environment = {"STOP_DATABASE": url}
    submit = partial(_run, [*command, "defer", "long_work"], environment)
    worker = [*command, "worker", "--shutdown-graceful-timeout", GRACE]
    return Job(worker, environment, submit, prepare=([*command, "schema", "--apply"],))


def _measure(plan: Plan, name: str, jobs: list[Job]) -> Iterator[Sample]:
    stops = trio.run(_stop_each, plan, jobs)
    for each in stops:
        yield Sample(f"SIGTERM to exit, {name}", each.to_exit, "s")
        yield Sample(f"work repeated, {name}", each.journal.repeated, "s")
    yield Sample(f"executions cut by {len(stops)} stops, {name}", sum(each.journal.cut for each in stops), "")
    yield Sample(f"workers killed, {name}", sum(each.killed for each in stops), "")


async def _stop_each(plan: Plan, jobs: list[Job]) -> list[Stop]:
    moments = random.Random(SEED)
    stops: list[Stop] = []

    async def measure(job: Job, moment: float) -> None:
        stops.append(await _stop_one(plan, job, moment))

    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(measure, job, moments.uniform(0, plan.work_seconds))
    return stops


async def _stop_one(plan: Plan, job: Job, moment: float) -> Stop:
    """Stop the worker ``moment`` seconds after it has begun, and let another one do the rest."""
    folder = fresh(plan.folder)
    path = folder / "journal"
    environment = {**job.environment, JOURNAL: str(path), STEPS: str(round(plan.work_seconds / STEP))}
    for command in job.prepare:
        await _run(command, environment)
    async with trio.open_nursery() as nursery:
        start = partial(_start, job.worker, environment, folder / "log", nursery)
        first = await start()
        with trio.fail_after(START):
            await job.submit()
            await _entered(path, "step")
        await trio.sleep(moment)
        begin = trio.current_time()
        killed = not await _end(first)
        to_exit = trio.current_time() - begin
        second = await start()
        with trio.fail_after(START + 2 * plan.work_seconds):
            await _entered(path, "finished")
        await _end(second)
    return Stop(to_exit=to_exit, killed=killed, journal=Journal(path))


async def _end(worker: trio.Process) -> bool:
    """Stop a worker and wait for its end; return whether it ended by itself."""
    worker.send_signal(signal.SIGTERM)
    with trio.move_on_after(KILLED_AFTER):
        await worker.wait()
        return True
    worker.kill()
    await worker.wait()
    return False


async def _start(
    command: list[str], environment: dict[str, str], log: Path, nursery: trio.Nursery
) -> trio.Process:
    """Start a worker, which is killed if the nursery is cancelled."""
    with log.open("ab") as file:
        run = partial(trio.run_process, command, env=_with(environment), cwd=ROOT, check=False)
        worker: trio.Process = await nursery.start(partial(run, stdout=file, stderr=file))
    return worker


async def _run(command: list[str], environment: dict[str, str]) -> None:
    await trio.run_process(
        command, env=_with(environment), cwd=ROOT, capture_stdout=True, capture_stderr=True
    )


def _with(environment: dict[str, str]) -> dict[str, str]:
    return {**os.environ, **environment, "PYTHONPATH": str(ROOT)}


async def _entered(path: Path, what: str) -> None:
    """Wait until the journal has such an entry."""
    while not Journal(path).numbers(what):  # noqa: ASYNC110
        await trio.sleep(0.05)
