"""A lane: a state manager, and one process after another that runs the user's code, trial by trial."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
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
from exotrio.cli.program import command_line
from exotrio.cli.rehearsal.trial import Fault, Journal, Plan, Trial
from exotrio.cli.terminal.output import error_message, print_message
from exotrio.client import Run, RunStatus, StateManager
from exotrio.errors import ConfigurationError, ExotrioError
from exotrio.graph.breaking import BreakingChange, breaking_changes
from exotrio.manager.engine.leases import Terms
from exotrio.manager.serving import Served, embedded_and_served
from exotrio.monitoring import CheckpointStored, StateBegan, StateEnded
from exotrio.testing._comparison import Ending, Fields, Usual, differing_fields

LEASE_TTL = 3.0
"""Seconds. Short, since trials with SIGKILL and SIGSTOP wait for it; a node that holds the interpreter's lock
for longer loses its lease without any fault."""
MIN_SUSPENDED = 1.2 * LEASE_TTL
"""Minimum seconds of a SIGSTOP. It lasts until the run has ended in the other process, ..."""
MAX_TAKEOVER = 2 * LEASE_TTL
"""... but at most this long after that process began."""
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
        target: The file or module that it runs.
        followed: It has ended, and its last messages are in the journal.
    """

    def __init__(self, target: str, served: Served, outbox: Path, verbose: int) -> None:
        self.target = target
        self.journal = Journal()
        self.followed = trio.Event()
        options = ["--journal", "--outbox", str(outbox), *["-v"] * verbose]
        super().__init__(target, uri=served.url, key=served.key.text, options=options)

    @property
    def module(self) -> Loaded:
        """What it loaded; once it was started."""
        assert self.loaded is not None, "it has registered its nodes"
        return self.loaded

    async def handle(self, message: object) -> None:
        """Enter what begins and ends into the journal."""
        match message:
            case (float() as at, StateBegan() | StateEnded() | CheckpointStored() as event):
                self.journal.add(at, event)

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
        successor: The file or module of the process that takes over; ``target``, unless an update is
            rehearsed.
        first_run: The graph and its values.
        arguments: Those of the command that name them.
        folder: For the database and outboxes.
        usual: How a run ends without a fault.
        seconds: How long it takes.
        new_seconds: How long it takes with the successor.
        max_exit: Seconds that a process of ``target`` may take to end after SIGTERM.
    """

    number: int
    target: str
    successor: str
    first_run: FirstRun
    arguments: Sequence[str]
    folder: Path
    verbose: int
    usual: Usual | None = None
    seconds: float = 0.0
    new_seconds: float = 0.0
    graph: str = field(init=False)
    max_exit: float = field(init=False)
    _served: Served = field(init=False)
    _processes: trio.Nursery = field(init=False)
    _manager: StateManager = field(init=False)
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
            process = await self._start(self.target)
            self.graph = self.first_run.graph_of(process.module)
            self.max_exit = deadlines.max_exit(process.module.grace)
            async with StateManager(
                process.module.namespace, transport=self._served.transport
            ) as self._manager:
                await self._declare(process)
                self._process = process
                yield
            self._processes.cancel_scope.cancel()

    async def _declare(self, process: Process) -> None:
        """Create or replace the graph as the code of a process declares it."""
        body = GraphBody.model_validate(process.module.graphs[self.graph])
        await Draft(process.target, self.graph, body).declare(self._manager)

    def kill(self) -> None:
        """Kill its processes. From a signal handler."""
        for process in self._running:
            process.kill()

    async def run_usual(self) -> tuple[Usual, float, list[BreakingChange]]:
        """Run the graph without a fault, twice with each code.

        Returns:
            How it ends, how long it takes, and what the successor breaks.

        Raises:
            ExotrioError: a run did not end, or failed.
            FileFailed, GraphInvalid, ConfigurationError: as for ``opened``, of the successor.
        """
        old = await self._first()
        ending, unsteady, seconds = await self._run_twice(old)
        if self.successor == self.target:
            return Usual(ending=ending, unsteady=unsteady), seconds, []
        await self._leave(old)
        new = await self._start(self.successor)
        if new.module.namespace != old.module.namespace:
            raise ConfigurationError(
                f"the Runtime of {new.target} has namespace {new.module.namespace!r},"
                f" and that of {old.target} {old.module.namespace!r}",
                fix="give both the same: a runtime gets no states of another namespace",
            )
        nodes = GraphBody.model_validate(old.module.graphs[self.graph]).nodes
        changes = breaking_changes(nodes, old.module.nodes, new.module.nodes)
        try:
            replace(self.first_run, graph=self.graph).graph_of(new.module)
        except ConfigurationError as error:
            print_message(f"outputs are not compared: the new code's graph takes other values: {error.what}")
            usual = Usual.without_outputs(ending)
        else:
            await self._declare(new)
            later, also_unsteady, self.new_seconds = await self._run_twice(new)
            usual = Usual(ending=ending, successor=later, unsteady=unsteady | also_unsteady)
        await self._leave(new)
        return usual, seconds, changes

    async def _run_twice(self, process: Process) -> tuple[Ending, Fields, float]:
        """Run the graph without a fault; return how it ends, what differs from run to run, and how long it
        takes."""
        endings, times = [], []
        for _ in range(2):
            run_id, began = await self._trigger()
            ending = await self._ending(run_id, began, MAX_USUAL)
            if ending is None:
                raise ExotrioError(
                    f"a run of graph {self.graph!r} of {process.target} without any fault did not end in"
                    f" {MAX_USUAL:g} s",
                    fix="rehearse a smaller one: give it less to do with -i",
                )
            if ending.status is not RunStatus.SUCCESS:
                raise ExotrioError(
                    f"without any fault, a run of graph {self.graph!r} of {process.target} ends as"
                    f" {ending.status.value}",
                    where=ending.error,
                    fix="see why with: " + command_line(["run", process.target, *self.arguments]),
                )
            endings.append(ending)
            times.append(trio.current_time() - began)
        return endings[0], differing_fields(*endings), min(times)

    async def make(self, plan: Plan) -> Trial:
        assert self.usual is not None
        first = await self._first()
        first.journal = Journal()
        run_id, began = await self._trigger()
        await trio.sleep_until(began + plan.moment * self.seconds)
        trial = Trial(plan=plan, at=trio.current_time() - began)
        if plan.fault is Fault.STOP:
            second = await self._suspend(first, trial, run_id)
        else:
            await self._end(first, trial)
            second = await self._begin(self.successor)
        self._process = second
        limit = 2 * max(self.seconds, self.new_seconds) + self.max_exit + LEASE_TTL + MARGIN
        ending = await self._ending(run_id, began, limit)
        if ending is None:
            trial.problems.append(f"the run did not end in {limit:.0f} s")
            await self._manager.cancel(run_id)
        else:
            trial.version, problems = self.usual.compare(ending)
            trial.problems += problems
        if ending is None or self.successor != self.target:
            # In the next trial, what its nodes still do would seem to be the effect of a fault.
            await self._leave(second)
        trial.count(first.journal, second.journal, run_ended=ending is not None)
        return trial

    async def _first(self) -> Process:
        """Return the process that runs the next trial."""
        if self._process is None or self._process.ended.is_set():
            self._process = await self._begin(self.target)
        return self._process

    async def _begin(self, target: str) -> Process:
        """Start a process; as in a deploy, its graph replaces the one before."""
        process = await self._start(target)
        await self._declare(process)
        return process

    async def _leave(self, process: Process) -> None:
        """Kill a process that is not needed any more."""
        process.kill()
        await process.followed.wait()

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
        bound = deadlines.max_exit(process.module.grace)
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
            second = await self._begin(self.successor)
            with trio.move_on_after(MAX_TAKEOVER):
                await self._manager.wait(run_id)
            await trio.sleep(max(0.0, MIN_SUSPENDED - (time.monotonic() - stopped)))
        finally:
            process.send_signal(signal.SIGCONT)
        await self._terminate(process, trial, None)
        process.journal.stopped(stopped)
        return second

    async def _start(self, target: str) -> Process:
        """Start a process, and wait until its nodes are registered."""
        outbox = self.folder / f"outbox-{self.number}-{self._outboxes}"
        process = Process(target, self._served, outbox, self.verbose)

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
            self.graph, inputs=dict(self.first_run.inputs), store=dict(self.first_run.store)
        )
        return reply["run_id"], trio.current_time()

    async def _ending(self, run_id: str, began: float, limit: float) -> Ending | None:
        """Wait for the end of a run; None if it does not end until ``limit`` seconds after its begin."""
        try:
            run = await self._manager.wait(run_id, timeout=max(0.0, began + limit - trio.current_time()))
        except trio.TooSlowError:
            return None
        places = [node.identifier for node in run.nodes]
        outputs = {place: await self._manager.outputs(run, place) for place in places}
        return Ending(status=run.status, outputs=outputs, error=await self._error(run))

    async def _error(self, run: Run) -> str:
        if run.status is RunStatus.SUCCESS:
            return ""
        failed = await self._manager.states(run=run.run_id, status=ERRORED, limit=1)
        return "".join(f"{each.identifier}: {error_message(each.error)}" for each in failed.states)
