"""A lane: a state manager, and one process after another that runs the user's code, trial by trial."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from exotrio._shared import deadlines
from exotrio._shared.settings import Settings
from exotrio._wire.graphs import GraphBody
from exotrio._wire.vocabulary import ERRORED
from exotrio.cli.dev.announcer import FirstRun
from exotrio.cli.exit_codes import FAILED
from exotrio.cli.file_process import FileProcess, Loaded
from exotrio.cli.graphs.draft import Draft
from exotrio.cli.rehearsal.trial import Fault, Journal, Plan, Result, Trial
from exotrio.cli.terminal.output import error_message
from exotrio.client import Run, RunStatus, StateManager
from exotrio.errors import ExotrioError
from exotrio.manager.engine.leases import Terms
from exotrio.manager.serving import Served, embedded_and_served
from exotrio.monitoring import StateBegan, StateEnded

LEASE_TTL = 3.0
"""Seconds. Short, since trials with SIGKILL and SIGSTOP wait for it; a node that holds the interpreter's lock
for longer loses its lease without any fault."""
MIN_SUSPENDED = 1.2 * LEASE_TTL
"""Minimum seconds of a SIGSTOP. It lasts until the run has ended in the other process, ..."""
MAX_TAKEOVER = 2 * LEASE_TTL
"""... but at most this long after that process began."""
VALIDATION = 60.0
"""Seconds for the graph to be validated; the state manager in this process answers at once."""
MAX_USUAL = 600.0
"""Seconds that a run without a fault may take."""
MARGIN = 30.0
"""Seconds that a run with a fault may take in addition, besides the stop and the lease: the machine is busy
with the other lanes, and nodes may back off before they are retried."""


class FileFailed(ExotrioError):
    """The user's code cannot be run. ``code`` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Process(FileProcess):
    """A process that runs the Runtime, and its journal.

    Attributes:
        followed: It has ended, and its last messages are in the journal.
    """

    def __init__(self, target: str, served: Served, outbox: Path, verbose: int) -> None:
        self.journal = Journal()
        self.followed = trio.Event()
        options = ["--journal", "--outbox", str(outbox), *["-v"] * verbose]
        super().__init__(target, uri=served.url, key=served.key.text, options=options)

    async def handle(self, message: object) -> None:
        match message:
            case (float() as at, StateBegan() | StateEnded() as event):
                self.journal.add(at, event)
            case _:
                await super().handle(message)

    async def aclose(self) -> None:
        """Kill it, and close the connection: its state manager ends, too, so it could release nothing."""
        self.kill()
        await super().aclose()

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if not self.ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(kw_only=True, eq=False, repr=False)
class Lane:
    """Makes trials, one after another. Enter ``opened`` first.

    Attributes:
        first_run: The graph and its values.
        folder: For the database and outboxes.
        usual: The run without a fault, with which trials are compared.
        unsteady: Fields of outputs that differ from run to run anyway (``trial.unsteady_fields``).
    """

    number: int
    target: str
    first_run: FirstRun
    folder: Path
    verbose: int
    usual: Result | None = None
    unsteady: frozenset[tuple[str, str]] = frozenset()
    _served: Served = field(init=False)
    _processes: trio.Nursery = field(init=False)
    _manager: StateManager = field(init=False)
    _graph: str = field(init=False)
    _process: Process | None = field(default=None, init=False)
    """The one that runs the next trial, if it has not ended."""
    _running: set[Process] = field(default_factory=set, init=False)
    _outboxes: int = field(default=1, init=False)
    """How many there are: a process takes over that of the one before, unless that one still runs."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Run the state manager, and a first process, in which the graph is declared.

        Cancellation:
            Kills the processes.

        Raises:
            FileFailed: the code cannot be run.
            GraphInvalid, ConfigurationError: the graph, or its values.
        """
        terms = Terms(lease_ttl_ms=int(1000 * LEASE_TTL))
        db = self.folder / f"{self.number}.db"
        async with (
            embedded_and_served(db, terms=terms, schedules=False, settings=Settings()) as self._served,
            trio.open_nursery() as self._processes,
        ):
            self._process = await self._start()
            loaded = self._process.loaded
            assert loaded is not None, "it has registered its nodes"
            self._graph = self.first_run.graph_of(loaded)
            async with StateManager(loaded.namespace, transport=self._served.transport) as self._manager:
                await self._declare(loaded)
                yield
            self._processes.cancel_scope.cancel()

    async def _declare(self, loaded: Loaded) -> None:
        body = GraphBody.model_validate(loaded.graphs[self._graph])
        await Draft(self.target, self._graph, body).declare(self._manager, VALIDATION)

    @property
    def graph(self) -> str:
        """The name of the graph."""
        return self._graph

    @property
    def max_exit(self) -> float:
        """Seconds that a process may take to end after SIGTERM."""
        assert self._process is not None
        return deadlines.max_exit(self._process.grace)

    def kill(self) -> None:
        """Kill its processes. From a signal handler."""
        for process in self._running:
            process.kill()

    async def run_once(self) -> Result:
        """Run the graph without a fault."""
        assert self._process is not None
        run_id, began = await self._trigger()
        result = await self._result(run_id, began, MAX_USUAL)
        if result is None:
            raise ExotrioError(
                f"a run of graph {self._graph!r} without any fault did not end in {MAX_USUAL:g} s",
                fix="rehearse a smaller one: give it less to do with -i",
            )
        return result

    async def make(self, plan: Plan) -> Trial:
        """Make a trial."""
        assert self.usual is not None
        first = self._process if self._process and not self._process.ended.is_set() else await self._start()
        first.journal = Journal()
        run_id, began = await self._trigger()
        await trio.sleep_until(began + plan.moment * self.usual.seconds)
        trial = Trial(plan=plan, at=trio.current_time() - began)
        if plan.fault is Fault.STOP:
            second = await self._suspend(first, trial, run_id)
        else:
            await self._end(first, trial)
            second = await self._start()
        self._process = second
        grace = deadlines.max_exit(first.grace)
        limit = 2 * self.usual.seconds + grace + LEASE_TTL + MARGIN
        result = await self._result(run_id, began, limit)
        if result is None:
            trial.problems.append(f"the run did not end in {limit:.0f} s")
            await self._manager.cancel(run_id)
            second.kill()  # in the next trial, what its nodes still do would seem to be the effect of a fault
            await second.followed.wait()
        else:
            trial.compare(self.usual, result, self.unsteady)
        trial.count(first.journal, second.journal, run_ended=result is not None)
        return trial

    async def _end(self, process: Process, trial: Trial) -> None:
        """End a process by the signals of the plan, and wait for its end."""
        if trial.plan.fault is Fault.KILL:
            process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            await process.followed.wait()
            process.journal.stopped(killed)
            return
        pause = trial.plan.pause if trial.plan.fault is Fault.TERM_TWICE else None
        await self._terminate(process, trial, pause)

    async def _terminate(self, process: Process, trial: Trial, pause: float | None) -> None:
        """Send SIGTERM, and again after ``pause``; add how long the end took, and what was wrong with it."""
        signalled = trio.current_time()
        process.send_signal(signal.SIGTERM)
        if pause is not None:
            with trio.move_on_after(pause):
                await process.ended.wait()
            process.send_signal(signal.SIGTERM)
        bound = deadlines.max_exit(process.grace)
        with trio.move_on_after(bound) as waiting:
            await process.ended.wait()
        if waiting.cancelled_caught:
            trial.problems.append(f"the process had not ended {bound:.1f} s after SIGTERM; it was killed")
            process.kill()
            await process.ended.wait()
        trial.exit_seconds = trio.current_time() - signalled
        await process.followed.wait()
        if process.code and not waiting.cancelled_caught:
            trial.problems.append(f"the process {process.ending} after SIGTERM")

    async def _suspend(self, process: Process, trial: Trial, run_id: str) -> Process:
        """Suspend a process for longer than its leases last, and end it; return the one that took over."""
        process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            self._outboxes += 1
            second = await self._start()
            with trio.move_on_after(MAX_TAKEOVER):
                await self._manager.wait(run_id)
            await trio.sleep(max(0.0, MIN_SUSPENDED - (time.monotonic() - stopped)))
        finally:
            process.send_signal(signal.SIGCONT)
        await self._terminate(process, trial, None)
        process.journal.stopped(stopped)
        return second

    async def _start(self) -> Process:
        """Start a process, and wait until its nodes are registered."""
        outbox = self.folder / f"outbox-{self.number}-{self._outboxes}"
        process = Process(self.target, self._served, outbox, self.verbose)

        async def follow() -> None:
            self._running.add(process)
            try:
                await process.run(process.handle)
            finally:
                self._running.discard(process)
            process.followed.set()

        self._processes.start_soon(follow)
        async with trio.open_nursery() as nursery:

            async def until_followed() -> None:
                await process.followed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(until_followed)
            await process.registered.wait()
            nursery.cancel_scope.cancel()
        if not process.registered.is_set():
            if process.failed is not None:
                raise FileFailed(process.failed.text, process.failed.code)
            raise FileFailed(f"the process {process.ending} before its nodes were registered", FAILED)
        return process

    async def _trigger(self) -> tuple[str, float]:
        reply = await self._manager.trigger(
            self._graph, inputs=dict(self.first_run.inputs), store=dict(self.first_run.store)
        )
        return reply["run_id"], trio.current_time()

    async def _result(self, run_id: str, began: float, limit: float) -> Result | None:
        """Wait for the end of a run; None if it does not end until ``limit`` seconds after its begin."""
        try:
            run = await self._manager.wait(run_id, timeout=max(0.0, began + limit - trio.current_time()))
        except trio.TooSlowError:
            return None
        seconds = trio.current_time() - began
        places = [node.identifier for node in run.nodes]
        outputs = {place: await self._manager.outputs(run, place) for place in places}
        return Result(status=run.status, outputs=outputs, seconds=seconds, error=await self._error(run))

    async def _error(self, run: Run) -> str:
        if run.status is RunStatus.SUCCESS:
            return ""
        failed = await self._manager.states(run=run.run_id, status=ERRORED, limit=1)
        return "".join(f"{each.identifier}: {error_message(each.error)}" for each in failed.states)
