"""``python -m exotrio run``: one run of a graph, from its trigger to its result."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import click
import trio

from exotrio._client import StateManager
from exotrio._graph import Graph
from exotrio._runtime import Runtime
from exotrio._settings import read_settings
from exotrio._start import run_blocking
from exotrio._wire import NativeRun, RunStatus
from exotrio.cli._exit import FAILED, INTERRUPTED, SUCCESS, bare_errors
from exotrio.cli._load import load
from exotrio.cli._logs import configure_logs
from exotrio.cli._progress import Progress, progress_for
from exotrio.cli._result import collect, print_result

logger = logging.getLogger("exotrio.cli")

LONGEST_LOOK = 0.25
"""Seconds between two looks at the run's counts; a look costs the same for a run of any size."""


@dataclass(frozen=True, slots=True)
class _Request:
    """What to run, and where."""

    target: str
    runtime: Runtime
    graph: Graph | None
    inputs: dict[str, str]
    store: dict[str, str]
    db: str | None
    resume: str | None


def _pairs(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r} is not of the form key=value", ctx, parameter)
        pairs[key] = text
    return pairs


@click.command(name="run")
@click.argument("target", metavar="FILE_OR_MODULE[:ATTR]")
@click.option("--graph", "graph_name", metavar="NAME", help="Which Graph, if the module has several.")
@click.option(
    "-i", "--input", "inputs", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Input of the root."
)
@click.option(
    "--store", multiple=True, callback=_pairs, metavar="KEY=VALUE", help="Entry of the run's store."
)
@click.option(
    "--db", help="SQLite file of the embedded state manager, or :memory:.  [default: .exotrio/state.db]"
)
@click.option("--resume", metavar="RUN", help="Continue this run instead of starting one.")
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Form of the result."
)
@click.option("-v", "--verbose", count=True, help="Log what happens; twice for every poll and state.")
def command(
    target: str,
    graph_name: str | None,
    inputs: dict[str, str],
    store: dict[str, str],
    db: str | None,
    resume: str | None,
    output: str,
    verbose: int,
) -> int:
    """Run the Graph in FILE_OR_MODULE with the Runtime in it, and print its result.

    The state manager is embedded and keeps everything in a SQLite file; with
    EXOSPHERE_STATE_MANAGER_URI set and no --db it is that one. Progress goes to standard error, the
    result to standard output.

    Ctrl-C drains: running nodes may finish, nothing is lost, and the command that continues is
    printed. Exits 0 if the run succeeded, 1 if it failed, 130 if it was interrupted.
    """
    if resume and (graph_name or inputs or store):
        raise click.UsageError("--resume continues a run as it is: it takes no --graph, -i or --store")
    configure_logs(verbose=max(0, verbose - 1), quiet=verbose == 0)
    loaded = load(target)
    request = _Request(
        target=target,
        runtime=loaded.runtime(),
        graph=None if resume else loaded.graph(graph_name),
        inputs=inputs,
        store=store,
        db=db,
        resume=resume,
    )
    run = _Run(request, progress_for(verbose=bool(verbose)), output)
    return run_blocking(run.main, run.stop)


class _Run:
    """One run, as the command sees it."""

    def __init__(self, request: _Request, progress: Progress, output: str) -> None:
        self._request = request
        self._progress = progress
        self._output = output
        self._run_id = request.resume
        self._interrupted = False

    def stop(self, grace: float | None) -> None:
        """Called from the signal handler."""
        self._interrupted = True
        self._request.runtime.stop(grace)

    async def main(self) -> int:
        request = self._request
        settings = read_settings()
        with bare_errors():
            async with AsyncExitStack() as stack:
                transport = None
                if request.db is not None or settings.state_manager_uri is None:
                    from exotrio.manager import embedded
                    from exotrio.manager._app import DEFAULT_DB

                    transport = await stack.enter_async_context(embedded(request.db or DEFAULT_DB))
                request.runtime.adopt(transport)
                client = await stack.enter_async_context(
                    StateManager(request.runtime.namespace, transport=transport)
                )
                return await self._main(client)

    async def _main(self, client: StateManager) -> int:
        following = trio.CancelScope()
        run: NativeRun | None = None

        async def work(task_status: trio.TaskStatus[Runtime]) -> None:
            try:
                await self._request.runtime.run(task_status=task_status)
            finally:
                # A drained runtime does nothing more for the run: there is nothing to wait for.
                following.cancel()

        async with trio.open_nursery() as nursery:
            await nursery.start(work)
            if self._run_id is None and not self._interrupted:
                self._run_id = await self._trigger(client)
            if self._run_id is not None:
                with self._progress, following:
                    run = await client.wait(
                        self._run_id, poll_interval=LONGEST_LOOK, on_progress=self._progress.show
                    )
                self._request.runtime.stop()
        if run is None:
            return self._say_how_to_continue()
        print_result(await collect(client, run), self._output, self._progress.elapsed)
        return SUCCESS if run.status is RunStatus.SUCCESS else FAILED

    async def _trigger(self, client: StateManager) -> str:
        """Start the run; what is left of earlier ones goes on beside it, so say so."""
        request = self._request
        assert request.graph is not None
        unfinished = [run for run in (await client.runs()).runs if run.status is RunStatus.PENDING]
        for earlier in unfinished[:5]:
            self._progress.note(
                f"run {earlier.run_id} of {earlier.graph_name!r} was not finished and goes on beside this one"
            )
        await client.upsert_graph(request.graph)
        reply = await client.trigger(request.graph.name, inputs=request.inputs, store=request.store)
        run_id: str = reply["run_id"]
        self._progress.note(f"run {run_id} of graph {request.graph.name!r}")
        return run_id

    def _say_how_to_continue(self) -> int:
        if self._run_id is None:
            self._progress.note("interrupted before the run began; nothing was started")
        else:
            command = ["python", "-m", "exotrio", "run", self._request.target]
            command += ["--db", self._request.db] if self._request.db else []
            command += ["--resume", self._run_id]
            self._progress.note(f"interrupted; everything is kept. Continue with:\n  {shlex.join(command)}")
        return INTERRUPTED
